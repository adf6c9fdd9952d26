//! What is asked of the workers of a dynamic pool, and being told when it is more than they can do.

use crate::policy::{Counts, Demand, Shape};

use super::Supervisor;

impl Supervisor {
    /// What the policy wants to know. The alarm is set first, so that no worker that turns busy is overlooked by both
    /// this count and the bell.
    pub(super) fn take_counts(&mut self) -> Counts {
        let counts = self.pool.counts();
        let Shape::Dynamic(bounds) = self.policy.shape() else { return counts };
        let shared = &self.region.header().demand;
        shared.arm(bounds.min_spare);
        let before = shared.seen();
        let spare = self.pool.idle(&self.region);
        let lowest_spare = shared.settle(before, spare);
        let busy = (counts.ready + counts.outdated).saturating_sub(spare);
        // Who waits for a connection takes what waits for a worker.
        let waiting = if spare == 0 { self.listeners.waiting() } else { 0 };
        Counts { demand: Demand { busy, lowest_spare, waiting }, ..counts }
    }

    /// The bell is wanted when spare workers get short; or it is not, and nobody rings in vain.
    pub(super) fn watch_spare(&mut self, watched: Option<u32>) {
        let Shape::Dynamic(_) = self.policy.shape() else { return };
        let shared = &self.region.header().demand;
        match watched {
            None => shared.disarm(),
            // The count was wrong while they were counted, so that nobody may have rung.
            Some(least) if shared.seen() < i32::try_from(least).unwrap_or(i32::MAX) => {
                self.ask_again = Some(self.now());
            }
            Some(_) => {}
        }
    }
}
