//! The pool: as many workers as are needed and some to spare, replaced without a refused connection, and never in a loop
//! that costs more than what it is for.

use std::fs::File;
use std::time::{Duration, Instant};

use client::attach::{Attachment, START_LOCK};
use common::sys::file::{Lock, try_lock};
use holdfast_tests::load::{Ledger, Load};
use holdfast_tests::machine::{PidsLimit, skip};
use holdfast_tests::{Connection, DEADLINE, Instance, Place, eventually, programs, until};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Waits until everybody waits for a connection and nobody is being started, leaves or is dead.
#[track_caller]
fn at_rest(instance: &Instance) -> Value {
    eventually(DEADLINE, "the pool is at rest", || {
        let status = instance.status_with_slots();
        let slots = status["slots"].as_array().map(Vec::as_slice).unwrap_or_default();
        let at_rest = status["state"] == "running" && slots.iter().all(|slot| slot["state"] == "idle");
        if at_rest { Ok(status) } else { Err(format!("{status}\n{}", instance.stderr())) }
    })
}

/// Waits until so many workers are there, or one of so many.
#[track_caller]
fn live(instance: &Instance, workers: std::ops::RangeInclusive<u64>) -> Value {
    instance.wait_for_status(&format!("{workers:?} workers are there"), |status| {
        status["workers"]["live"].as_u64().is_some_and(|live| workers.contains(&live))
    })
}

#[track_caller]
fn busy(instance: &Instance, workers: u64) -> Value {
    instance.wait_for_status(&format!("{workers} workers are busy"), |status| {
        status["workers"]["busy"] == workers
    })
}

/// Everything that was sent over a connection that was accepted was answered, and is in the journal once.
#[track_caller]
fn nothing_lost(place: &Place, instance: &Instance, ledger: &Ledger) {
    let status = at_rest(instance);
    let records = place.journal();
    ledger.check(&records);
    assert!(ledger.errors.is_empty(), "{:?}", ledger.errors);
    assert_eq!(ledger.broken, 0, "every connection that was accepted was answered");
    assert_eq!(ledger.sent, ledger.acknowledged);
    assert_eq!(status["totals"]["messages"], records.len());
    assert_eq!(status["totals"]["crashes"], 0, "{status}");
}

// ---- Options ----------------------------------------------------------------------------------------------------------

#[test]
fn pools_that_contradict_themselves_are_one_sentence() {
    let table: [(&[&str], &str); 6] = [
        (&["--workers", "3", "--min-workers", "2"], "cannot be used with"),
        (&["--max-spare", "9", "-w", "3"], "cannot be used with"),
        (&["--min-workers", "9", "--max-workers", "3"], "--min-workers 9 is more than --max-workers 3"),
        (&["--min-spare", "9", "--max-spare", "3"], "--min-spare 9 is more than --max-spare 3"),
        (&["--min-spare", "0"], "--min-spare"),
        (&["--max-workers", "60000"], "--max-workers 60000"),
    ];
    for (options, words) in table {
        let place = Place::new();
        place.instance().without_pool().args(options).run().assert_failed(2, &[words]);
    }
}

// ---- As many as are needed --------------------------------------------------------------------------------------------

#[test]
fn it_grows_with_the_connections_and_shrinks_when_they_go() {
    let place = Place::new();
    let instance = place.instance().dynamic(2..=60, 2..=6).start();
    assert_eq!(instance.workers, 2);
    let status = at_rest(&instance);
    assert_eq!((&status["workers"]["live"], &status["workers"]["configured"]), (&2.into(), &60.into()));
    let first = instance.worker_pids();

    let connections: Vec<Connection> = (0..40).map(|_| instance.connect()).collect();
    busy(&instance, 40);
    let status = live(&instance, 42..=60);
    assert_eq!(status["state"], "running");
    for mut connection in connections {
        connection.say("arijort", "each has a worker of its own");
    }
    let ended = Instant::now();
    live(&instance, 2..=6);
    assert!(ended.elapsed() < Duration::from_secs(10), "{:?}", ended.elapsed());
    let status = at_rest(&instance);
    assert!(status["workers"]["live"].as_u64() >= Some(2), "{status}");
    assert!(instance.worker_pids().iter().any(|pid| first.contains(pid)), "the first ones stay");
    assert_eq!((instance.total("messages"), instance.total("crashes")), (40, 0));
    assert_eq!(place.journal().len(), 40);
    instance.stop();
}

