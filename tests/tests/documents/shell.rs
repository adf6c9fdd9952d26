//! A shell in a directory that looks like a checkout, with ports and paths of its own.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast_tests::{place, programs};
use tempfile::TempDir;

use crate::transcript;

/// Longer than any command takes, and longer than it takes to build everything.
const PATIENCE: Duration = Duration::from_secs(120);
const BUILDERS_PATIENCE: Duration = Duration::from_secs(1200);

/// What the shell says after each command.
const DONE: &str = "@done@";

/// Ports that the documents name.
const PORTS: [&str; 3] = ["8888", "31337", "31339"];

/// What is to be built the test has built.
const NOTHING_TO_BUILD: &str = "
cargo() { :; }
export -f cargo
";

/// What a reader of the documents has, where this machine has not.
const TOOLS: &str = r#"
if ! nc -h 2>&1 | grep -q -e -N; then
    nc() {
        python3 -c 'import socket, sys
connection = socket.create_connection((sys.argv[2], int(sys.argv[3])))
connection.sendall(sys.stdin.buffer.read())
connection.shutdown(socket.SHUT_WR)
while part := connection.recv(4096): sys.stdout.buffer.write(part)' "$@"
    }
fi
"#;

/// A shell, and what it and all that it has started have printed.
pub struct Shell {
    child: Child,
    stdin: ChildStdin,
    printed: Arc<Mutex<String>>,
    /// What stands in the documents, and what takes its place here.
    names: Vec<(String, String)>,
    patience: Duration,
    /// The command before has begun something in the background.
    has_just_begun: bool,
    _scratch: TempDir,
    _memory: TempDir,
}

impl Shell {
    /// A new shell; with `builds`, it builds what it is told to build, which takes minutes.
    pub fn start(builds: bool) -> Self {
        let directory = |above: &Path| {
            tempfile::Builder::new().prefix(place::PREFIX).tempdir_in(above).expect("a directory can be made")
        };
        let memory = Path::new("/dev/shm");
        let above = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let (scratch, memory) = (directory(&std::env::temp_dir()), directory(&above));
        look_like_a_checkout(scratch.path(), !builds);
        let mut names = vec![
            ("/dev/shm/".to_owned(), format!("{}/", memory.path().display())),
            ("/tmp/".to_owned(), format!("{}/tmp/", scratch.path().display())),
            ("/var/log".to_owned(), format!("{}/log", scratch.path().display())),
        ];
        names.extend(PORTS.map(|port| (port.to_owned(), free_port().to_string())));
        let (mut output, both) = std::io::pipe().expect("a pipe can be made");
        let mut child = Command::new("bash")
            .args(["--noprofile", "--norc"])
            .current_dir(scratch.path())
            .env("HOME", scratch.path())
            .env("CARGO_TARGET_DIR", scratch.path().join("target"))
            .env("PATH", path_with_programs())
            .stdin(Stdio::piped())
            .stdout(both.try_clone().expect("a descriptor can be duplicated"))
            .stderr(both)
            .process_group(0)
            .spawn()
            .expect("bash is there");
        let printed = Arc::new(Mutex::new(String::new()));
        let heard = Arc::clone(&printed);
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut part) {
                heard
                    .lock()
                    .expect("nobody panics with it")
                    .push_str(&String::from_utf8_lossy(&part[..length]));
            }
        });
        let stdin = child.stdin.take().expect("it was asked for");
        let patience = if builds { BUILDERS_PATIENCE } else { PATIENCE };
        let (has_just_begun, _scratch, _memory) = (false, scratch, memory);
        let mut this = Self { child, stdin, printed, names, patience, has_just_begun, _scratch, _memory };
        this.say(if builds { "" } else { NOTHING_TO_BUILD });
        this.say(TOOLS);
        this
    }

    /// Executes a command, which has to succeed and to print the lines shown, in this order.
    #[track_caller]
    pub fn execute(&mut self, place: &str, command: &str, shown: &[String]) {
        let command = self.translated(command);
        let deadline = Instant::now() + self.patience;
        let from = loop {
            let from = self.printed.lock().expect("nobody panics with it").len();
            self.say(&format!("{command}\necho \"{DONE}$?\"\n"));
            let end = self.wait_for(place, &command, |printed| {
                let rest = printed[from..].split(DONE).nth(1)?;
                rest.split_once('\n').map(|(status, _)| status.to_owned())
            });
            if end == "0" {
                break from;
            }
            // A person would not be so fast after what goes on in the background.
            let again = self.has_just_begun && Instant::now() < deadline;
            assert!(again, "{place}: {command} ended with {end}\n{}", self.since(from));
            std::thread::sleep(Duration::from_millis(50));
        };
        let without_comment = command.split(" #").next().unwrap_or_default();
        self.has_just_begun = without_comment.trim_end().ends_with('&');
        let mut position = from;
        for line in shown {
            let line = self.translated(line);
            let mut names = Vec::new();
            position = self.wait_for(place, &line, |printed| {
                let mut place = position;
                for printed in printed[position..].split_inclusive('\n') {
                    place += printed.len();
                    if printed.ends_with('\n') && transcript::is_shown(&line, printed, &mut names) {
                        return Some(place);
                    }
                }
                None
            });
            // What the number stands for next is the latest.
            self.names.retain(|(name, _)| !names.iter().any(|(found, _)| found == name));
            self.names.extend(names);
        }
    }

    fn translated(&self, text: &str) -> String {
        let replace = |text: String, (from, to): &(String, String)| text.replace(from, to);
        self.names.iter().fold(text.to_owned(), replace)
    }

    fn say(&mut self, text: &str) {
        self.stdin.write_all(text.as_bytes()).expect("the shell listens");
    }

    fn since(&self, from: usize) -> String {
        self.printed.lock().expect("nobody panics with it")[from..].to_owned()
    }

    #[track_caller]
    fn wait_for<T>(&self, place: &str, what: &str, mut find: impl FnMut(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + self.patience;
        loop {
            if let Some(found) = find(&self.printed.lock().expect("nobody panics with it")) {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "{place}: {what:?} did not come; printed is\n{}",
                self.since(0)
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // What still runs in the background ends, and is waited for, so that nothing is left in the directories.
        let _ = self.stdin.write_all(b"kill $(jobs -p) 2>/dev/null; wait; exit\n");
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn look_like_a_checkout(scratch: &Path, built: bool) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace");
    for entry in std::fs::read_dir(root).expect("a checkout can be read") {
        let entry = entry.expect("a directory can be read");
        if entry.file_name() != "target" {
            symlink(entry.path(), scratch.join(entry.file_name())).expect("a link can be made");
        }
    }
    std::fs::create_dir(scratch.join("target")).expect("a directory can be made");
    if built {
        // Whatever profile this is.
        symlink(directory_of_programs(), scratch.join("target/release")).expect("a link can be made");
    }
    std::fs::create_dir(scratch.join("tmp")).expect("a directory can be made");
    std::fs::create_dir(scratch.join("log")).expect("a directory can be made");
}

fn path_with_programs() -> std::ffi::OsString {
    let rest = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(directory_of_programs()).chain(std::env::split_paths(&rest));
    std::env::join_paths(all).expect("no directory has a colon in its name")
}

fn directory_of_programs() -> PathBuf {
    programs::path("supervisor").parent().expect("a program lies in a directory").to_owned()
}

/// A port that the kernel gives to nobody who asks for any: below those. No two shells of this process get the same.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id() as u16 % 200 * 50;
    loop {
        let port = 20_000 + (first + NEXT.fetch_add(1, Relaxed)) % 10_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
