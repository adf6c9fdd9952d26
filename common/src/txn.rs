//! Transactions: changes to what an owner has and to what it shares, wholly there or wholly not.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

use crate::heap;
use crate::ids::{Offset, Owner, SlotIndex};
use crate::layout::{Counters, InFlight, Object, Slot};
use crate::limits::MAX_IN_FLIGHT;
use crate::lock;
use crate::objects::{self, Handle, Kind, ReadError};
use crate::planted::{self, Bug};
use crate::region::Region;
pub use crate::seat::Seat;
use crate::slots::Counter;
use crate::tally;
use crate::undo::{LogFull, Record};

/// Why a transaction could not go on. Everything that it changed has been put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnError {
    /// It changes more than an undo log holds, or asks for a block larger than the heap has.
    TooLarge,
    /// The heap has no room.
    Full,
    /// The object table has no room.
    TooManyObjects,
    /// It would hold more locks than a slot can.
    TooManyLocks,
    /// Another held a lock for longer than this one waits.
    Busy,
    /// There is no such object (any more).
    NotFound,
    /// There is an object of that name already, or one of another kind.
    Exists,
    /// The folder is not empty.
    NotEmpty,
    /// A name that is empty, too long, or has a `/` or a control character.
    BadName,
    /// A folder would be deeper in the tree than folders may be.
    TooDeep,
    /// A folder cannot be moved into itself.
    IntoItself,
    /// A key, a value, an item or a blob beyond its limit.
    TooLong,
    /// The blob does not reach that far.
    OutOfRange,
    /// Its owner has as many items in flight as it may.
    TooManyInFlight,
    /// What was waited for did not come in time.
    TimedOut,
    /// The region holds what no transaction leaves.
    Damaged,
    /// The slot is not in the state that its owner left it in: somebody has written where he must not.
    Disturbed,
    /// A child of the owner's process goes on with what is its parent's.
    Forked,
    /// It has failed before, and was rolled back then.
    RolledBack,
}

impl std::fmt::Display for TxnError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the transaction changes more than its log can hold",
            Self::Full => "the region's heap is full",
            Self::TooManyObjects => "the region's object table is full",
            Self::TooManyLocks => "the transaction holds as many locks as it may",
            Self::Busy => "an object was locked by another for too long",
            Self::NotFound => "there is no such object",
            Self::Exists => "there is an object of that name already",
            Self::NotEmpty => "the folder is not empty",
            Self::BadName => "a name has 1 to 64 bytes without '/' and control characters",
            Self::TooDeep => "the folder would be deeper in the tree than 8 levels",
            Self::IntoItself => "a folder cannot be moved into itself",
            Self::TooLong => "the key, the value, the item or the blob is longer than such a thing may be",
            Self::OutOfRange => "the blob does not reach that far",
            Self::TooManyInFlight => "as many items were taken from queues, and not finished, as may be",
            Self::TimedOut => "what was waited for did not come in time",
            Self::Damaged => "the region holds what no transaction leaves",
            Self::Disturbed => "the slot was changed by somebody else",
            Self::Forked => "the slot belongs to the process that this one was forked from",
            Self::RolledBack => "the transaction was rolled back before",
        })
    }
}

impl std::error::Error for TxnError {}

impl From<LogFull> for TxnError {
    fn from(_: LogFull) -> Self {
        Self::TooLarge
    }
}

impl From<objects::Broken> for TxnError {
    fn from(_: objects::Broken) -> Self {
        Self::Damaged
    }
}

impl From<ReadError> for TxnError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotFound => Self::NotFound,
            ReadError::Busy => Self::Busy,
            ReadError::Damaged => Self::Damaged,
        }
    }
}

/// A transaction under way. Dropped without [`Transaction::commit`] it is rolled back. Any error of an operation rolls
/// it back at once: then every further operation, and the commit, gives [`TxnError::RolledBack`].
#[derive(Debug)]
pub struct Transaction<'s, 'r> {
    pub(crate) seat: &'s mut Seat<'r>,
}

/// How far the transaction of a seat has come. It stands in the seat, so that a transaction is no more than a reference.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress<'r> {
    open: bool,
    /// Which blocks are to become free with the commit.
    pub(crate) freed: heap::Freed<'r>,
    /// Whether objects were deleted.
    pub(crate) dropped: bool,
    /// Whether counters were changed.
    counted: bool,
    /// The rows of the users that were counted for.
    pub(crate) rows: tally::Rows,
    /// How long it waits for a lock.
    pub(crate) patience: Duration,
}

