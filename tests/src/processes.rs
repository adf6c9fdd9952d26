//! What `/proc` tells about processes, and signals that reach nobody else.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};

/// A process, told from a later one with the same pid by when it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its pid.
    pub pid: i32,
    /// The name that `ps` shows.
    pub name: String,
    /// One letter, as in `ps`.
    pub state: char,
    /// Its parent's pid.
    pub parent: i32,
    began: u64,
}

impl Process {
    /// The process with this pid, if there is one.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may contain anything, also parentheses.
        let (front, back) = stat.rsplit_once(')')?;
        let name = front.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = back.split_whitespace().collect();
        Some(Self {
            pid,
            name,
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            began: fields.get(19)?.parse().ok()?,
        })
    }

    /// Kills it, if it is still this one.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// Signals it, if it is still this one. False where it is gone.
    pub fn signal(&self, signal: Signal) -> bool {
        signal_if(self.pid, signal, |now| now.began == self.began && now.state != 'Z')
    }
}

/// Every process that is not a zombie.
pub fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(Process::of).filter(|process| process.state != 'Z').collect()
}

/// The children of a process that live.
pub fn children_of(pid: i32) -> Vec<i32> {
    all().into_iter().filter(|process| process.parent == pid).map(|process| process.pid).collect()
}

/// The command line of a process.
pub fn arguments_of(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.split(|&byte| byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// Every process but this one that has a file below `directory` open or mapped, or names it on its command line.
///
/// # Panics
/// Where the directory is none that [`Place`](crate::Place) made: who uses it may be killed.
#[track_caller]
pub fn users_of(directory: &Path) -> Vec<Process> {
    let named = directory.to_string_lossy();
    assert!(directory.is_absolute() && named.contains(crate::place::PREFIX), "{named} is not a test's own");
    // This process, and its children before they become another program: these have its files open for a moment, and
    // are somebody else's. Looked at first: whoever has become another program has let go of them.
    let myself = program_of(std::process::id() as i32);
    let others = all().into_iter().filter(|process| program_of(process.pid) != myself);
    others.filter(|process| uses(process.pid, directory)).collect()
}

fn program_of(pid: i32) -> Option<std::path::PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

fn uses(pid: i32, directory: &Path) -> bool {
    let named = directory.to_string_lossy();
    let mentioned = || arguments_of(pid).iter().any(|argument| argument.contains(&*named));
    let open = || {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        descriptors
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .any(|file| file.starts_with(directory))
    };
    let mapped = || fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|maps| maps.contains(&*named));
    mentioned() || open() || mapped()
}

/// Signals `pid` if it is a child of `parent`. False where it is not, or not any more.
pub fn signal_child_of(parent: i32, pid: i32, signal: Signal) -> bool {
    signal_if(pid, signal, |process| process.parent == parent && process.state != 'Z')
}

/// Signals a process that is looked at after it is held, so that no other with the same pid is met.
fn signal_if(pid: i32, signal: Signal, right: impl Fn(&Process) -> bool) -> bool {
    let Some(id) = Pid::from_raw(pid) else { return false };
    let Ok(held) = pidfd_open(id, PidfdFlags::empty()) else { return false };
    let Some(signal) = rustix::process::Signal::from_named_raw(signal as i32) else { return false };
    Process::of(pid).is_some_and(|process| right(&process)) && pidfd_send_signal(&held, signal).is_ok()
}
