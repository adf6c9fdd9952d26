//! Takeover: what a former life left is repaired before anything else runs, and the journal goes on under a name that
//! no file has.
//!
//! The region may be the former life's, with the ring's entries of unsealed minutes still set, or fresh beside an old
//! spool, with an empty ring. Nothing here relies on either: what is to be sealed is found in the spool, where a
//! minute with our lock is an unsealed one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::Ordering::SeqCst;

use common::gate;
use common::ids::{Generation, Minute, Owner, SlotIndex};
use common::journal::OpenMinute;
use common::journal::seal::seal;
use common::journal::spool::Spool;
use common::layout::JournalState;
use common::region::Region;
use common::slots::{self, State};
use common::wire::control::Attached;

use crate::keeper;
use crate::repair::{Fate, Remains, Repairer, Setback, needs_repair};
use crate::tidy::tidy;
use crate::verify;

/// Names further ahead of the clock than this many minutes are not believed, unless the file is certainly ours: one
/// foreign `60000000.dat` would otherwise push all our names into its year for ever.
const BELIEVED_AHEAD: u64 = 24 * 60;

/// Why a region could not be taken over.
#[derive(Debug)]
pub enum Obstacle {
    /// A slot holds what cannot be repaired; what. The first of possibly several.
    Refused(Owner, String),
    /// The file system does not let it be done now. To be tried again from the start.
    Io(io::Error),
    /// The spool cannot be used as it is; a sentence.
    Spool(String),
}

impl From<io::Error> for Obstacle {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData => {
                Self::Spool(format!("{error}; write the number of the newest sealed minute into it, or 0"))
            }
            _ => Self::Io(error),
        }
    }
}

/// What a takeover found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TakenOver {
    /// How many slots were repaired.
    pub repaired: u32,
    /// What was left by those of their owners that died: live, and not detached cleanly.
    pub dead: Vec<Remains>,
    /// Those whose items cannot go back to their queues yet, and what became of their transactions. Nothing else is left in
    /// their slots.
    pub later: BTreeMap<Owner, Fate>,
}

/// Repairs every slot that holds something or is not free, looks whether the objects are whole, tidies the heap up, and
/// prepares the journal. Can be repeated from the start after a death at any instruction. Nobody else is at work but those
/// of `attached` that live: with them at it, what they are changing cannot be looked at, and the heap is tidied up another
/// time; and one that is stopped with a queue's lock keeps nobody from serving, only those slots whose items are to go back
/// there.
///
/// # Errors
/// [`Obstacle`].
pub fn take_over(region: &Region, spool: &Spool, attached: &[Attached]) -> Result<TakenOver, Obstacle> {
    let durable = spool.read_sealed()?;
    // Whoever took a checkpoint died with the supervisor, whoever the word names; and attached programs, which may live,
    // only look at it. First, since repair begins transactions.
    gate::throw_open(&region.header().gate.word, region.header().gate.word.load(SeqCst));
    let taken_over = repair_all(region, Repairer::new(region, spool).with_sealed(durable), attached)?;
    if !attached.iter().any(|client| client.lives) {
        // First, since it says which lock it is that keeps items from going back.
        check_objects(region)?;
        none_is_left(&taken_over)?;
        tidy_up(region);
    }
    prepare_journal(region, spool, durable)?;
    Ok(taken_over)
}

fn tidy_up(region: &Region) {
    match tidy(region) {
        Ok(tidied) => {
            log::debug!("{} deleted objects freed, {} slabs given back", tidied.dropped, tidied.slabs);
        }
        // It harms nobody, and `verify` says why.
        Err(error) => log::warn!("what deleted objects hold cannot be freed: {error}"),
    }
}

/// With every slot repaired and nobody at work the objects are whole, and no lock is held. Were they not, every
/// transaction that meets them would fail, or make it worse.
fn check_objects(region: &Region) -> Result<(), Obstacle> {
    let Some(finding) = verify::check_objects_at_rest(region).into_iter().next() else { return Ok(()) };
    // Nobody in particular is to blame: it is said of the first slot.
    let owner =
        slots::owner(SlotIndex(0), region.slot(SlotIndex(0)).map_or(Generation(0), |slot| slot.standing().0));
    Err(Obstacle::Refused(owner, format!("the objects are damaged: {finding}")))
}

/// Repairs every slot that holds something or is not free, when nobody runs any more but those of `attached` that live.
/// What was scribbled into slots that nobody owns would keep the journal from being sealed; items that cannot go back to
/// their queues yet do not.
///
/// # Errors
/// [`Obstacle`].
pub fn sweep(region: &Region, spool: &Spool, attached: &[Attached]) -> Result<TakenOver, Obstacle> {
    repair_all(region, Repairer::new(region, spool), attached)
}

/// With nobody at work nobody will ever give a lock back that the repair of all slots has not: to try again is in vain.
fn none_is_left(done: &TakenOver) -> Result<(), Obstacle> {
    let Some(owner) = done.later.keys().next() else { return Ok(()) };
    Err(Obstacle::Refused(
        *owner,
        "a queue that its items go back to is locked, and nobody has the lock".to_owned(),
    ))
}

/// One slot that cannot be repaired does not keep the others from it: what is sound is made whole in any case.
///
/// A second round finds the locks free that slots of the first held: an item goes back to its queue under its lock.
fn repair_all(region: &Region, repairer: Repairer<'_>, attached: &[Attached]) -> Result<TakenOver, Obstacle> {
    let mut done = TakenOver::default();
    // Whatever the first round settles of a slot that it must leave stays settled.
    if repair_each(region, repairer, attached, &mut done)? {
        repair_each(region, repairer, attached, &mut done)?;
    }
    Ok(done)
}

