//! Kill -9 anything at any moment: the survivors serve, nothing acknowledged is lost, and the books agree.

use std::collections::BTreeSet;

use holdfast_tests::load::Load;
use holdfast_tests::place::Starting;
use holdfast_tests::processes::{Process, children_of};
use holdfast_tests::{Connection, DEADLINE, Instance, Place, eventually, programs, until};
use nix::sys::signal::Signal;

/// Kills workers that serve, one after the other, each once.
struct Killer<'a> {
    instance: &'a Instance,
    killed: BTreeSet<i32>,
}

impl<'a> Killer<'a> {
    fn of(instance: &'a Instance) -> Self {
        Self { instance, killed: BTreeSet::new() }
    }

    /// Kills one of the workers in these states, chosen by `number`; waits until there is one.
    #[track_caller]
    fn kill_one(&mut self, states: &[&str], number: usize) -> i32 {
        eventually(DEADLINE, "a worker is killed", || {
            let pids: Vec<_> = self.instance.workers_that_are(states);
            let pids: Vec<_> = pids.into_iter().filter(|pid| !self.killed.contains(pid)).collect();
            match pids.get(number % pids.len().max(1)) {
                Some(&pid) if self.instance.signal_child(pid, Signal::SIGKILL) => {
                    self.killed.insert(pid);
                    Ok(pid)
                }
                _ => Err(format!("{pids:?}")),
            }
        })
    }

    /// Kills one that waits for a connection, and waits until it is gone: what comes while it dies may go with it.
    #[track_caller]
    fn kill_idle(&mut self, number: usize) {
        let pids = self.instance.workers_that_are(&["idle"]);
        let pid = pids[number % pids.len()];
        self.instance.kill_child(pid);
        self.killed.insert(pid);
    }

    /// Every death was seen, counted once, and repaired.
    #[track_caller]
    fn assert_counted(&self) {
        let killed = self.killed.len();
        let status = self.instance.wait_for_rest();
        assert_eq!(status["totals"]["crashes"], killed, "{status}\n{}", self.instance.stderr());
        assert_eq!(status["totals"]["recoveries"], killed, "{status}\n{}", self.instance.stderr());
    }
}

// ---- Workers ----------------------------------------------------------------------------------------------------------

#[test]
fn a_killed_idle_worker_is_replaced() {
    let place = Place::new();
    let instance = place.start();
    let mut killer = Killer::of(&instance);
    for number in 0..5 {
        killer.kill_idle(number);
        instance.say("served meanwhile");
    }
    killer.assert_counted();
    let status = instance.status();
    let took = &status["recovery_us"];
    assert!(took["last"].as_u64() > Some(0) && took["max"].as_u64() >= took["p50"].as_u64(), "{status}");
    assert_eq!(instance.books_agree().len(), 5);
    instance.stop();
}

#[test]
fn a_worker_killed_at_work_ends_its_connection_and_no_other() {
    let place = Place::new();
    let instance = place.instance().args(&["--latency", "300ms"]).start();
    let mut other = instance.connect();
    let mut connection = instance.connect();
    connection.say("arijort", "acknowledged");
    other.send("foobar:undisturbed\n");
    connection.send("arijort:cut off\n");
    let slots = eventually(DEADLINE, "both are at work", || {
        let slots = instance.status_with_slots()["slots"].clone();
        let doing = |words: &str| {
            let slots = slots.as_array().into_iter().flatten();
            slots.filter(|slot| slot["doing"].as_str().is_some_and(|doing| doing.contains(words))).count()
        };
        if doing("cut off") == 1 { Ok(slots) } else { Err(slots.to_string()) }
    });
    let victim =
        slots.as_array().unwrap().iter().find(|slot| slot["doing"].as_str().unwrap().contains("cut off"));
    let pid = victim.unwrap()["pid"].as_i64().unwrap() as i32;
    assert!(instance.signal_child(pid, Signal::SIGKILL));
    connection.expect_end();
    assert!(other.line().contains("undisturbed"));
    other.say("foobar", "and goes on");
    drop(other);

    let messages: Vec<_> = instance.books_agree().into_iter().map(|record| record.message).collect();
    assert!(!messages.contains(&"cut off".to_owned()), "{messages:?}");
    assert_eq!(messages.len(), 3, "{messages:?}");
    let status = instance.status();
    assert_eq!((&status["totals"]["crashes"], &status["totals"]["recoveries"]), (&1.into(), &1.into()));
    // Status and the log name what it died of and what it was at.
    let crash = &status["last_crashes"][0];
    assert!(crash["doing"].as_str().is_some_and(|doing| doing.contains("cut off")), "{crash}");
    assert_eq!(crash["ending"], "killed by SIGKILL");
    instance.wait_for_log("cut off");
    assert!(instance.stderr().contains("SIGKILL"), "{}", instance.stderr());
    instance.stop();
}

