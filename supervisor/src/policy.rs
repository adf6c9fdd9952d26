//! How many workers to start and to retire, and when: a pure state machine of events, the clock and counts. It starts
//! nothing and knows no process, so that every rule can be tested without one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

mod pace;
pub use pace::Backoff;
use pace::Bucket;

mod shape;
pub use shape::{Bounds, Shape, Wanted};

mod shrink;
use shrink::Shrink;

#[cfg(test)]
mod tests;

/// Time since the supervisor started.
pub type Clock = Duration;

/// How many workers may be on their way at a time while a new template's replace the old ones.
const ROLLING_BATCH: u32 = 32;

/// What the pool holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Promised a slot or cloned, not ready yet.
    pub starting: u32,
    /// Ready, of a template that may serve.
    pub ready: u32,
    /// Ready, of a template that a reload has replaced.
    pub outdated: u32,
    /// Slots that could be given to a worker.
    pub free_slots: u32,
    /// What is asked of them. A fixed pool does not look.
    pub demand: Demand,
}

/// What is asked of the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Ready, outdated or not, and serving a connection.
    pub busy: u32,
    /// The least that were ready and served none, at any moment since the last plan.
    pub lowest_spare: u32,
    /// Connections that nobody has accepted yet.
    pub waiting: u32,
}

/// What to do now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Workers to start.
    pub start: u32,
    /// Outdated workers to retire.
    pub retire_outdated: u32,
    /// Workers to retire because there are more than wanted.
    pub retire_surplus: u32,
    /// Ask again at this time, should nothing happen before.
    pub ask_again: Option<Clock>,
    /// Ask again as soon as less than so many workers are spare: then some can be started.
    pub watch_spare: Option<u32>,
}

/// Why a worker could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The kernel refused the clone.
    Refused,
    /// It died before it was ready.
    DiedYoung,
}

/// The policy of a pool. Handed as it is to a successor in this process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Policy {
    asked: Shape,
    shape: Shape,
    draining: bool,
    /// Whether a worker of the serving template has ever been ready. Until then one is tried at a time.
    proven: bool,
    held_back: u32,
    replacements: Bucket,
    refused: Backoff,
    died_young: Backoff,
    shrink: Shrink,
}

impl Policy {
    /// The policy of a pool of this shape.
    pub fn new(shape: Shape) -> Self {
        Self {
            asked: shape,
            shape,
            draining: false,
            proven: false,
            held_back: 0,
            replacements: Bucket::full(),
            refused: Backoff::default(),
            died_young: Backoff::default(),
            shrink: Shrink::default(),
        }
    }

    /// The shape of the pool, as it was scaled.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Wants another number of workers.
    pub fn scale(&mut self, workers: u32) {
        self.shape = self.asked.scaled(workers);
        self.held_back = 0;
        self.shrink.reset();
    }

    /// Wants none any more.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Another template serves, and nobody knows whether its workers live.
    pub fn template_changed(&mut self) {
        self.proven = false;
    }

    /// A worker is ready: whatever kept workers from being had is over.
    pub fn worker_ready(&mut self) {
        self.proven = true;
        self.refused.reset();
        self.died_young.reset();
    }

    /// A worker that had been ready died. Its replacement is due at once, unless too many were lately.
    pub fn worker_died(&mut self, now: Clock) {
        if !self.replacements.take(now) {
            self.held_back += 1;
        }
    }

    /// A worker could not be had.
    pub fn worker_failed(&mut self, now: Clock, cause: Cause) {
        match cause {
            Cause::Refused => self.refused.failed(now),
            Cause::DiedYoung => self.died_young.failed(now),
        }
    }

    /// Whether workers are kept from being started by failures.
    pub fn is_backing_off(&self) -> bool {
        self.refused.failures() > 0 || self.died_young.failures() > 0
    }

    /// Attempts at a worker, one after the other, that ended before it was ready.
    pub fn died_young_in_a_row(&self) -> u32 {
        self.died_young.failures()
    }

