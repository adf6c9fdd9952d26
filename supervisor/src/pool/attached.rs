//! The slots of attached programs. Their processes are nobody's children and no part of the pool: they come and go as
//! they like, and outlive a supervisor.

use std::sync::atomic::Ordering::SeqCst;

use common::ids::{Owner, Pid, SlotIndex};
use common::limits::MAX_CLIENTS;
use common::region::Region;
use common::slots::{self, NO_TEMPLATE, State};
use common::wire::control::Attached;

use super::{Entry, Pool, Standing};

/// What became of an attached program's slot when its process had ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It left something half-done, or at least no word: to be repaired.
    Crashed,
    /// The slot is free again.
    Left,
}

impl Pool {
    /// Promises a free slot to a process that asks for one, unless fewer than `kept` would be left for workers.
    pub fn reserve_for(&mut self, region: &Region, pid: Pid, kept: u32) -> Option<Owner> {
        if self.free.len() as u32 <= kept {
            return None;
        }
        let owner = self.next_owner()?;
        self.entries[owner.slot.0 as usize].template = NO_TEMPLATE;
        region.slot(owner.slot)?.reserve_for(owner.generation, pid);
        self.stand(owner.slot, Standing::Attached);
        Some(owner)
    }

    /// Takes over from a former life the slot of a process that has it still, or had it until it died.
    pub fn adopt(&mut self, region: &Region, owner: Owner, lives: bool) {
        let Some(entry) = self.entries.get_mut(owner.slot.0 as usize) else { return };
        if entry.standing != Standing::Free {
            return;
        }
        *entry = Entry { generation: owner.generation, template: NO_TEMPLATE, ..*entry };
        self.free.retain(|free| *free != owner.slot);
        self.stand(owner.slot, Standing::Attached);
        if !lives {
            self.mark_dead(region, owner);
        }
    }

    /// How many slots are attached programs'.
    pub fn attached(&self) -> u32 {
        self.attached
    }

    /// Slots that workers have, or that wait for the repair of one.
    pub fn used_by_workers(&self) -> u32 {
        (self.entries.len() - self.free.len()) as u32 - self.attached
    }

    /// Every slot that is an attached program's, those that wait for repair last, as far as one frame can name them.
    pub fn all_attached(&self) -> Vec<Attached> {
        let slots = || (0..).map(SlotIndex).zip(&self.entries);
        let theirs = |standing| {
            slots().filter(move |(_, entry)| entry.template == NO_TEMPLATE && entry.standing == standing)
        };
        let living = theirs(Standing::Attached).map(|(slot, entry)| (slot, entry, true));
        let dead = theirs(Standing::Dead).map(|(slot, entry)| (slot, entry, false));
        living
            .chain(dead)
            .take(MAX_CLIENTS)
            .map(|(slot, entry, lives)| Attached { owner: slots::owner(slot, entry.generation), lives })
            .collect()
    }

    /// Frees the slot of a process that may well live, if it has left it, or never took it and cannot any more.
    pub fn release_left(&mut self, region: &Region, owner: Owner) -> bool {
        if self.standing(owner) != Some(Standing::Attached) {
            return false;
        }
        let Some(slot) = region.slot(owner.slot) else { return false };
        let left = slot.left_cleanly(owner.generation);
        let from = if left { State::Left } else { State::Reserved };
        let freed = slot.holds_nothing() && slot.shift(owner.generation, from, State::Free);
        if freed {
            self.release(owner.slot);
        }
        freed
    }

    /// The process of an attached program has ended; `None` where the slot is not its any more.
    pub fn departed(&mut self, region: &Region, owner: Owner) -> Option<Departure> {
        if self.standing(owner) != Some(Standing::Attached) {
            return None;
        }
        if self.release_left(region, owner) {
            return Some(Departure::Left);
        }
        self.mark_dead(region, owner);
        Some(Departure::Crashed)
    }

    /// Dead until repaired, whatever the word says now: the book says that its owner is gone.
    fn mark_dead(&mut self, region: &Region, owner: Owner) {
        self.stand(owner.slot, Standing::Dead);
        if let Some(slot) = region.slot(owner.slot) {
            slot.owner.store(slots::owner_word(owner.generation, State::Dead), SeqCst);
        }
    }
}
