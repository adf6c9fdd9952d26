//! How the supervisor of a dynamic pool learns that spare workers are short, without asking again and again and without
//! being told of every connection: the workers count how many of them wait, and the one that makes this less than the
//! supervisor has set rings its bell.
//!
//! The count is a hint. A worker that is killed takes its share of it along, and a worker's slot and the count do not
//! change together. So the supervisor counts the slots whenever it is awake, which corrects it; and it is awake once a
//! second at least, so that a bell that was not rung costs a second and nothing else.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::fence;

use crate::layout::Demand;

impl Demand {
    // ---- Workers -----------------------------------------------------------------------------------------------------

    /// This worker has a connection, and its slot says so. True where it has to ring the bell.
    pub fn turned_busy(&self) -> bool {
        if self.counted.load(Relaxed) == 0 {
            return false;
        }
        let left = self.idle.fetch_sub(1, SeqCst).wrapping_sub(1);
        if left < self.lowest.load(Relaxed) {
            self.lowest.fetch_min(left, Relaxed);
        }
        let alarm = self.alarm.load(SeqCst);
        alarm > 0 && left < alarm && self.alarm.swap(0, SeqCst) > 0
    }

    /// This worker waits for the next connection.
    pub fn turned_idle(&self) {
        if self.counted.load(Relaxed) != 0 {
            self.idle.fetch_add(1, SeqCst);
        }
    }

    // ---- The supervisor ----------------------------------------------------------------------------------------------

    /// Whether workers are to count themselves. Before there are any.
    pub fn count(&self, counted: bool) {
        for word in [&self.idle, &self.lowest, &self.alarm] {
            word.store(0, SeqCst);
        }
        self.counted.store(counted.into(), SeqCst);
    }

    /// Wants to be woken when less than so many wait. Before the slots are counted: a worker that turns busy after its
    /// slot was looked at sees the alarm.
    pub fn arm(&self, spare: u32) {
        self.alarm.store(i32::try_from(spare).unwrap_or(i32::MAX), SeqCst);
        fence(SeqCst);
    }

    /// Does not want to be woken: there is nothing that could be done.
    pub fn disarm(&self) {
        self.alarm.store(0, SeqCst);
    }

    /// The slots say that so many wait; `before` is what [`Demand::seen`] gave before they were looked at. Corrects the
    /// count by the difference, so that what workers added meanwhile stays. Gives the least that have waited since the
    /// last time.
    pub fn settle(&self, before: i32, idle: u32) -> u32 {
        let idle = i32::try_from(idle).unwrap_or(i32::MAX);
        let drift = idle.wrapping_sub(before);
        if drift != 0 {
            self.idle.fetch_add(drift, SeqCst);
        }
        let lowest = self.lowest.swap(idle, SeqCst).min(idle);
        u32::try_from(lowest).unwrap_or(0)
    }

    /// The count as it stands.
    pub fn seen(&self) -> i32 {
        self.idle.load(SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::Region;

    fn with_demand(test: impl FnOnce(&Demand)) {
        let region = Region::create(&tempfile::tempfile().unwrap(), 1 << 20).unwrap();
        test(&region.header().demand);
    }

    #[test]
    fn one_worker_rings_when_spare_ones_get_short() {
        with_demand(|demand| {
            demand.count(true);
            demand.settle(demand.seen(), 5);
            demand.arm(3);
            let rang: Vec<bool> = (0..5).map(|_| demand.turned_busy()).collect();
            assert_eq!(rang, [false, false, true, false, false], "the third leaves two, and only it rings");
            demand.arm(3);
            assert!(demand.turned_busy(), "armed again");
            demand.disarm();
            assert!(!demand.turned_busy());
        });
    }

    #[test]
    fn a_fixed_pool_counts_nothing() {
        with_demand(|demand| {
            demand.count(false);
            demand.arm(3);
            assert!(!demand.turned_busy());
            demand.turned_idle();
            assert_eq!(demand.seen(), 0);
        });
    }

    #[test]
    fn drift_is_corrected_and_what_came_meanwhile_stays() {
        with_demand(|demand| {
            demand.count(true);
            demand.settle(demand.seen(), 10);
            demand.turned_busy();
            demand.turned_busy();
            // One of the two is killed, and so is one that waited: the slots say seven. Meanwhile one more gets busy.
            let before = demand.seen();
            demand.turned_busy();
            demand.settle(before, 7);
            assert_eq!(demand.seen(), 6);
        });
    }

    #[test]
    fn the_lowest_count_between_two_looks_is_kept() {
        with_demand(|demand| {
            demand.count(true);
            demand.settle(demand.seen(), 10);
            assert_eq!((0..7).filter(|_| demand.turned_busy()).count(), 0);
            (0..7).for_each(|_| demand.turned_idle());
            assert_eq!(demand.settle(demand.seen(), 10), 3);
            assert_eq!(demand.settle(demand.seen(), 10), 10);
        });
    }

    #[test]
    fn nonsense_is_survived() {
        with_demand(|demand| {
            demand.count(true);
            for word in [i32::MIN, -1, i32::MAX] {
                demand.idle.store(word, SeqCst);
                demand.lowest.store(word, SeqCst);
                demand.turned_busy();
                let lowest = demand.settle(demand.seen(), 4);
                assert!(lowest <= 4);
                assert_eq!(demand.seen(), 4);
            }
        });
    }
}
