//! How many workers to start and to retire, and when: a pure state machine of events, the clock and counts. It starts
//! nothing and knows no process, so that every rule can be tested without one.

use std::time::Duration;

/// Time since the supervisor started.
pub type Clock = Duration;

/// How many workers may be on their way at a time while a new template's replace the old ones.
const ROLLING_BATCH: u32 = 32;

/// Replacements of workers that died after they were ready: at once, up to so many a second.
const REPLACEMENTS_PER_SECOND: u32 = 100;

const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

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
}

/// Why a worker could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The kernel refused the clone.
    Refused,
    /// It died before it was ready.
    DiedYoung,
}

/// The policy of a pool with a fixed number of workers.
#[derive(Debug)]
pub struct Policy {
    target: u32,
    draining: bool,
    held_back: u32,
    replacements: Bucket,
    refused: Backoff,
    died_young: Backoff,
}

impl Policy {
    /// A pool of `target` workers.
    pub fn fixed(target: u32) -> Self {
        Self {
            target,
            draining: false,
            held_back: 0,
            replacements: Bucket::full(),
            refused: Backoff::default(),
            died_young: Backoff::default(),
        }
    }

    /// Workers wanted.
    pub fn target(&self) -> u32 {
        self.target
    }

    /// Wants another number of workers.
    pub fn scale(&mut self, target: u32) {
        self.target = target;
        self.held_back = 0;
    }

    /// Wants none any more.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// A worker is ready: whatever kept workers from being had is over.
    pub fn worker_ready(&mut self) {
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
        self.refused.failures > 0 || self.died_young.failures > 0
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
        let serving = counts.ready + counts.outdated;
        let wanted = self.startable(counts);
        let blocked = self.blocked_until(now);
        let start = match blocked {
            Some(_) => 0,
            // After a failure one worker is tried before the rest follow.
            None if self.is_backing_off() => wanted.min(1_u32.saturating_sub(counts.starting)),
            None => wanted,
        };
        let ask_again = match blocked {
            Some(until) if wanted > 0 => Some(until),
            _ if self.held_back > 0 => Some(self.replacements.next(now)),
            _ => None,
        };
        let surplus = serving.saturating_sub(self.target);
        let retire_outdated = surplus.min(counts.outdated);
        let retire_surplus = (surplus - retire_outdated).min(counts.ready.saturating_sub(self.target));
        Plan { start, retire_outdated, retire_surplus, ask_again }
    }

    /// Workers of the serving template that are missing and have room.
    fn startable(&self, counts: Counts) -> u32 {
        let present = counts.ready + counts.starting + self.held_back;
        let missing = self.target.saturating_sub(present);
        let room = if counts.outdated > 0 { ROLLING_BATCH.saturating_sub(counts.starting) } else { missing };
        missing.min(room).min(counts.free_slots)
    }

    fn blocked_until(&self, now: Clock) -> Option<Clock> {
        let until = self.refused.until.max(self.died_young.until);
        (until > now).then_some(until)
    }
}

/// Doubling delays after failures of one cause.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
    until: Clock,
}

impl Backoff {
    /// One more failure: the next try is later than the last.
    pub fn failed(&mut self, now: Clock) {
        let delay = FIRST_DELAY.saturating_mul(1 << self.failures.min(10)).min(LONGEST_DELAY);
        self.failures = self.failures.saturating_add(1);
        self.until = now + delay;
    }

    /// It went well.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// When the next try is due.
    pub fn due(&self) -> Clock {
        self.until
    }

    /// Failures since it last went well.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// A token bucket.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Clock,
}

impl Bucket {
    fn full() -> Self {
        Self { tokens: f64::from(REPLACEMENTS_PER_SECOND), filled: Duration::ZERO }
    }

