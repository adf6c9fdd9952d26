//! What is delivered, what is left alone, and what an operator sees of it.

use std::time::{Duration, SystemTime};

use holdfast_tests::outcome::{self, Running};
use holdfast_tests::{DEADLINE, eventually, until};

use crate::scene::{Scene, Server, device, terminate, wait_for_log};

#[test]
fn what_was_left_over_is_shipped_at_once_and_removed() {
    let scene = Scene::new();
    let server = Server::start(&scene, &[]);
    for minute in 1..=20 {
        scene.write(26_593_136 + minute, &format!("{{\"a\":{minute}}}\n{{\"b\":{minute}}}\n"));
    }
    scene.write(5, "without a newline at its end");
    assert_eq!(scene.account().pending, 41);
    let running = scene.start(&server, &[]);
    scene.wait_until_delivered("what was there is shipped at the start, not an interval later");
    assert_eq!(server.kept().len(), 21);
    assert!(server.contents().contains(&"without a newline at its end".to_owned()));
    assert_eq!(scene.account().delivered, 41);
    terminate(running);
    assert_eq!(server.summary()["duplicates"], 0);
}

#[test]
fn the_oldest_file_comes_first() {
    let scene = Scene::new();
    let server = Server::start(&scene, &[]);
    for minute in [300, 4, 29_000_000, 57] {
        scene.write(minute, "x\n");
    }
    scene.ship_once(&server, &["--parallel", "1"]).assert_succeeded();
    let printed = server.stdout();
    let at = |minute: u64| printed.find(&format!("-{minute}-")).unwrap_or_else(|| panic!("{printed}"));
    assert!(at(4) < at(57) && at(57) < at(300) && at(300) < at(29_000_000), "{printed}");
}

#[test]
fn what_is_locked_or_not_ours_is_left_alone() {
    let scene = Scene::new();
    let server = Server::start(&scene, &[]);
    let minute = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() / 60;
    for (name, content) in [
        (format!("{minute}.dat"), "held"),
        (format!("{minute}.dat.lock"), ""),
        ("007.dat".to_owned(), "x"),
        ("7.data".to_owned(), "x"),
        ("notes".to_owned(), "x"),
    ] {
        std::fs::write(scene.spool().join(name), content).unwrap();
    }
    scene.write(7, "free\n");
    scene.ship_once(&server, &[]).assert_succeeded();
    assert_eq!(server.contents(), ["free\n"]);
    assert_eq!(scene.names().len(), 5);
    std::fs::remove_file(scene.spool().join(format!("{minute}.dat.lock"))).unwrap();
    scene.ship_once(&server, &[]).assert_succeeded();
    assert_eq!(server.contents(), ["free\n", "held"]);
}

#[test]
fn a_forgotten_lock_is_taken_away_with_a_warning() {
    let scene = Scene::new();
    let server = Server::start(&scene, &[]);
    scene.write(7, "forgotten\n");
    let lock = scene.spool().join("7.dat.lock");
    std::fs::write(&lock, "").unwrap();
    scene.ship_once(&server, &[]).assert_succeeded();
    assert!(lock.exists(), "its file has just been written to");
    let file = std::fs::File::options().append(true).open(scene.spool().join("7.dat")).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(11)).unwrap();
    let outcome = scene.ship_once(&server, &[]);
    outcome.assert_succeeded();
    assert!(outcome.stderr.contains("7.dat.lock has been left behind"), "{outcome}");
    assert_eq!(server.contents(), ["forgotten\n"]);
    assert!(scene.names().is_empty());
}

#[test]
fn a_file_that_was_written_to_while_it_was_sent_is_not_removed() {
    let scene = Scene::new();
    let server = Server::start(&scene, &["--faults", "slow:1s"]);
    scene.write(7, "one\n");
    let running = scene.start(&server, &[]);
    eventually(DEADLINE, "it is being sent", || {
        if server.summary()["requests"] == 1 { Ok(()) } else { Err(server.stdout()) }
    });
    std::fs::write(scene.spool().join("7.dat"), "one\ntwo\n").unwrap();
    scene.wait_until_delivered("the file as it is in the end is delivered");
    assert_eq!(server.contents(), ["one\n", "one\ntwo\n"]);
    terminate(running);
}

