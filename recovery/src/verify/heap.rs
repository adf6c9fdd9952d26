//! The heap: whose every page is, and what every block is there for.

use std::collections::HashSet;
use std::mem::offset_of;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::atomic::fence;
use std::time::Duration;

use common::heap::{self, Block, CONTINUED, FREE, HEAP_OBJECT, USED, WHOLE_PAGES};
use common::ids::{Offset, SlotIndex};
use common::layout::{Object, SLAB_LISTS, Slab, Slot};
use common::limits::{MAX_BLOCK_PAGES, PAGE_SIZE};
use common::lock::WAITERS;
use common::objects::survey::Before;
use common::region::Region;
use common::undo::UndoLog;

use super::{MOST_BLOCKS, Place, Wrong, Wrongs};
use crate::picture::slot_of;

/// How often the slab table is read until it stands still for that long, and the pause between.
const TRIES: u32 = 50;
const NAP: Duration = Duration::from_micros(50);

/// Blocks are marked where they begin, which is at a multiple of this.
const GRAIN: u64 = 16;

/// Some of the heap's blocks.
pub(super) struct Marks {
    heap: u64,
    words: Vec<u64>,
}

impl Marks {
    pub fn of(region: &Region) -> Self {
        let geometry = region.geometry();
        let grains = u64::from(geometry.page_count) * (PAGE_SIZE / GRAIN);
        Self { heap: geometry.heap, words: vec![0; grains.div_ceil(64) as usize] }
    }

    fn place(&self, offset: Offset) -> Option<(usize, u64)> {
        let grain = offset.0.checked_sub(self.heap)? / GRAIN;
        Some(((grain / 64) as usize, 1 << (grain % 64)))
    }

    /// Marks a block; false where it was marked before.
    pub fn set(&mut self, offset: Offset) -> bool {
        let Some((index, bit)) = self.place(offset) else { return true };
        let Some(word) = self.words.get_mut(index) else { return true };
        let was = *word & bit != 0;
        *word |= bit;
        !was
    }

    fn has(&self, offset: Offset) -> bool {
        self.place(offset).and_then(|(index, bit)| Some(self.words.get(index)? & bit != 0)).unwrap_or(false)
    }
}

/// The blocks that are in use and in no log.
pub(super) fn taken(region: &Region) -> Marks {
    let mut marks = Marks::of(region);
    each_taken(region, |block, _| {
        marks.set(block.offset);
    });
    marks
}

/// The blocks that were taken before the objects were walked, are now, and are nothing that anybody could ever free.
pub(super) fn lost(region: &Region, before: &Marks, reached: &Marks) -> Wrongs {
    let mut wrongs = Wrongs::new();
    each_taken(region, |block, state| {
        let is_lost = before.has(block.offset) && !reached.has(block.offset);
        if is_lost && wrongs.len() < MOST_BLOCKS {
            let (kind, what) = match state {
                USED => ("lost", "in use, and nothing refers to it".to_owned()),
                _ => match state.checked_sub(heap::pending(SlotIndex(0))).map(u32::from) {
                    Some(slot) if slot < region.geometry().slot_count => {
                        ("pending", format!("being freed by slot {slot}, and not in its log"))
                    }
                    _ => ("state", format!("in state {state}, which there is not")),
                },
            };
            let text = format!("{} bytes are {what}", block.size);
            wrongs.push(Wrong { place: Place::Block(block.offset), kind, text });
        }
    });
    wrongs
}

fn each_taken(region: &Region, mut visit: impl FnMut(&Block<'_>, u16)) {
    let logged = logged_states(region);
    let mut see = |block: Option<Block<'_>>| {
        if let Some(block) = block {
            let state = block.state.load(SeqCst);
            if state != FREE && !logged.contains(&block.state_offset.0) {
                visit(&block, state);
            }
        }
    };
    for index in 0..region.geometry().page_count {
        let Some(slab) = region.slab(index).filter(|slab| slab.owner.load(SeqCst) != 0) else { continue };
        let class = slab.class.load(Relaxed);
        if class == WHOLE_PAGES {
            see(heap::whole_pages(region, index, slab));
        }
        for number in 0..heap::capacity(class).unwrap_or(0) {
            see(heap::shared_block(region, index, class, number));
        }
    }
}

/// Where the states stand that transactions under way have changed.
fn logged_states(region: &Region) -> HashSet<u64> {
    let logs = region.slots().filter_map(|(index, _)| UndoLog::of(region, index));
    let records = logs.filter(|log| !log.is_empty()).flat_map(|log| log.records().collect::<Vec<_>>());
    records.filter(|record| record.length == size_of::<u16>()).map(|record| record.offset.0).collect()
}

/// The slab table at one moment.
struct Table {
    slabs: Vec<Page>,
    /// Each slot's lists.
    heads: Vec<[u32; SLAB_LISTS]>,
    in_use: u64,
}

#[derive(Clone, Copy)]
struct Page {
    owner: u32,
    class: u32,
    next: u32,
    pages: u16,
}