impl Progress<'_> {
    /// Of one that has just begun.
    pub(crate) const BEGUN: Self = Self {
        open: true,
        freed: heap::Freed::None,
        dropped: false,
        counted: false,
        rows: tally::Rows::NONE,
        patience: lock::PATIENCE,
    };
}

impl<'s, 'r> Transaction<'s, 'r> {
    #[inline]
    pub(crate) fn on(seat: &'s mut Seat<'r>) -> Self {
        seat.progress = Progress::BEGUN;
        Self { seat }
    }
}

impl<'r> Transaction<'_, 'r> {
    /// Adds to one of the owner's counters.
    ///
    /// # Errors
    /// [`TxnError::TooLarge`]; the transaction is rolled back then.
    pub fn add(&mut self, counter: Counter, amount: u64) -> Result<(), TxnError> {
        let (region, slot) = (self.seat.region, self.seat.slot);
        let word = slot.counters.word(counter);
        let offset = counter_offset(region, self.seat.owner.slot, counter);
        let value = word.load(Relaxed).wrapping_add(amount);
        if planted::has(Bug::ShownBeforeCommit) {
            slot.published.word(counter).store(value, Relaxed);
        }
        self.seat.progress.counted = true;
        self.attempt(|txn| Ok(txn.seat.log.change(offset, word, value)?))
    }

    /// Adds a message of so many bytes to what the owner has counted for the user of a row.
    ///
    /// # Errors
    /// [`TxnError::TooLarge`]; the transaction is rolled back then.
    pub fn count_for(&mut self, row: tally::Row, bytes: u64) -> Result<(), TxnError> {
        self.add_sent(row, tally::Sent { messages: 1, bytes })
    }

    /// The slot that the transaction runs in.
    pub fn slot(&self) -> &'r Slot {
        self.seat.slot
    }

    /// Whose transaction it is.
    pub fn owner(&self) -> Owner {
        self.seat.owner
    }

    /// The region that it changes.
    pub fn region(&self) -> &'r Region {
        self.seat.region
    }

    /// Makes the changes stand, shows the counters, and gives the locks back.
    ///
    /// # Errors
    /// [`TxnError::RolledBack`] where an operation has failed before.
    #[inline]
    pub fn commit(self) -> Result<(), TxnError> {
        self.check_open()?;
        self.seat.progress.open = false;
        if planted::has(Bug::ReleasedBeforeEmpty) {
            self.seat.drop_locks();
        }
        match self.seat.progress.freed {
            heap::Freed::None => self.seat.log.commit(),
            heap::Freed::One(state) => self.seat.log.commit_freeing_one(state),
            heap::Freed::Several => self.seat.log.commit_freeing(self.seat.region, self.seat.owner.slot),
        }
        if self.seat.progress.counted {
            self.seat.slot.publish();
        }
        self.seat.progress.rows.each(|row| self.seat.tally.publish(row));
        self.seat.end_transaction();
        if self.seat.progress.dropped {
            self.seat.free_dropped();
        }
        Ok(())
    }

    /// Does one operation; if it fails, the whole transaction is rolled back.
    #[inline]
    pub(crate) fn attempt<T>(
        &mut self,
        operation: impl FnOnce(&mut Self) -> Result<T, TxnError>,
    ) -> Result<T, TxnError> {
        self.check_open()?;
        let outcome = operation(self);
        if outcome.is_err() {
            self.roll_back();
        }
        outcome
    }

    #[inline]
    fn check_open(&self) -> Result<(), TxnError> {
        if self.seat.progress.open { Ok(()) } else { Err(TxnError::RolledBack) }
    }

    #[cold]
    fn roll_back(&mut self) {
        self.seat.progress.open = false;
        self.seat.log.undo(self.seat.region);
        self.seat.end_transaction();
    }

    /// Takes the lock of an object, unless it is held already, and looks whether the object is still the one.
    ///
    /// Locks are waited for in the order of their indices. One that is taken against this order is only tried, since
    /// its holder may be waiting for one of ours.
    #[inline]
    pub(crate) fn lock(&mut self, handle: Handle, kind: Kind) -> Result<&'r Object, TxnError> {
        let object = match self.seat.holds_as(handle.index, kind) {
            Some(object) => object,
            None => self.take_lock_of(handle.index, kind)?,
        };
        let same = object.identity.load(Acquire) == handle.identity(kind);
        if same || planted::has(Bug::GenerationUnchecked) { Ok(object) } else { Err(TxnError::NotFound) }
    }

    #[inline]
    fn take_lock_of(&mut self, index: u32, kind: Kind) -> Result<&'r Object, TxnError> {
        let object = self.seat.region.object(index).ok_or(TxnError::NotFound)?;
        let patience =
            if self.seat.is_in_order(index) { self.seat.progress.patience } else { Duration::ZERO };
        self.seat.take_object_lock(index, object, patience, kind)?;
        Ok(object)
    }

    /// Takes the lock of an entry of the object table if nobody has it.
    pub(crate) fn try_lock(&mut self, index: u32, object: &'r Object) -> Result<bool, TxnError> {
        if self.seat.holds(index).is_some() {
            return Ok(false);
        }
        match self.seat.take_object_lock(index, object, Duration::ZERO, Kind::Free) {
            Err(TxnError::Busy) => Ok(false),
            outcome => outcome.map(|()| true),
        }
    }

    /// Begins to change an object whose lock is held.
    #[inline]
    pub(crate) fn touch(&mut self, index: u32, object: &'r Object) -> Result<(), TxnError> {
        if planted::has(Bug::SequenceRestored) {
            let within = std::mem::offset_of!(Object, seq) as u64;
            let offset = Offset(self.seat.region.object_offset(index).0 + within);
            self.seat.log.note_words(offset, std::slice::from_ref(&object.seq))?;
        }
        lock::begin_change(&object.seq);
        Ok(())
    }

    /// Words of a block that nobody but this transaction knows yet, to be written without being logged.
    #[inline]
    pub(crate) fn fresh(&mut self, offset: Offset, count: usize) -> Result<&'r [AtomicU64], TxnError> {
        self.seat.region.heap_words(offset, count).ok_or(TxnError::Damaged)
    }

    /// Begins to change the first words of an object's body: writes down what they hold.
    #[inline]
    pub(crate) fn note_body(&mut self, index: u32, object: &'r Object, count: usize) -> Result<(), TxnError> {
        self.touch(index, object)?;
        let within = std::mem::offset_of!(Object, body) as u64;
        let offset = Offset(self.seat.region.object_offset(index).0 + within);
        Ok(self.seat.log.note_words(offset, &object.body[..count])?)
    }

    /// Changes a word of a block, under the lock of the object that it belongs to.
    #[inline]
    pub(crate) fn change_word(&mut self, offset: Offset, value: u64) -> Result<(), TxnError> {
        let word = &self.seat.region.heap_words(offset, 1).ok_or(TxnError::Damaged)?[0];
        Ok(self.seat.log.change(offset, word, value)?)
    }

    /// Changes a word of an object's body.
    #[inline]
    pub(crate) fn set_body(
        &mut self,
        index: u32,
        object: &'r Object,
        which: usize,
        value: u64,
    ) -> Result<(), TxnError> {
        let within = std::mem::offset_of!(Object, body) + which * size_of::<u64>();
        self.set_object_word(index, object, within, &object.body[which], value)
    }

    /// Changes what an entry of the object table is.
    pub(crate) fn set_identity(
        &mut self,
        index: u32,
        object: &'r Object,
        identity: u64,
    ) -> Result<(), TxnError> {
        self.set_object_word(
            index,
            object,
            std::mem::offset_of!(Object, identity),
            &object.identity,
            identity,
        )
    }

    #[inline]
    fn set_object_word(
        &mut self,
        index: u32,
        object: &'r Object,
        within: usize,
        word: &'r AtomicU64,
        value: u64,
    ) -> Result<(), TxnError> {
        self.touch(index, object)?;
        let offset = Offset(self.seat.region.object_offset(index).0 + within as u64);
        Ok(self.seat.log.change(offset, word, value)?)
    }
}

