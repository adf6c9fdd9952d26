//! A program that is attached and is stopped (SIGSTOP) with a lock, or inside a transaction: what waits for it, who is told,
//! and what does not wait.

use std::time::{Duration, Instant};

use holdfast_tests::place::program;
use holdfast_tests::{Instance, Place, Visitor, outcome, programs, until};
use nix::sys::signal::Signal;
use serde_json::Value;

/// What goes on beside one who is stopped is done long before this, and what waits for it never is.
const AT_ONCE: Duration = Duration::from_secs(20);

/// A visitor that is stopped with a queue's lock, and one that has died after it took an item from that queue.
struct PutOff {
    holder: Visitor,
    victim: Visitor,
    /// `slot N generation M` of the victim.
    owner: String,
}

impl PutOff {
    #[track_caller]
    fn of(place: &Place, instance: &Instance) -> Self {
        let mut holder = Visitor::attached(&place.run_dir());
        holder.must("open 8", "opened");
        holder.must("push", "pushed");
        let mut victim = Visitor::start(&place.run_dir());
        let said = victim.ask("attach");
        let owner: Vec<_> = said.strip_prefix("attached ").expect(&said).split(' ').collect();
        let owner = format!("slot {} generation {}", owner[0], owner[1]);
        victim.must("take", "taken");
        holder.must("hold-queue", "holding");
        holder.signal(Signal::SIGSTOP);
        victim.kill();
        instance.wait_for_log("put what a dead process had taken back to its queue");
        Self { holder, victim, owner }
    }

    /// The lock is given back, and the item comes back.
    #[track_caller]
    fn goes_on(self, place: &Place) {
        let Self { mut holder, victim, .. } = self;
        holder.signal(Signal::SIGCONT);
        holder.must("", "released");
        until("the item is back in its queue", || holder.ask("take") == "taken");
        holder.must("detach", "detached");
        drop((holder, victim));
        outcome::run(program("recovery").arg("verify").arg(place.region())).assert_succeeded();
    }
}

#[track_caller]
fn crashes(instance: &Instance, count: u64) {
    instance.wait_for_status(&format!("{count} crashes"), |status| status["totals"]["crashes"] == count);
}

#[test]
fn other_repairs_do_not_wait_for_one_that_does() {
    for how in ["standby", "spawn"] {
        let place = Place::new();
        let instance = place.instance().args(&["--recovery", how]).start();
        let put_off = PutOff::of(&place, &instance);
        for count in 2..5 {
            let worker = instance.say("acknowledged");
            instance.kill_child(worker);
            crashes(&instance, count);
        }
        let status = instance.wait_for_status("the others are repaired", |status| {
            status["totals"]["recoveries"] == 3 + 1 && status["workers"]["idle"] == 4
        });
        assert_eq!(status["state"], "running", "{how}: {status}");
        put_off.goes_on(&place);
        instance.wait_for_status("nobody waits", |status| status["attached"] == 0);
        instance.stop();
    }
}

#[test]
fn a_stop_does_not_wait_for_a_repair_that_does() {
    for grace in ["10s", "0"] {
        let place = Place::new();
        let instance = place.instance().args(&["--grace", grace]).start();
        let put_off = PutOff::of(&place, &instance);
        instance.say("acknowledged");
        let began = Instant::now();
        let stopped = instance.stop_leaving_visitors();
        assert!(began.elapsed() < AT_ONCE, "--grace {grace}: {:?}\n{stopped}", began.elapsed());
        let said = format!("what the former owner of {} had taken", put_off.owner);
        assert!(stopped.stderr.contains(&said), "--grace {grace}: {stopped}");
        assert!(!stopped.stderr.contains("the spool cannot be read"), "--grace {grace}: {stopped}");
        assert!(
            !place
                .spool_dir()
                .read_dir()
                .unwrap()
                .flatten()
                .any(|entry| { entry.file_name().to_string_lossy().ends_with(".lock") }),
            "the journal is sealed"
        );
        let instance = place.start();
        instance.say("served again");
        put_off.goes_on(&place);
        instance.wait_for_status("nobody waits", |status| status["attached"] == 0);
        assert_eq!(instance.books_agree().len(), 2);
        instance.stop();
    }
}

