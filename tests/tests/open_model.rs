//! The load generator at a rate of its own (`cclient --rate`): who waits is counted from when it should have been sent,
//! and a run in which the generator itself was held up is refused.

use std::collections::HashSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use holdfast_tests::outcome::{Outcome, Running, run};
use holdfast_tests::place::program;
use holdfast_tests::{DEADLINE, Instance, Place, eventually, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// `cclient` on its way to an instance's first address, at a rate.
fn cclient(instance: &Instance, connections: usize, rate: &str, options: &[&str]) -> Command {
    let (host, port) = instance.listen[0].strip_prefix("tcp:").unwrap().rsplit_once(':').unwrap();
    let mut command = program("cclient");
    command
        .args([host, port, &connections.to_string(), "arijort:lalala", "--json", "--rate", rate])
        .args(options);
    command
}

#[track_caller]
fn report(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

fn number(report: &Value, pointer: &str) -> u64 {
    report.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer}: {report}"))
}

/// Runs it until the machine has left it the time to keep to its plan.
#[track_caller]
fn valid(mut once: impl FnMut() -> Outcome) -> (Outcome, Value) {
    eventually(DEADLINE * 2, "a valid run", || {
        let outcome = once();
        outcome.assert_no_panic();
        let report = report(&outcome);
        if report["valid"] == true { Ok((outcome, report)) } else { Err(outcome.to_string()) }
    })
}

/// For this long nothing happens that could be waited for: that is what is being tried.
fn let_pass(time: Duration) {
    let began = Instant::now();
    until("the time passes", || began.elapsed() >= time);
}

#[test]
fn requests_are_sent_at_their_instants_and_the_latencies_are_drawn() {
    let place = Place::new();
    let instance = place.instance().workers(8).start();
    let (hdr, plot) = (place.file("latency.hgrm"), place.file("latency.svg"));
    for kept in [&[][..], &["--keep-alive"]] {
        let (outcome, report) = valid(|| {
            let mut command = cclient(&instance, 8, "250", &["--duration", "1s"]);
            command.args(kept).arg("--check").arg(place.spool_dir());
            run(command.arg("--hdr").arg(&hdr).arg("--plot").arg(&plot))
        });
        outcome.assert_succeeded();
        assert_eq!((&report["requests"], &report["lost"]), (&250.into(), &0.into()), "{report}");
        // The last of them is planned for 4 ms before the end.
        assert!(number(&report, "/wall_ms") >= 996, "{report}");
        assert!(report["rate"].as_f64().is_some_and(|rate| rate < 252.0), "{report}");
        assert!(number(&report, "/slip_us/p50") <= number(&report, "/slip_us/max"), "{report}");
        assert!(report["busy"].as_f64().is_some_and(|busy| (0.0..0.95).contains(&busy)), "{report}");
        let drawing = fs::read_to_string(&plot).unwrap();
        assert!(drawing.starts_with("<svg ") && drawing.contains("250 requests/s planned"), "{drawing}");
        percentiles_are_those_reported(&fs::read_to_string(&hdr).unwrap(), &report);
        fs::remove_file(&plot).unwrap();
        fs::remove_file(&hdr).unwrap();
    }
    instance.books_agree();
    instance.stop();
}

/// The file that HdrHistogram's tools read has every request, and says what the report says.
#[track_caller]
fn percentiles_are_those_reported(distribution: &str, report: &Value) {
    assert!(
        distribution.contains(&format!("Total count    = {:12}]", number(report, "/requests"))),
        "{distribution}"
    );
    let rows: Vec<Vec<f64>> = distribution
        .lines()
        .map(|line| line.split_whitespace().map_while(|word| word.parse().ok()).collect())
        .filter(|row: &Vec<f64>| row.len() >= 3)
        .collect();
    let at = |share: f64| rows.iter().find(|row| row[1] >= share).expect("100 % is there")[0] * 1000.0;
    for (share, name) in [(0.5, "p50"), (0.9, "p90"), (1.0, "max")] {
        let (drawn, told) = (at(share), number(report, &format!("/latency_us/{name}")) as f64);
        // The file's steps are not exactly these percentiles: between one and the next.
        assert!(drawn >= told * 0.995 - 1.0, "{name}: {drawn} of {told}: {distribution}");
    }
    let (longest, told) = (at(1.0), number(report, "/latency_us/max") as f64);
    assert!((longest - told).abs() <= told * 0.002 + 1.0, "{longest} of {told}");
}

#[test]
fn who_should_have_been_sent_meanwhile_waits_for_a_server_that_stands_still() {
    let place = Place::new();
    let instance = place.instance().workers(4).start();
    let still = Duration::from_millis(700);
    let (outcome, report) = valid(|| {
        let before = instance.total("messages");
        let options = ["--duration", "2s", "--keep-alive"];
        let running = Running::start(&mut cclient(&instance, 2, "100", &options));
        until("some are answered", || instance.total("messages") > before + 5);
        for pid in instance.worker_pids() {
            instance.signal_child(pid, Signal::SIGSTOP);
        }
        let_pass(still);
        for pid in instance.worker_pids() {
            instance.signal_child(pid, Signal::SIGCONT);
        }
        running.finish()
    });
    outcome.assert_succeeded();
    assert_eq!(report["requests"], 200, "{report}");
    // Some 70 were due while nobody answered. A closed model would have had two of them wait.
    assert!(number(&report, "/waited") >= 35, "{report}");
    assert!(number(&report, "/latency_us/p90") >= 100_000, "{report}");
    assert!(number(&report, "/latency_us/max") >= 600_000, "{report}");
    assert!(number(&report, "/slip_us/max") >= 500_000, "{report}");
    instance.books_agree();
    instance.stop();
}

#[test]
fn a_generator_that_is_held_up_itself_refuses_its_run() {
    let place = Place::new();
    let instance = place.instance().workers(4).start();
    let (hdr, plot) = (place.write("latency.hgrm", "of an earlier run"), place.file("latency.svg"));
    let mut command = cclient(&instance, 4, "200", &["--duration", "2s"]);
    let running = Running::start(command.arg("--hdr").arg(&hdr).arg("--plot").arg(&plot));
    until("some are answered", || instance.total("messages") > 5);
    let generator = Pid::from_raw(running.pid());
    kill(generator, Signal::SIGSTOP).unwrap();
    let_pass(Duration::from_millis(500));
    kill(generator, Signal::SIGCONT).unwrap();
    let outcome = running.finish();
    outcome.assert_failed(1, &["not valid", "the generator itself was saturated", "it was held up"]);
    let report = report(&outcome);
    assert_eq!(
        (&report["valid"], &report["requests"], &report["errors"]),
        (&false.into(), &400.into(), &0.into())
    );
    assert!(number(&report, "/late") >= 50, "{report}");
    // Nobody is to find latencies of it.
    assert_eq!(fs::read_to_string(&hdr).unwrap(), "of an earlier run");
    assert!(!plot.exists());
    instance.books_agree();
    instance.stop();
}

#[test]
fn a_request_whose_time_is_up_before_it_could_be_sent_is_not() {
    let place = Place::new();
    let instance = place.instance().workers(1).args(&["--latency", "300ms"]).start();
    let options = ["--requests", "40", "--timeout", "1s", "--keep-alive"];
    let outcome = run(&mut cclient(&instance, 1, "100", &options));
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    outcome.assert_no_panic();
    let report = report(&outcome);
    assert_eq!(number(&report, "/requests") + number(&report, "/errors"), 40, "{report}");
    let unsent = number(&report, "/errors_by_kind/not sent in time");
    assert!(unsent >= 15, "{report}");
    let messages = instance.books_agree().into_iter().map(|record| record.message).collect::<HashSet<_>>();
    assert!(messages.len() as u64 <= 40 - unsent, "what is not sent cannot be recorded: {report}");
    instance.stop();
}

#[test]
fn a_kept_connection_that_the_server_closed_meanwhile_is_replaced() {
    let place = Place::new();
    let instance = place.instance().workers(2).args(&["--read-timeout", "100ms"]).start();
    let (outcome, report) =
        valid(|| run(&mut cclient(&instance, 1, "2", &["--requests", "4", "--keep-alive"])));
    outcome.assert_succeeded();
    assert_eq!(report["requests"], 4, "{report}");
    let closed = |status: &Value| status["totals"]["connections"].as_u64() >= Some(4);
    instance.wait_for_status("a connection each", closed);
    instance.stop();
}
