//! Wrong flags, wrong files, wrong directories: one sentence, the documented exit code, and nothing left running.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use holdfast_tests::machine::{is_root, skip};
use holdfast_tests::outcome::run;
use holdfast_tests::place::program;
use holdfast_tests::{Place, programs};
use nix::sys::signal::Signal;

#[test]
fn wrong_flags_are_usage_errors() {
    let wrong: [&[&str]; 22] = [
        &["--no-such-flag"],
        &["no-such-command"],
        &["--workers", "0"],
        &["--workers", "-3"],
        &["--workers", "many"],
        &["--workers", "4294967296"],
        &["--workers", "70000"],
        &["--workers", "100000000"],
        &["--region-size", "0"],
        &["--region-size", "1KiB"],
        &["--region-size", "1000001"],
        &["--region-size", "64MB extra"],
        &["--region-size", "99999TiB"],
        &["--listen", "udp:localhost:1"],
        &["--listen", "localhost:1"],
        &["--listen", "tcp:localhost:99999"],
        &["--listen", "tcp:127.0.0.1:0", "--listen", ""],
        &["--latency", "soon"],
        &["--sync", "sometimes"],
        &["--recovery", "perhaps"],
        &["--log-level", "loud"],
        &["--spool-limit", "-1"],
    ];
    let place = Place::new();
    for arguments in wrong {
        let mut supervisor = program("supervisor");
        supervisor.args(arguments).arg("--run-dir").arg(place.run_dir());
        supervisor.arg("--spool-dir").arg(place.spool_dir());
        let outcome = run(&mut supervisor);
        eprintln!("{arguments:?}");
        outcome.assert_failed(2, &[]);
        assert!(outcome.stdout.is_empty(), "{outcome}");
    }
    place.no_process_left();
}

#[test]
fn wrong_flags_of_commands_are_usage_errors() {
    let wrong: [&[&str]; 5] = [
        &["status", "--yaml"],
        &["stop", "now"],
        &["scale"],
        &["scale", "many"],
        &["reload", "--everything"],
    ];
    for arguments in wrong {
        eprintln!("{arguments:?}");
        run(program("supervisor").args(arguments)).assert_failed(2, &[]);
    }
}

#[test]
fn more_workers_than_the_region_has_slots_are_refused_with_what_to_do() {
    let place = Place::new();
    let outcome = place.instance().workers(3000).region_size("64MiB").run();
    outcome.assert_failed(2, &["--workers 3000", "--region-size"]);
    assert!(!place.run_dir().exists(), "nothing was begun");
}

#[test]
fn listening_on_nothing_that_exists_fails() {
    let cases: [(&str, i32, &str); 5] = [
        ("tcp:no-such-host.invalid:1", 1, "no-such-host.invalid"),
        ("tcp:192.0.2.77:0", 2, "192.0.2.77"),
        ("unix:/no/such/directory/socket", 1, "/no/such/directory/socket"),
        ("fd:77", 2, "fd:77"),
        ("fd:0", 2, "fd:0"),
    ];
    for (address, code, words) in cases {
        let place = Place::new();
        place.instance().listen(address).run().assert_failed(code, &[words]);
        place.no_process_left();
    }
}

#[test]
fn a_port_in_use_is_named() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", taken.local_addr().unwrap());
    place.instance().listen(&address).run().assert_failed(1, &[&address, "in use"]);
    place.no_process_left();
    // The same twice, too; and the next start is none the worse for it.
    place.instance().listen(&address).listen(&address).run().assert_failed(1, &["in use"]);
    drop(taken);
    let instance = place.instance().listen(&address).start();
    instance.say("served");
    instance.books_agree();
    instance.stop();
}

#[test]
fn a_file_where_a_socket_should_be_is_left_alone() {
    let place = Place::new();
    let file = place.write("precious", "data");
    place.instance().listen(&format!("unix:{}", file.display())).run().assert_failed(1, &["precious"]);
    assert_eq!(std::fs::read_to_string(file).unwrap(), "data");
}

