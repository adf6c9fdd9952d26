//! What the exporter is among the other processes: one that can be killed, and can do nothing.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::time::Duration;

use holdfast_tests::machine::{is_root, skip};
use holdfast_tests::outcome::run;
use holdfast_tests::random::Random;
use holdfast_tests::web::{Caller, try_get};
use holdfast_tests::{Instance, Place, openmetrics, place, until, web};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::scene::{SHOWN, by_hand, exporter_of, scrape, shown_at};

#[test]
fn a_killed_exporter_is_replaced_and_who_connects_meanwhile_waits() {
    let place = Place::new();
    let instance = place.instance().args(&SHOWN).start();
    let address = shown_at(&instance);
    for _ in 0..3 {
        let exporter = exporter_of(&instance);
        exporter.kill();
        // One that it had let in goes with it; the sockets stay.
        until("it is answered", || try_get(&address, "/metrics").is_ok());
        until("it is another", || exporter_of(&instance).pid != exporter.pid);
    }
    let exporter = exporter_of(&instance);
    assert!(exporter.signal(Signal::SIGSTOP));
    let mut caller = Caller::to(&address).unwrap();
    caller.send("GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    exporter.kill();
    until("it is another", || exporter_of(&instance).pid != exporter.pid);
    instance.say("served meanwhile");
    instance.wait_for_log("the exporter");
    instance.stop();
    place.no_process_left();
}

#[test]
fn a_stopped_exporter_holds_up_nobody() {
    let place = Place::new();
    let instance = place.instance().args(&SHOWN).start();
    assert!(exporter_of(&instance).signal(Signal::SIGSTOP));
    instance.say("served");
    assert_eq!(instance.status()["state"], "running");
    instance.stop();
    place.no_process_left();
}

#[test]
fn it_can_change_nothing_and_gain_nothing() {
    let place = Place::new();
    let instance = place.instance().args(&SHOWN).start();
    let address = shown_at(&instance);
    scrape(&address);
    let pid = exporter_of(&instance).pid;
    let said = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value =
        |name: &str| said.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").trim().to_owned();
    assert_eq!(value("NoNewPrivs:"), "1");
    assert_eq!(
        (value("CapEff:"), value("CapPrm:")),
        ("0000000000000000".to_owned(), "0000000000000000".to_owned())
    );
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let region = place.region().to_string_lossy().into_owned();
    let mapped: Vec<_> = maps.lines().filter(|line| line.contains(&region)).collect();
    assert!(!mapped.is_empty() && mapped.iter().all(|line| line.contains(" r--s ")), "{mapped:?}");
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let Ok(file) = fs::read_link(entry.path()) else { continue };
        let below = [place.run_dir(), place.spool_dir()].iter().any(|directory| file.starts_with(directory));
        assert!(!below, "{file:?} is open");
    }
    // It may ask for status, and for nothing else.
    instance.stop();
}

#[test]
fn another_user_s_exporter_shows_what_only_the_instance_s_user_may_open() {
    let place = Place::new();
    let Some(instance) = started_as(&place, &["--user", "nobody"]) else { return };
    let address = shown_at(&instance);
    instance.say("one");
    assert_eq!(scrape(&address)["holdfast_messages_total"], 1.0);
    let pid = exporter_of(&instance).pid;
    let said = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(said.contains("\nUid:\t65534\t65534\t65534\t65534"), "{said}");
    instance.stop();
}

#[test]
fn the_exporter_has_a_user_of_its_own_where_one_is_named() {
    let place = Place::new();
    place.instance().args(&SHOWN).args(&["--metrics-user", "no-such"]).run().assert_failed(2, &["no-such"]);
    let others = ["--user", "nobody", "--metrics-user", "daemon"];
    let Some(instance) = started_as(&place, &others) else { return };
    let user = |pid: i32| fs::metadata(format!("/proc/{pid}")).map(|of| of.uid()).unwrap();
    let first = exporter_of(&instance);
    assert_eq!((user(instance.pid()), user(first.pid)), (0, 1), "supervisor and exporter");
    instance.say("one");
    assert_eq!(scrape(&shown_at(&instance))["holdfast_messages_total"], 1.0);
    // So has the next one.
    first.kill();
    until("it is another", || exporter_of(&instance).pid != first.pid);
    assert_eq!(user(exporter_of(&instance).pid), 1);
    instance.stop();
}

