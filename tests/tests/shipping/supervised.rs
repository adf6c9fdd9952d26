//! The collector as a child of the supervisor.

use std::time::{Duration, Instant};

use common::ids::Minute;
use holdfast_tests::processes::{Process, children_of};
use holdfast_tests::{DEADLINE, Instance, Place, eventually, until};

use crate::scene::{Account, Scene, Server, collector};

/// How long a supervisor waits for who leaves.
const GRACE: Duration = Duration::from_secs(10);

fn collecting(place: &Place, server: &Server) -> Instance {
    let url = format!("http://localhost:{}/in", server.port);
    place.instance().args(&["--collect", &url, "--collect-interval", "300ms"]).start()
}

#[track_caller]
fn collector_of(instance: &Instance) -> Process {
    eventually(DEADLINE, "there is a collector", || {
        let children = children_of(instance.pid()).into_iter().filter_map(Process::of);
        let mut collectors = children.filter(|process| process.name == "data_collector");
        collectors.next().ok_or_else(|| instance.stderr())
    })
}

#[test]
fn messages_are_shipped_while_the_instance_serves_and_the_last_ones_when_it_stops() {
    let scene = Scene::new();
    let server = Server::start(&scene, &[]);
    let place = Place::new();
    let instance = collecting(&place, &server);
    for number in 0..10 {
        instance.say(&format!("message {number}"));
    }
    until("they arrive within a minute", || server.lines().len() == 10);
    let first = collector_of(&instance);
    first.kill();
    instance.say("after a death");
    until("another collector ships", || server.lines().len() == 11);
    assert_ne!(collector_of(&instance).pid, first.pid);
    instance.say("the last one");
    let outcome = instance.stop();
    assert!(outcome.stderr.contains("the collector"), "{outcome}");
    place.no_process_left();
    let lines = server.lines();
    assert_eq!((lines.len(), lines.values().sum::<u64>()), (12, 12));
    let account = Account::of(&place.spool_dir());
    assert_eq!((account.generated, account.delivered), (12, 12));
}

#[test]
fn what_is_being_sent_is_finished_before_the_instance_ends() {
    let scene = Scene::new();
    let server = Server::start(&scene, &["--faults", "slow:2s"]);
    let place = Place::new();
    let instance = collecting(&place, &server);
    instance.say("in flight");
    until("it is being sent", || server.summary()["requests"] == 1);
    instance.stop();
    assert_eq!(server.lines().len(), 1);
    assert_eq!(Account::of(&place.spool_dir()).delivered, 1);
}

#[test]
fn with_the_server_away_a_stop_waits_for_nothing_and_the_next_instance_ships_the_rest() {
    let scene = Scene::new();
    let mut server = Server::start(&scene, &[]);
    let place = Place::new();
    let instance = collecting(&place, &server);
    collector_of(&instance);
    instance.say("one");
    // Not only there: who ships it knows that it is.
    until("it is delivered", || Account::of(&place.spool_dir()).delivered == 1);
    server.kill();
    instance.say("two");
    let began = Instant::now();
    instance.stop();
    assert!(began.elapsed() < GRACE / 2, "{:?}", began.elapsed());
    assert_eq!(Account::of(&place.spool_dir()).pending, 1);
    server.restart(&[]);
    let instance = collecting(&place, &server);
    until("the next instance ships it", || server.lines().len() == 2);
    instance.stop();
}

#[test]
fn in_a_hurry_the_last_minute_is_left_to_the_next_instance() {
    let scene = Scene::new();
    let server = Server::start(&scene, &[]);
    let place = Place::new();
    let url = format!("http://localhost:{}/", server.port);
    let instance = place.instance().args(&["--collect", &url]).start();
    collector_of(&instance);
    instance.say("one");
    instance.command("stop", &["--fast"]).assert_succeeded();
    instance.finish().assert_succeeded();
    let account = Account::of(&place.spool_dir());
    assert_eq!((account.generated, account.pending), (1, 1));
    collecting(&place, &server).stop();
    assert_eq!(server.lines().len(), 1);
}

#[test]
fn an_instance_that_was_killed_leaves_its_open_minute_to_the_next_one() {
    let scene = Scene::new();
    let server = Server::start(&scene, &[]);
    let place = Place::new();
    let instance = place.start();
    instance.say("one");
    instance.kill9();
    let mut command = collector(&place.spool_dir(), server.port);
    let outcome = holdfast_tests::outcome::run(command.arg("--once"));
    assert!(outcome.assert_succeeded().stderr.contains("waits for its next start"), "{outcome}");
    assert!(server.kept().is_empty());
    let instance = collecting(&place, &server);
    until("the next instance's collector ships it", || server.lines().len() == 1);
    instance.kill9();
}

#[test]
fn fsck_seals_what_a_killed_instance_left_for_whoever_will_not_start_it_again() {
    let scene = Scene::new();
    let server = Server::start(&scene, &[]);
    let place = Place::new();
    let instance = place.start();
    instance.say("one");
    instance.kill9();
    let mut fsck = holdfast_tests::place::program("data_collector");
    let outcome = holdfast_tests::outcome::run(fsck.arg("fsck").arg(place.spool_dir()));
    assert!(outcome.assert_succeeded().stdout.contains("that a supervisor left open"), "{outcome}");
    holdfast_tests::outcome::run(collector(&place.spool_dir(), server.port).arg("--once")).assert_succeeded();
    assert_eq!(server.lines().len(), 1);
    // Started after all, it goes on.
    let instance = place.start();
    instance.say("two");
    let status = instance.wait_for_rest();
    assert_eq!(status["totals"]["messages"], 2);
    instance.stop();
}

#[test]
fn where_to_ship_to_is_checked_before_anything_begins() {
    let place = Place::new();
    place.instance().args(&["--collect", "localhost:8888"]).run().assert_failed(2, &["http://HOST:PORT/"]);
    let zero = place.instance().args(&["--collect", "http://localhost:1/", "--collect-interval", "0"]);
    zero.run().assert_failed(2, &["--collect-interval"]);
}

/// The clock was set back, or another program's files were shipped from the same spool.
#[test]
fn a_minute_that_was_dealt_with_is_not_written_again() {
    for takes_over in [false, true] {
        let place = Place::new();
        let instance = takes_over.then(|| place.start());
        std::fs::create_dir_all(place.spool_dir()).unwrap();
        let now = Minute::now().0;
        let mut names: Vec<_> = (0..3).map(|ahead| format!("{}.sent", now + ahead)).collect();
        names.extend((3..6).map(|ahead| format!("{}.dat.refused", now + ahead)));
        names.iter().for_each(|name| std::fs::write(place.spool_dir().join(name), "dealt with").unwrap());
        let instance = instance.unwrap_or_else(|| place.start());
        instance.say("a message");
        assert_eq!(place.journal().len(), 1);
        let written = holdfast_tests::journal::names(&place.spool_dir());
        let minutes = written.iter().filter_map(|name| name.strip_suffix(".dat")?.parse::<u64>().ok());
        assert_eq!(minutes.filter(|minute| *minute < now + 6).count(), 0, "{written:?}");
        instance.stop();
    }
}
