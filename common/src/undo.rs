//! The undo logs of a slot: old contents, written down before each change.
//!
//! Physical undo as in Rio Vista (Lowell and Chen, "Free transactions with Rio Vista", SOSP '97). The log word holds
//! state and length in one store: a record exists from the moment the word says so. A death between any two
//! instructions leaves either no record and no change, or a record with or without its change; undoing what was not
//! changed stores what is there already.
//!
//! A slot has two logs of this form: the one of its transaction, and a small one for mini-transactions, by which it
//! takes slabs and gives them back.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, compiler_fence};

use crate::heap;
use crate::ids::{Offset, SlotIndex};
use crate::planted::{self, Bug};
use crate::region::Region;

/// The log word: state above, words in use below.
const ACTIVE: u64 = 1 << 32;
const FREEING: u64 = 2 << 32;
const USED_MASK: u64 = 0xffff_ffff;

/// A record's last word: the length of what it keeps in bytes above, where that was below.
const LENGTH_SHIFT: u32 = 48;
const OFFSET_MASK: u64 = (1 << LENGTH_SHIFT) - 1;

/// Bytes of a block's state: a record of this length is of one, and no other is.
const STATE: usize = size_of::<AtomicU16>();
const HALF: usize = size_of::<AtomicU32>();
const WORD: usize = size_of::<AtomicU64>();

/// Why a log is not one that a transaction of this format leaves.
#[derive(Debug, PartialEq, Eq)]
pub struct BadLog(pub String);

/// The log has no room for another record. Nothing was changed.
#[derive(Debug, PartialEq, Eq)]
pub struct LogFull;

/// The states of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogState {
    /// No transaction is under way.
    Empty,
    /// A transaction may have changed what the log names.
    Active,
    /// The transaction is committed, and blocks that it freed may still have to become free.
    Freeing,
}

/// One log of one slot.
#[derive(Clone, Copy, Debug)]
pub struct UndoLog<'r> {
    region: &'r Region,
    word: &'r AtomicU64,
    area: &'r [AtomicU64],
}

/// What stood where, before a change.
#[derive(Clone, Copy, Debug)]
pub struct Record<'r> {
    /// Where.
    pub offset: Offset,
    /// Bytes of it.
    pub length: usize,
    /// What was there; a length below a word is kept in the low part of one.
    pub old: &'r [AtomicU64],
}

impl<'r> UndoLog<'r> {
    /// The transaction log of a slot that the region has.
    pub fn of(region: &'r Region, slot: SlotIndex) -> Option<Self> {
        Some(Self { region, word: &region.slot(slot)?.undo, area: region.undo_area(slot)? })
    }

    /// The small log of a slot that the region has.
    pub fn mini_of(region: &'r Region, slot: SlotIndex) -> Option<Self> {
        Some(Self { region, word: &region.slot(slot)?.mini, area: region.mini_area(slot)? })
    }

