//! The repair of one dead owner: its half-done transaction is completed or undone, what it held is released, its
//! counters are shown, its slot is free. In six steps, each of which can be repeated from the first one on after a
//! death of the repairer at any instruction.
//!
//! Everything in the slot is an allegation by a process that may have been broken or hostile: all of it is validated
//! before the first store.

use std::io;
use std::sync::atomic::Ordering::{Acquire, SeqCst};
use std::time::Duration;

use common::gate;
use common::heap::{self, FREE};
use common::ids::{Minute, Owner, Pid};
use common::journal::intent::Verdict;
use common::journal::spool::Spool;
use common::layout::{NO_OFFSET, Slot, Tally};
use common::limits::{MAX_HELD, MAX_MINUTE_FILE, MAX_RECORD};
use common::lock;
use common::objects::in_flight;
use common::objects::waiting::wake_for_dead;
use common::planted::{self, Bug};
use common::region::Region;
use common::slots::{self, State, owner_word, read_owner_word};
use common::sys::knell;
use common::txn::{Seat, TxnError, may_be_logged, may_be_mini_logged};
use common::undo::{LogState, UndoLog};

/// How often the owner word may change under a repair. The supervisor changes it once, to DEAD.
const FREE_TRIES: usize = 8;

/// How long a queue's lock is waited for.
const QUEUE_PATIENCE: Duration = Duration::from_micros(500);

/// What a repaired owner left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    /// Whose it was.
    pub owner: Owner,
    /// Its process, as the slot names it.
    pub pid: Pid,
    /// What it said it was doing; empty where it said nothing.
    pub doing: String,
    /// What became of its transaction.
    pub transaction: Fate,
}

/// What becomes of a dead owner's transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// There was none.
    None,
    /// Its record stands: it was committed.
    Completed,
    /// It has no record: it was rolled back.
    RolledBack,
}

impl Remains {
    /// With what became of the transaction at an earlier step of the repair, if there was one.
    pub fn with(self, settled: Option<Fate>) -> Self {
        Self { transaction: settled.unwrap_or(self.transaction), ..self }
    }
}

/// Why a slot could not be repaired. It is not free then.
#[derive(Debug)]
pub enum Setback {
    /// It holds what no owner leaves; what. Nothing was changed, unless that showed in the journal, which is not read before
    /// the death is counted; or where the items that it had taken were put back to their queues, whose content nobody looks
    /// through before: then all but those items is settled.
    Damage(String),
    /// The file system does not let it be decided now. To be tried again.
    Io(io::Error),
    /// A queue that an item is to be put back to is locked by another. To be tried again, after the others. What became of the
    /// transaction is settled, and cannot be told another time.
    Later(Fate),
}

/// Whether there is anything to repair in a slot. One that says FREE and holds something has been scribbled over.
pub fn needs_repair(slot: &Slot) -> bool {
    slot.standing().1 != Some(State::Free) || !slot.holds_nothing()
}

/// What repairs: a region, and the spool that its records are in.
#[derive(Clone, Copy, Debug)]
pub struct Repairer<'r> {
    region: &'r Region,
    spool: &'r Spool,
    sealed: Minute,
}

impl<'r> Repairer<'r> {
    /// Repairs in this region and this spool.
    pub fn new(region: &'r Region, spool: &'r Spool) -> Self {
        Self { region, spool, sealed: Minute(0) }
    }

    /// The spool itself says that every minute up to this one is sealed, whatever the region says.
    pub fn with_sealed(self, sealed: Minute) -> Self {
        Self { sealed, ..self }
    }

    /// Repairs one owner's slot; `crashed`: it died without a farewell, and not together with its supervisor.
    /// `None` where there is nothing to repair: orders are sent again after a death of recovery.
    ///
    /// # Errors
    /// [`Setback`].
    pub fn repair(&self, owner: Owner, crashed: bool) -> Result<Option<Remains>, Setback> {
        let Some(corpse) = self.corpse(owner)? else { return Ok(None) };
        let (pid, doing) = (corpse.slot.pid(), corpse.slot.doing());
        // 1. Everything is validated before the first store.
        corpse.validate()?;
        corpse.count(crashed);
        let transaction = corpse.settle()?;
        // 5. Items that it had taken go back to their queues: in transactions of their own, which no record is of.
        corpse.put_items_back(transaction)?;
        // 6. The slot is free: last, since a slot that is free is not looked at again.
        corpse.free()?;
        Ok(Some(Remains { owner, pid, doing, transaction }))
    }

