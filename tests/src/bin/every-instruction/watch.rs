//! Sees after each instruction what of a region has changed.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use common::ids::{Owner, SlotIndex};
use common::layout::{HEADER_SIZE, Header, Tally};
use common::limits::{PAGE_SIZE, UNDO_LOG_SIZE};

use crate::arena::{Arena, WORDS};
use crate::difference::{Delta, Difference};

/// So many pages that nobody has yet are watched with those that somebody has: a slab is prepared before it is taken.
const AHEAD: u64 = 3;

/// A region and what was last seen of it.
pub struct Watch<'a> {
    arena: &'a Arena,
    owners: Vec<Owner>,
    ranges: Vec<Range<usize>>,
    seen: Vec<u64>,
    difference: Difference<'a>,
}

impl<'a> Watch<'a> {
    /// Looks at what these owners and everybody's tables hold. The region is as `base` with `delta` laid over it.
    pub fn new(arena: &'a Arena, owners: &[Owner], base: &'a [u64], delta: &Delta) -> Self {
        let (seen, difference) = (arena.copy(), Difference::new(base, delta));
        let mut watch = Self { arena, owners: owners.to_vec(), ranges: Vec::new(), seen, difference };
        watch.ranges = watch.ranges_now();
        watch
    }

    /// What differs from the base now.
    pub fn difference(&mut self) -> &mut Difference<'a> {
        &mut self.difference
    }

    /// Looks at what operations change; whether something has.
    pub fn look(&mut self) -> bool {
        let ranges = std::mem::take(&mut self.ranges);
        let mut changed = false;
        for range in &ranges {
            changed |= self.look_at(range.clone());
        }
        self.ranges = if changed { self.ranges_now() } else { ranges };
        changed
    }

    /// Looks at everything. An error where something has changed that [`Watch::look`] has missed.
    pub fn look_everywhere(&mut self) -> Result<(), String> {
        self.look();
        let before: Vec<u64> = self.seen.clone();
        if self.look_at(0..WORDS) {
            let place = (0..WORDS).find(|&index| before[index] != self.seen[index]).unwrap_or_default();
            return Err(format!("byte {} was changed, which nobody expected", place * 8));
        }
        Ok(())
    }

    fn look_at(&mut self, range: Range<usize>) -> bool {
        let words = &self.arena.words()[range.clone()];
        if !differs(words, &self.seen[range.clone()]) {
            return false;
        }
        for (index, word) in range.zip(words) {
            let value = word.load(Relaxed);
            if value != std::mem::replace(&mut self.seen[index], value) {
                self.difference.change(index as u32, value);
            }
        }
        true
    }

    fn ranges_now(&self) -> Vec<Range<usize>> {
        let region = &self.arena.region;
        let geometry = region.geometry();
        let mut ranges = Vec::new();
        let mut add = |from: u64, bytes: u64| ranges.push(from as usize / 8..(from + bytes) as usize / 8);
        add(0, size_of::<Header>() as u64);
        // A checkpoint takes note in every slot.
        add(HEADER_SIZE, geometry.logs - HEADER_SIZE);
        for Owner { slot: SlotIndex(slot), .. } in &self.owners {
            add(geometry.logs + u64::from(*slot) * UNDO_LOG_SIZE, UNDO_LOG_SIZE);
            add(region.tally_offset(SlotIndex(*slot)).0, size_of::<Tally>() as u64);
        }
        add(geometry.marks, geometry.heap - geometry.marks);
        let mut ahead = 0;
        for page in 0..geometry.page_count {
            let owned = region.slab(page).is_some_and(|slab| slab.owner.load(Relaxed) != 0);
            ahead += u64::from(!owned);
            if owned || ahead <= AHEAD {
                add(region.page_offset(page).0, PAGE_SIZE);
            }
        }
        merge(ranges)
    }
}

/// Neighbours become one: the fewer, the faster.
fn merge(ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    let mut merged: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => merged.push(range),
        }
    }
    merged
}

/// Whether words differ from what was seen of them.
pub fn differs(words: &[std::sync::atomic::AtomicU64], seen: &[u64]) -> bool {
    let (theirs, ours) = (words.as_ptr().cast(), seen.as_ptr().cast());
    // SAFETY: both are as long as `words`. Every process that has the region mapped writable is stopped or is this one.
    unsafe { nix::libc::memcmp(theirs, ours, size_of_val(words)) != 0 }
}