#[test]
fn a_worker_that_a_real_time_signal_ends_is_replaced() {
    let place = Place::new();
    let instance = place.start();
    let before = instance.status_with_slots();
    let pid = before["slots"][0]["pid"].as_i64().unwrap();
    let killed = std::process::Command::new("sh").args(["-c", &format!("kill -40 {pid}")]).status().unwrap();
    assert!(killed.success());
    let status = eventually(DEADLINE, "it is repaired and replaced", || {
        let status = instance.status();
        let done =
            status["totals"]["recoveries"] == 1 && status["workers"]["live"] == before["workers"]["live"];
        if done { Ok(status) } else { Err(status.to_string()) }
    });
    assert_eq!(status["last_crashes"][0]["ending"], "killed by signal 40");
    instance.stop();
}

/// Kills `kills` workers while clients send, then looks at everything.
fn kill_under_load(starting: Starting, kills: usize, mut meanwhile: impl FnMut(&Instance, usize)) {
    let instance = starting.start();
    let load = Load::on(&instance.listen[0], 6);
    let mut killer = Killer::of(&instance);
    for number in 0..kills {
        load.wait_for_more(10);
        killer.kill_one(&["busy"], number);
        meanwhile(&instance, number);
    }
    load.wait_for_more(100);
    let ledger = load.stop();
    ledger.check(&instance.books_agree());
    killer.assert_counted();
    assert!(ledger.errors.is_empty(), "{:?}", ledger.errors);
    assert!(ledger.broken as usize <= 2 * kills, "{} connections broke by {kills} deaths", ledger.broken);
    let records = instance.books_agree();
    instance.stop();
    ledger.check(&records);
}

#[test]
fn workers_killed_under_load_lose_nothing() {
    let place = Place::new();
    kill_under_load(place.instance().workers(8), 60, |_, _| {});
}

#[test]
fn workers_killed_under_load_with_every_record_on_the_disk_lose_nothing() {
    let place = Place::new();
    kill_under_load(place.instance().workers(8).args(&["--sync", "always"]), 20, |_, _| {});
}

#[test]
fn all_workers_killed_at_once_come_back() {
    let place = Place::new();
    let instance = place.instance().workers(20).start();
    let load = Load::on(&instance.listen[0], 6);
    let mut killed = 0;
    for _ in 0..3 {
        load.wait_for_more(50);
        let pids = instance.worker_pids();
        killed += pids.iter().filter(|pid| instance.signal_child(**pid, Signal::SIGKILL)).count();
    }
    load.wait_for_more(50);
    let ledger = load.stop();
    ledger.check(&instance.books_agree());
    let status = instance.wait_for_rest();
    assert_eq!(status["totals"]["crashes"], killed, "{status}");
    assert_eq!(status["totals"]["recoveries"], killed, "{status}");
    instance.stop();
}

#[test]
fn a_worker_that_ends_by_another_signal_is_repaired_too() {
    let place = Place::new();
    let instance = place.start();
    let signals = [Signal::SIGSEGV, Signal::SIGABRT, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL];
    for signal in signals {
        let pid = instance.say("by whom");
        assert!(instance.signal_child(pid, signal), "{signal}");
        until("it is gone", || !instance.worker_pids().contains(&pid));
        instance.wait_for_rest();
    }
    assert_eq!(instance.total("crashes"), signals.len() as u64);
    instance.books_agree();
    instance.stop();
}

