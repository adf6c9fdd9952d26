//! Programs that join the region from outside: their transactions, their deaths, and what is no death.

use std::process::Command;

use holdfast_tests::machine::allow_descriptors;
use holdfast_tests::place::program;
use holdfast_tests::random::Random;
use holdfast_tests::{Instance, Place, Visitor, outcome, programs};
use nix::sys::signal::Signal;

const ACCOUNTS: u64 = 8;
const MONEY: u64 = ACCOUNTS * 1000;

/// A visitor that has opened the accounts.
#[track_caller]
fn banker(place: &Place) -> Visitor {
    let mut visitor = Visitor::attached(&place.run_dir());
    visitor.must(&format!("open {ACCOUNTS}"), "opened");
    visitor
}

#[track_caller]
fn holding(place: &Place) -> Visitor {
    let mut visitor = Visitor::attached(&place.run_dir());
    visitor.must("hold", "holding");
    visitor
}

/// Nobody has lost anything, and the region is sound.
#[track_caller]
fn all_is_well(place: &Place, witness: &mut Visitor) {
    witness.must("sum", &MONEY.to_string());
    outcome::run(program("recovery").arg("verify").arg(place.region())).assert_succeeded();
}

#[track_caller]
fn attached(instance: &Instance, count: u64) {
    instance.wait_for_status(&format!("{count} are attached"), |status| status["attached"] == count);
}

#[test]
fn a_program_changes_what_workers_share_and_leaves() {
    let place = Place::new();
    let instance = place.start();
    for sold in 1..=3 {
        let outcome = outcome::run(Command::new(programs::join()).arg(place.run_dir()));
        outcome.assert_succeeded();
        assert_eq!(outcome.stdout, format!("{sold} sold, 6 apples left\n"));
    }
    attached(&instance, 0);
    assert_eq!((instance.total("crashes"), instance.total("recoveries")), (0, 0));
    let dump = outcome::run(program("recovery").args(["dump", "--json"]).arg(place.region()));
    assert!(dump.stdout.contains("stock"), "{dump}");
    instance.stop();
}

#[test]
fn who_is_attached_is_shown_and_is_no_worker() {
    let place = Place::new();
    let instance = place.start();
    let visitor = banker(&place);
    let status = instance.status_with_slots();
    assert_eq!((&status["attached"], &status["workers"]["live"]), (&1.into(), &4.into()));
    let slots = status["slots"].as_array().unwrap();
    let slot = slots.iter().find(|slot| slot["pid"] == visitor.pid()).expect("it has a slot");
    assert_eq!((&slot["attached"], &slot["doing"]), (&true.into(), &"visitor".into()));
    drop(visitor);
    attached(&instance, 0);
    instance.stop();
}

#[test]
fn a_program_that_ends_without_a_farewell_has_crashed_and_is_repaired() {
    let place = Place::new();
    let instance = place.start();
    let mut witness = banker(&place);
    let mut victim = holding(&place);
    victim.kill();
    witness.must("transfer 0 1 7", "done");
    all_is_well(&place, &mut witness);
    instance.wait_for_status("it counts as a crash", |status| status["totals"]["crashes"] == 1);
    instance.wait_for_log("ended without a farewell");
    // The program's own end, with its session open, is none either.
    drop(witness);
    instance.wait_for_status("so does this", |status| status["totals"]["crashes"] == 2);
    attached(&instance, 0);
    instance.stop();
}

#[test]
fn who_leaves_puts_back_what_it_has_taken() {
    let place = Place::new();
    let instance = place.start();
    let mut witness = Visitor::attached(&place.run_dir());
    witness.must("push", "pushed");
    let mut worker = Visitor::attached(&place.run_dir());
    worker.must("take", "taken");
    witness.must("take", "nothing");
    worker.must("detach", "detached");
    attached(&instance, 1);
    witness.must("take", "taken");
    witness.must("detach", "detached");
    attached(&instance, 0);
    assert_eq!(instance.total("crashes"), 0);
    drop((witness, worker));
    instance.stop();
}

#[test]
fn killed_at_any_instruction_it_leaves_nothing_half_done() {
    let place = Place::new();
    let instance = place.start();
    let mut witness = banker(&place);
    let mut random = Random::new(std::process::id().into());
    for round in 0..20 {
        let mut victims: Vec<_> = (0..3).map(|_| Visitor::attached(&place.run_dir())).collect();
        for (number, victim) in victims.iter_mut().enumerate() {
            victim.must(&format!("run {ACCOUNTS} {}", round * 3 + number), "running");
        }
        // They are somewhere in the middle of their transfers by then, each elsewhere.
        let spin = random.below(300_000);
        (0..spin).for_each(|_| std::hint::spin_loop());
        victims.iter_mut().for_each(Visitor::kill);
        witness.must("transfer 0 1 0", "done");
        witness.must("sum", &MONEY.to_string());
    }
    instance.wait_for_status("all of them are repaired", |status| status["totals"]["crashes"] == 60);
    all_is_well(&place, &mut witness);
    witness.must("detach", "detached");
    drop(witness);
    instance.stop();
}

#[test]
fn who_is_stopped_is_not_dead() {
    let place = Place::new();
    let instance = place.start();
    let mut witness = banker(&place);
    let mut stopped = holding(&place);
    stopped.signal(Signal::SIGSTOP);
    witness.must_fail("transfer 0 1 7", "locked by another for too long");
    // Reading waits too, and without a trace.
    witness.must_fail("sum", "");
    assert_eq!(instance.total("crashes"), 0);
    stopped.signal(Signal::SIGCONT);
    stopped.must("restore", "released");
    witness.must("transfer 0 1 7", "done");
    all_is_well(&place, &mut witness);
    assert_eq!(instance.total("recoveries"), 0);
    stopped.must("detach", "detached");
    witness.must("detach", "detached");
    drop((stopped, witness));
    instance.stop();
}

