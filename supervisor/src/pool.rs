//! The supervisor's own book of who is in which slot. What the region says is compared with it and never believed.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering::SeqCst;

use common::ids::{Generation, Owner, Pid, SlotIndex};
use common::region::Region;
use common::slots::{self, Activity, State};
use common::sys::process::Ending;
use serde::{Deserialize, Serialize};

use crate::policy::{Clock, Counts};

mod attached;
pub use attached::Departure;

mod occupation;
pub use occupation::Overdue;

mod packed;
pub use packed::PackedPool;

#[cfg(test)]
mod tests;

/// All who start are looked at so often at least while more are made.
const LOOK_EVERY: Clock = Clock::from_millis(100);

/// Where a slot stands, as the supervisor knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Nobody's.
    Free,
    /// Promised; the template has been asked for the process.
    Reserved,
    /// A process that is not ready yet and is killed at the given time, should it not be by then.
    Starting(Pid, Clock),
    /// A process that serves.
    Ready(Pid),
    /// A process that was asked to leave.
    Retiring(Pid, Leave),
    /// A process that this supervisor has killed.
    Killed(Pid),
    /// A process of this supervisor that is no worker has it.
    Lent,
    /// An attached program, which is nobody's child.
    Attached,
    /// Its process is dead; it waits for repair.
    Dead,
}

/// How long a process that was asked to leave may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leave {
    /// It is asked once more then, and does not wait for its client to pause any longer.
    pub press_at: Clock,
    /// It is killed then.
    pub kill_at: Clock,
}

/// What the supervisor knows of a slot.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Entry {
    generation: Generation,
    template: u32,
    standing: Standing,
}

/// How far a starting worker has come.
enum Progress {
    /// It is not ready yet.
    Under,
    Ready(Pid),
    /// It does not start any more.
    Over,
}

/// What the death of a process means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// A worker that had been ready and did not detach: a crash.
    Crashed(Owner),
    /// A worker that this supervisor killed: no crash, but to be repaired like one.
    Felled(Owner),
    /// A worker that died before it was ready and had nothing yet; its slot is free again, unless it holds something
    /// that it cannot have from this worker: then it is to be repaired.
    Young(Option<Owner>),
    /// A worker that detached cleanly after it was asked to; its slot is free again.
    Left,
    /// A worker that detached cleanly of its own accord; its slot is free again.
    LeftUnasked,
    /// Not (yet) known; kept until the template says whose it was.
    Unknown,
}

/// The book.
#[derive(Debug)]
pub struct Pool {
    entries: Vec<Entry>,
    by_pid: HashMap<Pid, SlotIndex>,
    free: Vec<SlotIndex>,
    /// Those that are not ready yet, in the order in which they were promised.
    starting: VecDeque<SlotIndex>,
    /// When all of them are to be looked at.
    look_due: Clock,
    /// The one that has been promised and has no process yet: there is one at a time.
    reserved: Option<SlotIndex>,
    /// Deaths while the template's reply is awaited: the dead one may be the process that it will name.
    unknown_dead: HashMap<Pid, Ending>,
    /// Workers of templates before this one are outdated.
    oldest_serving: u32,
    /// What the policy wants to know, kept up with every change: the loop asks at each turn.
    counts: Counts,
    /// How many are asked to leave.
    retiring: u32,
    /// How many are attached programs'.
    attached: u32,
}

impl Pool {
    /// The book of a region whose slots are all free.
    pub fn of(region: &Region) -> Self {
        let entries: Vec<_> = region
            .slots()
            .map(|(_, slot)| Entry { generation: slot.standing().0, template: 0, standing: Standing::Free })
            .collect();
        // The lowest slot last, since the free ones are taken from the end.
        let free: Vec<_> = (0..entries.len() as u32).rev().map(SlotIndex).collect();
        Self {
            entries,
            by_pid: HashMap::new(),
            counts: Counts { free_slots: free.len() as u32, ..Counts::default() },
            free,
            starting: VecDeque::new(),
            look_due: Clock::ZERO,
            reserved: None,
            unknown_dead: HashMap::new(),
            oldest_serving: 0,
            retiring: 0,
            attached: 0,
        }
    }

