//! Starting on demand: whoever asks is given the port of the one daemon, which comes and goes by itself.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::places::START_LOCK;
use common::sys::file::{Lock, try_lock};
use holdfast_tests::outcome::{Running, run};
use holdfast_tests::place::program;
use holdfast_tests::processes::{Process, users_of};
use holdfast_tests::{Connection, DEADLINE, Outcome, Place, eventually, programs, until};

mod owners;

mod options;

mod deaths;

/// `acquired` for a place, whose daemon lives for so long without connections.
fn asking(place: &Place, idle: &str) -> Command {
    let mut command = program("acquired");
    command.arg("-l").arg(place.file("log")).args(["--idle", idle]).arg("--run-dir").arg(place.run_dir());
    for_a_small_daemon(command, place)
}

/// As [`asking`], for at most so long.
fn asking_within(place: &Place, timeout: &str) -> Command {
    let mut command = program("acquired");
    command
        .args(["--timeout", timeout])
        .arg("-l")
        .arg(place.file("log"))
        .arg("--run-dir")
        .arg(place.run_dir());
    for_a_small_daemon(command, place)
}

/// With options for the supervisor, so that it starts in no time.
fn for_a_small_daemon(mut command: Command, place: &Place) -> Command {
    command.args([
        "--",
        "--region-size",
        "4MiB",
        "--max-workers",
        "20",
        "--min-workers",
        "2",
        "--min-spare",
        "2",
    ]);
    command.arg("--spool-dir").arg(place.spool_dir());
    command
}

#[track_caller]
fn port(outcome: &Outcome) -> u16 {
    outcome.assert_succeeded();
    let line = outcome.stdout.strip_suffix('\n').unwrap_or_else(|| panic!("no line: {outcome}"));
    line.parse().unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

#[track_caller]
fn acquire(place: &Place) -> u16 {
    port(&run(&mut asking(place, "60s")))
}

#[track_caller]
fn greet(port: u16) {
    let mut connection = Connection::to(&format!("tcp:127.0.0.1:{port}"));
    connection.send("print\n");
    assert_eq!(connection.line(), "hello world");
}

fn supervisors(place: &Place) -> Vec<Process> {
    users_of(&place.run_dir()).into_iter().filter(|process| process.name == "supervisor").collect()
}

/// The one daemon: whoever has put it into the background lives a moment longer than its port is known.
#[track_caller]
fn the_daemon(place: &Place) -> Process {
    eventually(DEADLINE, "there is one daemon", || {
        let mut found = supervisors(place);
        if found.len() == 1 { Ok(found.remove(0)) } else { Err(format!("{found:?}")) }
    })
}

#[track_caller]
fn stop(place: &Place) {
    place.command("stop", &[]).assert_succeeded();
    nobody_is_left(place);
}

#[track_caller]
fn nobody_is_left(place: &Place) {
    until("every process is gone", || users_of(&place.run_dir()).is_empty());
}

/// Ends what a failed test has left, whatever it was.
struct CleanUp<'a>(&'a Place);

impl Drop for CleanUp<'_> {
    fn drop(&mut self) {
        users_of(&self.0.run_dir()).iter().for_each(Process::kill);
    }
}

#[test]
fn one_daemon_serves_whoever_asks_and_goes_when_nobody_does() {
    let place = Place::new();
    let _clean_up = CleanUp(&place);
    let first = port(&run(&mut asking(&place, "1s")));
    greet(first);
    the_daemon(&place);
    for _ in 0..3 {
        assert_eq!(port(&run(&mut asking(&place, "1s"))), first);
        greet(first);
    }
    nobody_is_left(&place);
    // The next one needs no clean-up.
    greet(port(&run(&mut asking(&place, "1s"))));
    nobody_is_left(&place);
    let log = std::fs::read_to_string(place.file("log")).unwrap();
    assert!(log.contains("nobody has needed this instance"), "{log}");
}

/// How many ask at once.
const FRONT_ENDS: usize = 1000;

#[test]
fn any_number_at_once_get_the_same_port() {
    let place = Place::new();
    let _clean_up = CleanUp(&place);
    let (ports, complaints) = (place.file("ports"), place.file("complaints"));
    let append = |path: &Path| File::options().append(true).create(true).open(path).unwrap();
    // As one that is about to start a daemon has it: nobody gets on before all of them are there.
    std::fs::DirBuilder::new().mode(0o700).create(place.run_dir()).unwrap();
    let lock = File::create(place.run_dir().join(START_LOCK)).unwrap();
    assert!(try_lock(&lock, Lock::Exclusive).unwrap());
    let mut front_ends: Vec<Child> = (0..FRONT_ENDS)
        .map(|_| asking(&place, "60s").stdout(append(&ports)).stderr(append(&complaints)).spawn().unwrap())
        .collect();
    assert!(front_ends.iter_mut().all(|front_end| front_end.try_wait().unwrap().is_none()), "all live");
    drop(lock);
    let failed =
        front_ends.iter_mut().map(|front_end| front_end.wait().unwrap().success()).filter(|ok| !ok).count();
    assert_eq!(std::fs::read_to_string(complaints).unwrap(), "", "{failed} failed");
    let text = std::fs::read_to_string(ports).unwrap();
    let ports: Vec<&str> = text.lines().collect();
    assert!(ports.len() == FRONT_ENDS && ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    the_daemon(&place);
    greet(ports[0].parse().unwrap());
    stop(&place);
}

#[test]
fn an_instance_that_cannot_start_is_told_with_its_code() {
    let place = Place::new();
    let mut command = asking(&place, "60s");
    let outcome = run(command.args(["--users", "/no/such/file"]));
    outcome.assert_failed(2, &["/no/such/file"]);
    let outcome = run(program("acquired").args(["--idle", "soon"]));
    outcome.assert_failed(2, &["soon"]);
    nobody_is_left(&place);
}

#[test]
fn an_instance_without_a_port_is_no_use() {
    let place = Place::new();
    let socket = format!("unix:{}", place.file("socket").display());
    let instance = place.instance().listen(&socket).start();
    run(&mut asking(&place, "60s")).assert_failed(1, &["no port"]);
    instance.stop();
}

#[test]
fn the_seeds_client_asks_connects_and_shows_the_answer() {
    let place = Place::new();
    let _clean_up = CleanUp(&place);
    acquire(&place);
    let clients: Vec<Child> = (0..32)
        .map(|_| {
            let mut client = Command::new(programs::ask());
            client.arg(programs::path("acquired")).arg("--run-dir").arg(place.run_dir());
            client.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for client in clients {
        let output = client.wait_with_output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "Successfully read from daemon: hello world\n",
            "{output:?}"
        );
    }
    the_daemon(&place);
    stop(&place);
}
