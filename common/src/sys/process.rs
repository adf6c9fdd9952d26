//! Processes: starting, reaping, signalling, naming, and what they inherit.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Resource, Rlimit, WaitId, WaitIdOptions, WaitOptions};
use serde::{Deserialize, Serialize};

use super::privileges::Identity;
use super::scheduling;
use crate::ids::Pid;

/// The number under which a child finds its channel to the supervisor.
pub const CHANNEL_FD: RawFd = 3;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// It left with this code.
    Exited(i32),
    /// This signal killed it.
    Killed(i32),
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with {code}"),
            Self::Killed(signal) => match Signal::try_from(*signal) {
                Ok(signal) => write!(f, "killed by {signal}"),
                Err(_) => write!(f, "killed by signal {signal}"),
            },
        }
    }
}

/// What a program is started with, and without.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// Whom it runs as; `None` = as this process.
    pub identity: Option<Identity>,
    /// Its priority, which it may be unable to raise itself.
    pub priority: Priority,
    /// What its stderr is; `None` = this process's.
    pub stderr: Option<Arc<OwnedFd>>,
}

/// The priority of a program that is started by a process which may have raised its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// What this process was started with.
    #[default]
    Usual,
    /// The same, and it may raise it for a while, see [`scheduling::take_precedence`].
    Raisable,
    /// This process's own.
    Kept,
    /// Before everybody's, see [`scheduling::preempt_others`]; this process's own where that is not permitted.
    Foremost,
}

/// Starts a program with `channel` as its descriptor [`CHANNEL_FD`]. Every other descriptor is close-on-exec. It dies
/// with the caller, who reaps it by its pid.
///
/// # Errors
/// What fork and exec report; exec's failure comes back from the child.
pub fn start(program: &Path, arguments: &[&OsStr], channel: &OwnedFd) -> io::Result<Pid> {
    start_on(&Terms::default(), program, arguments, channel)
}

/// What tells a service manager's child how to reach it: for the process that it started, and for none of its children.
pub const SERVICE_MANAGER_VARIABLES: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// What tells a program that takes over from another in the same process what it is handed: for it alone.
pub const HANDOVER_VARIABLE: &str = "HOLDFAST_HANDOVER";

fn own_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for variable in SERVICE_MANAGER_VARIABLES.iter().chain([&HANDOVER_VARIABLE]) {
        command.env_remove(variable);
    }
    command
}

/// The same, on these terms. On any terms the program and its own can gain no privilege any more.
///
/// # Errors
/// As [`start`]; a change of user that the kernel refuses.
pub fn start_on(terms: &Terms, program: &Path, arguments: &[&OsStr], channel: &OwnedFd) -> io::Result<Pid> {
    let (raw, myself, terms) = (channel.as_raw_fd(), Pid::current(), terms.clone());
    let mut command = own_command(program);
    command.args(arguments).stdin(Stdio::null());
    if let Some(stderr) = &terms.stderr {
        command.stderr(stderr.try_clone()?);
    }
    // SAFETY: the closure only calls async-signal-safe functions on integers and on a list that it owns.
    unsafe {
        command.pre_exec(move || {
            place_channel(raw)?;
            settle_terms(&terms)?;
            follow(myself)
        });
    }
    // Child has no destructor that waits or kills, so dropping it leaves only the pid.
    Ok(Pid(command.spawn()?.id() as i32))
}

/// Starts a program that has nothing of this one but its stderr. It dies with the caller, who reaps it by its pid, and
/// can gain no privilege.
///
/// # Errors
/// As [`start_on`].
pub fn start_apart(
    terms: &Terms,
    program: &Path,
    arguments: &[impl AsRef<OsStr>],
    environment: &[(&str, &str)],
) -> io::Result<Pid> {
    let (myself, terms) = (Pid::current(), terms.clone());
    let mut command = own_command(program);
    command.args(arguments).envs(environment.iter().copied()).stdin(Stdio::null()).stdout(Stdio::null());
    // What a terminal sends to everybody in it is for the caller to pass on, once and in order.
    command.process_group(0);
    // SAFETY: the closure only calls async-signal-safe functions on integers and on a list that it owns.
    unsafe {
        command.pre_exec(move || {
            settle_terms(&terms)?;
            follow(myself)
        });
    }
    Ok(Pid(command.spawn()?.id() as i32))
}