    fn take(&mut self, now: Clock) -> bool {
        let rate = f64::from(REPLACEMENTS_PER_SECOND);
        let gained = now.saturating_sub(self.filled).as_secs_f64() * rate;
        self.tokens = (self.tokens + gained).min(rate);
        self.filled = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    fn next(&self, now: Clock) -> Clock {
        now + Duration::from_secs(1) / REPLACEMENTS_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Clock {
        Duration::from_millis(ms)
    }

    const fn counts(starting: u32, ready: u32, outdated: u32) -> Counts {
        Counts { starting, ready, outdated, free_slots: 1000 }
    }

    #[test]
    fn what_a_fixed_pool_does() {
        // (target, counts) → (start, retire outdated, retire surplus)
        let table = [
            (10, counts(0, 0, 0), (10, 0, 0)),
            (10, counts(4, 6, 0), (0, 0, 0)),
            (10, counts(0, 9, 0), (1, 0, 0)),
            (10, counts(0, 12, 0), (0, 0, 2)),
            (0, counts(0, 3, 0), (0, 0, 3)),
            // A reload: new ones beside the old, the old leave as the new are ready.
            (10, counts(0, 0, 10), (10, 0, 0)),
            (10, counts(7, 3, 10), (0, 3, 0)),
            (10, counts(0, 10, 4), (0, 4, 0)),
            (1000, counts(0, 0, 1000), (32, 0, 0)),
            (1000, counts(32, 100, 900), (0, 0, 0)),
            (1000, counts(20, 112, 900), (12, 12, 0)),
        ];
        for (target, counts, (start, outdated, surplus)) in table {
            let plan = Policy::fixed(target).plan(ms(0), counts);
            let seen = (plan.start, plan.retire_outdated, plan.retire_surplus);
            assert_eq!(seen, (start, outdated, surplus), "{target} {counts:?}");
        }
    }

    #[test]
    fn without_a_free_slot_nothing_starts() {
        let counts = Counts { free_slots: 3, ..counts(0, 0, 0) };
        assert_eq!(Policy::fixed(10).plan(ms(0), counts).start, 3);
    }

    #[test]
    fn ready_workers_are_replaced_at_once_up_to_a_rate() {
        let mut policy = Policy::fixed(1000);
        for _ in 0..250 {
            policy.worker_died(ms(1000));
        }
        let plan = policy.plan(ms(1000), counts(0, 750, 0));
        assert_eq!(plan.start, 100);
        assert_eq!(plan.ask_again, Some(ms(1010)));
        assert_eq!(policy.plan(ms(1500), counts(0, 850, 0)).start, 50);
        assert_eq!(policy.plan(ms(3000), counts(0, 900, 0)).start, 100);
    }

    #[test]
    fn failures_back_off_by_doubling_and_one_success_ends_it() {
        let mut policy = Policy::fixed(10);
        let (mut now, mut tries) = (ms(0), Vec::new());
        while now < Duration::from_secs(60) {
            let plan = policy.plan(now, counts(0, 0, 0));
            if plan.start > 0 {
                tries.push(now);
                policy.worker_failed(now, Cause::DiedYoung);
            }
            now = plan.ask_again.unwrap_or(now + ms(1));
        }
        assert!(policy.is_backing_off());
        assert!(tries[1] - tries[0] == FIRST_DELAY && tries.len() < 22, "{tries:?}");
        let last = tries.len() - 1;
        assert_eq!(tries[last] - tries[last - 1], LONGEST_DELAY);
        policy.worker_ready();
        assert_eq!(policy.plan(now, counts(0, 1, 0)).start, 9);
    }

    #[test]
    fn one_is_tried_after_a_failure_before_the_rest_follow() {
        let mut policy = Policy::fixed(10);
        policy.worker_failed(ms(0), Cause::Refused);
        assert_eq!(policy.plan(ms(10), counts(0, 5, 0)).start, 0);
        assert_eq!(policy.plan(ms(60), counts(0, 5, 0)).start, 1);
        assert_eq!(policy.plan(ms(60), counts(1, 5, 0)).start, 0);
    }

    #[test]
    fn draining_starts_nothing_and_retires_everything() {
        let mut policy = Policy::fixed(10);
        policy.drain();
        let plan = policy.plan(ms(0), counts(2, 5, 3));
        assert_eq!((plan.start, plan.retire_outdated, plan.retire_surplus), (0, 3, 5));
    }

    proptest! {
        #[test]
        fn never_below_the_target_by_retiring_and_never_above_by_starting(
            target in 0_u32..2000, starting in 0_u32..100, ready in 0_u32..2000, outdated in 0_u32..2000, free in 0_u32..500,
        ) {
            let counts = Counts { starting, ready, outdated, free_slots: free };
            let plan = Policy::fixed(target).plan(ms(0), counts);
            let serving = ready + outdated;
            prop_assert!(plan.start <= free);
            prop_assert!(plan.start == 0 || ready + starting + plan.start <= target);
            prop_assert!(plan.retire_outdated <= outdated && plan.retire_surplus <= ready);
            let left = serving - plan.retire_outdated - plan.retire_surplus;
            prop_assert!(left >= target.min(serving));
        }
    }
}
