//! What may come in on a connection, and what goes out.

mod stage;

use std::io::{Read, Write};

use common::limits::MAX_REQUEST;
use stage::{Script, receipt, stage, until};

#[test]
fn messages_are_recorded_and_acknowledged_in_order_on_one_connection() {
    let stage = stage();
    let pid = stage.workers[0];
    let mut client = stage.connect();
    for number in 0..20 {
        let (user, message) =
            (["arijort", "foobar"][number % 2], format!("message {number}: ünïcode\t\"quoted\""));
        let reply = client.ask(format!("{user}:{message}\n").as_bytes());
        assert_eq!(reply, receipt(pid, user, &message));
        assert_eq!(stage.messages().last(), Some(&message), "recorded before it is acknowledged");
    }
    let totals = stage.region.totals();
    assert_eq!((totals.connections, totals.messages, totals.errors), (1, 20, 0));
    assert_eq!(totals.bytes, stage.messages().iter().map(|message| message.len() as u64).sum::<u64>());
    let record = &stage.records()[3];
    assert_eq!((record["user"].as_str(), record["pid"].as_i64()), (Some("foobar"), Some(pid.0.into())));
}

#[test]
fn print_is_greeted_and_neither_journalled_nor_counted() {
    let stage = stage();
    let mut client = stage.connect();
    assert_eq!(client.ask(b"print\n"), "hello world");
    assert_eq!(client.ask(b"print\0"), "hello world");
    let totals = stage.region.totals();
    assert_eq!((totals.messages, totals.bytes, totals.errors), (0, 0, 0));
    assert!(stage.messages().is_empty());
}

#[test]
fn every_way_to_end_a_request() {
    let stage = stage();
    let mut client = stage.connect();
    for (sent, recorded) in [
        (&b"arijort:newline\n"[..], "newline"),
        (b"arijort:carriage return\r\n", "carriage return"),
        (b"arijort:two\r\r\n", "two\r"),
        (b"arijort:nul\0", "nul"),
        (b"\0\0\0arijort:after empty requests\0", "after empty requests"),
        (b"arijort:\n", ""),
        (b"arijort:a:b:c\n", "a:b:c"),
    ] {
        assert_eq!(client.ask(sent), receipt(stage.workers[0], "arijort", recorded));
        assert_eq!(stage.messages().last().map(String::as_str), Some(recorded));
    }
}

#[test]
fn what_is_no_request_is_refused_and_the_connection_goes_on() {
    let stage = stage();
    let mut client = stage.connect();
    let table = [
        (&b"nobody:hello\n"[..], "error unauthorized: "),
        (b":hello\n", "error unauthorized: "),
        (b"ARIJORT:hello\n", "error unauthorized: "),
        (b"arijort\x1b[31m:hello\n", "error unauthorized: "),
        (b"hello\n", "error malformed: "),
        (b"\n", "error malformed: "),
        (b"\r\n", "error malformed: "),
        (b"printing\n", "error malformed: "),
        (b"arijort:\xff\xfe\n", "error malformed: "),
        (b"\xc3(:x\0", "error malformed: "),
    ];
    for (sent, refusal) in table {
        let reply = client.ask(sent);
        assert!(reply.starts_with(refusal), "{reply:?} to {:?}", String::from_utf8_lossy(sent));
        assert!(!reply.contains(char::is_control), "{reply:?}");
    }
    assert_eq!(stage.region.totals().errors, table.len() as u64);
    assert_eq!(client.ask(b"arijort:still here\n"), receipt(stage.workers[0], "arijort", "still here"));
    assert_eq!(stage.messages(), ["still here"]);
}

#[test]
fn a_refusal_repeats_little_of_a_long_name() {
    let stage = stage();
    let name = "ü".repeat(20_000);
    let reply = stage.connect().ask(format!("{name}:hello\n").as_bytes());
    assert!(reply.starts_with("error unauthorized: ") && reply.len() < 300, "{} bytes", reply.len());
}

#[test]
fn the_longest_request_is_served_and_a_longer_one_ends_the_connection() {
    let stage = stage();
    let longest = "x".repeat(MAX_REQUEST - "arijort:".len());
    for end in ["\n", "\r\n", "\0"] {
        let reply = stage.connect().ask(format!("arijort:{longest}{end}").as_bytes());
        assert_eq!(reply, receipt(stage.workers[0], "arijort", &longest));
    }
    for end in ["x\n", "x\r\n", "x\0", "\r\0", "xx"] {
        let mut client = stage.connect();
        let reply = client.ask(format!("arijort:before\narijort:{longest}{end}").as_bytes());
        assert_eq!(reply, receipt(stage.workers[0], "arijort", "before"));
        assert!(client.line().starts_with("error too-long: "), "{end:?}");
        assert!(client.at_end());
    }
    assert_eq!(stage.region.totals().messages, 3 + 5);
    assert_eq!(stage.region.totals().errors, 5);
}