#[test]
fn a_stopped_worker_holds_up_nobody_else() {
    let place = Place::new();
    let instance = place.instance().args(&["--latency", "100ms"]).start();
    let mut connection = instance.connect();
    let pid = connection.say("arijort", "one");
    assert!(instance.signal_child(pid, Signal::SIGSTOP));
    connection.send("arijort:two\n");
    for _ in 0..20 {
        assert_ne!(instance.say("others are served"), pid);
    }
    assert!(instance.signal_child(pid, Signal::SIGCONT));
    assert!(connection.line().contains("two"));
    drop(connection);
    assert_eq!(instance.books_agree().len(), 22);
    assert_eq!(instance.total("crashes"), 0);
    instance.stop();
}

#[test]
fn a_stopped_worker_does_not_keep_an_instance_from_stopping() {
    let place = Place::new();
    let instance = place.instance().args(&["--grace", "300ms"]).start();
    for pid in instance.worker_pids() {
        assert!(instance.signal_child(pid, Signal::SIGSTOP));
    }
    instance.stop();
    place.no_process_left();
}

// ---- The other processes ----------------------------------------------------------------------------------------------

/// Kills whom status names under `key`, and waits until there is another.
#[track_caller]
fn replace(instance: &Instance, key: &str) {
    let pid = eventually(DEADLINE, key, || {
        let status = instance.status();
        status[key].as_i64().filter(|pid| *pid > 0).ok_or_else(|| status.to_string())
    });
    instance.signal_child(pid as i32, Signal::SIGKILL);
    instance.wait_for_status(&format!("there is another {key}"), |status| {
        status[key].as_i64().is_some_and(|other| other > 0 && other != pid)
    });
}

#[test]
fn a_killed_template_is_replaced_and_the_workers_go_on() {
    let place = Place::new();
    let instance = place.start();
    let mut connection = instance.connect();
    let pid = connection.say("arijort", "before");
    for _ in 0..5 {
        replace(&instance, "template_pid");
        assert_eq!(connection.say("arijort", "meanwhile"), pid);
    }
    drop(connection);
    let mut killer = Killer::of(&instance);
    killer.kill_idle(0);
    killer.kill_idle(1);
    killer.assert_counted();
    assert_eq!(instance.books_agree().len(), 6);
    instance.stop();
}

#[test]
fn template_and_workers_killed_together_come_back() {
    let place = Place::new();
    kill_under_load(place.instance().workers(8), 15, |instance, _| {
        let template = instance.status()["template_pid"].as_i64().unwrap_or(0) as i32;
        instance.signal_child(template, Signal::SIGKILL);
    });
}

#[test]
fn recovery_killed_again_and_again_repairs_all_the_same() {
    let place = Place::new();
    kill_under_load(place.instance().workers(8), 25, |instance, _| {
        let recovery = instance.status()["recovery_pid"].as_i64().unwrap_or(0) as i32;
        instance.signal_child(recovery, Signal::SIGKILL);
    });
}

#[test]
fn recovery_started_for_each_crash_does_the_same() {
    let place = Place::new();
    kill_under_load(place.instance().workers(8).args(&["--recovery", "spawn"]), 30, |instance, number| {
        if number == 0 {
            instance.wait_for_status("no recovery waits", |status| status["recovery_pid"] == 0);
        }
    });
}

#[test]
fn recovery_started_for_each_crash_may_be_killed_too() {
    let place = Place::new();
    kill_under_load(place.instance().workers(8).args(&["--recovery", "spawn"]), 20, |instance, _| {
        for pid in instance.children_in_role("once") {
            instance.signal_child(pid, Signal::SIGKILL);
        }
    });
}

#[test]
fn the_journals_keeper_is_replaced() {
    let place = Place::new();
    let keeper = |instance: &Instance, not: i32| {
        eventually(DEADLINE, "there is a keeper", || {
            let keepers = instance.children_in_role("journal");
            keepers.iter().copied().find(|pid| *pid != not).ok_or_else(|| format!("{keepers:?}"))
        })
    };
    let mut last = 0;
    kill_under_load(place.instance().workers(8), 8, |instance, _| {
        last = keeper(instance, last);
        assert_eq!(Process::of(last).map(|process| process.name).as_deref(), Some("recovery"));
        instance.signal_child(last, Signal::SIGKILL);
    });
    let names = holdfast_tests::journal::names(&place.spool_dir());
    assert!(!names.iter().any(|name| name.ends_with(".lock")), "everything is sealed: {names:?}");
}

