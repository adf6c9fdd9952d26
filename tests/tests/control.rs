//! The control socket and peers that do not keep to the rules: the instance goes on, and others are answered.

use std::os::fd::{AsRawFd, OwnedFd};

use common::sys::channel::{Channel, Received};
use common::sys::transport::{Stream, Transport as _, receive_within};
use common::wire::control::{Access, Order, Report, Request, Response, decode, encode};
use holdfast_tests::machine::{allow_descriptors, is_root, skip};
use holdfast_tests::{Instance, Place};
use nix::sys::socket::{
    self, AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, sendmsg,
};

/// Connects as any program may that finds the socket.
fn visit(place: &Place) -> nix::Result<OwnedFd> {
    let visitor = socket::socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect(visitor.as_raw_fd(), &UnixAddr::new(&place.run_dir().join("control.sock"))?)?;
    Ok(visitor)
}

fn try_send(visitor: &OwnedFd, frame: &[u8]) -> bool {
    send(visitor.as_raw_fd(), frame, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT).is_ok()
}

/// It serves, answers, and stops as any other.
#[track_caller]
fn end(instance: Instance) {
    instance.say("served");
    assert_eq!(instance.status()["state"], "running");
    instance.books_agree();
    assert_eq!(instance.total("crashes"), 0);
    instance.stop();
}

#[test]
fn garbage_ends_only_its_own_connection() {
    let place = Place::new();
    let instance = place.start();
    let mut number = 1_u64;
    let mut random = move || {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (number >> 33) as u32
    };
    for round in 0..300 {
        let visitor = visit(&place).expect("anybody of this user may connect");
        let length = 1 + random() as usize % [4, 100, 10_000, 48 * 1024][round % 4];
        // Beginning with 0xff, so that no request comes about by chance.
        let frame: Vec<u8> = std::iter::once(0xff).chain((1..length).map(|_| random() as u8)).collect();
        try_send(&visitor, &frame);
    }
    end(instance);
}

#[test]
fn frames_that_are_not_requests_end_only_their_own_connection() {
    let place = Place::new();
    let instance = place.start();
    let mut frames: Vec<Vec<u8>> = vec![
        vec![],
        vec![0; 48 * 1024 + 1],
        vec![0; 100 * 1024],
        encode(&Order::SealAll).unwrap(),
        encode(&Order::Repair(vec![])).unwrap(),
        encode(&Report::Failed("x".repeat(1000))).unwrap(),
        encode(&Response::Refused("no".to_owned())).unwrap(),
    ];
    // A request that goes on after its end, and ones that say that they are longer than they are.
    frames.push([encode(&Request::Status).unwrap(), vec![0]].concat());
    frames.extend((4..=0xff_u8).map(|variant| vec![variant, 0xfd, 0xff, 0xff, 0xff, 0xff]));
    for frame in frames {
        let visitor = visit(&place).expect("anybody of this user may connect");
        try_send(&visitor, &frame);
    }
    end(instance);
}

#[test]
fn descriptors_that_nobody_asked_for_are_closed() {
    let place = Place::new();
    let instance = place.start();
    let open = || std::fs::read_dir(format!("/proc/{}/fd", instance.pid())).unwrap().count();
    let before = open();
    for many in [1, 10, 80, 200] {
        for frame in [encode(&Request::Status).unwrap(), vec![0xff; 10]] {
            let visitor = visit(&place).expect("anybody of this user may connect");
            let gifts = vec![visitor.as_raw_fd(); many];
            let rights = [ControlMessage::ScmRights(&gifts)];
            let parts = [std::io::IoSlice::new(&frame)];
            let _ = sendmsg::<()>(visitor.as_raw_fd(), &parts, &rights, MsgFlags::MSG_NOSIGNAL, None);
        }
    }
    holdfast_tests::until("none is kept", || open() <= before);
    end(instance);
}

#[test]
fn who_never_reads_its_answers_is_let_go() {
    let place = Place::new();
    let instance = place.start();
    let deaf = visit(&place).expect("anybody of this user may connect");
    let request = encode(&Request::Status).unwrap();
    holdfast_tests::until("the instance has had enough", || {
        let sent = send(deaf.as_raw_fd(), &request, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT);
        matches!(sent, Err(nix::errno::Errno::EPIPE | nix::errno::Errno::ECONNRESET))
    });
    end(instance);
}

#[test]
fn many_idle_connections_keep_nobody_from_asking() {
    allow_descriptors(1000);
    let place = Place::new();
    let instance = place.start();
    let idle: Vec<_> = (0..300).map_while(|_| visit(&place).ok()).collect();
    assert!(idle.len() > 200);
    end(instance);
    // They are told by the end of their connection.
    let mut byte = [0];
    for visitor in idle {
        assert!(!matches!(recv(visitor.as_raw_fd(), &mut byte, MsgFlags::empty()), Ok(1..)));
    }
}

#[test]
fn who_leaves_before_the_answer_harms_nobody() {
    let place = Place::new();
    let instance = place.start();
    for request in [Request::Status, Request::Scale(4), Request::Reload, Request::Reload] {
        for _ in 0..20 {
            let visitor = visit(&place).expect("anybody of this user may connect");
            assert!(try_send(&visitor, &encode(&request).unwrap()));
        }
    }
    instance.wait_for_rest();
    end(instance);
}

