//! A share in the region of a running instance.
//!
//! A [`Session`] has a slot of the region, which is what makes a program's death repairable: the instance holds its process,
//! and repairs the slot when that ends without a farewell. Nothing else counts as its death: neither the loss of the
//! connection, nor that the program is stopped.
//!
//! A slot has one undo log, so a session stays in its thread; each thread attaches for itself. A child that is forked has
//! neither the region nor the slot: whatever it does with its parent's session is refused.
//!
//! When the instance goes down, also by `kill -9`, sessions go on: what they share is still there. The next instance finds
//! who is attached, and the sessions find it by themselves. Only what dies in between waits for it to be repaired.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use common::error::{Error, Result};
use common::ids::Owner;
use common::region::Region;
use common::slots::{self, State};
use common::sys::channel::{Channel, Received};
use common::sys::fork_mark::ForkMark;
use common::sys::transport::receive_within;
use common::txn::{Seat, Transaction, TxnError};
use common::wire::control::{self, Access, Membership, Request, Response};

use crate::attach::{answered_something_else, ask, connect, control_socket};
use crate::mapped;

/// How long an instance may take to let somebody in. It looks at every slot when it starts, before anybody gets one.
const ADMISSION: Duration = Duration::from_secs(60);
/// How long it may take to hear a farewell.
const FAREWELL: Duration = Duration::from_secs(1);
/// The connection is looked after with each so many transactions, and whenever another instance says in the region that
/// it is there.
const LOOK_EVERY: u32 = 1024;
/// Pauses between two attempts to find the next instance.
const NEXT_TRY: Duration = Duration::from_millis(10);

/// Why a session could not do something.
#[derive(Debug, PartialEq, Eq)]
pub enum SessionError {
    /// The transaction failed, and is as if it had not been.
    Transaction(TxnError),
    /// The session has ended, and another has to be attached; why.
    Ended(String),
}

impl std::fmt::Display for SessionError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Transaction(error) => error.fmt(f),
            Self::Ended(why) => write!(f, "the session has ended: {why}"),
        }
    }
}

impl std::error::Error for SessionError {}

impl From<TxnError> for SessionError {
    fn from(error: TxnError) -> Self {
        Self::Transaction(error)
    }
}

/// A program's own slot in the region: the right to change what is in it. Dropped, or by [`Session::detach`], it is given
/// back; whoever ends without that has crashed.
#[derive(Debug)]
pub struct Session {
    seat: Seat<'static>,
    mark: ForkMark,
    link: Link,
    /// Open as long as the slot is kept: by its lock the next instance knows that somebody has it.
    _kept: OwnedFd,
}

impl Session {
    /// Attaches to the instance that owns this run directory.
    ///
    /// # Errors
    /// No instance there; one that does not let this user write, is stopping, or has no slot left.
    pub fn attach(run_dir: &Path) -> Result<Self> {
        let channel = connect(run_dir)?;
        let (response, descriptors) = ask(&channel, &Request::Attach(Access::Write), ADMISSION)?;
        let membership = match response {
            Response::Joined(membership) => membership,
            other => return Err(refusal(other)),
        };
        let mut descriptors = descriptors.into_iter();
        let (Some(region), Some(kept)) = (descriptors.next(), descriptors.next()) else {
            return Err(answered_something_else());
        };
        let region = mapped::region(&File::from(region), true)?;
        let life = region.header().supervision.life.load(Relaxed);
        let taken =
            if region.epoch() == membership.epoch { Seat::take(region, membership.owner) } else { None };
        let seat = taken.ok_or_else(|| {
            Error::failure("the slot was taken back before this process had it; attach again")
        })?;
        seat.slot().set_doing(program_name().as_bytes());
        let link =
            Link::new(channel, std::path::absolute(run_dir).unwrap_or(run_dir.to_owned()), membership, life);
        Ok(Self { seat, mark: ForkMark::new(), link, _kept: kept })
    }

