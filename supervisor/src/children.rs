//! The supervisor's own children: the template, recovery and the journal's keeper. Each is a program of its own behind
//! a channel; all of them get the same endowment.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};

use common::error::{Context, Error, Result};
use common::ids::Pid;
use common::sys::channel::{Channel, Received};
use common::sys::process::{self, Terms};
use common::wire::control::{self, Order, Report, Start};
use serde::{Deserialize, Serialize};

use crate::policy::{Backoff, Clock};
use crate::upgrade::luggage::{Arrived, Luggage, Packed};

/// A running child.
#[derive(Debug)]
pub struct Child {
    /// Its process.
    pub pid: Pid,
    /// Whether it has said that it is ready.
    pub ready: bool,
    /// By when it must have done what it was last asked to.
    pub deadline: Option<Clock>,
    channel: Channel,
    /// Nothing more will come through the channel.
    broken: bool,
    given_up: bool,
    /// It has done something that it was asked to.
    did_well: bool,
}

/// A child as it is handed to a successor in this process.
#[derive(Debug, Serialize, Deserialize)]
pub struct PackedChild {
    pid: Pid,
    ready: bool,
    deadline: Option<Clock>,
    channel: Packed,
    broken: bool,
    given_up: bool,
    did_well: bool,
}

impl PackedChild {
    /// The child.
    ///
    /// # Errors
    /// A channel that has not come along.
    pub fn unpack(self, arrived: &mut Arrived) -> Result<Child> {
        let Self { pid, ready, deadline, channel, broken, given_up, did_well } = self;
        let channel = Channel::from_descriptor(arrived.take(channel)?);
        Ok(Child { pid, ready, deadline, channel, broken, given_up, did_well })
    }
}

impl Child {
    /// For a successor.
    pub fn pack<'a>(&'a self, luggage: &mut Luggage<'a>) -> PackedChild {
        let &Self { pid, ready, deadline, ref channel, broken, given_up, did_well } = self;
        PackedChild { pid, ready, deadline, channel: luggage.pack(channel), broken, given_up, did_well }
    }

    /// Starts a program in a role and tells it what it needs to know.
    ///
    /// # Errors
    /// A program that cannot be started.
    pub fn start(
        program: &Path,
        role: &[&str],
        terms: &Terms,
        start: Start,
        endowment: &[RawFd],
    ) -> Result<Self> {
        let doing = || format!("cannot start {}", program.display());
        let (ours, theirs) = Channel::pair().context(doing)?;
        let role: Vec<&OsStr> = role.iter().map(OsStr::new).collect();
        let pid = process::start_on(terms, program, &role, &theirs.into_descriptor()).context(doing)?;
        let child = Self {
            pid,
            ready: false,
            deadline: None,
            channel: ours,
            broken: false,
            given_up: false,
            did_well: false,
        };
        let frame = control::encode(&Order::Start(Box::new(start))).context(doing)?;
        match child.channel.send(&frame, endowment) {
            // It is gone already: its death says more than that it did not listen.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(child),
            sent => sent.context(doing).map(|()| child),
        }
    }

    /// Sends an order without waiting. False where there is no room for it now or the child is going.
    pub fn order(&self, order: &Order) -> bool {
        match control::encode(order) {
            Ok(frame) => self.channel.try_send(&frame, &[]).is_ok(),
            Err(error) => {
                log::error!("an order cannot be sent: {error}");
                false
            }
        }
    }

    /// The next report that has arrived. A child that speaks nonsense or has closed its channel is on its way out:
    /// its death will say the rest.
    pub fn report(&mut self) -> Option<Report> {
        if self.broken {
            return None;
        }
        let frame = match self.channel.try_receive() {
            Ok(Received::Frame(frame, _)) => frame,
            Ok(Received::Nothing) => return None,
            Ok(Received::Closed) => {
                self.broken = true;
                return None;
            }
            Err(error) => {
                log::warn!("process {} sent what cannot be read: {error}", self.pid);
                self.give_up();
                return None;
            }
        };
        match control::decode(&frame) {
            Ok(report) => Some(report),
            Err(error) => {
                log::warn!("process {} sent what cannot be read: {error}", self.pid);
                self.give_up();
                None
            }
        }
    }

    /// A child that has closed its channel is about to end. One that does not end by itself is useless.
    pub fn expect_its_end(&mut self, deadline: Clock) {
        if self.broken && !self.given_up && self.deadline.is_none() {
            self.deadline = Some(deadline);
        }
    }

    /// Ends the process; its death is seen by the event loop as any other.
    pub fn give_up(&mut self) {
        self.broken = true;
        self.given_up = true;
        kill(self.pid);
    }

    /// Whether it was ended because it did not answer, or spoke nonsense.
    pub fn was_given_up(&self) -> bool {
        self.given_up
    }

    /// The descriptor to poll for reading; none where nothing more will come.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        (!self.broken).then(|| self.channel.as_fd())
    }
}