    /// What the policy wants to know.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The one way for a slot to change its standing.
    fn stand(&mut self, index: SlotIndex, standing: Standing) -> Standing {
        let entry = &mut self.entries[index.0 as usize];
        let before = std::mem::replace(&mut entry.standing, standing);
        let outdated = entry.template < self.oldest_serving;
        if before == Standing::Reserved {
            self.reserved = None;
        }
        if standing == Standing::Reserved {
            self.reserved = Some(index);
        }
        for (standing, change) in [(before, u32::MAX), (standing, 1)] {
            let count = match standing {
                Standing::Free => &mut self.counts.free_slots,
                Standing::Reserved | Standing::Starting(..) => &mut self.counts.starting,
                Standing::Ready(_) if outdated => &mut self.counts.outdated,
                Standing::Ready(_) => &mut self.counts.ready,
                Standing::Retiring(..) => &mut self.retiring,
                Standing::Attached => &mut self.attached,
                Standing::Killed(_) | Standing::Lent | Standing::Dead => continue,
            };
            *count = count.wrapping_add(change);
        }
        before
    }

    /// The slot of an owner, if the book has it in that generation, and how it stands.
    fn standing(&self, owner: Owner) -> Option<Standing> {
        let entry = self.entries.get(owner.slot.0 as usize)?;
        (entry.generation == owner.generation).then_some(entry.standing)
    }

    /// Whether every process of the pool is gone and every slot repaired. Attached programs may be there still.
    pub fn is_empty(&self) -> bool {
        self.free.len() + self.attached as usize == self.entries.len()
    }

    /// Workers cloned from templates before this one are outdated from now on.
    pub fn outdate_before(&mut self, template: u32) {
        self.oldest_serving = template;
        let ready = |entry: &&Entry| matches!(entry.standing, Standing::Ready(_));
        let serving = self.entries.iter().filter(ready).filter(|entry| entry.template >= template).count();
        self.counts.outdated += self.counts.ready - serving as u32;
        self.counts.ready = serving as u32;
    }

    /// Promises a free slot to a process that `template` is to make.
    pub fn reserve(&mut self, region: &Region, template: u32) -> Option<Owner> {
        let owner = self.next_owner()?;
        self.entries[owner.slot.0 as usize].template = template;
        region.slot(owner.slot)?.reserve(owner.generation, template);
        self.stand(owner.slot, Standing::Reserved);
        self.starting.push_back(owner.slot);
        Some(owner)
    }

    /// Takes a free slot for its next generation.
    fn next_owner(&mut self) -> Option<Owner> {
        let index = self.free.pop()?;
        let entry = &mut self.entries[index.0 as usize];
        entry.generation = Generation(entry.generation.0.wrapping_add(1));
        Some(slots::owner(index, entry.generation))
    }

    /// Lends a free slot to a process that is no worker, until [`Pool::given_back`].
    pub fn lend(&mut self, region: &Region, activity: Activity) -> Option<Owner> {
        let index = self.free.pop()?;
        let entry = &mut self.entries[index.0 as usize];
        entry.generation = Generation(entry.generation.0.wrapping_add(1));
        let owner = slots::owner(index, entry.generation);
        region.slot(index)?.reserve_as(owner.generation, 0, activity);
        self.stand(index, Standing::Lent);
        Some(owner)
    }

    /// The process that a slot was lent to is gone. Gives the owner if the slot is to be repaired.
    #[must_use]
    pub fn given_back(&mut self, region: &Region, owner: Owner) -> Option<Owner> {
        if self.standing(owner) != Some(Standing::Lent) {
            return None;
        }
        let slot = region.slot(owner.slot)?;
        if slot.left_cleanly(owner.generation) && slot.shift(owner.generation, State::Left, State::Free) {
            self.release(owner.slot);
            return None;
        }
        self.take_back(region, owner)
    }

    /// The promised process exists, and is to be ready by `deadline`. Gives how it ended if it has done so already.
    pub fn spawned(&mut self, owner: Owner, pid: Pid, deadline: Clock) -> Option<Ending> {
        if self.standing(owner)? != Standing::Reserved {
            return None;
        }
        self.stand(owner.slot, Standing::Starting(pid, deadline));
        self.by_pid.insert(pid, owner.slot);
        let ended = self.unknown_dead.remove(&pid);
        // One spawn is outstanding at a time, so no other reply can name any of these: forget them before their pids
        // are used again.
        self.unknown_dead.clear();
        ended
    }

    /// The slot that has been promised and whose process is not known yet.
    pub fn reserved(&self) -> Option<Owner> {
        let index = self.reserved?;
        Some(slots::owner(index, self.entries[index.0 as usize].generation))
    }

    /// The promised process could not be made, or it is not known whether it was: the slot is taken back. False
    /// where a process has taken it: then it is repaired when that process ends.
    pub fn withdraw(&mut self, region: &Region, owner: Owner) -> bool {
        if self.standing(owner) != Some(Standing::Reserved) {
            return false;
        }
        let taken_back = region
            .slot(owner.slot)
            .is_some_and(|slot| slot.shift(owner.generation, State::Reserved, State::Free));
        if taken_back {
            self.release(owner.slot);
            self.unknown_dead.clear();
        }
        taken_back
    }

