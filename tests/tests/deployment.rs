//! `scripts/install` and the init script, in directories of the test's own: nothing of the machine's is touched.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use holdfast_tests::machine::{is_root, skip};
use holdfast_tests::outcome::run;
use holdfast_tests::place::program;
use holdfast_tests::processes::{self, Process};
use holdfast_tests::{Connection, Outcome, Place, programs, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A command that knows of nothing but what it is told.
fn script(path: impl AsRef<Path>) -> Command {
    let mut command = program(&path.as_ref().to_string_lossy());
    for variable in ["PREFIX", "SYSCONFDIR", "DESTDIR"] {
        command.env_remove(variable);
    }
    command
}

/// `scripts/install` for a prefix, with the programs of this build.
fn install(prefix: &Path, arguments: &[&str]) -> Outcome {
    run(&mut install_command(prefix, arguments))
}

fn install_command(prefix: &Path, arguments: &[&str]) -> Command {
    let mut install = script(repository().join("scripts/install"));
    install.env("PREFIX", prefix).arg("--from").arg(programs::path("supervisor").parent().unwrap());
    install.args(arguments);
    install
}

/// Every file below a directory, by its name there, with its mode and content.
fn files_below(directory: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut files = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            let (path, metadata) = (entry.path(), entry.metadata().unwrap());
            if metadata.is_dir() {
                left.push(path);
                continue;
            }
            let name = path.strip_prefix(directory).unwrap().to_string_lossy().into_owned();
            files.insert(name, (metadata.permissions().mode() & 0o777, std::fs::read(path).unwrap()));
        }
    }
    files
}

const INSTALLED: [(&str, u32); 12] = [
    ("bin/block", 0o755),
    ("bin/cclient", 0o755),
    ("bin/data_collector", 0o755),
    ("bin/supervisor", 0o755),
    ("etc/default/holdfast", 0o644),
    ("etc/holdfast/supervisor.toml", 0o644),
    ("etc/init.d/holdfast", 0o755),
    ("lib/holdfast/exporter", 0o755),
    ("lib/holdfast/recovery", 0o755),
    ("lib/holdfast/worker", 0o755),
    ("lib/systemd/system/holdfast.service", 0o644),
    ("lib/systemd/system/holdfast.socket", 0o644),
];

/// All but the manual pages and completions, which depend on the programs' options (see `packaging.rs`).
fn names(files: &BTreeMap<String, (u32, Vec<u8>)>) -> Vec<(&str, u32)> {
    let all = files.iter().map(|(name, (mode, _))| (name.as_str(), *mode));
    all.filter(|(name, _)| *name != "bin/acquired" && !name.starts_with("share/")).collect()
}

#[test]
fn installing_twice_is_installing_once_and_uninstalling_removes_it() {
    let place = Place::new();
    let prefix = place.file("prefix");
    install(&prefix, &[]).assert_succeeded();
    let first = files_below(&prefix);
    assert_eq!(names(&first), INSTALLED);
    for page in
        ["share/man/man1/supervisor.1", "share/man/man8/recovery.8", "share/zsh/site-functions/_cclient"]
    {
        assert_eq!(first.get(page).map(|(mode, _)| *mode), Some(0o644), "{page}");
    }
    install(&prefix, &[]).assert_succeeded();
    assert!(files_below(&prefix) == first, "the same files");
    // What is somebody else's stays.
    std::fs::write(prefix.join("bin/other"), "mine").unwrap();
    install(&prefix, &["--uninstall"]).assert_succeeded();
    assert_eq!(files_below(&prefix).into_keys().collect::<Vec<_>>(), ["bin/other"]);
    assert!(!prefix.join("lib/holdfast").exists() && !prefix.join("etc/holdfast").exists());
    // Nor is it an error that there is nothing left.
    install(&prefix, &["--uninstall"]).assert_succeeded();
}

#[test]
fn a_changed_configuration_is_kept() {
    let place = Place::new();
    let prefix = place.file("prefix");
    install(&prefix, &[]).assert_succeeded();
    for name in ["etc/holdfast/supervisor.toml", "etc/default/holdfast"] {
        let file = prefix.join(name);
        std::fs::write(&file, "# mine\n").unwrap();
        for arguments in [&[][..], &["--uninstall"]] {
            let outcome = install(&prefix, arguments);
            outcome.assert_succeeded();
            assert!(outcome.stdout.contains(&format!("kept      {}", file.display())), "{outcome}");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), "# mine\n");
        }
        std::fs::remove_file(file).unwrap();
        install(&prefix, &[]).assert_succeeded();
    }
}

