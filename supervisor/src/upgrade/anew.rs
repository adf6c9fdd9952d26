//! The way out where a program has been executed in a supervisor's process and cannot go on: everything is started anew, as
//! after a crash, but for the listening sockets. Whoever waits in their queues is served.

use std::os::fd::{AsFd as _, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use common::error::{Context, Error, Result};
use common::sys::{exec, file, process, socket};

use super::handover::{Errand, Summons};
use super::program::Program;
use crate::children;

/// How long the children may take to end.
const CHILDREN_GONE: Duration = Duration::from_secs(10);

/// How often it is looked whether they have.
const PAUSE: Duration = Duration::from_millis(1);

/// Copies of the listening sockets that this process has been left, however many and whatever for. Before anybody else
/// takes descriptors.
pub fn listening_sockets() -> Vec<OwnedFd> {
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<RawFd> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let copies =
        numbers.into_iter().filter(|number| *number > 2).filter_map(|number| file::copy_of(number).ok());
    copies.filter(|copy| socket::is_listening_stream(copy.as_fd())).collect()
}

/// Ends every child and executes this program once more, without a predecessor. Returns only if that fails.
///
/// # Errors
/// Children that do not end; what execve reports.
pub fn start(summons: &Summons, sockets: &[OwnedFd]) -> Result<()> {
    end_children()?;
    let numbers = sockets.iter().map(AsRawFd::as_raw_fd).collect();
    let next = Summons::new(Errand::StartAnew(numbers), summons.nice, summons.started_in.clone());
    process::keep_descriptors_from_children();
    let kept: Vec<_> = sockets.iter().map(OwnedFd::as_fd).collect();
    let program = Program::of_this_process()?;
    let arguments: Vec<_> = std::env::args_os().collect();
    exec::become_program(program.path(), &arguments, &environment(&next), &kept)
        .map(drop)
        .context(|| format!("cannot start {} anew", program.path().display()))
}

/// The environment of a program that is executed in this process: as this one's, but the sockets that a service manager has
/// passed to the first one are handed over as all others are.
pub fn environment(summons: &Summons) -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
    let left_out = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", process::HANDOVER_VARIABLE];
    let own = std::env::vars_os().filter(|(name, _)| !left_out.iter().any(|left_out| name == left_out));
    own.chain([(process::HANDOVER_VARIABLE.into(), summons.written())]).collect()
}

/// A template among them may start others in the meantime: until nobody is left.
fn end_children() -> Result<()> {
    let doing = || "cannot end the children".to_owned();
    let deadline = Instant::now() + CHILDREN_GONE;
    loop {
        let children = process::children().context(doing)?;
        if children.is_empty() {
            return Ok(());
        }
        children.into_iter().for_each(children::kill);
        while process::reap().context(doing)?.is_some() {}
        if Instant::now() > deadline {
            return Err(Error::failure("the children of the former program do not end"));
        }
        std::thread::sleep(PAUSE);
    }
}