    /// The steps of a repair that others wait for, of an owner whose thread executes nothing any more, by the kernel's
    /// word, but is not reaped yet: everything but the counting of the death and the slot itself, which stay for the
    /// repair that the supervisor will order. `None` where the kernel does not say so.
    ///
    /// # Errors
    /// [`Setback`]. It will be met again by the repair.
    pub fn anticipate(&self, owner: Owner) -> Result<Option<Fate>, Setback> {
        let Some(corpse) = self.corpse(owner)?.filter(Corpse::is_ending) else { return Ok(None) };
        corpse.validate()?;
        if planted::has(Bug::AnticipatedByHalf) {
            corpse.release_locks();
            return Ok(Some(Fate::None));
        }
        corpse.settle().map(Some)
    }

    fn corpse(&self, owner: Owner) -> Result<Option<Corpse<'r>>, Setback> {
        let found = || {
            let (region, slot) = (self.region, owner.slot);
            let logs = (UndoLog::of(region, slot)?, UndoLog::mini_of(region, slot)?);
            Some((region.slot(slot)?, region.tally(slot)?, logs))
        };
        let Some((slot, tally, (log, mini))) = found() else {
            return Err(Setback::Damage(format!("the region has no slot {}", owner.slot)));
        };
        if slot.standing().0 != owner.generation || !needs_repair(slot) {
            return Ok(None);
        }
        let sealed = self.sealed.max(self.region.header().journal.sealed_minute());
        Ok(Some(Corpse { region: self.region, spool: self.spool, owner, slot, tally, log, mini, sealed }))
    }
}

/// A slot whose owner is dead.
struct Corpse<'r> {
    region: &'r Region,
    spool: &'r Spool,
    owner: Owner,
    slot: &'r Slot,
    tally: &'r Tally,
    log: UndoLog<'r>,
    mini: UndoLog<'r>,
    sealed: Minute,
}