/// One round; true if another one may get further.
fn repair_each(
    region: &Region,
    repairer: Repairer<'_>,
    attached: &[Attached],
    done: &mut TakenOver,
) -> Result<bool, Obstacle> {
    let mut refused = None;
    for (index, slot) in region.slots().filter(|(_, slot)| needs_repair(slot)) {
        let (generation, state) = slot.standing();
        let owner = slots::owner(index, generation);
        let client = attached.iter().find(|client| client.owner == owner);
        if client.is_some_and(|client| client.lives) {
            continue;
        }
        let died =
            !slot.left_cleanly(generation) && (state != Some(State::Reserved) || !slot.holds_nothing());
        // What dies with its supervisor has not crashed; an attached program dies by itself.
        match repairer.repair(owner, client.is_some()) {
            Ok(remains) => {
                let settled = done.later.remove(&owner);
                if let Some(remains) = remains.map(|remains| remains.with(settled)) {
                    done.repaired += 1;
                    log::debug!("repaired {remains}");
                    done.dead.extend(died.then_some(remains));
                }
            }
            Err(Setback::Io(error)) => return Err(Obstacle::Io(error)),
            Err(Setback::Later(fate)) => {
                done.later.entry(owner).or_insert(fate);
            }
            Err(Setback::Damage(why)) => {
                refused.get_or_insert(Obstacle::Refused(owner, why));
            }
        }
    }
    refused.map_or(Ok(!done.later.is_empty()), Err)
}

fn prepare_journal(region: &Region, spool: &Spool, durable: Minute) -> Result<(), Obstacle> {
    let journal = &region.header().journal;
    let files = spool.minutes()?;
    let mut ours = BTreeSet::new();
    for file in files.iter().filter(|file| file.locked) {
        if spool.lock_is_ours(file.minute)? {
            ours.insert(file.minute);
        }
    }
    let before = journal.open_minute();
    let said = (journal.sealed_minute(), before.minute);
    let mut names = spool.dealt_with()?;
    names.extend(files.iter().map(|file| file.minute));
    let (sealed, open) = go_on_from(said, durable, &names, &ours, Minute::now());
    if sealed != said.0 && said.0 > durable {
        log::warn!(
            "the region says that minute {} is sealed; the spool says {durable} and is believed",
            said.0
        );
    }
    if sealed > durable {
        // The spool has lost its word, or is another one: no name is used again in either case.
        spool.write_sealed(sealed)?;
    }
    journal.sealed.store(sealed.0, SeqCst);
    drop_lost_entries(journal, &ours);
    journal.release_sealed_entries();
    // Starts that follow one another faster than minutes are sealed fill the ring. The newest minute goes on then, as the
    // open one would under the keeper: closed, it would leave nowhere to write to.
    let goes_on = !journal.has_room() && can_go_on(journal, before, open);
    journal.open.store(OpenMinute { minute: open, closed: !goes_on }.word(), SeqCst);
    keeper::account(journal, &files, spool.kept_bytes()?, sealed);
    if !goes_on && let Err(error) = make_room(region, spool, &ours) {
        log::warn!("cannot seal a minute of the journal: {error}; until one is, nothing is written");
    }
    Ok(())
}

/// Whether records may still be added to `minute`, one of ours and the newest: the ring has its entry, and it has not been
/// closed. It need not be the open one: whoever was opening it may have died before it was.
fn can_go_on(journal: &JournalState, before: OpenMinute, minute: Minute) -> bool {
    let was_closed = minute < before.minute || (minute == before.minute && before.closed);
    !was_closed && journal.claimed(minute).is_some()
}

/// Seals the oldest minutes if the ring is full, which is otherwise the keeper's: whoever writes does not wait for it then.
fn make_room(region: &Region, spool: &Spool, ours: &BTreeSet<Minute>) -> io::Result<()> {
    let journal = &region.header().journal;
    for &minute in ours {
        if journal.has_room() || keeper::holder(region, minute).is_some() {
            return Ok(());
        }
        seal(spool, minute)?;
        journal.sealed.store(journal.sealed_minute().max(minute).0, SeqCst);
        journal.release_sealed_entries();
    }
    Ok(())
}

/// From where the journal goes on: up to where it is sealed, and the minute that is closed. New records go under the
/// next name, which no file in the spool has, and the keeper seals what is before it.
fn go_on_from(
    (sealed, open): (Minute, Minute),
    durable: Minute,
    names: &[Minute],
    ours: &BTreeSet<Minute>,
    now: Minute,
) -> (Minute, Minute) {
    // The spool's word is durable and written by rename: it is believed, also where the clock was wrong once.
    let horizon = Minute(now.max(durable).0.saturating_add(BELIEVED_AHEAD));
    let believed = |minute: &Minute| *minute <= horizon || ours.contains(minute);
    let sealed = [durable, sealed].into_iter().filter(believed).max().unwrap_or(durable).max(durable);
    let named = names.iter().copied().chain([open]).filter(believed);
    (sealed, named.chain([sealed]).max().unwrap_or(sealed))
}

/// Frees the ring's entries of minutes that have no lock of ours any more: nobody would ever seal them, and the place
/// in the ring would be lost.
fn drop_lost_entries(journal: &JournalState, ours: &BTreeSet<Minute>) {
    for (entry, claims) in journal.ring.iter().zip(journal.ring_claims()) {
        if claims.is_none_or(|claims| !ours.contains(&claims.minute)) {
            entry.reserved.store(0, SeqCst);
            entry.tail.store(0, SeqCst);
        }
    }
}

#[cfg(test)]
mod tests;
