//! An instance from its first line to its last: starting, being asked, being changed, stopping, and starting again.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use holdfast_tests::connection::Receipt;
use holdfast_tests::outcome::{Running, run};
use holdfast_tests::place::program;
use holdfast_tests::{Connection, DEADLINE, Outcome, Place, eventually, journal, programs, until};
use nix::sys::signal::Signal;
use serde_json::Value;

/// A command of a supervisor's, by a shell that directs what it says elsewhere.
fn directed(place: &Place, command: &str, to: &str) -> Outcome {
    let script = format!("exec \"$0\" \"$@\" {to}");
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-c", &script]).arg(programs::path("supervisor")).args(command.split(' '));
    run(shell.arg("--run-dir").arg(place.run_dir()))
}

#[test]
fn what_cannot_be_said_is_a_failure_and_no_panic() {
    let place = Place::new();
    directed(&place, "stop", "2>/dev/full").assert_no_panic();
    assert_eq!(directed(&place, "stop", "2>/dev/full").code(), Some(1), "nobody runs");
    let instance = place.start();
    for command in ["status", "status --json --slots", "--check-config"] {
        directed(&place, command, ">/dev/full").assert_failed(1, &["cannot write to stdout"]);
    }
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-c", "\"$0\" status --json --slots --run-dir \"$1\" | true"]);
    run(shell.arg(programs::path("supervisor")).arg(place.run_dir())).assert_succeeded();
    instance.stop();
}

// ---- Starting ---------------------------------------------------------------------------------------------------------

#[test]
fn it_serves_what_it_says_and_leaves_nothing_behind() {
    let place = Place::new();
    let instance = place.instance().workers(3).start();
    assert_eq!(instance.workers, 3);
    assert!(instance.listen[0].starts_with("tcp:127.0.0.1:") && !instance.listen[0].ends_with(":0"));
    let pid = instance.say("the first message");
    assert!(instance.worker_pids().contains(&pid), "a worker answers");

    let records = instance.books_agree();
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].user.as_str(), records[0].message.as_str()), ("arijort", "the first message"));
    assert_eq!(records[0].pid, i64::from(pid));
    assert!(records[0].time.ends_with('Z') && records[0].time.contains('.'), "{:?}", records[0]);

    let outcome = instance.stop();
    assert_eq!(outcome.stdout.lines().count(), 1, "one line on stdout: {outcome}");
    place.no_process_left();
    assert_eq!(place.journal(), records);
    let names = journal::names(&place.spool_dir());
    assert!(!names.iter().any(|name| name.ends_with(".lock")), "everything is sealed: {names:?}");
    assert!(!place.run_dir().join("control.sock").exists());
}

#[test]
fn processes_have_the_names_that_ps_shows() {
    let place = Place::new();
    let instance = place.start();
    let name = |pid: i32| holdfast_tests::processes::Process::of(pid).map(|process| process.name);
    let status = instance.status();
    let pid_of = |key: &str| status[key].as_i64().expect("a pid") as i32;
    assert_eq!(pid_of("supervisor_pid"), instance.pid());
    assert_eq!(name(instance.pid()).as_deref(), Some("supervisor"));
    assert_eq!(name(pid_of("template_pid")).as_deref(), Some("template"));
    assert_eq!(name(pid_of("recovery_pid")).as_deref(), Some("recovery"));
    for pid in instance.worker_pids() {
        assert_eq!(name(pid).as_deref(), Some("worker"));
        let parent = holdfast_tests::processes::Process::of(pid).expect("it lives").parent;
        assert_eq!(parent, instance.pid(), "the supervisor, not the template, is the parent");
    }
}

#[test]
fn of_a_hundred_started_at_once_one_serves() {
    let place = Place::new();
    let mut starting: Vec<_> = (0..100).map(|_| place.instance().workers(2).launch()).collect();
    let mut serving = None;
    until("ninety-nine have ended", || {
        serving = serving.or_else(|| starting.iter().position(|one| one.stdout().contains('\n')));
        starting.iter_mut().filter_map(holdfast_tests::Instance::ended).count() == 99
    });
    until("one serves", || {
        serving = serving.or_else(|| starting.iter().position(|one| one.stdout().contains('\n')));
        serving.is_some()
    });
    let mut one = starting.swap_remove(serving.expect("one serves"));
    for other in starting {
        other.finish_refused().assert_failed(3, &["another instance", &place.run_dir().to_string_lossy()]);
    }
    one.wait_until_serving();
    one.say("still there");
    one.books_agree();
    one.stop();
}

