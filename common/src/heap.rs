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
use std::sync::atomic::Ordering::{Acquire, Relaxed};

use crate::ids::{Offset, SlotIndex};
use crate::layout::{Object, SLAB_LISTS, Slab, Slot};
use crate::limits::{MAX_BLOCK_PAGES, PAGE_SIZE};
use crate::lock;
use crate::planted::{self, Bug};
use crate::region::Region;
use crate::txn::{Seat, Transaction, TxnError};
use crate::undo;

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

/// How many slabs are searched for a free block before another is taken: a bounded pause.
const SEARCHED: usize = 4;

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

/// Where the blocks of a page begin, behind so many states.
const fn first_block(count: u16) -> usize {
    (count as usize * size_of::<AtomicU16>()).next_multiple_of(GRAIN)
}

/// Blocks on a page of this class; `None` for a class that does not share a page.
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
    let (index, within) = region.page_of(offset)?;
    let slab = region.slab(index)?;
    if slab.owner.load(Relaxed) == 0 {
        return None;
    }
    let class = slab.class.load(Relaxed);
    if class == WHOLE_PAGES && within == 0 {
        return whole_pages(region, index, slab);
    }
    let size = usize::from(*SIZES.get(class as usize)?);
    let from_first = (within as usize).checked_sub(first_block(capacity(class)?))?;
    if !from_first.is_multiple_of(size) {
        return None;
    }
    shared_block(region, index, class, u16::try_from(from_first / size).ok()?)
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
pub fn shared_block(region: &Region, index: u32, class: u32, number: u16) -> Option<Block<'_>> {
    let (size, count) = (usize::from(*SIZES.get(class as usize)?), capacity(class)?);
    if number >= count {
        return None;
    }
    let page = region.page_offset(index).0;
    let state_offset = Offset(page + u64::from(number) * size_of::<AtomicU16>() as u64);
    let offset = Offset(page + (first_block(count) + usize::from(number) * size) as u64);
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

impl<'r> Transaction<'_, 'r> {
    /// Allocates a block of at least `bytes`. Its contents are what its last owner left.
    pub(crate) fn allocate(&mut self, bytes: usize) -> Result<Offset, TxnError> {
        if let Some(taken) = planted_list::take(self, bytes)? {
            return Ok(taken);
        }
        let block = match CLASS_BY_GRAINS.get(bytes.div_ceil(GRAIN)) {
            Some(&class) => self.seat.free_shared_block(class.into())?,
            None => self.seat.free_whole_pages(bytes.div_ceil(PAGE_SIZE as usize))?,
        };
        self.seat.log.note_state(block.state_offset, block.state)?;
        block.state.store(USED, Relaxed);
        Ok(block.offset)
    }

    /// Frees a block, once the transaction commits. The caller holds the lock of the object that it belongs to.
    pub(crate) fn free(&mut self, offset: Offset) -> Result<(), TxnError> {
        let region = self.seat.region;
        let block = block_at(region, offset).ok_or(TxnError::Damaged)?;
        if block.state.load(Relaxed) != USED {
            return Err(TxnError::Damaged);
        }
        self.seat.log.note_state(block.state_offset, block.state)?;
        let freed = if planted::has(Bug::FreedAtOnce) { FREE } else { pending(self.seat.owner.slot) };
        block.state.store(freed, Relaxed);
        self.freed = true;
        planted_list::give(self, &block)
    }
}

