//! The distributor is killed after its n-th system call, for every n that shipping a file takes; and every call that
//! needs room on the disk is refused once.

#![cfg(target_arch = "x86_64")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use holdfast_tests::{DEADLINE, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::device::check_readings;
use crate::scene::{Scene, Server, device, names_in};
use crate::traced::{self, Deed};

/// A file for each round, and what a server must have of it.
fn write(scene: &Scene, round: u64) -> String {
    let content = format!("{{\"round\":{round},\"line\":1}}\n{{\"round\":{round},\"line\":2}}\n");
    scene.write(1000 + round, &content);
    content
}

/// Every file arrived once, whole; and the account says so.
#[track_caller]
fn assert_delivered(scene: &Scene, server: &Server, expected: &[String]) {
    let mut times = BTreeMap::<String, u32>::new();
    server.kept().into_values().for_each(|content| *times.entry(content).or_default() += 1);
    let all: BTreeMap<String, u32> = expected.iter().map(|content| (content.clone(), 1)).collect();
    assert_eq!(times, all);
    assert!(scene.is_empty(), "{:?}", scene.names());
    let account = scene.account();
    assert_eq!(
        (account.delivered, account.generated),
        (2 * expected.len() as u64, 2 * expected.len() as u64)
    );
    scene.command("fsck", &[]).assert_succeeded();
}

/// Plays rounds until the deed comes too late.
#[track_caller]
fn play(deed: impl Fn(u64) -> Deed, interrupts: impl Fn(traced::Ending, u64) -> bool) {
    let scene = Scene::new();
    let server = Server::start(&scene, &[]);
    let mut expected = Vec::new();
    for round in 1.. {
        expected.push(write(&scene, round));
        let mut command = scene.collector(&server);
        command.args(["--once", "--parallel", "1"]);
        let ending = traced::run(&mut command, deed(round), |_| {});
        let interrupted = interrupts(ending, round);
        scene.ship_once(&server, &[]).assert_succeeded();
        assert!(scene.is_empty(), "after {:?}: {:?}", deed(round), scene.names());
        let account = scene.account();
        assert_eq!(account.delivered, 2 * round, "after {:?}: {account:?}", deed(round));
        if !interrupted {
            eprintln!("{round} rounds");
            break;
        }
        assert!(round < 5000, "it makes no end");
    }
    assert_delivered(&scene, &server, &expected);
}

#[test]
fn killed_after_any_system_call_it_delivers_exactly_once() {
    play(Deed::KillAfter, |ending, _| ending.code.is_none());
}

#[test]
fn any_call_that_a_full_disk_refuses_loses_nothing() {
    play(Deed::FailOne, |ending, round| ending.calls >= round);
}

#[test]
fn a_device_whose_disk_refuses_again_and_again_loses_nothing() {
    for every in [3, 5, 7] {
        let scene = Scene::new();
        let server = Server::start(&scene, &[]);
        // What cannot even begin says so and is started again, as a supervisor would.
        let worked = (0..10).any(|_| run_for_some_files(&scene, &server, Deed::FailSome(every)));
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
