//! Taking a region as it is at one moment, while others work in it.
//!
//! Beforehand: marks are taken away, every slot is waited for until it has been seen without a transaction, the pages that
//! were marked are copied; and again, until few are marked. Then the gate is closed, so that nobody begins a transaction,
//! and once none is under way the rest is copied: the pages marked meanwhile, every slot, and what the slots that had a
//! transaction meanwhile have counted. That is the pause, and its length depends on nothing else.
//!
//! The undo logs are not copied: at that moment they are empty. Lock and sequence words are, but mean nothing.

use std::io;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::fence;
use std::time::{Duration, Instant};

use common::gate;
use common::ids::{Offset, Owner, SlotIndex};
use common::layout::{SLOT_SIZE, Slot, Tally};
use common::limits::PAGE_SIZE;
use common::lock;
use common::region::Region;
use common::slots;
use common::sys::process;

use super::format::Moment;

/// The gate is closed for so long at most before every transaction has ended; else it is tried again later.
const LONGEST_WAIT: Duration = Duration::from_millis(20);

/// Between two looks whether transactions have ended.
const LOOK_AGAIN: Duration = Duration::from_micros(50);

/// So long are the transactions waited for that were under way when marks were taken away.
const LONGEST_GRACE: Duration = Duration::from_secs(2);

/// With so few pages marked the gate is closed: copying them takes a millisecond.
const FEW: usize = 1024;

/// So many pages may be marked in the meantime.
const MORE: usize = 64;

/// How often pages are copied beforehand at most: some regions are changed faster than they are copied.
const ROUNDS: usize = 4;

/// After so many pages this process lets others go first.
const STRETCH: usize = 1024;
const REST: Duration = Duration::from_millis(1);

/// How often the gate is closed in vain, and the first pause between, which doubles.
const TRIES: u32 = 10;
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);

/// What takes the pieces of a region. A piece replaces an earlier one of the same place.
pub trait Sheet {
    /// Takes a piece.
    ///
    /// # Errors
    /// What keeping it reports.
    fn put(&mut self, offset: Offset, bytes: &[u8]) -> io::Result<()>;
}

impl<W: io::Write> Sheet for super::format::Writer<W> {
    fn put(&mut self, offset: Offset, bytes: &[u8]) -> io::Result<()> {
        self.put(offset, bytes)
    }
}

/// What was taken.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// The moment.
    pub moment: Moment,
    /// For how long nobody could begin a transaction.
    pub pause: Duration,
    /// Bytes that were copied meanwhile.
    pub copied: usize,
    /// How often the gate was opened again because transactions took too long.
    pub in_vain: u32,
}

/// Why it was not.
#[derive(Debug)]
pub enum Missed {
    /// At no time was there no transaction under way; whose were, when it was given up.
    Busy(Vec<Owner>),
    /// The pieces could not be kept.
    Io(io::Error),
}

impl From<io::Error> for Missed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Takes a region.
#[derive(Debug)]
pub struct Capture<'r> {
    region: &'r Region,
    tag: u64,
    gentle: bool,
}

impl<'r> Capture<'r> {
    /// By this owner, who has a slot in it.
    pub fn new(region: &'r Region, owner: Owner) -> Self {
        Self { region, tag: lock::tag(owner), gentle: true }
    }

    /// Without rests.
    pub fn at_once(self) -> Self {
        Self { gentle: false, ..self }
    }