/// One whose processes run as others, where that can be.
fn started_as(place: &Place, others: &[&str]) -> Option<Instance> {
    if !is_root() {
        skip("another user's exporter", "only root can be somebody else");
        return None;
    }
    if !programs_are_for_everybody() {
        skip("another user's exporter", "others may not reach the programs");
        return None;
    }
    place.let_others_through();
    Some(place.instance().args(&SHOWN).args(others).start())
}

fn programs_are_for_everybody() -> bool {
    let exporter = holdfast_tests::programs::path("exporter");
    exporter.ancestors().skip(1).all(|directory| {
        fs::metadata(directory)
            .is_ok_and(|of| std::os::unix::fs::PermissionsExt::mode(&of.permissions()) & 1 != 0)
    })
}

#[test]
fn without_an_instance_it_says_so_and_finds_the_next_one() {
    let place = Place::new();
    let (exporter, address) = by_hand(&place);
    assert_eq!(scrape(&address)["holdfast_up"], 0.0);
    let refused = try_get(&address, "/status").unwrap();
    assert_eq!(refused.code, 503);
    let why: Value = serde_json::from_str(&refused.body).unwrap();
    assert!(why["error"].as_str().unwrap().contains("no instance is running"), "{why}");
    web::get(&address, "/");
    let instance = place.start();
    assert_eq!(scrape(&address)["holdfast_up"], 1.0);
    // One that is stopped answers nobody, and its region is there all the same.
    instance.say("one");
    instance.wait_for_rest();
    instance.signal(Signal::SIGSTOP);
    let samples = scrape(&address);
    assert_eq!((samples["holdfast_up"], samples["holdfast_messages_total"]), (0.0, 1.0));
    assert!(try_get(&address, "/status").unwrap().body.contains("is it stopped?"));
    instance.signal(Signal::SIGCONT);
    until("it is heard again", || scrape(&address)["holdfast_up"] == 1.0);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(exporter.pid()), Signal::SIGTERM).unwrap();
    let outcome = exporter.finish();
    outcome.assert_succeeded();
    instance.stop();
}

#[test]
fn whatever_is_scribbled_into_the_region_it_goes_on() {
    let place = Place::new();
    let instance = place.start();
    for _ in 0..50 {
        instance.say("counted");
    }
    let (exporter, address) = by_hand(&place);
    assert_eq!(scrape(&address)["holdfast_messages_total"], 50.0);
    instance.kill9_leaving_visitors();
    let region = fs::OpenOptions::new().write(true).open(place.region()).unwrap();
    let mut random = Random::new(4);
    let mut bytes = vec![0; 4096];
    for round in 0..30 {
        for page in 0..1024 {
            if round < 20 && random.below(8) != 0 {
                continue;
            }
            random.fill(&mut bytes);
            region.write_all_at(&bytes, page * 4096).unwrap();
        }
        let text = web::get(&address, "/metrics");
        openmetrics::read(&text).unwrap_or_else(|why| panic!("{why}\n{text}"));
    }
    drop(exporter);
}