    /// What to do now.
    pub fn plan(&mut self, now: Clock, counts: Counts) -> Plan {
        if self.draining {
            return Plan {
                retire_surplus: counts.ready,
                retire_outdated: counts.outdated,
                ..Plan::default()
            };
        }
        while self.held_back > 0 && self.replacements.take(now) {
            self.held_back -= 1;
        }
        let wanted = self.wanted(counts);
        let missing = self.missing(wanted, counts);
        self.forget_what_is_over(now, missing, counts);
        let blocked = self.blocked_until(now);
        let startable = missing.min(self.room(missing, counts)).min(counts.free_slots);
        let start = match blocked {
            Some(_) => 0,
            // Of an unknown template, and after a failure, one worker is tried before the rest follow.
            None if !self.proven || self.is_backing_off() => {
                startable.min(1_u32.saturating_sub(counts.starting))
            }
            None => startable,
        };
        let resume = match blocked {
            Some(until) if startable > 0 => Some(until),
            _ if self.held_back > 0 => Some(self.replacements.next(now)),
            _ => None,
        };
        let retire_outdated = (counts.ready + counts.outdated).saturating_sub(wanted).min(counts.outdated);
        let (retire_surplus, look) = self.surplus(now, counts);
        let ask_again = resume.into_iter().chain(look).min();
        let watch_spare = self.spare_to_watch(missing, counts);
        Plan { start, retire_outdated, retire_surplus, ask_again, watch_spare }
    }

    /// Workers of the serving template that there should be now.
    fn wanted(&self, counts: Counts) -> u32 {
        match self.shape {
            Shape::Fixed(workers) => workers,
            Shape::Dynamic(bounds) => {
                let Demand { busy, waiting, .. } = counts.demand;
                let needed = busy.saturating_add(waiting).saturating_add(bounds.min_spare);
                needed.clamp(bounds.min_workers, bounds.max_workers)
            }
        }
    }

    /// How many of them there are not, and are not on their way either.
    fn missing(&self, wanted: u32, counts: Counts) -> u32 {
        wanted.saturating_sub(counts.ready + counts.starting + self.held_back)
    }

    /// How many may be on their way.
    fn room(&self, missing: u32, counts: Counts) -> u32 {
        if counts.outdated > 0 { ROLLING_BATCH.saturating_sub(counts.starting) } else { missing }
    }

    /// Nothing is missing, nobody is on the way, and the next try is not being waited for: nobody needs to know any more
    /// what kept workers from being had while there was demand for them.
    fn forget_what_is_over(&mut self, now: Clock, missing: u32, counts: Counts) {
        let settled = missing == 0 && counts.starting == 0 && self.held_back == 0;
        if settled && self.is_backing_off() && self.blocked_until(now).is_none() {
            self.refused.reset();
            self.died_young.reset();
        }
    }

    /// Workers of the serving template to retire, or when to ask again about it.
    fn surplus(&mut self, now: Clock, counts: Counts) -> (u32, Option<Clock>) {
        let beyond = counts.ready.saturating_sub(self.shape.most());
        match self.shape {
            Shape::Dynamic(bounds) if beyond == 0 && counts.outdated == 0 => {
                self.shrink.surplus(now, bounds, counts.ready, counts.demand.lowest_spare)
            }
            _ => {
                self.shrink.reset();
                (beyond, None)
            }
        }
    }

    /// There is no use in being told that spare workers are short where none can be started, or some are about to be.
    fn spare_to_watch(&self, missing: u32, counts: Counts) -> Option<u32> {
        let Shape::Dynamic(bounds) = self.shape else { return None };
        let below_the_most = counts.ready + counts.starting + self.held_back < bounds.max_workers;
        (missing == 0 && below_the_most && counts.free_slots > 0).then_some(bounds.min_spare)
    }

    fn blocked_until(&self, now: Clock) -> Option<Clock> {
        let until = self.refused.due().max(self.died_young.due());
        (until > now).then_some(until)
    }
}