#[test]
fn a_burst_of_silent_connections_finds_workers_at_once() {
    let place = Place::new();
    let instance = place.instance().dynamic(5..=100, 5..=20).args(&["--latency", "1m"]).start();
    let mut connections: Vec<Connection> = (0..100).map(|_| instance.connect()).collect();
    let began = Instant::now();
    busy(&instance, 100);
    assert!(began.elapsed() < Duration::from_secs(5), "not on a tick: {:?}", began.elapsed());
    connections.iter_mut().for_each(|connection| connection.send("arijort:slow\n"));
    instance.command("stop", &["--fast"]).assert_succeeded();
    instance.finish().assert_succeeded();
}

#[test]
fn the_most_is_not_exceeded_and_who_waits_comes_to_his_turn() {
    let place = Place::new();
    let instance = place.instance().dynamic(1..=6, 1..=2).start();
    let mut connections: Vec<Connection> = (0..12).map(|_| instance.connect()).collect();
    busy(&instance, 6);
    for number in 0..12 {
        let status = instance.status();
        assert!(status["workers"]["live"].as_u64() <= Some(6), "{status}");
        let mut connection = connections.remove(0);
        connection.say("arijort", &number.to_string());
    }
    live(&instance, 1..=2);
    assert_eq!(at_rest(&instance)["totals"]["messages"], 12);
    instance.stop();
}

#[test]
fn a_load_that_comes_and_goes_forks_nobody() {
    let place = Place::new();
    let instance = place.instance().dynamic(2..=40, 2..=4).start();
    let burst = || {
        let connections: Vec<Connection> = (0..20).map(|_| instance.connect()).collect();
        busy(&instance, 20);
        drop(connections);
    };
    burst();
    busy(&instance, 0);
    let before = instance.worker_pids();
    for _ in 0..8 {
        burst();
        busy(&instance, 0);
    }
    let after = instance.worker_pids();
    assert!(before.iter().all(|pid| after.contains(pid)), "nobody left between bursts");
    live(&instance, 2..=4);
    instance.stop();
}

#[test]
fn deaths_do_not_keep_a_pool_from_growing() {
    let place = Place::new();
    let instance = place.instance().dynamic(10..=60, 5..=30).start();
    // The dead take their share of the count of spare workers along.
    for pid in instance.worker_pids() {
        instance.kill_child(pid);
    }
    instance.wait_for_status("they are replaced", |status| {
        status["workers"]["idle"] == 10 && status["totals"]["recoveries"] == 10
    });
    let connections: Vec<Connection> = (0..30).map(|_| instance.connect()).collect();
    busy(&instance, 30);
    for pid in instance.workers_that_are(&["busy"]).into_iter().take(15) {
        instance.kill_child(pid);
    }
    drop(connections);
    let more: Vec<Connection> = (0..55).map(|_| instance.connect()).collect();
    busy(&instance, 55);
    drop(more);
    live(&instance, 10..=30);
    at_rest(&instance);
    instance.stop();
}

#[test]
fn growing_and_shrinking_lose_no_connection() {
    let place = Place::new();
    let instance = place.instance().dynamic(1..=40, 1..=4).start();
    // One client: with several all workers may be busy for a moment, seeing that their peers have gone.
    let load = Load::with_short_connections(&instance.listen[0], 1);
    for _ in 0..3 {
        load.wait_for_more(50);
        let connections: Vec<Connection> = (0..20).map(|_| instance.connect()).collect();
        live(&instance, 21..=40);
        drop(connections);
        live(&instance, 1..=12);
    }
    nothing_lost(&place, &instance, &load.stop());
    instance.stop();
}

