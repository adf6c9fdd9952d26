//! The distributor is killed after its n-th system call, for every n that shipping a file takes: a finished one, and one
//! that it has to seal, compress, encrypt and keep. And every call that needs room on the disk is refused once.

#![cfg(target_arch = "x86_64")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use common::journal::single::SingleWriter;
use common::journal::spool::Spool;
use holdfast_tests::{DEADLINE, outcome, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::device::check_readings;
use crate::encrypted::certificate_for_localhost;
use crate::scene::{Scene, Server, device, names_in};
use crate::traced::{self, Deed};

/// What is shipped again and again, and how.
struct Course {
    scene: Scene,
    server: Server,
    arguments: Vec<String>,
    /// Makes what a round ships, and gives what a server must have of it.
    prepare: fn(&Scene, u64) -> String,
}

impl Course {
    /// A finished file of another program's, as it is.
    fn plain() -> Self {
        let scene = Scene::new();
        let server = Server::start(&scene, &[]);
        Self { scene, server, arguments: Vec::new(), prepare: finished }
    }

    /// All that there is to do with a file: a dead device's minute is sealed, compressed, sent encrypted and kept for a
    /// checkpoint.
    fn with_everything() -> Self {
        let scene = Scene::new();
        let (certificate, key) = certificate_for_localhost(&scene);
        let server = Server::start(&scene, &["--tls-cert", &certificate, "--tls-key", &key]);
        std::fs::create_dir(scene.spool().join("checkpoint")).expect("a directory can be made");
        let arguments = ["--tls", "--ca-file", &certificate, "--compress", "gzip"].map(str::to_owned);
        Self { scene, server, arguments: arguments.to_vec(), prepare: left_by_a_device }
    }

    fn collector(&self) -> Command {
        let mut command = self.scene.collector(&self.server);
        command.arg("--once").args(&self.arguments);
        command
    }

    /// Plays rounds until the deed comes too late.
    #[track_caller]
    fn play(&self, deed: impl Fn(u64) -> Deed, interrupts: impl Fn(traced::Ending, u64) -> bool) {
        let mut expected = Vec::new();
        for round in 1.. {
            expected.push((self.prepare)(&self.scene, round));
            let ending = traced::run(self.collector().args(["--parallel", "1"]), deed(round), |_| {});
            let interrupted = interrupts(ending, round);
            outcome::run(&mut self.collector()).assert_succeeded();
            assert!(self.scene.is_empty(), "after {:?}: {:?}", deed(round), self.scene.names());
            let account = self.scene.account();
            assert_eq!(account.delivered, 2 * round, "after {:?}: {account:?}", deed(round));
            if !interrupted {
                eprintln!("{round} rounds");
                break;
            }
            assert!(round < 5000, "it makes no end");
        }
        self.assert_delivered(&expected);
    }

    /// Every file arrived once, whole; and the account says so.
    #[track_caller]
    fn assert_delivered(&self, expected: &[String]) {
        let mut times = BTreeMap::<String, u32>::new();
        self.server.kept().into_values().for_each(|content| *times.entry(content).or_default() += 1);
        let all: BTreeMap<String, u32> = expected.iter().map(|content| (content.clone(), 1)).collect();
        assert_eq!(times, all);
        let account = self.scene.account();
        let records = 2 * expected.len() as u64;
        assert_eq!((account.delivered, account.generated), (records, records));
        self.scene.command("fsck", &[]).assert_succeeded();
    }
}

fn finished(scene: &Scene, round: u64) -> String {
    let content = format!("{{\"round\":{round},\"line\":1}}\n{{\"round\":{round},\"line\":2}}\n");
    scene.write(1000 + round, &content);
    content
}

/// A minute with its lock, of a device that died while it wrote a third record.
fn left_by_a_device(scene: &Scene, round: u64) -> String {
    let spool = Spool::open_or_create(&scene.spool()).expect("the spool can be used");
    let mut writer = SingleWriter::take(spool, 1 << 30).expect("no other device is there");
    for line in 1..=2 {
        writer.append("device", &format!("round {round} line {line}")).expect("there is room");
    }
    drop(writer);
    let name = scene.names().into_iter().find(|name| name.ends_with(".dat")).expect("it has written");
    let path = scene.spool().join(name);
    let content = std::fs::read_to_string(&path).expect("it can be read");
    let torn = File::options().append(true).open(path).and_then(|mut file| file.write_all(b"{\"id\":\"torn"));
    torn.expect("it can be written to");
    content
}

#[test]
fn killed_after_any_system_call_it_delivers_exactly_once() {
    Course::plain().play(Deed::KillAfter, |ending, _| ending.code.is_none());
}

#[test]
fn killed_after_any_system_call_of_all_that_there_is_to_do_it_delivers_exactly_once() {
    Course::with_everything().play(Deed::KillAfter, |ending, _| ending.code.is_none());
}

#[test]
fn any_call_that_a_full_disk_refuses_loses_nothing() {
    for course in [Course::plain(), Course::with_everything()] {
        course.play(Deed::FailOne, |ending, round| ending.calls >= round);
    }
}

#[test]
fn a_device_whose_disk_refuses_again_and_again_loses_nothing() {
    for every in [3, 5, 7] {
        let scene = Scene::new();
        let server = Server::start(&scene, &[]);
        // What cannot even begin says so and is started again, as a supervisor would.
        let worked = (0..20).any(|_| run_for_some_files(&scene, &server, Deed::FailSome(every)));
        assert!(worked, "one of {every}");
        scene.ship_once(&server, &[]).assert_succeeded();
        assert_eq!(check_readings(&server.lines()), scene.account().delivered);
        assert!(scene.is_empty());
        scene.command("fsck", &[]).assert_succeeded();
    }
}

/// Runs a device and its distributor until some files have arrived. False where it ended by itself.
fn run_for_some_files(scene: &Scene, server: &Server, deed: Deed) -> bool {
    let mut command = device(&scene.spool(), server.port);
    command.args(["--device-interval=1ms..2ms", "--dist-interval=0.1"]);
    let (store, ended) = (scene.file("store"), Arc::new(AtomicBool::new(false)));
    let over = Arc::clone(&ended);
    let was_stuck = Arc::new(AtomicBool::new(false));
    let stuck = Arc::clone(&was_stuck);
    let goal = names_in(&store).len() + 5;
    let ending = traced::run(&mut command, deed, move |pid| {
        std::thread::spawn(move || {
            let arrived = within(DEADLINE, || {
                let enough = over.load(SeqCst) || names_in(&store).len() >= goal;
                if enough { Ok(()) } else { Err(String::new()) }
            });
            // The tracer waits for its end, in whatever way it comes.
            let send = |signal| over.load(SeqCst) || kill(Pid::from_raw(pid), signal).is_err();
            if arrived.is_err() || !send(Signal::SIGTERM) {
                let ends = || if over.load(SeqCst) { Ok(()) } else { Err(String::new()) };
                let too_late = arrived.is_err() || within(DEADLINE, ends).is_err();
                stuck.store(too_late && !send(Signal::SIGKILL), SeqCst);
            }
        });
    });
    ended.store(true, SeqCst);
    assert!(!was_stuck.load(SeqCst), "it was killed since it neither shipped nor ended");
    ending.code == Some(0)
}