/// Kills a child; one that is dead already is just as well.
pub fn kill(pid: Pid) {
    signal(pid, nix::sys::signal::Signal::SIGKILL);
}

/// Signals a child; one that is dead already is just as well.
pub fn signal(pid: Pid, signal: nix::sys::signal::Signal) {
    if let Err(error) = process::signal_child(pid, signal) {
        log::debug!("cannot send {signal} to process {pid}: {error}");
    }
}

/// A child that is started again whenever it is gone: at once if it had been ready, later and later if not.
#[derive(Debug, Default)]
pub struct Kept {
    /// The child, while there is one.
    pub child: Option<Child>,
    backoff: Backoff,
}

/// Such a child as it is handed to a successor in this process.
#[derive(Debug, Serialize, Deserialize)]
pub struct PackedKept {
    child: Option<PackedChild>,
    backoff: Backoff,
}

impl PackedKept {
    /// The child, or when it is due.
    ///
    /// # Errors
    /// As [`PackedChild::unpack`].
    pub fn unpack(self, arrived: &mut Arrived) -> Result<Kept> {
        let child = self.child.map(|child| child.unpack(arrived)).transpose()?;
        Ok(Kept { child, backoff: self.backoff })
    }
}

impl Kept {
    /// For a successor.
    pub fn pack<'a>(&'a self, luggage: &mut Luggage<'a>) -> PackedKept {
        let child = self.child.as_ref().map(|child| child.pack(luggage));
        PackedKept { child, backoff: self.backoff }
    }

    /// Whether this process is the child.
    pub fn is(&self, pid: Pid) -> bool {
        self.child.as_ref().is_some_and(|child| child.pid == pid)
    }

    /// The child, if it is ready.
    pub fn ready(&self) -> Option<&Child> {
        self.child.as_ref().filter(|child| child.ready)
    }

    /// The child's pid; 0 without one.
    pub fn pid(&self) -> Pid {
        self.child.as_ref().map_or(Pid(0), |child| child.pid)
    }

    /// Whether a child is missing and its start is due.
    pub fn is_due(&self, now: Clock) -> bool {
        self.child.is_none() && self.backoff.due() <= now
    }

    /// When a missing child's start is due.
    pub fn due(&self) -> Option<Clock> {
        self.child.is_none().then(|| self.backoff.due())
    }

    /// The child has said that it is ready, and that is all that can go wrong with it.
    pub fn now_ready(&mut self) {
        self.does_well();
        self.now_loaded();
    }

    /// The child has done what it is for.
    pub fn does_well(&mut self) {
        self.backoff.reset();
        if let Some(child) = &mut self.child {
            child.did_well = true;
        }
    }

    /// Whether the present child has.
    pub fn did_well(&self) -> bool {
        self.child.as_ref().is_some_and(|child| child.did_well)
    }

    /// The child has said that it is ready; whether it does its work is to be seen.
    pub fn now_loaded(&mut self) {
        if let Some(child) = &mut self.child {
            child.ready = true;
            child.deadline = None;
        }
    }

    /// The child is dead, or could not be started.
    pub fn lost(&mut self, now: Clock) {
        let was_ready = self.child.as_ref().is_some_and(|child| child.ready);
        self.lost_as(now, was_ready);
    }

    /// The child is dead; was it of use? If not, the next one is started later.
    pub fn lost_as(&mut self, now: Clock, useful: bool) {
        self.child = None;
        if !useful {
            self.backoff.failed(now);
        }
    }

    /// Whether it keeps failing.
    pub fn is_backing_off(&self) -> bool {
        self.backoff.failures() > 0
    }
}

/// Whether a program that was named can be one.
///
/// # Errors
/// No file, or one that may not be executed (exit 2).
pub fn check_program(path: &Path) -> Result<()> {
    let usable = std::fs::metadata(path).and_then(|metadata| {
        if !metadata.is_file() {
            return Err(std::io::Error::other("it is not a file"));
        }
        Ok(nix::unistd::access(path, nix::unistd::AccessFlags::X_OK)?)
    });
    usable.map_err(|error| {
        Error::usage(format!("cannot run {}: {error}; name another program", path.display()))
    })
}

/// Finds a program beside this one's real path, then in `../lib/holdfast`.
///
/// # Errors
/// Where it is in neither place (exit 2).
pub fn find_program(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe().context(|| "cannot find this program's own path".to_owned())?;
    let beside = here.with_file_name(name);
    let library = here.parent().and_then(Path::parent).map(|prefix| prefix.join("lib/holdfast").join(name));
    [Some(beside.clone()), library].into_iter().flatten().find(|path| path.is_file()).ok_or_else(|| {
        Error::usage(format!("cannot find {}; install it there or name it by option", beside.display()))
    })
}