#[test]
fn a_dynamic_pool_is_scaled_by_its_most() {
    let place = Place::new();
    let instance = place.instance().dynamic(3..=8, 3..=3).start();
    let configured = |most: u64| {
        instance.wait_for_status("another bound", |status| status["workers"]["configured"] == most);
    };
    instance.command("scale", &["2"]).assert_succeeded();
    configured(2);
    live(&instance, 2..=2);
    instance.signal(Signal::SIGTTIN);
    configured(3);
    live(&instance, 3..=3);
    instance.signal(Signal::SIGTTOU);
    configured(2);
    instance.command("scale", &["20"]).assert_succeeded();
    configured(20);
    let connections: Vec<Connection> = (0..17).map(|_| instance.connect()).collect();
    live(&instance, 20..=20);
    drop(connections);
    instance.command("scale", &["0"]).assert_failed(1, &["0 workers"]);
    instance.stop();
}

// ---- What cannot be started -------------------------------------------------------------------------------------------

/// An instance whose worker program is what a link points at.
struct Exchanged {
    place: Place,
    instance: Instance,
}

impl Exchanged {
    /// With the real program, which is then exchanged for one that plays at this order.
    fn for_puppet(play: &str, cue: &str) -> Self {
        let place = Place::new();
        link(&place, &programs::path("worker"));
        let instance = place
            .instance()
            .dynamic(3..=20, 2..=4)
            .arg("--worker")
            .arg(place.file("program"))
            .env("PUPPET_PLAY", play)
            .env("PUPPET_CUE", cue)
            .env("PUPPET_ROLE", "template")
            .env("PUPPET_REAL", programs::path("worker"))
            .env("PUPPET_TALLY", place.file("tally"))
            .start();
        link(&place, &programs::puppet());
        Self { place, instance }
    }

    /// From now on templates are the exchanged program.
    fn kill_template(&self) {
        let template = self.instance.status()["template_pid"].as_i64().expect("a pid") as i32;
        assert!(self.instance.signal_child(template, Signal::SIGKILL));
        self.instance.wait_for_status("another template serves", |status| {
            status["template_pid"].as_i64().is_some_and(|pid| pid != 0 && pid != i64::from(template))
        });
    }

    fn played(&self) -> u64 {
        std::fs::metadata(self.place.file("tally")).map_or(0, |tally| tally.len())
    }

    /// The real program is back, and so is everything else.
    fn recovers(self) {
        link(&self.place, &programs::path("worker"));
        self.instance.wait_for_status("it is well again", |status| {
            status["state"] == "running" && status["workers"]["live"].as_u64() >= Some(3)
        });
        let connections: Vec<Connection> = (0..10).map(|_| self.instance.connect()).collect();
        live(&self.instance, 12..=20);
        drop(connections);
        let log = self.instance.stderr();
        assert!(log.lines().count() < 200, "no flood: {log}");
        self.instance.stop();
    }
}

/// `PLACE/program` is that one from now on, without a moment at which it is none.
fn link(place: &Place, program: &std::path::Path) {
    let next = place.file("program.next");
    std::os::unix::fs::symlink(program, &next).expect("a link can be made");
    std::fs::rename(next, place.file("program")).expect("a link can be replaced");
}

/// Failures that follow each other at 50 ms, 100, 200, 400 and 800 take longer than this.
const FIVE_DELAYS: Duration = Duration::from_millis(1500);

#[test]
fn workers_that_crash_at_start_are_tried_later_and_later() {
    let scene = Exchanged::for_puppet("stillborn", "spawn");
    scene.kill_template();
    let began = Instant::now();
    let held: Vec<Connection> = (0..2).map(|_| scene.instance.connect()).collect();
    scene.instance.wait_for_status("it says so", |status| status["state"] == "degraded");
    until("it is tried again and again", || scene.played() >= 6);
    assert!(began.elapsed() >= FIVE_DELAYS, "six tries in {:?}", began.elapsed());
    assert!(scene.played() < 9, "{}", scene.played());
    scene.instance.wait_for_log("before it was ready");
    scene.instance.say("who is there serves");
    drop(held);
    // The template that plays lives, and makes way for the real one only when it dies.
    let template = scene.instance.status()["template_pid"].as_i64().expect("a pid") as i32;
    link(&scene.place, &programs::path("worker"));
    assert!(scene.instance.signal_child(template, Signal::SIGKILL));
    scene.recovers();
}

