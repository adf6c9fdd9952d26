//! What peers send that they should not, how they send it, and what they are answered. None of it ends a worker.

use std::time::{Duration, Instant};

use holdfast_tests::connection::Receipt;
use holdfast_tests::load::Load;
use holdfast_tests::{Connection, Instance, Place, machine, until};

/// The longest request, without its end.
const LONGEST: usize = 64 * 1024;

/// After everything: no worker died, so many messages are in the books, and the instance stops as any other.
#[track_caller]
fn end(instance: Instance, messages: usize, errors: u64) {
    let records = instance.books_agree();
    assert_eq!(records.len(), messages);
    let status = instance.status();
    assert_eq!(status["totals"]["errors"], errors, "{status}");
    assert_eq!(status["totals"]["crashes"], 0, "an error never ends a worker: {status}");
    instance.stop().assert_no_panic();
}

#[test]
fn what_cannot_be_taken_is_answered_and_the_connection_goes_on() {
    let place = Place::new();
    let instance = place.start();
    let mut connection = instance.connect();
    let refused: [(&[u8], &str); 12] = [
        (b"nobody:hello\n", "unauthorized"),
        (b":hello\n", "unauthorized"),
        (b" arijort:hello\n", "unauthorized"),
        (b"arijort\0", "malformed"),
        (b"no colon here\n", "malformed"),
        (b"\n", "malformed"),
        (b"\r\n", "malformed"),
        (b"arijort:\xff\xfe\n", "malformed"),
        (b"arijort:\xed\xa0\x80\n", "malformed"),
        (b"arijort:cut\xc3\n", "malformed"),
        (b"\xff:hello\n", "malformed"),
        (b"Print\n", "malformed"),
    ];
    for (bytes, kind) in refused {
        connection.send(bytes);
        connection.expect_error(kind);
        connection.say("arijort", "and on it goes");
    }
    drop(connection);
    end(instance, refused.len(), refused.len() as u64);
}

#[test]
fn odd_messages_are_recorded_as_they_are() {
    let place = Place::new();
    let instance = place.start();
    let mut connection = instance.connect();
    let mut expected = Vec::new();
    let messages = [
        "",
        " ",
        ":",
        "a:b:c",
        "\"quoted\" and \\ back",
        "\" from user foobar",
        "tab\tbell\u{7}escape\u{1b}[31m",
        "in the middle\rof it",
        "ünïcödé 漢字 🦀 \u{202e}",
        "{\"json\":[1,2]}",
        "print",
        "error full: not really",
    ];
    for message in messages {
        connection.say("arijort", message);
        expected.push(message.to_owned());
    }
    // One \r before the newline goes; a second one belongs to the message.
    for (sent, recorded) in [("dos\r\n", "dos"), ("dos\r\r\n", "dos\r"), ("by nul\0", "by nul")] {
        connection.send(format!("foobar:{sent}"));
        let receipt = Receipt::read(&connection.line()).expect("a receipt");
        assert_eq!((receipt.message.as_str(), receipt.user.as_str()), (recorded, "foobar"));
        expected.push(recorded.to_owned());
    }
    drop(connection);
    let recorded: Vec<_> = instance.books_agree().into_iter().map(|record| record.message).collect();
    assert_eq!(recorded, expected);
    let messages = expected.len();
    end(instance, messages, 0);
}

#[test]
fn print_is_a_greeting_and_counts_for_nothing() {
    let place = Place::new();
    let users = place.write("users", "print\n");
    let instance = place.instance().arg("--users").arg(users).start();
    let mut connection = instance.connect();
    assert_eq!(connection.ask("print"), "hello world");
    assert_eq!(connection.ask("print\r"), "hello world");
    connection.say("print", "a user of that name");
    connection.send("print\0");
    assert_eq!(connection.line(), "hello world");
    drop(connection);
    end(instance, 1, 0);
}

#[test]
fn nothing_between_nuls_is_ignored() {
    let place = Place::new();
    let instance = place.start();
    let mut connection = instance.connect();
    connection.send(b"\0\0\0arijort:one\0\0\0arijort:two\n\0");
    for message in ["one", "two"] {
        assert_eq!(Receipt::read(&connection.line()).expect("a receipt").message, message);
    }
    connection.finish_sending();
    connection.expect_end();
    end(instance, 2, 0);
}

#[test]
fn the_longest_request_is_taken_and_one_byte_more_is_not() {
    let place = Place::new();
    let instance = place.start();
    let user = "arijort:";
    let longest = "m".repeat(LONGEST - user.len());
    for ending in ["\n", "\r\n", "\0"] {
        let mut connection = instance.connect();
        connection.send(format!("{user}{longest}{ending}"));
        assert_eq!(Receipt::read(&connection.line()).expect("a receipt").message, longest);
        connection.say("arijort", "short again");
        connection.send(format!("{user}{longest}x{ending}"));
        connection.expect_error("too-long");
        connection.expect_end();
    }
    // However much more there is: the error arrives, and then the connection ends.
    let mut connection = instance.connect();
    let mut writer = connection.another();
    let endless = std::thread::spawn(move || {
        let chunk = [b'x'; 64 * 1024];
        (0..64).try_for_each(|_| writer.try_send(&chunk)).is_err()
    });
    connection.expect_error("too-long");
    connection.expect_end();
    endless.join().expect("a writer ends");
    end(instance, 6, 4);
}

