//! Programs that are attached outlive the supervisor, and its successor looks after them.

use holdfast_tests::place::program;
use holdfast_tests::{Instance, Place, Visitor, outcome, until};
use nix::sys::signal::Signal;

const ACCOUNTS: u64 = 8;

#[track_caller]
fn banker(place: &Place) -> Visitor {
    let mut visitor = Visitor::attached(&place.run_dir());
    visitor.must(&format!("open {ACCOUNTS}"), "opened");
    visitor
}

#[track_caller]
fn crashes(instance: &Instance, count: u64) {
    instance.wait_for_status(&format!("{count} crashes"), |status| status["totals"]["crashes"] == count);
}

#[track_caller]
fn slot_of(instance: &Instance, visitor: &Visitor) -> (u64, u64) {
    let status = instance.status_with_slots();
    let slots = status["slots"].as_array().unwrap();
    let slot = slots.iter().find(|slot| slot["pid"] == visitor.pid());
    let slot = slot.unwrap_or_else(|| panic!("{} has no slot: {status}", visitor.pid()));
    (slot["slot"].as_u64().unwrap(), slot["generation"].as_u64().unwrap())
}

#[track_caller]
fn all_is_well(place: &Place, witness: &mut Visitor) {
    witness.must("sum", &(ACCOUNTS * 1000).to_string());
    outcome::run(program("recovery").arg("verify").arg(place.region())).assert_succeeded();
}

#[test]
fn programs_keep_their_slots_when_the_supervisor_is_killed() {
    let place = Place::new();
    let instance = place.start();
    // Whoever takes the first one would be among the dead.
    instance.wait_for_status("a checkpoint is taken", |status| status["checkpoint"]["number"] == 1);
    let mut idle = banker(&place);
    let mut busy = Visitor::attached(&place.run_dir());
    let slots = [slot_of(&instance, &idle), slot_of(&instance, &busy)];
    busy.must("hold", "holding");
    instance.kill9_leaving_visitors();
    // Nobody is there, and the region is.
    idle.must("add", "1");
    let instance = place.start();
    assert_eq!([slot_of(&instance, &idle), slot_of(&instance, &busy)], slots);
    assert_eq!(busy.ask("restore"), "released", "its transaction has gone on");
    for visitor in [&mut idle, &mut busy] {
        visitor.must("transfer 1 2 10", "done");
    }
    all_is_well(&place, &mut idle);
    assert_eq!((instance.total("crashes"), instance.total("recoveries")), (0, 4), "the four workers");
    // The successor holds them as the former did.
    busy.must("hold", "holding");
    busy.kill();
    idle.must("transfer 0 1 7", "done");
    crashes(&instance, 1);
    all_is_well(&place, &mut idle);
    idle.must("detach", "detached");
    instance.wait_for_status("nobody is attached", |status| status["attached"] == 0);
    assert_eq!(instance.total("crashes"), 1);
    drop((idle, busy));
    instance.stop();
}

#[test]
fn who_dies_while_the_journal_is_sealed_is_repaired_before_the_end() {
    let place = Place::new();
    let instance = place.start();
    let mut witness = banker(&place);
    let mut victim = Visitor::attached(&place.run_dir());
    victim.must("hold", "holding");
    witness.must("detach", "detached");
    let keeper = instance.children_in_role("journal")[0];
    let recovery = instance.children_in_role("standby")[0];
    assert!(instance.signal_child(keeper, Signal::SIGSTOP));
    instance.signal(Signal::SIGTERM);
    instance.wait_for_status("the keeper alone is waited for", |status| {
        status["workers"]["live"] == 0 && status["template_pid"] == 0
    });
    assert!(instance.signal_child(recovery, Signal::SIGSTOP));
    victim.kill();
    instance.wait_for_log("ended without a farewell");
    drop((witness, victim));
    assert!(instance.signal_child(keeper, Signal::SIGCONT));
    assert!(instance.signal_child(recovery, Signal::SIGCONT));
    instance.finish().assert_succeeded();
    outcome::run(program("recovery").arg("verify").arg(place.region())).assert_succeeded();

    let instance = place.start();
    assert!(!instance.stderr().contains("of a former life"), "there was nothing left to repair");
    let mut witness = Visitor::attached(&place.run_dir());
    all_is_well(&place, &mut witness);
    witness.must("detach", "detached");
    drop(witness);
    instance.stop();
}

#[test]
fn who_dies_while_there_is_no_supervisor_is_repaired_by_the_next() {
    let place = Place::new();
    let instance = place.start();
    let mut witness = banker(&place);
    let mut victims: Vec<_> = (0..3).map(|_| Visitor::attached(&place.run_dir())).collect();
    victims[0].must("hold", "holding");
    instance.kill9_leaving_visitors();
    victims.iter_mut().for_each(Visitor::kill);
    witness.must_fail("transfer 0 1 7", "locked by another");
    let instance = place.start();
    witness.must("transfer 0 1 7", "done");
    all_is_well(&place, &mut witness);
    crashes(&instance, 3);
    witness.must("detach", "detached");
    drop(witness);
    instance.stop();
}

#[test]
fn who_leaves_while_there_is_no_supervisor_has_left() {
    let place = Place::new();
    let instance = place.start();
    let mut visitor = banker(&place);
    instance.kill9_leaving_visitors();
    visitor.must("detach", "detached");
    let instance = place.start();
    assert_eq!((instance.total("crashes"), &instance.status()["attached"]), (0, &0.into()));
    drop(visitor);
    instance.stop();
}

