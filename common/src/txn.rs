//! Transactions: changes to what an owner has, wholly there or wholly not.

use std::marker::PhantomData;
use std::sync::atomic::Ordering::Relaxed;

use crate::ids::{Offset, Owner, SlotIndex};
use crate::layout::Slot;
use crate::region::Region;
use crate::slots::{Counter, State};
use crate::undo::UndoLog;

/// A process's place in the region: the right to begin transactions in one slot.
#[derive(Debug)]
pub struct Seat<'r> {
    region: &'r Region,
    slot: &'r Slot,
    log: UndoLog<'r>,
    owner: Owner,
    /// A slot has one undo log, so it belongs to one thread.
    one_thread: PhantomData<*const ()>,
}

/// Why a transaction could not go on. Everything it changed has been put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnError {
    /// It changes more than an undo log holds.
    TooLarge,
    /// The slot is not in the state that its owner left it in: somebody has written where he must not.
    Disturbed,
}

impl std::fmt::Display for TxnError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the transaction changes more than its log can hold",
            Self::Disturbed => "the slot was changed by somebody else",
        })
    }
}

impl std::error::Error for TxnError {}

impl<'r> Seat<'r> {
    /// Takes the slot promised to `owner`; `None` where it is not (any more).
    pub fn take(region: &'r Region, owner: Owner) -> Option<Self> {
        let slot = region.slot(owner.slot)?;
        let log = UndoLog::of(region, owner.slot)?;
        if !slot.holds_nothing() || !slot.go_live(owner.generation) {
            return None;
        }
        Some(Self { region, slot, log, owner, one_thread: PhantomData })
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

    /// Begins a transaction.
    ///
    /// # Errors
    /// [`TxnError::Disturbed`] where the log is not empty or the slot is not this owner's.
    pub fn begin(&mut self) -> Result<Transaction<'_, 'r>, TxnError> {
        if !self.log.is_empty() || !self.slot.is(self.owner.generation, State::Live) {
            return Err(TxnError::Disturbed);
        }
        Ok(Transaction { seat: self, open: true })
    }

    /// Detaches cleanly: there is nothing to repair.
    pub fn leave(self) {
        crate::slots::detach(self.slot, crate::slots::owner_word(self.owner.generation, State::Live));
    }
}

/// A transaction under way. Dropped without [`Transaction::commit`] it is rolled back.
#[derive(Debug)]
pub struct Transaction<'s, 'r> {
    seat: &'s mut Seat<'r>,
    open: bool,
}

impl<'r> Transaction<'_, 'r> {
    /// Adds to one of the owner's counters.
    ///
    /// # Errors
    /// [`TxnError::TooLarge`].
    pub fn add(&mut self, counter: Counter, amount: u64) -> Result<(), TxnError> {
        let word = self.seat.slot.counters.word(counter);
        let offset = counter_offset(self.seat.region, self.seat.owner.slot, counter);
        let value = word.load(Relaxed).wrapping_add(amount);
        if self.seat.log.change(offset, word, value) { Ok(()) } else { Err(TxnError::TooLarge) }
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

    /// Makes the changes stand and shows the counters.
    pub fn commit(mut self) {
        self.open = false;
        self.seat.log.commit();
        self.seat.slot.publish();
    }
}

impl Drop for Transaction<'_, '_> {
    fn drop(&mut self) {
        if self.open {
            self.seat.log.undo(self.seat.region);
        }
    }
}

fn counter_offset(region: &Region, slot: SlotIndex, counter: Counter) -> Offset {
    let within = std::mem::offset_of!(Slot, counters) + counter as usize * size_of::<u64>();
    Offset(region.slot_offset(slot).0 + within as u64)
}

/// Whether an undo log of `slot` may name this offset: today its own counters, nothing else.
pub fn is_own_counter(region: &Region, slot: SlotIndex, target: Offset) -> bool {
    let first = counter_offset(region, slot, Counter::Connections).0;
    (first..first + size_of::<crate::layout::Counters>() as u64).contains(&target.0)
        && target.0.is_multiple_of(size_of::<u64>() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Generation;
    use crate::slots;
    use crate::undo::BadLog;

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
        txn.commit();
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
        let allowed = |target| is_own_counter(&region, SlotIndex(3), target);
        assert_eq!(log.validate(allowed), Ok(()));
        let foreign = counter_offset(&region, SlotIndex(4), Counter::Bytes);
        assert!(log.change(foreign, region.word(foreign).unwrap(), 1));
        assert!(matches!(log.validate(allowed), Err(BadLog(_))));
        region.slot(SlotIndex(3)).unwrap().undo.store(7 << 32, Relaxed);
        assert!(log.validate(allowed).is_err());
    }
}
