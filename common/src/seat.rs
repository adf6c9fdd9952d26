//! A process's place in the region: its slot, its logs, the locks that it holds.

use std::marker::PhantomData;
use std::sync::atomic::Ordering::{Relaxed, Release, SeqCst};
use std::sync::atomic::compiler_fence;
use std::time::Duration;

use crate::gate;
use crate::heap::{Cursor, Hints, SIZES, Stand};
use crate::ids::Owner;
use crate::layout::{Knell, Object, SLAB_LISTS, Slot, Tally};
use crate::limits::MAX_HELD;
use crate::lock;
use crate::objects::{self, Kind, waiting};
use crate::planted::{self, Bug};
use crate::region::Region;
use crate::slots::State;
use crate::sys::fork_mark::ForkMark;
use crate::sys::futex::Waited;
use crate::sys::scheduling;
use crate::tidings::{self, Tidings};
use crate::txn::{Progress, Transaction, TxnError};
use crate::undo::UndoLog;

/// How long the lock of a deleted object is waited for: somebody may be at deleting it, and will free it himself.
const FREEING_PATIENCE: Duration = Duration::from_millis(1);

/// How long a repairer waits before a closed gate: a checkpoint keeps it closed for less.
const REPAIRERS_PATIENCE: Duration = Duration::from_millis(100);

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
    pub(crate) stands: [Option<Stand<'r>>; SIZES.len()],
    pub(crate) hints: Hints,
    /// Where to look for a free entry of the object table.
    pub(crate) next_object: u32,
    pub(crate) tally: &'r Tally,
    /// Of the transaction that is under way, or was the last one.
    pub(crate) progress: Progress<'r>,
    held: Held<'r>,
    /// Where recovery hears of a dead holder of a lock that this seat waits for.
    tidings: Option<Tidings>,
    /// What the kernel was told to mark when this thread ends.
    knell: Option<&'static Knell>,
    mark: ForkMark,
    /// Whether this is a repairer, at work in a dead owner's slot.
    repairing: bool,
    one_thread: PhantomData<*const ()>,
}

/// The locks that a seat holds, in the order in which it took them. The slot has a copy, for repair; this one is what
/// the process itself goes by.
#[derive(Debug)]
struct Held<'r> {
    count: usize,
    highest: u32,
    locks: [Option<Hold<'r>>; MAX_HELD],
}

/// A lock that is held.
#[derive(Clone, Copy, Debug)]
struct Hold<'r> {
    index: u32,
    object: &'r Object,
    /// Whether somebody may sleep until the object changes: it is a queue.
    has_bell: bool,
}

/// What is told to the kernel stays until it is taken back.
impl Seat<'static> {
    /// Has the kernel toll for this thread when it ends. Where it will not, the supervisor learns of the death a little later.
    pub fn hang_knell(&mut self) {
        self.knell = self.slot.knell.hang().then_some(&self.slot.knell);
    }

    /// Nor does the kernel toll any more: the thread goes on without the slot, which is to be another's.
    pub fn take_knell_off(&mut self) {
        if let Some(knell) = self.knell.take() {
            knell.take_off();
        }
    }
}

impl<'r> Seat<'r> {
    /// Takes the slot promised to `owner`; `None` where it is not (any more).
    pub fn take(region: &'r Region, owner: Owner) -> Option<Self> {
        let this = Self::of(region, owner, false)?;
        let slot = this.slot;
        (slot.holds_nothing() && slot.go_live(owner.generation)).then_some(this)
    }

    /// Repair: works in the slot of a dead owner, whose half-done transaction is settled and who holds no lock any
    /// more. Whoever dies at that leaves what the dead one itself could have left.
    pub fn of_dead(region: &'r Region, owner: Owner) -> Option<Self> {
        let this = Self::of(region, owner, true)?;
        (this.log.is_empty() && this.slot.standing().0 == owner.generation).then_some(this)
    }

    fn of(region: &'r Region, owner: Owner, repairing: bool) -> Option<Self> {
        let slot = region.slot(owner.slot)?;
        Some(Self {
            region,
            slot,
            log: UndoLog::of(region, owner.slot)?,
            mini: UndoLog::mini_of(region, owner.slot)?,
            owner,
            cursors: [Cursor::default(); SLAB_LISTS],
            stands: [None; SIZES.len()],
            hints: Hints::default(),
            next_object: 0,
            tally: region.tally(owner.slot)?,
            progress: Progress::BEGUN,
            held: Held { count: 0, highest: 0, locks: [None; MAX_HELD] },
            tidings: None,
            knell: None,
            mark: ForkMark::new(),
            repairing,
            one_thread: PhantomData,
        })
    }

