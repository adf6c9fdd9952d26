//! Signals: as readable descriptors for those who poll, as one flag and one rule for a worker.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, Ordering};

use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

use crate::layout::Slot;

/// Signals that arrive as bytes on a socket, one byte each: its number. One order of arrival, one poll.
#[derive(Debug)]
pub struct SignalPipe {
    receiver: OwnedFd,
}

impl SignalPipe {
    /// Catches the given signals from now on.
    ///
    /// # Errors
    /// What socketpair and sigaction report.
    pub fn catching(signals: &[Signal]) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (receiver, sender) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
        // The sender lives as long as the handlers, which is as long as the process.
        let raw = std::mem::ManuallyDrop::new(sender).as_raw_fd();
        for &signal in signals {
            let number = signal as i32;
            let deliver = move || {
                // A full socket means that plenty of wake-ups are waiting already.
                let _ = send(raw, &[number as u8], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
            };
            // SAFETY: send(2) is async-signal-safe, and the closure neither allocates nor panics.
            unsafe { signal_hook::low_level::register(number, deliver) }?;
        }
        Ok(Self { receiver })
    }

    /// The descriptor to poll for reading.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.receiver)
    }

    /// The signals that have arrived, in order; none waits.
    pub fn take(&self) -> Vec<Signal> {
        let mut bytes = [0; 256];
        let count = recv(self.receiver.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT).unwrap_or(0);
        bytes[..count].iter().filter_map(|&number| Signal::try_from(i32::from(number)).ok()).collect()
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

/// What a worker is at when SIGTERM asks it to leave; see [`Retirement`].
mod station {
    /// Waiting for a connection and holding none: the handler itself may leave.
    pub const IDLE: i32 = -1;
    /// Taking a connection, or between connections: the flag is looked at before the next wait.
    pub const BUSY: i32 = -2;
}

static ASKED: AtomicBool = AtomicBool::new(false);
static STATION: AtomicI32 = AtomicI32::new(station::BUSY);
static SLOT: AtomicPtr<Slot> = AtomicPtr::new(std::ptr::null_mut());
static OWNER: AtomicU64 = AtomicU64::new(0);

/// A worker's SIGTERM, without a descriptor, a system call or a race: while the worker is idle the handler detaches
/// and leaves; while it has a connection the handler shuts the connection's reading side, so that a blocked read
/// returns now and a read not yet begun returns at once. What has been received is still answered.
#[derive(Debug)]
pub struct Retirement(());

impl Retirement {
    /// Arms the handler for the owner of `slot`, whose region stays mapped for the life of the process.
    ///
    /// # Errors
    /// What sigaction reports.
    pub fn arm(slot: &'static Slot, owner_word: u64) -> io::Result<Self> {
        SLOT.store(std::ptr::from_ref(slot).cast_mut(), Ordering::SeqCst);
        OWNER.store(owner_word, Ordering::SeqCst);
        let action = nix::sys::signal::SigAction::new(
            SigHandler::Handler(on_term),
            nix::sys::signal::SaFlags::SA_RESTART,
            SigSet::empty(),
        );
        // SAFETY: the handler uses atomics, shutdown(2) and _exit(2) only.
        unsafe { nix::sys::signal::sigaction(Signal::SIGTERM, &action) }?;
        Ok(Self(()))
    }

    /// Whether SIGTERM has come.
    pub fn asked(&self) -> bool {
        ASKED.load(Ordering::SeqCst)
    }

    /// From here to the next call the worker holds nothing: SIGTERM ends it on the spot.
    pub fn idle(&self) {
        STATION.store(station::IDLE, Ordering::SeqCst);
    }

    /// From here to the next call SIGTERM sets the flag only.
    pub fn busy(&self) {
        STATION.store(station::BUSY, Ordering::SeqCst);
    }

    /// From here to the next call SIGTERM also ends the reading side of this connection.
    pub fn serving(&self, connection: BorrowedFd<'_>) {
        STATION.store(connection.as_raw_fd(), Ordering::SeqCst);
        if self.asked() {
            shut_reading(connection.as_raw_fd());
        }
    }
}

extern "C" fn on_term(_: libc::c_int) {
    ASKED.store(true, Ordering::SeqCst);
    match STATION.load(Ordering::SeqCst) {
        station::IDLE => leave(),
        station::BUSY => {}
        connection => shut_reading(connection),
    }
}

fn shut_reading(connection: i32) {
    // SAFETY: shutdown of a descriptor number; at worst it is not a socket any more and the call fails.
    unsafe { libc::shutdown(connection, libc::SHUT_RD) };
}

fn leave() {
    // SAFETY: `arm` stored a reference that lives as long as the process, before the handler was installed.
    let slot = unsafe { SLOT.load(Ordering::SeqCst).as_ref() };
    if let Some(slot) = slot {
        crate::slots::detach(slot, OWNER.load(Ordering::SeqCst));
    }
    // SAFETY: _exit ends the process without running anything of it.
    unsafe { libc::_exit(0) };
}
