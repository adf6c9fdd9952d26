//! The marks: whatever is changed of objects, slab table and heap, its page is marked as soon as it is. A checkpoint copies what
//! is marked, and nothing else.

use std::sync::atomic::Ordering::Relaxed;

use common::layout::Object;
use common::limits::PAGE_SIZE;
use common::objects::Kind;
use common::region::Region;

use crate::images::Image;
use crate::sleepers::SLEEPERS;

/// Words of an entry of the object table that mean nothing in a checkpoint: lock and sequence.
const PASSING: usize = 2;

/// So does who sleeps at a queue: whoever did is gone when a checkpoint is gone back to.
const SLEEPING: usize = std::mem::offset_of!(Object, body) / 8 + SLEEPERS;

/// Bytes before the word of an entry that says what it is.
const IDENTITY: u64 = std::mem::offset_of!(Object, identity) as u64;

/// Takes every mark away.
pub fn take_away(region: &Region) {
    region.marks().iter().for_each(|mark| mark.store(0, Relaxed));
}

/// Whether in this image every page that differs from `base` is marked.
pub fn check(region: &Region, base: &[u64], image: &Image) -> Result<(), String> {
    let geometry = region.geometry();
    let delta = image.region.delta();
    let word_at = |index: usize| {
        let changed = delta.binary_search_by_key(&(index as u32), |(index, _)| *index);
        changed.map_or(base[index], |place| delta[place].1)
    };
    // Before the operation, or in this image: what the table says now may be from after it.
    let is_queue = |entry: u64| {
        let identity = geometry.objects + entry * size_of::<Object>() as u64 + IDENTITY;
        let index = identity as usize / 8;
        [base[index], word_at(index)].into_iter().filter_map(Kind::of).any(Kind::has_items)
    };
    for (index, _) in &delta {
        let offset = u64::from(*index) * 8;
        if offset < geometry.objects
            || offset < geometry.slabs && is_passing(offset - geometry.objects, is_queue)
        {
            continue;
        }
        let mark = geometry.marks + offset / PAGE_SIZE;
        if word_at(mark as usize / 8) >> (mark % 8 * 8) & 0xff == 0 {
            return Err(format!("byte {offset} was changed, and its page is not marked for a checkpoint"));
        }
    }
    Ok(())
}

/// Whether the word so far into the object table is one that no checkpoint needs.
fn is_passing(within: u64, is_queue: impl Fn(u64) -> bool) -> bool {
    let (entry, word) = (within / size_of::<Object>() as u64, within as usize % size_of::<Object>() / 8);
    word < PASSING || word == SLEEPING && is_queue(entry)
}