#[test]
fn a_connection_that_is_cut_is_no_death() {
    let place = Place::new();
    let instance = place.start();
    let mut witness = banker(&place);
    let mut cut = holding(&place);
    assert_eq!(cut.ask("drop"), "released");
    cut.must("cut", "cut");
    // More than a look at the connection comes after.
    for _ in 0..1100 {
        cut.must("transfer 0 1 1", "done");
    }
    all_is_well(&place, &mut witness);
    cut.must("detach", "detached");
    attached(&instance, 1);
    drop(cut);
    // Cut, and then gone without having missed it.
    let mut cut = Visitor::attached(&place.run_dir());
    cut.must("cut", "cut");
    cut.must("detach", "detached");
    attached(&instance, 1);
    assert_eq!(instance.total("crashes"), 0);
    drop(cut);
    let mut cut = holding(&place);
    assert_eq!(cut.ask("drop"), "released");
    cut.must("cut", "cut");
    cut.must("hold", "holding");
    cut.kill();
    witness.must("transfer 0 1 7", "done");
    instance.wait_for_status("this is a death", |status| status["totals"]["crashes"] == 1);
    all_is_well(&place, &mut witness);
    witness.must("detach", "detached");
    drop((witness, cut));
    instance.stop();
}

#[test]
fn who_only_reads_may_end_as_it_likes() {
    let place = Place::new();
    let instance = place.start();
    let mut witness = banker(&place);
    let mut reader = Visitor::start(&place.run_dir());
    reader.must("view", "viewing");
    reader.must("sum", &MONEY.to_string());
    attached(&instance, 1);
    reader.kill();
    witness.must("transfer 0 1 7", "done");
    all_is_well(&place, &mut witness);
    assert_eq!((instance.total("crashes"), instance.total("recoveries")), (0, 0));
    witness.must("detach", "detached");
    drop((witness, reader));
    instance.stop();
}

#[test]
fn a_child_has_no_share_in_its_parents_session() {
    let place = Place::new();
    let instance = place.start();
    let mut visitor = banker(&place);
    let refused = r#"Some("the slot belongs to the process that this one was forked from")"#;
    assert_eq!(visitor.ask("fork"), format!("{refused} {refused}"));
    // The parent's session has ended in the parent, by its drop there, and not in the child.
    assert!(visitor.ask("attach").starts_with("attached "));
    visitor.must("add", "2");
    all_is_well(&place, &mut visitor);
    assert_eq!(instance.total("crashes"), 0);
    visitor.must("detach", "detached");
    attached(&instance, 0);
    drop(visitor);
    instance.stop();
}

#[test]
fn a_program_that_has_become_another_has_crashed() {
    let place = Place::new();
    let instance = place.start();
    let mut witness = banker(&place);
    let mut victim = Visitor::attached(&place.run_dir());
    victim.must("hold-and-exec", "holding");
    instance.wait_for_status("it is repaired", |status| status["totals"]["crashes"] == 1);
    victim.must("it lives on", "it lives on");
    all_is_well(&place, &mut witness);
    witness.must("detach", "detached");
    drop((witness, victim));
    instance.stop();
}

#[test]
fn many_attach_at_once() {
    allow_descriptors(2000);
    let place = Place::new();
    let instance = place.instance().region_size("16MiB").start();
    // Threads of one process, and processes.
    let mut crowd = Visitor::start(&place.run_dir());
    let mut visitors: Vec<_> = (0..100).map(|_| Visitor::start(&place.run_dir())).collect();
    crowd.tell("crowd 100");
    visitors.iter_mut().for_each(|visitor| visitor.tell("attach"));
    for visitor in &mut visitors {
        assert!(visitor.hear().starts_with("attached "));
    }
    assert_eq!(crowd.hear(), "0 of 100 failed");
    visitors.iter_mut().for_each(|visitor| visitor.tell("add"));
    for visitor in &mut visitors {
        assert!(visitor.hear().parse::<u64>().is_ok());
    }
    visitors[0].must("count", "200");
    attached(&instance, 100);
    visitors.iter_mut().for_each(Visitor::kill);
    instance.wait_for_status("all of them are repaired", |status| status["totals"]["crashes"] == 100);
    instance.books_agree();
    drop((visitors, crowd));
    instance.stop();
}

#[test]
fn workers_come_first() {
    let place = Place::new();
    let instance = place.instance().workers(4).region_size("1MiB").start();
    // Of 32 slots, 4 are workers' and 2 more are kept for them.
    let mut visitors: Vec<_> = (0..26).map(|_| Visitor::attached(&place.run_dir())).collect();
    let mut late = Visitor::start(&place.run_dir());
    late.must_fail("attach", "no slot is free: 26 programs are attached");
    instance.kill_child(instance.worker_pids()[0]);
    holdfast_tests::until("it is replaced", || instance.worker_pids().len() == 4);
    instance.say("served");
    visitors[0].must("detach", "detached");
    assert!(late.ask("attach").starts_with("attached "));
    drop((visitors, late));
    attached(&instance, 0);
    instance.stop();
}

#[test]
fn an_instance_that_is_needed_does_not_end() {
    let place = Place::new();
    let mut instance = place.instance().args(&["--idle-exit", "200ms"]).start();
    let mut visitor = Visitor::attached(&place.run_dir());
    for _ in 0..3 {
        let ticks = std::time::Instant::now() + std::time::Duration::from_millis(700);
        holdfast_tests::until("time has passed", || std::time::Instant::now() >= ticks);
        assert!(instance.ended().is_none());
    }
    visitor.must("detach", "detached");
    drop(visitor);
    instance.finish().assert_succeeded();
}