#[test]
fn many_may_stop_it_at_once() {
    let place = Place::new();
    let instance = place.start();
    let stops: Vec<_> = (0..10)
        .map(|_| {
            let mut stop = holdfast_tests::place::program("supervisor");
            holdfast_tests::outcome::Running::start(stop.args(["stop", "--run-dir"]).arg(place.run_dir()))
        })
        .collect();
    let mut obeyed = 0;
    for stop in stops {
        let outcome = stop.finish();
        match outcome.code() {
            Some(0) => obeyed += 1,
            _ => drop(outcome.assert_failed(1, &[]).to_string()),
        }
    }
    assert!(obeyed >= 1);
    instance.finish().assert_succeeded();
}

#[test]
fn who_is_somebody_else_is_not_let_in() {
    if !is_root() {
        return skip("a control socket for others", "not the superuser");
    }
    let place = Place::new();
    let instance = place.start();
    // Even where the directory let them through.
    let supervisor = holdfast_tests::programs::path("supervisor");
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&supervisor);
    command.args(["stop", "--run-dir"]).arg(place.run_dir());
    let outcome = holdfast_tests::outcome::run(&mut command);
    assert_ne!(outcome.code(), Some(0), "{outcome}");
    end(instance);
}

fn ask(channel: &Channel, request: &Request) -> Option<Response> {
    channel.try_send(&encode(request).unwrap(), &[]).ok()?;
    match receive_within(channel, holdfast_tests::DEADLINE).unwrap() {
        Received::Frame(frame, _) => Some(decode(&frame).unwrap()),
        _ => None,
    }
}

#[test]
fn a_slot_has_one_connection_and_a_connection_one_slot() {
    let place = Place::new();
    let instance = place.start();
    let visit = || Channel::from_descriptor(visit(&place).expect("anybody of this user may connect"));
    let (first, second, third) = (visit(), visit(), visit());
    let join = |channel: &Channel| match ask(channel, &Request::Attach(Access::Write)) {
        Some(Response::Joined(membership)) => membership,
        other => panic!("{other:?}"),
    };
    let (mine, other) = (join(&first), join(&second));
    let again = ask(&third, &Request::Rejoin(mine));
    assert!(matches!(again, Some(Response::Joined(membership)) if membership == mine), "{again:?}");
    let former = receive_within(&first, holdfast_tests::DEADLINE);
    assert!(matches!(former, Ok(Received::Closed)), "the former connection is over: {former:?}");
    for channel in [&second, &third] {
        let wanted = if std::ptr::eq(channel, &second) { mine } else { other };
        let answer = ask(channel, &Request::Rejoin(wanted));
        assert!(
            matches!(&answer, Some(Response::Refused(why)) if why.contains("has a slot already")),
            "{answer:?}"
        );
    }
    drop((first, second, third));
    end(instance);
}

/// An instance that lets itself be asked over the network, and where.
fn remote(place: &Place, policy: &str) -> (Instance, String) {
    let policy = place.write("policy.toml", policy);
    let port = holdfast_tests::machine::free_port();
    let address = format!("tcp:127.0.0.1:{port}");
    let instance = place.instance().args(&["--control-listen", &address]).arg("--policy").arg(policy).start();
    (instance, address)
}

fn afar(command: &str, address: &str, arguments: &[&str]) -> holdfast_tests::Outcome {
    let mut supervisor = holdfast_tests::place::program("supervisor");
    holdfast_tests::outcome::run(supervisor.arg(command).args(["--connect", address]).args(arguments))
}

#[test]
fn over_the_network_it_can_be_asked_and_commanded() {
    let place = Place::new();
    let (instance, address) = remote(&place, "remote = 'control'\n");
    instance.say("served");
    let outcome = afar("status", &address, &["--json"]);
    outcome.assert_succeeded();
    let status: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((&status["totals"]["messages"], &status["workers"]["live"]), (&1.into(), &4.into()));
    assert_eq!(status["users_complete"], false);
    afar("scale", &address, &["5"]).assert_succeeded();
    afar("reload", &address, &[]).assert_succeeded();
    instance.wait_for_status("there are five", |status| status["workers"]["live"] == 5);
    afar("stop", &address, &[]).assert_succeeded();
    instance.finish().assert_succeeded();
    afar("status", &address, &[]).assert_failed(1, &["cannot reach an instance"]);
}

#[test]
fn over_the_network_nobody_may_more_than_the_policy_says() {
    let place = Place::new();
    let (instance, address) = remote(&place, "remote = 'read'\n");
    afar("status", &address, &[]).assert_succeeded();
    for command in ["stop", "reload"] {
        afar(command, &address, &[]).assert_failed(1, &["may only read"]);
    }
    // Nor is nonsense of any use, or a share in the region.
    let to = address.strip_prefix("tcp:").unwrap();
    for bytes in [&[0xff; 300][..], &[0, 0, 0, 0], &[0xff, 0xff, 0, 0], b"GET / HTTP/1.1\r\n\r\n"] {
        let mut visitor = std::net::TcpStream::connect(to).unwrap();
        std::io::Write::write_all(&mut visitor, bytes).unwrap();
    }
    for access in [Access::Read, Access::Write] {
        let stream = Stream::connect(&[to.parse().unwrap()], holdfast_tests::DEADLINE).unwrap();
        stream.try_send(&encode(&Request::Attach(access)).unwrap(), &[]).unwrap();
        let answer = receive_within(&stream, holdfast_tests::DEADLINE).unwrap();
        let Received::Frame(frame, _) = answer else { panic!("{answer:?}") };
        assert!(matches!(decode(&frame).unwrap(), Response::Refused(_)));
    }
    end(instance);
    let (instance, address) = remote(&place, "");
    afar("status", &address, &[]).assert_failed(1, &["may not join here"]);
    end(instance);
}
