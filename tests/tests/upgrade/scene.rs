//! Programs in a directory of the test's own, where the supervisor's can be replaced while it runs.

use std::path::PathBuf;
use std::process::Command;

use holdfast_tests::place::Starting;
use holdfast_tests::processes::{self, Process};
use holdfast_tests::{DEADLINE, Instance, Place, eventually, outcome, programs};
use nix::sys::signal::Signal;

/// What the log says once a program has taken over.
pub const DONE: &str = "goes on where version";

/// What it says of one that cannot.
pub const REFUSED: &str = "cannot take over, and this program goes on";

/// An installation.
pub struct Programs {
    directory: PathBuf,
}

impl Programs {
    /// A copy of the supervisor, and whatever it looks for beside it.
    pub fn of(place: &Place) -> Self {
        Self::in_directory(place.file("bin"))
    }

    pub fn in_directory(directory: PathBuf) -> Self {
        std::fs::create_dir(&directory).unwrap();
        for name in programs::ALL.iter().filter(|name| **name != "supervisor") {
            std::os::unix::fs::symlink(programs::path(name), directory.join(name)).unwrap();
        }
        let this = Self { directory };
        this.renew();
        this
    }

    pub fn supervisor(&self) -> PathBuf {
        self.directory.join("supervisor")
    }

    /// Another copy takes the place of the supervisor.
    pub fn renew(&self) {
        self.install(r#"cp "$2" "$1.next""#, programs::path("supervisor"));
    }

    /// So does a script.
    pub fn replace_by(&self, script: &str) {
        self.install(r#"printf '%s\n' "$2" >"$1.next" && chmod 755 "$1.next""#, script);
    }

    /// Written by another process: a program that somebody has open to write cannot be executed, and this one may be
    /// starting others at any moment.
    fn install(&self, writing: &str, what: impl AsRef<std::ffi::OsStr>) {
        let script = format!(r#"{writing} && mv -f "$1.next" "$1""#);
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, "sh"]).arg(self.supervisor()).arg(what);
        outcome::run(&mut shell).assert_succeeded();
    }

    /// An instance of this supervisor. It takes no checkpoint unasked, so that it has the same children all the time.
    pub fn instance(&self, place: &Place) -> Starting {
        place.instance().program(self.supervisor()).args(&["--checkpoint-interval", "0"])
    }

    /// The supervisor that scripts may execute after all.
    pub fn real(&self) -> String {
        programs::path("supervisor").to_string_lossy().into_owned()
    }
}

fn count(instance: &Instance, words: &str) -> usize {
    instance.stderr().matches(words).count()
}

/// Sends USR2 and waits until the log says these words once more.
#[track_caller]
pub fn usr2_until(instance: &Instance, words: &str) {
    let before = count(instance, words);
    instance.signal(Signal::SIGUSR2);
    eventually(DEADLINE, &format!("the log says {words:?} once more"), || {
        if count(instance, words) > before { Ok(()) } else { Err(instance.stderr()) }
    });
}

/// Another program takes over.
#[track_caller]
pub fn upgrade(instance: &Instance) {
    usr2_until(instance, DONE);
    assert!(!instance.stderr().contains(REFUSED), "{}", instance.stderr());
}

/// The one child with this name.
#[track_caller]
pub fn child_named(instance: &Instance, name: &str) -> i32 {
    eventually(DEADLINE, &format!("there is one {name}"), || {
        let children = processes::children_of(instance.pid()).into_iter().filter_map(Process::of);
        let named: Vec<_> = children.filter(|child| child.name == name).collect();
        if let [one] = &named[..] { Ok(one.pid) } else { Err(format!("{named:?}")) }
    })
}

/// The program that runs in the supervisor's process.
pub fn program_of(pid: i32) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/exe")).unwrap()
}

/// How many descriptors a process has.
pub fn descriptors_of(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

pub fn environment_of(pid: i32) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default()).into_owned()
}
