//! Signals: as readable descriptors for those who poll, as one flag and one rule for a worker.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, Ordering};

use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

use crate::ids::Pid;
use crate::layout::Slot;

/// Signals that have come and have not been taken, a bit each.
static PENDING: AtomicU64 = AtomicU64::new(0);

/// The child that the last SIGCHLD named; 0 = none.
static NAMED: AtomicI32 = AtomicI32::new(0);

/// Signals that wake a poll. A byte on the socket says that some have come, a bit says which: however many come at
/// once, the socket never fills, so that none is lost behind a thousand others.
#[derive(Debug)]
pub struct SignalPipe {
    receiver: OwnedFd,
    caught: Vec<Signal>,
}

impl SignalPipe {
    /// Catches the given signals from now on. Once in a process.
    ///
    /// # Errors
    /// What socketpair and sigaction report.
    pub fn catching(signals: &[Signal]) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (receiver, sender) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
        // The sender lives as long as the handlers, which is as long as the process.
        let raw = std::mem::ManuallyDrop::new(sender).as_raw_fd();
        for &signal in signals {
            let bit = 1 << signal as u64;
            let deliver = move |info: &libc::siginfo_t| {
                if signal == Signal::SIGCHLD {
                    // SAFETY: the kernel fills in the pid with every SIGCHLD of a child; at worst it is some number.
                    NAMED.store(unsafe { info.si_pid() }, Ordering::SeqCst);
                }
                if PENDING.fetch_or(bit, Ordering::SeqCst) & bit == 0 {
                    let _ = send(raw, &[0], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
                }
            };
            // SAFETY: send(2) is async-signal-safe, and the closure neither allocates nor panics.
            unsafe { signal_hook_registry::register_sigaction(signal as i32, deliver) }?;
        }
        Ok(Self { receiver, caught: signals.to_vec() })
    }

    /// The descriptor to poll for reading.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.receiver)
    }

    /// The signals that have come since the last call, each once, in the order in which they were named.
    pub fn take(&self) -> Vec<Signal> {
        // The bytes go first: a signal that comes after them leaves a byte for the next poll.
        let mut bytes = [0; 64];
        let _ = recv(self.receiver.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT);
        let pending = PENDING.swap(0, Ordering::SeqCst);
        self.caught.iter().copied().filter(|&signal| pending & 1 << signal as u64 != 0).collect()
    }

    /// The child that the last SIGCHLD named, once: a hint. Others may be dead too, since one signal stands for many.
    pub fn named_child(&self) -> Option<Pid> {
        Some(Pid(NAMED.swap(0, Ordering::SeqCst))).filter(|pid| pid.0 > 0)
    }
}

/// Blocks every signal in this thread and returns what was blocked before.
///
/// # Errors
/// What sigprocmask reports.
pub fn block_all() -> io::Result<SigSet> {
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    Ok(before)
}

/// Sets the signals that are blocked in this thread.
///
/// # Errors
/// What sigprocmask reports.
pub fn set_blocked(signals: &SigSet) -> io::Result<()> {
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(signals), None)?)
}

/// Every signal back to its default: a program may have been started with some ignored.
pub fn reset_to_default() {
    for signal in Signal::iterator() {
        if !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP | Signal::SIGPIPE) {
            // SAFETY: the default action involves no handler of ours.
            let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) };
        }
    }
}

/// Signals that do nothing to this process from now on.
pub fn ignore(signals: &[Signal]) {
    for &signal in signals {
        // SAFETY: ignoring a signal involves no handler of ours.
        let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) };
    }
}

/// The number that stands for "no connection".
const NOBODY: i32 = -1;

static ASKED: AtomicBool = AtomicBool::new(false);
static PRESSED: AtomicBool = AtomicBool::new(false);
static SLOT: AtomicPtr<Slot> = AtomicPtr::new(std::ptr::null_mut());
static CONNECTION: AtomicI32 = AtomicI32::new(NOBODY);

