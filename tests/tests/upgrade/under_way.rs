//! Something else is under way when another program takes over.

use holdfast_tests::outcome::Running;
use holdfast_tests::place::program;
use holdfast_tests::processes::{Process, children_of};
use holdfast_tests::{DEADLINE, Instance, Place, eventually, until};
use nix::sys::signal::Signal;

use crate::scene::{DONE, Programs, child_named, upgrade};

fn command(place: &Place, words: &[&str]) -> Running {
    let mut command = program("supervisor");
    Running::start(command.args(words).arg("--run-dir").arg(place.run_dir()))
}

#[track_caller]
fn child(instance: &Instance, role: &str) -> i32 {
    eventually(DEADLINE, &format!("there is a {role}"), || {
        instance.children_in_role(role).first().copied().ok_or_else(|| instance.stderr())
    })
}

#[test]
fn a_checkpoint_goes_on_and_who_waits_for_it_is_told() {
    let place = Place::new();
    let programs = Programs::of(&place);
    let instance = programs.instance(&place).start();
    // It is held where it stands, so that it is under way for as long as that takes.
    let (pid, asking) = eventually(DEADLINE, "a checkpoint is caught", || {
        let mut asking = command(&place, &["checkpoint"]);
        let caught = eventually(DEADLINE, "it begins, or is over", || {
            let begun = instance.children_in_role("checkpoint").first().copied();
            let stopped = begun.filter(|pid| instance.stop_child(*pid));
            if stopped.is_some() || asking.ended().is_some() { Ok(stopped) } else { Err(String::new()) }
        });
        caught.map(|pid| (pid, asking)).ok_or_else(|| "it was too fast".to_owned())
    });
    upgrade(&instance);
    assert_eq!(child(&instance, "checkpoint"), pid);
    assert!(instance.signal_child(pid, Signal::SIGCONT));
    asking.finish().assert_succeeded();
    instance.wait_for_log("checkpoint ");
    instance.wait_for_rest();
    instance.stop();
}

#[test]
fn repairs_go_on_and_are_counted_once() {
    let place = Place::new();
    let programs = Programs::of(&place);
    let instance = programs.instance(&place).workers(8).start();
    let recovery = child(&instance, "standby");
    assert!(instance.signal_child(recovery, Signal::SIGSTOP));
    for pid in &instance.worker_pids()[..4] {
        assert!(instance.signal_child(*pid, Signal::SIGKILL));
    }
    until("four are dead", || instance.stderr().matches(" crashed: ").count() == 4);
    upgrade(&instance);
    assert!(instance.signal_child(recovery, Signal::SIGCONT));
    let status = instance.wait_for_status("they are repaired", |status| status["totals"]["recoveries"] == 4);
    assert_eq!(status["totals"]["crashes"], 4);
    instance.wait_for_rest();
    instance.stop();
}

#[test]
fn a_reload_is_finished_first() {
    let place = Place::new();
    let programs = Programs::of(&place);
    let instance = programs.instance(&place).start();
    let former = child_named(&instance, "template");
    let reload = command(&place, &["reload"]);
    // The next template is held before it is ready.
    let next = eventually(DEADLINE, "the next template is caught, or serves", || {
        let children = children_of(instance.pid()).into_iter().filter_map(Process::of);
        let mut templates = children.filter(|child| child.name == "template").map(|child| child.pid);
        let next = templates.find(|pid| *pid != former);
        next.filter(|pid| instance.signal_child(*pid, Signal::SIGSTOP)).ok_or_else(|| instance.stderr())
    });
    instance.signal(Signal::SIGUSR2);
    instance.wait_for_log("whether it can take over");
    assert!(instance.signal_child(next, Signal::SIGCONT));
    reload.finish().assert_succeeded();
    instance.wait_for_log(DONE);
    let log = instance.stderr();
    assert!(log.find("serves from now on") < log.find(DONE), "{log}");
    instance.wait_for_rest();
    assert_eq!((child_named(&instance, "template"), &instance.status()["generation"]), (next, &2.into()));
    instance.stop();
}

#[test]
fn workers_that_start_and_leave_meanwhile_do_so_in_the_end() {
    let place = Place::new();
    let programs = Programs::of(&place);
    let instance = programs.instance(&place).workers(4).region_size("8MiB").start();
    let mut slow = instance.connect();
    slow.say("arijort", "I keep my connection");
    for workers in ["100", "3", "80", "4"] {
        instance.command("scale", &[workers]).assert_succeeded();
        upgrade(&instance);
    }
    let count = |instance: &Instance| children_of(instance.pid()).len();
    until("four are left, and the template, recovery and the keeper", || count(&instance) == 7);
    slow.say("arijort", "and am served by the same");
    drop(slow);
    instance.wait_for_rest();
    assert_eq!(instance.total("crashes"), 0);
    instance.stop();
}

#[test]
fn before_it_serves_it_is_waited_for() {
    let place = Place::new();
    let programs = Programs::of(&place);
    let mut instance = programs.instance(&place).workers(200).region_size("16MiB").launch();
    // Its signals are caught by the time that it starts somebody.
    until("it has a child", || !children_of(instance.pid()).is_empty());
    instance.signal(Signal::SIGUSR2);
    instance.wait_until_serving();
    instance.wait_for_log(DONE);
    assert_eq!(instance.workers, 200);
    instance.wait_for_rest();
    assert_eq!(instance.stdout().lines().count(), 1, "{}", instance.stdout());
    instance.stop();
}

#[test]
fn a_dynamic_pool_grows_and_shrinks_as_before() {
    let place = Place::new();
    let programs = Programs::of(&place);
    let instance = programs.instance(&place).dynamic(2..=16, 2..=4).start();
    upgrade(&instance);
    let mut connections: Vec<_> = (0..10).map(|_| instance.connect()).collect();
    for connection in &mut connections {
        connection.say("arijort", "busy");
    }
    upgrade(&instance);
    instance.wait_for_status("some are spare", |status| {
        status["workers"]["busy"] == 10 && status["workers"]["idle"].as_u64() >= Some(2)
    });
    drop(connections);
    upgrade(&instance);
    instance.wait_for_status("few are left", |status| status["workers"]["live"].as_u64() <= Some(4));
    instance.stop();
}