    /// The promised process does not exist, and never will. Gives the owner if the slot is to be repaired: it is not as
    /// it was promised.
    #[must_use]
    pub fn abandon(&mut self, region: &Region, owner: Owner) -> Option<Owner> {
        if self.standing(owner) != Some(Standing::Reserved) {
            return None;
        }
        self.unknown_dead.clear();
        self.take_back(region, owner)
    }

    fn take_back(&mut self, region: &Region, owner: Owner) -> Option<Owner> {
        region.leave_door(owner.slot);
        let slot = region.slot(owner.slot)?;
        if slot.holds_nothing() && slot.shift(owner.generation, State::Reserved, State::Free) {
            self.release(owner.slot);
            return None;
        }
        self.stand(owner.slot, Standing::Dead);
        slot.owner.store(slots::owner_word(owner.generation, State::Dead), SeqCst);
        Some(owner)
    }

    /// The slots that no worker has.
    pub fn without_worker(&self) -> impl Iterator<Item = SlotIndex> {
        let no_workers = |standing| {
            matches!(standing, Standing::Free | Standing::Lent | Standing::Attached | Standing::Dead)
        };
        let slots = (0..).map(SlotIndex).zip(&self.entries);
        slots.filter(move |(_, entry)| no_workers(entry.standing)).map(|(slot, _)| slot)
    }

    /// Whether a pid is in the book already.
    pub fn knows(&self, pid: Pid) -> bool {
        self.by_pid.contains_key(&pid)
    }

    /// Whether a pid has died while its template's reply was awaited.
    pub fn has_seen_die(&self, pid: Pid) -> bool {
        self.unknown_dead.contains_key(&pid)
    }

    /// Looks which of the starting workers are ready, the oldest first, until one is not; gives how many are. Of thousands
    /// that start together each is looked at a few times then, and not once for each of the others. From time to time all are
    /// looked at: somebody may be ready whose elder never will be.
    pub fn note_oldest_ready(&mut self, region: &Region, now: Clock) -> u32 {
        if now >= self.look_due {
            self.look_due = now + LOOK_EVERY;
            return self.note_all_ready(region);
        }
        self.note_in_order(region)
    }

    /// The same, and looks at all where the oldest is not ready.
    pub fn note_ready(&mut self, region: &Region) -> u32 {
        let oldest = self.note_in_order(region);
        if oldest > 0 { oldest } else { self.note_all_ready(region) }
    }

    fn note_in_order(&mut self, region: &Region) -> u32 {
        let mut ready = 0;
        while let Some(index) = self.starting.front().copied() {
            match self.progress(region, index) {
                Progress::Under => break,
                Progress::Over => {}
                Progress::Ready(pid) => {
                    self.stand(index, Standing::Ready(pid));
                    ready += 1;
                }
            }
            self.starting.pop_front();
        }
        ready
    }

    /// Looks at everybody who starts.
    pub fn note_all_ready(&mut self, region: &Region) -> u32 {
        let mut ready = 0;
        let mut starting = std::mem::take(&mut self.starting);
        starting.retain(|index| match self.progress(region, *index) {
            Progress::Under => true,
            Progress::Over => false,
            Progress::Ready(pid) => {
                self.stand(*index, Standing::Ready(pid));
                ready += 1;
                false
            }
        });
        self.starting = starting;
        ready
    }

    fn progress(&self, region: &Region, index: SlotIndex) -> Progress {
        let Entry { generation, standing, .. } = self.entries[index.0 as usize];
        let is_live = || region.slot(index).is_some_and(|slot| slot.is(generation, State::Live));
        match standing {
            Standing::Starting(pid, _) if is_live() => Progress::Ready(pid),
            Standing::Starting(..) | Standing::Reserved => Progress::Under,
            _ => Progress::Over,
        }
    }

    /// A process has been reaped.
    pub fn died(&mut self, region: &Region, pid: Pid, ending: Ending) -> Death {
        let Some(index) = self.by_pid.remove(&pid) else {
            if self.reserved().is_some() {
                self.unknown_dead.insert(pid, ending);
            }
            return Death::Unknown;
        };
        let owner = slots::owner(index, self.entries[index.0 as usize].generation);
        let before = self.stand(index, Standing::Dead);
        region.leave_door(index);
        let Some(slot) = region.slot(index) else { return Death::Crashed(owner) };
        if slot.is(owner.generation, State::Reserved) {
            return Death::Young(self.take_back(region, owner));
        }
        if slot.left_cleanly(owner.generation) && slot.shift(owner.generation, State::Left, State::Free) {
            self.release(index);
            return if matches!(before, Standing::Ready(_)) { Death::LeftUnasked } else { Death::Left };
        }
        // Dead until repaired. Whatever the word says now: the book says that its owner is gone.
        slot.owner.store(slots::owner_word(owner.generation, State::Dead), SeqCst);
        if matches!(before, Standing::Killed(_)) { Death::Felled(owner) } else { Death::Crashed(owner) }
    }