#[test]
fn one_at_a_time_ships_a_spool() {
    let scene = Scene::new();
    let server = Server::start(&scene, &[]);
    let running = scene.start(&server, &[]);
    wait_for_log(&running, "shipping");
    let mut second = Running::start(&mut scene.collector(&server));
    let outcome = second.finish_within(DEADLINE);
    outcome.assert_failed(3, &["another data_collector ships"]);
    terminate(running);
}

#[test]
fn headers_authorization_and_compression() {
    let scene = Scene::new();
    let bearer = scene.file("token");
    std::fs::write(&bearer, "secret\n").unwrap();
    let mut server = Server::start(&scene, &["--require", "Authorization: Bearer secret"]);
    let content = "a line that comes again and again\n".repeat(100_000);
    scene.write(7, &content);
    let turned_away = scene.ship_once(&server, &[]);
    turned_away.assert_failed(1, &["1 files could not be delivered", "401"]);
    scene
        .ship_once(&server, &["--bearer-file", bearer.to_str().unwrap(), "--compress", "gzip"])
        .assert_succeeded();
    assert!(server.contents() == [content]);
    server.restart(&["--require", "X-Place: attic"]);
    scene.write(8, "x\n");
    scene.ship_once(&server, &["--header", "X-Place: attic"]).assert_succeeded();
    std::fs::write(scene.file("pair"), "user:pass word").unwrap();
    server.restart(&["--require", "Authorization: Basic dXNlcjpwYXNzIHdvcmQ="]);
    scene.write(9, "y\n");
    scene.ship_once(&server, &["--basic-file", scene.file("pair").to_str().unwrap()]).assert_succeeded();
    assert_eq!(server.kept().len(), 3);
}

#[test]
fn what_checkpoints_need_is_kept() {
    let scene = Scene::new();
    let server = Server::start(&scene, &[]);
    let checkpoints = scene.spool().join("checkpoint");
    std::fs::create_dir(&checkpoints).unwrap();
    std::fs::write(checkpoints.join("covered"), "10\n").unwrap();
    for minute in [9, 10, 11] {
        scene.write(minute, &format!("{minute}\n"));
    }
    scene.ship_once(&server, &[]).assert_succeeded();
    assert_eq!(scene.names(), ["10.sent", "11.sent", "checkpoint"]);
    std::fs::write(checkpoints.join("covered"), "11\n").unwrap();
    scene.ship_once(&server, &[]).assert_succeeded();
    assert_eq!(scene.names(), ["11.sent", "checkpoint"]);
    assert_eq!((server.kept().len(), scene.account().delivered), (3, 3));
}

#[test]
fn usage_is_checked_and_explained() {
    let scene = Scene::new();
    let run =
        |arguments: &[&str]| outcome::run(holdfast_tests::place::program("data_collector").args(arguments));
    let help = run(&["--help"]);
    help.assert_succeeded();
    for words in ["Idempotency-Key", "--dist-interval", "M.dat.refused", "Exit codes"] {
        assert!(help.stdout.contains(words), "{words}");
    }
    run(&["--version"]).assert_succeeded();
    run(&["--host", "x", "--port", "1"]).assert_failed(2, &["--tmp-persist-dir"]);
    run(&["status", "/nonexistent"]).assert_failed(2, &["/nonexistent"]);
    let file = scene.file("file");
    std::fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    run(&["--tmp-persist-dir", file, "--host", "x", "--port", "1"]).assert_failed(2, &["--tmp-persist-dir"]);
}

#[test]
fn the_documented_command_line_works_as_written() {
    let scene = Scene::new();
    let server = Server::start(&scene, &[]);
    let logs = scene.file("logs");
    let mut command = device(&scene.spool(), server.port);
    command.arg(format!("--log-dir={}", logs.display())).arg("--dist-interval=1");
    let running = Running::start(&mut command);
    until("several files arrive", || server.kept().len() >= 2);
    let outcome = terminate(running);
    assert!(outcome.stdout.is_empty() && outcome.stderr.is_empty(), "{outcome}");
    let log = std::fs::read_to_string(logs.join("data_collector.log")).unwrap();
    assert!(log.contains("shipping") && log.contains("readings"), "{log}");
    let account = scene.account();
    assert_eq!(account.delivered, server.lines().len() as u64);
    assert!(!scene.names().iter().any(|name| name.ends_with(".lock")), "{:?}", scene.names());
}