impl Corpse<'_> {
    /// Whether the kernel says that the owner is at its end. The slot alone is not believed. An attached program may have
    /// more threads than one, and its first, which alone is asked about, may end before the one that has the slot: for such
    /// a program the supervisor waits, unless all others are gone.
    fn is_ending(&self) -> bool {
        self.is_ending_by(|slot, pid| {
            knell::is_ending(pid).unwrap_or(false)
                && (!slot.is_a_clients() || knell::is_down_to_one_thread(pid).unwrap_or(false))
        })
    }

    /// The slot is looked at once more after the kernel: whoever has ended may have left it before, and it may have been
    /// another's since. From a slot that still is a dead one's only the supervisor's order takes it, and to us.
    fn is_ending_by(&self, ask: impl FnOnce(&Slot, Pid) -> bool) -> bool {
        let slot = self.slot;
        self.is_lived_in() && slot.knell.has_tolled() && ask(slot, slot.pid()) && self.is_lived_in()
    }

    /// Whether somebody lives in the slot as this owner, or died there.
    fn is_lived_in(&self) -> bool {
        let (generation, state) = self.slot.standing();
        generation == self.owner.generation && matches!(state, Some(State::Live | State::Dead))
    }

    /// Steps 2 to 4.
    fn settle(&self) -> Result<Fate, Setback> {
        // 2. The logs: the small one first, then the transaction's, forward or back.
        if planted::has(Bug::ReleasedBeforeUndo) {
            self.release_locks();
        }
        let transaction = self.settle_logs()?;
        // 3. What it held: not before what it covered is whole.
        self.release_locks();
        // 4. The counters are shown, and the journal's minute is not held back any more.
        self.republish();
        // Nor is a checkpoint, or what waits for the end of one.
        self.leave_gate();
        Ok(transaction)
    }

    fn validate(&self) -> Result<(), Setback> {
        check_logs(self.region, self.owner).map_err(Setback::Damage)?;
        check_held(self.region, self.slot).map_err(Setback::Damage)?;
        check_in_flight(self.region, self.slot).map_err(Setback::Damage)?;
        check_intent(self.region, self.slot, self.sealed).map_err(Setback::Damage)
    }

    /// Counts the death and the repair, each once for this generation however often it is repaired. Before anything
    /// is repaired, because afterwards nobody could tell that there was something to repair.
    fn count(&self, crashed: bool) {
        let generation = self.owner.generation;
        let lived = matches!(self.slot.standing().1, None | Some(State::Live | State::Dead));
        if crashed {
            Slot::tally(&self.slot.crashes, generation);
        }
        if crashed || lived || !self.slot.holds_nothing() {
            Slot::tally(&self.slot.recoveries, generation);
        }
    }

    /// EMPTY with an intent in force is decided too: the record may stand, committed, or may never have counted.
    fn settle_logs(&self) -> Result<Fate, Setback> {
        let verdict = self.decide().map_err(|error| match error.kind() {
            // What stands in the range is another's, or the intent has changed since it was validated.
            io::ErrorKind::InvalidData => Setback::Damage(error.to_string()),
            _ => Setback::Io(error),
        })?;
        if !planted::has(Bug::MiniIgnored) && !self.mini.is_empty() {
            self.mini.undo(self.region);
        }
        let forward = verdict == Verdict::Forward && !planted::has(Bug::ForwardIgnored);
        match self.log.state() {
            Some(LogState::Empty) => Ok(Fate::None),
            Some(LogState::Active) if forward => {
                self.log.complete(self.region, self.owner.slot);
                Ok(Fate::Completed)
            }
            Some(LogState::Freeing) if !planted::has(Bug::FreeingUndone) => {
                self.log.finish_freeing(self.region, self.owner.slot);
                Ok(Fate::Completed)
            }
            Some(LogState::Active | LogState::Freeing) => {
                self.log.undo(self.region);
                Ok(Fate::RolledBack)
            }
            None => Err(Setback::Damage("its undo log is being changed by somebody".to_owned())),
        }
    }

    fn decide(&self) -> io::Result<Verdict> {
        let (intent, epoch) = (&self.slot.intent, self.region.epoch());
        if intent.holds_up_to(self.sealed) {
            // A sealed file is immutable: its verdict is read off, and nothing is blanked.
            return intent.read_verdict(self.spool, epoch, self.owner);
        }
        intent.decide(self.spool, epoch, self.owner)
    }

    /// The locks that it held: what they cover is whole again, and whoever waits is woken. Also where the lock is not
    /// its own any more: it may have given it back and not come to waking anybody.
    fn release_locks(&self) {
        let tag = lock::tag(self.owner);
        let held: Vec<u32> = slots::held(self.slot).collect();
        for (place, index) in held.into_iter().enumerate().rev() {
            if let Some(object) = self.region.object(index) {
                if lock::names(object.lock.load(Acquire), tag) && !planted::has(Bug::SequenceLeftOdd) {
                    lock::end_change(&object.seq);
                }
                lock::release_dead(&object.lock, tag);
                wake_for_dead(object);
            }
            self.slot.held_count.store(place as u32, SeqCst);
        }
    }

    fn republish(&self) {
        self.slot.publish();
        self.tally.publish_all();
        self.slot.intent.clear();
    }

    /// Its transaction has ended now. If it was itself taking a checkpoint, others may begin transactions again.
    fn leave_gate(&self) {
        gate::leave(&self.slot.open);
        if !planted::has(Bug::GateLeftClosed) {
            gate::reopen(&self.region.header().gate.word, lock::tag(self.owner));
        }
    }

    fn put_items_back(&self, transaction: Fate) -> Result<(), Setback> {
        if planted::has(Bug::InFlightForgotten) {
            return Ok(());
        }
        put_items_back(self.region, self.owner, self.slot, transaction)
    }

    fn free(&self) -> Result<(), Setback> {
        let free = owner_word(self.owner.generation, State::Free);
        for _ in 0..FREE_TRIES {
            let word = self.slot.owner.load(SeqCst);
            if word == free || read_owner_word(word).0 != self.owner.generation {
                return Ok(());
            }
            if self.slot.owner.compare_exchange(word, free, SeqCst, SeqCst).is_ok() {
                return Ok(());
            }
        }
        Err(Setback::Damage("its owner word is being changed by somebody".to_owned()))
    }
}