impl Drop for Transaction<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        // In a child of the owner's process there is nothing to put back: it is the parent's.
        if self.seat.progress.open && self.seat.is_mine() {
            self.roll_back();
        }
    }
}

fn counter_offset(region: &Region, slot: SlotIndex, counter: Counter) -> Offset {
    let within = std::mem::offset_of!(Slot, counters) + counter as usize * size_of::<u64>();
    Offset(region.slot_offset(slot).0 + within as u64)
}

/// Whether these are words that say which items of queues the owner has taken.
fn is_own_item(region: &Region, owner: Owner, offset: Offset, end: u64) -> bool {
    let first = region.slot_offset(owner.slot).0 + std::mem::offset_of!(Slot, in_flight) as u64;
    offset.0 >= first && end <= first + size_of::<[InFlight; MAX_IN_FLIGHT]>() as u64
}

/// Whether the undo log of `owner` may hold this record: it names the owner's own counters or cells, blocks of the heap
/// and their states, or identity and body of an object whose lock the owner has.
pub fn may_be_logged(region: &Region, owner: Owner, record: &Record<'_>) -> bool {
    let Record { offset, length, .. } = *record;
    let end = offset.0.saturating_add(length as u64);
    let first = counter_offset(region, owner.slot, Counter::Connections).0;
    let own_counter = offset.0 >= first && end <= first + size_of::<Counters>() as u64;
    let holds = |index| {
        let word = region.object(index).map_or(0, |object| object.lock.load(Acquire));
        lock::names(word, lock::tag(owner))
    };
    own_counter
        || is_own_item(region, owner, offset, end)
        || tally::is_own_cell(region, owner.slot, offset, length)
        || heap::may_be_logged(region, offset, length)
        || objects::may_be_logged(region, offset.0, length, holds)
        || planted::has(Bug::SharedFreeList) && objects::may_be_logged(region, offset.0, length, |_| true)
        || planted::has(Bug::SequenceRestored)
}