#[test]
fn everything_killed_in_turn_under_load_loses_nothing() {
    let place = Place::new();
    kill_under_load(place.instance().workers(8), 24, |instance, number| {
        let children = children_of(instance.pid());
        let chosen = children[(number * 7 + 3) % children.len()];
        // A worker among them would not be counted as the killer's.
        if Process::of(chosen).is_some_and(|process| process.name != "worker") {
            instance.signal_child(chosen, Signal::SIGKILL);
        }
    });
}

// ---- Repair that fails ------------------------------------------------------------------------------------------------

/// An instance whose recovery is a puppet.
fn with_puppet(place: &Place, play: &str, cue: &str, times: &str) -> Starting {
    let real = programs::path("recovery");
    puppet(place, play, cue, times).arg("--recovery-program").arg(programs::puppet()).env("PUPPET_REAL", real)
}

fn puppet(place: &Place, play: &str, cue: &str, times: &str) -> Starting {
    place
        .instance()
        .env("PUPPET_PLAY", play)
        .env("PUPPET_CUE", cue)
        .env("PUPPET_TIMES", times)
        .env("PUPPET_TALLY", place.file("tally"))
}

fn played(place: &Place) -> u64 {
    std::fs::metadata(place.file("tally")).map_or(0, |tally| tally.len())
}

#[test]
fn three_failures_at_a_slot_are_damage_and_are_remembered() {
    for play in ["segv", "panic", "refuse"] {
        let place = Place::new();
        // Without a checkpoint to go back to; with one see checkpoint.rs.
        let never = ["--checkpoint-interval", "0"];
        let instance = with_puppet(&place, play, "repair", "").args(&never).start();
        instance.say("acknowledged");
        instance.wait_for_rest();
        Killer::of(&instance).kill_idle(0);
        instance.finish().assert_failed(4, &["damaged"]);
        assert_eq!(played(&place), 3, "{play}");
        // Nobody serves from a damaged region, whatever program repairs now.
        place.instance().run().assert_failed(4, &["damaged", &place.region().to_string_lossy()]);
        // Doing what the sentence says helps, and the journal still has everything.
        std::fs::rename(place.region(), place.run_dir().join("region.damaged")).unwrap();
        let next = place.start();
        next.say("served again");
        next.stop();
        let messages: Vec<_> = place.journal().into_iter().map(|record| record.message).collect();
        assert_eq!(messages, ["acknowledged", "served again"]);
    }
}

#[test]
fn two_failures_are_none() {
    for play in ["segv", "panic"] {
        let place = Place::new();
        let instance = with_puppet(&place, play, "repair", "2").start();
        let mut killer = Killer::of(&instance);
        killer.kill_idle(0);
        killer.assert_counted();
        assert_eq!(played(&place), 2, "{play}");
        killer.kill_idle(1);
        killer.assert_counted();
        instance.books_agree();
        instance.stop();
    }
}

#[test]
fn a_recovery_that_is_killed_is_started_however_often() {
    for how in ["standby", "spawn"] {
        let place = Place::new();
        let instance = with_puppet(&place, "kill", "repair", "12").args(&["--recovery", how]).start();
        let mut killer = Killer::of(&instance);
        killer.kill_idle(0);
        killer.assert_counted();
        assert_eq!(played(&place), 12, "{how}");
        instance.say("served");
        instance.books_agree();
        instance.stop();
    }
}

#[test]
fn a_recovery_that_leaves_again_and_again_floods_nothing() {
    let place = Place::new();
    let instance = with_puppet(&place, "give up", "repair", "").start();
    let began = std::time::Instant::now();
    Killer::of(&instance).kill_idle(0);
    instance.say("served meanwhile");
    instance.wait_for_status("it says that something is wrong", |status| status["state"] == "degraded");
    let (times, lines) = (played(&place), instance.stderr().lines().count());
    // At once where it had been ready, and up to a hundred times a second.
    let allowed = 110 + 100 * began.elapsed().as_secs();
    assert!(times <= allowed, "{times} times in {:?}", began.elapsed());
    assert!(lines < 200, "{lines} lines");
    instance.command("stop", &["--fast"]).assert_succeeded();
    instance.finish().assert_no_panic();
}

