//! The protocol between the supervisor and a service manager: what it is told, and sockets that go to and fro. The
//! manager's end is a socket of the test's.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use holdfast_tests::place::Starting;
use holdfast_tests::{Connection, DEADLINE, Place, eventually};
use nix::sys::signal::Signal;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// Where a service manager listens.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

/// One word of the service's.
#[derive(Debug)]
struct Word {
    text: String,
    sockets: Vec<OwnedFd>,
}

impl Manager {
    fn at(place: &Place) -> Self {
        let path = place.file("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { socket, path }
    }

    fn hear(&self) -> Word {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let length = recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
            .expect("the service says something")
            .bytes;
        let mut sockets = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                sockets.extend(passed);
            }
        }
        Word { text: String::from_utf8_lossy(&bytes[..length]).into_owned(), sockets }
    }

    /// The next word that contains this.
    #[track_caller]
    fn hear_of(&self, what: &str) -> Word {
        eventually(DEADLINE, &format!("the service says {what}"), || {
            let word = self.hear();
            if word.text.contains(what) { Ok(word) } else { Err(word.text) }
        })
    }
}

/// A start as a service manager's, with a socket passed under this name.
fn passing(place: &Place, socket: impl Into<OwnedFd>, name: &str) -> Starting {
    let shell = format!("exec 3<&0 </dev/null && export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES={name}");
    place.instance().stdin(socket).after(&shell)
}

fn environment_of(pid: i32) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/environ")).unwrap()).into_owned()
}

#[test]
fn it_is_told_what_the_service_is_at() {
    let place = Place::new();
    let manager = Manager::at(&place);
    let starting = place.instance().env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "30000000");
    let instance = starting.start();
    let ready = manager.hear_of("READY=1");
    assert!(ready.text.contains("STATUS=Running with"), "{}", ready.text);
    manager.hear_of("WATCHDOG=1");
    manager.hear_of("WATCHDOG=1");
    instance.command("reload", &[]).assert_succeeded();
    let reloading = manager.hear_of("RELOADING=1");
    assert!(reloading.text.contains("MONOTONIC_USEC="), "{}", reloading.text);
    manager.hear_of("READY=1");
    instance.wait_for_rest();
    for pid in instance.worker_pids() {
        let environment = environment_of(pid);
        for variable in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS"] {
            assert!(!environment.contains(variable), "a worker has {variable}");
        }
    }
    instance.signal(Signal::SIGTERM);
    manager.hear_of("STOPPING=1");
    instance.finish().assert_succeeded();
}

#[test]
fn a_reload_that_fails_is_over_too() {
    let place = Place::new();
    let manager = Manager::at(&place);
    let config = place.write("config.toml", "grace = '1s'\n");
    let starting = place.instance().env("NOTIFY_SOCKET", &manager.path);
    let instance = starting.args(&["--config", config.to_str().unwrap()]).start();
    manager.hear_of("READY=1");
    place.write("config.toml", "grace = 'long'\n");
    instance.command("reload", &[]).assert_failed(1, &["long"]);
    manager.hear_of("RELOADING=1");
    let over = manager.hear_of("READY=1");
    assert!(over.text.contains("STATUS=") && over.text.contains("long"), "{}", over.text);
    instance.stop();
}

#[test]
fn sockets_that_are_passed_are_listened_on() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", listener.local_addr().unwrap());
    // Somebody waits already, before the service is there.
    let mut early = Connection::to(&address);
    let instance = passing(&place, listener, "holdfast.socket").without_listen().start();
    assert_eq!(instance.listen, [address]);
    early.say("arijort", "before you were there");
    instance.say("and after");
    assert_eq!(place.journal().len(), 2);
    instance.stop();
}

#[test]
fn whoever_waits_at_a_kept_socket_outlives_the_supervisor() {
    let place = Place::new();
    let manager = Manager::at(&place);
    let first = place.instance().env("NOTIFY_SOCKET", &manager.path).start();
    let kept = manager.hear_of("FDSTORE=1");
    assert!(kept.text.contains("FDNAME=holdfast-listen"), "{}", kept.text);
    let [socket] = <[OwnedFd; 1]>::try_from(kept.sockets).expect("one socket for one address");
    let address = first.listen[0].clone();
    first.kill9();
    let mut waiting = Connection::to(&address);
    let second = passing(&place, socket, "holdfast-listen").listen(&address).start();
    assert_eq!(second.listen, [address]);
    waiting.say("arijort", "while nobody was there");
    second.stop();
}

#[test]
fn every_socket_is_kept_under_a_name_of_its_own() {
    let place = Place::new();
    let manager = Manager::at(&place);
    let starting = place.instance().env("NOTIFY_SOCKET", &manager.path);
    let instance = starting.args(&["--metrics-listen", "tcp:127.0.0.1:0"]).start();
    let status = instance.status();
    for address in [&instance.listen[0], status["metrics_listen"][0].as_str().unwrap()] {
        let kept = manager.hear_of("FDSTORE=1");
        let name = format!("FDNAME=holdfast-listen-{}", address.replace(':', "_"));
        assert!(kept.text.contains(&name) && kept.sockets.len() == 1, "{kept:?}");
    }
    instance.stop();
}

#[test]
fn a_socket_that_nobody_wants_any_more_is_not_kept() {
    let place = Place::new();
    let manager = Manager::at(&place);
    let former = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("holdfast-listen-tcp_127.0.0.1_{}", former.local_addr().unwrap().port());
    let instance = passing(&place, former, &name).env("NOTIFY_SOCKET", &manager.path).start();
    let forgotten = manager.hear_of("FDSTOREREMOVE=1");
    assert!(forgotten.text.contains(&format!("FDNAME={name}")), "{}", forgotten.text);
    manager.hear_of("FDSTORE=1");
    instance.stop();
}

#[test]
fn a_program_that_takes_over_says_so() {
    let place = Place::new();
    let manager = Manager::at(&place);
    let starting = place.instance().env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "30000000");
    let instance = starting.start();
    manager.hear_of("READY=1");
    instance.signal(Signal::SIGUSR2);
    let reloading = manager.hear_of("RELOADING=1");
    assert!(reloading.text.contains("MONOTONIC_USEC="), "{}", reloading.text);
    let ready = manager.hear_of("READY=1");
    assert!(ready.text.contains("goes on where version"), "{}", ready.text);
    manager.hear_of("WATCHDOG=1");
    instance.stop();
}

#[test]
fn sockets_that_were_passed_are_listened_on_by_who_takes_over() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", listener.local_addr().unwrap());
    let instance = passing(&place, listener, "holdfast.socket").without_listen().start();
    for _ in 0..2 {
        instance.signal(Signal::SIGUSR2);
    }
    instance.wait_for_log("goes on where version");
    assert_eq!(instance.status()["listen"][0], address);
    instance.say("and after");
    instance.stop();
}

#[test]
fn sockets_of_no_use_are_one_sentence() {
    let place = Place::new();
    let unconnected = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    passing(&place, unconnected, "x").run().assert_failed(2, &["service manager passes is of no use"]);
    place.instance().after("export LISTEN_PID=$$ LISTEN_FDS=7000").run().assert_failed(2, &["LISTEN_FDS"]);
    // They are for another process.
    let instance = place.instance().env("LISTEN_PID", "1").env("LISTEN_FDS", "7000").start();
    instance.stop();
}