#[test]
fn a_second_instance_is_refused_and_the_first_goes_on() {
    let place = Place::new();
    let first = place.start();
    place.instance().launch().finish_refused().assert_failed(3, &["another instance"]);
    first.say("undisturbed");
    first.books_agree();
    first.stop();
}

#[test]
fn two_instances_never_share_a_spool() {
    let (place, other) = (Place::new(), Place::new());
    let first = place.start();
    let second = other.instance().spool_dir(place.spool_dir()).launch();
    second.finish().assert_failed(3, &["spool"]);
    first.say("undisturbed");
    first.books_agree();
    first.stop();
}

#[test]
fn two_instances_with_directories_of_their_own_do_not_meet() {
    let (place, other) = (Place::new(), Place::new());
    let (first, second) = (place.start(), other.start());
    first.say("one");
    second.say("two");
    second.say("three");
    assert_eq!((first.books_agree().len(), second.books_agree().len()), (1, 2));
    first.stop();
    second.say("four");
    assert_eq!(second.books_agree().len(), 3);
    second.stop();
}

#[test]
fn a_run_directory_with_a_long_path_serves() {
    let place = Place::new();
    let long = place.run_dir().join("a-rather-long-name".repeat(8));
    let instance = place.instance().run_dir(&long).start();
    instance.say("from afar");
    instance.books_agree();
    instance.stop();
}

#[test]
fn relative_paths_are_those_of_where_it_was_started() {
    let place = Place::new();
    std::fs::create_dir(place.file("there")).unwrap();
    std::fs::write(place.file("there/users"), "anna\n").unwrap();
    let instance = place
        .instance()
        .current_dir(place.file("there"))
        .run_dir("run")
        .spool_dir("spool")
        .args(&["--users", "users", "--access-log", "access.log"])
        .start();
    instance.connect().say("anna", "here");
    until("the access log is there", || place.file("there/access.log").exists());
    assert_eq!(journal::read(&place.file("there/spool")).len(), 1);
    instance.books_agree();
    // The commands are given the directory from elsewhere.
    instance.stop();
}

// ---- Asking -----------------------------------------------------------------------------------------------------------

#[test]
fn status_has_every_documented_field() {
    let place = Place::new();
    let instance = place.instance().workers(3).start();
    let mut connection = instance.connect();
    connection.say("arijort", "12345");
    connection.say("foobar", "678");
    connection.ask("nobody:x");
    drop(connection);
    instance.wait_for_rest();
    let status = instance.status();

    assert_eq!(status["state"], "running");
    for key in ["supervisor_pid", "template_pid", "recovery_pid", "generation"] {
        assert!(status[key].as_u64().is_some_and(|number| number > 0), "{key} in {status}");
    }
    assert_eq!(status["listen"], Value::from(instance.listen.clone()));
    let workers = [("configured", 3), ("live", 3), ("idle", 3), ("busy", 0)];
    for (key, number) in workers {
        assert_eq!(status["workers"][key], number, "{key} in {status}");
    }
    let totals =
        [("connections", 1), ("messages", 2), ("bytes", 8), ("errors", 1), ("crashes", 0), ("recoveries", 0)];
    for (key, number) in totals {
        assert_eq!(status["totals"][key], number, "{key} in {status}");
    }
    for key in ["last", "p50", "p99", "max"] {
        assert!(status["recovery_us"][key].is_u64(), "{key} in {status}");
    }
    assert!(status["users"].is_object(), "{status}");
    assert!(status["spool"]["bytes"].as_u64().is_some_and(|bytes| bytes > 100), "{status}");
    assert!(status["spool"]["limit"].is_u64() || status["spool"]["limit"].is_null(), "{status}");
    // The spool is looked through from time to time.
    instance.wait_for_status("the oldest minute is known", |status| {
        status["spool"]["oldest_minute"].as_u64().is_some_and(|minute| minute > 29_000_000)
    });
    assert!(status.get("slots").is_none(), "slots only where they are asked for: {status}");
    instance.stop();
}