#[test]
fn a_package_is_made_below_its_destination() {
    let place = Place::new();
    let destination = place.file("package");
    let mut command = install_command(Path::new("/usr"), &[]);
    run(command.env("DESTDIR", &destination)).assert_succeeded();
    let files = files_below(&destination);
    let expected = INSTALLED.map(|(name, mode)| match name.strip_prefix("etc/") {
        Some(_) => (name.to_owned(), mode),
        None => (format!("usr/{name}"), mode),
    });
    for (name, mode) in &expected {
        assert_eq!(files.get(name).map(|(mode, _)| mode), Some(mode), "{name}: {:?}", files.keys());
    }
    let text = |name: &str| String::from_utf8(files[name].1.clone()).unwrap();
    assert!(text("etc/init.d/holdfast").contains("PREFIX=/usr\nSYSCONFDIR=/etc\n"));
    assert!(text("etc/default/holdfast").contains("#DAEMON=/usr/bin/supervisor\n"));
    for name in files.keys().filter(|name| name.starts_with("etc/")) {
        assert!(!text(name).contains(&*destination.to_string_lossy()), "{name} names the destination");
    }
    let mut command = install_command(Path::new("/usr"), &["--create-user"]);
    run(command.env("DESTDIR", &destination)).assert_failed(1, &["--create-user", "DESTDIR"]);
}

#[test]
fn the_installed_configuration_is_sound() {
    let place = Place::new();
    let prefix = place.file("prefix");
    install(&prefix, &[]).assert_succeeded();
    let check = |config: &Path| {
        let mut supervisor = script(prefix.join("bin/supervisor"));
        supervisor.args(["--check-config", "--config"]).arg(config).arg("--log").arg(place.file("log"));
        run(supervisor.arg("--spool-dir").arg(place.spool_dir()))
    };
    let config = prefix.join("etc/holdfast/supervisor.toml");
    let outcome = check(&config);
    outcome.assert_succeeded();
    assert_eq!(outcome.stdout, "The configuration is sound: 1000 workers on tcp:localhost:31337\n");
    assert!(!place.file("log").exists() && !place.spool_dir().exists(), "nothing was begun");
    assert!(std::fs::read_to_string(config).unwrap().contains("\nlog = \"/var/log/holdfast.log\"\n"));
}

#[test]
fn arguments_that_cannot_be_used_are_refused() {
    let place = Place::new();
    let prefix = place.file("prefix");
    assert_eq!(install(&prefix, &["--no-such-option"]).code(), Some(2));
    install(&prefix, &["--from", "/no/such/directory"]).assert_failed(1, &["/no/such/directory/supervisor"]);
    install(Path::new("/odd prefix|"), &[]).assert_failed(1, &["PREFIX"]);
    assert!(!prefix.exists());
    let help = run(script(repository().join("scripts/install")).arg("--help"));
    assert!(help.assert_succeeded().stdout.contains("--uninstall"));
}

// ---- The init script -------------------------------------------------------------------------------------------------

/// An installation whose init script keeps to a test's directories. Dropping it leaves no process behind.
struct Service<'p> {
    place: &'p Place,
    prefix: PathBuf,
    pid_file: PathBuf,
}

impl<'p> Service<'p> {
    fn install(place: &'p Place) -> Self {
        let prefix = place.file("prefix");
        install(&prefix, &[]).assert_succeeded();
        let this = Self { place, prefix, pid_file: place.file("pid") };
        let defaults = this.prefix.join("etc/default/holdfast");
        let text = format!("PIDFILE='{}'\nOPTIONS='--log-level debug'\n", this.pid_file.display());
        std::fs::write(defaults, text).unwrap();
        this.configure("");
        this
    }

    fn configure(&self, more: &str) {
        let (run_dir, spool_dir) = (self.place.run_dir(), self.place.spool_dir());
        let log = self.place.file("log");
        let text = format!(
            "run_dir = {run_dir:?}\nspool_dir = {spool_dir:?}\nlog = {log:?}\nworkers = 4\n\
             region_size = \"4MiB\"\nlisten = \"tcp:127.0.0.1:0\"\n{more}"
        );
        std::fs::write(self.prefix.join("etc/holdfast/supervisor.toml"), text).unwrap();
    }

    /// Runs the init script, which must end with this code.
    #[track_caller]
    fn expect(&self, command: &str, code: i32) -> Outcome {
        let outcome = run(script(self.prefix.join("etc/init.d/holdfast")).arg(command));
        assert_eq!(outcome.code(), Some(code), "{command}: {outcome}");
        outcome
    }

    fn pid(&self) -> i32 {
        let text = std::fs::read_to_string(&self.pid_file).unwrap_or_default();
        text.trim().parse().expect("a pid file with a pid")
    }

    fn status(&self) -> serde_json::Value {
        let outcome = self.place.command("status", &["--json"]);
        serde_json::from_str(&outcome.assert_succeeded().stdout).unwrap()
    }

