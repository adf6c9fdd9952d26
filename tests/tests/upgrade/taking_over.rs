//! A program takes over: what stays, and who goes on.

use std::os::unix::fs::symlink;

use holdfast_tests::outcome::Running;
use holdfast_tests::place::program;
use holdfast_tests::processes::{self, Process};
use holdfast_tests::{Instance, Place, Visitor, openmetrics, outcome, until, web};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::scene::{Programs, descriptors_of, environment_of, program_of, upgrade};

/// Upgrades in a row.
const SEVERAL: usize = 5;

fn host_and_port(address: &str) -> (&str, &str) {
    address.strip_prefix("tcp:").unwrap().rsplit_once(':').unwrap()
}

/// Every child, with what cannot be another one's.
fn children(instance: &Instance) -> Vec<Process> {
    let pids = processes::children_of(instance.pid());
    let mut children: Vec<_> = pids.into_iter().filter_map(Process::of).collect();
    children.sort_by_key(|child| child.pid);
    // What they are at changes.
    children.iter_mut().for_each(|child| child.state = 'S');
    children
}

/// `cclient --check` at work until an end that the caller waits for.
fn cclient(place: &Place, instance: &Instance, requests: &str, options: &[&str]) -> Running {
    let (host, port) = host_and_port(&instance.listen[0]);
    let mut command = program("cclient");
    command.args([host, port, "16", "arijort:lalala", "--json", "--requests", requests]).args(options);
    Running::start(command.arg("--check").arg(place.spool_dir()))
}

#[track_caller]
fn nothing_is_lost(client: Running, requests: u64) {
    let outcome = client.finish();
    outcome.assert_succeeded();
    let report: Value =
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"));
    for key in ["errors", "lost", "duplicated", "altered"] {
        assert!(
            report[key] == 0 || report[key].as_object().is_some_and(serde_json::Map::is_empty),
            "{report}"
        );
    }
    assert_eq!(report["requests"], requests);
}

#[test]
fn under_load_nobody_notices() {
    for (options, requests) in [(&["--keep-alive"][..], 20_000), (&[][..], 4000)] {
        let place = Place::new();
        let programs = Programs::of(&place);
        let instance = programs.instance(&place).workers(16).start();
        instance.say("first");
        let before = children(&instance);
        let client = cclient(&place, &instance, &requests.to_string(), options);
        until("it has begun", || instance.total("messages") > 100);
        let mut messages = 0;
        for _ in 0..SEVERAL {
            programs.renew();
            upgrade(&instance);
            let now = instance.total("messages");
            assert!(now >= messages, "{now} after {messages}");
            messages = now;
        }
        nothing_is_lost(client, requests);
        assert_eq!(children(&instance), before);
        assert_eq!(instance.books_agree().len() as u64, requests + 1);
        let status = instance.status();
        assert_eq!((&status["supervisor_pid"], &status["generation"]), (&instance.pid().into(), &1.into()));
        assert_eq!((&status["totals"]["crashes"], &status["state"]), (&0.into(), &"running".into()));
        instance.stop();
        place.no_process_left();
    }
}

#[test]
fn the_program_is_looked_for_where_it_was_started_from() {
    let place = Place::new();
    let versions = ["one", "two"].map(|name| Programs::in_directory(place.file(name)));
    let current = place.file("supervisor");
    symlink(versions[0].supervisor(), &current).unwrap();
    let instance = place.instance().program(&current).start();
    assert_eq!(program_of(instance.pid()), versions[0].supervisor());
    symlink(versions[1].supervisor(), place.file("next")).unwrap();
    std::fs::rename(place.file("next"), &current).unwrap();
    upgrade(&instance);
    assert_eq!(program_of(instance.pid()), versions[1].supervisor());
    assert_eq!(Process::of(instance.pid()).unwrap().name, "supervisor");
    // The next template is of the programs beside it.
    instance.command("reload", &[]).assert_succeeded();
    instance.wait_for_rest();
    assert_eq!(instance.status()["generation"], 2);
    instance.stop();
}