#[test]
fn status_with_slots_says_who_does_what() {
    let place = Place::new();
    let instance = place.instance().workers(2).args(&["--latency", "1m"]).start();
    let mut connection = instance.connect();
    connection.send("arijort:something that takes long\n");
    instance.wait_for_status("somebody is busy", |status| status["workers"]["busy"] == 1);
    let slots = eventually(DEADLINE, "it says what it does", || {
        let slots = instance.status_with_slots()["slots"].clone();
        let said = slots.as_array().into_iter().flatten().any(|slot| slot["doing"] != "");
        if said { Ok(slots) } else { Err(slots.to_string()) }
    });
    let slots = slots.as_array().unwrap();
    assert_eq!(slots.len(), 2);
    for slot in slots {
        for key in ["slot", "generation", "pid", "messages"] {
            assert!(slot[key].is_u64(), "{key} in {slot}");
        }
    }
    let busy: Vec<_> = slots.iter().filter(|slot| slot["state"] == "busy").collect();
    assert_eq!(busy.len(), 1, "{slots:?}");
    assert!(busy[0]["doing"].as_str().unwrap().contains("something that takes long"), "{slots:?}");
    assert_eq!(slots.iter().filter(|slot| slot["state"] == "idle").count(), 1, "{slots:?}");
}

#[test]
fn status_for_people_says_the_same() {
    let place = Place::new();
    let instance = place.instance().workers(2).start();
    instance.say("hello");
    instance.wait_for_rest();
    let text = instance.command("status", &["--slots"]);
    text.assert_succeeded();
    let pid = instance.pid().to_string();
    for words in ["running", "1 messages", &pid, &instance.listen[0], "idle"] {
        assert!(text.stdout.contains(words), "{words} in {}", text.stdout);
    }
}

#[test]
fn without_an_instance_commands_fail() {
    let place = Place::new();
    let commands: [(&str, &[&str]); 5] =
        [("status", &[]), ("status", &["--json"]), ("stop", &[]), ("reload", &[]), ("scale", &["3"])];
    for (command, arguments) in commands {
        place.command(command, arguments).assert_failed(1, &["no instance"]);
    }
    let instance = place.start();
    instance.stop();
    for (command, arguments) in commands {
        place.command(command, arguments).assert_failed(1, &["no instance"]);
    }
    place.start().kill9();
    for (command, arguments) in commands {
        place.command(command, arguments).assert_failed(1, &["no instance"]);
    }
}

#[test]
fn every_program_has_help_and_a_version() {
    for name in programs::ALL {
        for (option, words) in [("--help", "Usage"), ("--version", name)] {
            let outcome = run(program(name).arg(option));
            outcome.assert_succeeded();
            assert!(outcome.stdout.contains(words), "{name} {option}: {outcome}");
            assert!(outcome.stderr.is_empty(), "{name} {option}: {outcome}");
        }
    }
    for command in ["status", "stop", "reload", "scale"] {
        let outcome = run(program("supervisor").args([command, "--help"]));
        outcome.assert_succeeded();
        assert!(outcome.stdout.contains("Usage"), "{outcome}");
    }
}

// ---- Stopping ---------------------------------------------------------------------------------------------------------

/// A request is under way on an instance with two workers, so that one is idle.
fn at_work(place: &Place, latency: &str) -> (holdfast_tests::Instance, Connection) {
    let instance = place.instance().workers(2).args(&["--latency", latency, "--grace", "1m"]).start();
    let mut connection = instance.connect();
    connection.send("arijort:under way\n");
    instance.wait_for_status("somebody is busy", |status| status["workers"]["busy"] == 1);
    (instance, connection)
}

/// Whoever was at work has answered, and everything is in the books.
fn assert_drained(place: &Place, mut connection: Connection) {
    let reply = connection.line();
    assert_eq!(Receipt::read(&reply).map(|receipt| receipt.message).as_deref(), Some("under way"), "{reply}");
    connection.expect_end();
    assert_eq!(place.journal().len(), 1);
    place.no_process_left();
}

