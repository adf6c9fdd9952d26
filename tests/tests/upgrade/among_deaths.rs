//! Processes die while another program takes over.

use holdfast_tests::load::Load;
use holdfast_tests::processes::children_of;
use holdfast_tests::{DEADLINE, Instance, Place, eventually, until};
use nix::sys::signal::Signal;

use crate::scene::{DONE, Programs, REFUSED, child_named, upgrade};

/// Upgrades with deaths before, between and after.
const TIMES: usize = 10;

#[test]
fn workers_that_die_meanwhile_are_repaired_and_replaced() {
    let place = Place::new();
    let programs = Programs::of(&place);
    let instance = programs.instance(&place).workers(8).start();
    let load = Load::on(&instance.listen[0], 8);
    load.wait_for_more(50);
    let mut killed = 0;
    for time in 1..=TIMES {
        instance.signal(Signal::SIGUSR2);
        // Before, while and after it is asked, executed and goes on: as often as that takes.
        eventually(DEADLINE, "it takes over", || {
            let workers = children_of(instance.pid());
            let worker = workers.into_iter().filter_map(holdfast_tests::processes::Process::of);
            let victim = worker.filter(|process| process.name == "worker").nth(killed % 8);
            killed +=
                usize::from(victim.is_some_and(|victim| instance.signal_child(victim.pid, Signal::SIGKILL)));
            let log = instance.stderr();
            if log.matches(DONE).count() >= time { Ok(()) } else { Err(log) }
        });
    }
    load.wait_for_more(50);
    let ledger = load.stop();
    assert_eq!(ledger.errors, Vec::<String>::new());
    ledger.check(&instance.books_agree());
    let status = instance.status();
    // One that was killed before it was ready had nothing, and is no crash.
    assert_eq!(status["totals"]["crashes"], status["totals"]["recoveries"], "{status}");
    assert!(killed >= TIMES && !instance.stderr().contains(REFUSED), "{}", instance.stderr());
    instance.stop();
}

#[test]
fn every_other_child_may_die_meanwhile() {
    let place = Place::new();
    let programs = Programs::of(&place);
    let instance = programs.instance(&place).start();
    let whole = |instance: &Instance| children_of(instance.pid()).len() == 7;
    let mut refused = 0;
    for (times, role) in ["template", "standby", "journal"].into_iter().enumerate() {
        let named = || child_named(&instance, "template");
        let victim = if role == "template" { named() } else { instance.children_in_role(role)[0] };
        instance.signal(Signal::SIGUSR2);
        assert!(instance.signal_child(victim, Signal::SIGKILL));
        until("there is another one, and nobody is asked", || {
            whole(&instance) && !children_of(instance.pid()).contains(&victim)
        });
        instance.wait_for_rest();
        instance.say(role);
        // One that is too slow on a busy machine is refused, and asked for again.
        until("it has taken over", || {
            let log = instance.stderr();
            if log.matches(REFUSED).count() > refused {
                refused += 1;
                instance.signal(Signal::SIGUSR2);
            }
            log.matches(DONE).count() > times
        });
    }
    instance.stop();
}

#[test]
fn signals_that_come_meanwhile_are_not_lost() {
    let place = Place::new();
    let programs = Programs::of(&place);
    for signals in [&[Signal::SIGTERM][..], &[Signal::SIGTTIN, Signal::SIGQUIT]] {
        let instance = programs.instance(&place).start();
        upgrade(&instance);
        let log = instance.stderr();
        instance.signal(Signal::SIGUSR2);
        // As soon as it is about to be executed.
        until("it takes over", || instance.stderr()[log.len()..].contains("takes over"));
        signals.iter().for_each(|signal| instance.signal(*signal));
        instance.finish().assert_succeeded();
    }
}

#[test]
fn one_that_is_asked_for_twice_takes_over_at_least_once() {
    let place = Place::new();
    let programs = Programs::of(&place);
    let instance = programs.instance(&place).start();
    (0..20).for_each(|_| instance.signal(Signal::SIGUSR2));
    instance.wait_for_log(DONE);
    upgrade(&instance);
    instance.say("still here");
    instance.stop();
}
