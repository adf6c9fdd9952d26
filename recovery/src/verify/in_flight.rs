//! Items in flight: what the slots say they have taken from queues.

use std::collections::HashSet;
use std::sync::atomic::Ordering::SeqCst;

use common::heap::{self, USED};
use common::ids::{Offset, SlotIndex};
use common::layout::Slot;
use common::objects::in_flight::{self, Taken};
use common::objects::survey::Before;
use common::region::Region;
use common::undo::UndoLog;

use super::objects::Walk;
use super::{Place, Wrong};

/// What each slot has taken, as it was before an unfinished change.
pub(super) fn all(region: &Region) -> Vec<(SlotIndex, Taken)> {
    region
        .slots()
        .filter(|(_, slot)| {
            slot.in_flight.iter().any(|said| said.item.load(SeqCst) != 0) || !is_at_rest(slot)
        })
        .flat_map(|(index, _)| {
            let taken = in_flight::taken_before(region, index, &before(region, index));
            taken.into_iter().map(move |taken| (index, taken))
        })
        .collect()
}

fn is_at_rest(slot: &Slot) -> bool {
    slot.undo.load(SeqCst) == 0
}

fn before(region: &Region, index: SlotIndex) -> Before {
    UndoLog::of(region, index).map_or_else(Before::default, |log| Before::of(&log))
}

/// Holds what was in flight before the objects were walked, and is still, against what they are made of. What was taken,
/// finished or put back meanwhile may have been met anywhere.
pub(super) fn check(region: &Region, earlier: &[(SlotIndex, Taken)], walk: &mut Walk) {
    let now = all(region);
    let stayed: HashSet<_> = earlier.iter().filter(|item| now.contains(item)).copied().collect();
    for item in earlier.iter().chain(&now).filter(|item| !stayed.contains(*item)) {
        walk.pass(item.1.offset);
    }
    for (index, taken) in stayed {
        if let Some((kind, text)) = wrong(region, index, &taken) {
            walk.wrongs.push(Wrong { place: Place::Slot(index), kind, text });
        }
        if heap::block_at(region, taken.offset).is_some() {
            walk.reach(taken.offset);
        }
    }
}

fn wrong(region: &Region, index: SlotIndex, taken: &Taken) -> Option<(&'static str, String)> {
    let Offset(at) = taken.offset;
    if taken.queue.handle().index >= region.geometry().object_count {
        return Some((
            "taken from",
            format!("it has taken an item from {:?}, which there is not", taken.queue),
        ));
    }
    let Some(block) = heap::block_at(region, taken.offset) else {
        return Some(("taken", format!("it has taken an item at {at}, where no block begins")));
    };
    match in_flight::size(region, taken) {
        None => return Some(("taken", format!("it has taken an item at {at}, which is none"))),
        Some(size) if size > block.size => {
            let text = format!("it has taken an item of {size} bytes at {at}, in a block of {}", block.size);
            return Some(("taken", text));
        }
        Some(_) => {}
    }
    let state = before(region, index).quarter(block.state_offset, block.state);
    let text = || format!("it has taken an item at {at}, whose block has state {state}, not in use");
    (state != USED).then(|| ("taken state", text()))
}