    /// Begins a transaction: all that is changed in it, or nothing of it.
    ///
    /// # Errors
    /// [`TxnError::Forked`] in a child of the process that attached; a session that has ended.
    pub fn begin(&mut self) -> std::result::Result<Transaction<'_, 'static>, SessionError> {
        let region = self.region()?;
        if let Err(error) = self.link.look(region) {
            self.leave();
            return Err(error);
        }
        Ok(self.seat.begin()?)
    }

    /// Makes `changes` in one transaction.
    ///
    /// # Errors
    /// As [`Session::begin`]; what `changes` gives, and then nothing was changed.
    pub fn change<T>(
        &mut self,
        changes: impl FnOnce(&mut Transaction<'_, 'static>) -> std::result::Result<T, TxnError>,
    ) -> std::result::Result<T, SessionError> {
        let mut transaction = self.begin()?;
        let changed = changes(&mut transaction)?;
        transaction.commit()?;
        Ok(changed)
    }

    /// The region, to read from: see [`common::objects`].
    ///
    /// # Errors
    /// [`TxnError::Forked`] in a child of the process that attached: it does not have the region.
    pub fn region(&mut self) -> std::result::Result<&'static Region, SessionError> {
        if self.mark.is_mine() { Ok(self.seat.region()) } else { Err(TxnError::Forked.into()) }
    }

    /// Slot and generation.
    pub fn owner(&self) -> Owner {
        self.seat.owner()
    }

    /// Says what this program is doing, for `supervisor status --slots` and for the report of a crash. Until it says
    /// something it is the program's name.
    ///
    /// # Errors
    /// As [`Session::region`].
    pub fn doing(&mut self, text: &str) -> std::result::Result<(), SessionError> {
        self.region()?;
        self.seat.slot().set_doing(text.as_bytes());
        Ok(())
    }

    /// Gives the slot back, and waits until the instance has heard of it, if there is one.
    ///
    /// # Errors
    /// An instance that does not take it back, which says why.
    pub fn detach(mut self) -> Result<()> {
        if !self.mark.is_mine() {
            return Err(Error::failure(TxnError::Forked.to_string()));
        }
        self.leave();
        self.link.say_farewell(FAREWELL)
    }

    fn leave(&self) {
        let Owner { generation, .. } = self.seat.owner();
        slots::detach(self.seat.slot(), slots::owner_word(generation, State::Live));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // In a child it is the parent's, and so is the connection.
        if self.mark.is_mine() {
            self.leave();
            let _ = self.link.say_farewell(Duration::ZERO);
            self.link.close();
        }
    }
}

/// The region of a running instance, to read only: no store through it is possible, and where the instance is another
/// user's, none can be made possible. It takes no slot, and whoever has it may end as he likes.
#[derive(Debug)]
pub struct View {
    region: &'static Region,
    mark: ForkMark,
}

impl View {
    /// Gets the region of the instance that owns this run directory.
    ///
    /// # Errors
    /// No instance there; one that does not let this user read, or is stopping.
    pub fn attach(run_dir: &Path) -> Result<Self> {
        let channel = connect(run_dir)?;
        let (response, descriptors) = ask(&channel, &Request::Attach(Access::Read), ADMISSION)?;
        match (response, descriptors.into_iter().next()) {
            (Response::Shown, Some(region)) => {
                Ok(Self { region: mapped::region(&File::from(region), false)?, mark: ForkMark::new() })
            }
            (other, _) => Err(refusal(other)),
        }
    }

    /// The region, to read from: see [`common::objects`].
    ///
    /// # Errors
    /// [`TxnError::Forked`] in a child of the process that attached: it does not have the region.
    pub fn region(&mut self) -> std::result::Result<&'static Region, TxnError> {
        if self.mark.is_mine() { Ok(self.region) } else { Err(TxnError::Forked) }
    }
}

/// The connection to the instance, which may be another one by now.
#[derive(Debug)]
struct Link {
    run_dir: PathBuf,
    membership: Membership,
    channel: Option<Channel>,
    /// Whether the instance has been told whose connection this is, and has not answered yet.
    asked: bool,
    /// The instance's number, as the region had it when the connection was made.
    life: u64,
    looks: u32,
    last_try: Option<Instant>,
    ended: Option<String>,
}

