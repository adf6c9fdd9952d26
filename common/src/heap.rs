//! The heap: pages, cut into blocks of one size each, for transactions to allocate from.
//!
//! A page (a slab) belongs to one slot, across its generations, and only that slot allocates from it; so no undo ever
//! meets what another has committed. Taking a slab and giving it back are mini-transactions with a log of their own,
//! under the heap's lock, committed at once. A block's state is the only thing that another may change: whoever frees
//! it says so there.
//!
//! There is no list of free blocks. Were there one, A could take X from it, B take Y and commit, and A die: undo would
//! put X back with X's old successor Y, which is in use by then.

use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering::Relaxed;

use crate::ids::{Offset, SlotIndex};
use crate::layout::{Object, SLAB_LISTS, Slab, Slot};
use crate::limits::{MAX_BLOCK_PAGES, PAGE_SIZE};
use crate::planted::{self, Bug};
use crate::region::Region;
use crate::txn::{Transaction, TxnError};

mod slabs;

mod emptying;

pub use emptying::has_slabs;

/// State of a block that nobody uses.
pub const FREE: u16 = 0;

/// State of a block in use.
pub const USED: u16 = 1;

/// State of a block that a transaction of this slot has freed, until it is committed.
pub const fn pending(slot: SlotIndex) -> u16 {
    2 + slot.0 as u16
}

/// Bytes of the blocks of each class that shares a page.
pub const SIZES: [u16; 22] = [
    32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 288, 336, 400, 448, 496, 576, 672, 816, 1008, 1344,
    2032,
];

/// Class of a block of whole pages.
pub const WHOLE_PAGES: u32 = SLAB_LISTS as u32 - 1;

/// Class of the pages of such a block behind its first.
pub const CONTINUED: u32 = SLAB_LISTS as u32;

/// The object table's entry that is the heap: its lock, pages in use, and where to look for the next.
pub const HEAP_OBJECT: u32 = 0;
const PAGES_IN_USE: usize = 0;
const NEXT_PAGE: usize = 1;

/// Blocks are multiples of this, and begin at one.
const GRAIN: usize = 16;

/// For each length in grains the class that it fits into.
const CLASS_BY_GRAINS: [u8; SIZES[SIZES.len() - 1] as usize / GRAIN + 1] = {
    let mut classes = [0; SIZES[SIZES.len() - 1] as usize / GRAIN + 1];
    let (mut grains, mut class) = (0, 0);
    while grains < classes.len() {
        if grains * GRAIN > SIZES[class] as usize {
            class += 1;
        }
        classes[grains] = class as u8;
        grains += 1;
    }
    classes
};

/// Blocks on a page of each class: the states stand before the blocks.
const CAPACITIES: [u16; SIZES.len()] = {
    let mut capacities = [0; SIZES.len()];
    let mut class = 0;
    while class < SIZES.len() {
        let mut count = PAGE_SIZE as usize / (SIZES[class] as usize + size_of::<AtomicU16>());
        while first_block(count as u16) + count * SIZES[class] as usize > PAGE_SIZE as usize {
            count -= 1;
        }
        capacities[class] = count as u16;
        class += 1;
    }
    capacities
};

/// Most blocks that a region's heap can be cut into: whoever meets more goes round in a ring.
pub fn most_blocks(region: &Region) -> u64 {
    u64::from(region.geometry().page_count) * (PAGE_SIZE / u64::from(SIZES[0]))
}

/// Where the blocks begin on a page of each class.
const FIRSTS: [u16; SIZES.len()] = {
    let mut firsts = [0; SIZES.len()];
    let mut class = 0;
    while class < SIZES.len() {
        firsts[class] = first_block(CAPACITIES[class]) as u16;
        class += 1;
    }
    firsts
};

/// Where the blocks of a page begin, behind so many states.
const fn first_block(count: u16) -> usize {
    (count as usize * size_of::<AtomicU16>()).next_multiple_of(GRAIN)
}

/// Blocks on a page of this class; `None` for a class that does not share a page.
#[inline]
pub fn capacity(class: u32) -> Option<u16> {
    CAPACITIES.get(class as usize).copied()
}

/// A block as the slab table has it.
#[derive(Clone, Copy, Debug)]
pub struct Block<'r> {
    /// Where it begins.
    pub offset: Offset,
    /// Bytes that it has.
    pub size: usize,
    /// Where its state stands.
    pub state_offset: Offset,
    /// Its state.
    pub state: &'r AtomicU16,
}

/// The block that begins at `offset`; `None` where none does.
pub fn block_at(region: &Region, offset: Offset) -> Option<Block<'_>> {
    find_block(region, offset).map(|(.., block)| block)
}

