//! When a request is sent. The engine asks for the next one each time a connection is free; this is the closed model:
//! a free connection sends at once, until it is enough.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// One request to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    /// Its number within the run; each is given out once.
    pub sequence: u64,
    /// The instant its latency is counted from.
    pub planned: Instant,
}

/// When it is enough.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// After so many requests.
    Requests(u64),
    /// At this instant.
    Until(Instant),
}

/// Gives out the requests of a run to all event threads.
#[derive(Debug)]
pub struct Schedule {
    goal: Goal,
    next: AtomicU64,
    stopped: AtomicBool,
}

impl Schedule {
    /// A schedule that has given out nothing yet.
    pub fn new(goal: Goal) -> Self {
        Self { goal, next: AtomicU64::new(0), stopped: AtomicBool::new(false) }
    }

    /// The next request, to be sent now, or nothing once it is enough.
    pub fn next(&self, now: Instant) -> Option<Ticket> {
        if self.is_over(now) {
            return None;
        }
        let sequence = self.next.fetch_add(1, Ordering::Relaxed);
        match self.goal {
            Goal::Requests(total) if sequence >= total => None,
            _ => Some(Ticket { sequence, planned: now }),
        }
    }

    /// No further requests; those under way are still waited for.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// How many numbers were given out: every sequence is below this.
    pub fn issued(&self) -> u64 {
        let next = self.next.load(Ordering::Relaxed);
        match self.goal {
            Goal::Requests(total) => next.min(total),
            Goal::Until(_) => next,
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        let reached = match self.goal {
            // Asked before counting up, so that the counter stays near the total however often it is asked.
            Goal::Requests(total) => self.next.load(Ordering::Relaxed) >= total,
            Goal::Until(end) => now >= end,
        };
        reached || self.stopped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_number_once_and_no_more_than_asked() {
        let schedule = Schedule::new(Goal::Requests(3));
        let now = Instant::now();
        let given: Vec<_> = (0..9).filter_map(|_| schedule.next(now)).map(|ticket| ticket.sequence).collect();
        assert_eq!(given, [0, 1, 2]);
        assert_eq!(schedule.issued(), 3);
    }

    #[test]
    fn until_an_instant() {
        let now = Instant::now();
        let schedule = Schedule::new(Goal::Until(now + Duration::from_secs(1)));
        assert!(schedule.next(now).is_some());
        assert!(schedule.next(now + Duration::from_secs(1)).is_none());
        assert_eq!(schedule.issued(), 1);
    }

    #[test]
    fn stopped() {
        let schedule = Schedule::new(Goal::Requests(3));
        schedule.stop();
        assert!(schedule.next(Instant::now()).is_none());
        assert_eq!(schedule.issued(), 0);
    }
}
