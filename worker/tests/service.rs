//! The line service's own affairs, and a service that is not ours.

mod stage;

use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use common::wire::control::Settings;
use stage::{DEADLINE, Script, receipt, until};

fn script(settings: Settings) -> Script {
    Script { settings: Settings { read_timeout: DEADLINE, ..settings }, ..Script::default() }
}

#[test]
fn users_come_from_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let users = directory.path().join("users");
    std::fs::write(&users, "# staff\nanna\n\nzoë # of accounting\n").unwrap();
    let stage = script(Settings { users: Some(users), ..Settings::default() }).stage();
    let mut client = stage.connect();
    assert_eq!(client.ask("zoë:hello\n".as_bytes()), receipt(stage.workers[0], "zoë", "hello"));
    assert!(client.ask(b"arijort:hello\n").starts_with("error unauthorized: "), "the built-in ones are gone");
    assert!(client.ask(b":hello\n").starts_with("error unauthorized: "));
}

#[test]
fn latency_is_imitated_for_messages_alone_and_holds_no_finished_reply_back() {
    let latency = Duration::from_millis(500);
    let stage = script(Settings { latency, ..Settings::default() }).stage();
    let mut client = stage.connect();
    let began = Instant::now();
    assert_eq!(client.ask(b"print\n"), "hello world");
    client.send(b"arijort:one\narijort:two\narijort:three\n");
    assert_eq!(client.line(), receipt(stage.workers[0], "arijort", "one"));
    assert!(began.elapsed() >= latency);
    assert!(stage.region.totals().messages < 3, "the first reply does not wait for the last message");
    client.line();
    client.line();
    assert!(began.elapsed() >= latency * 3);
}

#[test]
fn the_access_log_has_the_seeds_lines() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let stage = script(Settings { access_log: Some(path.clone()), ..Settings::default() }).stage();
    let pid = stage.workers[0];
    assert!(!path.exists(), "opened with the first line");
    let mut client = stage.connect();
    client.ask(b"arijort:first\n");
    client.ask(b"nobody:refused\n");
    client.ask(b"print\n");
    client.ask(b"foobar:a\x1b\x07\rb\n");
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<(&str, &str)> = text.lines().map(|line| line.split_once(" -- ").unwrap()).collect();
    let said: Vec<&str> = lines.iter().map(|(_, said)| *said).collect();
    assert_eq!(
        said,
        [
            &format!("server {pid} recvd message \"first\" from user arijort")[..],
            &format!("completed req \"first\" on {pid} total reqs 1"),
            &format!("server {pid} recvd message \"a\\u{{1b}}\\u{{7}}\\rb\" from user foobar"),
            &format!("completed req \"a\\u{{1b}}\\u{{7}}\\rb\" on {pid} total reqs 2"),
        ]
    );
    for (time, _) in lines {
        let pattern: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(pattern, "0000.00.00 00:00:00.000000000");
    }
}

#[test]
fn the_access_log_is_opened_again_when_the_supervisor_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let (path, old) = (directory.path().join("access.log"), directory.path().join("access.log.1"));
    let stage = script(Settings { access_log: Some(path.clone()), ..Settings::default() }).stage();
    let mut client = stage.connect();
    client.ask(b"arijort:one\n");
    std::fs::rename(&path, &old).unwrap();
    client.ask(b"arijort:two\n");
    stage.region.header().supervision.log_epoch.fetch_add(1, SeqCst);
    client.ask(b"arijort:three\n");
    let lines = |path| std::fs::read_to_string(path).unwrap().lines().count();
    assert_eq!((lines(&old), lines(&path)), (4, 2));
}

#[test]
fn without_an_access_log_messages_are_served_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("no/such/directory/access.log");
    let stage = script(Settings { access_log: Some(path), ..Settings::default() }).stage();
    let mut client = stage.connect();
    for message in ["one", "two"] {
        let reply = client.ask(format!("arijort:{message}\n").as_bytes());
        assert_eq!(reply, receipt(stage.workers[0], "arijort", message));
    }
}

#[test]
fn a_full_spool_refuses_and_later_takes_again() {
    let stage = Script { spool_limit: 4096, ..Script::default() }.stage();
    let mut client = stage.connect();
    let mut recorded = 0;
    let refusal = loop {
        let reply = client.ask(b"arijort:some text that fills the journal\n");
        if reply.starts_with("error ") {
            break reply;
        }
        recorded += 1;
    };
    assert!(refusal.starts_with("error full: "), "{refusal}");
    assert!(recorded > 5, "{recorded}");
    assert_eq!((stage.messages().len(), stage.region.totals().messages), (recorded, recorded as u64));
    assert_eq!(stage.region.totals().errors, 1);
    assert!(stage.slot(0).holds_nothing());
    assert_eq!(client.ask(b"print\n"), "hello world", "the connection goes on");
    stage.region.header().journal.limit.store(1 << 20, SeqCst);
    assert_eq!(client.ask(b"arijort:room again\n"), receipt(stage.workers[0], "arijort", "room again"));
    assert_eq!(stage.messages().len(), recorded + 1);
}

#[test]
fn messages_of_many_workers_stand_whole_in_one_journal() {
    const WORKERS: usize = 8;
    const EACH: usize = 200;
    let stage = Script { workers: WORKERS as u32, ..Script::default() }.stage();
    let clients: Vec<_> = (0..WORKERS).map(|_| stage.connect()).collect();
    let threads: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(client, mut connection)| {
            std::thread::spawn(move || {
                for number in 0..EACH {
                    let reply = connection.ask(format!("arijort:{client}-{number}\n").as_bytes());
                    assert!(reply.contains(&format!("\"{client}-{number}\"")), "{reply}");
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let mut messages = stage.messages();
    messages.sort();
    messages.dedup();
    assert_eq!(messages.len(), WORKERS * EACH);
    let ids: std::collections::BTreeSet<_> =
        stage.records().iter().map(|record| record["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), WORKERS * EACH, "no id twice");
    until("the counters agree", || stage.region.totals().messages == (WORKERS * EACH) as u64);
}

/// Where cargo puts the examples: beside the directory of the tests.
fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is built by `cargo test` or `cargo build --examples`", path.display());
    path
}

#[test]
fn a_service_of_a_few_lines() {
    let stage = Script { program: example("shout"), ..Script::default() }.stage();
    let mut client = stage.connect();
    assert_eq!(client.ask("grüß dich: ja\n".as_bytes()), "GRÜSS DICH: JA");
    assert_eq!(client.ask(b"\xff\n"), "error malformed: speak UTF-8");
    assert_eq!(client.ask(b"\n"), "");
    assert_eq!(stage.messages(), ["grüß dich: ja", ""]);
    assert_eq!(stage.records()[0]["user"], "shout");
    assert_eq!(stage.region.totals().messages, 2);
}
