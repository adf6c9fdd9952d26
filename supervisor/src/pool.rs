//! The supervisor's own book of who is in which slot. What the region says is compared with it and never believed.

use std::collections::HashMap;
use std::sync::atomic::Ordering::SeqCst;

use common::ids::{Generation, Owner, Pid, SlotIndex};
use common::region::Region;
use common::slots::{self, State};
use common::sys::process::Ending;

use crate::policy::{Clock, Counts};

/// Where a slot stands, as the supervisor knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody's.
    Free,
    /// Promised; the template has been asked for the process.
    Reserved,
    /// A process that is not ready yet.
    Starting(Pid),
    /// A process that serves.
    Ready(Pid),
    /// A process that was asked to leave and is killed at the given time.
    Retiring(Pid, Clock),
    /// A process that this supervisor has killed.
    Killed(Pid),
    /// Its process is dead; it waits for repair.
    Dead,
}

/// What the supervisor knows of a slot.
#[derive(Clone, Copy, Debug)]
struct Entry {
    generation: Generation,
    template: u32,
    standing: Standing,
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
    starting: Vec<SlotIndex>,
    /// Deaths while the template's reply is awaited: the dead one may be the process that it will name.
    unknown_dead: HashMap<Pid, Ending>,
    /// Workers of templates before this one are outdated.
    oldest_serving: u32,
    /// What the policy wants to know, kept up with every change: the loop asks at each turn.
    counts: Counts,
    /// How many are asked to leave.
    retiring: u32,
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
            starting: Vec::new(),
            unknown_dead: HashMap::new(),
            oldest_serving: 0,
            retiring: 0,
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
        for (standing, change) in [(before, u32::MAX), (standing, 1)] {
            let count = match standing {
                Standing::Free => &mut self.counts.free_slots,
                Standing::Reserved | Standing::Starting(_) => &mut self.counts.starting,
                Standing::Ready(_) if outdated => &mut self.counts.outdated,
                Standing::Ready(_) => &mut self.counts.ready,
                Standing::Retiring(..) => &mut self.retiring,
                Standing::Killed(_) | Standing::Dead => continue,
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

    /// Whether every process is gone and every slot repaired.
    pub fn is_empty(&self) -> bool {
        self.free.len() == self.entries.len()
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
        let index = self.free.pop()?;
        let entry = &mut self.entries[index.0 as usize];
        entry.generation = Generation(entry.generation.0.wrapping_add(1));
        entry.template = template;
        let owner = slots::owner(index, entry.generation);
        region.slot(index)?.reserve(owner.generation, template);
        self.stand(index, Standing::Reserved);
        self.starting.push(index);
        Some(owner)
    }

    /// The promised process exists. Gives how it ended if it has done so already.
    pub fn spawned(&mut self, owner: Owner, pid: Pid) -> Option<Ending> {
        if self.standing(owner)? != Standing::Reserved {
            return None;
        }
        self.stand(owner.slot, Standing::Starting(pid));
        self.by_pid.insert(pid, owner.slot);
        let ended = self.unknown_dead.remove(&pid);
        // One spawn is outstanding at a time, so no other reply can name any of these: forget them before their pids
        // are used again.
        self.unknown_dead.clear();
        ended
    }

    /// The slot that has been promised and whose process is not known yet.
    pub fn reserved(&self) -> Option<Owner> {
        let index = *self
            .starting
            .iter()
            .find(|slot| self.entries[slot.0 as usize].standing == Standing::Reserved)?;
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
        let slot = region.slot(owner.slot)?;
        if slot.holds_nothing() && slot.shift(owner.generation, State::Reserved, State::Free) {
            self.release(owner.slot);
            return None;
        }
        self.stand(owner.slot, Standing::Dead);
        slot.owner.store(slots::owner_word(owner.generation, State::Dead), SeqCst);
        Some(owner)
    }

    /// Whether a pid is in the book already.
    pub fn knows(&self, pid: Pid) -> bool {
        self.by_pid.contains_key(&pid)
    }

    /// Whether a pid has died while its template's reply was awaited.
    pub fn has_seen_die(&self, pid: Pid) -> bool {
        self.unknown_dead.contains_key(&pid)
    }

    /// Looks which of the starting workers are ready; gives how many.
    pub fn note_ready(&mut self, region: &Region) -> u32 {
        let mut ready = 0;
        let mut index = 0;
        while index < self.starting.len() {
            let place = self.starting[index];
            let Entry { generation, standing, .. } = self.entries[place.0 as usize];
            let live = region.slot(place).is_some_and(|slot| slot.is(generation, State::Live));
            match standing {
                Standing::Starting(pid) if live => {
                    self.stand(place, Standing::Ready(pid));
                    self.starting.swap_remove(index);
                    ready += 1;
                }
                Standing::Starting(_) | Standing::Reserved => index += 1,
                _ => {
                    self.starting.swap_remove(index);
                }
            }
        }
        ready
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

    /// Picks workers to retire: outdated ones, or those of the youngest slots. They are to be killed at `deadline`.
    pub fn retire(&mut self, outdated: u32, surplus: u32, deadline: Clock) -> Vec<Pid> {
        let (mut outdated, mut surplus) = (outdated, surplus);
        let mut leaving = Vec::new();
        for index in (0..self.entries.len() as u32).rev().map(SlotIndex) {
            let Entry { template, standing: Standing::Ready(pid), .. } = self.entries[index.0 as usize]
            else {
                continue;
            };
            let quota = if template < self.oldest_serving { &mut outdated } else { &mut surplus };
            if *quota > 0 {
                *quota -= 1;
                self.stand(index, Standing::Retiring(pid, deadline));
                leaving.push(pid);
            }
        }
        leaving
    }

    /// Every process that lives and has not been killed is to be killed now.
    pub fn fell_all(&mut self) -> Vec<Pid> {
        self.fell(|_| true)
    }

    /// Retiring workers whose time is over are to be killed now.
    pub fn fell_overdue(&mut self, now: Clock) -> Vec<Pid> {
        if self.retiring == 0 {
            return Vec::new();
        }
        self.fell(|standing| matches!(standing, Standing::Retiring(_, deadline) if deadline <= now))
    }

    fn fell(&mut self, chosen: impl Fn(Standing) -> bool) -> Vec<Pid> {
        let mut felled = Vec::new();
        for index in (0..self.entries.len() as u32).map(SlotIndex) {
            let standing = self.entries[index.0 as usize].standing;
            if let Standing::Starting(pid) | Standing::Ready(pid) | Standing::Retiring(pid, _) = standing
                && chosen(standing)
            {
                self.stand(index, Standing::Killed(pid));
                felled.push(pid);
            }
        }
        felled
    }

    /// When the next retiring worker's time is over.
    pub fn next_deadline(&self) -> Option<Clock> {
        if self.retiring == 0 {
            return None;
        }
        let deadlines = self.entries.iter().filter_map(|entry| match entry.standing {
            Standing::Retiring(_, deadline) => Some(deadline),
            _ => None,
        });
        deadlines.min()
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Clock = Clock::from_secs(1);
    const SEGV: Ending = Ending::Killed(11);
    const LEFT: Ending = Ending::Exited(0);

    struct Scene {
        region: Region,
        pool: Pool,
    }

    impl Scene {
        fn new() -> Self {
            let region = Region::create(&tempfile::tempfile().unwrap(), 1 << 20).unwrap();
            Self { pool: Pool::of(&region), region }
        }

        fn starting(&mut self, pid: i32) -> Owner {
            let owner = self.pool.reserve(&self.region, 1).unwrap();
            assert_eq!(self.pool.spawned(owner, Pid(pid)), None);
            owner
        }

        fn ready(&mut self, pid: i32) -> Owner {
            let owner = self.starting(pid);
            assert!(self.region.slot(owner.slot).unwrap().go_live(owner.generation));
            assert_eq!(self.pool.note_ready(&self.region), 1);
            owner
        }

        fn leaves(&self, owner: Owner) {
            let live = slots::owner_word(owner.generation, State::Live);
            slots::detach(self.region.slot(owner.slot).unwrap(), live);
        }

        fn died(&mut self, pid: i32, ending: Ending) -> Death {
            self.pool.died(&self.region, Pid(pid), ending)
        }
    }

    #[test]
    fn a_worker_is_promised_started_ready_and_gone() {
        let mut scene = Scene::new();
        let owner = scene.starting(100);
        assert_eq!((scene.pool.counts().starting, scene.pool.counts().ready), (1, 0));
        assert_eq!(scene.pool.note_ready(&scene.region), 0, "not before the slot says so");
        assert!(scene.region.slot(owner.slot).unwrap().go_live(owner.generation));
        assert_eq!(scene.pool.note_ready(&scene.region), 1);
        assert_eq!((scene.pool.counts().starting, scene.pool.counts().ready), (0, 1));
        scene.leaves(owner);
        assert_eq!(scene.died(100, LEFT), Death::LeftUnasked);
        assert!(scene.pool.is_empty());
        let owner = scene.ready(101);
        scene.pool.retire(0, 1, SECOND);
        scene.leaves(owner);
        assert_eq!(scene.died(101, LEFT), Death::Left);
    }

    #[test]
    fn a_slot_stays_dead_until_it_is_repaired() {
        let mut scene = Scene::new();
        let owner = scene.ready(100);
        assert_eq!(scene.died(100, SEGV), Death::Crashed(owner));
        assert!(scene.region.slot(owner.slot).unwrap().is(owner.generation, State::Dead));
        assert!(!scene.pool.is_empty() && scene.pool.has_no_process());
        scene.pool.repaired(slots::owner(owner.slot, Generation(owner.generation.0 + 1)));
        assert!(!scene.pool.is_empty(), "another generation's repair is not this one's");
        scene.pool.repaired(owner);
        assert!(scene.pool.is_empty());
        let next = scene.pool.reserve(&scene.region, 1).unwrap();
        assert!(next.slot != owner.slot || next.generation > owner.generation);
    }

    #[test]
    fn an_exit_without_a_clean_detach_is_a_crash_whatever_the_code() {
        let mut scene = Scene::new();
        let owner = scene.ready(100);
        assert_eq!(scene.died(100, LEFT), Death::Crashed(owner));
        let owner = scene.ready(101);
        scene.region.slot(owner.slot).unwrap().intent.minute.store(5, SeqCst);
        scene.leaves(owner);
        assert_eq!(scene.died(101, LEFT), Death::Crashed(owner), "it left something half-done");
    }

    #[test]
    fn a_death_before_the_slot_was_taken_needs_no_repair() {
        let mut scene = Scene::new();
        scene.starting(100);
        assert_eq!(scene.died(100, SEGV), Death::Young(None));
        assert!(scene.pool.is_empty());
        // Unless the slot holds what it cannot have from this worker: given out again, it would fail again.
        let owner = scene.starting(101);
        scene.region.slot(owner.slot).unwrap().undo.store(77, SeqCst);
        assert_eq!(scene.died(101, LEFT), Death::Young(Some(owner)));
        assert!(scene.pool.awaits_repair(owner));
    }

    #[test]
    fn a_death_may_come_before_the_reply_that_names_it() {
        let mut scene = Scene::new();
        let owner = scene.pool.reserve(&scene.region, 1).unwrap();
        assert_eq!(scene.died(100, SEGV), Death::Unknown);
        assert_eq!(scene.pool.spawned(owner, Pid(100)), Some(SEGV));
        assert_eq!(scene.died(100, SEGV), Death::Young(None));
        // Deaths while nobody is promised a slot are nobody's, and their pids may come back.
        assert_eq!(scene.died(101, SEGV), Death::Unknown);
        let owner = scene.pool.reserve(&scene.region, 1).unwrap();
        assert_eq!(scene.pool.spawned(owner, Pid(101)), None);
    }

    #[test]
    fn a_promise_is_taken_back_unless_somebody_took_it() {
        let mut scene = Scene::new();
        let owner = scene.pool.reserve(&scene.region, 1).unwrap();
        assert!(scene.pool.withdraw(&scene.region, owner));
        assert!(!scene.region.slot(owner.slot).unwrap().go_live(owner.generation), "the clone came too late");
        let owner = scene.pool.reserve(&scene.region, 1).unwrap();
        assert!(scene.region.slot(owner.slot).unwrap().go_live(owner.generation));
        assert!(!scene.pool.withdraw(&scene.region, owner));
        assert_eq!(scene.pool.reserved(), Some(owner));
        assert_eq!(
            scene.pool.abandon(&scene.region, owner),
            Some(owner),
            "nobody's, and not as it was promised"
        );
        assert_eq!(scene.pool.reserved(), None);
        let owner = scene.pool.reserve(&scene.region, 1).unwrap();
        assert_eq!(scene.pool.abandon(&scene.region, owner), None);
        assert_eq!(scene.pool.abandon(&scene.region, owner), None, "once");
    }

    #[test]
    fn what_the_supervisor_killed_is_no_crash() {
        let mut scene = Scene::new();
        let owner = scene.ready(100);
        assert_eq!(scene.pool.retire(0, 1, SECOND), [Pid(100)]);
        assert_eq!(scene.pool.retire(0, 1, SECOND), [], "asked once");
        assert_eq!(scene.pool.next_deadline(), Some(SECOND));
        assert_eq!(scene.pool.fell_overdue(SECOND / 2), []);
        assert_eq!(scene.pool.fell_overdue(SECOND), [Pid(100)]);
        assert_eq!(scene.died(100, Ending::Killed(9)), Death::Felled(owner));
    }

    #[test]
    fn workers_of_replaced_templates_are_outdated() {
        let mut scene = Scene::new();
        scene.ready(100);
        scene.pool.outdate_before(2);
        assert_eq!((scene.pool.counts().ready, scene.pool.counts().outdated), (0, 1));
        assert_eq!(scene.pool.retire(0, 1, SECOND), []);
        assert_eq!(scene.pool.retire(1, 0, SECOND), [Pid(100)]);
    }

    #[test]
    fn a_scribbled_slot_changes_nothing_in_the_book() {
        let mut scene = Scene::new();
        let owner = scene.ready(100);
        let slot = scene.region.slot(owner.slot).unwrap();
        slot.owner.store(u64::MAX, SeqCst);
        slot.pid.store(1, SeqCst);
        assert_eq!(scene.died(100, SEGV), Death::Crashed(owner));
        let slot = scene.region.slot(owner.slot).unwrap();
        assert!(slot.is(owner.generation, State::Dead), "repair finds the generation that was asked for");
        scene.pool.repaired(owner);
        assert!(scene.pool.is_empty());
    }
}