#[test]
fn stop_lets_a_request_finish_while_the_idle_leave() {
    let place = Place::new();
    let (instance, connection) = at_work(&place, "3s");
    let idle = instance.workers_that_are(&["idle"]);
    let mut stop = program("supervisor");
    let mut stop = Running::start(stop.args(["stop", "--run-dir"]).arg(place.run_dir()));
    until("the idle one has left", || {
        idle.iter().all(|pid| !holdfast_tests::processes::children_of(instance.pid()).contains(pid))
    });
    assert!(stop.ended().is_none(), "it waits for the request");
    assert_eq!(instance.status()["state"], "draining");
    // Whoever comes now is not served, and is not kept waiting for longer than the drain takes.
    let late = Connection::try_to(&instance.listen[0]);
    stop.finish().assert_succeeded();
    // Every child was gone when stop returned; the supervisor itself may take one more moment.
    assert!(holdfast_tests::processes::children_of(instance.pid()).is_empty());
    instance.finish().assert_succeeded();
    if let Ok(mut late) = late {
        late.expect_end();
    }
    assert_drained(&place, connection);
}

#[test]
fn term_and_int_drain() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let place = Place::new();
        let (instance, connection) = at_work(&place, "1s");
        instance.signal(signal);
        instance.finish().assert_succeeded();
        assert_drained(&place, connection);
    }
}

#[test]
fn quit_and_a_fast_stop_do_not_wait() {
    for fast in [true, false] {
        let place = Place::new();
        let (instance, mut connection) = at_work(&place, "5m");
        if fast {
            instance.command("stop", &["--fast"]).assert_succeeded();
        } else {
            instance.signal(Signal::SIGQUIT);
        }
        instance.finish().assert_succeeded();
        connection.expect_end();
        assert!(place.journal().is_empty());
        // What was cut off leaves nothing that the next instance would stumble over.
        let next = place.start();
        next.say("again");
        assert_eq!(next.books_agree().len(), 1);
        assert_eq!(next.total("crashes"), 0, "to be stopped is no crash");
        next.stop();
    }
}

#[test]
fn grace_ends_what_does_not() {
    let place = Place::new();
    let instance = place.instance().args(&["--latency", "5m", "--grace", "200ms"]).start();
    let mut connection = instance.connect();
    connection.send("arijort:for ever\n");
    instance.wait_for_status("somebody is busy", |status| status["workers"]["busy"] == 1);
    instance.stop();
    connection.expect_end();
    assert!(place.journal().is_empty());
}

#[test]
fn a_second_term_changes_nothing_and_a_quit_hurries() {
    let place = Place::new();
    let (instance, mut connection) = at_work(&place, "5m");
    instance.signal(Signal::SIGTERM);
    instance.wait_for_status("it drains", |status| status["state"] == "draining");
    instance.signal(Signal::SIGTERM);
    instance.signal(Signal::SIGHUP);
    assert_eq!(instance.status()["state"], "draining");
    instance.signal(Signal::SIGQUIT);
    instance.finish().assert_succeeded();
    connection.expect_end();
}

#[test]
fn a_connection_without_a_request_does_not_hold_up_a_stop() {
    let place = Place::new();
    let instance = place.instance().args(&["--grace", "5m", "--read-timeout", "5m"]).start();
    let mut silent = instance.connect();
    let mut between = instance.connect();
    between.say("arijort", "one");
    instance.wait_for_status("both are served", |status| status["workers"]["busy"] == 2);
    instance.stop();
    between.expect_end();
    silent.expect_end();
}

#[test]
fn a_stop_at_any_moment_of_the_start_is_a_stop() {
    let place = Place::new();
    let mut served = 0;
    for number in 0..20 {
        let instance = place.instance().workers(40).launch();
        // The moments differ: from the pid file's first byte to the line on stdout.
        let moment = number % 4;
        until("the moment has come", || {
            let pid_file =
                std::fs::read_to_string(place.run_dir().join("supervisor.pid")).unwrap_or_default();
            let children = || holdfast_tests::processes::children_of(instance.pid()).len();
            match moment {
                0 => !pid_file.trim().is_empty(),
                1 => children() > 0,
                2 => children() > 10,
                _ => instance.stdout().contains('\n'),
            }
        });
        instance.signal(if number % 3 == 0 { Signal::SIGQUIT } else { Signal::SIGTERM });
        let outcome = instance.finish();
        outcome.assert_succeeded();
        served += usize::from(!outcome.stdout.is_empty());
    }
    assert!(served >= 5, "{served}");
    place.no_process_left();
}

