//! Tidying, while nobody else is at work: what deleted objects still hold becomes free, and slabs that are wholly free
//! go back to the heap, so that a slot which nobody takes again keeps no memory from the others.
//!
//! A slab is only ever changed by its own slot, and in that slot's mini-transactions. So this process takes a seat in
//! one slot after the other, each in the generation that it is in. Killed at that, it is followed by a takeover which
//! finds a slot with an owner, and repairs it like any other.

use common::heap;
use common::ids::SlotIndex;
use common::objects;
use common::region::Region;
use common::slots::{State, owner};
use common::txn::{Seat, TxnError};

/// What was tidied up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Deleted objects that are wholly freed now.
    pub dropped: u32,
    /// Slabs that went back to the heap.
    pub slabs: u32,
}

/// Tidies up. Nobody else is at work, and every slot is repaired.
///
/// # Errors
/// [`TxnError`]: the rest stays as it is, and harms nobody.
pub fn tidy(region: &Region) -> Result<Tidied, TxnError> {
    let dropping = || objects::all(region).filter(|(_, kind, _)| kind.is_dropping()).count() as u32;
    let mut tidied = Tidied { dropped: dropping(), slabs: 0 };
    if tidied.dropped > 0 {
        with_seat(region, SlotIndex(0), Seat::free_deleted).transpose()?;
        tidied.dropped -= dropping();
    }
    let with_slabs = region.slots().filter(|(_, slot)| heap::has_slabs(slot)).map(|(index, _)| index);
    for index in with_slabs {
        tidied.slabs += with_seat(region, index, Seat::give_back_empty_slabs).transpose()?.unwrap_or(0);
    }
    Ok(tidied)
}

/// Works in a slot that nobody owns, in the generation that it is in. `None` where it is not such a slot.
pub fn with_seat<'r, T>(
    region: &'r Region,
    index: SlotIndex,
    work: impl FnOnce(&mut Seat<'r>) -> T,
) -> Option<T> {
    let slot = region.slot(index)?;
    let (generation, state) = slot.standing();
    if state != Some(State::Free) || !slot.holds_nothing() {
        return None;
    }
    slot.reserve(generation, 0);
    let mut seat = Seat::take(region, owner(index, generation))?;
    slot.pid.store(std::process::id(), std::sync::atomic::Ordering::Relaxed);
    slot.set_doing(b"tidying up before a start");
    let outcome = work(&mut seat);
    seat.leave();
    slot.set_doing(b"");
    slot.shift(generation, State::Left, State::Free);
    Some(outcome)
}

#[cfg(test)]
mod tests;
