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

mod link;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use common::error::{Error, Result};
use common::ids::Owner;
use common::objects::Queue;
use common::region::Region;
use common::slots::{self, State};
use common::sys::fork_mark::ForkMark;
use common::tidings::Tidings;
use common::txn::{Seat, Transaction, TxnError};
use common::wire::control::{Access, Request, Response};

use crate::attach::{answered_something_else, ask, connect};
use crate::mapped;
use link::Link;

/// How long an instance may take to let somebody in. It looks at every slot when it starts, before anybody gets one.
const ADMISSION: Duration = Duration::from_secs(60);
/// How long it may take to hear a farewell.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a queue may keep a session from putting back what it has taken: when it is told to leave, and when it is just
/// dropped.
const PUTTING_BACK: Duration = Duration::from_secs(1);
const PUTTING_BACK_IN_DROP: Duration = Duration::from_millis(100);

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
        let (Some(region), Some(kept), tidings) =
            (descriptors.next(), descriptors.next(), descriptors.next())
        else {
            return Err(answered_something_else());
        };
        let region = mapped::region(&File::from(region), true)?;
        let life = region.header().supervision.life.load(Relaxed);
        let taken =
            if region.epoch() == membership.epoch { Seat::take(region, membership.owner) } else { None };
        let mut seat = taken.ok_or_else(|| {
            Error::failure("the slot was taken back before this process had it; attach again")
        })?;
        seat.hang_knell();
        if let Some(tidings) = tidings {
            seat.carry(Tidings::from_descriptor(tidings));
        }
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
        self.look()?;
        Ok(self.seat.begin()?)
    }

    /// Begins a transaction once a queue has an item, with its lock: see [`Seat::begin_with_item`].
    ///
    /// # Errors
    /// [`TxnError::TimedOut`], [`TxnError::NotFound`]; as [`Session::begin`].
    pub fn begin_with_item(
        &mut self,
        queue: Queue,
        deadline: Instant,
    ) -> std::result::Result<Transaction<'_, 'static>, SessionError> {
        self.look()?;
        Ok(self.seat.begin_with_item(queue, deadline)?)
    }

    /// Begins a transaction once a queue has room for an item, likewise.
    ///
    /// # Errors
    /// As [`Session::begin_with_item`].
    pub fn begin_with_room(
        &mut self,
        queue: Queue,
        deadline: Instant,
    ) -> std::result::Result<Transaction<'_, 'static>, SessionError> {
        self.look()?;
        Ok(self.seat.begin_with_room(queue, deadline)?)
    }

    fn look(&mut self) -> std::result::Result<(), SessionError> {
        self.check_mark()?;
        let looked = self.link.look(self.seat.region());
        looked.inspect_err(|_| self.leave(PUTTING_BACK_IN_DROP))?;
        if let Some(tidings) = self.link.take_tidings() {
            self.seat.carry(tidings);
        }
        Ok(())
    }

    fn check_mark(&mut self) -> std::result::Result<(), TxnError> {
        if self.mark.is_mine() { Ok(()) } else { Err(TxnError::Forked) }
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
    /// [`TxnError::Forked`] in a child of the process that attached: it does not have the region. A session that has ended
    /// since the region is damaged, or another one is served.
    pub fn region(&mut self) -> std::result::Result<&'static Region, SessionError> {
        self.look()?;
        Ok(self.seat.region())
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

    /// Puts what was taken from queues and not finished back, gives the slot back, and waits until the instance has heard of
    /// it, if there is one.
    ///
    /// # Errors
    /// An instance that does not take it back, which says why.
    pub fn detach(mut self) -> Result<()> {
        if !self.mark.is_mine() {
            return Err(Error::failure(TxnError::Forked.to_string()));
        }
        self.leave(PUTTING_BACK);
        self.link.say_farewell(FAREWELL)
    }

    /// Items that were taken from queues go back first, so that nothing in the slot is left to repair. In a damaged
    /// region nothing is changed any more.
    fn leave(&mut self, patience: Duration) {
        if !is_damaged(self.seat.region()) {
            let _ = self.seat.put_all_back(patience);
        }
        self.seat.take_knell_off();
        let Owner { generation, .. } = self.seat.owner();
        slots::detach(self.seat.slot(), slots::owner_word(generation, State::Live));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // In a child it is the parent's, and so is the connection.
        if self.mark.is_mine() {
            self.leave(PUTTING_BACK_IN_DROP);
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
    /// [`TxnError::Forked`] in a child of the process that attached: it does not have the region. [`TxnError::Damaged`] once
    /// the region is given up: the instance has another one, or will have.
    pub fn region(&mut self) -> std::result::Result<&'static Region, TxnError> {
        match self.mark.is_mine() {
            false => Err(TxnError::Forked),
            true if is_damaged(self.region) => Err(TxnError::Damaged),
            true => Ok(self.region),
        }
    }
}

/// Whether nobody serves from this region any more.
fn is_damaged(region: &Region) -> bool {
    region.header().supervision.damaged.load(Relaxed) != 0
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
