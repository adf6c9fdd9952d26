//! What is counted is what clients were told, and never becomes less.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holdfast_tests::load::Load;
use holdfast_tests::openmetrics::Samples;
use holdfast_tests::outcome::run;
use holdfast_tests::{DEADLINE, Place, eventually, place, web};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::scene::{SHOWN, assert_none_went_down, by_hand, scrape, shown_at};

/// What a client reports of itself.
#[track_caller]
fn cclient(address: &str, threads: &str, requests: &str) -> u64 {
    let (host, port) = address.strip_prefix("tcp:").and_then(|rest| rest.rsplit_once(':')).unwrap();
    let mut client = place::program("cclient");
    client.args([host, port, threads, "arijort:counted", "--requests", requests, "--json", "--quiet"]);
    let outcome = run(&mut client);
    outcome.assert_succeeded();
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    report["requests"].as_u64().unwrap()
}

#[test]
fn what_is_counted_is_what_clients_were_told() {
    let place = Place::new();
    let instance = place.instance().args(&SHOWN).start();
    let address = shown_at(&instance);
    let handled = cclient(&instance.listen[0], "10", "400");
    let mut connection = instance.connect();
    for _ in 0..3 {
        connection.send("nobody:refused\n");
        assert!(connection.line().starts_with("error unauthorized"));
    }
    drop(connection);
    instance.wait_for_rest();
    let samples = scrape(&address);
    assert_eq!(samples["holdfast_messages_total"], handled as f64);
    assert_eq!(samples["holdfast_user_messages_total{user=\"arijort\"}"], handled as f64);
    assert_eq!(samples["holdfast_errors_total"], 3.0);
    assert_eq!(samples["holdfast_requests_total"], handled as f64 + 3.0);
    assert_eq!(samples["holdfast_connections_total"], handled as f64 + 1.0);
    assert_eq!(samples["holdfast_workers{state=\"idle\"}"], 4.0);
    assert_eq!(samples["holdfast_state{state=\"running\"}"], 1.0);
    assert_eq!(samples["holdfast_up"], 1.0);
    let worked = samples["holdfast_work_seconds_total"];
    assert!(worked > 0.0 && worked < 60.0, "{worked}");

    // What the keeper looks at once a second may have changed between the two looks.
    eventually(DEADLINE, "it is the same document", || {
        let shown: Value = serde_json::from_str(&web::get(&address, "/status")).unwrap();
        let told = instance.status_with_slots();
        if shown == told { Ok(()) } else { Err(format!("{shown}\n{told}")) }
    });
    instance.books_agree();
    instance.stop();
    place.no_process_left();
}

/// Looks until it is told to stop; gives what it saw last.
fn watch(address: &str, stop: &AtomicBool) -> (Samples, u64) {
    let (mut last, mut looks) = (Samples::new(), 0);
    while !stop.load(Ordering::SeqCst) {
        let now = scrape(address);
        assert_none_went_down(&last, &now);
        (last, looks) = (now, looks + 1);
    }
    (last, looks)
}

#[test]
fn no_counter_goes_down_while_workers_and_supervisors_are_killed() {
    let place = Place::new();
    let mut instance = place.instance().workers(6).start();
    let (exporter, address) = by_hand(&place);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch(&address, &stop));
        let mut acknowledged = 0;
        for round in 0..3 {
            let load = Load::on(&instance.listen[0], 4);
            for _ in 0..10 {
                load.wait_for_more(20);
                let pids = instance.worker_pids();
                if let Some(pid) = pids.first() {
                    instance.signal_child(*pid, Signal::SIGKILL);
                }
            }
            load.wait_for_more(20);
            let ledger = load.stop();
            acknowledged += ledger.acknowledged.len();
            if round < 2 {
                instance.kill9_leaving_visitors();
                instance = place.instance().workers(6).start();
            }
        }
        let records = instance.books_agree().len();
        assert!(records >= acknowledged);
        eventually(DEADLINE, "it counts what the journal has", || {
            let samples = scrape(&address);
            let counted = samples["holdfast_messages_total"];
            if counted == records as f64 && samples["holdfast_up"] == 1.0 {
                Ok(())
            } else {
                Err(counted.to_string())
            }
        });
        stop.store(true, Ordering::SeqCst);
        let (last, looks) = watching.join().expect("no counter went down");
        assert!(looks > 20, "{looks}");
        assert!(last["holdfast_crashes_total"] >= 20.0, "{last:?}");
        instance.stop_leaving_visitors();
    });
    drop(exporter);
}

/// So many deaths are looked on at, forty a second where the machine keeps up.
const KILLS: u32 = 120;

#[test]
fn forty_kills_a_second_fail_no_request() {
    let place = Place::new();
    let instance = place.instance().workers(12).args(&SHOWN).start();
    let address = shown_at(&instance);
    let load = Load::on(&instance.listen[0], 4);
    let (began, mut kills, mut looks) = (Instant::now(), 0_u32, 0_u32);
    let mut last = Samples::new();
    while kills < KILLS || looks < KILLS / 4 {
        assert!(began.elapsed() < DEADLINE, "{kills} killed, looked at {looks} times");
        if began.elapsed() >= Duration::from_millis(25) * kills {
            let shown: Value = serde_json::from_str(&web::get(&address, "/status")).unwrap();
            let busy = shown["slots"].as_array().unwrap().iter().filter(|slot| slot["state"] == "busy");
            let pids: Vec<_> = busy.filter_map(|slot| slot["pid"].as_i64()).collect();
            if let Some(pid) = pids.get(kills as usize % pids.len().max(1)) {
                instance.signal_child(*pid as i32, Signal::SIGKILL);
            }
            kills += 1;
        }
        let now = scrape(&address);
        assert_none_went_down(&last, &now);
        assert!(web::get(&address, "/").contains("<title>Holdfast</title>"));
        (last, looks) = (now, looks + 1);
    }
    let ledger = load.stop();
    ledger.check(&instance.books_agree());
    let shown: Value = serde_json::from_str(&web::get(&address, "/status")).unwrap();
    let crashes = shown["last_crashes"].as_array().unwrap();
    assert_eq!(crashes.len(), 16, "the latest: {shown}");
    assert!(
        crashes.iter().all(|crash| crash["ending"] == "killed by SIGKILL" && crash["repaired_us"].is_u64()),
        "{shown}"
    );
    instance.stop();
}

#[test]
fn a_region_of_another_size_is_followed_and_counted_on() {
    let place = Place::new();
    let instance = place.start();
    let (exporter, address) = by_hand(&place);
    for _ in 0..20 {
        instance.say("before");
    }
    let before = scrape(&address);
    assert_eq!(before["holdfast_messages_total"], 20.0);
    instance.stop_leaving_visitors();
    let meanwhile = scrape(&address);
    assert_eq!((meanwhile["holdfast_up"], meanwhile["holdfast_messages_total"]), (0.0, 20.0));
    let instance = place.instance().region_size("8MiB").start();
    instance.say("after");
    instance.wait_for_rest();
    let after = scrape(&address);
    assert_none_went_down(&meanwhile, &after);
    assert_eq!((after["holdfast_up"], after["holdfast_messages_total"]), (1.0, 21.0));
    assert!(after["holdfast_heap_bytes"] > before["holdfast_heap_bytes"]);
    drop(exporter);
    instance.stop();
}