impl Link {
    fn new(channel: Channel, run_dir: PathBuf, membership: Membership, life: u64) -> Self {
        let channel = Some(channel);
        Self { run_dir, membership, channel, asked: false, life, looks: 0, last_try: None, ended: None }
    }

    /// Before each transaction: is the region still the one that is served, and the connection there? Two loads, as a
    /// rule. Nobody is waited for.
    #[inline]
    fn look(&mut self, region: &Region) -> std::result::Result<(), SessionError> {
        let supervision = &region.header().supervision;
        self.looks = self.looks.wrapping_add(1);
        let due = self.looks.is_multiple_of(LOOK_EVERY) || self.asked || self.channel.is_none();
        if !due && supervision.life.load(Relaxed) == self.life && supervision.damaged.load(Relaxed) == 0 {
            return Ok(());
        }
        self.mend(region)
    }

    #[cold]
    fn mend(&mut self, region: &Region) -> std::result::Result<(), SessionError> {
        let supervision = &region.header().supervision;
        if supervision.damaged.load(Relaxed) != 0 {
            self.end("the region is damaged; attach again when the instance has another one".to_owned());
        }
        let life = supervision.life.load(Relaxed);
        if life != self.life {
            self.close();
        }
        self.hear();
        if self.channel.is_none() && self.ended.is_none() {
            self.connect_again(life);
        }
        match &self.ended {
            Some(why) => Err(SessionError::Ended(why.clone())),
            None => Ok(()),
        }
    }

    /// Takes what the instance has said.
    fn hear(&mut self) {
        let Some(channel) = &self.channel else { return };
        match channel.try_receive() {
            Ok(Received::Nothing) => {}
            Ok(Received::Frame(frame, _)) => match control::decode(&frame) {
                Ok(Response::Refused(why)) => self.end(why),
                _ => self.asked = false,
            },
            Ok(Received::Closed) | Err(_) => self.close(),
        }
    }

    /// The next instance is told who is here. What it says to that is heard another time.
    fn connect_again(&mut self, life: u64) {
        if self.last_try.is_some_and(|last| last.elapsed() < NEXT_TRY) {
            return;
        }
        self.last_try = Some(Instant::now());
        let connected = control_socket(&self.run_dir).and_then(|(_directory, path)| {
            let channel = Channel::connect_at_once(&path)?;
            channel.try_send(&control::encode(&Request::Rejoin(self.membership))?, &[])?;
            Ok(channel)
        });
        // Without an instance the region is there all the same.
        if let Ok(channel) = connected {
            (self.channel, self.asked, self.life) = (Some(channel), true, life);
        }
    }

    fn end(&mut self, why: String) {
        self.close();
        self.ended = Some(why);
    }

    fn close(&mut self) {
        if let Some(channel) = self.channel.take() {
            // A child of this process may have a descriptor of it.
            channel.shut_down();
        }
        self.asked = false;
    }

    /// Tells the instance that the slot was left, and hears for so long what it says. Without a connection it finds out
    /// by itself.
    fn say_farewell(&mut self, patience: Duration) -> Result<()> {
        let Some(channel) = &self.channel else { return Ok(()) };
        let deadline = Instant::now() + patience;
        if say(channel, &Request::Detach(self.membership.owner)).is_err() {
            return Ok(());
        }
        while !patience.is_zero() {
            let left = deadline.saturating_duration_since(Instant::now());
            match receive_within(channel, left) {
                Ok(Received::Frame(frame, _)) => match control::decode(&frame) {
                    // To a question before.
                    Ok(Response::Joined(_)) => {}
                    Ok(Response::Refused(why)) => return Err(Error::failure(why)),
                    _ => return Ok(()),
                },
                _ => return Ok(()),
            }
        }
        Ok(())
    }
}

fn say(channel: &Channel, request: &Request) -> io::Result<()> {
    channel.try_send(&control::encode(request)?, &[])
}

fn refusal(response: Response) -> Error {
    match response {
        Response::Refused(why) => Error::failure(format!("cannot attach: {why}")),
        _ => answered_something_else(),
    }
}

fn program_name() -> String {
    let program = std::env::current_exe().ok();
    let name = program.as_deref().and_then(Path::file_name);
    name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