/// The same with the page that it begins on.
#[inline]
fn find_block(region: &Region, offset: Offset) -> Option<(u32, &Slab, Block<'_>)> {
    let (index, within) = region.page_of(offset)?;
    let slab = region.slab(index)?;
    if slab.owner.load(Relaxed) == 0 {
        return None;
    }
    let class = slab.class.load(Relaxed);
    if class == WHOLE_PAGES && within == 0 {
        return Some((index, slab, whole_pages(region, index, slab)?));
    }
    let size = u32::from(*SIZES.get(class as usize)?);
    let from_first = (within as u32).checked_sub(FIRSTS[class as usize].into())?;
    let number = from_first / size;
    if number * size != from_first || number >= CAPACITIES[class as usize].into() {
        return None;
    }
    let state_offset = Offset(offset.0 - within + u64::from(number) * size_of::<AtomicU16>() as u64);
    let state = region.quarter(state_offset)?;
    Some((index, slab, Block { offset, size: size as usize, state_offset, state }))
}

/// The block of whole pages that begins with the page at `index`.
pub fn whole_pages<'r>(region: &'r Region, index: u32, slab: &'r Slab) -> Option<Block<'r>> {
    let pages = slab.pages.load(Relaxed);
    let state_offset = Offset(region.slab_offset(index).0 + std::mem::offset_of!(Slab, state) as u64);
    let possible = (1..=MAX_BLOCK_PAGES).contains(&pages.into())
        && u64::from(index) + u64::from(pages) <= u64::from(region.geometry().page_count);
    let size = usize::from(pages) * PAGE_SIZE as usize;
    possible.then(|| Block { offset: region.page_offset(index), size, state_offset, state: &slab.state })
}

/// The block number `number` on a page of this class.
#[inline]
pub fn shared_block(region: &Region, index: u32, class: u32, number: u16) -> Option<Block<'_>> {
    let (size, count) = (usize::from(*SIZES.get(class as usize)?), capacity(class)?);
    if number >= count {
        return None;
    }
    let page = region.page_offset(index).0;
    let state_offset = Offset(page + u64::from(number) * size_of::<AtomicU16>() as u64);
    let offset = Offset(page + (usize::from(FIRSTS[class as usize]) + usize::from(number) * size) as u64);
    Some(Block { offset, size, state_offset, state: region.quarter(state_offset)? })
}

/// Whether an undo record of `length` bytes at `offset` may be of a block's state or contents: it lies in a page of the
/// heap, or is the state in an entry of the slab table.
pub fn may_be_logged(region: &Region, offset: Offset, length: usize) -> bool {
    let geometry = region.geometry();
    let end = offset.0.saturating_add(length as u64);
    let heap_end = geometry.heap + u64::from(geometry.page_count) * PAGE_SIZE;
    if offset.0 >= geometry.heap {
        return end <= heap_end;
    }
    let within = offset.0.wrapping_sub(geometry.slabs);
    within < u64::from(geometry.page_count) * size_of::<Slab>() as u64
        && length == size_of::<AtomicU16>()
        && within % size_of::<Slab>() as u64 == std::mem::offset_of!(Slab, state) as u64
}

/// Whether a record of a small log may name these bytes: entries of the slab table, the slot's own list heads, or the
/// heap's words in the object table.
pub fn may_be_mini_logged(region: &Region, slot: SlotIndex, offset: Offset, length: usize) -> bool {
    let geometry = region.geometry();
    let inside = |from: u64, bytes: u64| {
        offset.0 >= from && offset.0.saturating_add(length as u64) <= from.saturating_add(bytes)
    };
    let heads = region.slot_offset(slot).0 + std::mem::offset_of!(Slot, slabs) as u64;
    let body = region.object_offset(HEAP_OBJECT).0 + std::mem::offset_of!(Object, body) as u64;
    inside(geometry.slabs, u64::from(geometry.page_count) * size_of::<Slab>() as u64)
        || inside(heads, (SLAB_LISTS * 4) as u64)
        || inside(body, 16)
}

/// How much of the heap is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all pages.
    pub bytes: u64,
    /// Bytes of those that belong to a slot.
    pub used: u64,
}

impl Usage {
    /// As the heap's own words have it.
    pub fn of(region: &Region) -> Self {
        let used = region.object(HEAP_OBJECT).map_or(0, |heap| heap.body[PAGES_IN_USE].load(Relaxed));
        Self {
            bytes: u64::from(region.geometry().page_count) * PAGE_SIZE,
            used: used.min(region.geometry().page_count.into()) * PAGE_SIZE,
        }
    }
}

/// Where a process looks for its next free block of one class. Of the process, not of the region: a successor begins at
/// the head of the slot's list.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    /// The slab's index and 1; 0 = at the head of the list.
    slab: u32,
    /// The one before it in the list, likewise.
    before: u32,
    /// The next block to look at.
    block: u16,
}

