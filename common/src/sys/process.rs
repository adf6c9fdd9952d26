//! Processes: starting, reaping, signalling, naming, and what they inherit.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::process::{PidfdFlags, Resource, Rlimit};

use crate::ids::Pid;

/// The number under which a child finds its channel to the supervisor.
pub const CHANNEL_FD: RawFd = 3;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// Starts a program with `channel` as its descriptor [`CHANNEL_FD`]. Every other descriptor is close-on-exec.
/// The caller reaps it by its pid.
///
/// # Errors
/// What fork and exec report; exec's failure comes back from the child.
pub fn start(program: &Path, arguments: &[&OsStr], channel: &OwnedFd) -> io::Result<Pid> {
    let raw = channel.as_raw_fd();
    let mut command = Command::new(program);
    command.args(arguments).stdin(std::process::Stdio::null());
    // SAFETY: the closure only calls async-signal-safe functions on integers.
    unsafe {
        command.pre_exec(move || place_channel(raw));
    }
    // Child has no destructor that waits or kills, so dropping it leaves only the pid.
    Ok(Pid(command.spawn()?.id() as i32))
}

/// In the child between fork and exec: the channel gets its number and stays open; priorities and signals as usual.
fn place_channel(raw: RawFd) -> io::Result<()> {
    restore_priority();
    let placed = if raw == CHANNEL_FD {
        // SAFETY: clears the close-on-exec flag of an open descriptor.
        unsafe { libc::fcntl(CHANNEL_FD, libc::F_SETFD, 0) }
    } else {
        // SAFETY: dup2 of an open descriptor; what had the number is close-on-exec and goes now instead.
        unsafe { libc::dup2(raw, CHANNEL_FD) }
    };
    super::cerr(placed.into()).map(drop)
}

/// Keeps what this process was started with from its children: every open descriptor but the first three is closed in
/// them, unless it is handed over on purpose.
pub fn keep_descriptors_from_children() {
    let (first, last) = (CHANNEL_FD as libc::c_uint, libc::c_uint::MAX);
    // SAFETY: sets a flag of descriptors, whichever are open; an old kernel refuses, and then they stay as they are.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Reaps one dead child, whichever; `None` when none is dead (or there is none).
///
/// # Errors
/// What waitpid reports besides that.
pub fn reap() -> io::Result<Option<(Pid, Ending)>> {
    loop {
        return match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => Ok(Some((Pid(pid.as_raw()), Ending::Exited(code)))),
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                Ok(Some((Pid(pid.as_raw()), Ending::Killed(signal as i32))))
            }
            Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => Ok(None),
            Ok(_) | Err(nix::errno::Errno::EINTR) => continue,
            // A real-time signal has no name in nix's list; the child is reaped all the same.
            Err(nix::errno::Errno::EINVAL) => continue,
            Err(error) => Err(error.into()),
        };
    }
}

/// Whether a pid is that of a child of this process, alive or not reaped yet.
pub fn is_child(pid: Pid) -> bool {
    let options = rustix::process::WaitIdOptions::EXITED
        | rustix::process::WaitIdOptions::NOHANG
        | rustix::process::WaitIdOptions::NOWAIT;
    rustix::process::Pid::from_raw(pid.0)
        .is_some_and(|pid| rustix::process::waitid(rustix::process::WaitId::Pid(pid), options).is_ok())
}

/// Sends a signal to a child of this process, and to nobody else: the pid may be another's allegation.
///
/// # Errors
/// ESRCH or ECHILD where there is no such child; what the kernel reports otherwise.
pub fn signal_child(pid: Pid, signal: Signal) -> io::Result<()> {
    let process = rustix::process::Pid::from_raw(pid.0).ok_or(nix::errno::Errno::ESRCH)?;
    let pidfd = rustix::process::pidfd_open(process, PidfdFlags::empty())?;
    let options = rustix::process::WaitIdOptions::EXITED
        | rustix::process::WaitIdOptions::NOHANG
        | rustix::process::WaitIdOptions::NOWAIT;
    rustix::process::waitid(rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd)), options)?;
    let signal = rustix::process::Signal::from_named_raw(signal as i32).ok_or(nix::errno::Errno::EINVAL)?;
    Ok(rustix::process::pidfd_send_signal(&pidfd, signal)?)
}

/// Dies with the parent. False where the parent is gone already: the caller should leave.
///
/// # Errors
/// What prctl reports.
pub fn die_with_parent(parent: Pid) -> io::Result<bool> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    Ok(nix::unistd::getppid() == parent.raw())
}

/// The name shown by `ps`.
///
/// # Errors
/// What prctl reports.
pub fn set_name(name: &OsStr) -> io::Result<()> {
    let name = std::ffi::CString::new(name.as_encoded_bytes())?;
    Ok(nix::sys::prctl::set_name(&name)?)
}

/// The nice value that this process was started with, once it has changed its own.
static FORMER_NICE: AtomicI32 = AtomicI32::new(UNCHANGED);
const UNCHANGED: i32 = i32::MIN;

/// Gives this process the highest priority that is permitted, so that a death is noticed also while every core is
/// busy. Programs that it starts get the former priority back. Says whether it was permitted.
pub fn raise_priority() -> bool {
    let former = rustix::process::getpriority_process(None).unwrap_or(0);
    let raised = rustix::process::setpriority_process(None, -20).is_ok();
    if raised {
        FORMER_NICE.store(former, Ordering::SeqCst);
    }
    raised
}

/// In the child between fork and exec.
fn restore_priority() {
    let former = FORMER_NICE.load(Ordering::SeqCst);
    if former != UNCHANGED {
        // SAFETY: sets this process's own nice value; lowering the priority is always permitted.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, former) };
    }
}

/// Waking up, this process does not interrupt the one that runs (`SCHED_BATCH`). A server process that is woken for a
/// connection by the process that just opened it would otherwise keep interrupting its own clients. Always permitted.
///
/// # Errors
/// What `sched_setscheduler` reports.
pub fn wake_without_interrupting() -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads one parameter; pid 0 is this process.
    let returned = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameter) };
    super::cerr(returned.into()).map(drop)
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
    let mut file = std::fs::File::open("/dev/urandom")?;
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