#[test]
fn a_template_that_dies_of_each_order_is_tried_later_and_later() {
    let scene = Exchanged::for_puppet("segv", "spawn");
    scene.kill_template();
    let began = Instant::now();
    let held: Vec<Connection> = (0..2).map(|_| scene.instance.connect()).collect();
    scene.instance.wait_for_status("it says so", |status| status["state"] == "degraded");
    until("it is tried again and again", || scene.played() >= 6);
    assert!(began.elapsed() >= FIVE_DELAYS, "six tries in {:?}", began.elapsed());
    scene.instance.say("who is there serves");
    drop(held);
    scene.recovers();
}

#[test]
fn a_new_template_that_is_broken_leaves_the_old_one_serving() {
    for play in ["segv", "fail", "leave"] {
        let scene = Exchanged::for_puppet(play, "start");
        let before = scene.instance.status();
        scene.instance.command("reload", &[]).assert_failed(1, &["the former template goes on"]);
        scene.instance.signal(Signal::SIGHUP);
        until("the signal does the same", || scene.played() >= 2);
        let held: Vec<Connection> = (0..8).map(|_| scene.instance.connect()).collect();
        live(&scene.instance, 10..=20);
        drop(held);
        let after = scene.instance.status();
        assert_eq!(after["template_pid"], before["template_pid"]);
        assert_eq!(after["state"], "running");
        scene.instance.stop();
    }
}

#[test]
fn a_limit_of_processes_is_a_state_that_passes() {
    let group = match PidsLimit::new(100) {
        Ok(group) => group,
        Err(why) => return skip("a limit of processes", &why),
    };
    let place = Place::new();
    let instance = place.instance().dynamic(3..=50, 2..=4).after(&group.enter()).start();
    at_rest(&instance);
    let before = group.count() as u32;
    group.set(before + 10);
    let mut held: Vec<Connection> = (0..30).map(|_| instance.connect()).collect();
    instance.wait_for_status("it says so", |status| status["state"] == "degraded");
    instance.wait_for_log("cannot start more workers");
    // The cause goes: so does the state.
    group.set(before + 60);
    busy(&instance, 30);
    instance.wait_for_status("it is well again", |status| status["state"] == "running");
    held[29].say("arijort", "served");
    // The demand goes: then the cause does not matter.
    group.set(before + 32);
    held.extend((0..15).map(|_| instance.connect()));
    instance.wait_for_status("it says so", |status| status["state"] == "degraded");
    drop(held);
    live(&instance, 3..=4);
    at_rest(&instance);
    instance.stop();
}

// ---- Reload -----------------------------------------------------------------------------------------------------------

/// Three reloads under load lose and refuse nothing.
#[track_caller]
fn reloads_under_load(place: &Place, instance: &Instance, load: Load) {
    for _ in 0..3 {
        load.wait_for_more(100);
        let generation = instance.status()["generation"].clone();
        instance.command("reload", &[]).assert_succeeded();
        load.wait_for_more(100);
        assert_ne!(instance.status()["generation"], generation);
    }
    load.wait_for_more(100);
    nothing_lost(place, instance, &load.stop());
}

#[test]
fn reloads_under_load_break_no_connection() {
    for kept in [true, false] {
        for dynamic in [true, false] {
            let place = Place::new();
            let starting = place.instance();
            let pool = if dynamic { starting.dynamic(2..=20, 2..=4) } else { starting.workers(12) };
            // Longer than the load, so that nobody has to be cut off.
            let instance = pool.args(&["--grace", "5m"]).start();
            let address = &instance.listen[0];
            let load = if kept { Load::on(address, 8) } else { Load::with_short_connections(address, 8) };
            reloads_under_load(&place, &instance, load);
            instance.stop();
        }
    }
}