#[test]
fn a_name_without_a_directory_is_looked_for_once() {
    let place = Place::new();
    let programs = Programs::of(&place);
    let path = format!("{}:/usr/bin:/bin", programs.supervisor().parent().unwrap().display());
    let instance = place.instance().program("supervisor").env("PATH", path).start();
    programs.renew();
    upgrade(&instance);
    assert_eq!(program_of(instance.pid()), programs.supervisor());
    instance.stop();
}

#[test]
fn everything_goes_on_as_it_was() {
    let place = Place::new();
    let programs = Programs::of(&place);
    let users = place.write("users", "alice\n");
    let config = place.write("config.toml", "grace = \"5s\"\n");
    let pid_file = place.file("pid");
    let starting = programs.instance(&place).arg("--users").arg(&users).arg("--config").arg(&config);
    let instance = starting.arg("--pid-file").arg(&pid_file).start();
    instance.command("scale", &["6"]).assert_succeeded();
    let six = |status: &Value| status["workers"]["idle"] == 6;
    instance.wait_for_status("there are six", six);
    let nice = nice_of(instance.worker_pids()[0]);
    instance.kill_child(instance.worker_pids()[0]);
    let before = instance
        .wait_for_status("it is replaced", |status| six(status) && status["totals"]["recoveries"] == 1);
    let descriptors = descriptors_of(instance.pid());
    (0..SEVERAL).for_each(|_| upgrade(&instance));
    let after = instance.status();
    for key in ["workers", "totals", "recovery_us", "users", "last_crashes", "listen", "recovery_pid"] {
        assert_eq!(after[key], before[key], "{key}");
    }
    // Whoever has asked for something may not be gone yet.
    until("none is left over", || descriptors_of(instance.pid()) <= descriptors);
    assert_eq!(std::fs::read_to_string(&pid_file).unwrap().trim(), instance.pid().to_string());
    // Whoever is started from now on is as all were before.
    instance.kill_child(instance.worker_pids()[0]);
    instance.command("reload", &[]).assert_succeeded();
    instance.wait_for_status("all are replaced", six);
    for pid in processes::children_of(instance.pid()) {
        assert!(!environment_of(pid).contains("HOLDFAST_HANDOVER"), "{:?}", Process::of(pid));
    }
    assert_eq!(nice_of(instance.worker_pids()[0]), nice);
    // And what is written to the configuration is read.
    place.write("config.toml", "grace = \"long\"\n");
    instance.command("reload", &[]).assert_failed(1, &["long"]);
    instance.connect().say("alice", "as ever");
    instance.stop();
    assert!(!pid_file.exists());
}

fn nice_of(pid: i32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().to_owned()
}

#[test]
fn attached_programs_stay_attached() {
    let place = Place::new();
    let programs = Programs::of(&place);
    let instance = programs.instance(&place).start();
    let mut idle = Visitor::attached(&place.run_dir());
    idle.must("open 8", "opened");
    let mut busy = Visitor::attached(&place.run_dir());
    busy.must("hold", "holding");
    let connected = sockets_of(busy.pid());
    (0..SEVERAL).for_each(|_| upgrade(&instance));
    assert_eq!(instance.status()["attached"], 2);
    assert_eq!(sockets_of(busy.pid()), connected, "it has not connected again");
    // Its end is noticed as before, and by the same recovery.
    busy.kill();
    idle.must("transfer 0 1 7", "done");
    instance.wait_for_status("it has crashed", |status| status["totals"]["crashes"] == 1);
    idle.must("detach", "detached");
    instance.wait_for_status("nobody is attached", |status| status["attached"] == 0);
    outcome::run(program("recovery").arg("verify").arg(place.region())).assert_succeeded();
    drop((idle, busy));
    instance.stop();
}

fn sockets_of(pid: i32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let files = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let names = files.map(|file| file.to_string_lossy().into_owned());
    let mut sockets: Vec<_> = names.filter(|name| name.starts_with("socket:")).collect();
    sockets.sort();
    sockets
}

