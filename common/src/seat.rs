//! A process's place in the region: its slot, its logs, the locks that it holds.

use std::marker::PhantomData;
use std::sync::atomic::Ordering::{Relaxed, Release, SeqCst};
use std::sync::atomic::compiler_fence;
use std::time::Duration;

use crate::gate;
use crate::heap::Cursor;
use crate::ids::Owner;
use crate::layout::{Object, SLAB_LISTS, Slot, Tally};
use crate::limits::MAX_HELD;
use crate::lock;
use crate::objects::{self, Kind};
use crate::planted::{self, Bug};
use crate::region::Region;
use crate::slots::State;
use crate::sys::fork_mark::ForkMark;
use crate::txn::{Transaction, TxnError};
use crate::undo::UndoLog;

/// A process's place in the region: the right to begin transactions in one slot.
///
/// A slot has one undo log, so a seat stays in its thread:
///
/// ```compile_fail,E0277
/// fn send<T: Send>() {}
/// send::<common::seat::Seat<'static>>();
/// ```
#[derive(Debug)]
pub struct Seat<'r> {
    pub(crate) region: &'r Region,
    pub(crate) slot: &'r Slot,
    pub(crate) log: UndoLog<'r>,
    pub(crate) mini: UndoLog<'r>,
    pub(crate) owner: Owner,
    pub(crate) cursors: [Cursor; SLAB_LISTS],
    /// Where to look for a free entry of the object table.
    pub(crate) next_object: u32,
    pub(crate) tally: &'r Tally,
    held: Held<'r>,
    mark: ForkMark,
    one_thread: PhantomData<*const ()>,
}

/// The locks that a seat holds, in the order in which it took them. The slot has a copy, for repair; this one is what
/// the process itself goes by.
#[derive(Debug)]
struct Held<'r> {
    count: usize,
    highest: u32,
    locks: [Option<(u32, &'r Object)>; MAX_HELD],
}

impl<'r> Seat<'r> {
    /// Takes the slot promised to `owner`; `None` where it is not (any more).
    pub fn take(region: &'r Region, owner: Owner) -> Option<Self> {
        let slot = region.slot(owner.slot)?;
        let this = Self {
            region,
            slot,
            log: UndoLog::of(region, owner.slot)?,
            mini: UndoLog::mini_of(region, owner.slot)?,
            owner,
            cursors: [Cursor::default(); SLAB_LISTS],
            next_object: 0,
            tally: region.tally(owner.slot)?,
            held: Held { count: 0, highest: 0, locks: [None; MAX_HELD] },
            mark: ForkMark::new(),
            one_thread: PhantomData,
        };
        (slot.holds_nothing() && slot.go_live(owner.generation)).then_some(this)
    }

    /// The slot.
    pub fn slot(&self) -> &'r Slot {
        self.slot
    }

    /// Slot and generation.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// The region.
    pub fn region(&self) -> &'r Region {
        self.region
    }

    /// Begins a transaction, once no checkpoint keeps it from beginning.
    ///
    /// # Errors
    /// [`TxnError::Busy`] where one has for too long; [`TxnError::Disturbed`] where the log is not empty or the slot is not this owner's; [`TxnError::Forked`].
    pub fn begin(&mut self) -> Result<Transaction<'_, 'r>, TxnError> {
        if !self.mark.is_mine() {
            return Err(TxnError::Forked);
        }
        if !self.log.is_empty() || !self.slot.is(self.owner.generation, State::Live) {
            return Err(TxnError::Disturbed);
        }
        if !gate::enter(&self.slot.open, &self.region.header().gate.word, lock::PATIENCE) {
            return Err(TxnError::Busy);
        }
        Ok(Transaction::on(self))
    }

    /// The transaction has ended, and holds nothing any more.
    #[inline]
    pub(crate) fn end_transaction(&mut self) {
        self.drop_locks();
        compiler_fence(SeqCst);
        gate::leave(&self.slot.open);
    }

    /// Detaches cleanly: there is nothing to repair.
    pub fn leave(self) {
        crate::slots::detach(self.slot, crate::slots::owner_word(self.owner.generation, State::Live));
    }

    /// Frees what deleted objects still hold, in as many transactions as it takes.
    ///
    /// # Errors
    /// [`TxnError::Busy`] and the like: the rest stays for the next time.
    pub fn free_deleted(&mut self) -> Result<(), TxnError> {
        let region = self.region;
        for (handle, _, object) in objects::all(region).filter(|(_, kind, _)| *kind == Kind::Dropping) {
            let mut done = false;
            while !done {
                let mut txn = self.begin()?;
                match txn.attempt(|txn| txn.drop_some(handle.index, object)) {
                    // Another has come first.
                    Err(TxnError::NotFound) => break,
                    outcome => done = outcome?,
                }
                txn.commit()?;
            }
        }
        Ok(())
    }

    /// Whether this is the process that took the seat, and not a child of it.
    pub(crate) fn is_mine(&mut self) -> bool {
        self.mark.is_mine()
    }

    /// Whether a lock comes after all that are held: it may be waited for then.
    #[inline]
    pub(crate) fn is_in_order(&self, index: u32) -> bool {
        self.held.count == 0 || index > self.held.highest
    }

    /// Takes the lock of an object. One place is kept for the heap's lock, which is taken under any other.
    #[inline]
    pub(crate) fn take_object_lock(
        &mut self,
        index: u32,
        object: &'r Object,
        patience: Duration,
    ) -> Result<(), TxnError> {
        if self.held.count + 1 >= MAX_HELD {
            return Err(TxnError::TooManyLocks);
        }
        self.take_lock(index, object, patience)?;
        self.held.highest = self.held.highest.max(index);
        Ok(())
    }

    /// Takes a lock that this seat does not hold, and writes down that it does: first, so that a death between leaves
    /// at worst an entry for a lock that is not ours.
    #[inline]
    pub(crate) fn take_lock(
        &mut self,
        index: u32,
        object: &'r Object,
        patience: Duration,
    ) -> Result<(), TxnError> {
        let count = self.held.count;
        let Some(entry) = self.slot.held.get(count) else { return Err(TxnError::TooManyLocks) };
        let announce = || {
            entry.store(index, Relaxed);
            self.slot.held_count.store(count as u32 + 1, Release);
            compiler_fence(SeqCst);
        };
        if !planted::has(Bug::HeldAfterLock) {
            announce();
        }
        if !lock::acquire(&object.lock, lock::tag(self.owner), patience) {
            self.slot.held_count.store(count as u32, Release);
            return Err(TxnError::Busy);
        }
        if planted::has(Bug::HeldAfterLock) {
            announce();
        }
        self.held.locks[count] = Some((index, object));
        self.held.count = count + 1;
        Ok(())
    }

    /// Gives the lock back that was taken last: the object is whole, then free, then no longer this seat's.
    #[inline]
    pub(crate) fn drop_last_lock(&mut self) {
        let Some(last) = self.held.count.checked_sub(1) else { return };
        if let Some((_, object)) = self.held.locks[last].take() {
            lock::end_change(&object.seq);
            lock::release(&object.lock);
        }
        compiler_fence(SeqCst);
        self.slot.held_count.store(last as u32, Release);
        self.held.count = last;
    }

    pub(crate) fn drop_locks(&mut self) {
        while self.held.count > 0 {
            self.drop_last_lock();
        }
        self.held.highest = 0;
    }

    pub(crate) fn holds(&self, index: u32) -> Option<&'r Object> {
        let held = self.held.locks[..self.held.count].iter().flatten();
        held.copied().find(|(other, _)| *other == index).map(|(_, object)| object)
    }
}
