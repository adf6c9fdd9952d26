//! At rest every block of the heap is free, or some object's and only one's.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;

use common::heap::{Block, capacity, shared_block, whole_pages};
use common::objects::{self, Kind, map};
use common::region::Region;

/// Blocks of the heap that are not free are reached from objects, each once; and nothing else is reached.
#[track_caller]
pub fn check(region: &Region) {
    let mut reached = BTreeSet::new();
    for (handle, kind, _) in objects::all(region) {
        if matches!(kind, Kind::Map | Kind::Folder | Kind::Dropping) {
            map::blocks(region, handle, kind, |offset| {
                assert!(reached.insert(offset.0), "the block at {offset:?} is reached twice");
            })
            .unwrap_or_else(|error| panic!("{kind} {}: {error}", handle.index));
        }
    }
    let mut used = BTreeSet::new();
    for block in (0..region.geometry().page_count).flat_map(|page| blocks_of(region, page)) {
        match block.state.load(Relaxed) {
            0 => {}
            1 => assert!(used.insert(block.offset.0)),
            state => panic!("the block at {:?} has the state {state} at rest", block.offset),
        }
    }
    let (lost, wild) = (used.difference(&reached).count(), reached.difference(&used).count());
    assert!(lost == 0 && wild == 0, "{lost} used blocks are not reached, {wild} reached are not used");
}

fn blocks_of(region: &Region, page: u32) -> Vec<Block<'_>> {
    let slab = region.slab(page).expect("the page is one of the heap's");
    if slab.owner.load(Relaxed) == 0 {
        return Vec::new();
    }
    let class = slab.class.load(Relaxed);
    match capacity(class) {
        Some(count) => (0..count).filter_map(|number| shared_block(region, page, class, number)).collect(),
        None => whole_pages(region, page, slab).into_iter().collect(),
    }
}