#[test]
fn the_longest_record_is_recorded_whole() {
    let place = Place::new();
    let instance = place.start();
    let mut connection = instance.connect();
    // Each of these takes six bytes in the journal.
    let message = "\u{1}".repeat(LONGEST - "arijort:".len());
    for _ in 0..5 {
        connection.say("arijort", &message);
    }
    drop(connection);
    assert!(instance.books_agree().iter().all(|record| record.message == message));
    end(instance, 5, 0);
}

#[test]
fn a_byte_at_a_time_is_a_request_all_the_same() {
    let place = Place::new();
    let instance = place.start();
    let mut connection = instance.connect();
    for byte in b"arijort:slowly but surely\r\n" {
        connection.send([*byte]);
    }
    assert_eq!(Receipt::read(&connection.line()).expect("a receipt").message, "slowly but surely");
    drop(connection);
    end(instance, 1, 0);
}

#[test]
fn a_request_that_is_cut_off_is_not_executed() {
    let place = Place::new();
    let instance = place.start();
    for cut in ["arijort:half a li", "ari", "arijort:", "print"] {
        let mut connection = instance.connect();
        connection.send(cut);
        connection.finish_sending();
        connection.expect_error("malformed");
        connection.expect_end();
        // Nobody is there any more to be told.
        let mut connection = instance.connect();
        connection.send(cut);
        drop(connection);
    }
    until("all of them have been served", || instance.total("connections") == 8);
    assert!(instance.total("errors") >= 4);
    let errors = instance.total("errors");
    end(instance, 0, errors);
}

#[test]
fn after_half_a_close_every_answer_still_comes() {
    let place = Place::new();
    let instance = place.start();
    let mut connection = instance.connect();
    let requests: String = (0..500).map(|number| format!("arijort:number {number}\n")).collect();
    connection.send(requests);
    connection.finish_sending();
    for number in 0..500 {
        let receipt = Receipt::read(&connection.line()).expect("a receipt");
        assert_eq!(receipt.message, format!("number {number}"));
    }
    connection.expect_end();
    end(instance, 500, 0);
}

#[test]
fn who_leaves_before_the_reply_harms_nobody() {
    let place = Place::new();
    let instance = place.instance().args(&["--latency", "50ms"]).start();
    for number in 0..12 {
        let mut connection = instance.connect();
        connection.send(format!("arijort:left {number}\n"));
        if number % 2 == 0 {
            connection.reset();
        }
    }
    until("all of them have been served", || instance.total("connections") == 12);
    instance.say("served");
    // What was asked for was done, for those whose request arrived before the reset did.
    let records = instance.books_agree();
    assert!((7..=13).contains(&records.len()), "{}", records.len());
    let messages = records.len();
    end(instance, messages, 0);
}

#[test]
fn a_hundred_thousand_pipelined_requests_are_answered_in_order() {
    const REQUESTS: usize = 100_000;
    let place = Place::new();
    let instance = place.start();
    let mut connection = instance.connect();
    let mut writer = connection.another();
    let sending = std::thread::spawn(move || {
        for hundred in 0..REQUESTS / 100 {
            let numbers = hundred * 100..(hundred + 1) * 100;
            let requests: String = numbers.map(|number| format!("arijort:{number}\n")).collect();
            writer.send(requests);
        }
        writer.finish_sending();
    });
    for number in 0..REQUESTS {
        let receipt = Receipt::read(&connection.line()).expect("a receipt");
        assert_eq!(receipt.message, number.to_string());
    }
    connection.expect_end();
    sending.join().expect("everything was sent");
    let records = instance.books_agree();
    assert!(records.iter().enumerate().all(|(number, record)| record.message == number.to_string()));
    end(instance, REQUESTS, 0);
}

#[test]
fn who_reads_nothing_keeps_one_worker_and_not_for_ever() {
    let place = Place::new();
    let instance = place.instance().workers(2).args(&["--read-timeout", "500ms"]).start();
    let mut connection = instance.connect();
    let mut writer = connection.another();
    let request = format!("arijort:{}\n", "x".repeat(60_000));
    let deaf = std::thread::spawn(move || while writer.try_send(request.as_bytes()).is_ok() {});
    // The replies fill every buffer, the worker gives up, and the writer is told by an error.
    deaf.join().expect("the writer was told");
    while let Ok(Some(line)) = connection.try_line() {
        assert!(Receipt::read(&line).is_some(), "{line:.60}");
    }
    drop(connection);
    instance.say("served");
    let messages = instance.books_agree().len();
    let errors = instance.total("errors");
    end(instance, messages, errors);
}

