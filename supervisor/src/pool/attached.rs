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

    /// Takes over from a former life the slot of an owner that is dead and not repaired yet. False where it is known already,
    /// or not to be believed.
    pub fn adopt_dead(&mut self, region: &Region, owner: Owner) -> bool {
        // Nobody has been promised a slot yet, so a free one is in the generation of its former owner.
        let known = self.standing(owner) != Some(Standing::Free);
        if !known {
            self.free.retain(|free| *free != owner.slot);
            self.mark_dead(region, owner);
        }
        !known
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Standing;

    fn scene() -> (Region, Pool) {
        let region = Region::create(&tempfile::tempfile().unwrap(), 1 << 20).unwrap();
        let pool = Pool::of(&region);
        (region, pool)
    }

    fn live(region: &Region, owner: Owner) {
        assert!(region.slot(owner.slot).unwrap().go_live(owner.generation));
    }

    fn left(region: &Region, owner: Owner) {
        let word = slots::owner_word(owner.generation, State::Live);
        slots::detach(region.slot(owner.slot).unwrap(), word);
    }

    #[test]
    fn a_slot_is_had_left_and_free() {
        let (region, mut pool) = scene();
        let owner = pool.reserve_for(&region, Pid(7), 0).unwrap();
        assert!(region.slot(owner.slot).unwrap().is_a_clients());
        live(&region, owner);
        assert_eq!((pool.attached(), pool.used_by_workers(), pool.is_empty()), (1, 0, true));
        assert!(!pool.release_left(&region, owner), "it is there still");
        assert_eq!(pool.all_attached(), [Attached { owner, lives: true }]);
        left(&region, owner);
        assert!(pool.release_left(&region, owner));
        assert_eq!((pool.attached(), pool.counts().free_slots), (0, 32));
        assert_eq!(pool.departed(&region, owner), None, "not any more");
    }

    #[test]
    fn workers_slots_are_kept() {
        let (region, mut pool) = scene();
        let given = std::iter::from_fn(|| pool.reserve_for(&region, Pid(7), 6)).count();
        assert_eq!((given, pool.counts().free_slots), (26, 6));
    }

    #[test]
    fn what_ends_without_a_farewell_is_repaired() {
        let (region, mut pool) = scene();
        let owner = pool.reserve_for(&region, Pid(7), 0).unwrap();
        live(&region, owner);
        assert_eq!(pool.departed(&region, owner), Some(Departure::Crashed));
        assert_eq!((pool.attached(), pool.is_empty()), (0, false));
        assert_eq!(pool.all_attached(), [Attached { owner, lives: false }]);
        pool.repaired(owner);
        assert!(pool.is_empty() && pool.all_attached().is_empty());
    }

    #[test]
    fn a_farewell_with_something_half_done_does_not_count() {
        let (region, mut pool) = scene();
        let owner = pool.reserve_for(&region, Pid(7), 0).unwrap();
        live(&region, owner);
        region.slot(owner.slot).unwrap().held_count.store(1, SeqCst);
        left(&region, owner);
        assert!(!pool.release_left(&region, owner));
        assert_eq!(pool.departed(&region, owner), Some(Departure::Crashed));
    }

    #[test]
    fn what_was_never_taken_is_taken_back_for_good() {
        let (region, mut pool) = scene();
        let owner = pool.reserve_for(&region, Pid(7), 0).unwrap();
        assert!(pool.release_left(&region, owner));
        assert!(!region.slot(owner.slot).unwrap().go_live(owner.generation));
    }

    #[test]
    fn a_slot_of_a_former_life_is_its_owners_or_dead() {
        let (region, pool) = scene();
        drop(pool);
        let former = [3, 4].map(|slot| slots::owner(SlotIndex(slot), common::ids::Generation(9)));
        for owner in former {
            region.slot(owner.slot).unwrap().reserve_for(owner.generation, Pid(7));
            live(&region, owner);
        }
        let mut pool = Pool::of(&region);
        pool.adopt(&region, former[0], true);
        pool.adopt(&region, former[1], false);
        assert_eq!(pool.standing(former[0]), Some(Standing::Attached));
        assert!(
            pool.awaits_repair(former[1])
                && region.slot(SlotIndex(4)).unwrap().is(former[1].generation, State::Dead)
        );
        assert_eq!((pool.attached(), pool.counts().free_slots), (1, 30));
        // What recovery leaves for later, and says of others.
        let worker = slots::owner(SlotIndex(5), common::ids::Generation(0));
        assert!(pool.adopt_dead(&region, worker) && pool.awaits_repair(worker));
        assert!(!pool.adopt_dead(&region, worker) && !pool.adopt_dead(&region, former[0]));
        assert!(!pool.adopt_dead(&region, slots::owner(SlotIndex(6), common::ids::Generation(1))));
        assert!(!pool.adopt_dead(&region, slots::owner(SlotIndex(u32::MAX), common::ids::Generation(0))));
        pool.repaired(worker);
        let next = std::iter::from_fn(|| pool.reserve(&region, 1)).collect::<Vec<_>>();
        assert!(next.len() == 30 && next.iter().all(|owner| ![3, 4].contains(&owner.slot.0)));
    }
}
