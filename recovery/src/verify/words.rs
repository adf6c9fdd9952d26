//! The header, the journal's state and the slots: words that stand for themselves.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU32, AtomicU64};

use common::gate;
use common::ids::{Offset, Owner, SlotIndex};
use common::layout::{Counters, GIVES_WAY, HEADER_SIZE, Header, Slot};
use common::limits::JOURNAL_RING;
use common::lock;
use common::region::Region;
use common::slots::{self, State};

use super::{Place, Wrong, Wrongs, users};
use crate::repair::{check_held, check_intent, check_logs, needs_repair};

/// No minute of this format is beyond this number, which is two million years away.
const MINUTES: u64 = 1 << 40;

/// Kinds and texts of what is wrong with one place.
type Found = Vec<(&'static str, String)>;

fn at(place: &Place, found: Found) -> Wrongs {
    found.into_iter().map(|(kind, text)| Wrong { place: place.clone(), kind, text }).collect()
}

pub(super) fn header(region: &Region) -> Wrongs {
    let mut wrongs = Found::new();
    let supervision = &region.header().supervision;
    let flags = [
        ("clean", &supervision.clean, 1),
        ("damaged", &supervision.damaged, GIVES_WAY),
        ("draining", &supervision.draining, 1),
    ];
    for (name, flag, most) in flags {
        let value = flag.load(SeqCst);
        if value > most {
            wrongs.push((name, format!("`{name}` is {value}, and at most {most}")));
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
    let gate = region.header().gate.word.load(SeqCst);
    if gate != 0 && !lock::owner_of(gate).is_some_and(|closer| may_close(region, closer)) {
        wrongs.push(("gate", format!("the gate is closed by {gate:#x}, which names nobody who could")));
    }
    let incomplete = supervision.incomplete.load(SeqCst);
    if incomplete > 1 {
        wrongs
            .push(("incomplete", format!("whether its disk space is reserved is {incomplete}, not 0 or 1")));
    }
    note_unused_header(&mut wrongs, region);
    at(&Place::Header, wrongs)
}

fn note_unused_header(wrongs: &mut Found, region: &Region) {
    let header = region.header();
    let beyond = size_of::<Header>() as u64;
    let beyond = region.words(Offset(beyond), (HEADER_SIZE - beyond) as usize / size_of::<u64>());
    let history = std::slice::from_ref(&header.history.reserved);
    let words: [&[AtomicU64]; 6] = [
        std::slice::from_ref(&header.supervision.reserved),
        &header.gate.reserved,
        history,
        &header.door.reserved,
        region.unused_posts(),
        beyond.unwrap_or_default(),
    ];
    let pad = std::slice::from_ref(&header.supervision.pad);
    note_unused(wrongs, &words, &[&header.identity.reserved, pad, &header.demand.reserved]);
}

/// Whether this is somebody who can have closed the gate and will open it, or be repaired.
fn may_close(region: &Region, closer: Owner) -> bool {
    let standing = region.slot(closer.slot).map(Slot::standing);
    standing.is_some_and(|(generation, state)| generation == closer.generation && state != Some(State::Free))
}

pub(super) fn journal(region: &Region) -> Wrongs {
    let mut wrongs = Found::new();
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
    note_unused(&mut wrongs, &[&journal.reserved], &[]);
    at(&Place::Journal, wrongs)
}

pub(super) fn slot(region: &Region, index: SlotIndex, slot: &Slot) -> Wrongs {
    let mut wrongs = Found::new();
    if slot.standing().1.is_none() {
        let word = slot.owner.load(SeqCst);
        wrongs.push(("state", format!("its owner word is {word:#x}, which names no state")));
    }
    if let Err(bad) = check_logs(region, slots::owner(index, slot.standing().0)) {
        wrongs.push(("log", bad));
    }
    let open = slot.open.load(SeqCst);
    if open > gate::TOUCHED {
        wrongs.push(("open", format!("it says {open} of whether a transaction is under way")));
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
    wrongs.extend(users::cells(region, index, slot));
    let words: [&[AtomicU64]; 5] =
        [&slot.pad1, &slot.pad2, &slot.pad3, &slot.intent.reserved, &slot.knell.reserved];
    note_unused(&mut wrongs, &words, &[std::slice::from_ref(&slot.pad0), &slot.knell.pad]);
    at(&Place::Slot(index), wrongs)
}

fn note_counters(wrongs: &mut Found, slot: &Slot) {
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

/// What the layout says is zero.
fn note_unused(wrongs: &mut Found, words: &[&[AtomicU64]], halves: &[&[AtomicU32]]) {
    let words = words.iter().copied().flatten().any(|word| word.load(SeqCst) != 0);
    if words || halves.iter().copied().flatten().any(|half| half.load(SeqCst) != 0) {
        wrongs.push(("reserved", "words that nobody uses are not zero: somebody wrote there".to_owned()));
    }
}
