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
    /// A worker that died before it was ready and had nothing yet; its slot is free again.
    Young,
    /// A worker that detached cleanly; its slot is free again.
    Left,
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
}

impl Pool {
    /// The book of a region whose slots are all free.
    pub fn of(region: &Region) -> Self {
        let entries: Vec<_> = region
            .slots()
            .map(|(_, slot)| Entry { generation: slot.standing().0, template: 0, standing: Standing::Free })
            .collect();
        // The lowest slot last, since the free ones are taken from the end.
        let free = (0..entries.len() as u32).rev().map(SlotIndex).collect();
        Self {
            entries,
            by_pid: HashMap::new(),
            free,
            starting: Vec::new(),
            unknown_dead: HashMap::new(),
            oldest_serving: 0,
        }
    }

    /// What the policy wants to know.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts { free_slots: self.free.len() as u32, ..Counts::default() };
        for entry in &self.entries {
            match entry.standing {
                Standing::Reserved | Standing::Starting(_) => counts.starting += 1,
                Standing::Ready(_) if entry.template < self.oldest_serving => counts.outdated += 1,
                Standing::Ready(_) => counts.ready += 1,
                Standing::Free | Standing::Retiring(..) | Standing::Killed(_) | Standing::Dead => {}
            }
        }
        counts
    }

    /// Whether every process is gone and every slot repaired.
    pub fn is_empty(&self) -> bool {
        self.free.len() == self.entries.len()
    }

    /// Workers cloned from templates before this one are outdated from now on.
    pub fn outdate_before(&mut self, template: u32) {
        self.oldest_serving = template;
    }

    /// Promises a free slot to a process that `template` is to make.
    pub fn reserve(&mut self, region: &Region, template: u32) -> Option<Owner> {
        let index = self.free.pop()?;
        let entry = &mut self.entries[index.0 as usize];
        entry.generation = Generation(entry.generation.0.wrapping_add(1));
        entry.template = template;
        entry.standing = Standing::Reserved;
        region.slot(index)?.reserve(entry.generation, template);
        self.starting.push(index);
        Some(slots::owner(index, entry.generation))
    }

    /// The promised process exists. Gives how it ended if it has done so already.
    pub fn spawned(&mut self, owner: Owner, pid: Pid) -> Option<Ending> {
        let entry = self.entry(owner)?;
        if entry.standing != Standing::Reserved {
            return None;
        }
        entry.standing = Standing::Starting(pid);
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
        let Some(entry) = self.entry(owner) else { return false };
        if entry.standing != Standing::Reserved {
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

    /// Looks which of the starting workers are ready; gives how many.
    pub fn note_ready(&mut self, region: &Region) -> u32 {
        let mut ready = 0;
        let mut index = 0;
        while index < self.starting.len() {
            let slot = self.starting[index];
            let entry = &mut self.entries[slot.0 as usize];
            let live = region.slot(slot).is_some_and(|slot| slot.is(entry.generation, State::Live));
            match entry.standing {
                Standing::Starting(pid) if live => {
                    entry.standing = Standing::Ready(pid);
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
        let entry = &mut self.entries[index.0 as usize];
        let owner = slots::owner(index, entry.generation);
        let before = std::mem::replace(&mut entry.standing, Standing::Dead);
        let Some(slot) = region.slot(index) else { return Death::Crashed(owner) };
        if slot.shift(owner.generation, State::Reserved, State::Free) {
            self.release(index);
            return Death::Young;
        }
        if slot.left_cleanly(owner.generation) && slot.shift(owner.generation, State::Left, State::Free) {
            self.release(index);
            return Death::Left;
        }
        // Dead until repaired. Whatever the word says now: the book says that its owner is gone.
        slot.owner.store(slots::owner_word(owner.generation, State::Dead), SeqCst);
        if matches!(before, Standing::Killed(_)) { Death::Felled(owner) } else { Death::Crashed(owner) }
    }

    /// Whether a slot waits for repair in this generation.
    pub fn awaits_repair(&self, owner: Owner) -> bool {
        self.entries
            .get(owner.slot.0 as usize)
            .is_some_and(|entry| entry.generation == owner.generation && entry.standing == Standing::Dead)
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
        for entry in self.entries.iter_mut().rev() {
            let Standing::Ready(pid) = entry.standing else { continue };
            let quota = if entry.template < self.oldest_serving { &mut outdated } else { &mut surplus };
            if *quota > 0 {
                *quota -= 1;
                entry.standing = Standing::Retiring(pid, deadline);
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
        self.fell(|standing| matches!(standing, Standing::Retiring(_, deadline) if deadline <= now))
    }

    fn fell(&mut self, chosen: impl Fn(Standing) -> bool) -> Vec<Pid> {
        let mut felled = Vec::new();
        for entry in &mut self.entries {
            if let Standing::Starting(pid) | Standing::Ready(pid) | Standing::Retiring(pid, _) =
                entry.standing
                && chosen(entry.standing)
            {
                entry.standing = Standing::Killed(pid);
                felled.push(pid);
            }
        }
        felled
    }

    /// When the next retiring worker's time is over.
    pub fn next_deadline(&self) -> Option<Clock> {
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

    fn entry(&mut self, owner: Owner) -> Option<&mut Entry> {
        self.entries.get_mut(owner.slot.0 as usize).filter(|entry| entry.generation == owner.generation)
    }

    fn release(&mut self, index: SlotIndex) {
        self.entries[index.0 as usize].standing = Standing::Free;
        self.starting.retain(|starting| *starting != index);
        self.free.push(index);
    }
}
