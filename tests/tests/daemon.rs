//! `--daemon`, `--pid-file`, `--user`: what a starter is told, what a daemon keeps of it, and who runs as whom.

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use holdfast_tests::machine::{is_root, skip};
use holdfast_tests::outcome::run;
use holdfast_tests::place::{self, Starting, program};
use holdfast_tests::processes::{self, Process};
use holdfast_tests::web::try_get;
use holdfast_tests::{Connection, Instance, Outcome, Place, programs, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use serde_json::Value;

/// An instance in the background. Dropping it leaves no process behind.
struct Daemon<'p> {
    place: &'p Place,
    pid: i32,
    address: String,
}

impl<'p> Daemon<'p> {
    #[track_caller]
    fn start(place: &'p Place, starting: Starting) -> Self {
        let outcome = start(starting);
        outcome.assert_succeeded();
        assert!(outcome.stderr.is_empty(), "{outcome}");
        let line = outcome.stdout.strip_suffix('\n').expect("a line");
        let address = line.strip_prefix("Running with 4 workers on ").unwrap_or_else(|| panic!("{line}"));
        let mut this = Self { place, pid: 0, address: address.to_owned() };
        this.pid = this.status()["supervisor_pid"].as_i64().expect("a pid") as i32;
        this
    }

    #[track_caller]
    fn status(&self) -> Value {
        let outcome = self.place.command("status", &["--json"]);
        outcome.assert_succeeded();
        serde_json::from_str(&outcome.stdout).expect("JSON")
    }

    #[track_caller]
    fn say(&self, message: &str) -> i32 {
        Connection::to(&self.address).say("arijort", message)
    }

    fn proc(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.pid).into()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid), signal).expect("it runs");
    }

    fn children(&self) -> Vec<Process> {
        let pids = read(self.proc(&format!("task/{}/children", self.pid)));
        pids.split_whitespace().filter_map(|pid| Process::of(pid.parse().ok()?)).collect()
    }

    /// Kills one child and waits until everything is as before.
    #[track_caller]
    fn kill_one(&self, name: &str) {
        let victim = self.children().into_iter().find(|child| child.name == name).expect("there is one");
        assert!(processes::signal_child_of(self.pid, victim.pid, Signal::SIGKILL));
        until("it is replaced", || {
            let children = self.children();
            let whole = children.len() == 7 && !children.contains(&victim);
            whole && self.status()["state"] == "running" && self.status()["workers"]["idle"] == 4
        });
    }

    #[track_caller]
    fn stop(self) {
        self.place.command("stop", &[]).assert_succeeded();
        self.place.no_process_left();
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.place.command("stop", &["--fast"]);
        processes::users_of(&self.place.run_dir()).iter().for_each(Process::kill);
    }
}