#[test]
fn the_last_line_arrives_although_the_peer_goes_on_sending() {
    let stage = stage();
    let mut client = stage.connect();
    let flood = vec![b'x'; 4 * MAX_REQUEST];
    client.send(&flood);
    assert!(client.line().starts_with("error too-long: "));
    assert!(client.at_end());
    assert_eq!(stage.connect().ask(b"print\n"), "hello world");
}

#[test]
fn a_byte_at_a_time() {
    let stage = stage();
    let mut client = stage.connect();
    for byte in b"arijort:slowly\r\nprint\n" {
        client.send(&[*byte]);
    }
    assert_eq!(client.line(), receipt(stage.workers[0], "arijort", "slowly"));
    assert_eq!(client.line(), "hello world");
}

#[test]
fn a_request_cut_by_the_end_is_not_executed() {
    let stage = stage();
    let mut client = stage.connect();
    client.send(b"arijort:whole\narijort:half");
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.line(), receipt(stage.workers[0], "arijort", "whole"));
    assert!(client.line().starts_with("error malformed: "));
    assert!(client.at_end());
    assert_eq!(stage.messages(), ["whole"]);
}

#[test]
fn a_peer_that_is_gone_before_its_reply_ends_nothing() {
    let stage = stage();
    for round in 1..=20 {
        let mut client = stage.connect();
        client.send(b"arijort:who reads this\n");
        drop(client);
        until("the message is recorded", || stage.region.totals().messages == round);
    }
    assert_eq!(stage.connect().ask(b"arijort:I do\n"), receipt(stage.workers[0], "arijort", "I do"));
}

#[test]
fn a_peer_that_resets_the_connection_ends_nothing() {
    let stage = stage();
    for round in 1..=20 {
        let mut client = stage.connect();
        client.send(b"arijort:half of a li");
        rustix::net::sockopt::set_socket_linger(&client.stream, Some(std::time::Duration::ZERO)).unwrap();
        drop(client);
        until("the connection was seen", || stage.region.totals().connections == round);
    }
    assert_eq!(stage.connect().ask(b"print\n"), "hello world");
    assert_eq!(stage.region.totals().messages, 0);
}

#[test]
fn a_hundred_thousand_pipelined_requests() {
    const COUNT: usize = 100_000;
    let stage = stage();
    let mut client = stage.connect();
    let mut sender = client.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        let requests: String = (0..COUNT).map(|number| format!("foobar:{number}\n")).collect();
        sender.write_all(requests.as_bytes()).unwrap();
        sender.shutdown(std::net::Shutdown::Write).unwrap();
    });
    for number in 0..COUNT {
        assert_eq!(client.line(), receipt(stage.workers[0], "foobar", &number.to_string()));
    }
    assert!(client.at_end());
    sending.join().unwrap();
    assert_eq!(stage.region.totals().messages, COUNT as u64);
    let recorded = stage.messages();
    assert!(recorded.iter().enumerate().all(|(number, message)| *message == number.to_string()));
    assert_eq!(recorded.len(), COUNT);
}

#[test]
fn any_bytes_at_all_end_no_worker() {
    let stage = stage();
    let mut random = 88_172_645_463_325_252_u64;
    for _ in 0..200 {
        let bytes: Vec<u8> = (0..500)
            .map(|_| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                // Terminators and colons often enough to be requests now and then.
                [b'\n', 0, b'\r', b':', 0xff, random as u8, (random >> 8) as u8][(random >> 16) as usize % 7]
            })
            .collect();
        let mut client = stage.connect();
        client.send(&bytes);
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut replies = Vec::new();
        client.stream.read_to_end(&mut replies).unwrap();
        let replies = String::from_utf8(replies).unwrap();
        assert!(replies.lines().all(|line| line.starts_with("error ")), "{replies}");
    }
    assert_eq!(stage.connect().ask(b"print\n"), "hello world");
}

#[test]
fn several_connections_at_once_on_several_listeners() {
    let stage = Script { workers: 4, listeners: 3, ..Script::default() }.stage();
    let mut clients: Vec<_> = (0..4).map(|number| stage.connect_to(number % 3)).collect();
    let mut pids: Vec<String> = clients
        .iter_mut()
        .map(|client| client.ask(b"arijort:who\n").split(' ').nth(1).unwrap().to_owned())
        .collect();
    pids.sort();
    pids.dedup();
    assert_eq!(pids.len(), 4, "each worker has one connection");
}

#[test]
fn a_unix_socket_speaks_the_same() {
    let stage = Script { unix: true, ..Script::default() }.stage();
    let mut client = stage.connect_unix();
    assert_eq!(client.ask(b"arijort:local\n"), receipt(stage.workers[0], "arijort", "local"));
    assert!(client.ask(b"arijort local\n").starts_with("error malformed: "));
    client.send(b"arijort:half");
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(client.line().starts_with("error malformed: "));
    assert!(client.at_end());
}
