//! The undo log of a slot: old contents, written down before each change.
//!
//! Physical undo as in Rio Vista (Lowell and Chen, "Free transactions with Rio Vista", SOSP '97). The log word holds
//! state and length in one store: a record exists from the moment the word says so. A death between any two
//! instructions leaves either no record and no change, or a record with or without its change; undoing what was not
//! changed stores what is there already.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU64, compiler_fence};

use crate::ids::{Offset, SlotIndex};
use crate::region::Region;

const ACTIVE: u64 = 1 << 32;

/// Words per record: where, and what was there.
const RECORD: usize = 2;

/// Why a log is not one that a transaction of this format leaves.
#[derive(Debug, PartialEq, Eq)]
pub struct BadLog(pub String);

/// The undo log of one slot.
#[derive(Clone, Copy, Debug)]
pub struct UndoLog<'r> {
    word: &'r AtomicU64,
    area: &'r [AtomicU64],
}

impl<'r> UndoLog<'r> {
    /// The log of a slot that the region has.
    pub fn of(region: &'r Region, slot: SlotIndex) -> Option<Self> {
        Some(Self { word: &region.slot(slot)?.undo, area: region.undo_area(slot)? })
    }

    /// Whether no transaction is under way.
    pub fn is_empty(&self) -> bool {
        self.word.load(Acquire) == 0
    }

    /// Writes down what `target` at `offset` holds, then stores `value` there. False where the log is full: nothing
    /// was changed.
    #[must_use]
    pub fn change(&self, offset: Offset, target: &AtomicU64, value: u64) -> bool {
        let used = (self.word.load(Relaxed) & 0xffff_ffff) as usize;
        let Some([place, old]) = self.area.get(used..used + RECORD) else {
            return false;
        };
        place.store(offset.0, Relaxed);
        old.store(target.load(Relaxed), Relaxed);
        self.word.store(ACTIVE | (used + RECORD) as u64, Release);
        // Release alone would let the change move before the publication of its record.
        compiler_fence(SeqCst);
        target.store(value, Relaxed);
        true
    }

    /// The commit point: with the log EMPTY the changes stand.
    pub fn commit(&self) {
        compiler_fence(SeqCst);
        self.word.store(0, Release);
        compiler_fence(SeqCst);
    }

    /// Checks the whole log before anything is done with it: its state, its length, and with `allowed` every target.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn validate(&self, allowed: impl Fn(Offset) -> bool) -> Result<(), BadLog> {
        let word = self.word.load(Acquire);
        let (state, used) = (word & !0xffff_ffff, (word & 0xffff_ffff) as usize);
        if word != 0 && state != ACTIVE {
            return Err(BadLog(format!("the undo log's word is {word:#x}, which is no state")));
        }
        if used > self.area.len() || !used.is_multiple_of(RECORD) {
            return Err(BadLog(format!("the undo log's length of {used} words is impossible")));
        }
        let targets = self.area[..used].chunks_exact(RECORD).map(|record| Offset(record[0].load(Relaxed)));
        for target in targets {
            if !allowed(target) {
                return Err(BadLog(format!("the undo log names offset {target}, which is not its owner's")));
            }
        }
        Ok(())
    }

    /// Puts the old contents back, last change first, and ends with the log EMPTY. The log has been validated or is
    /// the caller's own. Can be repeated from the start after a death at any instruction.
    pub fn undo(&self, region: &Region) {
        let used = ((self.word.load(Acquire) & 0xffff_ffff) as usize).min(self.area.len());
        for record in self.area[..used].chunks_exact(RECORD).rev() {
            if let Some(target) = region.word(Offset(record[0].load(Relaxed))) {
                target.store(record[1].load(Relaxed), Relaxed);
            }
        }
        self.commit();
    }
}