#[test]
fn a_recovery_that_hangs_is_replaced() {
    let place = Place::new();
    let instance = with_puppet(&place, "hang", "repair", "1").start();
    let mut killer = Killer::of(&instance);
    killer.kill_idle(0);
    instance.say("served meanwhile");
    killer.assert_counted();
    instance.stop();
}

/// Repairs come before new workers, but not for long.
#[test]
fn workers_are_replaced_while_recovery_stands_still() {
    let place = Place::new();
    let instance = place.start();
    let mut killer = Killer::of(&instance);
    let all = instance.wait_for_rest()["workers"]["idle"].clone();
    until("a worker is replaced before the dead one is repaired", || {
        let repaired = instance.total("recoveries");
        let recovery = instance.children_in_role("standby");
        if !recovery.iter().all(|pid| instance.stop_child(*pid)) {
            return false;
        }
        killer.kill_idle(0);
        let status = instance.wait_for_status("it is replaced", |status| status["workers"]["idle"] == all);
        // Recovery is not waited for for ever: another may have done it by now.
        let replaced_first = status["totals"]["recoveries"] == repaired;
        for pid in recovery {
            instance.signal_child(pid, Signal::SIGCONT);
        }
        instance.wait_for_rest();
        replaced_first
    });
    killer.assert_counted();
    instance.stop();
}

#[test]
fn a_takeover_that_fails_three_times_is_damage() {
    for play in ["segv", "panic"] {
        let place = Place::new();
        let instance = with_puppet(&place, play, "takeover", "").launch();
        instance.finish().assert_failed(4, &["damaged"]);
        assert_eq!(played(&place), 3, "{play}");
    }
}

#[test]
fn a_takeover_that_is_killed_is_begun_again() {
    let place = Place::new();
    let instance = with_puppet(&place, "kill", "takeover", "5").start();
    instance.say("served");
    instance.books_agree();
    instance.stop();
    assert_eq!(played(&place), 5);
}

#[test]
fn what_recovery_says_is_not_believed_where_it_cannot_be() {
    for play in ["lie", "garbage"] {
        let place = Place::new();
        let instance = with_puppet(&place, play, "repair", "1").start();
        let mut killer = Killer::of(&instance);
        // The puppet keeps this repair to itself; the deadline has it repeated.
        killer.kill_idle(0);
        instance.say("served meanwhile");
        killer.assert_counted();
        instance.books_agree();
        instance.stop();
    }
}

#[test]
fn a_keeper_that_dies_at_sealing_is_replaced() {
    let place = Place::new();
    let instance = with_puppet(&place, "kill", "seal", "2").start();
    instance.say("to be sealed");
    instance.books_agree();
    instance.stop();
    assert_eq!(played(&place), 2);
    assert_eq!(place.journal().len(), 1);
}

// ---- Children that cannot start ---------------------------------------------------------------------------------------

/// An instance whose template is a puppet.
fn with_puppet_template(place: &Place, play: &str, cue: &str, times: &str) -> Starting {
    puppet(place, play, cue, times)
        .arg("--worker")
        .arg(programs::puppet())
        .env("PUPPET_REAL", programs::path("worker"))
        .env("PUPPET_ROLE", "template")
}

#[test]
fn a_template_that_says_why_it_cannot_load_ends_the_start() {
    let place = Place::new();
    let outcome = with_puppet_template(&place, "fail", "start", "").run();
    outcome.assert_failed(2, &["the puppet does not want to"]);
    place.no_process_left();
}

#[test]
fn a_template_that_dies_while_loading_ends_the_start() {
    for play in ["segv", "panic", "give up", "leave"] {
        let place = Place::new();
        with_puppet_template(&place, play, "start", "").run().assert_failed(1, &["template"]);
        place.no_process_left();
    }
}