/// Nor by what takes over in the supervisor's process (USR2).
#[test]
fn a_repair_that_waits_is_not_forgotten() {
    let place = Place::new();
    let instance = place.start();
    let put_off = PutOff::of(&place, &instance);
    instance.signal(Signal::SIGUSR2);
    instance.wait_for_log("goes on where version");
    let before = instance.children_in_role("standby");
    before.iter().for_each(|pid| instance.kill_child(*pid));
    until("there is another recovery", || {
        instance.children_in_role("standby").iter().any(|pid| !before.contains(pid))
    });
    put_off.goes_on(&place);
    instance.wait_for_status("nobody waits", |status| status["attached"] == 0);
    crashes(&instance, 1);
    instance.stop();
}

/// The first that recovery was told of waits; it is the second that it dies of.
#[test]
fn who_is_worked_on_is_blamed_for_what_recovery_dies_of() {
    let place = Place::new();
    let when = place.file("when");
    let starting = place.instance().arg("--recovery-program").arg(programs::puppet());
    let instance = starting
        .env("PUPPET_REAL", programs::path("recovery"))
        .env("PUPPET_PLAY", "segv")
        .env("PUPPET_CUE", "delayed")
        .env("PUPPET_WHEN", &when)
        .env("PUPPET_TIMES", "3")
        .env("PUPPET_TALLY", place.file("tally"))
        .start();
    instance.command("checkpoint", &[]).assert_succeeded();
    let put_off = PutOff::of(&place, &instance);
    let status = instance.status_with_slots();
    let worker = instance.worker_pids()[0];
    let slot = status["slots"].as_array().unwrap().iter().find(|slot| slot["pid"] == worker).unwrap();
    let owner = format!("slot {} generation {}", slot["slot"], slot["generation"]);
    std::fs::write(&when, "").unwrap();
    instance.kill_child(worker);
    instance.wait_for_log("the region is damaged");
    instance.wait_for_log(&format!("recovery failed three times to repair {owner}"));
    instance.wait_for_log("the region was restored from checkpoint");
    let PutOff { holder, victim, .. } = put_off;
    drop((holder, victim));
    instance.command("reload", &[]).assert_succeeded();
    instance.say("served again");
    instance.stop();
}

#[test]
fn no_checkpoint_is_taken_while_one_is_stopped_inside_a_transaction_and_that_is_said() {
    let place = Place::new();
    let instance = place.instance().args(&["--checkpoint-interval", "1s"]).start();
    instance.wait_for_status("one is taken", |status| status["checkpoint"]["number"] == 1);
    assert_eq!(instance.status()["checkpoint_failing"], Value::Null);
    let mut holder = Visitor::attached(&place.run_dir());
    holder.must("open 8", "opened");
    holder.must("hold", "holding");
    holder.signal(Signal::SIGSTOP);
    let who = format!("process {}", holder.pid());
    instance.command("checkpoint", &[]).assert_failed(1, &["inside a transaction", &who, "visitor"]);
    instance.wait_for_log(&who);
    let status = instance.wait_for_status("it says so", |status| status["state"] == "degraded");
    let why = status["checkpoint_failing"].as_str().unwrap_or_default();
    assert!(why.contains(&who), "{status}");
    let text = instance.command("status", &[]).stdout;
    assert!(text.contains("no checkpoint") && text.contains(&who), "{text}");
    instance.say("served all the same");
    holder.signal(Signal::SIGCONT);
    holder.must("restore", "released");
    instance.wait_for_status("it is over", |status| {
        status["state"] == "running" && status["checkpoint_failing"] == Value::Null
    });
    holder.must("detach", "detached");
    drop(holder);
    instance.stop();
}
