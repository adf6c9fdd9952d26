//! How a template and its workers come, work for the supervisor, and go.

mod stage;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::process::Command;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use common::ids::{Generation, Pid, SlotIndex};
use common::slots::{self, Activity, State};
use common::sys::process::Ending;
use common::wire::control::{self, Order, Report, Settings};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use stage::{DEADLINE, Script, Stage, WORKER, receipt, stage, until};

fn by_hand(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(WORKER).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn by_hand_it_says_what_it_is_for() {
    for arguments in [&[][..], &["template"]] {
        let (code, stdout, stderr) = by_hand(arguments);
        assert_eq!((code, stdout.as_str()), (2, ""));
        assert!(stderr.contains("supervisor --worker PATH") && stderr.lines().count() == 1, "{stderr}");
    }
    let output = Command::new("sh").args(["-c", &format!("exec {WORKER} template 3</dev/null")]).output();
    assert_eq!(output.unwrap().status.code(), Some(2), "a descriptor 3 that is no channel");
    let (code, stdout, _) = by_hand(&["--help"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("Usage"), "{stdout}");
    assert_eq!(by_hand(&["--version"]).0, 0);
    assert_eq!(by_hand(&["--bogus"]).0, 2);
    assert_eq!(by_hand(&["bogus"]).0, 2);
}

#[test]
fn the_clone_is_the_supervisors_child_and_goes_by_its_own_names() {
    let stage = stage();
    let (template, worker) = (stage.template, stage.workers[0]);
    assert_eq!(stage.slot(0).pid(), worker);
    for (pid, name) in [(template, "template"), (worker, "worker")] {
        assert_eq!(stage::proc(pid, "comm").trim(), name);
        let parent = format!("PPid:\t{}\n", Pid::current());
        assert!(stage::proc(pid, "status").contains(&parent), "{name}");
    }
    let mut rung = [0; 8];
    assert_eq!(nix::unistd::read(&stage.bell, &mut rung), Ok(8), "the bell was rung");
}

#[test]
fn a_worker_has_the_templates_descriptors_but_for_its_channel() {
    let stage = stage();
    let links = |pid: Pid| {
        let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let targets = entries.map(|entry| std::fs::read_link(entry.unwrap().path()).unwrap());
        targets.map(|target| target.display().to_string()).collect::<Vec<String>>()
    };
    let channel = std::fs::read_link(format!("/proc/{}/fd/3", stage.template)).unwrap();
    let (mut expected, mut worker) = (links(stage.template), links(stage.workers[0]));
    expected.retain(|target| target != channel.to_str().unwrap());
    expected.sort();
    worker.sort();
    assert_eq!(worker, expected);
}

#[test]
fn an_idle_worker_has_little_memory_of_its_own() {
    let stage = Script { workers: 3, ..Script::default() }.stage();
    // The last clone is followed by another one, so that what the template writes to between clones is counted too.
    let rollup = stage::proc(stage.workers[1], "smaps_rollup");
    let private: u64 = ["Private_Clean:", "Private_Dirty:"]
        .iter()
        .filter_map(|name| rollup.lines().find(|line| line.starts_with(name))?.split_whitespace().nth(1))
        .map(|number| number.parse::<u64>().unwrap())
        .sum();
    assert!((4..=88).contains(&private), "{private} KiB");
}

#[test]
fn orders_that_make_no_sense_are_answered_or_ignored() {
    let stage = Stage::prepare(Script::default());
    assert_eq!(stage.report(), Report::Ready);
    for frame in [&b"garbage"[..], &[0xff; 300], &control::encode(&Order::TakeOver(Vec::new())).unwrap()] {
        stage.order(frame);
    }
    let absent = slots::owner(SlotIndex(u32::MAX), Generation(1));
    let unpromised = slots::owner(SlotIndex(1), Generation(1));
    stage.slot(2).reserve(Generation(7), 1);
    let other_generation = slots::owner(SlotIndex(2), Generation(6));
    let table = [(absent, Errno::EINVAL), (unpromised, Errno::ESTALE), (other_generation, Errno::ESTALE)];
    for (owner, errno) in table {
        stage.order(&control::encode(&Order::Spawn(owner)).unwrap());
        assert_eq!(stage.report(), Report::SpawnFailed(owner, errno as i32));
    }
    assert_eq!(stage.slot(1).pid(), Pid(0), "nothing was stored in another's slot");
    let mut stage = stage;
    let worker = stage.spawn(0, 1);
    stage.workers.push(worker);
    assert_eq!(stage.connect().ask(b"print\n"), "hello world");
}

#[test]
fn a_clone_whose_slot_was_taken_back_leaves() {
    let mut stage = stage();
    for generation in 1..=50 {
        let owner = stage.order_spawn(1, generation);
        // The template may meet this, or the clone, or it comes too late.
        let taken_back = stage.slot(1).shift(owner.generation, State::Reserved, State::Free);
        match stage.report() {
            Report::SpawnFailed(_, errno) => assert_eq!(errno, Errno::ESTALE as i32),
            Report::Spawned(_, pid) if taken_back => assert_eq!(stage.wait(pid), Ending::Exited(0)),
            Report::Spawned(_, pid) => {
                stage.signal(pid, Signal::SIGKILL);
                stage.wait(pid);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_cannot_be_loaded_is_reported_with_its_code() {
    let directory = tempfile::tempdir().unwrap();
    let users = directory.path().join("users");
    std::fs::write(&users, "anna\nb:ert\n").unwrap();
    let settings = Settings { users: Some(users.clone()), ..Settings::default() };
    let mut stage = Stage::prepare(Script { settings, ..Script::default() });
    match stage.report() {
        Report::Failed(why) => {
            assert!(why.contains("line 2") && why.contains(users.to_str().unwrap()), "{why}");
        }
        other => panic!("{other:?}"),
    }
    let template = stage.template;
    assert_eq!(stage.wait(template), Ending::Exited(2));
}

#[test]
fn a_region_that_is_none_is_reported_with_its_code() {
    let mut stage = Stage::prepare(Script { break_region: true, ..Script::default() });
    assert!(matches!(stage.report(), Report::Failed(why) if why.contains("region")));
    let template = stage.template;
    assert_eq!(stage.wait(template), Ending::Exited(4));
}

#[test]
fn descriptors_that_are_missing_are_reported() {
    let mut stage = Stage::prepare(Script { announced_listeners: Some(7), ..Script::default() });
    assert!(matches!(stage.report(), Report::Failed(why) if why.contains("descriptors")));
    let template = stage.template;
    assert_eq!(stage.wait(template), Ending::Exited(1));
}

#[test]
fn a_template_of_another_supervisor_leaves() {
    let mut stage = Stage::prepare(Script { supervisor: Some(Pid(1)), ..Script::default() });
    let template = stage.template;
    assert_eq!(stage.wait(template), Ending::Exited(0));
}

#[test]
fn without_its_channel_the_template_leaves_and_the_workers_go_on() {
    let mut stage = stage();
    drop(stage.channel.take());
    let template = stage.template;
    assert_eq!(stage.wait(template), Ending::Exited(0));
    assert_eq!(stage.connect().ask(b"print\n"), "hello world");
}

#[test]
fn a_killed_template_takes_no_worker_along() {
    let mut stage = stage();
    let template = stage.template;
    stage.signal(template, Signal::SIGKILL);
    assert_eq!(stage.wait(template), Ending::Killed(Signal::SIGKILL as i32));
    assert_eq!(stage.connect().ask(b"print\n"), "hello world");
}

#[test]
fn what_a_terminal_sends_is_the_supervisors_to_act_upon() {
    let stage = stage();
    for signal in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2] {
        stage.signal(stage.template, signal);
        stage.signal(stage.workers[0], signal);
    }
    stage.signal(stage.template, Signal::SIGTERM);
    assert_eq!(stage.connect().ask(b"print\n"), "hello world");
    let worker = stage.spawn(1, 1);
    stage.signal(worker, Signal::SIGKILL);
    stage::wait(worker);
}

#[test]
fn a_crash_leaves_the_slot_to_repair_and_no_zombie_with_the_template() {
    let mut stage = stage();
    let pid = stage.workers[0];
    stage.signal(pid, Signal::SIGKILL);
    assert_eq!(stage.wait(pid), Ending::Killed(Signal::SIGKILL as i32));
    assert!(stage.slot(0).is(Generation(1), State::Live), "it did not detach");
    let children = format!("task/{}/children", stage.template);
    assert_eq!(stage::proc(stage.template, &children), "");
}

#[test]
fn an_idle_worker_leaves_at_once_and_cleanly() {
    let mut stage = stage();
    let pid = stage.workers[0];
    stage.signal(pid, Signal::SIGTERM);
    assert_eq!(stage.wait(pid), Ending::Exited(0));
    assert!(stage.slot(0).left_cleanly(Generation(1)));
}

#[test]
fn a_worker_between_two_requests_leaves_without_waiting_for_another() {
    let mut stage = stage();
    let pid = stage.workers[0];
    let mut client = stage.connect();
    assert_eq!(client.ask(b"arijort:one\n"), receipt(pid, "arijort", "one"));
    let began = Instant::now();
    stage.signal(pid, Signal::SIGTERM);
    assert!(client.at_end());
    assert_eq!(stage.wait(pid), Ending::Exited(0));
    assert!(began.elapsed() < Duration::from_secs(10), "far less than the read timeout");
    assert!(stage.slot(0).left_cleanly(Generation(1)));
}

#[test]
fn what_has_arrived_is_answered_before_leaving() {
    let latency = Duration::from_millis(100);
    let settings = Settings { latency, read_timeout: DEADLINE, ..Settings::default() };
    let mut stage = Script { settings, ..Script::default() }.stage();
    let pid = stage.workers[0];
    let mut client = stage.connect();
    client.send(b"arijort:0\narijort:1\narijort:2\narijort:3\narijort:4\n");
    assert_eq!(client.line(), receipt(pid, "arijort", "0"));
    stage.signal(pid, Signal::SIGTERM);
    until("it says that it leaves", || stage.slot(0).activity.load(Relaxed) == Activity::Retiring as u32);
    for number in 1..5 {
        assert_eq!(client.line(), receipt(pid, "arijort", &number.to_string()));
    }
    assert!(client.at_end());
    assert_eq!(stage.wait(pid), Ending::Exited(0));
    assert_eq!(stage.messages().len(), 5);
}

#[test]
fn a_connection_that_was_accepted_has_its_first_request_answered() {
    let mut stage = stage();
    let pid = stage.workers[0];
    let mut client = stage.connect();
    until("the connection is accepted", || stage.region.totals().connections == 1);
    stage.signal(pid, Signal::SIGTERM);
    until("it says that it leaves", || stage.slot(0).activity.load(Relaxed) == Activity::Retiring as u32);
    assert_eq!(client.ask(b"arijort:just in time\n"), receipt(pid, "arijort", "just in time"));
    assert!(client.at_end());
    assert_eq!(stage.wait(pid), Ending::Exited(0));
}

#[test]
fn a_peer_that_never_stops_sending_keeps_nobody() {
    let mut stage = stage();
    let pid = stage.workers[0];
    let mut client = stage.connect();
    let mut sender = client.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        let requests = "arijort:more\n".repeat(100);
        while sender.write_all(requests.as_bytes()).is_ok() {}
    });
    let mut replies = Vec::new();
    let mut part = vec![0; 1 << 16];
    while replies.len() < 1 << 20 {
        let count = client.stream.read(&mut part).unwrap();
        replies.extend_from_slice(&part[..count]);
    }
    stage.signal(pid, Signal::SIGTERM);
    while let Ok(count @ 1..) = client.stream.read(&mut part) {
        replies.extend_from_slice(&part[..count]);
    }
    drop(client);
    assert_eq!(stage.wait(pid), Ending::Exited(0));
    sending.join().unwrap();
    let acknowledged = replies.iter().filter(|&&byte| byte == b'\n').count();
    assert!(stage.messages().len() >= acknowledged);
    assert!(stage.slot(0).left_cleanly(Generation(1)));
}

/// This thread, and what it starts, on one processor.
fn share_one_processor() {
    let mut processors = rustix::thread::sched_getaffinity(None).unwrap();
    let first = (0..).find(|&number| processors.is_set(number)).unwrap();
    processors.clear();
    processors.set(first);
    rustix::thread::sched_setaffinity(None, &processors).unwrap();
}

/// The kernel wakes one worker for a connection, the one that has waited longest. Were that one to leave without
/// looking, the connection would wait for the next one to come.
#[test]
fn retiring_workers_lose_no_connection() {
    retire_whom_a_connection_wakes(1);
}

#[test]
fn retiring_workers_lose_no_connection_on_several_listeners() {
    retire_whom_a_connection_wakes(2);
}

fn retire_whom_a_connection_wakes(listeners: usize) {
    const WORKERS: u32 = 100;
    share_one_processor();
    let mut stage = Script { workers: WORKERS, listeners, ..Script::default() }.stage();
    while stage.workers.len() > 1 {
        let pid = stage.workers.remove(0);
        be_meek(pid);
        let mut client = stage.connect();
        stage.signal(pid, Signal::SIGTERM);
        assert_eq!(client.ask(b"print\n"), "hello world");
        drop(client);
        assert_eq!(stage.wait(pid), Ending::Exited(0));
    }
    assert_eq!(stage.region.totals().connections, u64::from(WORKERS) - 1);
}

/// On one processor a meek process that is woken does not run before the signal is there too.
fn be_meek(pid: Pid) {
    rustix::process::setpriority_process(rustix::process::Pid::from_raw(pid.0), 19).unwrap();
}

/// The same for a worker that is killed between being woken and looking: its replacement looks.
#[test]
fn the_connection_of_a_worker_killed_too_early_goes_to_its_replacement() {
    kill_whom_a_connection_wakes(1);
    kill_whom_a_connection_wakes(2);
}

fn kill_whom_a_connection_wakes(listeners: usize) {
    share_one_processor();
    let mut stage = Script { workers: 2, listeners, ..Script::default() }.stage();
    let pid = stage.workers[0];
    be_meek(pid);
    let mut client = stage.connect();
    stage.signal(pid, Signal::SIGKILL);
    assert_eq!(stage.wait(pid), Ending::Killed(Signal::SIGKILL as i32));
    let replacement = stage.spawn(2, 1);
    stage.workers.push(replacement);
    let began = Instant::now();
    let _ = client.stream.write_all(b"print\n");
    match client.try_line() {
        Some(line) => assert_eq!(line, "hello world"),
        // It was accepted before the signal was there, and ended with its worker. To wait in vain is something else.
        None => assert!(began.elapsed() < DEADLINE / 2),
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let mut stage = Script { workers: 10, ..Script::default() }.stage();
    let mut acknowledged = BTreeSet::new();
    for round in 0..10 {
        let mut client = stage.connect();
        let pid = Pid(client.ask(b"arijort:begin\n").split(' ').nth(1).unwrap().parse().unwrap());
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(500 * round));
            nix::sys::signal::kill(pid.raw(), Signal::SIGKILL).unwrap();
        });
        for number in 0.. {
            let message = format!("round {round} number {number}");
            if client.stream.write_all(format!("arijort:{message}\n").as_bytes()).is_err() {
                break;
            }
            match client.try_line() {
                Some(line) => assert_eq!(line, receipt(pid, "arijort", &message)),
                None => break,
            }
            acknowledged.insert(message);
        }
        killer.join().unwrap();
        assert_eq!(stage.wait(pid), Ending::Killed(Signal::SIGKILL as i32));
    }
    let recorded = stage.whole_messages();
    assert!(acknowledged.len() > 10, "{}", acknowledged.len());
    for message in &acknowledged {
        assert_eq!(recorded.iter().filter(|&other| other == message).count(), 1, "{message}");
    }
}

#[test]
fn a_slot_that_was_scribbled_over_is_not_served_from() {
    let mut stage = stage();
    let pid = stage.workers[0];
    let mut client = stage.connect();
    assert_eq!(client.ask(b"arijort:before\n"), receipt(pid, "arijort", "before"));
    stage.slot(0).undo.store(0xdead_beef_dead_beef, SeqCst);
    client.send(b"arijort:after\n");
    assert_eq!(client.try_line(), None);
    assert_eq!(stage.wait(pid), Ending::Killed(Signal::SIGABRT as i32));
    assert_eq!(stage.messages(), ["before"]);
}

#[test]
fn a_crash_report_shows_what_the_worker_was_at() {
    let settings = Settings { latency: DEADLINE, read_timeout: DEADLINE, ..Settings::default() };
    let mut stage = Script { settings, ..Script::default() }.stage();
    let pid = stage.workers[0];
    let mut client = stage.connect();
    client.send(format!("arijort:the poison {}\n", "x".repeat(1000)).as_bytes());
    until("it is at it", || stage.slot(0).doing().starts_with("arijort:the poison xxx"));
    assert_eq!(stage.slot(0).activity.load(Relaxed), Activity::Busy as u32);
    stage.signal(pid, Signal::SIGKILL);
    stage.wait(pid);
    assert!(stage.slot(0).doing().starts_with("arijort:the poison xxx"));
}

#[test]
fn when_the_thread_that_is_the_supervisor_ends_its_children_do() {
    let (template, worker) = std::thread::spawn(|| {
        let mut stage = stage();
        let children = (stage.template, stage.workers[0]);
        // Dropping the stage would end them; what is tested is that nobody needs to.
        stage.disown();
        std::mem::forget(stage);
        children
    })
    .join()
    .unwrap();
    for pid in [template, worker] {
        assert_eq!(stage::wait(pid), Ending::Killed(Signal::SIGKILL as i32));
    }
}