#[test]
fn four_thousand_slots_are_shown() {
    let place = Place::new();
    let instance = place.instance().region_size("128MiB").args(&SHOWN).start();
    let address = shown_at(&instance);
    // As 4000 workers would leave the slots: live, at work, with a text of their own.
    let region = fs::OpenOptions::new().write(true).open(place.region()).unwrap();
    for slot in 90_u64..4090 {
        let place = 4096 + slot * 1024;
        region.write_all_at(&(1_u64 << 32 | 2).to_le_bytes(), place).unwrap();
        region.write_all_at(&[[0, 0, 0, 1], [1, 0, 0, 0]].concat(), place + 8).unwrap();
        region.write_all_at(format!("at message <{slot}> \"&\\").as_bytes(), place + 512).unwrap();
    }
    for _ in 0..20 {
        let shown: Value = serde_json::from_str(&web::get(&address, "/status")).unwrap();
        assert_eq!(shown["slots"].as_array().unwrap().len(), 4004);
        assert_eq!(scrape(&address)["holdfast_workers{state=\"busy\"}"], 4000.0);
    }
    let mut caller = Caller::to(&address).unwrap();
    caller.set_patience(Duration::from_secs(30)).unwrap();
    for _ in 0..5 {
        caller.send("GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        assert!(caller.answer(true).unwrap().body.contains("at message <4000> \\\"&\\\\"));
    }
    instance.kill9();
}

#[test]
fn log_files_are_opened_again_by_another_exporter() {
    let place = Place::new();
    let log = place.file("log");
    let instance = place.instance().args(&SHOWN).arg("--log").arg(&log).start();
    let address = shown_at(&instance);
    let before = exporter_of(&instance).pid;
    fs::rename(&log, place.file("log.1")).unwrap();
    instance.signal(Signal::SIGUSR1);
    until("another exporter runs", || {
        // Whoever is being answered while one gives way to the other may be cut off, and asks again.
        let _ = try_get(&address, "/metrics");
        exporter_of(&instance).pid != before
    });
    scrape(&address);
    instance.stop();
}

#[test]
fn what_cannot_be_is_said_at_once() {
    let place = Place::new();
    place.instance().args(&["--metrics-listen", "localhost:80"]).run().assert_failed(2, &["tcp:HOST:PORT"]);
    place.instance().args(&["--metrics-listen", "fd:77"]).run().assert_failed(2, &["fd:77"]);
    let twice = ["--listen", "fd:0", "--metrics-listen", "fd:0"];
    place.instance().args(&twice).run().assert_failed(2, &["fd:0", "twice"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", taken.local_addr().unwrap());
    place
        .instance()
        .args(&["--metrics-listen", &address])
        .run()
        .assert_failed(1, &["cannot listen on", &address]);

    let exporter = |arguments: &[&str]| run(place::program("exporter").args(arguments));
    exporter(&["--metrics-listen", &address]).assert_failed(1, &["cannot listen on", &address]);
    exporter(&["--metrics-listen", "nowhere"]).assert_failed(2, &["tcp:HOST:PORT"]);
    exporter(&["supervised"]).assert_failed(2, &["--metrics-listen"]);
    exporter(&["--no-such-option"]).assert_failed(2, &["exporter --help"]);
    let mut badly_told = place::program("exporter");
    run(badly_told.env("HOLDFAST_METRICS_LISTEN", "x")).assert_failed(2, &["HOLDFAST_METRICS_LISTEN"]);
    exporter(&["--help"]).assert_succeeded();
    place.command("exporter", &["--metrics-listen", "x"]).assert_failed(2, &["tcp:HOST:PORT"]);
}

#[test]
fn the_supervisor_s_command_serves_an_instance_that_runs() {
    let place = Place::new();
    let instance = place.start();
    let mut command = place::program("supervisor");
    command.args(["exporter", "--run-dir"]).arg(place.run_dir()).args(SHOWN);
    let exporter = holdfast_tests::outcome::Running::start(&mut command);
    until("it says where it listens", || exporter.stdout().contains("http://127.0.0.1:"));
    let line = exporter.stdout();
    let address = line.trim_end().trim_end_matches('/').rsplit_once("http://").unwrap().1.to_owned();
    assert_eq!(scrape(&address)["holdfast_up"], 1.0);
    drop(exporter);
    instance.stop();
}