#[test]
fn a_child_that_has_its_parents_descriptors_is_not_taken_for_it() {
    let place = Place::new();
    let instance = place.start();
    let mut witness = banker(&place);
    // A sleeper that has inherited everything, as a shell's background job might.
    let mut parent = Visitor::attached(&place.run_dir());
    parent.must("hold-in-child", "holding");
    instance.kill9_leaving_visitors();
    parent.kill();
    let instance = place.start();
    witness.must("transfer 0 1 7", "done");
    crashes(&instance, 1);
    all_is_well(&place, &mut witness);
    witness.must("detach", "detached");
    drop((witness, parent));
    instance.stop();
}

/// One slot waits for it, and nobody else.
#[test]
fn a_program_that_is_stopped_with_a_queues_lock_keeps_no_start_from_serving() {
    let place = Place::new();
    let instance = place.start();
    let mut holder = banker(&place);
    holder.must("push", "pushed");
    let mut victim = Visitor::attached(&place.run_dir());
    victim.must("take", "taken");
    holder.must("hold-queue", "holding");
    holder.signal(Signal::SIGSTOP);
    instance.kill9_leaving_visitors();
    victim.kill();
    let instance = place.start();
    instance.say("served");
    let mut witness = Visitor::attached(&place.run_dir());
    witness.must("transfer 0 1 7", "done");
    witness.must_fail("take", "locked by another");
    instance.wait_for_log("put what a dead process had taken back to its queue");
    holder.signal(Signal::SIGCONT);
    holder.must("", "released");
    crashes(&instance, 1);
    until("it is back in its queue", || witness.ask("take") == "taken");
    all_is_well(&place, &mut witness);
    for visitor in [&mut holder, &mut witness] {
        visitor.must("detach", "detached");
    }
    drop((holder, witness, victim));
    instance.stop();
}

#[test]
fn programs_live_through_one_restart_after_the_other() {
    let place = Place::new();
    let mut instance = place.start();
    let mut witness = banker(&place);
    let mut runners: Vec<_> = (0..4).map(|_| Visitor::attached(&place.run_dir())).collect();
    for (number, runner) in runners.iter_mut().enumerate() {
        runner.must(&format!("run {ACCOUNTS} {number}"), "running");
    }
    for round in 0..6 {
        if round % 3 == 2 {
            instance.stop_leaving_visitors();
        } else {
            instance.kill9_leaving_visitors();
        }
        instance = place.start();
        let gone = runners.len() as u64 - 1;
        runners[round % 4].kill();
        runners[round % 4] = Visitor::attached(&place.run_dir());
        runners[round % 4].must(&format!("run {ACCOUNTS} {round}"), "running");
        instance.wait_for_status("they are attached", |status| status["attached"] == gone + 2);
        crashes(&instance, round as u64 + 1);
    }
    runners.iter_mut().for_each(Visitor::kill);
    crashes(&instance, 10);
    all_is_well(&place, &mut witness);
    witness.must("detach", "detached");
    drop(witness);
    instance.stop();
}

#[test]
fn the_region_stays_what_it_is_while_programs_are_attached() {
    let place = Place::new();
    let instance = place.start();
    let mut visitor = banker(&place);
    let stopped = instance.stop_leaving_visitors();
    assert!(stopped.stderr.contains("1 programs stay attached"), "{stopped}");
    let refused = outcome::run(
        program("recovery").arg("repair").arg(place.region()).arg("--spool-dir").arg(place.spool_dir()),
    );
    refused.assert_failed(3, &["programs are attached"]);
    // Another size waits until they have left and the instance was stopped cleanly.
    let instance = place.instance().region_size("8MiB").start();
    instance.wait_for_log("keeps its 4194304 bytes until a clean stop");
    visitor.must("add", "1");
    visitor.must("detach", "detached");
    drop(visitor);
    instance.stop();
    let instance = place.instance().region_size("8MiB").start();
    instance.wait_for_log("has given way to one of 8388608");
    let mut visitor = Visitor::start(&place.run_dir());
    assert!(visitor.ask("attach").starts_with("attached "));
    visitor.must("add", "2");
    visitor.must("detach", "detached");
    drop(visitor);
    instance.stop();
}

#[test]
fn who_was_attached_to_another_region_is_told() {
    let place = Place::new();
    let instance = place.start();
    let mut visitor = banker(&place);
    instance.kill9_leaving_visitors();
    std::fs::remove_file(place.region()).unwrap();
    let instance = place.start();
    let mut last = String::new();
    until("it notices", || {
        last = visitor.ask("transfer 0 1 1");
        last != "done"
    });
    assert!(last.contains("the session has ended") && last.contains("attach again"), "{last}");
    visitor.must_fail("add", "the session has ended");
    assert!(visitor.ask("attach").starts_with("attached "));
    visitor.must("add", "1");
    visitor.must("detach", "detached");
    assert_eq!(instance.total("crashes"), 0);
    drop(visitor);
    instance.stop();
}

#[test]
fn a_supervisor_that_is_stopped_is_waited_for() {
    let place = Place::new();
    let instance = place.start();
    let mut visitor = banker(&place);
    let mut late = Visitor::start(&place.run_dir());
    instance.signal(Signal::SIGSTOP);
    late.tell("attach");
    visitor.must("add", "1");
    instance.signal(Signal::SIGCONT);
    assert!(late.hear().starts_with("attached "));
    late.must("add", "2");
    for mut visitor in [visitor, late] {
        visitor.must("detach", "detached");
    }
    instance.stop();
}