    /// Takes the region as it is at one moment.
    ///
    /// # Errors
    /// [`Missed`].
    pub fn take(&self, sheet: &mut impl Sheet) -> Result<Taken, Missed> {
        self.copy_everything(sheet)?;
        let (mut backoff, mut busy) = (FIRST_BACKOFF, Vec::new());
        for in_vain in 0..TRIES {
            self.copy_until_few_are_marked(sheet)?;
            // Everything that will be written is touched before: a page fault would be part of the pause.
            let mut rest = Rest::with_room(self.most_of_the_rest());
            match self.with_gate_closed(|| self.copy_rest(&mut rest)) {
                Ok((moment, pause)) => {
                    rest.write(sheet)?;
                    return Ok(Taken { moment, pause, copied: rest.words.len() * WORD, in_vain });
                }
                Err(owners) => busy = owners,
            }
            std::thread::sleep(backoff);
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
        Err(Missed::Busy(busy))
    }

    // ---- Beforehand ------------------------------------------------------------------------------------------------

    fn copy_everything(&self, sheet: &mut impl Sheet) -> Result<(), Missed> {
        self.take_marks();
        for (_, slot) in self.region.slots() {
            gate::take_touched(&slot.open);
        }
        self.await_transactions()?;
        let geometry = self.region.geometry();
        let tables = geometry.objects / PAGE_SIZE..geometry.heap / PAGE_SIZE;
        let first = geometry.heap / PAGE_SIZE;
        let heap = (0..geometry.page_count).map(|page| first + u64::from(page));
        self.copy_pages(tables.chain(heap.filter(|page| self.is_in_use(*page))), sheet)?;
        let (mut words, mut bytes) = (Vec::new(), Vec::new());
        for (index, _) in self.region.slots().filter(|(index, _)| self.was_ever_used(*index)) {
            words.clear();
            self.copy(self.region.tally_offset(index), size_of::<Tally>() as u64, &mut words);
            put(sheet, self.region.tally_offset(index), &words, &mut bytes)?;
        }
        Ok(())
    }

    fn copy_until_few_are_marked(&self, sheet: &mut impl Sheet) -> Result<(), Missed> {
        for _ in 0..ROUNDS {
            if self.marked().count() <= FEW {
                return Ok(());
            }
            let marked = self.take_marks();
            self.await_transactions()?;
            self.copy_pages(marked.into_iter(), sheet)?;
        }
        Ok(())
    }

    fn copy_pages(&self, pages: impl Iterator<Item = u64>, sheet: &mut impl Sheet) -> io::Result<()> {
        let (mut words, mut bytes) = (Vec::new(), Vec::new());
        for (count, page) in pages.enumerate() {
            words.clear();
            self.copy(Offset(page * PAGE_SIZE), PAGE_SIZE, &mut words);
            put(sheet, Offset(page * PAGE_SIZE), &words, &mut bytes)?;
            if self.gentle && count % STRETCH == STRETCH - 1 {
                std::thread::sleep(REST);
            }
        }
        Ok(())
    }

    /// Takes every mark away, and gives the pages that had one.
    fn take_marks(&self) -> Vec<u64> {
        let marks = self.region.marks();
        let marked: Vec<u64> = self.marked().collect();
        marked.iter().for_each(|page| marks[*page as usize].store(0, Relaxed));
        // Before the slots are looked at: who begins a transaction later sees no mark.
        fence(SeqCst);
        marked
    }

    fn marked(&self) -> impl Iterator<Item = u64> + '_ {
        let marks = self.region.marks().iter().enumerate();
        marks.filter(|(_, mark)| mark.load(Relaxed) != 0).map(|(page, _)| page as u64)
    }

    /// Waits until each slot has been seen without a transaction.
    fn await_transactions(&self) -> Result<(), Missed> {
        let deadline = Instant::now() + LONGEST_GRACE;
        let mut open: Vec<_> = self.open().collect();
        while !open.is_empty() {
            if Instant::now() >= deadline {
                return Err(Missed::Busy(owners(&open)));
            }
            std::thread::sleep(LOOK_AGAIN);
            open.retain(|(_, slot)| gate::is_open(&slot.open));
        }
        Ok(())
    }

    fn open(&self) -> impl Iterator<Item = (SlotIndex, &'r Slot)> {
        self.region.slots().filter(|(_, slot)| gate::is_open(&slot.open))
    }

    fn is_in_use(&self, page: u64) -> bool {
        match self.region.page_of(Offset(page * PAGE_SIZE)) {
            Some((index, _)) => self.region.slab(index).is_some_and(|slab| slab.owner.load(Relaxed) != 0),
            None => page * PAGE_SIZE < self.region.geometry().heap,
        }
    }

    // ---- The pause -------------------------------------------------------------------------------------------------

