//! A spool of a test's own, the collector on it, and the server it ships to.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use holdfast_tests::outcome::{self, Running};
use holdfast_tests::{DEADLINE, Outcome, eventually, place, programs};
use serde_json::Value;
use tempfile::TempDir;

/// A directory with a spool and whatever else a test needs.
pub struct Scene {
    directory: TempDir,
}

impl Scene {
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix(place::PREFIX).tempdir();
        let scene = Self { directory: directory.expect("a temporary directory can be made") };
        std::fs::create_dir(scene.spool()).expect("a directory can be made");
        scene
    }

    /// A path for a file of the test's own.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The spool.
    pub fn spool(&self) -> PathBuf {
        self.file("spool")
    }

    /// A finished minute file, as another program writes it.
    pub fn write(&self, minute: u64, content: &str) {
        let name = format!("{minute}.dat");
        std::fs::write(self.spool().join(name), content).expect("a file can be written");
    }

    /// The names in the spool, but for those that begin with a dot.
    pub fn names(&self) -> Vec<String> {
        names_in(&self.spool())
    }

    /// Whether nothing is left to be shipped, and no lock.
    pub fn is_empty(&self) -> bool {
        !self.names().iter().any(|name| name.ends_with(".dat") || name.ends_with(".lock"))
    }

    /// The collector on this spool, shipping only.
    pub fn collector(&self, server: &Server) -> Command {
        collector(&self.spool(), server.port)
    }

    /// Starts the collector with further arguments.
    pub fn start(&self, server: &Server, arguments: &[&str]) -> Running {
        Running::start(self.collector(server).args(arguments))
    }

    /// Ships what is there, and waits for the end.
    #[track_caller]
    pub fn ship_once(&self, server: &Server, arguments: &[&str]) -> Outcome {
        let outcome = outcome::run(self.collector(server).arg("--once").args(arguments));
        outcome.assert_no_panic();
        outcome
    }

    /// `data_collector COMMAND SPOOL`.
    #[track_caller]
    pub fn command(&self, command: &str, arguments: &[&str]) -> Outcome {
        let mut program = place::program("data_collector");
        let outcome = outcome::run(program.arg(command).arg(self.spool()).args(arguments));
        outcome.assert_no_panic();
        outcome
    }

    /// The account.
    #[track_caller]
    pub fn account(&self) -> Account {
        Account::of(&self.spool())
    }

    /// Waits until everything that was generated is delivered.
    #[track_caller]
    pub fn wait_until_delivered(&self, what: &str) {
        eventually(DEADLINE, what, || {
            let account = self.account();
            if account.pending == 0 && self.is_empty() { Ok(()) } else { Err(format!("{account:?}")) }
        });
    }
}

/// What `data_collector status` says, in records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    pub generated: u64,
    pub delivered: u64,
    pub pending: u64,
    pub quarantined: u64,
}

impl Account {
    #[track_caller]
    pub fn of(spool: &Path) -> Self {
        let mut status = place::program("data_collector");
        let outcome = outcome::run(status.arg("status").arg(spool).arg("--json"));
        outcome.assert_succeeded();
        let value: Value = serde_json::from_str(&outcome.stdout).expect("status --json prints JSON");
        let number = |name: &str| value[name].as_u64().unwrap_or_else(|| panic!("no {name} in {value}"));
        let account = Self {
            generated: number("generated"),
            delivered: number("delivered"),
            pending: number("pending"),
            quarantined: number("quarantined"),
        };
        let sum = account.delivered + account.pending + account.quarantined;
        assert_eq!(account.generated, sum, "the account does not agree: {value}");
        account
    }
}

/// The collector on a spool, shipping only.
pub fn collector(spool: &Path, port: u16) -> Command {
    let mut command = device(spool, port);
    command.arg("--no-device");
    command
}

/// The same with a device.
pub fn device(spool: &Path, port: u16) -> Command {
    let mut command = place::program("data_collector");
    command.arg("--tmp-persist-dir").arg(spool).args(["--host", "localhost", "--port", &port.to_string()]);
    command
}

pub fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

/// A server that takes files and keeps them.
pub struct Server {
    running: Option<Running>,
    store: PathBuf,
    pub port: u16,
}

