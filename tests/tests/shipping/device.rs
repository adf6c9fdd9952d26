//! The device: what it generates arrives, all of it and once, whoever is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use holdfast_tests::outcome::Running;
use holdfast_tests::{DEADLINE, eventually, until};
use serde_json::Value;

use crate::scene::{Scene, Server, device, terminate};

/// Starts a device that makes readings as fast as it can and ships them every fraction of a second.
pub fn eager(spool: &Path, port: u16, arguments: &[&str]) -> Running {
    let mut command = device(spool, port);
    command.args(["--device-interval=0..1ms", "--dist-interval=0.2"]).args(arguments);
    Running::start(&mut command)
}

/// Holds what a server keeps of devices against what they must have made: each of their readings has a number, the next
/// one for each that was written. Gives how many there are.
#[track_caller]
pub fn check_readings(lines: &BTreeMap<String, u64>) -> u64 {
    let mut epochs = BTreeMap::<String, BTreeSet<u64>>::new();
    for (line, times) in lines {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let id = value["id"].as_str().unwrap_or_else(|| panic!("no id: {line}"));
        assert_eq!(*times, 1, "it came so often: {line}");
        assert!(value["message"].as_str().is_some_and(|text| text.contains("temperature")), "{line}");
        let (epoch, number) = id.split_once(".0.0.").unwrap_or_else(|| panic!("not a device's id: {line}"));
        let fresh = epochs.entry(epoch.to_owned()).or_default().insert(number.parse().expect("a number"));
        assert!(fresh, "two readings have the id {id}");
    }
    for (epoch, numbers) in &epochs {
        let last = numbers.last().copied().unwrap_or(0);
        assert_eq!(numbers.len() as u64, last, "readings of {epoch} are missing");
    }
    epochs.values().map(|numbers| numbers.len() as u64).sum()
}

#[test]
fn readings_arrive_once_each_over_many_deaths_of_device_and_server() {
    let scene = Scene::new();
    let mut server = Server::start(&scene, &["--chance", "20", "--seed", "7"]);
    for round in 0..6 {
        let mut running = eager(&scene.spool(), server.port, &["--timeout", "1s"]);
        let goal = server.kept().len() + 3;
        until("files arrive", || server.kept().len() >= goal);
        running.kill();
        running.finish().assert_no_panic();
        if round % 2 == 0 {
            server.restart(&["--chance", "20", "--seed", &round.to_string()]);
        }
    }
    server.restart(&[]);
    // Of a device that is dead, what it left open is sealed by whoever ships.
    scene.ship_once(&server, &[]).assert_succeeded();
    let account = scene.account();
    assert!(scene.is_empty(), "{:?}", scene.names());
    assert_eq!(check_readings(&server.lines()), account.delivered);
    assert_eq!(account.generated, account.delivered);
    scene.command("fsck", &[]).assert_succeeded();
}

#[test]
fn the_account_agrees_at_any_time() {
    let scene = Scene::new();
    let server = Server::start(&scene, &["--chance", "20"]);
    let running = eager(&scene.spool(), server.port, &["--timeout", "1s"]);
    let mut last = 0;
    // Each look is of another moment: files are written, sealed, sent and removed meanwhile.
    eventually(DEADLINE, "readings are generated and delivered", || {
        let account = scene.account();
        assert!(account.generated >= last, "{account:?} after {last}");
        last = account.generated;
        if account.delivered > 1000 { Ok(()) } else { Err(format!("{account:?}")) }
    });
    terminate(running);
}

#[test]
fn a_device_that_drains_leaves_nothing_behind_and_one_that_cannot_ends_all_the_same() {
    let scene = Scene::new();
    let mut server = Server::start(&scene, &[]);
    let arguments = ["--dist-interval=60", "--drain=20s"];
    let running = eager(&scene.spool(), server.port, &arguments);
    until("readings are written", || scene.account().pending > 10);
    let began = Instant::now();
    terminate(running);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let account = scene.account();
    assert_eq!((account.pending, account.delivered), (0, account.generated));
    assert!(scene.is_empty() && check_readings(&server.lines()) == account.generated);
    server.kill();
    let running = eager(&scene.spool(), server.port, &arguments);
    until("more readings are written", || scene.account().pending > 10);
    terminate(running);
    assert!(scene.account().pending > 10);
    server.restart(&["--faults", "429:0,500,slow:100ms"]);
    scene.ship_once(&server, &[]).assert_succeeded();
    assert_eq!(check_readings(&server.lines()), scene.account().generated);
}

#[test]
fn what_a_dead_device_left_is_mended_by_fsck() {
    let scene = Scene::new();
    let server = Server::absent(&scene);
    let mut running = eager(&scene.spool(), server.port, &["--dist-interval=60"]);
    until("readings are written", || scene.account().pending > 10);
    assert!(scene.command("fsck", &[]).assert_succeeded().stdout.contains("a device is at work"));
    running.kill();
    running.finish();
    assert!(scene.names().iter().any(|name| name.ends_with(".lock")));
    let before = scene.account();
    let mended = scene.command("fsck", &[]);
    assert!(
        mended.assert_succeeded().stdout.contains("1 minutes that a device left open are sealed"),
        "{mended}"
    );
    assert!(!scene.names().iter().any(|name| name.ends_with(".lock")));
    assert_eq!(scene.account(), before);
    let altered =
        scene.names().iter().find(|name| name.ends_with(".dat")).map(|name| scene.spool().join(name));
    let altered = altered.expect("a sealed file");
    let text = std::fs::read_to_string(&altered).unwrap();
    std::fs::write(
        &altered,
        text.replacen("temperature 1", "temperature 9", 1).replacen("temperature 2", "temperature 9", 1),
    )
    .unwrap();
    let found = scene.command("fsck", &[]);
    assert!(found.stdout.contains("records that are not what was written"), "{found}");
    assert_eq!(found.code(), Some(4));
    std::fs::remove_file(&altered).unwrap();
    let found = scene.command("fsck", &[]);
    assert!(found.stdout.contains("neither delivered nor pending"), "{found}");
    assert_eq!(found.code(), Some(4));
}