#[test]
fn old_workers_are_gone_when_the_grace_period_is() {
    let place = Place::new();
    let instance = place.instance().workers(4).args(&["--grace", "2s"]).start();
    let old = instance.worker_pids();
    // One client never pauses, one never says anything, one has a request that never ends.
    let load = Load::on(&instance.listen[0], 1);
    let silent = instance.connect();
    busy(&instance, 2);
    load.wait_for_more(20);
    instance.command("reload", &[]).assert_succeeded();
    let began = Instant::now();
    until("the old ones are gone", || {
        let now = instance.workers_that_are(&["starting", "idle", "busy", "retiring", "dead"]);
        !old.iter().any(|pid| now.contains(pid))
    });
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    load.wait_for_more(20);
    let ledger = load.stop();
    drop(silent);
    ledger.check(&place.journal());
    instance.wait_for_rest();
    assert_eq!(instance.total("crashes"), 0);
    instance.stop();
}

// ---- Deadlines --------------------------------------------------------------------------------------------------------

#[test]
fn a_request_that_takes_too_long_is_answered_so_and_not_recorded() {
    let place = Place::new();
    let users = place.write("users", "arijort\n");
    let instance = place
        .instance()
        .workers(2)
        .arg("--users")
        .arg(&users)
        .args(&["--latency", "1m", "--request-timeout", "300ms"])
        .start();
    for _ in 0..3 {
        let mut connection = instance.connect();
        let began = Instant::now();
        connection.send("arijort:too slow\n");
        connection.expect_error("timeout");
        assert!(began.elapsed() >= Duration::from_millis(290) && began.elapsed() < Duration::from_secs(20));
        connection.expect_end();
    }
    assert_eq!(instance.connect().ask("print"), "hello world");
    let status = instance.wait_for_rest();
    assert_eq!(status["totals"]["errors"], 3, "{status}");
    assert_eq!(status["totals"]["crashes"], 0, "{status}");
    assert!(instance.books_agree().is_empty());
    instance.stop();
}

#[test]
fn a_worker_that_does_not_react_is_killed_and_replaced() {
    let place = Place::new();
    let instance =
        place.instance().workers(2).args(&["--latency", "500ms", "--request-timeout", "2s"]).start();
    let mut connection = instance.connect();
    connection.send("arijort:never ends\n");
    busy(&instance, 1);
    let pid = instance.workers_that_are(&["busy"])[0];
    assert!(instance.signal_child(pid, Signal::SIGSTOP));
    connection.expect_end();
    instance.wait_for_log("is asked to leave");
    instance.wait_for_log("never ends");
    instance.wait_for_log("in time and is killed");
    let status = instance.wait_for_rest();
    assert_eq!(status["totals"]["recoveries"], 1, "{status}");
    assert_eq!(status["totals"]["crashes"], 0, "the supervisor felled it: {status}");
    instance.say("the others serve");
    assert_eq!(instance.books_agree().len(), 1);
    instance.stop();
}

#[test]
fn workers_leave_after_about_so_many_requests() {
    let place = Place::new();
    let instance = place.instance().workers(4).args(&["--max-requests", "20"]).start();
    let mut pids = std::collections::BTreeMap::<i32, u32>::new();
    for number in 0..400 {
        *pids.entry(instance.say(&number.to_string())).or_default() += 1;
    }
    assert!(pids.len() >= 400 / 23, "{pids:?}");
    assert!(pids.values().all(|count| *count <= 23), "{pids:?}");
    let gone = pids.values().filter(|count| **count >= 17).collect::<std::collections::BTreeSet<_>>();
    assert!(gone.len() > 1, "not all after the same: {pids:?}");
    let status = instance.wait_for_rest();
    assert_eq!(status["totals"]["crashes"], 0, "{status}");
    assert_eq!(instance.books_agree().len(), 400);
    instance.stop();
}

#[test]
fn a_kept_connection_is_closed_when_it_pauses_or_goes_on_for_too_long() {
    let place = Place::new();
    let instance = place.instance().workers(1).args(&["--max-requests", "8"]).start();
    let mut connection = instance.connect();
    let pid = connection.say("arijort", "0");
    (1..10).for_each(|number| assert_eq!(connection.say("arijort", &number.to_string()), pid));
    connection.expect_end();
    let mut connection = instance.connect();
    let mut answered = 0;
    while connection.try_send(b"arijort:more\n").is_ok() && matches!(connection.try_line(), Ok(Some(_))) {
        answered += 1;
    }
    assert!((14..=20).contains(&answered), "{answered}");
    instance.wait_for_rest();
    assert_eq!(instance.total("crashes"), 0);
    instance.stop();
}

