//! Becoming a daemon: a process without a terminal, a session of its own, and nothing of its starter's but what it
//! was told to keep. The starter waits at a pipe for word of how it went.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use nix::fcntl::OFlag;
use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, pipe2, setsid};

use super::signal;

/// What files are created without: rights of others, and the group's to write.
const MASK: Mode = Mode::S_IWGRP.union(Mode::S_IRWXO);

/// The two returns of [`detach`].
#[derive(Debug)]
pub enum Detached {
    /// In the starter: where the daemon's word arrives; the end comes when the daemon has let go of its own.
    Starter(File),
    /// In the daemon: where its word goes.
    Daemon(File),
}

/// Forks twice, so that the daemon leads no session and can get no terminal. It keeps its working directory, and of
/// the starter's descriptors those in `keep`; the first three are nowhere where they are not kept. For a process of one
/// thread.
///
/// # Errors
/// What pipe, fork or setsid report.
pub fn detach(keep: &[RawFd]) -> io::Result<Detached> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: this process has one thread; its child may do whatever it may.
    if let ForkResult::Parent { child } = unsafe { fork() }? {
        let _ = waitpid(child, None);
        return Ok(Detached::Starter(File::from(reader)));
    }
    drop(reader);
    setsid()?;
    // SAFETY: as above.
    if let ForkResult::Parent { .. } = unsafe { fork() }? {
        // SAFETY: ends this process without running what is the starter's to run.
        unsafe { libc::_exit(0) }
    }
    signal::reset_to_default();
    signal::set_blocked(&SigSet::empty())?;
    umask(MASK);
    let writer = File::from(writer);
    let nowhere = File::options().read(true).write(true).open("/dev/null")?;
    for standard in (0..3).filter(|number| !keep.contains(number)) {
        // SAFETY: dup2 onto a standard descriptor, which nobody in this process owns.
        super::cerr(unsafe { libc::dup2(nowhere.as_raw_fd(), standard) }.into())?;
    }
    close_all_but(keep, &[writer.as_raw_fd(), nowhere.as_raw_fd()]);
    Ok(Detached::Daemon(writer))
}

/// Closes every descriptor from the fourth on that is in neither list.
fn close_all_but(keep: &[RawFd], own: &[RawFd]) {
    let mut kept: Vec<RawFd> = keep.iter().chain(own).copied().filter(|number| *number >= 3).collect();
    kept.sort_unstable();
    let mut first = 3;
    for number in kept {
        close_range(first, number - 1);
        first = number + 1;
    }
    close_range(first, RawFd::MAX);
}

fn close_range(first: RawFd, last: RawFd) {
    if first > last {
        return;
    }
    // SAFETY: the numbers are the starter's descriptors, of which no object in this process knows; an old kernel
    // refuses, and then they are closed one by one.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if closed == 0 {
        return;
    }
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<RawFd> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| (first..=last).contains(number)) {
        let _ = nix::unistd::close(number);
    }
}
