//! A server that misbehaves in every way: files are tried again, put aside for good, and never lost or repeated.

use holdfast_tests::{DEADLINE, eventually};

use crate::scene::{Scene, Server, terminate, wait_for_log};

#[test]
fn after_every_kind_of_failure_a_file_arrives_once() {
    let faults = [
        "500",
        "503:0",
        "429:1",
        "403",
        "401",
        "404",
        "408",
        "307",
        "301",
        "drop",
        "drop-read",
        "drop-stored",
        "garbage",
        "cut",
        "100",
    ];
    let all: Vec<(Scene, Server)> = faults
        .iter()
        .map(|fault| {
            let scene = Scene::new();
            let server = Server::start(&scene, &["--faults", &format!("{fault},{fault}")]);
            (scene, server)
        })
        .collect();
    let running: Vec<_> = all
        .iter()
        .map(|(scene, server)| {
            scene.write(7, "one\ntwo\n");
            scene.start(server, &["--timeout", "1s"])
        })
        .collect();
    for ((fault, (scene, server)), running) in faults.iter().zip(&all).zip(running) {
        scene.wait_until_delivered(fault);
        assert_eq!(server.contents(), ["one\ntwo\n"], "{fault}");
        assert_eq!(server.summary()["requests"], 3, "{fault}");
        assert_eq!((scene.account().generated, scene.account().delivered), (2, 2), "{fault}");
        let log = terminate(running).stderr;
        let alarms = ["403", "401", "404"].contains(fault);
        assert_eq!(log.contains("ERROR") && log.contains("turned away"), alarms, "{fault}: {log}");
    }
}

#[test]
fn who_answers_too_late_is_asked_again() {
    let scene = Scene::new();
    let server = Server::start(&scene, &["--faults", "slow:3s"]);
    scene.write(7, "x\n");
    let outcome = scene.ship_once(&server, &["--timeout", "300ms"]);
    outcome.assert_succeeded();
    assert!(outcome.stderr.contains("not delivered yet"), "{outcome}");
    eventually(DEADLINE, "it was asked twice", || {
        let summary = server.summary();
        if summary["duplicates"] == 1 { Ok(()) } else { Err(summary.to_string()) }
    });
    assert_eq!(server.contents(), ["x\n"]);
}

#[test]
fn a_server_that_comes_later_gets_everything() {
    let scene = Scene::new();
    let mut server = Server::absent(&scene);
    for minute in 1..=10 {
        scene.write(minute, &format!("{minute}\n"));
    }
    let running = scene.start(&server, &[]);
    wait_for_log(&running, "not delivered yet");
    assert_eq!(scene.account().pending, 10);
    server.restart(&[]);
    scene.wait_until_delivered("the server is found again within seconds");
    assert_eq!(server.kept().len(), 10);
    wait_for_log(&running, "delivered again");
    terminate(running);
}

#[test]
fn shipping_once_in_vain_ends_and_says_so() {
    let scene = Scene::new();
    let server = Server::absent(&scene);
    for minute in 1..=2000 {
        scene.write(minute, "x\n");
    }
    let outcome = scene.ship_once(&server, &[]);
    outcome.assert_failed(1, &["could not be delivered", "try again"]);
    assert_eq!(scene.account().pending, 2000);
}

#[test]
fn what_is_refused_for_good_is_put_aside_and_can_be_put_back() {
    let scene = Scene::new();
    let mut server = Server::start(&scene, &["--faults", "422,ok*"]);
    scene.write(1, "bad\n");
    scene.write(2, "good\n");
    let outcome = scene.ship_once(&server, &["--parallel", "1"]);
    outcome.assert_succeeded();
    assert!(outcome.stderr.contains("1.dat is refused for good"), "{outcome}");
    assert_eq!(server.contents(), ["good\n"]);
    assert_eq!(scene.names(), ["1.dat.refused", "1.dat.refused.reason"]);
    let reason = std::fs::read_to_string(scene.spool().join("1.dat.refused.reason")).unwrap();
    assert!(reason.starts_with("422"), "{reason}");
    let account = scene.account();
    assert_eq!((account.generated, account.delivered, account.quarantined), (2, 1, 1));
    scene.command("fsck", &[]).assert_succeeded();
    server.restart(&[]);
    scene.ship_once(&server, &[]).assert_succeeded();
    assert_eq!(scene.account().quarantined, 1, "it stays aside until somebody says otherwise");
    let replayed = scene.command("replay", &[]);
    assert!(replayed.assert_succeeded().stdout.contains('1'), "{replayed}");
    scene.ship_once(&server, &[]).assert_succeeded();
    assert_eq!(server.contents(), ["bad\n", "good\n"]);
    assert_eq!((scene.account().delivered, scene.account().quarantined), (2, 0));
}

#[test]
fn one_file_that_is_not_taken_does_not_keep_the_others() {
    let scene = Scene::new();
    // The first is tried first, and again while the others pass.
    let server = Server::start(&scene, &["--faults", "503:2"]);
    for minute in 1..=50 {
        scene.write(minute, &format!("{minute}\n"));
    }
    let running = scene.start(&server, &["--parallel", "1"]);
    eventually(DEADLINE, "the others arrive", || {
        if server.kept().len() == 49 && scene.names() == ["1.dat"] {
            Ok(())
        } else {
            Err(format!("{:?}", scene.names()))
        }
    });
    scene.wait_until_delivered("so does the first");
    terminate(running);
}

#[test]
fn what_is_being_sent_at_the_end_is_finished() {
    let scene = Scene::new();
    let server = Server::start(&scene, &["--faults", "slow:2s"]);
    scene.write(7, "x\n");
    let running = scene.start(&server, &[]);
    eventually(DEADLINE, "it is being sent", || {
        if server.summary()["requests"] == 1 { Ok(()) } else { Err(server.stdout()) }
    });
    terminate(running);
    assert!(scene.is_empty());
    assert_eq!((server.contents(), scene.account().delivered), (vec!["x\n".to_owned()], 1));
}