#[test]
fn who_says_nothing_is_told_and_let_go() {
    let place = Place::new();
    let instance = place.instance().args(&["--read-timeout", "300ms"]).start();
    let mut silent = instance.connect();
    let mut half = instance.connect();
    half.send("arijort:half a li");
    let mut between = instance.connect();
    between.say("arijort", "one");
    for connection in [&mut silent, &mut half, &mut between] {
        connection.expect_error("timeout");
        connection.expect_end();
    }
    end(instance, 1, 3);
}

#[test]
fn drips_do_not_put_the_deadline_off() {
    let place = Place::new();
    let instance = place.instance().args(&["--read-timeout", "400ms"]).start();
    let mut connection = instance.connect();
    let mut writer = connection.another();
    let began = Instant::now();
    writer.send("arijort:");
    let dripping = std::thread::spawn(move || {
        // One byte at each look, until the other side has had enough.
        holdfast_tests::eventually(holdfast_tests::DEADLINE, "the other side ends it", || {
            if writer.try_send(b"x").is_err() { Ok(()) } else { Err("it still takes bytes".to_owned()) }
        });
    });
    connection.expect_error("timeout");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    connection.expect_end();
    drop(connection);
    dripping.join().expect("the other side ended it");
    end(instance, 0, 1);
}

#[test]
fn who_connects_and_leaves_is_no_error() {
    let place = Place::new();
    let instance = place.start();
    for number in 0..50 {
        let connection = instance.connect();
        if number % 2 == 0 {
            connection.reset();
        }
    }
    until("they have been and gone", || instance.total("connections") >= 25);
    instance.say("served");
    end(instance, 1, 0);
}

#[test]
fn silent_connections_on_every_worker_keep_others_waiting_and_no_longer_than_said() {
    let place = Place::new();
    let instance = place.instance().workers(3).args(&["--read-timeout", "1s"]).start();
    let mut silent: Vec<_> = (0..3).map(|_| instance.connect()).collect();
    instance.wait_for_status("all are taken", |status| status["workers"]["busy"] == 3);
    instance.say("served in the end");
    for connection in &mut silent {
        connection.expect_error("timeout");
    }
    drop(silent);
    end(instance, 1, 3);
}

/// So many connections at once against so many workers: each is served, the rest wait their turn.
fn crowd(workers: u32, connections: usize, region: &str) {
    machine::allow_descriptors(connections as u64 + 500);
    let place = Place::new();
    let instance =
        place.instance().workers(workers).region_size(region).args(&["--read-timeout", "1m"]).start();
    let mut crowd: Vec<Connection> = (0..connections).map(|_| instance.connect()).collect();
    instance.wait_for_status("every worker is taken", |status| status["workers"]["busy"] == workers);
    for (number, connection) in crowd.iter_mut().enumerate() {
        connection.send(format!("arijort:one of many {number}\n"));
    }
    // In the order in which they came, since a worker takes the next one only when its own has left.
    for (number, mut connection) in crowd.into_iter().enumerate() {
        let receipt = Receipt::read(&connection.line()).expect("a receipt");
        assert_eq!(receipt.message, format!("one of many {number}"));
    }
    end(instance, connections, 0);
}

#[test]
fn twice_as_many_connections_as_workers_are_all_served() {
    crowd(100, 200, "4MiB");
}

#[test]
fn two_thousand_connections_against_a_thousand_workers_are_all_served() {
    crowd(1000, 2000, "64MiB");
}

#[test]
fn hostile_peers_do_not_disturb_the_others() {
    let place = Place::new();
    let instance = place.instance().workers(12).args(&["--read-timeout", "2s"]).start();
    let load = Load::on(&instance.listen[0], 4);
    let mut number = 0_u64;
    let mut random = move || {
        // Numerical Recipes' generator: what is sent is the same in every run.
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (number >> 33) as u32
    };
    for round in 0..200 {
        let Ok(mut connection) = Connection::try_to(&instance.listen[0]) else { continue };
        let length = random() as usize % [10, 300, 5000, 70_000][round % 4];
        let bytes: Vec<u8> = (0..length).map(|_| random() as u8).collect();
        // The other side may have had enough before the end.
        let _ = connection.try_send(&bytes);
        match round % 3 {
            0 => connection.reset(),
            1 => drop(connection),
            _ => {
                connection.finish_sending_if_open();
                while let Ok(Some(line)) = connection.try_line() {
                    assert!(line.starts_with("error "), "{line}");
                }
            }
        }
    }
    load.wait_for_more(50);
    let ledger = load.stop();
    ledger.check(&instance.books_agree());
    assert_eq!((ledger.errors.len(), ledger.broken), (0, 0));
    assert_eq!(instance.total("crashes"), 0);
    instance.stop();
}