    /// Whether a slot waits for repair in this generation.
    pub fn awaits_repair(&self, owner: Owner) -> bool {
        self.standing(owner) == Some(Standing::Dead)
    }

    /// A dead slot has been repaired.
    pub fn repaired(&mut self, owner: Owner) {
        if self.awaits_repair(owner) {
            self.release(owner.slot);
        }
    }

    /// Picks workers to retire, outdated and other ones: of those that serve nobody, as it seems, and then of the rest,
    /// those in the last slots.
    pub fn retire(&mut self, region: &Region, outdated: u32, surplus: u32, leave: Leave) -> Vec<Pid> {
        let (mut outdated, mut surplus) = (outdated, surplus);
        let mut leaving = Vec::new();
        for only_idle in [true, false] {
            for index in (0..self.entries.len() as u32).rev().map(SlotIndex) {
                let Entry { template, standing: Standing::Ready(pid), .. } = self.entries[index.0 as usize]
                else {
                    continue;
                };
                let quota = if template < self.oldest_serving { &mut outdated } else { &mut surplus };
                if *quota > 0 && (!only_idle || occupation::is_idle(region, index)) {
                    *quota -= 1;
                    self.stand(index, Standing::Retiring(pid, leave));
                    leaving.push(pid);
                }
            }
        }
        leaving
    }

    /// Every process that lives and has not been killed is to be killed now.
    pub fn fell_all(&mut self) -> Vec<Pid> {
        self.fell(|_| true).into_iter().map(|(_, pid)| pid).collect()
    }

    /// Workers whose time for getting ready, or for leaving, is over are to be killed now.
    pub fn fell_overdue(&mut self, now: Clock) -> Vec<(SlotIndex, Pid)> {
        if self.next_start_deadline().is_none_or(|deadline| deadline > now) && self.retiring == 0 {
            return Vec::new();
        }
        self.fell(|standing| match standing {
            Standing::Starting(_, deadline) => deadline <= now,
            Standing::Retiring(_, leave) => leave.kill_at <= now,
            _ => false,
        })
    }

    fn fell(&mut self, chosen: impl Fn(Standing) -> bool) -> Vec<(SlotIndex, Pid)> {
        let mut felled = Vec::new();
        for index in (0..self.entries.len() as u32).map(SlotIndex) {
            let standing = self.entries[index.0 as usize].standing;
            if let Standing::Starting(pid, _) | Standing::Ready(pid) | Standing::Retiring(pid, _) = standing
                && chosen(standing)
            {
                self.stand(index, Standing::Killed(pid));
                felled.push((index, pid));
            }
        }
        felled
    }

    /// Retiring workers that are to be asked once more now.
    pub fn press(&mut self, now: Clock) -> Vec<Pid> {
        let mut pressed = Vec::new();
        if self.retiring > 0 {
            for entry in &mut self.entries {
                if let Standing::Retiring(pid, leave) = &mut entry.standing
                    && leave.press_at <= now
                {
                    leave.press_at = Clock::MAX;
                    pressed.push(*pid);
                }
            }
        }
        pressed
    }

    /// When the next worker is to be asked once more or killed.
    pub fn next_deadline(&self) -> Option<Clock> {
        let leaving = |entry: &Entry| match entry.standing {
            Standing::Retiring(_, leave) => Some(leave.press_at.min(leave.kill_at)),
            _ => None,
        };
        let next_leaving =
            if self.retiring > 0 { self.entries.iter().filter_map(leaving).min() } else { None };
        next_leaving.into_iter().chain(self.next_start_deadline()).min()
    }

    /// Of those that start, the oldest's: all have as long.
    fn next_start_deadline(&self) -> Option<Clock> {
        self.starting.iter().find_map(|slot| match self.entries[slot.0 as usize].standing {
            Standing::Starting(_, deadline) => Some(deadline),
            _ => None,
        })
    }

    /// Whether no process of the pool is left, repaired or not.
    pub fn has_no_process(&self) -> bool {
        self.by_pid.is_empty() && self.reserved().is_none()
    }

    fn release(&mut self, index: SlotIndex) {
        self.stand(index, Standing::Free);
        self.starting.retain(|starting| *starting != index);
        self.free.push(index);
    }
}
