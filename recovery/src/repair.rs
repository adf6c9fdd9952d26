//! The repair of one dead owner: its half-done transaction is completed or undone, what it held is released, its
//! counters are shown, its slot is free. In five steps, each of which can be repeated from the first one on after a
//! death of the repairer at any instruction.
//!
//! Everything in the slot is an allegation by a process that may have been broken or hostile: all of it is validated
//! before the first store.

use std::io;
use std::sync::atomic::Ordering::{Acquire, SeqCst};

use common::ids::{Minute, Owner, Pid};
use common::journal::intent::Verdict;
use common::journal::spool::Spool;
use common::layout::{NO_OFFSET, Slot};
use common::limits::{MAX_MINUTE_FILE, MAX_RECORD};
use common::region::Region;
use common::slots::{State, owner_word, read_owner_word};
use common::txn::is_own_counter;
use common::undo::UndoLog;

/// How often the owner word may change under a repair. The supervisor changes it once, to DEAD.
const FREE_TRIES: usize = 8;

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

/// Why a slot could not be repaired. It is not free then.
#[derive(Debug)]
pub enum Setback {
    /// It holds what no owner leaves; what. Nothing was changed.
    Damage(String),
    /// The file system does not let it be decided now. To be tried again.
    Io(io::Error),
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
        // 2. The logs: the small one first, then the transaction's, forward or back.
        let transaction = corpse.settle_logs()?;
        // 3. What it held.
        corpse.release_locks();
        // 4. The counters are shown, and the journal's minute is not held back any more.
        corpse.republish();
        // 5. The slot is free: last, since a slot that is free is not looked at again.
        corpse.free()?;
        Ok(Some(Remains { owner, pid, doing, transaction }))
    }

    fn corpse(&self, owner: Owner) -> Result<Option<Corpse<'r>>, Setback> {
        let found = self.region.slot(owner.slot).zip(UndoLog::of(self.region, owner.slot));
        let Some((slot, log)) = found else {
            return Err(Setback::Damage(format!("the region has no slot {}", owner.slot)));
        };
        if slot.standing().0 != owner.generation || !needs_repair(slot) {
            return Ok(None);
        }
        let sealed = self.sealed.max(self.region.header().journal.sealed_minute());
        Ok(Some(Corpse { region: self.region, spool: self.spool, owner, slot, log, sealed }))
    }
}

/// A slot whose owner is dead.
struct Corpse<'r> {
    region: &'r Region,
    spool: &'r Spool,
    owner: Owner,
    slot: &'r Slot,
    log: UndoLog<'r>,
    sealed: Minute,
}

impl Corpse<'_> {
    fn validate(&self) -> Result<(), Setback> {
        self.log
            .validate(|target| is_own_counter(self.region, self.owner.slot, target))
            .map_err(|bad| Setback::Damage(bad.0))?;
        // No slabs yet, so nobody writes a small log; no objects yet, so nobody holds a lock.
        let (mini, held) = (self.slot.mini.load(Acquire), self.slot.held_count.load(Acquire));
        if mini != 0 {
            return Err(Setback::Damage(format!(
                "the small undo log's word is {mini:#x}, which is no state"
            )));
        }
        if held != 0 {
            return Err(Setback::Damage(format!("it holds {held} locks, and there are none to hold")));
        }
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
            // The intent has changed since it was validated.
            io::ErrorKind::InvalidData => Setback::Damage(error.to_string()),
            _ => Setback::Io(error),
        })?;
        if self.log.is_empty() {
            return Ok(Fate::None);
        }
        match verdict {
            Verdict::Forward => {
                self.log.commit();
                Ok(Fate::Completed)
            }
            Verdict::Back => {
                self.log.undo(self.region);
                Ok(Fate::RolledBack)
            }
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

    /// The locks of the held list. There are no objects yet, and `validate` has seen that the list is empty.
    fn release_locks(&self) {
        self.slot.held_count.store(0, SeqCst);
    }

    fn republish(&self) {
        self.slot.publish();
        self.slot.intent.clear();
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