// ---- Changing ---------------------------------------------------------------------------------------------------------

#[test]
fn scale_changes_the_number_of_workers() {
    let place = Place::new();
    let instance = place.instance().workers(2).start();
    for wanted in [7, 3, 1, 4] {
        instance.command("scale", &[&wanted.to_string()]).assert_succeeded();
        let status = instance.wait_for_rest();
        assert_eq!(status["workers"]["live"], wanted);
    }
    for refused in ["0", "100000"] {
        instance.command("scale", &[refused]).assert_failed(1, &[refused]);
    }
    instance.say("serving");
    assert_eq!(instance.books_agree().len(), 1);
    assert_eq!(instance.total("crashes"), 0);
    instance.stop();
}

#[test]
fn ttin_and_ttou_are_one_more_and_one_fewer() {
    let place = Place::new();
    let instance = place.instance().workers(2).start();
    let settled = |count: u64| {
        instance.wait_for_status(&format!("{count} workers are there"), |status| {
            status["workers"]["configured"] == count && status["workers"]["live"] == count
        })
    };
    for (signal, count) in [
        (Signal::SIGTTIN, 3),
        (Signal::SIGTTIN, 4),
        (Signal::SIGTTOU, 3),
        (Signal::SIGTTOU, 2),
        (Signal::SIGTTOU, 1),
        (Signal::SIGTTOU, 1),
    ] {
        instance.signal(signal);
        settled(count);
    }
    instance.say("serving");
    instance.stop();
}

#[test]
fn scaling_down_loses_no_connection() {
    let place = Place::new();
    let instance = place.instance().workers(8).start();
    let load = holdfast_tests::load::Load::on(&instance.listen[0], 4);
    for wanted in [4, 8, 1, 6, 2, 8] {
        load.wait_for_more(20);
        instance.command("scale", &[&wanted.to_string()]).assert_succeeded();
    }
    load.wait_for_more(20);
    let ledger = load.stop();
    ledger.check(&instance.books_agree());
    assert!(ledger.errors.is_empty(), "{:?}", ledger.errors);
    assert_eq!(instance.total("crashes"), 0);
    instance.stop();
}

#[test]
fn a_retiring_worker_answers_the_connection_that_it_was_given() {
    let place = Place::new();
    let instance = place.instance().workers(8).start();
    let load = holdfast_tests::load::Load::with_short_connections(&instance.listen[0], 4);
    for wanted in [1, 8, 2, 8, 1, 8] {
        load.wait_for_more(50);
        instance.command("scale", &[&wanted.to_string()]).assert_succeeded();
        load.wait_for_more(50);
        instance.command("reload", &[]).assert_succeeded();
    }
    load.wait_for_more(50);
    let ledger = load.stop();
    ledger.check(&instance.books_agree());
    assert!(ledger.errors.is_empty(), "{:?}", ledger.errors);
    assert_eq!(ledger.broken, 0, "every connection that was accepted was answered");
    assert_eq!(ledger.sent, ledger.acknowledged);
    assert_eq!(instance.total("crashes"), 0);
    instance.stop();
}

#[test]
fn reload_reads_the_users_again() {
    let place = Place::new();
    let users = place.write("users", "# who may\nanna\nbert # the second\n\n");
    let instance = place.instance().arg("--users").arg(&users).start();
    let may = |user: &str| Receipt::read(&instance.connect().ask(&format!("{user}:x"))).is_some();
    assert!(may("anna") && may("bert") && !may("carl") && !may("arijort"));
    let before = instance.status();

    place.write("users", "anna\ncarl\n");
    assert!(!may("carl"), "not before a reload");
    instance.command("reload", &[]).assert_succeeded();
    let after = instance.wait_for_rest();
    assert_ne!(after["template_pid"], before["template_pid"]);
    assert!(after["generation"].as_u64() > before["generation"].as_u64());
    assert!(may("anna") && may("carl") && !may("bert"));

    place.write("users", "dora\n");
    instance.signal(Signal::SIGHUP);
    until("the signal does the same", || may("dora"));
    instance.wait_for_rest();
    assert!(!may("anna"));
    assert_eq!(instance.total("crashes"), 0);
    instance.books_agree();
    instance.stop();
}