/// Whether the small log of `owner` may hold this record.
pub fn may_be_mini_logged(region: &Region, owner: Owner, record: &Record<'_>) -> bool {
    heap::may_be_mini_logged(region, owner.slot, record.offset, record.length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Generation;
    use crate::slots;
    use crate::undo::{BadLog, UndoLog};

    fn region() -> Region {
        Region::create(&tempfile::tempfile().unwrap(), 1 << 20).unwrap()
    }

    fn seat(region: &Region) -> Seat<'_> {
        let owner = slots::owner(SlotIndex(3), Generation(9));
        region.slot(owner.slot).unwrap().reserve(owner.generation, 1);
        Seat::take(region, owner).unwrap()
    }

    #[test]
    fn committed_changes_stand_and_are_shown() {
        let region = region();
        let mut seat = seat(&region);
        let mut txn = seat.begin().unwrap();
        txn.add(Counter::Messages, 2).unwrap();
        txn.add(Counter::Bytes, 10).unwrap();
        assert_eq!(region.totals().messages, 0, "not shown before the commit");
        txn.commit().unwrap();
        assert_eq!((region.totals().messages, region.totals().bytes), (2, 10));
    }

    #[test]
    fn a_dropped_transaction_leaves_nothing() {
        let region = region();
        let mut seat = seat(&region);
        let mut txn = seat.begin().unwrap();
        txn.add(Counter::Messages, 1).unwrap();
        txn.add(Counter::Messages, 1).unwrap();
        drop(txn);
        assert_eq!(seat.slot().counters.word(Counter::Messages).load(Relaxed), 0);
        assert!(seat.slot().holds_nothing());
    }

    #[test]
    fn a_transaction_beyond_its_log_is_refused_and_rolled_back() {
        let region = region();
        let mut seat = seat(&region);
        let mut txn = seat.begin().unwrap();
        let refused = (0..100_000).find_map(|_| txn.add(Counter::Messages, 1).err());
        assert_eq!(refused, Some(TxnError::TooLarge));
        drop(txn);
        assert_eq!(seat.slot().counters.word(Counter::Messages).load(Relaxed), 0);
    }

    #[test]
    fn a_slot_that_was_taken_back_is_not_taken() {
        let region = region();
        let owner = slots::owner(SlotIndex(0), Generation(1));
        assert!(Seat::take(&region, owner).is_none(), "never promised");
        region.slot(owner.slot).unwrap().reserve(Generation(2), 1);
        assert!(Seat::take(&region, owner).is_none(), "promised to another generation");
        assert!(Seat::take(&region, slots::owner(SlotIndex(999), Generation(1))).is_none());
    }

    #[test]
    fn a_log_that_names_what_is_not_its_owners_is_bad() {
        let region = region();
        let mut seat = seat(&region);
        let txn = seat.begin().unwrap();
        std::mem::forget(txn);
        let log = UndoLog::of(&region, SlotIndex(3)).unwrap();
        let owner = slots::owner(SlotIndex(3), Generation(9));
        let allowed = |record: &Record<'_>| may_be_logged(&region, owner, record);
        assert_eq!(log.validate(allowed), Ok(()));
        let foreign = counter_offset(&region, SlotIndex(4), Counter::Bytes);
        assert!(log.change(foreign, region.word(foreign).unwrap(), 1).is_ok());
        assert!(matches!(log.validate(allowed), Err(BadLog(_))));
        region.slot(SlotIndex(3)).unwrap().undo.store(7 << 32, Relaxed);
        assert!(log.validate(allowed).is_err());
    }
}
