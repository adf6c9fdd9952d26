//! Peers that are slow, silent, or do not read.

mod stage;

use std::io::{Read, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use common::slots::Activity;
use common::wire::control::Settings;
use stage::{DEADLINE, Script, Stage, receipt, until};

const LIMIT: Duration = Duration::from_millis(300);

fn impatient() -> Script {
    Script { settings: Settings { read_timeout: LIMIT, ..Settings::default() }, ..Script::default() }
}

fn is_idle(stage: &Stage) -> bool {
    stage.slot(0).activity.load(Relaxed) == Activity::Idle as u32
}

#[test]
fn a_connection_that_says_nothing_is_ended() {
    let stage = impatient().stage();
    let began = Instant::now();
    let mut client = stage.connect();
    assert_eq!(client.line(), "error timeout: no request came within 300ms");
    assert!(client.at_end());
    assert!(began.elapsed() >= LIMIT);
    let mut client = stage.connect();
    assert_eq!(client.ask(b"print\n"), "hello world");
    assert!(client.line().starts_with("error timeout: "), "also after a request");
}

#[test]
fn a_unix_connection_that_says_nothing_is_ended() {
    let stage = Script { unix: true, ..impatient() }.stage();
    assert!(stage.connect_unix().line().starts_with("error timeout: "));
}

#[test]
fn an_incomplete_line_has_a_deadline() {
    let stage = impatient().stage();
    let mut client = stage.connect();
    assert_eq!(client.ask(b"print\narijort:the rest nev"), "hello world");
    assert_eq!(client.line(), "error timeout: the request did not end within 300ms");
    assert!(client.at_end());
    assert_eq!(stage.region.totals().messages, 0);
    assert_eq!(stage.region.totals().errors, 1);
}

#[test]
fn drips_do_not_put_the_deadline_off() {
    let stage = impatient().stage();
    let mut client = stage.connect();
    client.stream.set_read_timeout(Some(LIMIT / 10)).unwrap();
    let began = Instant::now();
    let mut answer = Vec::new();
    // A drip, then a look for an answer that lasts a tenth of the limit: far less than the limit between two drips.
    while answer.is_empty() {
        assert!(began.elapsed() < DEADLINE, "it drips for ever");
        let _ = client.stream.write_all(b"x");
        let mut part = [0; 1000];
        let count = client.stream.read(&mut part).unwrap_or(0);
        answer.extend_from_slice(&part[..count]);
    }
    assert!(String::from_utf8(answer).unwrap().starts_with("error timeout: "));
    assert!(began.elapsed() >= LIMIT);
}

#[test]
fn a_line_in_time_gives_the_next_one_its_whole_time() {
    let limit = Duration::from_secs(2);
    let stage =
        Script { settings: Settings { read_timeout: limit, ..Settings::default() }, ..Script::default() }
            .stage();
    let mut client = stage.connect();
    client.stream.set_read_timeout(Some(limit / 4)).unwrap();
    for part in ["arij", "ort", ":in ti"] {
        client.send(part.as_bytes());
        // Nothing comes, and a quarter of the limit passes.
        assert!(client.stream.read(&mut [0]).is_err());
    }
    client.stream.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(client.ask(b"me\n"), receipt(stage.workers[0], "arijort", "in time"));
    let began = Instant::now();
    assert!(client.line().starts_with("error timeout: "));
    assert!(began.elapsed() >= limit * 9 / 10, "{:?}", began.elapsed());
}

#[test]
fn a_peer_that_does_not_read_holds_nobody_up() {
    let stage = impatient().stage();
    let mut client = stage.connect();
    client.stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    let requests = "print\n".repeat(100_000);
    let began = Instant::now();
    while client.stream.write_all(requests.as_bytes()).is_ok() {
        assert!(began.elapsed() < DEADLINE, "the replies go somewhere");
    }
    until("the worker has given up", || is_idle(&stage));
    assert_eq!(stage.connect().ask(b"print\n"), "hello world");
}

#[test]
fn a_peer_that_reads_in_drips_holds_nobody_up_for_long() {
    let stage = impatient().stage();
    let mut client = stage.connect();
    client.stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    let requests = "print\n".repeat(100_000);
    while client.stream.write_all(requests.as_bytes()).is_ok() {}
    let began = Instant::now();
    while !is_idle(&stage) {
        assert!(began.elapsed() < DEADLINE, "it reads for ever");
        let _ = client.stream.read(&mut [0; 64]);
        std::thread::sleep(LIMIT / 20);
    }
}

#[test]
fn short_of_descriptors_a_worker_waits_without_spinning_and_goes_on_later() {
    let stage = Script { listeners: 2, ..impatient() }.stage();
    limit_descriptors(&stage, 3);
    go_short_and_recover(&stage);
}

#[test]
fn short_of_descriptors_a_worker_with_one_listener_does_the_same() {
    let stage = impatient().stage();
    limit_descriptors(&stage, 3);
    // Who waits in accept has the descriptor for the next connection already.
    assert_eq!(stage.connect().ask(b"print\n"), "hello world");
    go_short_and_recover(&stage);
}

fn limit_descriptors(stage: &Stage, number: u64) {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let pid = Pid::from_raw(stage.workers[0].0).unwrap();
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(number), maximum: Some(1024) }).unwrap();
}

fn go_short_and_recover(stage: &Stage) {
    let (served, before) = (stage.region.totals().connections, stage.cpu_time(0));
    let mut client = stage.connect();
    client.send(b"print\n");
    std::thread::sleep(Duration::from_millis(500));
    let spent = stage.cpu_time(0) - before;
    assert!(spent < Duration::from_millis(100), "{spent:?}");
    assert_eq!(stage.region.totals().connections, served);
    limit_descriptors(stage, 1024);
    assert_eq!(client.line(), "hello world");
}