    /// Whose transactions were under way all the time, where there were some.
    fn with_gate_closed(&self, work: impl FnOnce() -> Moment) -> Result<(Moment, Duration), Vec<Owner>> {
        let word = &self.region.header().gate.word;
        // Nobody else writes this one: there is one checkpoint process at a time.
        self.region.header().gate.closures.fetch_add(1, SeqCst);
        if !gate::close(word, self.tag) {
            return Err(Vec::new());
        }
        let began = Instant::now();
        let mut open: Vec<_> = self.open().collect();
        while !open.is_empty() && began.elapsed() < LONGEST_WAIT {
            std::thread::sleep(LOOK_AGAIN);
            open.retain(|(_, slot)| gate::is_open(&slot.open));
        }
        let done = if open.is_empty() { Ok(work()) } else { Err(owners(&open)) };
        gate::reopen(word, self.tag);
        done.map(|moment| (moment, began.elapsed()))
    }

    /// What is copied in the pause, in words, as far as it can be told beforehand.
    fn most_of_the_rest(&self) -> usize {
        let used = self.region.slots().filter(|(index, _)| self.was_ever_used(*index)).count();
        let slots = used * (SLOT_SIZE as usize + size_of::<Tally>());
        (slots + (2 * self.marked().count() + MORE) * PAGE_SIZE as usize) / WORD
    }

    fn copy_rest(&self, rest: &mut Rest) -> Moment {
        for (index, slot) in self.region.slots() {
            if self.was_ever_used(index) {
                rest.add(self, self.region.slot_offset(index), SLOT_SIZE);
            }
            if slot.open.load(SeqCst) != gate::UNTOUCHED {
                rest.add(self, self.region.tally_offset(index), size_of::<Tally>() as u64);
            }
        }
        for page in self.marked().filter(|page| self.is_in_use(*page)) {
            rest.add(self, Offset(page * PAGE_SIZE), PAGE_SIZE);
        }
        Moment { taken_ns: process::now_ns(), open: self.region.header().journal.open_minute() }
    }

    fn was_ever_used(&self, index: SlotIndex) -> bool {
        let words = self.region.words(self.region.slot_offset(index), SLOT_SIZE as usize / 8);
        words.is_some_and(|words| words.iter().any(|word| word.load(Relaxed) != 0))
    }

    /// Appends the words of a piece to `copied`.
    fn copy(&self, offset: Offset, length: u64, copied: &mut Vec<u64>) {
        let words = self.region.words(offset, length as usize / WORD).unwrap_or_default();
        copied.extend(words.iter().map(|word| word.load(Relaxed)));
    }
}

fn owners(open: &[(SlotIndex, &Slot)]) -> Vec<Owner> {
    open.iter().map(|(index, slot)| slots::owner(*index, slot.standing().0)).collect()
}

const WORD: usize = size_of::<u64>();

/// Gives copied words to the sheet.
fn put(sheet: &mut impl Sheet, offset: Offset, words: &[u64], bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.clear();
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    sheet.put(offset, bytes)
}

/// What is copied in the pause, to be kept after it.
struct Rest {
    pieces: Vec<(Offset, usize)>,
    words: Vec<u64>,
}

impl Rest {
    fn with_room(room: usize) -> Self {
        let mut words = vec![0; room];
        // Zeros cost nothing until they are touched.
        words.iter_mut().step_by(PAGE_SIZE as usize / WORD).for_each(|word| *word = 1);
        words.clear();
        Self { pieces: Vec::with_capacity(2 * room * WORD / SLOT_SIZE as usize), words }
    }

    fn add(&mut self, capture: &Capture<'_>, offset: Offset, length: u64) {
        let before = self.words.len();
        capture.copy(offset, length, &mut self.words);
        self.pieces.push((offset, self.words.len() - before));
    }

    fn write(&self, sheet: &mut impl Sheet) -> io::Result<()> {
        let (mut rest, mut bytes) = (self.words.as_slice(), Vec::new());
        for (offset, length) in &self.pieces {
            let (piece, others) = rest.split_at(*length);
            put(sheet, *offset, piece, &mut bytes)?;
            rest = others;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