    /// Whether no transaction is under way.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.word.load(Acquire) == 0
    }

    /// The log's state; `None` where its word names none.
    pub fn state(&self) -> Option<LogState> {
        let word = self.word.load(Acquire);
        match word & !USED_MASK {
            0 if word == 0 => Some(LogState::Empty),
            ACTIVE => Some(LogState::Active),
            FREEING => Some(LogState::Freeing),
            _ => None,
        }
    }

    /// How many words of records the log still takes.
    pub fn room(&self) -> usize {
        self.area.len().saturating_sub(self.used())
    }

    fn used(&self) -> usize {
        (self.word.load(Relaxed) & USED_MASK) as usize
    }

    /// Writes down what `target` at `offset` holds, then stores `value` there.
    ///
    /// # Errors
    /// [`LogFull`].
    #[inline]
    pub fn change(&self, offset: Offset, target: &AtomicU64, value: u64) -> Result<(), LogFull> {
        let old = target.load(Relaxed);
        if planted::has(Bug::LogAfterChange) {
            target.store(value, Relaxed);
        }
        self.append(offset, WORD, 1, |kept| kept[0].store(old, Relaxed))?;
        target.store(value, Relaxed);
        Ok(())
    }

    /// Writes down what the words at `offset` hold; the caller changes them then.
    ///
    /// # Errors
    /// [`LogFull`].
    #[inline]
    pub fn note_words(&self, offset: Offset, words: &[AtomicU64]) -> Result<(), LogFull> {
        self.append(offset, size_of_val(words), words.len(), |kept| {
            kept.iter().zip(words).for_each(|(kept, word)| kept.store(word.load(Relaxed), Relaxed));
        })
    }

    /// The same for half a word.
    ///
    /// # Errors
    /// [`LogFull`].
    pub fn note_half(&self, offset: Offset, half: &AtomicU32) -> Result<(), LogFull> {
        self.append(offset, HALF, 1, |kept| kept[0].store(half.load(Relaxed).into(), Relaxed))
    }

    /// The same for the state of a block.
    ///
    /// # Errors
    /// [`LogFull`].
    #[inline]
    pub fn note_state(&self, offset: Offset, state: &AtomicU16) -> Result<(), LogFull> {
        self.append(offset, STATE, 1, |kept| kept[0].store(state.load(Relaxed).into(), Relaxed))
    }

    #[inline]
    fn append(
        &self,
        offset: Offset,
        bytes: usize,
        count: usize,
        keep: impl FnOnce(&[AtomicU64]),
    ) -> Result<(), LogFull> {
        let used = self.used();
        let Some((header, kept)) = self.area.get(used..used + count + 1).and_then(<[_]>::split_last) else {
            return Err(LogFull);
        };
        keep(kept);
        header.store((bytes as u64) << LENGTH_SHIFT | offset.0, Relaxed);
        // Before the record counts: with it another may come to change these bytes, to put them back.
        self.region.mark(offset, bytes);
        self.word.store(ACTIVE | (used + count + 1) as u64, Release);
        // Release alone would let the change move before the publication of its record.
        compiler_fence(SeqCst);
        Ok(())
    }

    /// The commit of a transaction that freed nothing: with the log EMPTY the changes stand.
    #[inline]
    pub fn commit(&self) {
        compiler_fence(SeqCst);
        self.word.store(0, Release);
        compiler_fence(SeqCst);
    }

    /// The commit of a transaction that freed blocks: it stands from FREEING on.
    pub fn commit_freeing(&self, region: &Region, slot: SlotIndex) {
        self.begin_freeing();
        if planted::has(Bug::FreedForgotten) {
            return self.commit();
        }
        self.finish_freeing(region, slot);
    }

    /// The same for its owner who knows that it freed this block and no other.
    #[inline]
    pub(crate) fn commit_freeing_one(&self, state: &AtomicU16) {
        self.begin_freeing();
        if !planted::has(Bug::FreedForgotten) {
            state.store(heap::FREE, Release);
        }
        self.commit();
    }

    #[inline]
    fn begin_freeing(&self) {
        compiler_fence(SeqCst);
        self.word.store(FREEING | self.used() as u64, Release);
        compiler_fence(SeqCst);
    }

    /// Makes the blocks free that the log's transaction freed, and ends with the log EMPTY. A block that is not
    /// PENDING of this slot any more has become free already, and may be another's.
    pub fn finish_freeing(&self, region: &Region, slot: SlotIndex) {
        for state in self.freed(region, slot) {
            // Whoever finds it FREE finds the log FREEING, until it is EMPTY.
            state.store(heap::FREE, Release);
        }
        self.commit();
    }

    /// Repair: commits whatever the log's transaction did, as its owner would have.
    pub fn complete(&self, region: &Region, slot: SlotIndex) {
        if self.freed(region, slot).next().is_some() {
            self.commit_freeing(region, slot);
        } else {
            self.commit();
        }
    }

    fn freed<'a>(
        &self,
        region: &'a Region,
        slot: SlotIndex,
    ) -> impl Iterator<Item = &'a AtomicU16> + use<'a, 'r> {
        let pending = heap::pending(slot);
        let states = self.records().filter(|record| record.length == STATE);
        states
            .filter_map(|record| region.quarter(record.offset))
            .filter(move |state| state.load(Relaxed) == pending)
    }

    /// What the log has written down, last record first; ends where a record cannot be one.
    pub fn records(&self) -> impl Iterator<Item = Record<'r>> + use<'r> {
        let (area, mut used) = (self.area, self.used().min(self.area.len()));
        std::iter::from_fn(move || {
            let record = record_before(area, used)?;
            used -= record.old.len() + 1;
            Some(record)
        })
    }

    /// Checks the whole log before anything is done with it: its state, its length, and with `allowed` every target.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn validate(&self, allowed: impl Fn(&Record<'_>) -> bool) -> Result<(), BadLog> {
        let word = self.word.load(Acquire);
        if self.state().is_none() {
            return Err(BadLog(format!("the undo log's word is {word:#x}, which is no state")));
        }
        let mut used = (word & USED_MASK) as usize;
        if used > self.area.len() {
            return Err(BadLog(format!("the undo log's length of {used} words is impossible")));
        }
        while used > 0 {
            let Some(record) = record_before(self.area, used) else {
                return Err(BadLog(format!("the undo log's length of {used} words ends no record")));
            };
            if !allowed(&record) {
                let (offset, length) = (record.offset, record.length);
                let text = format!(
                    "the undo log names {length} bytes at offset {offset}, which are not its owner's"
                );
                return Err(BadLog(text));
            }
            used -= record.old.len() + 1;
        }
        Ok(())
    }

    /// Puts the old contents back, last change first, and ends with the log EMPTY. The log has been validated or is
    /// the caller's own. Can be repeated from the start after a death at any instruction.
    pub fn undo(&self, region: &Region) {
        for Record { offset, length, old } in self.records() {
            match length {
                STATE => {
                    if let Some(state) = region.quarter(offset) {
                        state.store(old[0].load(Relaxed) as u16, Relaxed);
                    }
                }
                HALF => {
                    if let Some(half) = region.half(offset) {
                        half.store(old[0].load(Relaxed) as u32, Relaxed);
                    }
                }
                _ => {
                    for (word, old) in region.words(offset, old.len()).into_iter().flatten().zip(old) {
                        word.store(old.load(Relaxed), Relaxed);
                    }
                }
            }
        }
        self.commit();
    }
}

/// Whether a log's word says FREEING.
pub(crate) fn is_freeing(word: &AtomicU64) -> bool {
    word.load(Acquire) & !USED_MASK == FREEING
}

/// The record that ends before `used`; `None` where there is none, or what is there cannot be one.
fn record_before(area: &[AtomicU64], used: usize) -> Option<Record<'_>> {
    let (header, before) = area.get(..used)?.split_last()?;
    let header = header.load(Relaxed);
    let length = (header >> LENGTH_SHIFT) as usize;
    if !(matches!(length, STATE | HALF) || length > 0 && length.is_multiple_of(WORD)) {
        return None;
    }
    let offset = Offset(header & OFFSET_MASK);
    if !offset.0.is_multiple_of(length.min(WORD) as u64) {
        return None;
    }
    let old = before.get(before.len().checked_sub(length.div_ceil(WORD))?..)?;
    Some(Record { offset, length, old })
}
