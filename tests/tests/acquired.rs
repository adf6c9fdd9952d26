//! Starting on demand: whoever asks is given the port of the one daemon, which comes and goes by itself.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::sys::channel::{Channel, Received};
use common::wire::control::{self, Listening, Request, Response};
use holdfast_tests::outcome::run;
use holdfast_tests::place::program;
use holdfast_tests::processes::{Process, users_of};
use holdfast_tests::{Connection, DEADLINE, Outcome, Place, eventually, programs, until};

/// `acquired` for a place, whose daemon lives for so long without connections.
fn asking(place: &Place, idle: &str) -> Command {
    let mut command = program("acquired");
    command.arg("-l").arg(place.file("log")).args(["--idle", idle]).arg("--run-dir").arg(place.run_dir());
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
    let daemon = supervisors(&place);
    assert_eq!(daemon.len(), 1, "{daemon:?}");
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

#[test]
fn any_number_at_once_get_the_same_port() {
    let place = Place::new();
    let _clean_up = CleanUp(&place);
    let front_ends: Vec<Child> = (0..100)
        .map(|_| asking(&place, "60s").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    let mut ports = BTreeSet::new();
    for front_end in front_ends {
        let output = front_end.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        ports.insert(String::from_utf8(output.stdout).unwrap());
    }
    assert_eq!(ports.len(), 1, "{ports:?}");
    assert_eq!(supervisors(&place).len(), 1);
    greet(ports.first().unwrap().trim().parse().unwrap());
    stop(&place);
}

#[test]
fn a_front_end_killed_at_any_moment_leaves_nothing_in_the_way() {
    let place = Place::new();
    let _clean_up = CleanUp(&place);
    for delay in (0..40).step_by(4) {
        let mut front_end =
            asking(&place, "60s").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let began = Instant::now();
        until("it has come some way", || began.elapsed() >= Duration::from_millis(delay));
        front_end.kill().unwrap();
        front_end.wait().unwrap();
        greet(acquire(&place));
        assert_eq!(supervisors(&place).len(), 1, "after {delay} ms");
        stop(&place);
    }
}

#[test]
fn a_daemon_killed_at_any_moment_is_followed_by_another() {
    let place = Place::new();
    let _clean_up = CleanUp(&place);
    greet(acquire(&place));
    for _ in 0..5 {
        supervisors(&place).iter().for_each(Process::kill);
        greet(acquire(&place));
    }
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
fn an_instance_of_another_version_is_not_taken_for_ours() {
    let place = Place::new();
    std::fs::create_dir_all(place.run_dir()).unwrap();
    let path = place.run_dir().join("control.sock");
    let listener = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Unix,
        nix::sys::socket::SockType::SeqPacket,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    nix::sys::socket::bind(listener.as_raw_fd(), &nix::sys::socket::UnixAddr::new(&path).unwrap()).unwrap();
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::MAXCONN).unwrap();
    let other = std::thread::spawn(move || {
        let accepted = nix::sys::socket::accept(listener.as_raw_fd()).unwrap();
        // SAFETY: accept has just given it to nobody else.
        let channel = Channel::from_descriptor(unsafe { OwnedFd::from_raw_fd(accepted) });
        let Received::Frame(frame, _) = channel.receive().unwrap() else { panic!("nothing was asked") };
        assert_eq!(control::decode::<Request>(&frame).unwrap(), Request::Touch);
        let listening =
            Listening { version: "77.0.0".to_owned(), addresses: vec!["tcp:127.0.0.1:1".to_owned()] };
        channel.send(&control::encode(&Response::Listening(listening)).unwrap(), &[]).unwrap();
    });
    run(&mut asking(&place, "60s")).assert_failed(1, &["77.0.0", "another --run-dir"]);
    other.join().unwrap();
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
    eventually(DEADLINE, "there is one daemon", || {
        let daemons = supervisors(&place);
        if daemons.len() == 1 { Ok(()) } else { Err(format!("{daemons:?}")) }
    });
    stop(&place);
}