/// In the child between fork and exec: it dies with its parent, also where it is stopped before it can say so itself.
/// After a change of user, which would make the kernel forget it.
fn follow(parent: Pid) -> io::Result<()> {
    if die_with_parent(parent)? { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
}

/// In the child between fork and exec: the channel gets its number and stays open.
fn place_channel(raw: RawFd) -> io::Result<()> {
    let placed = if raw == CHANNEL_FD {
        // SAFETY: clears the close-on-exec flag of an open descriptor.
        unsafe { libc::fcntl(CHANNEL_FD, libc::F_SETFD, 0) }
    } else {
        // SAFETY: dup2 of an open descriptor; what had the number is close-on-exec and goes now instead.
        unsafe { libc::dup2(raw, CHANNEL_FD) }
    };
    super::cerr(placed.into()).map(drop)
}

/// In the child between fork and exec. The priority comes first: the user may not be allowed to change it.
fn settle_terms(terms: &Terms) -> io::Result<()> {
    match terms.priority {
        Priority::Usual => scheduling::restore_priority(),
        Priority::Raisable => {
            scheduling::restore_priority();
            scheduling::permit_precedence();
        }
        Priority::Kept => {}
        Priority::Foremost => scheduling::permit_preemption(),
    }
    if let Some(identity) = &terms.identity {
        identity.assume()?;
    }
    // SAFETY: takes numbers only; no program that is executed from here on gains a privilege by being executed.
    super::cerr(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into()).map(drop)
}

/// A program that is to end by itself, on these terms. Of this process's descriptors it has those of `handed` alone,
/// under the numbers that they have here; it dies with this process.
fn own_errand(
    terms: &Terms,
    program: &Path,
    arguments: &[impl AsRef<OsStr>],
    handed: &[BorrowedFd<'_>],
) -> Command {
    let (myself, terms) = (Pid::current(), terms.clone());
    let handed: Vec<RawFd> = handed.iter().map(AsRawFd::as_raw_fd).collect();
    let mut command = own_command(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    // SAFETY: the closure only calls async-signal-safe functions on integers and on lists that it owns.
    unsafe {
        command.pre_exec(move || {
            for raw in &handed {
                // SAFETY: clears the close-on-exec flag of a descriptor; one that is not open is reported.
                super::cerr(libc::fcntl(*raw, libc::F_SETFD, 0).into())?;
            }
            settle_terms(&terms)?;
            follow(myself)
        });
    }
    command
}

/// Runs a program to its end, or until `limit` has passed, and gives how it ended and what it said on stderr. It dies
/// with this process; what it could read or write besides is what it is handed: it finds these descriptors open, under
/// the numbers that they have here.
///
/// # Errors
/// What fork, exec and wait report; a change of user that the kernel refuses.
pub fn run_to_end(
    terms: &Terms,
    program: &Path,
    arguments: &[impl AsRef<OsStr>],
    handed: &[BorrowedFd<'_>],
    limit: Duration,
) -> io::Result<(Ending, String)> {
    let mut command = own_errand(terms, program, arguments, handed);
    command.stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill()?;
            break child.wait()?;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    // What it said fits into the pipe; a program that says more than that waits for its deadline.
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(MOST_SAID).read_to_end(&mut said)?;
    }
    let ending = status.signal().map_or_else(|| Ending::Exited(status.code().unwrap_or(0)), Ending::Killed);
    Ok((ending, String::from_utf8_lossy(&said).into_owned()))
}

/// Starts such a program without waiting for it. What it says on stderr goes into the file that comes back, to be read
/// once it has ended; it is reaped by its pid.
///
/// # Errors
/// What fork and exec report; a change of user that the kernel refuses.
pub fn start_saying(
    terms: &Terms,
    program: &Path,
    arguments: &[impl AsRef<OsStr>],
    handed: &[BorrowedFd<'_>],
) -> io::Result<(Pid, File)> {
    let said = File::from(rustix::fs::memfd_create("said", rustix::fs::MemfdFlags::CLOEXEC)?);
    let mut command = own_errand(terms, program, arguments, handed);
    command.stderr(said.try_clone()?);
    Ok((Pid(command.spawn()?.id() as i32), said))
}

/// Starts such a program, in this directory and with one more variable, and as the user that this process is. What it says
/// on stdout and stderr goes into the file that comes back, see [`start_saying`].
///
/// # Errors
/// What fork, chdir and exec report.
pub fn start_asking(
    program: &Path,
    arguments: &[impl AsRef<OsStr>],
    (variable, value): (&str, &OsStr),
    directory: Option<&Path>,
    handed: &[BorrowedFd<'_>],
) -> io::Result<(Pid, File)> {
    let said = File::from(rustix::fs::memfd_create("said", rustix::fs::MemfdFlags::CLOEXEC)?);
    let mut command = own_errand(&Terms::default(), program, arguments, handed);
    command.env(variable, value).stdout(said.try_clone()?).stderr(said.try_clone()?);
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    Ok((Pid(command.spawn()?.id() as i32), said))
}

/// What a program that has ended said.
///
/// # Errors
/// What reading reports.
pub fn what_was_said(said: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    said.rewind()?;
    said.take(MOST_SAID).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Bytes of stderr that are read of a program.
const MOST_SAID: u64 = 64 * 1024;

/// Gives up for good what this process does not need: whatever it meets in files that others write to, it cannot gain
/// rights by starting a program, and a root process keeps only what lets it open, link and extend the files of any
/// user. Its memory may still be examined by its own user and by root: dumps of a process that fell over are worth more
/// than hiding what everybody attached to the region can read.
///
/// The priority is raised before, since that needs a right which goes. Dropping rights leaves the signal at the
/// parent's death as it is; gaining some would clear it. Where the kernel refuses, the process goes on as it was.
pub fn shed_privileges() {
    use rustix::thread::{CapabilitySet, CapabilitySets};
    let _ = rustix::thread::set_no_new_privs(true);
    let Ok(had) = rustix::thread::capabilities(None) else { return };
    // Those of other users' files, and the reserve of a full file system.
    let kept = CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER | CapabilitySet::SYS_RESOURCE;
    let left = CapabilitySets {
        effective: had.effective & kept,
        permitted: had.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    let _ = rustix::thread::set_capabilities(None, left);
}

/// Keeps what this process was started with from its children: every open descriptor but the first three is closed in
/// them, unless it is handed over on purpose.
pub fn keep_descriptors_from_children() {
    let (first, last) = (CHANNEL_FD as libc::c_uint, libc::c_uint::MAX);
    // SAFETY: sets a flag of descriptors, whichever are open; an old kernel refuses, and then they stay as they are.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Reaps one dead child, whichever; `None` when none is dead (or there is none). The kernel looks for it among all
/// children, one after the other: with a thousand of them that takes longer than a repair.
///
/// # Errors
/// What waitpid reports besides that.
pub fn reap() -> io::Result<Option<(Pid, Ending)>> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(None) | Err(Errno::CHILD) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(Some((pid, status))) => {
                if let Some(ending) = ending(status.exit_status(), status.terminating_signal()) {
                    return Ok(Some((Pid(pid.as_raw_nonzero().get()), ending)));
                }
            }
        }
    }
}

/// How a child has ended, if it has; it stays to be reaped. To take a process apart takes the kernel a while, which
/// whoever waits for its locks need not wait for.
///
/// # Errors
/// What waitid reports.
pub fn ending_of(child: Pid) -> io::Result<Option<Ending>> {
    let flags = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let Some(child) = rustix::process::Pid::from_raw(child.0) else { return Ok(None) };
    match rustix::process::waitid(WaitId::Pid(child), flags) {
        Ok(status) => Ok(status.and_then(|status| ending(status.exit_status(), status.terminating_signal()))),
        Err(Errno::CHILD | Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Signals are numbers here: nix knows none of the real-time ones, and loses whoever was ended by one.
fn ending(code: Option<i32>, signal: Option<i32>) -> Option<Ending> {
    signal.map(Ending::Killed).or(code.map(Ending::Exited))
}

/// Reaps a child that has ended.
pub fn reap_ended(child: Pid) {
    let _ = waitpid(child.raw(), Some(WaitPidFlag::WNOHANG));
}

/// Whether a pid is that of a child of this process, alive or not reaped yet.
pub fn is_child(pid: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    rustix::process::Pid::from_raw(pid.0)
        .is_some_and(|pid| rustix::process::waitid(WaitId::Pid(pid), options).is_ok())
}

/// The children of this process, alive or not reaped yet, found among all processes.
///
/// # Errors
/// What reading `/proc` reports.
pub fn children() -> io::Result<Vec<Pid>> {
    let entries = std::fs::read_dir("/proc")?;
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().map(Pid));
    Ok(numbers.filter(|pid| is_child(*pid)).collect())
}

/// Sends a signal to a child of this process, and to nobody else: the pid may be another's allegation.
///
/// # Errors
/// ESRCH or ECHILD where there is no such child; what the kernel reports otherwise.
pub fn signal_child(pid: Pid, signal: Signal) -> io::Result<()> {
    let process = rustix::process::Pid::from_raw(pid.0).ok_or(nix::errno::Errno::ESRCH)?;
    let pidfd = rustix::process::pidfd_open(process, PidfdFlags::empty())?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    rustix::process::waitid(WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd)), options)?;
    let signal = rustix::process::Signal::from_named_raw(signal as i32).ok_or(nix::errno::Errno::EINVAL)?;
    Ok(rustix::process::pidfd_send_signal(&pidfd, signal)?)
}

/// Dies with the parent. False where the parent is gone already: the caller should leave.
///
/// # Errors
/// What prctl reports.
pub fn die_with_parent(parent: Pid) -> io::Result<bool> {
    // Not by way of libc: in a fresh clone each page of it that is used must be mapped first.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    Ok(rustix::process::Pid::as_raw(rustix::process::getppid()) == parent.0)
}

/// The name shown by `ps`.
///
/// # Errors
/// What prctl reports.
pub fn set_name(name: &OsStr) -> io::Result<()> {
    let name = std::ffi::CString::new(name.as_encoded_bytes())?;
    Ok(nix::sys::prctl::set_name(&name)?)
}

/// Raises the soft limit of open descriptors to the hard one and returns it.
///
/// # Errors
/// What setrlimit reports.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Lets this process, and what it starts, leave core files of at most so many bytes, as far as the hard limit allows. Until
/// its core is written a process is not dead for its parent, and has its locks still.
///
/// # Errors
/// What setrlimit reports.
pub fn limit_core_files(bytes: u64) -> io::Result<()> {
    let Rlimit { maximum, .. } = rustix::process::getrlimit(Resource::Core);
    let current = Some(maximum.map_or(bytes, |most| most.min(bytes)));
    Ok(rustix::process::setrlimit(Resource::Core, Rlimit { current, maximum })?)
}

/// This boot's id.
///
/// # Errors
/// Where the kernel does not tell it.
pub fn boot_id() -> io::Result<u128> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    u128::from_str_radix(&text.trim().replace('-', ""), 16).map_err(io::Error::other)
}

/// A random word from the kernel.
///
/// # Errors
/// What getrandom reports.
pub fn random_word() -> io::Result<u64> {
    let mut bytes = [0; 8];
    let mut file = File::open("/dev/urandom")?;
    io::Read::read_exact(&mut file, &mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Milliseconds of a clock that all processes share and nobody sets, exact to a few of them: for what is stored with
/// every request, and costs no system call.
pub fn coarse_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    (now.tv_sec as u64).wrapping_mul(1000).wrapping_add(now.tv_nsec as u64 / 1_000_000)
}

/// Nanoseconds since the epoch.
pub fn now_ns() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Nanoseconds of the clock that every process of this machine shares, and that nobody sets.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn once_ended(child: Pid) -> Ending {
        let began = Instant::now();
        loop {
            if let Some(ending) = ending_of(child).unwrap() {
                return ending;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "it has not ended");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_child_that_has_ended_stays_until_it_is_reaped() {
        let child = Pid(Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap().id() as i32);
        assert_eq!(once_ended(child), Ending::Exited(3));
        assert_eq!(ending_of(child).unwrap(), Some(Ending::Exited(3)), "asked again");
        assert!(is_child(child));
        reap_ended(child);
        assert_eq!(ending_of(child).unwrap(), None);
        assert!(!is_child(child));
    }

    #[test]
    fn who_is_ended_by_a_signal_without_a_name_has_ended() {
        let child = Pid(Command::new("sleep").arg("60").spawn().unwrap().id() as i32);
        let signal = libc::SIGRTMIN() + 1;
        // SAFETY: a child of this process.
        assert_eq!(unsafe { libc::kill(child.0, signal) }, 0);
        assert_eq!(once_ended(child), Ending::Killed(signal));
        reap_ended(child);
    }
}