#[test]
fn what_is_shown_never_goes_back() {
    let place = Place::new();
    let programs = Programs::of(&place);
    let instance = programs.instance(&place).args(&["--metrics-listen", "tcp:127.0.0.1:0"]).start();
    let status = instance.status();
    let (host, port) = host_and_port(status["metrics_listen"][0].as_str().unwrap());
    let address = format!("{host}:{port}");
    let scrape = || openmetrics::read(&web::get(&address, "/metrics")).unwrap();
    instance.say("one");
    until("it is shown", || scrape().values().any(|value| *value > 0.0));
    let before = children(&instance);
    let mut samples = scrape();
    for _ in 0..SEVERAL {
        upgrade(&instance);
        instance.say("another");
        let next = scrape();
        for (series, was) in samples.iter().filter(|(series, _)| series.contains("_total")) {
            assert!(next.get(series).is_some_and(|is| is >= was), "{series} was {was}");
        }
        samples = next;
    }
    assert_eq!(children(&instance), before, "the exporter is the same too");
    // It still has its supervisor to ask.
    let shown: Value = serde_json::from_str(&web::get(&address, "/status")).unwrap();
    assert_eq!(shown["supervisor_pid"], instance.pid());
    instance.stop();
}

#[test]
fn children_die_with_the_program_that_took_over() {
    let place = Place::new();
    let programs = Programs::of(&place);
    let instance = programs.instance(&place).start();
    instance.say("kept");
    instance.signal(Signal::SIGUSR2);
    instance.wait_for_log(crate::scene::DONE);
    instance.kill9();
    place.no_process_left();
    let instance = programs.instance(&place).start();
    assert_eq!(instance.books_agree().len(), 1);
    instance.stop();
}

#[test]
fn control_over_the_network_is_not_interrupted() {
    let place = Place::new();
    let programs = Programs::of(&place);
    let policy = place.write("policy.toml", "remote = \"control\"\n");
    let port = holdfast_tests::machine::free_port();
    let at = format!("tcp:127.0.0.1:{port}");
    let starting = programs.instance(&place).arg("--policy").arg(&policy);
    let instance = starting.args(&["--control-listen", &at]).start();
    upgrade(&instance);
    let mut status = program("supervisor");
    outcome::run(status.args(["status", "--json", "--connect", &at])).assert_succeeded();
    let mut stop = program("supervisor");
    outcome::run(stop.args(["stop", "--connect", &at])).assert_succeeded();
    instance.finish().assert_succeeded();
}

#[test]
fn the_command_returns_once_it_is_done_or_says_why_not() {
    let place = Place::new();
    let programs = Programs::of(&place);
    let instance = programs.instance(&place).start();
    let first = identity_of(instance.pid());
    programs.renew();
    instance.command("upgrade", &[]).assert_succeeded();
    assert_ne!(identity_of(instance.pid()), first);
    programs.replace_by("#!/bin/sh\necho it is raining >&2\nexit 1");
    instance.command("upgrade", &[]).assert_failed(1, &["it is raining", "this program goes on"]);
    instance.stop();
    place.command("upgrade", &[]).assert_failed(1, &[]);
}

/// The inode of the program that runs.
fn identity_of(pid: i32) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(format!("/proc/{pid}/exe")).unwrap().ino()
}

#[test]
fn a_reload_afterwards_replaces_everybody_else() {
    let place = Place::new();
    let programs = Programs::of(&place);
    let instance = programs.instance(&place).args(&["--metrics-listen", "tcp:127.0.0.1:0"]).start();
    until("the exporter is there too", || children(&instance).len() == 8);
    let of_before = children(&instance);
    upgrade(&instance);
    assert_eq!(children(&instance), of_before);
    instance.command("reload", &[]).assert_succeeded();
    until("all are others", || {
        let now = children(&instance);
        now.len() == 8 && now.iter().all(|child| !of_before.contains(child))
    });
    instance.wait_for_rest();
    let others = children(&instance);
    // A reload without an upgrade is for template and workers alone.
    instance.command("reload", &[]).assert_succeeded();
    until("workers are others", || {
        children(&instance).iter().filter(|child| others.contains(child)).count() <= 3
    });
    instance.wait_for_rest();
    let same = children(&instance).into_iter().filter(|child| others.contains(child)).count();
    assert_eq!((same, instance.total("crashes")), (3, 0));
    let log = instance.stderr();
    assert!(!log.contains(" ERROR "), "{log}");
    instance.stop();
}