impl<'r> Seat<'r> {
    /// A FREE block of a class that shares pages, from a slab of this slot.
    fn free_shared_block(&mut self, class: u32) -> Result<Block<'r>, TxnError> {
        if let Some(block) = self.search(class, SEARCHED)? {
            return Ok(block);
        }
        match self.take_slab(class, 1) {
            Ok(index) => shared_block(self.region, index, class, 0).ok_or(TxnError::Damaged),
            // What another has freed in one of this slot's slabs may be behind any number of full ones.
            Err(TxnError::Full) => self.search(class, usize::MAX)?.ok_or(TxnError::Full),
            Err(error) => Err(error),
        }
    }

    /// Looks for a FREE block from the cursor on, in at most so many slabs and once around the list.
    fn search(&mut self, class: u32, most: usize) -> Result<Option<Block<'r>>, TxnError> {
        let (region, count) = (self.region, capacity(class).ok_or(TxnError::Damaged)?);
        let mut at = self.cursors[class as usize];
        let mut wrapped = false;
        // A list has no more slabs than there are pages: one that goes on was scribbled into a ring.
        for _ in 0..most.min(region.geometry().page_count as usize + 1) {
            if at.slab == 0 {
                if std::mem::replace(&mut wrapped, true) {
                    break;
                }
                at = Cursor { slab: self.slot.slabs[class as usize].load(Relaxed), before: 0, block: 0 };
                if at.slab == 0 {
                    break;
                }
            }
            let slab = self.own_slab(at.slab, class)?;
            if at.block == 0 {
                // What goes back must not be where the cursor stands.
                self.cursors[class as usize] = at;
                self.give_back_next_if_empty(class, at.slab - 1)?;
            }
            let free = (at.block..count).find_map(|number| {
                let block = shared_block(region, at.slab - 1, class, number)?;
                (block.state.load(Acquire) == FREE).then_some((number, block))
            });
            if let Some((number, block)) = free {
                self.cursors[class as usize] = Cursor { block: number + 1, ..at };
                return Ok(Some(block));
            }
            at = Cursor { slab: slab.next.load(Relaxed), before: at.slab, block: 0 };
        }
        self.cursors[class as usize] = at;
        Ok(None)
    }

    /// A FREE block of whole pages: one of this slot's if it fits well, else new pages.
    fn free_whole_pages(&mut self, pages: usize) -> Result<Block<'r>, TxnError> {
        let pages =
            u32::try_from(pages).ok().filter(|pages| *pages <= MAX_BLOCK_PAGES).ok_or(TxnError::TooLarge)?;
        if let Some(block) = self.search_whole_pages(pages, SEARCHED)? {
            return Ok(block);
        }
        let taken = match self.take_slab(WHOLE_PAGES, pages) {
            Err(TxnError::Full) => match self.search_whole_pages(pages, usize::MAX)? {
                Some(block) => return Ok(block),
                // The search has given back what did not fit.
                None => self.take_slab(WHOLE_PAGES, pages)?,
            },
            taken => taken?,
        };
        self.slab_of(taken).and_then(|slab| whole_pages(self.region, taken, slab)).ok_or(TxnError::Damaged)
    }

    /// Looks through this slot's blocks of whole pages, in at most so many and once around. Those that are free and do
    /// not fit are given back.
    fn search_whole_pages(&mut self, pages: u32, most: usize) -> Result<Option<Block<'r>>, TxnError> {
        let mut at = self.cursors[WHOLE_PAGES as usize];
        let mut wrapped = false;
        for _ in 0..most.min(self.region.geometry().page_count as usize + 1) {
            if at.slab == 0 {
                let head = self.slot.slabs[WHOLE_PAGES as usize].load(Relaxed);
                if std::mem::replace(&mut wrapped, true) || head == 0 {
                    break;
                }
                at = Cursor { slab: head, before: 0, block: 0 };
            }
            let slab = self.own_slab(at.slab, WHOLE_PAGES)?;
            let (has, next) = (u32::from(slab.pages.load(Relaxed)), slab.next.load(Relaxed));
            if slab.state.load(Acquire) != FREE {
                at = Cursor { slab: next, before: at.slab, block: 0 };
                continue;
            }
            if (pages..=pages.saturating_mul(2)).contains(&has) {
                self.cursors[WHOLE_PAGES as usize] = Cursor { slab: next, before: at.slab, block: 0 };
                return Ok(whole_pages(self.region, at.slab - 1, slab));
            }
            self.give_back(WHOLE_PAGES, at.slab - 1, at.before)?;
            at.slab = next;
            self.cursors[WHOLE_PAGES as usize] = at;
        }
        self.cursors[WHOLE_PAGES as usize] = at;
        Ok(None)
    }

    fn slab_of(&self, index: u32) -> Option<&'r Slab> {
        self.region.slab(index)
    }

    /// The slab whose index and 1 is `link`, if it is this slot's and of this class, as a link of its list should be.
    fn own_slab(&self, link: u32, class: u32) -> Result<&'r Slab, TxnError> {
        let slab = link.checked_sub(1).and_then(|index| self.slab_of(index)).ok_or(TxnError::Damaged)?;
        let own = slab.owner.load(Relaxed) == self.owner.slot.0 + 1 && slab.class.load(Relaxed) == class;
        own.then_some(slab).ok_or(TxnError::Damaged)
    }

    /// A slot keeps one empty slab of a class; of two in a row the second goes back.
    fn give_back_next_if_empty(&mut self, class: u32, index: u32) -> Result<(), TxnError> {
        let next = self.own_slab(index + 1, class)?.next.load(Relaxed);
        let empty = next != 0 && self.is_empty_slab(index, class) && self.is_empty_slab(next - 1, class);
        if empty && !somebody_is_freeing(self.region) {
            self.own_slab(next, class)?;
            self.give_back(class, next - 1, index + 1)?;
        }
        Ok(())
    }

    fn is_empty_slab(&self, index: u32, class: u32) -> bool {
        let states = |number| shared_block(self.region, index, class, number).map(|block| block.state);
        let mut numbers = 0..capacity(class).unwrap_or(0);
        numbers.all(|number| states(number).is_some_and(|state| state.load(Acquire) == FREE))
    }

    /// Mini-transaction: pages of nobody's become a slab of this slot, at the head of its list.
    fn take_slab(&mut self, class: u32, pages: u32) -> Result<u32, TxnError> {
        self.with_heap(|seat, heap| {
            let region = seat.region;
            let in_use = heap.body[PAGES_IN_USE].load(Relaxed);
            let index =
                find_pages(region, heap.body[NEXT_PAGE].load(Relaxed), pages).ok_or(TxnError::Full)?;
            if let Some(count) = capacity(class) {
                // Nobody's yet, so not logged: the states of its blocks.
                let words = usize::from(count).div_ceil(4);
                let states = region.heap_words(region.page_offset(index), words).ok_or(TxnError::Damaged)?;
                states.iter().for_each(|word| word.store(0, Relaxed));
            }
            let head = &seat.slot.slabs[class as usize];
            seat.note_for_slabs(class, index, pages)?;
            for page in index..index + pages {
                let slab = region.slab(page).ok_or(TxnError::Damaged)?;
                let first = page == index;
                slab.owner.store(seat.owner.slot.0 + 1, Relaxed);
                slab.class.store(if first { class } else { CONTINUED }, Relaxed);
                slab.next.store(if first { head.load(Relaxed) } else { 0 }, Relaxed);
                slab.state.store(FREE, Relaxed);
                slab.pages.store(if first { pages as u16 } else { 0 }, Relaxed);
            }
            head.store(index + 1, Relaxed);
            heap.body[PAGES_IN_USE].store(in_use.wrapping_add(pages.into()), Relaxed);
            heap.body[NEXT_PAGE].store(u64::from(index + pages), Relaxed);
            seat.cursors[class as usize] = Cursor { slab: index + 1, before: 0, block: 1 };
            Ok(index)
        })
    }

    /// Mini-transaction: a slab of which every block is FREE becomes nobody's. `before`: the link of the one before it
    /// in the list, 0 = the head.
    fn give_back(&mut self, class: u32, index: u32, before: u32) -> Result<(), TxnError> {
        self.with_heap(|seat, heap| {
            let region = seat.region;
            let slab = seat.own_slab(index + 1, class)?;
            let pages = if capacity(class).is_some() { 1 } else { u32::from(slab.pages.load(Relaxed)) };
            let own = |page| {
                let slab = region.slab(page).filter(|slab| slab.owner.load(Relaxed) == seat.owner.slot.0 + 1);
                slab.is_some_and(|slab| page == index || slab.class.load(Relaxed) == CONTINUED)
            };
            if !(1..=MAX_BLOCK_PAGES).contains(&pages) || !(index..index + pages).all(own) {
                return Err(TxnError::Damaged);
            }
            let next = slab.next.load(Relaxed);
            seat.note_for_slabs(class, index, pages)?;
            if before == 0 {
                seat.slot.slabs[class as usize].store(next, Relaxed);
            } else {
                let former = seat.own_slab(before, class)?;
                let offset = region.slab_offset(before - 1).0 + std::mem::offset_of!(Slab, next) as u64;
                seat.mini.note_half(Offset(offset), &former.next)?;
                former.next.store(next, Relaxed);
            }
            for page in index..index + pages {
                let slab = region.slab(page).ok_or(TxnError::Damaged)?;
                for field in [&slab.owner, &slab.class, &slab.next] {
                    field.store(0, Relaxed);
                }
                slab.pages.store(0, Relaxed);
            }
            let in_use = heap.body[PAGES_IN_USE].load(Relaxed);
            heap.body[PAGES_IN_USE].store(in_use.saturating_sub(pages.into()), Relaxed);
            Ok(())
        })
    }

    /// Writes down what a slab's change of hands changes: its entries, the head of the slot's list, the heap's words.
    fn note_for_slabs(&self, class: u32, index: u32, pages: u32) -> Result<(), TxnError> {
        let region = self.region;
        let entries = region.slab_offset(index);
        let words = pages as usize * size_of::<Slab>() / size_of::<u64>();
        self.mini.note_words(entries, region.words(entries, words).ok_or(TxnError::Damaged)?)?;
        let head = std::mem::offset_of!(Slot, slabs) + class as usize * 4;
        let head = Offset(region.slot_offset(self.owner.slot).0 + head as u64);
        self.mini.note_half(head, &self.slot.slabs[class as usize])?;
        let body = region.object_offset(HEAP_OBJECT).0 + std::mem::offset_of!(Object, body) as u64;
        Ok(self.mini.note_words(Offset(body), region.words(Offset(body), 2).ok_or(TxnError::Damaged)?)?)
    }

    /// Does `work` under the heap's lock as a mini-transaction: committed at once, or undone if it fails.
    fn with_heap<T>(
        &mut self,
        work: impl FnOnce(&mut Self, &'r Object) -> Result<T, TxnError>,
    ) -> Result<T, TxnError> {
        let heap = self.region.object(HEAP_OBJECT).ok_or(TxnError::Damaged)?;
        self.take_lock(HEAP_OBJECT, heap, lock::PATIENCE)?;
        let done = work(self, heap);
        match done {
            Ok(_) => self.mini.commit(),
            Err(_) => self.mini.undo(self.region),
        }
        self.drop_last_lock();
        done
    }
}

/// Whether a log is FREEING: it may name states that are FREE already, and its owner, or repair, will look at them once
/// more. Where they stood there must not be another's data by then, which may look like a state.
fn somebody_is_freeing(region: &Region) -> bool {
    region.slots().any(|(_, slot)| undo::is_freeing(&slot.undo))
}

/// The first of so many pages in a row that are nobody's, from `from` on and once around.
fn find_pages(region: &Region, from: u64, wanted: u32) -> Option<u32> {
    let count = region.geometry().page_count;
    let from = u32::try_from(from).ok().filter(|from| *from < count).unwrap_or(0);
    let mut free = 0;
    // Once around, and beyond the starting point as far as a row that begins before it may reach.
    for page in (from..count).chain(0..from.saturating_add(wanted).min(count)) {
        if page == 0 {
            free = 0;
        }
        free = if region.slab(page)?.owner.load(Relaxed) == 0 { free + 1 } else { 0 };
        if free == wanted {
            return Some(page + 1 - wanted);
        }
    }
    None
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