/// A slab that a cursor stands in, so that its next block is found without looking everything up again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stand<'r> {
    /// The slab's index and 1.
    link: u32,
    entry: &'r Slab,
    /// Where its page begins.
    page: Offset,
    states: &'r [AtomicU16],
}

/// Where else a process looks: slabs by their index and 1, for each class. They may have changed hands meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hints {
    /// Where it has freed a block last; 0 = nowhere.
    freed: [u32; SLAB_LISTS],
    /// Which one of the list has its turn; 0 = the first.
    turn: [u32; SLAB_LISTS],
}

/// The blocks that a transaction has freed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Freed<'r> {
    /// None.
    None,
    /// One, whose state this is.
    One(&'r AtomicU16),
    /// So many that the log is asked which.
    Several,
}

impl<'r> Transaction<'_, 'r> {
    /// Allocates a block of at least `bytes`. Its contents are what its last owner left.
    pub(crate) fn allocate(&mut self, bytes: usize) -> Result<Offset, TxnError> {
        if let Some(taken) = planted_list::take(self, bytes)? {
            return Ok(taken);
        }
        let class = CLASS_BY_GRAINS.get(bytes.div_ceil(GRAIN));
        let block = match class {
            Some(&class) => self.seat.free_shared_block(class.into())?,
            None => self.seat.free_whole_pages(bytes.div_ceil(PAGE_SIZE as usize))?,
        };
        self.seat.log.note_state(block.state_offset, block.state)?;
        block.state.store(USED, Relaxed);
        // What is written into it before it is linked is not logged, so its pages are marked here. A page that is shared
        // has been, with the state, which stands on it.
        if class.is_none() {
            self.seat.region.mark(block.offset, block.size);
        }
        Ok(block.offset)
    }

    /// Frees a block, once the transaction commits. The caller holds the lock of the object that it belongs to.
    pub(crate) fn free(&mut self, offset: Offset) -> Result<(), TxnError> {
        let region = self.seat.region;
        let (page, slab, block) = find_block(region, offset).ok_or(TxnError::Damaged)?;
        if block.state.load(Relaxed) != USED {
            return Err(TxnError::Damaged);
        }
        self.seat.log.note_state(block.state_offset, block.state)?;
        let freed = if planted::has(Bug::FreedAtOnce) { FREE } else { pending(self.seat.owner.slot) };
        block.state.store(freed, Relaxed);
        let freed = &mut self.seat.progress.freed;
        *freed = match *freed {
            Freed::None => Freed::One(block.state),
            Freed::One(_) | Freed::Several => Freed::Several,
        };
        self.seat.note_freed(page, slab);
        planted_list::give(self, &block)
    }
}

/// A deliberate mistake, see [`Bug::SharedFreeList`]: freed blocks on one list for all, its head logged by whoever
/// takes one.
mod planted_list {
    use super::{Block, HEAP_OBJECT, Offset, Relaxed, Transaction, TxnError, USED, block_at};
    use crate::planted::{self, Bug};

    /// The word of the heap's entry that is the head of the list.
    pub(super) const HEAD: usize = 4;

    pub(super) fn take(txn: &mut Transaction<'_, '_>, bytes: usize) -> Result<Option<Offset>, TxnError> {
        if !planted::has(Bug::SharedFreeList) {
            return Ok(None);
        }
        let (offset, head) = head(txn)?;
        let first = Offset(head.load(Relaxed));
        let Some(block) = block_at(txn.seat.region, first).filter(|block| block.size >= bytes) else {
            return Ok(None);
        };
        let next = txn.seat.region.word(first).ok_or(TxnError::Damaged)?.load(Relaxed);
        txn.seat.log.change(offset, head, next)?;
        txn.seat.log.note_state(block.state_offset, block.state)?;
        block.state.store(USED, Relaxed);
        Ok(Some(first))
    }

    pub(super) fn give(txn: &mut Transaction<'_, '_>, block: &Block<'_>) -> Result<(), TxnError> {
        if !planted::has(Bug::SharedFreeList) {
            return Ok(());
        }
        let (offset, head) = head(txn)?;
        let link = txn.seat.region.word(block.offset).ok_or(TxnError::Damaged)?;
        txn.seat.log.change(block.offset, link, head.load(Relaxed))?;
        Ok(txn.seat.log.change(offset, head, block.offset.0)?)
    }

    fn head<'r>(txn: &Transaction<'_, 'r>) -> Result<(Offset, &'r std::sync::atomic::AtomicU64), TxnError> {
        let region = txn.seat.region;
        let heap = region.object(HEAP_OBJECT).ok_or(TxnError::Damaged)?;
        let within = std::mem::offset_of!(crate::layout::Object, body) + HEAD * 8;
        Ok((Offset(region.object_offset(HEAP_OBJECT).0 + within as u64), &heap.body[HEAD]))
    }
}
