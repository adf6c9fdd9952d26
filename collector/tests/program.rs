//! The program as it is called: on spools in which odd things stand, with nobody to print to, at a server that hangs.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use common::sys::file::wait_for;
use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::sys::stat::Mode;
use tempfile::TempDir;

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(60);

/// A spool of a test's own.
struct Scene(TempDir);

impl Scene {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str) {
        std::fs::write(self.at(name), "a record\n").unwrap();
    }

    /// `data_collector COMMAND SPOOL`.
    fn command(&self, command: &str) -> Command {
        let mut program = program();
        program.arg(command).arg(self.0.path());
        program
    }
}

/// The program, in an environment without options.
fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_data_collector"));
    let variables = std::env::vars_os().map(|(name, _)| name);
    for name in variables.filter(|name| name.as_encoded_bytes().starts_with(b"HOLDFAST_")) {
        program.env_remove(name);
    }
    program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    program
}

/// Killed in the end, whatever becomes of the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What it says is little, and fits into its pipes.
#[track_caller]
fn finish(command: &mut Command) -> Output {
    let mut running = Running(command.spawn().unwrap());
    let ended = wait_for(DEADLINE, || Ok(running.0.try_wait()?.is_some())).unwrap();
    assert!(ended, "{command:?} goes on and on");
    let status = running.0.wait().unwrap();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    if let Some(mut pipe) = running.0.stdout.take() {
        pipe.read_to_end(&mut stdout).unwrap();
    }
    if let Some(mut pipe) = running.0.stderr.take() {
        pipe.read_to_end(&mut stderr).unwrap();
    }
    Output { status, stdout, stderr }
}

/// The exit code and what was said on stdout and on stderr.
#[track_caller]
fn outcome(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = finish(command);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn what_is_no_file_is_passed_over_and_found_wrong() {
    let scene = Scene::new();
    scene.write("4.dat");
    let odd = ["5.dat", "6.dat", "6.dat.refused", "7.dat", "8.dat"];
    nix::unistd::mkfifo(&scene.at(odd[0]), Mode::S_IRWXU).unwrap();
    std::fs::create_dir(scene.at(odd[1])).unwrap();
    std::fs::create_dir(scene.at(odd[2])).unwrap();
    symlink("/dev/zero", scene.at(odd[3])).unwrap();
    symlink("/dev/zero", scene.at(odd[4])).unwrap();
    // What is said of a lock takes a look at the file.
    scene.write("8.dat.lock");

    let (code, account, said) = outcome(&mut scene.command("status"));
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert!(account.contains("pending                  1 records in 1 files, 9 bytes\n"), "{account}");
    assert!(account.contains("quarantined              0 records in 0 files, 0 bytes\n"), "{account}");

    let (code, findings, said) = outcome(&mut scene.command("fsck"));
    assert_eq!(code, Some(4), "{findings}{said}");
    for name in &odd[..4] {
        assert!(findings.contains(&format!("wrong: {name} is not a file\n")), "{findings}");
    }
    assert!(findings.contains("wrong: 8.dat cannot be looked at: "), "{findings}");
}

#[test]
fn counting_begins_beside_what_is_no_file() {
    let scene = Scene::new();
    nix::unistd::mkfifo(&scene.at("5.dat"), Mode::S_IRWXU).unwrap();
    std::fs::create_dir(scene.at("6.dat.refused")).unwrap();
    symlink("/dev/zero", scene.at("7.dat")).unwrap();
    std::fs::write(scene.at("sealed"), "9\n").unwrap();
    let spool = common::journal::spool::Spool::open_or_create(scene.0.path()).unwrap();
    let (say, begun) = unbounded();
    thread::spawn(move || say.send(common::journal::generated::prepare(&spool)));
    begun.recv_timeout(DEADLINE).unwrap().unwrap();
}

#[test]
fn a_full_disk_under_stdout_is_said_in_one_sentence() {
    let scene = Scene::new();
    scene.write("4.dat");
    for command in ["status", "fsck", "replay"] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let (code, _, said) = outcome(scene.command(command).stdout(full));
        assert_eq!(code, Some(1), "{command}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("cannot write to stdout") && !said.contains("panicked"), "{said}");
    }
}

#[test]
fn a_reader_who_has_gone_is_no_error() {
    let scene = Scene::new();
    std::fs::create_dir(scene.at("5.dat")).unwrap();
    std::fs::create_dir(scene.at("6.dat")).unwrap();
    for (command, expected) in [("status", 0), ("fsck", 4), ("replay", 0)] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let (code, _, said) = outcome(scene.command(command).stdout(writer));
        assert_eq!(code, Some(expected), "{command}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

/// Takes requests and says which minute each is about; those up to minute `silent` are never answered.
fn hang(listener: &TcpListener, silent: u64, asked: &Sender<u64>) {
    let mut kept = Vec::new();
    for connection in listener.incoming() {
        let connection = connection.unwrap();
        if let Ok(minute) = read_request(&connection) {
            if minute > silent {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                let _ = (&connection).write_all(answer);
            }
            kept.push(connection);
            let _ = asked.send(minute);
        }
    }
}

/// Reads a request with its body. The minute stands in its key: `SPOOL-MINUTE-DIGEST`.
fn read_request(connection: &TcpStream) -> io::Result<u64> {
    let mut reader = BufReader::new(connection);
    let (mut minute, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim().to_ascii_lowercase();
        if let Some(key) = line.strip_prefix("idempotency-key: ") {
            minute = key.split('-').nth(1).and_then(|minute| minute.parse().ok());
        }
        if let Some(number) = line.strip_prefix("content-length: ") {
            length = number.parse().map_err(io::Error::other)?;
        }
        if line.is_empty() {
            break;
        }
    }
    reader.read_exact(&mut vec![0; length])?;
    minute.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn hanging_server(silent: u64) -> (u16, Receiver<u64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (say, asked) = unbounded();
    thread::spawn(move || hang(&listener, silent, &say));
    (port, asked)
}

#[test]
fn files_that_are_never_answered_keep_no_other_from_being_sent() {
    let scene = Scene::new();
    let (silent, parallel) = (2, "1");
    let (port, asked) = hanging_server(silent);
    for minute in 1..=silent + 1 {
        scene.write(&format!("{minute}.dat"));
    }
    let mut collector = program();
    collector.arg("--tmp-persist-dir").arg(scene.0.path()).arg("--no-device");
    collector.args(["--url", &format!("http://127.0.0.1:{port}/")]);
    collector.args(["--parallel", parallel, "--timeout", "500ms", "--dist-interval", "60"]);
    let _running = Running(collector.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let mut before = Vec::new();
    loop {
        let minute = asked.recv_timeout(DEADLINE).unwrap();
        if minute > silent {
            break;
        }
        before.push(minute);
        // Between two that are tried for the first time at most one is tried again.
        assert!(before.len() as u64 <= 2 * silent, "{before:?}");
    }
    let delivered = || Ok(!scene.at("3.dat").exists());
    assert!(wait_for(DEADLINE, delivered).unwrap(), "it was answered");
}