#[test]
fn a_reload_that_fails_changes_nothing() {
    let place = Place::new();
    let users = place.write("users", "anna\n");
    let instance = place.instance().arg("--users").arg(&users).start();
    let before = instance.status();
    place.write("users", "an:na\n");
    instance.command("reload", &[]).assert_failed(1, &["users"]);
    std::fs::remove_file(&users).unwrap();
    instance.command("reload", &[]).assert_failed(1, &["users"]);
    instance.signal(Signal::SIGHUP);
    instance.connect().say("anna", "goes on");
    let after = instance.wait_for_rest();
    assert_eq!(after["template_pid"], before["template_pid"]);
    assert_eq!(after["generation"], before["generation"]);
    // A killed worker comes from the former template, which knows the users as they were.
    for pid in instance.worker_pids() {
        instance.signal_child(pid, Signal::SIGKILL);
    }
    instance.wait_for_status("all are replaced", |status| {
        status["totals"]["recoveries"] == 4 && status["workers"]["idle"] == 4
    });
    instance.connect().say("anna", "still");
    instance.books_agree();
    instance.stop();
}

/// A worker program that starts like the real one; but who finds `claim` missing, and so can make it, waits for `go` first.
fn held_up(place: &Place, claim: &Path, go: &Path) -> std::path::PathBuf {
    let script = format!(
        "#!/bin/sh\nif mkdir {claim:?} 2>/dev/null; then while ! [ -e {go:?} ]; do sleep 0.01; done; fi\nexec {:?} \"$@\"\n",
        programs::path("worker")
    );
    let program = place.write("held-up", &script);
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

#[test]
fn whoever_stands_in_while_a_successor_loads_leaves_no_worker_of_before() {
    let place = Place::new();
    let (anna, carl) = (place.write("anna", "anna\n"), place.write("carl", "carl\n"));
    let config = place.write("supervisor.toml", &format!("users = {anna:?}\n"));
    let (claim, go) = (place.file("claim"), place.file("go"));
    std::fs::create_dir(&claim).unwrap();
    let worker = held_up(&place, &claim, &go);
    let instance = place.instance().arg("--config").arg(&config).arg("--worker").arg(worker).start();

    place.write("supervisor.toml", &format!("users = {carl:?}\n"));
    std::fs::remove_dir(&claim).unwrap();
    instance.signal(Signal::SIGHUP);
    until("the successor loads", || claim.exists());
    let former = instance.status()["template_pid"].clone();
    instance.kill_child(former.as_i64().unwrap() as i32);
    instance.wait_for_status("one stands in", |status| {
        status["template_pid"] != former && status["template_pid"] != 0 && status["state"] == "running"
    });
    instance.kill_child(instance.worker_pids()[0]);
    instance.wait_for_status("it has made a worker", |status| {
        status["totals"]["recoveries"] == 1 && status["workers"]["idle"] == 4
    });
    place.write("go", "");
    instance.wait_for_log("serves from now on");
    instance.wait_for_rest();
    until("every worker is another", || {
        let mut all = [0; 4].map(|_| instance.connect());
        all.iter_mut().all(|connection| Receipt::read(&connection.ask("carl:x")).is_some())
    });
    instance.stop();
}

#[test]
fn reload_under_load_refuses_nobody() {
    let place = Place::new();
    let instance = place.instance().workers(6).start();
    let load = holdfast_tests::load::Load::on(&instance.listen[0], 4);
    for _ in 0..4 {
        load.wait_for_more(20);
        instance.command("reload", &[]).assert_succeeded();
    }
    load.wait_for_more(20);
    let ledger = load.stop();
    ledger.check(&instance.books_agree());
    assert!(ledger.errors.is_empty(), "{:?}", ledger.errors);
    assert_eq!(instance.total("crashes"), 0);
    instance.stop();
}

// ---- Logs -------------------------------------------------------------------------------------------------------------

#[test]
fn the_access_log_has_the_seeds_lines() {
    let place = Place::new();
    let log = place.file("access.log");
    let instance = place.instance().workers(1).arg("--access-log").arg(&log).start();
    let pid = instance.say("lalala");
    instance.connect().ask("nobody:x");
    let lines = eventually(DEADLINE, "two lines are there", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        if lines.len() >= 2 { Ok(lines) } else { Err(text) }
    });
    let said: Vec<_> = lines.iter().map(|line| line.split_once(" -- ").expect("a time")).collect();
    for (time, _) in &said {
        let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
        assert_eq!(shape, "9999.99.99 99:99:99.999999999");
    }
    assert_eq!(said[0].1, format!("server {pid} recvd message \"lalala\" from user arijort"));
    assert_eq!(said[1].1, format!("completed req \"lalala\" on {pid} total reqs 1"));
    assert_eq!(lines.len(), 2, "only of messages that were taken: {lines:?}");
    instance.stop();
}