/// Starts a daemon and waits for its starter.
#[track_caller]
fn start(starting: Starting) -> Outcome {
    starting.arg("--daemon").launch().finish_refused()
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_daemon_keeps_nothing_of_its_starter() {
    let place = Place::new();
    let log = place.file("log");
    let starting = place.instance().after("exec 7</etc/passwd && trap '' TERM HUP && ulimit -S -n 256");
    let daemon = Daemon::start(&place, starting.arg("--log").arg(&log));
    assert_eq!(std::fs::read_link(daemon.proc("cwd")).unwrap(), Path::new("/"));
    let descriptors: Vec<PathBuf> = std::fs::read_dir(daemon.proc("fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .collect();
    assert!(!descriptors.iter().any(|file| file.ends_with("passwd")), "{descriptors:?}");
    // Its own pipe goes both ways, and one that it were given would be an end of one.
    let pipes: Vec<_> =
        descriptors.iter().filter(|file| file.to_string_lossy().starts_with("pipe:")).collect();
    assert!(pipes.len() <= 1, "{descriptors:?}");
    for entry in std::fs::read_dir(daemon.proc("fd")).unwrap().map(Result::unwrap) {
        if std::fs::read_link(entry.path()).is_ok_and(|file| pipes.contains(&&file)) {
            let info = read(daemon.proc("fdinfo").join(entry.file_name()));
            let flags = field(&info, "flags");
            assert!(flags.ends_with('2'), "O_RDWR: {flags}");
        }
    }
    for (number, file) in [("0", Path::new("/dev/null")), ("1", Path::new("/dev/null")), ("2", &log)] {
        assert_eq!(std::fs::read_link(daemon.proc("fd").join(number)).unwrap(), file);
    }
    let stat = read(daemon.proc("stat"));
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let (session, terminal) = (fields[3], fields[4]);
    assert_ne!(session, daemon.pid.to_string(), "it leads no session");
    assert_eq!(terminal, "0");
    let status = read(daemon.proc("status"));
    assert_eq!(field(&status, "Umask"), "0027");
    assert_eq!(field(&status, "SigBlk"), "0000000000000000");
    let limits = read(daemon.proc("limits"));
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let files: Vec<&str> = files.split_whitespace().collect();
    assert_eq!(files[3], files[4], "as many open files as are allowed");
    for child in daemon.children() {
        assert_eq!(field(&read(format!("/proc/{}/status", child.pid)), "NoNewPrivs"), "1", "{child:?}");
    }
    daemon.say("served");
    daemon.signal(Signal::SIGTERM);
    place.no_process_left();
    assert!(read(&log).contains("stopped with 1 messages"), "{}", read(&log));
}

#[test]
fn relative_paths_are_those_of_the_starter() {
    let place = Place::new();
    let here = place.file("");
    place.write("users", "arijort\n");
    let starting = place.instance().current_dir(&here).listen("unix:socket");
    let starting = starting.args(&["--users", "users", "--log", "log", "--pid-file", "pid"]);
    let daemon = Daemon::start(&place, starting);
    std::fs::rename(place.file("log"), place.file("log.1")).unwrap();
    daemon.signal(Signal::SIGUSR1);
    until("the log is there again", || read(place.file("log")).contains("opened again"));
    place.command("reload", &[]).assert_succeeded();
    Connection::to(&format!("unix:{}", place.file("socket").display())).say("arijort", "served");
    daemon.stop();
    assert!(!place.file("socket").exists() && !place.file("pid").exists());
}

#[test]
fn a_listening_socket_of_the_starter_comes_along() {
    let place = Place::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", listener.local_addr().unwrap());
    let daemon = Daemon::start(&place, place.instance().listen("fd:0").stdin(listener));
    Connection::to(&address).say("arijort", "served");
    daemon.stop();
}

#[test]
fn so_does_one_on_which_it_is_shown() {
    let place = Place::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let starting = place.instance().args(&["--metrics-listen", "fd:0"]).stdin(listener);
    let daemon = Daemon::start(&place, starting);
    until("it is shown there", || {
        try_get(&address, "/metrics").is_ok_and(|answer| answer.body.contains("holdfast_up 1"))
    });
    daemon.stop();
}

#[test]
fn where_its_run_directory_is_on_a_disk_stands_in_its_log() {
    let place = Place::new();
    let log = place.file("log");
    let on_a_disk = tempfile::tempdir_in("/var/tmp").unwrap();
    let directory = std::fs::File::open(on_a_disk.path()).unwrap();
    if common::sys::file::is_in_memory(&directory).unwrap() {
        return skip("the warning", "/var/tmp is in memory");
    }
    let run_dir = on_a_disk.path().join("run");
    start(place.instance().run_dir(&run_dir).arg("--log").arg(&log)).assert_succeeded();
    place::command_in(&run_dir, "stop", &[]).assert_succeeded();
    assert!(read(&log).contains("is not in memory (tmpfs)"), "{}", read(&log));
}

#[test]
fn why_a_daemon_does_not_serve_is_said_by_its_starter() {
    let place = Place::new();
    let pid_file = place.file("pid");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", taken.local_addr().unwrap());
    let binary = place.file("binary");
    std::fs::write(&binary, b"\xff\n").unwrap();
    let log = place.file("no/such/directory/log");
    let instance = || place.instance().arg("--pid-file").arg(&pid_file);
    for (starting, code, words) in [
        (instance().arg("--users").arg("/no/such/users"), None, "/no/such/users".to_owned()),
        (instance().arg("--users").arg(&binary), None, "binary".to_owned()),
        (instance().listen(&address), Some(1), address.clone()),
        (instance().arg("--log").arg(&log), Some(1), log.to_string_lossy().into_owned()),
        (instance().arg("--worker").arg("/no/such/worker"), Some(2), "/no/such/worker".to_owned()),
        (instance().arg("--worker").arg("/bin/false"), Some(1), String::new()),
    ] {
        let outcome = start(starting);
        let code = code.unwrap_or(outcome.code().unwrap_or_default());
        outcome.assert_failed(code, &[&words]);
        assert!(code != 0 && outcome.stdout.is_empty(), "{outcome}");
        place.no_process_left();
        assert!(!pid_file.exists());
    }
    let instance = place.start();
    start(place.instance()).assert_failed(3, &["another instance", &instance.pid().to_string()]);
    instance.stop();
    std::fs::write(place.region(), "no region").unwrap();
    start(place.instance()).assert_failed(4, &["region"]);
    place.no_process_left();
}

#[test]
fn a_daemon_that_is_killed_before_it_serves_keeps_nobody_waiting() {
    let place = Place::new();
    // Loads for ever, and leaves with its supervisor.
    let worker = place.write("worker", "#!/bin/sh\ncat <&3 >/dev/null\n");
    std::fs::set_permissions(&worker, PermissionsExt::from_mode(0o755)).unwrap();
    let starter = place.instance().arg("--worker").arg(&worker).arg("--daemon").launch();
    let pid_file = place.run_dir().join("supervisor.pid");
    let pid = || read(&pid_file).trim().parse().ok().filter(|pid| Process::of(*pid).is_some());
    until("the daemon has begun", || pid().is_some());
    kill(Pid::from_raw(pid().unwrap()), Signal::SIGKILL).unwrap();
    starter.finish_refused().assert_failed(1, &["ended before it served"]);
    place.no_process_left();
}

/// An instance whose workers all end before they are ready.
fn stillborn(place: &Place) -> Starting {
    let starting = place.instance().arg("--worker").arg(programs::puppet());
    let starting = starting.env("PUPPET_REAL", programs::path("worker")).env("PUPPET_ROLE", "template");
    let starting = starting.env("PUPPET_PLAY", "stillborn").env("PUPPET_CUE", "spawn");
    starting.env("PUPPET_TALLY", place.file("tally"))
}

#[test]
fn a_daemon_whose_workers_never_get_ready_says_so_and_ends() {
    let place = Place::new();
    let log = place.file("log");
    let outcome = start(stillborn(&place).arg("--log").arg(&log));
    outcome.assert_failed(1, &["no worker gets ready", "3 attempts", "exited with 70"]);
    assert!(outcome.stdout.is_empty(), "{outcome}");
    place.no_process_left();
    assert_eq!(read(place.file("tally")), "xxx");
    // Nothing is in the way of the next one.
    Daemon::start(&place, place.instance()).stop();
}

#[test]
fn a_daemon_serves_also_where_its_starter_has_been_killed() {
    let place = Place::new();
    let go = place.file("go");
    let script = format!(
        "#!/bin/sh\nwhile [ ! -e '{}' ]; do sleep 0.02; done\nexec '{}' \"$@\"\n",
        go.display(),
        programs::path("worker").display()
    );
    let worker = place.write("worker", &script);
    std::fs::set_permissions(&worker, PermissionsExt::from_mode(0o755)).unwrap();
    let starter = place.instance().arg("--worker").arg(&worker).arg("--daemon").launch();
    until("it has begun", || place.command("status", &["--json"]).stdout.contains("starting"));
    kill(Pid::from_raw(starter.pid()), Signal::SIGKILL).unwrap();
    assert_eq!(starter.finish_refused().signal(), Some(Signal::SIGKILL as i32));
    std::fs::write(&go, "").unwrap();
    until("it serves", || place.command("status", &["--json"]).stdout.contains("running"));
    place.command("stop", &[]).assert_succeeded();
    place.no_process_left();
}

#[test]
fn a_pid_file_is_a_note_and_no_lock() {
    let place = Place::new();
    let pid_file = place.write("pid", "1\nand what a former one left\n");
    std::fs::set_permissions(&pid_file, PermissionsExt::from_mode(0o666)).unwrap();
    let starting = || place.instance().arg("--pid-file").arg(&pid_file);
    let daemon = Daemon::start(&place, starting());
    assert_eq!(read(&pid_file), format!("{}\n", daemon.pid));
    assert_eq!(std::fs::metadata(&pid_file).unwrap().mode() & 0o777, 0o644);
    // Whoever does not get to serve leaves it alone.
    start(starting()).assert_failed(3, &["another instance"]);
    assert_eq!(read(&pid_file), format!("{}\n", daemon.pid));
    daemon.signal(Signal::SIGKILL);
    place.no_process_left();
    assert!(pid_file.exists());
    let again = Daemon::start(&place, starting());
    assert_eq!(read(&pid_file), format!("{}\n", again.pid));
    again.stop();
    assert!(!pid_file.exists());

    let precious = place.write("precious", "do not touch");
    std::os::unix::fs::symlink(&precious, &pid_file).unwrap();
    start(starting()).assert_failed(1, &[&pid_file.to_string_lossy()]);
    assert_eq!(read(&precious), "do not touch");
    place.no_process_left();
}

// ---- Other users -----------------------------------------------------------------------------------------------------

/// Somebody who may do nothing.
fn nobody() -> User {
    User::from_name("nobody").ok().flatten().expect("every machine has nobody")
}

/// A place that others may enter, and an instance there whose programs they may run.
fn open_to_others(place: &Place) -> Starting {
    open_to_others_with(place, &reachable(place, "recovery"))
}

fn open_to_others_with(place: &Place, recovery: &Path) -> Starting {
    std::fs::set_permissions(place.file(""), PermissionsExt::from_mode(0o755)).unwrap();
    let starting = place.instance().arg("--worker").arg(reachable(place, "worker"));
    starting.arg("--recovery-program").arg(recovery).args(&["--user", "nobody"])
}

/// A program, or a copy of it, that everybody may run.
fn reachable(place: &Place, name: &str) -> PathBuf {
    let (path, copy) = (programs::path(name), place.file(name));
    let is_open = |above: &Path| std::fs::metadata(above).is_ok_and(|it| it.mode() & 0o001 != 0);
    if path.ancestors().skip(1).all(is_open) {
        return path;
    }
    if !copy.exists() {
        std::fs::copy(path, &copy).unwrap();
    }
    copy
}

fn assert_nobody(pid: i32) {
    let status = read(format!("/proc/{pid}/status"));
    let (uid, gid) = (nobody().uid, nobody().gid);
    assert_eq!(field(&status, "Uid"), format!("{uid} {uid} {uid} {uid}"), "{status}");
    assert_eq!(field(&status, "Gid"), format!("{gid} {gid} {gid} {gid}"), "{status}");
    assert!(!field(&status, "Groups").split(' ').any(|group| group == "0"), "{status}");
    assert_eq!(field(&status, "NoNewPrivs"), "1", "{status}");
    assert_eq!(field(&status, "CapEff"), "0000000000000000", "{status}");
}

#[test]
fn everything_but_the_supervisor_runs_as_another_user() {
    if !is_root() {
        return skip("another user", "not the superuser");
    }
    let place = Place::new();
    let (log, access_log) = (place.file("log"), place.file("access.log"));
    let users = place.write("users", "arijort\n");
    let starting = || {
        let starting = open_to_others(&place).arg("--users").arg(&users);
        starting.arg("--log").arg(&log).arg("--access-log").arg(&access_log)
    };
    let daemon = Daemon::start(&place, starting());
    assert_eq!(field(&read(daemon.proc("status")), "Uid"), "0 0 0 0");
    let all_are_nobody = || daemon.children().iter().for_each(|child| assert_nobody(child.pid));
    all_are_nobody();
    // The nice value, and the policy: 0 = SCHED_OTHER, 2 = SCHED_RR.
    let scheduled = |pid: i32| {
        let stat = read(format!("/proc/{pid}/stat"));
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().map(str::to_owned).collect();
        (fields[16].clone(), fields[38].clone())
    };
    let recovery = daemon.status()["recovery_pid"].as_i64().unwrap() as i32;
    let (nice, policy) = scheduled(daemon.pid);
    let permitted = std::process::Command::new("chrt").args(["--rr", "1", "true"]).status();
    let first = if permitted.is_ok_and(|status| status.success()) { "2" } else { "0" };
    assert_eq!(
        (scheduled(recovery), policy.as_str()),
        ((nice, first.to_owned()), "0"),
        "recovery goes first"
    );

    for number in 0..40 {
        daemon.say(&format!("message {number}"));
    }
    for name in ["worker", "template", "recovery", "worker"] {
        daemon.kill_one(name);
        daemon.say("after a death");
    }
    all_are_nobody();
    place.command("reload", &[]).assert_succeeded();
    until("the workers are new", || daemon.status()["workers"]["idle"] == 4);

    std::fs::rename(&log, place.file("log.1")).unwrap();
    std::fs::rename(&access_log, place.file("access.log.1")).unwrap();
    daemon.signal(Signal::SIGUSR1);
    until("the log is there again", || read(&log).contains("opened again"));
    daemon.say("after a rotation");
    assert!(read(&access_log).contains("after a rotation"));
    daemon.stop();

    // It starts again where it was, also after a kill.
    let daemon = Daemon::start(&place, starting());
    daemon.say("after a restart");
    daemon.signal(Signal::SIGKILL);
    place.no_process_left();
    let daemon = Daemon::start(&place, starting());
    daemon.say("after a kill");
    until("all is counted", || daemon.status()["totals"]["messages"] == 47);
    daemon.stop();
    assert_eq!(place.journal().len(), 47);
    for entry in std::fs::read_dir(place.spool_dir()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().uid(), nobody().uid.as_raw(), "{entry:?}");
    }
}

/// A recovery program that first writes down who it is, if it is to read a whole region or a checkpoint.
fn witnessed_recovery(place: &Place, witness: &Path) -> PathBuf {
    let recovery = reachable(place, "recovery");
    let script = place.write(
        "witnessed",
        &format!(
            "#!/bin/sh\ncase $1 in carry | rebuild)\n{{ echo \"$1\"; cat /proc/self/status; }} >> {} ;;\nesac\nexec {} \"$@\"\n",
            witness.display(),
            recovery.display()
        ),
    );
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    script
}

fn assert_own_and_private(place: &Place) {
    let metadata = std::fs::metadata(place.region()).unwrap();
    assert_eq!((metadata.uid(), metadata.mode() & 0o777), (0, 0o600), "the region is the supervisor's");
}

#[test]
fn whole_regions_and_checkpoints_are_read_by_another_user_too() {
    if !is_root() {
        return skip("another user", "not the superuser");
    }
    let place = Place::new();
    let witness = place.write("witness", "");
    std::fs::set_permissions(&witness, PermissionsExt::from_mode(0o666)).unwrap();
    let recovery = witnessed_recovery(&place, &witness);
    let starting = |size: &str| open_to_others_with(&place, &recovery).region_size(size);
    let read_by = |expected: &[&str]| {
        let text = read(&witness);
        let roles: Vec<_> = text.lines().filter(|line| ["carry", "rebuild"].contains(line)).collect();
        assert_eq!(roles, expected);
        let uid = format!("{0} {0} {0} {0}", nobody().uid);
        for (name, value) in [("Uid", &uid[..]), ("NoNewPrivs", "1"), ("CapEff", "0000000000000000")] {
            let lines = text.lines().filter(|line| line.starts_with(&format!("{name}:")));
            let values: Vec<_> = lines.map(|line| field(line, name)).collect();
            assert_eq!(values, vec![value; expected.len()], "{name}");
        }
    };

    let instance = starting("4MiB").start();
    instance.say("one");
    instance.say("two");
    instance.stop();
    let instance = starting("8MiB").start();
    read_by(&["carry"]);
    assert_own_and_private(&place);
    instance.command("checkpoint", &[]).assert_succeeded();
    instance.say("three");
    assert_eq!(instance.books_agree().len(), 3);
    instance.stop();

    // The newest one is bad: an older one is tried, and this one set aside.
    let directory = place.spool_dir().join("checkpoint");
    let names = |ending: &str| {
        let entries = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.to_string_lossy().ends_with(ending)).max().expect("there is one")
    };
    let newest = names(".checkpoint");
    std::fs::File::options().write(true).open(&newest).unwrap().set_len(5000).unwrap();
    std::fs::remove_file(place.region()).unwrap();
    let instance = starting("8MiB").start();
    read_by(&["carry", "rebuild"]);
    assert_own_and_private(&place);
    assert_eq!(std::fs::metadata(names(".damaged")).unwrap().uid(), nobody().uid.as_raw());
    assert_eq!(instance.books_agree().len(), 3);
    assert_eq!(instance.status()["restored"]["replayed"], 1);

    // A slot that cannot be repaired is damage: its small log is one that nobody leaves.
    let region = std::fs::File::options().write(true).open(place.region()).unwrap();
    (0..4).for_each(|slot| region.write_all_at(&1_u64.to_le_bytes(), 4096 + slot * 1024 + 328).unwrap());
    instance.kill_child(instance.worker_pids()[0]);
    instance.wait_for_log("the region is damaged");
    instance.wait_for_status("it serves, and says so", |status| {
        status["state"] == "degraded" && status["workers"]["live"] == status["workers"]["configured"]
    });
    read_by(&["carry", "rebuild", "rebuild"]);
    assert_own_and_private(&place);
    instance.say("four");
    instance.command("reload", &[]).assert_succeeded();
    instance.wait_for_status("a reload ends it", |status| status["state"] == "running");
    assert_eq!(instance.books_agree().len(), 4);
    instance.stop();
}

#[test]
fn a_single_crash_is_repaired_by_another_user_too() {
    if !is_root() {
        return skip("another user", "not the superuser");
    }
    let place = Place::new();
    let instance: Instance = open_to_others(&place).args(&["--recovery", "spawn"]).start();
    let worker = instance.worker_pids()[0];
    instance.kill_child(worker);
    instance.wait_for_status("the death is repaired", |status| status["totals"]["recoveries"] == 1);
    instance.say("served");
    instance.books_agree();
    instance.stop();
}

#[test]
fn what_another_user_cannot_use_is_named() {
    if !is_root() {
        return skip("another user", "not the superuser");
    }
    let place = Place::new();
    // Somebody else's spool, which is to be given to the user first.
    let instance = place.start();
    instance.say("as root");
    instance.stop();
    open_to_others(&place)
        .run()
        .assert_failed(2, &["nobody", "chown -R", &place.spool_dir().to_string_lossy()]);
    let (uid, gid) = (nobody().uid.as_raw(), nobody().gid.as_raw());
    chown(place.spool_dir(), Some(uid), Some(gid)).unwrap();
    for directory in [place.spool_dir(), place.spool_dir().join("checkpoint")] {
        for entry in std::fs::read_dir(directory).unwrap() {
            open_to_others(&place).run().assert_failed(2, &["chown -R"]);
            chown(entry.unwrap().path(), Some(uid), Some(gid)).unwrap();
        }
    }
    let instance = open_to_others(&place).start();
    instance.say("as nobody");
    instance.books_agree();
    instance.stop();

    let secret = place.write("secret", "arijort\n");
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    for option in ["--users", "--log", "--access-log"] {
        let outcome = open_to_others(&place).arg(option).arg(&secret).run();
        outcome.assert_failed(2, &["nobody", &secret.to_string_lossy()]);
        place.no_process_left();
    }
    let precious = place.write("precious", "do not touch");
    let link = place.file("log");
    std::os::unix::fs::symlink(&precious, &link).unwrap();
    open_to_others(&place).arg("--log").arg(&link).run().assert_failed(1, &[&link.to_string_lossy()]);
    assert_eq!(std::fs::metadata(&precious).unwrap().uid(), 0);
}

#[test]
fn users_that_cannot_be_taken_are_usage_errors() {
    let place = Place::new();
    for (option, name) in [("--user", "no-such-user"), ("--group", "no-such-group")] {
        place.instance().args(&[option, name]).run().assert_failed(2, &[option, name]);
    }
    if is_root() {
        place.instance().args(&["--user", "root"]).start().stop();
        place.instance().args(&["--group", "nogroup"]).start().stop();
    } else {
        place.instance().args(&["--user", "root"]).run().assert_failed(2, &["--user root", "superuser"]);
    }
    assert!(run(program("supervisor").arg("--help")).stdout.contains("--user"));
}