// ---- Ending by itself -------------------------------------------------------------------------------------------------

/// `--idle-exit` in these tests.
const IDLE: Duration = Duration::from_millis(1500);

fn on_demand(place: &Place) -> Instance {
    place.instance().dynamic(2..=10, 2..=4).args(&["--idle-exit", "1500ms"]).start()
}

#[test]
fn an_instance_that_nobody_needs_ends() {
    let place = Place::new();
    let began = Instant::now();
    let mut instance = on_demand(&place);
    // Asking for the status is looking, not using.
    until("it has ended", || {
        let _ = instance.command("status", &[]);
        instance.ended().is_some()
    });
    assert!(began.elapsed() >= IDLE, "{:?}", began.elapsed());
    instance.wait_for_log("nobody has needed this instance");
    instance.finish().assert_succeeded();
    place.no_process_left();
    // Nothing is in the way of the next.
    let next = on_demand(&place);
    next.say("served");
    next.finish().assert_succeeded();
    assert_eq!(place.journal().len(), 1);
}

#[test]
fn whoever_is_connected_or_asks_keeps_it() {
    let place = Place::new();
    let mut instance = on_demand(&place);
    let mut connection = instance.connect();
    let began = Instant::now();
    while began.elapsed() < 2 * IDLE {
        connection.say("arijort", "here");
        std::thread::sleep(IDLE / 10);
    }
    drop(connection);
    let began = Instant::now();
    while began.elapsed() < 2 * IDLE {
        let attachment = Attachment::connect(&place.run_dir()).expect("it lives");
        assert_eq!(attachment.touch().expect("it answers").addresses, instance.listen);
        std::thread::sleep(IDLE / 10);
    }
    assert!(instance.ended().is_none());
    let asked = Instant::now();
    instance.finish().assert_succeeded();
    assert!(asked.elapsed() >= IDLE - IDLE / 10, "{:?}", asked.elapsed());
}

#[test]
fn the_time_begins_when_the_last_connection_ends() {
    let place = Place::new();
    let instance = on_demand(&place);
    let mut connection = instance.connect();
    let began = Instant::now();
    while began.elapsed() < IDLE {
        connection.say("arijort", "here");
        std::thread::sleep(IDLE / 10);
    }
    let left = Instant::now();
    drop(connection);
    instance.finish().assert_succeeded();
    assert!(left.elapsed() >= IDLE, "{:?}", left.elapsed());
}

#[test]
fn it_does_not_end_while_another_holds_the_lock() {
    let place = Place::new();
    let mut instance = on_demand(&place);
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(place.run_dir().join(START_LOCK))
        .expect("the lock's file");
    assert!(try_lock(&lock, Lock::Exclusive).expect("a lock"));
    std::thread::sleep(3 * IDLE);
    assert!(instance.ended().is_none());
    instance.say("served however late");
    drop(lock);
    instance.finish().assert_succeeded();
    assert_eq!(place.journal().len(), 1);
}

#[test]
fn who_has_asked_under_the_lock_always_gets_served() {
    let place = Place::new();
    let mut instance = on_demand(&place);
    let lock_path = place.run_dir().join(START_LOCK);
    let (mut served, mut refused) = (0, 0);
    // The later one asks, the nearer is the end; and one that still answers serves.
    for tenth in 0.. {
        std::thread::sleep(IDLE * (3 + tenth) / 10);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .expect("the lock's file");
        if !try_lock(&lock, Lock::Exclusive).expect("a lock") {
            refused += 1;
            break;
        }
        let Ok(attachment) = Attachment::connect(&place.run_dir()) else { break };
        let Ok(listening) = attachment.touch() else { break };
        drop(lock);
        Connection::to(&listening.addresses[0]).say("arijort", "as promised");
        served += 1;
    }
    assert!(served >= 1, "{served} {refused}");
    until("it ends", || instance.ended().is_some());
    instance.finish().assert_succeeded();
    assert_eq!(place.journal().len(), served);
}