#[test]
fn users_files_that_cannot_be_read_end_the_start() {
    let place = Place::new();
    let long = "x".repeat(300);
    let directory = place.file("directory");
    std::fs::create_dir(&directory).unwrap();
    let binary = place.file("binary");
    std::fs::write(&binary, b"anna\n\xff\xfe\n").unwrap();
    let cases = [
        place.file("missing"),
        directory,
        binary,
        place.write("colon", "an:na\n"),
        place.write("long", &long),
        "/dev/zero".into(),
    ];
    for users in cases {
        let outcome = place.instance().arg("--users").arg(&users).run();
        outcome.assert_failed(2, &[&users.to_string_lossy()]);
        place.no_process_left();
    }
    // The place is as good as new.
    place.start().stop();
}

#[test]
fn an_empty_users_file_knows_nobody() {
    let place = Place::new();
    let users = place.write("users", "# nobody yet\n\n");
    let instance = place.instance().arg("--users").arg(users).start();
    let mut connection = instance.connect();
    for request in ["arijort:x\n", ":x\n", "# nobody yet:x\n"] {
        connection.send(request);
        connection.expect_error("unauthorized");
    }
    instance.stop();
}

#[test]
fn programs_that_are_none_end_the_start() {
    let place = Place::new();
    let not_executable = place.write("not-executable", "#!/bin/sh\n");
    let directory = place.file("directory");
    std::fs::create_dir(&directory).unwrap();
    for option in ["--worker", "--recovery-program"] {
        for path in [&place.file("missing"), &not_executable, &directory] {
            let outcome = place.instance().arg(option).arg(path).run();
            outcome.assert_failed(2, &[&path.to_string_lossy()]);
            place.no_process_left();
        }
        for path in ["/bin/true", "/bin/false"] {
            let outcome = place.instance().args(&[option, path]).run();
            eprintln!("{option} {path}: {outcome}");
            outcome.assert_failed(1, &[]);
            place.no_process_left();
        }
    }
    place.start().stop();
}

#[test]
fn children_started_by_hand_say_what_they_are_for() {
    for (name, arguments) in [
        ("worker", &["template"][..]),
        ("recovery", &["standby"]),
        ("recovery", &["journal"]),
        ("worker", &[]),
    ] {
        eprintln!("{name} {arguments:?}");
        run(program(name).args(arguments)).assert_failed(2, &[]);
    }
}

#[test]
fn programs_are_found_beside_the_real_path_and_then_in_lib() {
    let place = Place::new();
    let (bin, lib) = (place.file("prefix/bin"), place.file("prefix/lib/holdfast"));
    std::fs::create_dir_all(&bin).unwrap();
    let copy = |from: &str, to: &Path| std::fs::copy(programs::path(from), to.join(from)).map(drop).unwrap();
    copy("supervisor", &bin);
    let start = |path: &Path| {
        let mut supervisor = program(&path.to_string_lossy());
        supervisor.args(["--workers", "2", "--region-size", "1MiB", "--listen", "tcp:127.0.0.1:0"]);
        supervisor.arg("--run-dir").arg(place.run_dir()).arg("--spool-dir").arg(place.spool_dir());
        supervisor
    };
    run(&mut start(&bin.join("supervisor"))).assert_failed(2, &["worker"]);
    std::fs::create_dir_all(&lib).unwrap();
    copy("worker", &lib);
    copy("recovery", &lib);
    // By way of a link elsewhere: what counts is where the program really is.
    let link = place.file("link");
    std::os::unix::fs::symlink(bin.join("supervisor"), &link).unwrap();
    let mut running = holdfast_tests::outcome::Running::start(&mut start(&link));
    holdfast_tests::until("it serves", || {
        assert!(running.ended().is_none(), "{}", running.stderr());
        running.stdout().contains("Running with 2 workers")
    });
    place.command("stop", &[]).assert_succeeded();
    running.finish().assert_succeeded();
}

// ---- Sources ----------------------------------------------------------------------------------------------------------

