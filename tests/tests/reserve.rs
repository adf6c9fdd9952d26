//! Workers that rest because enough others are at work: they come when they are needed, whoever dies or is stopped.

use std::collections::HashSet;

use holdfast_tests::{Connection, Instance, Place, until};
use nix::sys::signal::Signal;

/// More than are enough on any machine that this runs on.
fn many() -> u32 {
    32 * std::thread::available_parallelism().map_or(1, usize::from) as u32
}

fn start(place: &Place) -> Instance {
    place.instance().workers(many()).start()
}

/// So many connections that stay, each of which has been answered, and by whom.
fn answered(instance: &Instance, count: u32) -> (Vec<Connection>, HashSet<i32>) {
    let mut connections: Vec<Connection> = (0..count).map(|_| instance.connect()).collect();
    let pids = connections.iter_mut().map(|connection| connection.say("arijort", "here")).collect();
    (connections, pids)
}

fn is_stopped(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") T "))
}

#[test]
fn the_same_few_serve_while_they_suffice_and_all_when_they_do_not() {
    let place = Place::new();
    let instance = start(&place);
    let one_by_one: HashSet<i32> = (0..4 * many()).map(|_| instance.say("one after the other")).collect();
    assert!(one_by_one.len() <= many() as usize * 3 / 4, "{} of {} have served", one_by_one.len(), many());
    let (connections, pids) = answered(&instance, many());
    assert_eq!(pids.len(), many() as usize, "each has a worker");
    drop(connections);
    instance.wait_for_rest();
    instance.stop();
}

#[test]
fn deaths_at_the_door_bring_others_there() {
    let place = Place::new();
    let instance = start(&place);
    for _ in 0..3 {
        let (connections, at_work) = answered(&instance, many() / 2);
        drop(connections);
        at_work.iter().for_each(|pid| instance.kill_child(*pid));
        let (_connections, pids) = answered(&instance, many());
        assert!(pids.is_disjoint(&at_work), "the dead do not answer");
    }
    instance.wait_for_rest();
    instance.stop();
}

#[test]
fn who_is_stopped_at_the_door_keeps_nobody_waiting_for_good() {
    let place = Place::new();
    let instance = start(&place);
    let stopped = &instance.worker_pids()[..many() as usize * 3 / 4];
    stopped.iter().for_each(|pid| assert!(instance.signal_child(*pid, Signal::SIGSTOP)));
    // Until then it may still take a connection.
    stopped.iter().for_each(|pid| until("it is stopped", || is_stopped(*pid)));
    let (connections, pids) = answered(&instance, many() / 4);
    assert!(stopped.iter().all(|pid| !pids.contains(pid)));
    drop(connections);
    stopped.iter().for_each(|pid| assert!(instance.signal_child(*pid, Signal::SIGCONT)));
    instance.wait_for_rest();
    instance.stop();
}
