//! The load generator against the server, and what else a peer may be.

use std::path::Path;
use std::process::Command;

use holdfast_tests::outcome::Outcome;
use holdfast_tests::place::program;
use holdfast_tests::{Instance, Place, machine};
use nix::sys::signal::Signal;
use serde_json::Value;

/// `cclient` on its way to an instance's first address.
fn cclient(instance: &Instance, connections: usize, message: &str, options: &[&str]) -> Command {
    let (host, port) = instance.listen[0].strip_prefix("tcp:").unwrap().rsplit_once(':').unwrap();
    let mut command = program("cclient");
    command.args([host, port, &connections.to_string(), message]).args(options);
    command
}

fn run(command: &mut Command) -> Outcome {
    holdfast_tests::outcome::run(command)
}

/// Its one JSON object.
#[track_caller]
fn report(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

/// Runs it with `--check`, which must find everything as it should be.
#[track_caller]
fn check(place: &Place, instance: &Instance, connections: usize, options: &[&str]) -> Value {
    let mut command = cclient(instance, connections, "arijort:lalala", options);
    let outcome = run(command.arg("--json").arg("--check").arg(place.spool_dir()));
    outcome.assert_succeeded();
    let report = report(&outcome);
    for key in ["lost", "duplicated", "altered"] {
        assert_eq!(report[key], 0, "{key}: {report}");
    }
    report
}

#[test]
fn one_message_per_connection_is_checked() {
    let place = Place::new();
    let instance = place.instance().workers(8).start();
    let report = check(&place, &instance, 50, &["--requests", "1000"]);
    assert_eq!((&report["requests"], instance.books_agree().len()), (&1000.into(), 1000));
    instance.wait_for_status("the connections are counted", |status| status["totals"]["connections"] == 1000);
    instance.stop();
}

#[test]
fn kept_connections_are_checked() {
    let place = Place::new();
    let instance = place.instance().workers(8).start();
    let report = check(&place, &instance, 8, &["--requests", "5000", "--keep-alive"]);
    assert_eq!((&report["requests"], instance.books_agree().len()), (&5000.into(), 5000));
    assert!(instance.total("connections") <= 8);
    instance.stop();
}

#[test]
fn a_hundred_at_once_take_no_longer_than_one() {
    let place = Place::new();
    machine::allow_descriptors(500);
    let instance = place.instance().workers(100).args(&["--latency", "2s"]).start();
    let report = check(&place, &instance, 100, &[]);
    assert_eq!(report["requests"], 100);
    let took = report["wall_ms"].as_f64().expect("a time");
    assert!((2000.0..8000.0).contains(&took), "one after the other would be 200 s: {report}");
    instance.stop();
}

#[test]
fn workers_killed_meanwhile_lose_nothing_that_was_acknowledged() {
    let place = Place::new();
    let instance = place.instance().workers(16).start();
    let options = ["--duration", "4s", "--keep-alive", "--json", "--check"];
    let mut command = cclient(&instance, 12, "arijort:lalala", &options);
    let mut running = holdfast_tests::outcome::Running::start(command.arg(place.spool_dir()));
    let mut killed = 0;
    while running.ended().is_none() {
        let pids = instance.workers_that_are(&["busy"]);
        let Some(pid) = pids.get(killed % pids.len().max(1)) else { continue };
        killed += usize::from(instance.signal_child(*pid, Signal::SIGKILL));
    }
    let outcome = running.finish();
    outcome.assert_no_panic();
    let report = report(&outcome);
    for key in ["lost", "duplicated", "altered"] {
        assert_eq!(report[key], 0, "{key}: {outcome}");
    }
    assert!(killed > 10 && report["requests"].as_u64() > Some(100), "{killed} killed: {report}");
    assert_eq!(outcome.code(), Some(1), "broken connections are failures: {outcome}");
    let records = instance.books_agree();
    assert!(records.len() as u64 >= report["requests"].as_u64().unwrap());
    instance.stop();
}

#[test]
fn errors_are_counted_by_kind() {
    let place = Place::new();
    let instance = place.start();
    let outcome = run(&mut cclient(&instance, 5, "nobody:hello", &["--requests", "20"]));
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    outcome.assert_no_panic();
    assert!(outcome.stdout.contains("handled 0 requests"), "{outcome}");
    assert!(outcome.stdout.contains("unauthorized") || outcome.stderr.contains("unauthorized"), "{outcome}");
    instance.stop();
}

#[test]
fn the_words_for_people_are_the_seeds() {
    let place = Place::new();
    let instance = place.start();
    let outcome = run(&mut cclient(&instance, 4, "arijort:lalala", &["--requests", "10"]));
    outcome.assert_succeeded();
    let address = instance.listen[0].strip_prefix("tcp:").unwrap();
    let first = format!("connecting to host:port {address} with 4 threads");
    assert_eq!(outcome.stdout.lines().next(), Some(first.as_str()), "{outcome}");
    assert!(outcome.stdout.contains("handled 10 requests"), "{outcome}");
    instance.stop();
}

#[test]
fn a_check_across_restarts_still_finds_everything() {
    let place = Place::new();
    for round in 1..=3 {
        let instance = place.instance().workers(8).start();
        check(&place, &instance, 10, &["--requests", "200"]);
        assert_eq!(instance.books_agree().len(), 200 * round);
        if round == 2 {
            instance.kill9();
        } else {
            instance.stop();
        }
    }
}

#[test]
fn a_shell_without_any_client_is_a_client() {
    let place = Place::new();
    let instance = place.start();
    let port = instance.listen[0].rsplit_once(':').unwrap().1;
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{port} && printf 'print\\narijort:by hand\\n' >&3 && head -n 2 <&3"
    );
    if !Path::new("/bin/bash").exists() {
        return machine::skip("a shell as client", "no bash");
    }
    let outcome = run(Command::new("/bin/bash").args(["-c", &script]));
    outcome.assert_succeeded();
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert_eq!(lines[0], "hello world");
    assert!(lines[1].ends_with("recvd message \"by hand\" from user arijort"), "{outcome}");
    assert_eq!(instance.books_agree().len(), 1);
    instance.stop();
}
