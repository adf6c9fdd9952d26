//! A program that is attached to an instance (see `examples/visitor.rs`), talked to line by line.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::programs;

/// A running visitor. Dropping it kills it.
#[derive(Debug)]
pub struct Visitor {
    child: Child,
    says: BufReader<ChildStdout>,
    hears: ChildStdin,
}

impl Visitor {
    /// Starts one for the instance of this run directory, which it is not attached to yet.
    #[track_caller]
    pub fn start(run_dir: &Path) -> Self {
        Self::run(Command::new(programs::visitor()).arg(run_dir))
    }

    /// The same as another user, with these further groups.
    #[track_caller]
    pub fn start_as(user: u32, groups: &str, run_dir: &Path) -> Self {
        let mut command = Command::new("setpriv");
        let id = user.to_string();
        command.args(["--reuid", &id, "--regid", &id]);
        if groups.is_empty() {
            command.arg("--clear-groups")
        } else {
            command.args(["--groups", groups])
        };
        Self::run(command.arg(programs::visitor()).arg(run_dir))
    }

    fn run(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a visitor can be started");
        let says = BufReader::new(child.stdout.take().expect("its stdout is a pipe"));
        let hears = child.stdin.take().expect("its stdin is a pipe");
        Self { child, says, hears }
    }

    /// Starts one and attaches it.
    #[track_caller]
    pub fn attached(run_dir: &Path) -> Self {
        let mut this = Self::start(run_dir);
        let answer = this.ask("attach");
        assert!(answer.starts_with("attached "), "{answer}");
        this
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Says a line and waits for no answer.
    ///
    /// # Panics
    /// Where it is gone.
    #[track_caller]
    pub fn tell(&mut self, line: &str) {
        writeln!(self.hears, "{line}").expect("the visitor listens");
    }

    /// The next line that it says; empty once it is gone.
    ///
    /// # Panics
    /// Where that cannot be read.
    #[track_caller]
    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).expect("the visitor can be heard");
        line.trim_end().to_owned()
    }

    /// Says a line and gives the answer.
    #[track_caller]
    pub fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.hear()
    }

    /// Says a line whose answer must be this.
    #[track_caller]
    pub fn must(&mut self, line: &str, answer: &str) {
        assert_eq!(self.ask(line), answer, "to {line:?}");
    }

    /// Says a line that must fail with these words, and gives the whole answer.
    #[track_caller]
    pub fn must_fail(&mut self, line: &str, words: &str) -> String {
        let answer = self.ask(line);
        assert!(answer.starts_with("error ") && answer.contains(words), "to {line:?}: {answer}");
        answer
    }

    /// Signals it.
    ///
    /// # Panics
    /// Where it is reaped.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("an unreaped child can be signalled");
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.kill();
    }
}
