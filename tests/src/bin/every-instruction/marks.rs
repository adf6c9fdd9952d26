//! The marks: whatever is changed of objects, slab table and heap, its page is marked as soon as it is. A checkpoint copies what
//! is marked, and nothing else.

use std::sync::atomic::Ordering::Relaxed;

use common::layout::Object;
use common::limits::PAGE_SIZE;
use common::region::Region;

use crate::images::Image;

/// Words of an entry of the object table that mean nothing in a checkpoint: lock and sequence.
const PASSING: usize = 2;

/// Takes every mark away.
pub fn take_away(region: &Region) {
    region.marks().iter().for_each(|mark| mark.store(0, Relaxed));
}

/// Whether in this image every page that differs from `base` is marked.
pub fn check(region: &Region, base: &[u64], image: &Image) -> Result<(), String> {
    let geometry = region.geometry();
    let word_at = |index: usize| {
        let changed = image.delta.binary_search_by_key(&(index as u32), |(index, _)| *index);
        changed.map_or(base[index], |place| image.delta[place].1)
    };
    for (index, _) in &image.delta {
        let offset = u64::from(*index) * 8;
        if offset < geometry.objects || is_passing(offset, geometry.objects, geometry.slabs) {
            continue;
        }
        let mark = geometry.marks + offset / PAGE_SIZE;
        if word_at(mark as usize / 8) >> (mark % 8 * 8) & 0xff == 0 {
            return Err(format!("byte {offset} was changed, and its page is not marked for a checkpoint"));
        }
    }
    Ok(())
}

fn is_passing(offset: u64, objects: u64, slabs: u64) -> bool {
    offset < slabs && ((offset - objects) as usize % size_of::<Object>()) / 8 < PASSING
}