#[test]
fn the_command_line_comes_before_the_environment_and_that_before_the_file() {
    let place = Place::new();
    let users = place.write("users", "anna\n");
    let config = place.write(
        "supervisor.toml",
        &format!("workers = 3\nread_timeout = \"7s\"\nusers = {users:?}\nregion_size = \"2MiB\"\n"),
    );
    // The harness gives workers and region size on the command line.
    let instance = place.instance().workers(2).arg("--config").arg(&config).start();
    assert_eq!(instance.workers, 2);
    instance.connect().say("anna", "known by the file");
    assert_eq!(std::fs::metadata(place.region()).unwrap().len(), 4 << 20);
    instance.stop();

    let run = |environment: &[(&str, &str)]| {
        let mut supervisor = program("supervisor");
        supervisor.args(["--check-config", "--config"]).arg(&config).envs(environment.iter().copied());
        run(&mut supervisor)
    };
    let sound = run(&[]);
    sound.assert_succeeded();
    assert_eq!(sound.stdout, "The configuration is sound: 3 workers on tcp:localhost:31337\n");
    let sound = run(&[("HOLDFAST_WORKERS", "5"), ("HOLDFAST_LISTEN", "tcp:127.0.0.1:1,unix:/s")]);
    assert_eq!(sound.stdout, "The configuration is sound: 5 workers on tcp:127.0.0.1:1, unix:/s\n");
    run(&[("HOLDFAST_WORKERS", "several")]).assert_failed(2, &["HOLDFAST_WORKERS", "several"]);
    run(&[("HOLDFAST_WRKERS", "5")]).assert_failed(2, &["HOLDFAST_WRKERS", "did you mean HOLDFAST_WORKERS"]);
    run(&[("HOLDFAST_OF_ANOTHER_PROGRAM", "5")]).assert_succeeded();
}

#[test]
fn commands_find_the_run_directory_as_the_instance_does() {
    let place = Place::new();
    let run_dir = place.run_dir();
    let config = place.write("supervisor.toml", &format!("run_dir = {run_dir:?}\nno_such_option = 1\n"));
    let instance = place.start();
    let status = |command: &mut std::process::Command| run(command.arg("status"));
    status(program("supervisor").env("HOLDFAST_RUN_DIR", &run_dir)).assert_succeeded();
    status(program("supervisor").env("HOLDFAST_CONFIG", &config)).assert_succeeded();
    run(program("supervisor").arg("status").arg("--config").arg(&config)).assert_succeeded();
    run(program("supervisor").args(["status", "--config", "/no/such/file"]))
        .assert_failed(2, &["/no/such/file"]);
    instance.stop();
}

#[test]
fn a_configuration_is_checked_without_beginning_anything() {
    let place = Place::new();
    let (run_dir, spool_dir) = (place.run_dir(), place.spool_dir());
    let base =
        format!("run_dir = {run_dir:?}\nspool_dir = {spool_dir:?}\nworkers = 4\nregion_size = \"4MiB\"\n");
    let check = |more: &str| {
        let config = place.write("supervisor.toml", &format!("{base}{more}"));
        let mut supervisor = program("supervisor");
        supervisor.arg("--check-config").arg("--config").arg(config);
        run(&mut supervisor)
    };
    check("").assert_succeeded();
    let wrong = [
        ("wokers = 4", &["line 5", "wokers", "workers"][..]),
        ("listen = 'localhost:1'", &["line 5", "localhost:1"]),
        ("users = '/no/such/users'", &["/no/such/users", "--users"]),
        ("users = '/dev/zero'", &["/dev/zero"]),
        ("log = '/no/such/directory/log'", &["/no/such/directory/log"]),
        ("pid_file = '/no/such/directory/pid'", &["/no/such/directory/pid"]),
        ("access_log = '/no/such/directory/log'", &["/no/such/directory/log"]),
        ("worker = '/no/such/worker'", &["/no/such/worker"]),
        ("recovery_program = '/etc/passwd'", &["/etc/passwd"]),
        ("user = 'no-such-user'", &["--user no-such-user"]),
        ("group = 'no-such-group'", &["--group no-such-group"]),
    ];
    for (more, words) in wrong {
        eprintln!("{more}");
        check(more).assert_failed(2, words);
    }
    let small = place.write("small.toml", "workers = 3000\n");
    let mut supervisor = program("supervisor");
    run(supervisor.arg("--check-config").arg("--config").arg(small))
        .assert_failed(2, &["3000", "--region-size"]);
    assert!(!run_dir.exists() && !spool_dir.exists(), "nothing was begun");
}

