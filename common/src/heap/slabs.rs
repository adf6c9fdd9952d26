//! A slot's slabs: where its next FREE block is, and the mini-transactions by which pages become a slab of the slot and
//! nobody's again.

use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::atomic::{AtomicU16, AtomicU32};

use super::{
    Block, CONTINUED, Cursor, FIRSTS, FREE, HEAP_OBJECT, NEXT_PAGE, PAGES_IN_USE, SIZES, Stand, WHOLE_PAGES,
    capacity, shared_block, whole_pages,
};
use crate::ids::{Offset, SlotIndex};
use crate::layout::{Object, Slab, Slot};
use crate::limits::MAX_BLOCK_PAGES;
use crate::lock;
use crate::objects::Kind;
use crate::planted::{self, Bug};
use crate::region::Region;
use crate::txn::{Seat, TxnError};
use crate::undo;

/// How many slabs are searched for a free block behind the one that is full, and as many elsewhere, before another is taken: a
/// bounded pause.
const SEARCHED: usize = 4;

impl<'r> Seat<'r> {
    /// A FREE block of a class that shares pages, from a slab of this slot.
    ///
    /// The list is used as a ring: what follows the slab that is full is the oldest, which the items of a queue leave first,
    /// whoever takes them; and another slab is put in between. So a queue that is filled and emptied needs no more slabs
    /// than its items do.
    #[inline]
    pub(super) fn free_shared_block(&mut self, class: u32) -> Result<Block<'r>, TxnError> {
        match self.next_block(class) {
            Some(block) => Ok(block),
            None => {
                let block = self.other_shared_block(class);
                self.stands[class as usize] = self.stand(class);
                block
            }
        }
    }

    /// The block at the cursor, if it is FREE, as nearly always.
    #[inline]
    fn next_block(&mut self, class: u32) -> Option<Block<'r>> {
        let (cursor, stand) =
            (self.cursors.get_mut(class as usize)?, self.stands.get(class as usize)?.as_ref()?);
        // At the first block of a slab there is more to be looked at.
        if stand.link != cursor.slab || cursor.block == 0 || !stand.entry.is_of(self.owner.slot, class) {
            return None;
        }
        let number = cursor.block;
        let state = stand.states.get(usize::from(number)).filter(|state| state.load(Acquire) == FREE)?;
        cursor.block = number + 1;
        let size = usize::from(SIZES[class as usize]);
        let within = usize::from(FIRSTS[class as usize]) + usize::from(number) * size;
        let state_within = usize::from(number) * size_of::<AtomicU16>();
        let offset = Offset(stand.page.0 + within as u64);
        // The next one has been another's, as an item of a queue has: it is on its way while this one is filled.
        self.region.prefetch_to_write(Offset(offset.0 + size as u64));
        self.region.prefetch_to_write(Offset(offset.0 + size as u64 + 64));
        Some(Block { offset, size, state_offset: Offset(stand.page.0 + state_within as u64), state })
    }

    /// Remembers the slab that the cursor stands in.
    fn stand(&mut self, class: u32) -> Option<Stand<'r>> {
        let (region, link) = (self.region, self.cursors.get(class as usize)?.slab);
        let entry = self.own_slab(link, class).ok()?;
        let page = region.page_offset(link - 1);
        let states = region.quarters(page, capacity(class)?.into())?;
        Some(Stand { link, entry, page, states })
    }

    #[inline(never)]
    fn other_shared_block(&mut self, class: u32) -> Result<Block<'r>, TxnError> {
        if let Some(block) = self.search(class, SEARCHED)? {
            return Ok(block);
        }
        if let Some(block) = self.search_elsewhere(class)? {
            return Ok(block);
        }
        match self.take_slab(class, 1) {
            Ok(index) => shared_block(self.region, index, class, 0).ok_or(TxnError::Damaged),
            // What another has freed in one of this slot's slabs may be behind any number of full ones.
            Err(TxnError::Full) => self.search(class, usize::MAX)?.ok_or(TxnError::Full),
            Err(error) => Err(error),
        }
    }

    /// Looks for a FREE block from the cursor on, in at most so many slabs and once around the list. If there is none the cursor
    /// stays.
    fn search(&mut self, class: u32, most: usize) -> Result<Option<Block<'r>>, TxnError> {
        let (region, count) = (self.region, capacity(class).ok_or(TxnError::Damaged)?);
        let mut at = self.cursors[class as usize];
        let began = at;
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
        // Nothing was given back, or its neighbour would have had a block.
        self.cursors[class as usize] = Cursor { block: count, ..began };
        Ok(None)
    }

    /// Looks for a FREE block where this process has freed one last, and in slabs that have their turn once around the list:
    /// what others free may be anywhere. The cursor goes where there is one.
    fn search_elsewhere(&mut self, class: u32) -> Result<Option<Block<'r>>, TxnError> {
        let freed = std::mem::take(&mut self.hints.freed[class as usize]);
        let mut link = freed;
        for _ in 0..=SEARCHED {
            if let Ok(slab) = self.own_slab(link, class) {
                if link != freed {
                    self.hints.turn[class as usize] = slab.next.load(Relaxed);
                }
                if let Some((number, block)) = self.free_block_of(link, class) {
                    self.cursors[class as usize] = Cursor { slab: link, before: 0, block: number + 1 };
                    return Ok(Some(block));
                }
            }
            link = self.hints.turn[class as usize];
            if self.own_slab(link, class).is_err() {
                link = self.slot.slabs[class as usize].load(Relaxed);
            }
        }
        Ok(None)
    }

    fn free_block_of(&self, link: u32, class: u32) -> Option<(u16, Block<'r>)> {
        (0..capacity(class)?).find_map(|number| {
            let block = shared_block(self.region, link.checked_sub(1)?, class, number)?;
            (block.state.load(Acquire) == FREE).then_some((number, block))
        })
    }

    /// A block on this page will be free: if the page is this slot's own, it is one to look at.
    #[inline]
    pub(super) fn note_freed(&mut self, index: u32, slab: &Slab) {
        if slab.owner.load(Relaxed) == self.owner.slot.0 + 1
            && let Some(freed) = self.hints.freed.get_mut(slab.class.load(Relaxed) as usize)
        {
            *freed = index + 1;
        }
    }

    /// A FREE block of whole pages: one of this slot's if it fits well, else new pages.
    pub(super) fn free_whole_pages(&mut self, pages: usize) -> Result<Block<'r>, TxnError> {
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
    #[inline]
    pub(super) fn own_slab(&self, link: u32, class: u32) -> Result<&'r Slab, TxnError> {
        let slab = link.checked_sub(1).and_then(|index| self.slab_of(index)).ok_or(TxnError::Damaged)?;
        slab.is_of(self.owner.slot, class).then_some(slab).ok_or(TxnError::Damaged)
    }

    /// A slot keeps one empty slab of a class; of two in a row the second goes back, once the heap is half taken. Before,
    /// nobody misses it, and whoever fills and empties a queue would give slabs back and take them again all the time.
    fn give_back_next_if_empty(&mut self, class: u32, index: u32) -> Result<(), TxnError> {
        let in_use = self.region.object(HEAP_OBJECT).map_or(0, |heap| heap.body[PAGES_IN_USE].load(Relaxed));
        if in_use < u64::from(self.region.geometry().page_count / 2) {
            return Ok(());
        }
        let next = self.own_slab(index + 1, class)?.next.load(Relaxed);
        let empty = next != 0 && self.is_empty_slab(index, class) && self.is_empty_slab(next - 1, class);
        if empty && !somebody_is_freeing(self.region) {
            self.own_slab(next, class)?;
            self.give_back(class, next - 1, index + 1)?;
        }
        Ok(())
    }

    pub(super) fn is_empty_slab(&self, index: u32, class: u32) -> bool {
        let states = |number| shared_block(self.region, index, class, number).map(|block| block.state);
        let mut numbers = 0..capacity(class).unwrap_or(0);
        numbers.all(|number| states(number).is_some_and(|state| state.load(Acquire) == FREE))
    }

    /// Mini-transaction: pages of nobody's become a slab of this slot: in its list behind the cursor, if they are to be shared,
    /// else at the head.
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
                region.mark(region.page_offset(index), words * size_of::<u64>());
                states.iter().for_each(|word| word.store(0, Relaxed));
            }
            let head = &seat.slot.slabs[class as usize];
            seat.note_for_slabs(class, index, pages)?;
            let before = if capacity(class).is_some() { seat.cursors[class as usize].slab } else { 0 };
            let leads = match before {
                0 => head,
                _ => seat.note_link(before, class)?,
            };
            for page in index..index + pages {
                let slab = region.slab(page).ok_or(TxnError::Damaged)?;
                let first = page == index;
                slab.owner.store(seat.owner.slot.0 + 1, Relaxed);
                slab.class.store(if first { class } else { CONTINUED }, Relaxed);
                slab.next.store(if first { leads.load(Relaxed) } else { 0 }, Relaxed);
                slab.state.store(FREE, Relaxed);
                slab.pages.store(if first { pages as u16 } else { 0 }, Relaxed);
            }
            leads.store(index + 1, Relaxed);
            heap.body[PAGES_IN_USE].store(in_use.wrapping_add(pages.into()), Relaxed);
            heap.body[NEXT_PAGE].store(u64::from(index + pages), Relaxed);
            seat.cursors[class as usize] = Cursor { slab: index + 1, before, block: 1 };
            Ok(index)
        })
    }

    /// Mini-transaction: a slab of which every block is FREE becomes nobody's. `before`: the link of the one before it
    /// in the list, 0 = the head.
    pub(super) fn give_back(&mut self, class: u32, index: u32, before: u32) -> Result<(), TxnError> {
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
                seat.note_link(before, class)?.store(next, Relaxed);
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

    /// Writes down where a slab leads to, and gives the word.
    fn note_link(&self, link: u32, class: u32) -> Result<&'r AtomicU32, TxnError> {
        let slab = self.own_slab(link, class)?;
        let offset = self.region.slab_offset(link - 1).0 + std::mem::offset_of!(Slab, next) as u64;
        if !planted::has(Bug::SlabLinkNotLogged) {
            self.mini.note_half(Offset(offset), &slab.next)?;
        }
        Ok(&slab.next)
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
        self.take_lock(HEAP_OBJECT, heap, lock::PATIENCE, Kind::Heap)?;
        let done = work(self, heap);
        match done {
            Ok(_) => self.mini.commit(),
            Err(_) => self.mini.undo(self.region),
        }
        self.drop_last_lock();
        done
    }
}

impl Slab {
    /// Whether it is this slot's and of this class.
    #[inline]
    fn is_of(&self, slot: SlotIndex, class: u32) -> bool {
        self.owner.load(Relaxed) == slot.0 + 1 && self.class.load(Relaxed) == class
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
