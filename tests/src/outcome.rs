//! Running a program to its end and judging how it ended.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};

use crate::{DEADLINE, eventually};

/// A started program whose output is being collected. Dropping it kills the program and waits for it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    status: Option<ExitStatus>,
    stdout: Collected,
    stderr: Collected,
}

/// What a program has written so far.
#[derive(Clone, Debug)]
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    ended: Arc<AtomicBool>,
}

/// How a program ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its exit code, or the signal that killed it.
    pub status: ExitStatus,
    /// All that it wrote to stdout.
    pub stdout: String,
    /// All that it wrote to stderr.
    pub stderr: String,
}

impl Running {
    /// Starts `command`.
    ///
    /// # Panics
    /// Where it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stdout = Collected::from(child.stdout.take().expect("stdout is a pipe"));
        let stderr = child.stderr.take().expect("stderr is a pipe");
        // Who logs more than fits is not waited for. A smaller pipe is one all the same.
        let _ = fcntl(&stderr, FcntlArg::F_SETPIPE_SZ(1 << 20));
        let stderr = Collected::from(stderr);
        Self { child, status: None, stdout, stderr }
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid is positive")
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    /// Where the kernel does not tell.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("a child can be waited for");
        }
        self.status
    }

    /// What it has written to stdout so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Sends SIGKILL to it.
    pub fn kill(&mut self) {
        // An error says that it is dead already.
        let _ = self.child.kill();
    }

    /// Waits until it has ended and nobody writes to its output any more.
    ///
    /// # Panics
    /// Where it does not end in time; it is killed then.
    #[track_caller]
    pub fn finish(mut self) -> Outcome {
        self.finish_within(DEADLINE)
    }

    /// The same, with another deadline.
    ///
    /// # Panics
    /// Where it does not end in time.
    #[track_caller]
    pub fn finish_within(&mut self, deadline: Duration) -> Outcome {
        let status = eventually(deadline, "the program ends", || {
            self.ended().ok_or_else(|| format!("{}{}", self.stdout(), self.stderr()))
        });
        eventually(deadline, "the program's output is let go by everybody", || {
            let ended = [&self.stdout, &self.stderr].iter().all(|output| output.has_ended());
            if ended { Ok(()) } else { Err(self.stderr()) }
        });
        Outcome { status, stdout: self.stdout(), stderr: self.stderr() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

impl Collected {
    fn from(mut pipe: impl Read + Send + 'static) -> Self {
        let this = Self { bytes: Arc::default(), ended: Arc::default() };
        let writer = this.clone();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut chunk) {
                let mut bytes = writer.bytes.lock().unwrap_or_else(PoisonError::into_inner);
                bytes.extend_from_slice(&chunk[..count]);
            }
            writer.ended.store(true, Ordering::SeqCst);
        });
        this
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }
}

/// Runs `command` to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Outcome {
    Running::start(command).finish()
}

impl Outcome {
    /// Its exit code; `None` where a signal killed it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that killed it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// It did what was asked.
    ///
    /// # Panics
    /// Where it did not.
    #[track_caller]
    pub fn assert_succeeded(&self) -> &Self {
        self.assert_no_panic();
        assert_eq!(self.code(), Some(0), "{self}");
        self
    }

    /// It failed with this exit code and said why in one sentence, which contains each of `words`.
    ///
    /// # Panics
    /// Where it did anything else.
    #[track_caller]
    pub fn assert_failed(&self, code: i32, words: &[&str]) -> &Self {
        self.assert_no_panic();
        assert_eq!(self.code(), Some(code), "{self}");
        let said: Vec<&str> = self.stderr.lines().filter(|line| !is_log_line(line)).collect();
        assert_eq!(said.len(), 1, "one sentence, and nothing else: {self}");
        for word in words {
            assert!(said[0].contains(word), "it does not say {word:?}: {self}");
        }
        self
    }

    /// No program ever shows its inside.
    ///
    /// # Panics
    /// Where this one did.
    #[track_caller]
    pub fn assert_no_panic(&self) {
        for inside in ["panicked", "RUST_BACKTRACE", "stack backtrace", "unwrap()", "AddressSanitizer"] {
            assert!(!self.stderr.contains(inside) && !self.stdout.contains(inside), "{self}");
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\nstdout:\n{}stderr:\n{}", self.status, self.stdout, self.stderr)
    }
}

/// Whether a line was written by a program's log: a time, a level, `program[pid]:`.
fn is_log_line(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let time = words.next().unwrap_or_default();
    let level = words.next().unwrap_or_default();
    let program = words.next().unwrap_or_default();
    time.len() >= 20
        && time.ends_with('Z')
        && time.as_bytes()[0].is_ascii_digit()
        && ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level)
        && program.ends_with("]:")
}
