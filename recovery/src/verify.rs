//! Verification: reads a region, changes nothing, and may run while the instance does. What is being changed at this
//! moment can look wrong; it is a finding only if it looks wrong every time.

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use common::error::{Error, Result};
use common::ids::SlotIndex;
use common::layout::{Counters, Slot};
use common::limits::JOURNAL_RING;
use common::region::{Region, UnverifiedRegion};
use common::slots::{self, State};

use crate::offline::{open_region, print};
use crate::repair::{check_held, check_intent, check_logs, needs_repair};

/// What looks wrong is looked at again after each of these pauses, in milliseconds. The longer ones are for processes that lost their
/// processor in the middle of a change.
const PAUSES: [u64; 8] = [1, 2, 4, 8, 16, 32, 64, 128];

/// No minute of this format is beyond this number, which is two million years away.
const MINUTES: u64 = 1 << 40;

/// One thing that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where: `header`, `journal` or a slot.
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
        "the region is damaged in {} places; stop the instance and move the file away to start with an empty one",
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

/// What is wrong with one place: its kind, by which it is known again at the next look, and the text.
type Wrongs = Vec<(&'static str, String)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Header,
    Journal,
    Slot(SlotIndex),
}

/// Looks again and again at what looks wrong; what was not wrong every time was only being changed.
pub(crate) fn check_with(region: &Region, pauses: &[u64]) -> Vec<Finding> {
    let slots = region.slots().map(|(index, _)| Place::Slot(index));
    let all = [Place::Header, Place::Journal].into_iter().chain(slots);
    let mut suspects: Vec<(Place, Wrongs)> = all.map(|place| (place, look(region, place))).collect();
    suspects.retain(|(_, wrongs)| !wrongs.is_empty());
    for pause in pauses {
        if suspects.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(*pause));
        for (place, wrongs) in &mut suspects {
            let now = look(region, *place);
            wrongs.retain(|(kind, _)| now.iter().any(|(again, _)| again == kind));
        }
        suspects.retain(|(_, wrongs)| !wrongs.is_empty());
    }
    let finding = |place, text| Finding { place, text };
    suspects
        .into_iter()
        .flat_map(|(place, wrongs)| wrongs.into_iter().map(move |(_, text)| finding(place.to_string(), text)))
        .collect()
}

fn look(region: &Region, place: Place) -> Wrongs {
    match place {
        Place::Header => header(region),
        Place::Journal => journal(region),
        Place::Slot(index) => region.slot(index).map_or_else(Wrongs::new, |found| slot(region, index, found)),
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header => f.write_str("header"),
            Self::Journal => f.write_str("journal"),
            Self::Slot(index) => write!(f, "slot {index}"),
        }
    }
}

fn header(region: &Region) -> Wrongs {
    let mut wrongs = Wrongs::new();
    let supervision = &region.header().supervision;
    let flags = [
        ("clean", &supervision.clean),
        ("damaged", &supervision.damaged),
        ("draining", &supervision.draining),
    ];
    for (name, flag) in flags {
        let value = flag.load(SeqCst);
        if value > 1 {
            wrongs.push((name, format!("the flag `{name}` is {value}, neither 0 nor 1")));
        }
    }
    if supervision.damaged.load(SeqCst) == 1 {
        wrongs.push(("declared", "the region was declared damaged: a slot could not be repaired".to_owned()));
    }
    let used = |(_, slot): &(SlotIndex, &Slot)| needs_repair(slot) && !slot.left_cleanly(slot.standing().0);
    if region.is_clean()
        && let Some((index, _)) = region.slots().find(used)
    {
        wrongs.push(("not clean", format!("it is marked as cleanly stopped, but slot {index} is in use")));
    }
    note_reserved(&mut wrongs, &[&supervision.reserved]);
    wrongs
}

fn journal(region: &Region) -> Wrongs {
    let mut wrongs = Wrongs::new();
    let journal = &region.header().journal;
    let (open, sealed) = (journal.open_minute(), journal.sealed_minute());
    if open.minute.0 >= MINUTES || sealed.0 >= MINUTES {
        wrongs
            .push(("range", format!("minute {} is open and {sealed} sealed, which cannot be", open.minute)));
    }
    let never_opened = open.minute.0 == 0;
    if !never_opened && (sealed > open.minute || (sealed == open.minute && !open.closed)) {
        wrongs.push((
            "order",
            format!("minute {} is open, but minute {sealed} is sealed already", open.minute),
        ));
    }
    for (index, claims) in journal.ring_claims().iter().enumerate() {
        let Some(claims) = claims else { continue };
        if claims.minute.0 % JOURNAL_RING as u64 != index as u64 {
            wrongs.push(("place", format!("ring entry {index} is said to be minute {}'s", claims.minute)));
        }
        if claims.tail > claims.reserved {
            wrongs.push((
                "unreserved",
                format!(
                    "{} bytes of minute {} are claimed and only {} reserved",
                    claims.tail, claims.minute, claims.reserved
                ),
            ));
        }
    }
    note_reserved(&mut wrongs, &[&journal.reserved]);
    wrongs
}

fn slot(region: &Region, index: SlotIndex, slot: &Slot) -> Wrongs {
    let mut wrongs = Wrongs::new();
    if slot.standing().1.is_none() {
        let word = slot.owner.load(SeqCst);
        wrongs.push(("state", format!("its owner word is {word:#x}, which names no state")));
    }
    if let Err(bad) = check_logs(region, slots::owner(index, slot.standing().0)) {
        wrongs.push(("log", bad));
    }
    if let Err(bad) = check_held(region, slot) {
        wrongs.push(("held", bad));
    }
    if matches!(slot.standing().1, Some(State::Free | State::Reserved)) && !slot.holds_nothing() {
        wrongs.push(("unowned", "it is nobody's, and something half-done is in it".to_owned()));
    }
    if let Err(bad) = check_intent(region, slot, region.header().journal.sealed_minute()) {
        wrongs.push(("intent", bad));
    }
    note_counters(&mut wrongs, slot);
    note_reserved(&mut wrongs, &[&slot.pad1, &slot.pad2, &slot.pad3, &slot.intent.reserved]);
    wrongs
}

fn note_counters(wrongs: &mut Wrongs, slot: &Slot) {
    // Read in the order against that in which they are stored, so that a living owner is never ahead of itself.
    let (base, published) = (values(&slot.base), values(&slot.published));
    let counters = values(&slot.counters);
    if base.iter().zip(&counters).any(|(base, counter)| base > counter) {
        wrongs.push(("base", format!("its counters {counters:?} began at {base:?}: they went back")));
    }
    // A process may die between its own counter and the shown one; repair shows it then.
    let at_rest = matches!(slot.standing().1, Some(State::Free | State::Left | State::Reserved));
    if published.iter().zip(&counters).any(|(shown, counter)| shown > counter) {
        wrongs.push(("ahead", format!("it shows {published:?} and has counted only {counters:?}")));
    } else if at_rest && slot.holds_nothing() && published != counters {
        wrongs.push(("behind", format!("it shows {published:?} and has counted {counters:?}")));
    }
}

fn values(counters: &Counters) -> [u64; 8] {
    std::array::from_fn(|index| counters.words[index].load(SeqCst))
}

fn note_reserved(wrongs: &mut Wrongs, areas: &[&[AtomicU64]]) {
    if areas.iter().copied().flatten().any(|word| word.load(SeqCst) != 0) {
        wrongs.push(("reserved", "words that nobody uses are not zero: somebody wrote there".to_owned()));
    }
}

#[cfg(test)]
mod tests;