#[test]
fn a_child_that_has_not_come_to_following_the_supervisor_dies_with_it() {
    let place = Place::new();
    let instance = with_puppet_template(&place, "hang", "start", "1").launch();
    until("it hangs before it has read anything", || played(&place) == 1);
    instance.kill9();
    place.start().stop();
}

#[test]
fn a_template_killed_while_loading_is_started_again() {
    let place = Place::new();
    let instance = with_puppet_template(&place, "kill", "start", "2").start();
    instance.say("served");
    instance.books_agree();
    instance.stop();
}

#[test]
fn a_template_that_cannot_clone_ends_the_start() {
    let place = Place::new();
    let outcome = with_puppet_template(&place, "no-clone", "spawn", "").run();
    outcome.assert_failed(1, &["cannot start more workers", "0 of 4"]);
    place.no_process_left();
}

#[test]
fn workers_that_die_at_once_are_not_tried_without_end() {
    let place = Place::new();
    let instance = with_puppet_template(&place, "stillborn", "spawn", "").launch();
    instance.wait_for_log("before it was ready");
    let status = eventually(DEADLINE, "it says that it is degraded", || {
        let outcome = instance.command("status", &["--json"]);
        if outcome.stdout.contains("degraded") { Ok(outcome.stdout) } else { Err(outcome.to_string()) }
    });
    assert!(status.contains("\"live\":0"), "{status}");
    instance.command("stop", &[]).assert_succeeded();
    let outcome = instance.finish();
    outcome.assert_no_panic();
    assert!(outcome.stdout.is_empty(), "it never served: {outcome}");
    assert!(outcome.stderr.lines().count() < 100, "no flood: {outcome}");
}

#[test]
fn a_template_that_dies_at_each_clone_is_replaced_until_one_does_not() {
    let place = Place::new();
    let instance = with_puppet_template(&place, "kill", "spawn", "2").start();
    assert_eq!(played(&place), 2);
    instance.say("served");
    instance.books_agree();
    instance.stop();
}

#[test]
fn a_template_that_speaks_nonsense_is_replaced() {
    let place = Place::new();
    let instance = with_puppet_template(&place, "garbage", "spawn", "1").start();
    assert_eq!(played(&place), 1);
    instance.say("served");
    instance.books_agree();
    instance.stop();
}

#[test]
fn a_template_that_names_the_wrong_process_is_replaced() {
    let place = Place::new();
    // It answers about an owner that nobody asked about, and does not do what it was asked: its deadline passes.
    let instance = with_puppet_template(&place, "lie", "spawn", "1").start();
    assert_eq!(played(&place), 1);
    instance.say("served");
    instance.books_agree();
    instance.stop();
}

#[test]
fn a_hanging_template_does_not_keep_an_instance_from_stopping() {
    let place = Place::new();
    let instance = place.instance().args(&["--grace", "300ms"]).start();
    let template = instance.status()["template_pid"].as_i64().unwrap() as i32;
    assert!(instance.signal_child(template, Signal::SIGSTOP));
    Killer::of(&instance).kill_idle(0);
    instance.say("served meanwhile");
    instance.wait_for_status("a worker is missing", |status| status["totals"]["recoveries"] == 1);
    instance.stop();
    place.no_process_left();
}

// ---- Connections meanwhile --------------------------------------------------------------------------------------------

#[test]
fn connections_made_while_every_worker_is_dead_are_served_by_the_next() {
    let place = Place::new();
    let instance = place.instance().workers(2).start();
    let pids = instance.worker_pids();
    // With the template stopped, nobody takes their place yet.
    let template = instance.status()["template_pid"].as_i64().unwrap() as i32;
    assert!(instance.signal_child(template, Signal::SIGSTOP));
    pids.iter().for_each(|pid| instance.kill_child(*pid));
    let mut early: Vec<Connection> = (0..6).map(|_| instance.connect()).collect();
    for (number, connection) in early.iter_mut().enumerate() {
        connection.send(format!("arijort:early {number}\n"));
    }
    assert!(instance.signal_child(template, Signal::SIGCONT));
    for (number, mut connection) in early.into_iter().enumerate() {
        assert!(connection.line().contains(&format!("early {number}")));
    }
    instance.books_agree();
    instance.stop();
}
