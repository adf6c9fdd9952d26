//! What workers write to their stderr: the first of each kind comes, whatever a service does cannot flood the log, and
//! nobody waits for it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use holdfast_tests::place::Starting;
use holdfast_tests::{Instance, Place, programs, until};
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// What a log may have of one kind, and in all, since `began`; the supervisor says some things itself.
fn bounds(began: Instant) -> [usize; 2] {
    let windows = began.elapsed().as_secs() as usize / 10 + 2;
    [20, 400 + 100].map(|lines| windows * lines)
}

fn loud(place: &Place) -> Starting {
    place.instance().env("RUST_BACKTRACE", "0").arg("--worker").arg(programs::loud())
}

fn lines_with(log: &str, words: &str) -> usize {
    log.lines().filter(|line| line.contains(words)).count()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[track_caller]
fn panics(instance: &Instance, words: &str) {
    let mut connection = instance.connect();
    connection.send(format!("panic {words}\n"));
    connection.expect_end();
}

#[track_caller]
fn said(instance: &Instance, request: &str) {
    assert_eq!(instance.connect().ask(request), "said", "to {request}");
}

/// Says it until it is in the log: what comes too fast is not listened to for the rest of a second.
#[track_caller]
fn heard(instance: &Instance, words: &str) {
    until("it is listened to", || {
        said(instance, &format!("say 1 {words}"));
        instance.stderr().contains(words)
    });
}

#[test]
fn an_instance_whose_own_stderr_nobody_reads_goes_on() {
    let place = Place::new();
    let fifo = place.file("fifo");
    mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let mut end = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
    while end.write(&[b'.'; 4096]).is_ok() {}
    let starting = place.instance().args(&["--log-level", "debug"]);
    let instance = starting.after(&format!("exec 2>{}", fifo.display())).start();
    for crashed in 1..=3 {
        instance.say("served");
        instance.kill_child(instance.worker_pids()[0]);
        instance.wait_for_status("it is repaired and replaced", |status| {
            status["totals"]["recoveries"] == crashed && status["workers"]["idle"] == 4
        });
    }
    // Once somebody reads, it says what is missing.
    let mut said = vec![0; 1 << 20];
    assert!(end.read(&mut said).unwrap() >= 4096);
    let mut heard = String::new();
    until("it says what is missing", || {
        instance.signal(Signal::SIGUSR1);
        let read = end.read(&mut said).unwrap_or(0);
        heard += &String::from_utf8_lossy(&said[..read]);
        heard.contains("lines are missing here: nobody read them")
    });
    instance.stop();
}

#[test]
fn a_service_that_panics_at_each_request_says_why_and_floods_no_log() {
    let place = Place::new();
    let instance = loud(&place).start();
    let began = Instant::now();
    (0..300).for_each(|_| panics(&instance, "the arm has come off"));
    panics(&instance, "this one is another");
    instance.wait_for_log("this one is another");
    instance.wait_for_log("not shown");
    let (log, [of_a_kind, in_all]) = (instance.stderr(), bounds(began));
    assert!(log.contains("panicked at worker/examples/loud.rs"), "{log}");
    let shown = lines_with(&log, "the arm has come off");
    assert!((1..=of_a_kind).contains(&shown), "{shown} of 300\n{log}");
    assert!(log.lines().count() < in_all, "{}", log.lines().count());
    instance.say("served all the same");
    instance.wait_for_status("they are repaired", |status| status["totals"]["crashes"] == 301);
    assert_eq!(instance.books_agree().len(), 1);
    instance.command("stop", &[]).assert_succeeded();
}

/// Each of them is 30 lines and more.
#[test]
fn however_much_is_said_again_and_again_something_new_is_shown_beside_it() {
    let place = Place::new();
    let instance = loud(&place).env("RUST_BACKTRACE", "1").start();
    (0..12).for_each(|_| panics(&instance, "the arm has come off"));
    panics(&instance, "this one is another");
    instance.wait_for_log("this one is another");
    assert!(instance.stderr().contains("stack backtrace"));
    instance.command("stop", &[]).assert_succeeded();
}

#[test]
fn a_service_that_writes_without_end_waits_for_nobody_and_floods_no_log() {
    let place = Place::new();
    let instance = loud(&place).start();
    said(&instance, "say 3 first words");
    instance.wait_for_log("first words 2");
    let began = Instant::now();
    // Ever the same kind, as many kinds as there are lines, and no lines at all; each while it is listened to.
    said(&instance, "say 100000 and on and on");
    heard(&instance, "after so many lines");
    for number in 0..300 {
        let letters: String = format!("{number:b}").replace('0', "a").replace('1', "b");
        said(&instance, &format!("say 1 kind {letters}"));
    }
    said(&instance, "pour 20000");
    assert!(began.elapsed() < Duration::from_secs(120), "it took {:?}", began.elapsed());
    heard(&instance, "after all that");
    instance.wait_for_log("not shown");
    let (log, [of_a_kind, in_all]) = (instance.stderr(), bounds(began));
    for (kind, most) in [("kind ", 400), ("and on and on", of_a_kind)] {
        let shown = lines_with(&log, kind);
        assert!((1..=most).contains(&shown), "{kind}: {shown}\n{log}");
    }
    assert!(log.lines().count() < in_all && log.len() < 1 << 20, "{} bytes", log.len());
    instance.say("served all the same");
    assert_eq!(instance.books_agree().len(), 1);
    instance.stop();
}

#[test]
fn what_workers_write_is_in_the_log_that_was_opened_again() {
    let place = Place::new();
    let (log, before) = (place.file("log"), place.file("log.1"));
    let instance = loud(&place).arg("--log").arg(&log).start();
    said(&instance, "say 1 before");
    until("it is in the log", || read(&log).contains("before 0"));
    std::fs::rename(&log, &before).unwrap();
    instance.signal(Signal::SIGUSR1);
    until("there is another", || read(&log).contains("opened again"));
    said(&instance, "say 1 behind");
    until("it is in the other", || read(&log).contains("behind 0"));
    assert!(!read(&before).contains("behind"));
    panics(&instance, "at the very end");
    instance.command("stop", &["--fast"]).assert_succeeded();
    assert!(read(&log).contains("at the very end"), "{}", read(&log));
}

#[test]
fn what_a_worker_writes_is_no_command_to_a_terminal_and_no_line_of_anothers() {
    let place = Place::new();
    let instance = loud(&place).start();
    said(&instance, "say 1 red \u{1b}[31m and a bell \u{7} and a tab \t ü");
    instance.wait_for_log("and a bell");
    let log = instance.stderr();
    let line = log.lines().find(|line| line.contains("and a bell")).unwrap();
    assert!(line.ends_with("red \\u{1b}[31m and a bell \\u{7} and a tab \t ü 0"), "{line:?}");
    instance.stop();
}

/// What a dead supervisor's workers had written last is lost with it; the next ones are heard.
#[test]
fn another_life_hears_its_workers() {
    let place = Place::new();
    let instance = loud(&place).start();
    said(&instance, "say 1 one");
    instance.wait_for_log("one 0");
    instance.kill9();
    let instance = loud(&place).start();
    said(&instance, "say 1 two");
    instance.wait_for_log("two 0");
    assert_eq!(lines_with(&instance.stderr(), "one 0"), 0);
    instance.command("reload", &[]).assert_succeeded();
    said(&instance, "say 1 three");
    instance.wait_for_log("three 0");
    instance.stop();
}
