//! Wrong flags, wrong files, wrong directories: one sentence, the documented exit code, and nothing left running.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use holdfast_tests::machine::{is_root, skip};
use holdfast_tests::outcome::run;
use holdfast_tests::place::program;
use holdfast_tests::{Place, programs};

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
