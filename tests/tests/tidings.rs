//! Who waits for a dead one's lock, be it a worker's or an attached program's, has it before the supervisor has even noticed
//! the death.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_tests::{Connection, Instance, Place, Visitor, eventually, programs, until};
use nix::sys::signal::Signal;

/// Longer than a lock is waited for.
const DEADLINE: Duration = Duration::from_secs(60);

fn turnstile(place: &Place) -> Instance {
    place
        .instance()
        .workers(6)
        .arg("--worker")
        .arg(programs::turnstile())
        .args(&["--log-level", "debug"])
        .start()
}

/// Whether a process sleeps on a futex.
fn waits_for_a_lock(pid: i32) -> bool {
    let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let number = call.split_ascii_whitespace().next().and_then(|number| number.parse().ok());
    [nix::libc::SYS_futex, nix::libc::SYS_futex_waitv].iter().any(|futex| number == Some(*futex))
}

/// Asks until the lock is there: a wait may end while the test itself is kept from running.
fn touch(connection: &mut Connection, lock: &str) -> u64 {
    eventually(DEADLINE, "the lock", || {
        let answer = connection.ask(&format!("touch {lock}"));
        answer.parse().map_err(|_| answer)
    })
}

#[test]
fn a_waiter_has_the_lock_while_the_supervisor_is_stopped() {
    let place = Place::new();
    let instance = turnstile(&place);
    let (mut victim, mut waiter) = (instance.connect(), instance.connect());
    let [victim_pid, waiter_pid] =
        [&mut victim, &mut waiter].map(|one| one.ask("pid").parse::<i32>().unwrap());
    touch(&mut waiter, "gate");
    victim.send("hold gate\n");
    until("the victim holds the lock and the waiter waits for it", || {
        waiter.send("touch gate\n");
        until("it waits, or has had it", || waits_for_a_lock(waiter_pid) || waiter.has_answered());
        let waits = !waiter.has_answered();
        if !waits {
            waiter.line();
        }
        waits
    });

    instance.signal(Signal::SIGSTOP);
    assert!(instance.signal_child(victim_pid, Signal::SIGKILL));
    // Its first wait may have come to its end by now; then it asks again.
    if waiter.line().parse::<u64>().is_err() {
        touch(&mut waiter, "gate");
    }
    // A zombie, or not even that yet.
    let is_there = std::path::Path::new(&format!("/proc/{victim_pid}")).exists();
    assert!(is_there, "the supervisor was stopped and has reaped");
    instance.signal(Signal::SIGCONT);

    let status =
        instance.wait_for_status("the death is counted", |status| status["totals"]["recoveries"] == 1);
    assert_eq!(status["totals"]["crashes"], 1);
    instance.wait_for_log("its transaction was rolled back");
    assert!(instance.stderr().contains("before it was reaped"));
    touch(&mut instance.connect(), "gate");
    instance.books_agree();
    instance.stop();
}

/// Tidings are a hint: the repair is ordered all the same.
#[test]
fn a_death_whose_lock_nobody_waits_for_is_repaired_by_order() {
    let place = Place::new();
    let instance = turnstile(&place);
    let (mut victim, mut other) = (instance.connect(), instance.connect());
    let pid: i32 = victim.ask("pid").parse().unwrap();
    touch(&mut other, "gate");
    victim.send("hold gate\n");
    assert!(instance.signal_child(pid, Signal::SIGKILL), "in the transaction, or just before it");
    instance.wait_for_status("the death is counted", |status| status["totals"]["recoveries"] == 1);
    touch(&mut other, "gate");
    instance.stop();
}

fn banker(place: &Place) -> Visitor {
    let mut visitor = Visitor::attached(&place.run_dir());
    visitor.must("open 8", "opened");
    visitor
}

/// Has a program wait for what a victim holds.
fn until_it_waits(waiter: &mut Visitor) {
    waiter.tell("touch");
    let pid = waiter.pid();
    until("it waits", || waits_for_a_lock(pid));
}

/// Its wait may have come to its end by now; then it asks again.
fn has_the_lock(waiter: &mut Visitor) {
    if waiter.hear().parse::<u64>().is_err() {
        eventually(DEADLINE, "the lock", || {
            let answer = waiter.ask("touch");
            answer.parse::<u64>().map_err(|_| answer)
        });
    }
}

/// The pipes that a process has open.
fn pipes(pid: i32) -> BTreeSet<PathBuf> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives").flatten();
    let paths = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    paths.filter(|path| path.to_string_lossy().starts_with("pipe:")).collect()
}

/// The supervisor is stopped, and one victim after the other is killed: also after the supervisor itself was.
#[test]
fn so_has_an_attached_program_and_who_waits_for_one() {
    let place = Place::new();
    let mut instance = place.instance().args(&["--log-level", "debug"]).start();
    let mut waiter = banker(&place);
    for life in 0..2 {
        for crashes in 1..=2 {
            let mut victim = Visitor::attached(&place.run_dir());
            victim.must("hold", "holding");
            until_it_waits(&mut waiter);
            instance.signal(Signal::SIGSTOP);
            victim.signal(Signal::SIGKILL);
            has_the_lock(&mut waiter);
            instance.signal(Signal::SIGCONT);
            let all = life * 2 + crashes;
            instance.wait_for_status("the death is counted", |status| status["totals"]["crashes"] == all);
            assert!(instance.stderr().matches("before it was reaped").count() as u64 >= crashes);
            waiter.must("sum", "8000");
        }
        if life == 0 {
            instance.kill9_leaving_visitors();
            let before = pipes(waiter.pid());
            instance = place.instance().args(&["--log-level", "debug"]).start();
            // It finds the next instance, and what tells that one's recovery comes with the answer.
            until("it has the next one's pipe", || {
                assert!(waiter.ask("touch").parse::<u64>().is_ok());
                pipes(waiter.pid()) != before
            });
        }
    }
    waiter.must("detach", "detached");
    drop(waiter);
    instance.stop();
}

#[test]
fn the_end_of_a_thread_is_no_death() {
    let place = Place::new();
    let instance = place.instance().args(&["--log-level", "debug"]).start();
    let mut waiter = banker(&place);
    let mut victim = Visitor::start(&place.run_dir());
    victim.must("abandon", "holding");
    waiter.must_fail("touch", "locked by another for too long");
    instance.wait_for_log("which is left to be ordered");
    assert_eq!((instance.total("crashes"), instance.total("recoveries")), (0, 0));
    victim.signal(Signal::SIGKILL);
    waiter.tell("touch");
    has_the_lock(&mut waiter);
    instance.wait_for_status("the death is counted", |status| status["totals"]["crashes"] == 1);
    waiter.must("sum", "8000");
    waiter.must("detach", "detached");
    drop((waiter, victim));
    instance.stop();
}