impl Server {
    /// Starts one with further arguments.
    #[track_caller]
    pub fn start(scene: &Scene, arguments: &[&str]) -> Self {
        Self::keeping(scene.file("store"), 0, arguments)
    }

    /// A port at which nobody listens, and a server that may come to be there.
    #[track_caller]
    pub fn absent(scene: &Scene) -> Self {
        let mut server = Self::start(scene, &[]);
        server.kill();
        server
    }

    #[track_caller]
    fn keeping(store: PathBuf, port: u16, arguments: &[&str]) -> Self {
        let mut server = Self { running: None, store, port };
        server.restart(arguments);
        server
    }

    /// Another one at the same port, keeping in the same place.
    #[track_caller]
    pub fn restart(&mut self, arguments: &[&str]) {
        self.kill();
        // Built with the others.
        let _ = programs::path("data_collector");
        let running = eventually(DEADLINE, "the server listens", || {
            let mut command = Command::new(programs::test_server());
            command.args(["--host", "localhost", "--quiet", "--port", &self.port.to_string()]);
            command.arg("--store").arg(&self.store).args(arguments).env_remove("HOST").env_remove("PORT");
            let mut running = Running::start(&mut command);
            let line = holdfast_tests::within(DEADLINE, || {
                let (said, ended) = (running.stdout(), running.ended());
                match said.split_once('\n') {
                    Some((line, _)) => Ok(Some(line.to_owned())),
                    None if ended.is_some() => Ok(None),
                    None => Err(running.stderr()),
                }
            })?;
            let port = line.as_deref().and_then(|line| line.rsplit_once(':')?.1.parse().ok());
            port.map(|port| (running, port)).ok_or_else(|| "it has ended".to_owned())
        });
        (self.running, self.port) = (Some(running.0), running.1);
    }

    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.kill();
        }
    }

    /// What was kept: each file's content by its key.
    pub fn kept(&self) -> BTreeMap<String, String> {
        let read =
            |name: &String| std::fs::read_to_string(self.store.join(name)).expect("a kept file can be read");
        names_in(&self.store).iter().map(|name| (name.clone(), read(name))).collect()
    }

    /// The contents of what was kept, in some order.
    pub fn contents(&self) -> Vec<String> {
        let mut contents: Vec<String> = self.kept().into_values().collect();
        contents.sort();
        contents
    }

    /// How often each line came that is not blank, over all files that were kept.
    pub fn lines(&self) -> BTreeMap<String, u64> {
        let mut lines = BTreeMap::new();
        for content in self.kept().into_values() {
            for line in content.lines().map(str::trim_start).filter(|line| !line.is_empty()) {
                *lines.entry(line.to_owned()).or_insert(0) += 1;
            }
        }
        lines
    }

    /// What it has printed.
    pub fn stdout(&self) -> String {
        self.running.as_ref().map(Running::stdout).unwrap_or_default()
    }

    /// What it says of itself.
    pub fn summary(&self) -> Value {
        let mut stream = TcpStream::connect(("localhost", self.port)).expect("the server listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout can be set");
        stream.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").expect("it can be asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        serde_json::from_str(answer.split_once("\r\n\r\n").expect("an answer has a body").1).expect("JSON")
    }
}

/// Ends a collector as an operator does, and it ends well.
#[track_caller]
pub fn terminate(mut running: Running) -> Outcome {
    let pid = nix::unistd::Pid::from_raw(running.pid());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("a child can be signalled");
    let outcome = running.finish_within(DEADLINE);
    outcome.assert_succeeded();
    outcome
}

/// Waits until what the collector has said contains `words`.
#[track_caller]
pub fn wait_for_log(running: &Running, words: &str) {
    eventually(DEADLINE, &format!("the log says {words:?}"), || {
        let log = running.stderr();
        if log.contains(words) { Ok(()) } else { Err(log) }
    });
}

/// A length of time that tests in CI have, or the longer one that the environment names in seconds.
pub fn seconds(variable: &str, usual: u64) -> Duration {
    let named = std::env::var(variable).ok().and_then(|text| text.parse().ok());
    Duration::from_secs(named.unwrap_or(usual))
}