#[test]
fn a_reload_reads_the_file_again() {
    let place = Place::new();
    let config = place.write("supervisor.toml", "");
    let (anna, bert) = (place.write("anna", "anna\n"), place.write("bert", "bert\n"));
    let access_log = place.file("access.log");
    std::fs::write(&config, format!("users = {anna:?}\n")).unwrap();
    let instance = place.instance().arg("--config").arg(&config).start();
    instance.connect().say("anna", "one");

    std::fs::write(&config, format!("users = {bert:?}\naccess_log = {access_log:?}\nsync = \"always\"\n"))
        .unwrap();
    instance.command("reload", &[]).assert_succeeded();
    instance.wait_for_log("the configuration has another sync, which waits for the next start");
    instance.wait_for_rest();
    holdfast_tests::until("every worker knows the new users", || {
        let mut connection = instance.connect();
        connection.ask("anna:two").starts_with("error unauthorized")
    });
    instance.connect().say("bert", "three");
    assert!(std::fs::read_to_string(&access_log).unwrap().contains("\"three\" from user bert"));

    // What cannot be used changes nothing, whoever finds out: the supervisor or the template.
    std::fs::write(&config, "users = 5\n").unwrap();
    instance.command("reload", &[]).assert_failed(1, &["line 1", "users"]);
    std::fs::write(&config, "users = '/nowhere'\n").unwrap();
    instance.command("reload", &[]).assert_failed(1, &["/nowhere"]);
    // The next template is started as the former one was.
    let template = instance.status()["template_pid"].clone();
    instance.signal_child(template.as_i64().unwrap() as i32, Signal::SIGKILL);
    instance.wait_for_status("another template serves", |status| {
        status["template_pid"] != template && status["template_pid"] != 0 && status["state"] == "running"
    });
    for pid in instance.worker_pids() {
        instance.kill_child(pid);
    }
    instance.wait_for_status("all are replaced", |status| {
        status["totals"]["recoveries"] == 4 && status["workers"]["idle"] == 4
    });
    instance.connect().say("bert", "four");
    instance.books_agree();
    instance.stop();
}

// ---- Directories ------------------------------------------------------------------------------------------------------

#[test]
fn a_symlinked_run_directory_is_refused() {
    let place = Place::new();
    let real = place.run_dir().with_file_name("real");
    std::fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, place.run_dir()).unwrap();
    place.instance().run().assert_failed(2, &[&place.run_dir().to_string_lossy(), "link"]);
    assert_eq!(std::fs::read_dir(real).unwrap().count(), 0, "nothing was made there");
}

#[test]
fn a_dangling_link_as_run_directory_is_refused() {
    let place = Place::new();
    let nowhere = place.run_dir().with_file_name("nowhere");
    std::os::unix::fs::symlink(&nowhere, place.run_dir()).unwrap();
    place.instance().run().assert_failed(2, &[&place.run_dir().to_string_lossy()]);
    assert!(!nowhere.exists(), "nothing was made there");
}

#[test]
fn a_run_directory_of_somebody_else_is_refused() {
    if !is_root() {
        return skip("a run directory of somebody else", "not the superuser");
    }
    let place = Place::new();
    std::fs::create_dir(place.run_dir()).unwrap();
    std::os::unix::fs::chown(place.run_dir(), Some(12_345), Some(12_345)).unwrap();
    place.instance().run().assert_failed(2, &[&place.run_dir().to_string_lossy(), "12345"]);
    assert_eq!(std::fs::read_dir(place.run_dir()).unwrap().count(), 0, "nothing was made there");
}

