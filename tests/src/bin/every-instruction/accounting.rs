//! The accounts of a region at rest: every page, block, lock and log.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use common::heap;
use common::objects::in_flight;
use common::region::Region;

use crate::model::values;

/// Whether pages and blocks are accounted for: what an object reaches is USED, everything else FREE; every slab is in
/// its slot's list; no lock is held, no change under way, no log in use.
pub fn account(region: &Region) -> Result<(), String> {
    let mut reached = reachable(region)?;
    let mut pages = 0;
    let mut continued = 0;
    let mut listed = 0;
    for index in 0..region.geometry().page_count {
        let Some(slab) = region.slab(index).filter(|slab| slab.owner.load(Relaxed) != 0) else { continue };
        pages += 1;
        let class = slab.class.load(Relaxed);
        if class == heap::CONTINUED {
            continued += 1;
            continue;
        }
        listed += 1;
        if class == heap::WHOLE_PAGES {
            let block = heap::whole_pages(region, index, slab).ok_or("a block of impossibly many pages")?;
            continued -= (block.size / 4096) as i64 - 1;
            check_block(&block, &mut reached)?;
            continue;
        }
        let count = heap::capacity(class).ok_or_else(|| format!("page {index} has class {class}"))?;
        for number in 0..count {
            let block = heap::shared_block(region, index, class, number).ok_or("a block beyond the heap")?;
            check_block(&block, &mut reached)?;
        }
    }
    if let Some(offset) = reached.keys().next() {
        return Err(format!("an object reaches offset {offset}, where no block begins"));
    }
    let said = region.object(heap::HEAP_OBJECT).map_or(0, |heap| heap.body[0].load(Relaxed));
    if said != pages || continued != 0 || listed != lists(region)? {
        return Err(format!("the heap says {said} pages; there are {pages}, in {listed} slabs"));
    }
    at_rest(region)
}

fn check_block(block: &heap::Block<'_>, reached: &mut BTreeMap<u64, u32>) -> Result<(), String> {
    let state = block.state.load(Relaxed);
    let expected = if reached.remove(&block.offset.0).is_some() { heap::USED } else { heap::FREE };
    if state == expected {
        return Ok(());
    }
    Err(format!("the block of {} at {} has state {state}, not {expected}", block.size, block.offset.0))
}

fn reachable(region: &Region) -> Result<BTreeMap<u64, u32>, String> {
    let mut reached = BTreeMap::new();
    let mut twice = None;
    for (handle, kind, _) in common::objects::all(region) {
        let visit = |offset: common::ids::Offset| {
            twice =
                twice.or(reached.insert(offset.0, handle.index).map(|other| (offset.0, other, handle.index)));
        };
        let walked = match kind {
            _ if kind.has_buckets() => common::objects::map::blocks(region, handle, kind, visit),
            _ if kind.has_items() => common::objects::queue::blocks(region, handle, kind, visit),
            _ if kind.has_chunks() => common::objects::blob::blocks(region, handle, kind, visit),
            _ => Ok(()),
        };
        walked.map_err(|error| format!("the blocks of object {}: {error}", handle.index))?;
    }
    for taken in region.slots().flat_map(|(_, slot)| in_flight::taken(region, slot)) {
        let index = taken.queue.handle().index;
        twice = twice.or(reached.insert(taken.offset.0, index).map(|other| (taken.offset.0, other, index)));
    }
    match twice {
        Some((offset, one, other)) => Err(format!("the block at {offset} is object {one}'s and {other}'s")),
        None => Ok(reached),
    }
}

/// How many slabs are in the slots' lists.
fn lists(region: &Region) -> Result<u64, String> {
    let mut listed = 0;
    for (slot_index, slot) in region.slots() {
        for (class, head) in slot.slabs.iter().enumerate() {
            let mut link = head.load(Relaxed);
            while link != 0 {
                listed += 1;
                let slab = region.slab(link - 1).ok_or("a list of slabs leads out of the heap")?;
                let own = (slot_index.0 + 1, class as u32);
                if (slab.owner.load(Relaxed), slab.class.load(Relaxed)) != own || listed > 10_000 {
                    return Err(format!("page {} is in a list that it does not belong to", link - 1));
                }
                link = slab.next.load(Relaxed);
            }
        }
    }
    Ok(listed)
}

fn at_rest(region: &Region) -> Result<(), String> {
    for index in 0..region.geometry().object_count {
        let Some(object) = region.object(index) else { continue };
        let (lock, seq) = (object.lock.load(Relaxed), object.seq.load(Relaxed));
        if lock != 0 || seq & 1 == 1 {
            return Err(format!("object {index} has lock word {lock:#x} and sequence {seq}"));
        }
    }
    let gate = region.header().gate.word.load(Relaxed);
    if gate != 0 {
        return Err(format!("the gate is closed by {gate:#x}"));
    }
    for (index, slot) in region.slots() {
        if !slot.holds_nothing() || values(&slot.counters) != values(&slot.published) {
            return Err(format!("slot {index} is not at rest"));
        }
        let Some(tally) = region.tally(index) else { continue };
        let loads =
            |words: &[std::sync::atomic::AtomicU64; 2]| [words[0].load(Relaxed), words[1].load(Relaxed)];
        if tally.cells.iter().any(|cell| loads(&cell.counted) != loads(&cell.published)) {
            return Err(format!("slot {index} has counted for a user what it does not show"));
        }
    }
    Ok(())
}