/// Puts the items back that an owner has taken, who is dead and whose logs are empty. Waits hardly at all for a queue's
/// lock: who holds it may be dead too, and be repaired next. `transaction` is what became of theirs.
pub(crate) fn put_items_back(
    region: &Region,
    owner: Owner,
    slot: &Slot,
    transaction: Fate,
) -> Result<(), Setback> {
    if slot.in_flight.iter().all(|said| said.item.load(Acquire) == 0) {
        return Ok(());
    }
    let Some(mut seat) = Seat::of_dead(region, owner) else {
        return Err(Setback::Damage("its undo log is being changed by somebody".to_owned()));
    };
    match seat.put_all_back(QUEUE_PATIENCE) {
        Ok(_) => Ok(()),
        Err(TxnError::Busy) => Err(Setback::Later(transaction)),
        Err(error) => Err(Setback::Damage(format!("what it had taken cannot be put back: {error}"))),
    }
}

/// Whether both logs are ones that a transaction of this owner leaves.
pub(crate) fn check_logs(region: &Region, owner: Owner) -> Result<(), String> {
    if let Some(log) = UndoLog::of(region, owner.slot) {
        log.validate(|record| may_be_logged(region, owner, record)).map_err(|bad| bad.0)?;
    }
    if let Some(mini) = UndoLog::mini_of(region, owner.slot) {
        let checked = mini.validate(|record| may_be_mini_logged(region, owner, record));
        checked.map_err(|bad| format!("in the small log: {}", bad.0))?;
        if mini.state() == Some(LogState::Freeing) {
            return Err("the small log is FREEING, which it never is".to_owned());
        }
    }
    Ok(())
}

/// Whether the held list is one that an owner leaves.
pub(crate) fn check_held(region: &Region, slot: &Slot) -> Result<(), String> {
    let count = slot.held_count.load(Acquire) as usize;
    if count > MAX_HELD {
        return Err(format!("it holds {count} locks, more than the {MAX_HELD} that it could"));
    }
    match slots::held(slot).find(|index| region.object(*index).is_none()) {
        Some(index) => Err(format!("it holds lock {index}, and there is no such lock")),
        None => Ok(()),
    }
}

/// Whether the items that it says it has taken are some: blocks in use, and long enough.
pub(crate) fn check_in_flight(region: &Region, slot: &Slot) -> Result<(), String> {
    for taken in in_flight::taken(region, slot) {
        let block = heap::block_at(region, taken.offset);
        let size = in_flight::size(region, &taken);
        let possible = block
            .zip(size)
            .is_some_and(|(block, size)| size <= block.size && block.state.load(Acquire) != FREE);
        if !possible {
            return Err(format!("it says that it has taken an item at {}, and there is none", taken.offset));
        }
    }
    Ok(())
}

/// Whether an intent is one that a writer makes: a range within a record's bounds, claimed in a minute not sealed.
/// A range that nobody claimed may be claimed by a living writer next, so it must never be filled with blanks.
pub(crate) fn check_intent(region: &Region, slot: &Slot, sealed: Minute) -> Result<(), String> {
    let minute = Minute(slot.intent.minute.load(Acquire));
    let (off, len) = (slot.intent.off.load(Acquire), slot.intent.len.load(Acquire));
    if minute.0 == 0 || off == NO_OFFSET {
        return Ok(());
    }
    if len > MAX_RECORD as u64 || off > MAX_MINUTE_FILE - len {
        return Err(format!("the journal intent names {len} bytes at {off}, which is impossible"));
    }
    let claimed = region.header().journal.claimed(minute);
    if minute > sealed && claimed.is_none_or(|tail| off + len > tail) {
        return Err(format!(
            "the journal intent names {len} bytes at {off} of minute {minute}, which nobody has claimed"
        ));
    }
    Ok(())
}

impl std::fmt::Display for Remains {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {})", self.owner, self.pid)?;
        f.write_str(match self.transaction {
            Fate::None => ": it had no transaction under way",
            Fate::Completed => ": its transaction was completed",
            Fate::RolledBack => ": its transaction was rolled back",
        })?;
        if self.doing.is_empty() { Ok(()) } else { write!(f, "; it was at: {}", self.doing) }
    }
}

#[cfg(test)]
mod tests;
