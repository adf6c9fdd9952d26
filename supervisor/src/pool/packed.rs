//! The book as it is handed to a successor in this process: what follows from the slots is found out there.

use common::error::{Error, Result};
use common::ids::{Pid, SlotIndex};
use common::region::Region;
use common::sys::process::Ending;
use serde::{Deserialize, Serialize};

use super::{Entry, Pool, Standing};
use crate::policy::Clock;

/// The book.
#[derive(Debug, Serialize, Deserialize)]
pub struct PackedPool {
    entries: Vec<Entry>,
    unknown_dead: Vec<(Pid, Ending)>,
    oldest_serving: u32,
}

impl Pool {
    /// For a successor.
    pub fn pack(&self) -> PackedPool {
        PackedPool {
            entries: self.entries.clone(),
            unknown_dead: self.unknown_dead.iter().map(|(pid, ending)| (*pid, *ending)).collect(),
            oldest_serving: self.oldest_serving,
        }
    }
}

impl PackedPool {
    /// The book of this region.
    ///
    /// # Errors
    /// A region that has other slots.
    pub fn unpack(self, region: &Region) -> Result<Pool> {
        let Self { entries, unknown_dead, oldest_serving } = self;
        let mut pool = Pool::of(region);
        if entries.len() != pool.entries.len() {
            return Err(Error::failure(format!(
                "the region has {} slots, and the book that is handed over {}",
                pool.entries.len(),
                entries.len()
            )));
        }
        pool.oldest_serving = oldest_serving;
        pool.unknown_dead = unknown_dead.into_iter().collect();
        for (index, entry) in (0..).map(SlotIndex).zip(entries) {
            pool.entries[index.0 as usize] = Entry { standing: Standing::Free, ..entry };
            pool.stand(index, entry.standing);
            match entry.standing {
                Standing::Reserved => pool.starting.push_back(index),
                Standing::Starting(pid, _) => {
                    pool.starting.push_back(index);
                    pool.by_pid.insert(pid, index);
                }
                Standing::Ready(pid) | Standing::Retiring(pid, _) | Standing::Killed(pid) => {
                    pool.by_pid.insert(pid, index);
                }
                Standing::Free | Standing::Lent | Standing::Attached | Standing::Dead => {}
            }
        }
        let entries = &pool.entries;
        pool.starting.make_contiguous().sort_by_key(|index| match entries[index.0 as usize].standing {
            Standing::Starting(_, deadline) => deadline,
            _ => Clock::MAX,
        });
        pool.free.retain(|index| entries[index.0 as usize].standing == Standing::Free);
        Ok(pool)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use common::slots::{self, Activity};

    use super::*;
    use crate::pool::{Death, Leave};

    const DEADLINE: Duration = Duration::from_secs(30);

    fn handed_on(pool: &Pool, region: &Region) -> Pool {
        let text = serde_json::to_string(&pool.pack()).unwrap();
        serde_json::from_str::<PackedPool>(&text).unwrap().unpack(region).unwrap()
    }

    #[test]
    fn the_successor_s_book_is_the_same() {
        let region = Region::create(&tempfile::tempfile().unwrap(), 1 << 20).unwrap();
        let mut pool = Pool::of(&region);
        let mut owners = Vec::new();
        for pid in 1..=6 {
            let owner = pool.reserve(&region, 1).unwrap();
            assert_eq!(pool.spawned(owner, Pid(pid), DEADLINE), None);
            assert!(pid > 5 || region.slot(owner.slot).unwrap().go_live(owner.generation));
            owners.push(owner);
        }
        assert_eq!(pool.note_ready(&region), 5);
        let leave = Leave { press_at: Duration::MAX, kill_at: DEADLINE };
        assert_eq!(pool.retire(&region, 0, 1, leave), [Pid(5)]);
        pool.outdate_before(2);
        assert!(matches!(pool.died(&region, Pid(1), Ending::Killed(9)), Death::Crashed(_)));
        let lent = pool.lend(&region, Activity::Checkpoint).unwrap();
        let attached = pool.reserve_for(&region, Pid(77), 0).unwrap();
        let promised = pool.reserve(&region, 2).unwrap();
        assert_eq!(pool.died(&region, Pid(99), Ending::Killed(9)), Death::Unknown);

        let mut next = handed_on(&pool, &region);
        assert_eq!((next.counts(), next.retiring, next.attached()), (pool.counts(), 1, 1));
        assert_eq!((next.counts().outdated, next.counts().starting), (3, 2));
        assert!(next.awaits_repair(owners[0]) && next.has_seen_die(Pid(99)));
        assert_eq!(next.reserved(), Some(promised));
        assert_eq!(next.next_deadline(), Some(DEADLINE));
        assert_eq!(
            (next.standing(lent), next.standing(attached)),
            (Some(Standing::Lent), Some(Standing::Attached))
        );
        for pid in 2..=6 {
            assert!(next.knows(Pid(pid)));
        }
        assert!(!next.knows(Pid(1)));
        // The slots that are free are given in the same order.
        assert_eq!(next.free, pool.free);
        assert_eq!(
            next.reserve(&region, 2).unwrap().generation,
            slots::owner(promised.slot, promised.generation).generation
        );
    }

    #[test]
    fn who_started_first_is_the_first_there_too() {
        let region = Region::create(&tempfile::tempfile().unwrap(), 1 << 20).unwrap();
        let mut pool = Pool::of(&region);
        let start = |pool: &mut Pool, pid, deadline| {
            let owner = pool.reserve(&region, 1).unwrap();
            assert_eq!(pool.spawned(owner, Pid(pid), deadline), None);
            owner
        };
        let gone = start(&mut pool, 1, DEADLINE);
        start(&mut pool, 2, DEADLINE * 2);
        assert_eq!(pool.died(&region, Pid(1), Ending::Killed(9)), Death::Young(None));
        assert_eq!(start(&mut pool, 3, DEADLINE * 3).slot, gone.slot);
        assert_eq!(handed_on(&pool, &region).next_deadline(), Some(DEADLINE * 2));
    }

    #[test]
    fn another_region_s_book_is_refused() {
        let [one, other] =
            [1, 2].map(|mib| Region::create(&tempfile::tempfile().unwrap(), mib << 20).unwrap());
        assert!(Pool::of(&one).pack().unpack(&other).is_err());
    }
}