/// How often a worker that is asked to leave is reminded while it waits for a connection.
const REMINDER: libc::timeval = libc::timeval { tv_sec: 0, tv_usec: 10_000 };
const NEVER: libc::timeval = libc::timeval { tv_sec: 0, tv_usec: 0 };

/// A worker's SIGTERM, without a system call per connection and without a race. The handler leaves the waiting to the
/// code that waits: it makes every wait end, the one under way and the one not yet begun.
///
/// The wait for a connection ends by being interrupted; a signal that comes just before it begins would be slept
/// through, so a timer interrupts again until the worker has noticed. The handler must not leave on the spot: the
/// kernel may just have given this worker a connection. For a connection it makes the timeout of reads the shortest
/// there is: what has arrived is still read, and nothing is waited for.
#[derive(Debug)]
pub struct Retirement(());

impl Retirement {
    /// Arms the handler. `slot`, whose region stays mapped, shows that the worker leaves.
    ///
    /// # Errors
    /// What sigaction reports.
    pub fn arm(slot: &'static Slot) -> io::Result<Self> {
        SLOT.store(std::ptr::from_ref(slot).cast_mut(), Ordering::SeqCst);
        // Without SA_RESTART: waits are to end.
        let flags = nix::sys::signal::SaFlags::empty();
        let action = nix::sys::signal::SigAction::new(SigHandler::Handler(on_term), flags, SigSet::empty());
        for signal in [Signal::SIGTERM, Signal::SIGALRM] {
            // SAFETY: the handler uses atomics, setitimer(2) and setsockopt(2) only, and keeps errno.
            unsafe { nix::sys::signal::sigaction(signal, &action) }?;
        }
        Ok(Self(()))
    }

    /// Whether SIGTERM has come.
    pub fn asked(&self) -> bool {
        ASKED.load(Ordering::SeqCst)
    }

    /// Whether SIGTERM has come a second time: the worker is not to wait for its client to pause.
    pub fn pressed(&self) -> bool {
        PRESSED.load(Ordering::SeqCst)
    }

    /// From here until [`Retirement::alone`] SIGTERM also ends the waiting for what this connection sends. Who sets
    /// the connection's timeout asks [`Retirement::asked`] afterwards.
    pub fn serving(&self, connection: BorrowedFd<'_>) {
        CONNECTION.store(connection.as_raw_fd(), Ordering::SeqCst);
        if self.asked() {
            // Noticed: what is waited for from here on has deadlines of its own.
            remind_every(NEVER);
        }
    }

    /// The connection is about to be closed: its number may soon be another's.
    pub fn alone(&self) {
        CONNECTION.store(NOBODY, Ordering::SeqCst);
    }
}

extern "C" fn on_term(signal: libc::c_int) {
    // SAFETY: errno's place is valid in every thread; the interrupted code may be about to read it.
    let errno = unsafe { *libc::__errno_location() };
    // SIGALRM is the timer's; it comes after SIGTERM only.
    if ASKED.swap(true, Ordering::SeqCst) && signal == libc::SIGTERM {
        PRESSED.store(true, Ordering::SeqCst);
    }
    // SAFETY: `arm` stored a reference that lives as long as the process, before the handler was installed.
    if let Some(slot) = unsafe { SLOT.load(Ordering::SeqCst).as_ref() } {
        slot.activity.store(crate::slots::Activity::Retiring as u32, Ordering::Relaxed);
    }
    match CONNECTION.load(Ordering::SeqCst) {
        NOBODY => remind_every(REMINDER),
        connection => stop_waiting(connection),
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Has SIGALRM sent at this interval, or not any more.
fn remind_every(interval: libc::timeval) {
    let timer = libc::itimerval { it_interval: interval, it_value: interval };
    // SAFETY: the kernel reads one itimerval; the former one is not asked for.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
}

fn stop_waiting(connection: i32) {
    let shortest = libc::timeval { tv_sec: 0, tv_usec: 1 };
    let size = size_of::<libc::timeval>() as libc::socklen_t;
    // SAFETY: the kernel reads one timeval; at worst the number is not a socket any more, and the call fails.
    unsafe {
        libc::setsockopt(connection, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const shortest).cast(), size);
    }
}