#[test]
fn a_run_directory_that_others_may_write_to_is_refused() {
    let place = Place::new();
    std::fs::create_dir(place.run_dir()).unwrap();
    std::fs::set_permissions(place.run_dir(), std::fs::Permissions::from_mode(0o777)).unwrap();
    place.instance().run().assert_failed(2, &[&place.run_dir().to_string_lossy()]);
}

#[test]
fn a_new_run_directory_is_for_its_owner_alone() {
    let place = Place::new();
    let instance = place.start();
    let mode = |path: &Path| std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.run_dir()), 0o700);
    assert_eq!(mode(&place.region()), 0o600);
    assert_eq!(mode(&place.run_dir().join("supervisor.pid")) & 0o022, 0);
    let pid = std::fs::read_to_string(place.run_dir().join("supervisor.pid")).unwrap();
    assert_eq!(pid.trim(), instance.pid().to_string());
    assert_eq!(mode(&place.spool_dir()) & 0o077, 0, "messages are nobody else's business");
    instance.stop();
}

#[test]
fn a_file_is_no_directory() {
    let place = Place::new();
    let file = place.write("file", "");
    for (starting, name) in [
        (place.instance().run_dir(place.run_dir().with_file_name("file")), "run-dir"),
        (place.instance().spool_dir(&file), "spool-dir"),
        (place.instance().spool_dir(file.join("below")), "spool-dir"),
    ] {
        std::fs::write(place.run_dir().with_file_name("file"), "").unwrap();
        starting.run().assert_failed(2, &[&format!("--{name}")]);
        place.no_process_left();
    }
}

#[test]
fn links_in_the_run_directory_are_not_followed() {
    for name in ["supervisor.pid", "alive", "region"] {
        let place = Place::new();
        let precious = place.write("precious", "do not touch");
        std::fs::create_dir(place.run_dir()).unwrap();
        std::fs::set_permissions(place.run_dir(), std::fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink(&precious, place.run_dir().join(name)).unwrap();
        let outcome = place.instance().run();
        eprintln!("{name}");
        outcome.assert_failed(if name == "region" { 4 } else { 1 }, &[name]);
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "do not touch");
    }
}

#[test]
fn foreign_files_in_the_spool_are_left_alone() {
    let place = Place::new();
    std::fs::create_dir(place.spool_dir()).unwrap();
    let foreign =
        [("notes.txt", "mine"), ("007.dat", "no minute"), ("12.dat.sent", "{}\n"), ("x.dat.lock", "")];
    for (name, content) in foreign {
        std::fs::write(place.spool_dir().join(name), content).unwrap();
    }
    std::fs::create_dir(place.spool_dir().join("checkpoint")).unwrap();
    let instance = place.start();
    instance.say("one");
    instance.wait_for_rest();
    assert_eq!(instance.total("messages"), 1);
    instance.stop();
    for (name, content) in foreign {
        assert_eq!(std::fs::read_to_string(place.spool_dir().join(name)).unwrap(), content, "{name}");
    }
}

#[test]
fn a_spool_whose_seal_is_unreadable_is_refused_with_what_to_do() {
    let place = Place::new();
    std::fs::create_dir(place.spool_dir()).unwrap();
    std::fs::write(place.spool_dir().join("sealed"), "yesterday\n").unwrap();
    place.instance().run().assert_failed(2, &["sealed"]);
    place.no_process_left();
    std::fs::write(place.spool_dir().join("sealed"), "0\n").unwrap();
    let instance = place.start();
    instance.say("served");
    instance.books_agree();
    instance.stop();
}

#[test]
fn logs_that_cannot_be_written_end_the_start() {
    let place = Place::new();
    let log = place.file("no/such/directory/log");
    let outcome = place.instance().arg("--log").arg(&log).run();
    outcome.assert_failed(1, &[&log.to_string_lossy()]);
    place.no_process_left();
}