    /// From now on this seat tells recovery of whoever died with a lock that it waits for.
    pub fn carry(&mut self, tidings: Tidings) {
        self.tidings = Some(tidings);
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
    #[inline]
    pub fn begin(&mut self) -> Result<Transaction<'_, 'r>, TxnError> {
        if !self.mark.is_mine() {
            return Err(TxnError::Forked);
        }
        let own = self.repairing || self.slot.is(self.owner.generation, State::Live);
        if !self.log.is_empty() || !own {
            return Err(TxnError::Disturbed);
        }
        // A repairer does not wait for long: who has closed the gate may be dead too, and be repaired next.
        let patience = if self.repairing { REPAIRERS_PATIENCE } else { lock::PATIENCE };
        if !gate::enter(&self.slot.open, &self.region.header().gate.word, patience) {
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
        scheduling::give_precedence_back();
    }

    /// Detaches cleanly: there is nothing to repair. Items that were taken from queues go back first.
    pub fn leave(mut self) {
        let _ = self.put_all_back(lock::PATIENCE);
        crate::slots::detach(self.slot, crate::slots::owner_word(self.owner.generation, State::Live));
    }

    /// Frees what the transaction that has ended has deleted.
    #[cold]
    pub(crate) fn free_dropped(&mut self) {
        // The record is of that transaction. Still in force, it would complete the half of one that frees.
        self.slot.intent.clear();
        // Whatever keeps it from being freed now, it is not found any more, and is freed another time.
        let _ = self.free_deleted();
    }

    /// Frees what deleted objects still hold, in as many transactions as it takes.
    ///
    /// # Errors
    /// [`TxnError::Busy`] and the like: the rest stays for the next time.
    pub fn free_deleted(&mut self) -> Result<(), TxnError> {
        let (region, mut outcome) = (self.region, Ok(()));
        for (handle, _, object) in objects::all(region).filter(|(_, kind, _)| kind.is_dropping()) {
            // What another is deleting, or is damaged, keeps nothing else from being freed.
            outcome = outcome.and(self.free_object(handle.index, object));
        }
        outcome
    }

    fn free_object(&mut self, index: u32, object: &'r Object) -> Result<(), TxnError> {
        let mut done = false;
        while !done {
            let mut txn = self.begin()?;
            txn.seat.progress.patience = FREEING_PATIENCE;
            match txn.attempt(|txn| txn.drop_some(index, object)) {
                // Another has come first.
                Err(TxnError::NotFound) => break,
                outcome => done = outcome?,
            }
            txn.commit()?;
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
        kind: Kind,
    ) -> Result<(), TxnError> {
        if self.held.count + 1 >= MAX_HELD {
            return Err(TxnError::TooManyLocks);
        }
        self.take_lock(index, object, patience, kind)?;
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
        kind: Kind,
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
        let (region, tidings) = (self.region, self.tidings.as_ref());
        // Until the transaction ends: whoever was kept waiting for a lock keeps others waiting once it has it.
        let sleep = |word: &_, seen, limit| {
            scheduling::take_precedence();
            tidings::sleep_on(region, tidings, word, seen, limit);
        };
        if !lock::acquire_sleeping(&object.lock, lock::tag(self.owner), patience, sleep) {
            self.slot.held_count.store(count as u32, Release);
            return Err(TxnError::Busy);
        }
        if planted::has(Bug::HeldAfterLock) {
            announce();
        }
        self.held.locks[count] = Some(Hold { index, object, has_bell: kind == Kind::Queue });
        self.held.count = count + 1;
        Ok(())
    }

    /// Gives the lock back that was taken last: the object is whole, then free, whoever waits for it to change is woken,
    /// then it is no longer this seat's.
    #[inline]
    pub(crate) fn drop_last_lock(&mut self) {
        let Some(last) = self.held.count.checked_sub(1) else { return };
        if let Some(Hold { object, has_bell, .. }) = self.held.locks[last].take() {
            if has_bell {
                give_back_and_ring(object);
            } else {
                give_back(object);
            }
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

    /// The object whose lock is held, if it is, to be used as one of this kind. It may have been taken for what was there
    /// before: if it turns out to be a queue's, giving it back may have to wake somebody.
    #[inline]
    pub(crate) fn holds_as(&mut self, index: u32, kind: Kind) -> Option<&'r Object> {
        let mut held = self.held.locks[..self.held.count].iter_mut().flatten();
        let hold = held.find(|hold| hold.index == index)?;
        hold.has_bell |= kind == Kind::Queue;
        Some(hold.object)
    }

    pub(crate) fn holds(&self, index: u32) -> Option<&'r Object> {
        let held = self.held.locks[..self.held.count].iter().flatten();
        held.copied().find(|hold| hold.index == index).map(|hold| hold.object)
    }

    /// Sleeps until a queue changes. The slot's list names the queue meanwhile, as it does while a lock is waited for:
    /// if this process dies after it was woken, repair wakes the others.
    pub(crate) fn sleep_at(&self, index: u32, sleep: impl FnOnce() -> Waited) -> Waited {
        self.slot.held[0].store(index, Relaxed);
        self.slot.held_count.store(1, Release);
        compiler_fence(SeqCst);
        sleep()
    }

    /// Does not sleep any more.
    pub(crate) fn stay_awake(&self) {
        compiler_fence(SeqCst);
        self.slot.held_count.store(0, Release);
    }
}

#[inline]
fn give_back(object: &Object) {
    lock::end_change(&object.seq);
    lock::release(&object.lock);
}

/// The same for a queue. What is to be rung is found first: once it is free, the object may become another.
#[inline(never)]
fn give_back_and_ring(object: &Object) {
    let bell = waiting::bell(object);
    give_back(object);
    if let Some(bell) = bell {
        bell.ring(object);
    }
}
