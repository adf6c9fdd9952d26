//! What users have sent: cells that agree with what is shown of them, and sums that agree with the slots' counters.

use std::sync::atomic::Ordering::SeqCst;

use common::ids::SlotIndex;
use common::layout::Slot;
use common::region::Region;
use common::slots::State;
use common::tally;

use super::{Place, Wrong, Wrongs};

/// One slot's cells. Read in the order against that in which they are stored, so that a living owner is never ahead of
/// itself.
pub(super) fn cells(region: &Region, index: SlotIndex, slot: &Slot) -> Option<(&'static str, String)> {
    let tally = region.tally(index)?;
    for (row, cell) in tally.cells.iter().enumerate() {
        let shown = cell.published.each_ref().map(|word| word.load(SeqCst));
        let counted = cell.counted.each_ref().map(|word| word.load(SeqCst));
        let at_rest = matches!(slot.standing().1, Some(State::Free | State::Left | State::Reserved));
        let ahead = shown.iter().zip(&counted).any(|(shown, counted)| shown > counted);
        if ahead || at_rest && slot.holds_nothing() && shown != counted {
            return Some(("cell", format!("for row {row} it shows {shown:?} and has counted {counted:?}")));
        }
    }
    None
}

/// Whether the users have sent what the slots have counted. Only of a region at rest: online, the two are not read at
/// one moment.
pub(super) fn sums(region: &Region) -> Wrongs {
    let at_rest =
        |slot: &Slot| matches!(slot.standing().1, Some(State::Free | State::Left)) && slot.holds_nothing();
    if !region.is_clean() || !region.slots().all(|(_, slot)| at_rest(slot)) {
        return Wrongs::new();
    }
    let wrong = |kind, text| vec![Wrong { place: Place::Users, kind, text }];
    let users = match tally::totals(region) {
        Ok(totals) => totals.users,
        Err(error) => return wrong("unreadable", format!("what they have sent cannot be read: {error}")),
    };
    let sum = users.values().fold((0_u64, 0_u64), |(messages, bytes), sent| {
        (messages.wrapping_add(sent.messages), bytes.wrapping_add(sent.bytes))
    });
    let totals = region.totals();
    if sum == (totals.messages, totals.bytes) {
        return Wrongs::new();
    }
    wrong(
        "sums",
        format!(
            "they have sent {} messages of {} bytes, and the slots have counted {} of {}",
            sum.0, sum.1, totals.messages, totals.bytes
        ),
    )
}