/// What is wrong with the slab table. Nothing where it did not stand still.
pub(super) fn table(region: &Region) -> Wrongs {
    for _ in 0..TRIES {
        let begun = standing(region);
        let mini = slot_of(begun[0]).and_then(|slot| UndoLog::mini_of(region, slot));
        let before = mini.map_or_else(Before::default, |mini| Before::of(&mini));
        let table = Table::of(region, &before);
        fence(Acquire);
        if standing(region) == begun {
            return table.check(region);
        }
        std::thread::sleep(NAP);
    }
    Wrongs::new()
}

/// What moves when slabs change hands: the heap's lock, its holder's small log, and the heap's words.
fn standing(region: &Region) -> [u64; 4] {
    let Some(heap) = region.object(HEAP_OBJECT) else { return [0; 4] };
    let holder = heap.lock.load(SeqCst) & !WAITERS;
    let slot = slot_of(holder).and_then(|slot| region.slot(slot));
    let [in_use, next, ..] = &heap.body;
    [holder, slot.map_or(0, |slot| slot.mini.load(SeqCst)), in_use.load(SeqCst), next.load(SeqCst)]
}

impl Table {
    fn of(region: &Region, before: &Before) -> Self {
        let slabs = (0..region.geometry().page_count).filter_map(|index| {
            let (slab, at) = (region.slab(index)?, region.slab_offset(index).0);
            let half = |within: usize, half| before.half(Offset(at + within as u64), half);
            Some(Page {
                owner: half(offset_of!(Slab, owner), &slab.owner),
                class: half(offset_of!(Slab, class), &slab.class),
                next: half(offset_of!(Slab, next), &slab.next),
                pages: before.quarter(Offset(at + offset_of!(Slab, pages) as u64), &slab.pages),
            })
        });
        let heads = region.slots().map(|(index, slot)| {
            let first = region.slot_offset(index).0 + offset_of!(Slot, slabs) as u64;
            std::array::from_fn(|class| before.half(Offset(first + class as u64 * 4), &slot.slabs[class]))
        });
        let in_use = region.object(HEAP_OBJECT).map_or(0, |heap| {
            let at = region.object_offset(HEAP_OBJECT).0 + offset_of!(Object, body) as u64;
            before.word(Offset(at), &heap.body[0])
        });
        Self { slabs: slabs.collect(), heads: heads.collect(), in_use }
    }

    fn check(&self, region: &Region) -> Wrongs {
        let mut wrongs = Wrongs::new();
        let mut listed = vec![false; self.slabs.len()];
        for (index, heads) in (0..).zip(&self.heads) {
            for (class, head) in (0..).zip(heads) {
                if let Err(text) = self.follow(index, class, *head, &mut listed) {
                    let text = format!("its list of slabs of class {class} {text}");
                    wrongs.push(Wrong { place: Place::Slot(SlotIndex(index)), kind: "slabs", text });
                }
            }
        }
        for (index, (page, listed)) in (0..).zip(self.slabs.iter().zip(listed)) {
            if let Some(text) = page.wrong(listed, region.geometry().slot_count) {
                wrongs.push(Wrong { place: Place::Page(index), kind: "slab", text });
            }
        }
        let in_use = self.slabs.iter().filter(|page| page.owner != 0).count() as u64;
        if in_use != self.in_use {
            let text = format!("it says that {} pages are in use, and {in_use} are", self.in_use);
            wrongs.push(Wrong { place: Place::Heap, kind: "pages", text });
        }
        wrongs
    }

    /// Follows one list of one slot, and marks its slabs and the pages behind them.
    fn follow(&self, slot: u32, class: u32, head: u32, listed: &mut [bool]) -> Result<(), String> {
        let mut link = head;
        while let Some(first) = link.checked_sub(1) {
            let Some(page) = self.slabs.get(first as usize) else {
                return Err(format!("goes to page {first}, which there is not"));
            };
            if page.owner != slot + 1 || page.class != class {
                return Err(format!("has page {first}, which is not such a slab of this slot"));
            }
            let continued = if class == WHOLE_PAGES { page.pages } else { 1 };
            if !(1..=MAX_BLOCK_PAGES).contains(&continued.into()) || page.pages != continued {
                return Err(format!("has page {first}, a slab of {} pages", page.pages));
            }
            for index in first..first + u32::from(continued) {
                let belongs =
                    |page: &Page| index == first || page.owner == slot + 1 && page.class == CONTINUED;
                if !self.slabs.get(index as usize).is_some_and(belongs) {
                    return Err(format!("has page {first}, to which page {index} does not belong"));
                }
                if std::mem::replace(&mut listed[index as usize], true) {
                    return Err(format!("comes to page {index}, which was met before"));
                }
            }
            link = page.next;
        }
        Ok(())
    }
}

impl Page {
    fn wrong(&self, listed: bool, slots: u32) -> Option<String> {
        let Self { owner, class, .. } = *self;
        if owner == 0 {
            return None;
        }
        if owner > slots {
            return Some(format!("it belongs to slot {}, which there is not", owner - 1));
        }
        if class > CONTINUED {
            return Some(format!("it is of class {class}, which there is not"));
        }
        let slot = owner - 1;
        (!listed).then(|| match class {
            CONTINUED => format!("it continues a block of slot {slot} that does not begin anywhere"),
            _ => format!("it belongs to slot {slot} and is in none of its lists"),
        })
    }
}