#[test]
fn usr1_opens_the_logs_again() {
    let place = Place::new();
    let (access, log) = (place.file("access.log"), place.file("holdfast.log"));
    let instance =
        place.instance().workers(1).arg("--access-log").arg(&access).arg("--log").arg(&log).start();
    instance.say("before");
    let contains =
        |path: &Path, words: &str| std::fs::read_to_string(path).is_ok_and(|text| text.contains(words));
    until("the logs are written", || contains(&access, "before") && contains(&log, "Running with"));
    let (old_access, old_log) = (place.file("access.log.1"), place.file("holdfast.log.1"));
    std::fs::rename(&access, &old_access).unwrap();
    std::fs::rename(&log, &old_log).unwrap();
    instance.say("to the old one");
    until("it is in the old one", || contains(&old_access, "to the old one"));
    instance.signal(Signal::SIGUSR1);
    until("the log is there again", || log.exists());
    instance.say("to the new one");
    until("it is in the new one", || contains(&access, "to the new one"));
    assert!(!contains(&old_access, "to the new one") && !contains(&access, "to the old one"));
    let outcome = instance.stop();
    assert!(contains(&log, "stopped"), "{outcome}");
    assert!(outcome.stderr.is_empty(), "the log is elsewhere: {outcome}");
}

#[test]
fn the_total_is_logged_when_it_changes() {
    let place = Place::new();
    let instance = place.start();
    instance.say("one");
    instance.wait_for_log("total requests 1\n");
    instance.say("two");
    instance.say("three");
    instance.wait_for_log("total requests 3\n");
    let logged = instance.stderr().matches("total requests 3\n").count();
    assert_eq!(logged, 1, "only when it changes: {}", instance.stderr());
    instance.stop();
}

#[test]
fn the_log_level_is_obeyed() {
    let place = Place::new();
    let instance = place.instance().args(&["--log-level", "error"]).start();
    instance.say("hush");
    let outcome = instance.stop();
    assert_eq!(outcome.stderr, "");
}

// ---- Starting again ---------------------------------------------------------------------------------------------------

#[test]
fn totals_survive_a_clean_stop_and_another_size() {
    let place = Place::new();
    let mut said = 0;
    for size in ["4MiB", "4MiB", "8MiB", "2MiB"] {
        let instance = place.instance().region_size(size).start();
        assert_eq!(instance.total("messages"), said, "{size}");
        for _ in 0..3 {
            instance.say("once more");
            said += 1;
        }
        instance.connect().ask("nobody:x");
        instance.wait_for_rest();
        assert_eq!(instance.books_agree().len() as u64, said);
        assert_eq!(instance.total("errors"), said / 3);
        instance.stop();
    }
    let length = std::fs::metadata(place.region()).unwrap().len();
    assert_eq!(length, 2 << 20, "the size took effect");
}

#[test]
fn another_size_waits_for_a_clean_stop() {
    let place = Place::new();
    let instance = place.start();
    instance.say("one");
    instance.wait_for_rest();
    instance.kill9();
    let length = std::fs::metadata(place.region()).unwrap().len();
    let instance = place.instance().region_size("8MiB").start();
    assert!(instance.stderr().contains("--region-size"), "a warning: {}", instance.stderr());
    assert_eq!(std::fs::metadata(place.region()).unwrap().len(), length);
    assert_eq!(instance.total("messages"), 1);
    instance.stop();
    let instance = place.instance().region_size("8MiB").start();
    assert_eq!(std::fs::metadata(place.region()).unwrap().len(), 8 << 20);
    assert_eq!(instance.total("messages"), 1);
    instance.books_agree();
    instance.stop();
}

