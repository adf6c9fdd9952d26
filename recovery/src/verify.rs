//! Verification: reads a region, changes nothing, and may run while the instance does. What is being changed at this
//! moment can look wrong; it is a finding only if it looks wrong every time.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use common::error::{Error, Result};
use common::ids::{Offset, SlotIndex};
use common::objects::Handle;
use common::output::print;
use common::region::{Region, UnverifiedRegion};
use common::slots::State;

use crate::offline::open_region;

mod words;

mod objects;

mod in_flight;

mod heap;

mod users;

/// What looks wrong is looked at again after each of these pauses, in milliseconds. The longer ones are for processes that lost their
/// processor in the middle of a change.
const PAUSES: [u64; 8] = [1, 2, 4, 8, 16, 32, 64, 128];

/// So many blocks that are lost are told, and as many that are had twice: nobody reads more, and all of them would take more
/// memory than the region.
const MOST_BLOCKS: usize = 10_000;

/// One thing that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where: `header`, `journal`, a slot, an object by its path, a page or a block of the heap.
    pub place: String,
    /// What is wrong there.
    pub text: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// `recovery verify`: prints findings, one a line, or that the region is sound.
///
/// # Errors
/// A file that cannot be read (exit 2), is no region, or is damaged (exit 4).
pub fn run(path: &Path) -> Result<()> {
    let region = UnverifiedRegion::open_read_only(&open_region(path, false)?)?;
    let region = region.contents();
    let findings = check(region);
    if findings.is_empty() {
        return print(&format!("{}\n", summary(region)));
    }
    print(&findings.iter().map(|finding| format!("{finding}\n")).collect::<String>())?;
    Err(damaged(&findings))
}

/// The error that findings are.
pub fn damaged(findings: &[Finding]) -> Error {
    Error::region(format!(
        "the region is damaged in {} places; stop the instance, and `recovery restore` goes back to the newest checkpoint",
        findings.len()
    ))
}

/// One line about a sound region.
pub fn summary(region: &Region) -> String {
    let states: Vec<_> = region.slots().map(|(_, slot)| slot.standing().1).collect();
    let count = |state| states.iter().filter(|found| **found == Some(state)).count();
    format!(
        "sound: {} slots, {} live, {} dead and not repaired yet, {} messages",
        states.len(),
        count(State::Live),
        count(State::Dead),
        region.totals().messages
    )
}

/// Everything that is not as it must be.
pub fn check(region: &Region) -> Vec<Finding> {
    check_with(region, &PAUSES)
}

/// One thing that looks wrong at one look.
#[derive(Debug)]
struct Wrong {
    place: Place,
    /// With the place, what it is known again by at the next look.
    kind: &'static str,
    text: String,
}

type Wrongs = Vec<Wrong>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    Header,
    Journal,
    Slot(SlotIndex),
    /// An object, with its path where it has one.
    Object(Handle, Option<String>),
    Heap,
    Page(u32),
    Block(Offset),
    Users,
}

/// Looks again and again at what looks wrong, each time after so many milliseconds; what was not wrong every time was only
/// being changed.
pub fn check_with(region: &Region, pauses: &[u64]) -> Vec<Finding> {
    let mut wrongs = look(region);
    for pause in pauses {
        if wrongs.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(*pause));
        let again = look(region);
        let again: HashSet<_> = again.iter().map(|wrong| (&wrong.place, wrong.kind)).collect();
        wrongs.retain(|wrong| again.contains(&(&wrong.place, wrong.kind)));
    }
    wrongs.into_iter().map(Wrong::into_finding).collect()
}

/// What is wrong with the objects and the slab table while nobody is at work. Blocks that nothing refers to are not
/// among it: they are lost, and harm nobody.
pub(crate) fn check_objects_at_rest(region: &Region) -> Vec<Finding> {
    let mut wrongs = objects::walk(region).wrongs;
    wrongs.extend(heap::table(region));
    wrongs.into_iter().map(Wrong::into_finding).collect()
}

impl Wrong {
    fn into_finding(self) -> Finding {
        Finding { place: self.place.to_string(), text: self.text }
    }
}

/// Everything that looks wrong now.
fn look(region: &Region) -> Wrongs {
    let mut wrongs = words::header(region);
    wrongs.extend(words::journal(region));
    wrongs.extend(region.slots().flat_map(|(index, slot)| words::slot(region, index, slot)));
    // What is in use before the objects are walked, and still is afterwards, must have been met on the way.
    let taken = heap::taken(region);
    let walk = objects::walk(region);
    wrongs.extend(heap::table(region));
    if walk.complete {
        wrongs.extend(heap::lost(region, &taken, &walk.reached));
    }
    if walk.wrongs.is_empty() && walk.complete {
        wrongs.extend(users::sums(region));
    }
    wrongs.extend(walk.wrongs);
    wrongs
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header => f.write_str("header"),
            Self::Journal => f.write_str("journal"),
            Self::Slot(index) => write!(f, "slot {index}"),
            Self::Object(_, Some(path)) => f.write_str(path),
            Self::Object(handle, None) => write!(f, "object {}", handle.index),
            Self::Heap => f.write_str("heap"),
            Self::Page(index) => write!(f, "page {index}"),
            Self::Block(offset) => write!(f, "block {offset}"),
            Self::Users => f.write_str("users"),
        }
    }
}

#[cfg(test)]
mod tests;