    fn say(&self, message: &str) {
        let address = self.status()["listen"][0].as_str().unwrap().to_owned();
        Connection::to(&address).say("arijort", message);
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        let _ = self.place.command("stop", &["--fast"]);
        processes::users_of(&self.place.run_dir()).iter().for_each(Process::kill);
    }
}

/// Why the init script cannot be tried here.
fn obstacle() -> Option<&'static str> {
    let known = Command::new("start-stop-daemon").arg("--version").output().is_ok();
    match (is_root(), known) {
        (false, _) => Some("not the superuser"),
        (_, false) => Some("there is no start-stop-daemon"),
        _ => None,
    }
}

#[test]
fn the_init_script_keeps_to_the_lsb() {
    if let Some(why) = obstacle() {
        return skip("the init script", why);
    }
    let place = Place::new();
    let service = Service::install(&place);
    service.expect("status", 3);
    service.expect("stop", 0);
    service.expect("reload", 7);
    service.expect("upgrade", 7);
    service.expect("try-restart", 0);
    service.expect("status", 3);
    service.expect("no-such-command", 2);

    let started = service.expect("start", 0);
    assert!(started.stdout.contains("Running with 4 workers on tcp:127.0.0.1:"), "{started}");
    let first = service.pid();
    service.say("one");
    let status = service.expect("status", 0);
    assert!(status.stdout.contains("workers: 4 wanted"), "{status}");
    service.expect("start", 0);
    assert_eq!(service.pid(), first, "it goes on");

    service.expect("reload", 0);
    assert_eq!(service.status()["generation"], 2);
    service.expect("force-reload", 0);
    assert_eq!((service.status()["generation"].as_i64(), service.pid()), (Some(3), first));

    service.expect("restart", 0);
    let second = service.pid();
    assert_ne!(second, first);
    service.say("two");
    service.expect("try-restart", 0);
    let third = service.pid();
    assert_ne!(third, second);

    service.expect("stop", 0);
    assert!(!service.pid_file.exists());
    place.no_process_left();
    service.expect("status", 3);
    assert_eq!(place.journal().len(), 2);
}

#[test]
fn the_init_script_starts_after_a_kill_without_cleaning_up() {
    if let Some(why) = obstacle() {
        return skip("the init script", why);
    }
    let place = Place::new();
    let service = Service::install(&place);
    service.expect("start", 0);
    service.say("one");
    kill(Pid::from_raw(service.pid()), Signal::SIGKILL).unwrap();
    until("the supervisor is gone", || Process::of(service.pid()).is_none());
    service.expect("status", 1);
    service.expect("start", 0);
    service.say("two");
    assert_eq!(service.status()["totals"]["messages"], 2);
    kill(Pid::from_raw(service.pid()), Signal::SIGKILL).unwrap();
    until("the supervisor is gone", || Process::of(service.pid()).is_none());
    service.expect("stop", 0);
    service.expect("status", 3);
}

#[test]
fn a_dead_process_that_nobody_has_buried_is_dead() {
    if let Some(why) = obstacle() {
        return skip("the init script", why);
    }
    let place = Place::new();
    let service = Service::install(&place);
    // Of the right name, and not waited for.
    let mut corpse = program("supervisor").arg("--version").stdout(Stdio::null()).spawn().unwrap();
    let pid = corpse.id() as i32;
    until("it is dead", || Process::of(pid).is_some_and(|process| process.state == 'Z'));
    std::fs::write(&service.pid_file, format!("{pid}\n")).unwrap();
    service.expect("status", 1);
    service.expect("reload", 7);
    service.expect("start", 0);
    assert_ne!(service.pid(), pid);
    service.expect("stop", 0);
    corpse.wait().unwrap();
}

#[test]
fn a_configuration_that_cannot_be_used_ends_nothing() {
    if let Some(why) = obstacle() {
        return skip("the init script", why);
    }
    let place = Place::new();
    let service = Service::install(&place);
    service.configure("wokers = 5\n");
    let refused = service.expect("start", 6);
    assert!(refused.stderr.contains("wokers") && refused.stderr.contains("workers"), "{refused}");
    service.expect("status", 3);

    service.configure("");
    service.expect("start", 0);
    let pid = service.pid();
    service.configure("wokers = 5\n");
    let refused = service.expect("restart", 6);
    assert!(refused.stderr.contains("wokers"), "{refused}");
    let refused = service.expect("reload", 1);
    assert!(refused.stderr.contains("wokers"), "{refused}");
    assert_eq!(service.pid(), pid, "it goes on");
    service.say("served");
    // It is stopped also where the configuration cannot be used, or names another run directory by now.
    let config = service.prefix.join("etc/holdfast/supervisor.toml");
    std::fs::write(config, format!("run_dir = {:?}\n", place.run_dir().with_file_name("other"))).unwrap();
    service.expect("stop", 0);
    place.no_process_left();
    service.expect("status", 3);
}