#[test]
fn a_killed_supervisor_takes_its_children_along_and_loses_no_count() {
    let place = Place::new();
    let mut said = 0;
    for round in 0..5 {
        let instance = place.start();
        assert_eq!(instance.total("messages"), said, "in round {round}");
        for _ in 0..3 {
            instance.say("once more");
            said += 1;
        }
        assert_eq!(instance.books_agree().len() as u64, said);
        instance.kill9();
        place.no_process_left();
    }
    let instance = place.start();
    assert_eq!(instance.total("messages"), said);
    assert_eq!(instance.total("crashes"), 0, "who dies with the supervisor has not crashed");
    instance.books_agree();
    instance.stop();
}

#[test]
fn a_supervisor_killed_under_load_loses_nothing() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", listener.local_addr().unwrap());
    drop(listener);
    let mut instance = place.instance().workers(8).listen(&address).start();
    let load = holdfast_tests::load::Load::on(&address, 6);
    for _ in 0..5 {
        load.wait_for_more(200);
        instance.kill9();
        instance = place.instance().workers(8).listen(&address).start();
    }
    load.wait_for_more(200);
    let ledger = load.stop();
    ledger.check(&instance.books_agree());
    instance.stop();
    ledger.check(&place.journal());
}

#[test]
fn a_supervisor_killed_while_it_starts_leaves_nothing_to_clean_up() {
    let place = Place::new();
    let first = place.start();
    first.say("one");
    first.wait_for_rest();
    first.kill9();
    for children in [1, 2, 3, 5, 10, 20, 40] {
        let instance = place.instance().workers(40).launch();
        until("it is on its way", || {
            holdfast_tests::processes::children_of(instance.pid()).len() >= children
        });
        instance.kill9();
    }
    let last = place.start();
    assert_eq!(last.books_agree().len(), 1);
    last.stop();
}

// ---- Listening --------------------------------------------------------------------------------------------------------

#[test]
fn every_kind_of_address_is_listened_on() {
    let place = Place::new();
    let socket = place.file("holdfast.sock");
    let inherited = TcpListener::bind("127.0.0.1:0").unwrap();
    let inherited_port = inherited.local_addr().unwrap().port();
    let instance = place
        .instance()
        .listen("tcp:127.0.0.1:0")
        .listen("tcp:localhost:0")
        .listen(&format!("unix:{}", socket.display()))
        .listen("fd:5")
        .after("exec 5<&0 0</dev/null")
        .stdin(inherited)
        .start();
    assert!(instance.listen.contains(&format!("unix:{}", socket.display())), "{:?}", instance.listen);
    assert!(instance.listen.contains(&"fd:5".to_owned()), "{:?}", instance.listen);
    let mut said = 0;
    for address in &instance.listen {
        let address = match address.as_str() {
            "fd:5" => format!("tcp:127.0.0.1:{inherited_port}"),
            named => named.to_owned(),
        };
        Connection::to(&address).say("arijort", &address);
        said += 1;
    }
    assert!(said >= 4);
    assert_eq!(instance.books_agree().len(), said);
    instance.stop();
    assert!(!socket.exists(), "its socket goes with it");
}

#[test]
fn a_name_means_each_of_its_addresses_on_one_port() {
    let place = Place::new();
    let instance = place.instance().listen("tcp:localhost:0").start();
    let ports: std::collections::BTreeSet<_> =
        instance.listen.iter().map(|address| address.rsplit_once(':').unwrap().1).collect();
    assert_eq!(ports.len(), 1, "{:?}", instance.listen);
    for address in instance.listen.clone() {
        Connection::to(&address).say("arijort", "hello");
    }
    instance.stop();
}

#[test]
fn the_socket_of_a_killed_instance_is_replaced() {
    let place = Place::new();
    let address = format!("unix:{}", place.file("holdfast.sock").display());
    let instance = place.instance().listen(&address).start();
    instance.say("one");
    instance.wait_for_rest();
    instance.kill9();
    let instance = place.instance().listen(&address).start();
    instance.say("two");
    assert_eq!(instance.books_agree().len(), 2);
    // A socket that somebody listens on is not taken away.
    let other = Place::new();
    other.instance().listen(&address).run().assert_failed(1, &["holdfast.sock", "in use"]);
    instance.say("three");
    instance.stop();
}
