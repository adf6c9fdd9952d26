//! When a request is sent. The engine asks for the next one each time a connection is free. In the closed model a free
//! connection sends at once; in the open model (`--rate`) a request is due at its planned instant, whoever is still
//! being served, and one that finds no connection free is sent as soon as there is one. Both go on until it is enough.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One request to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    /// Its number within the run; each is given out once.
    pub sequence: u64,
    /// The instant its latency is counted from.
    pub planned: Instant,
}

/// What a free connection is to do.
#[derive(Clone, Copy, Debug)]
pub enum Turn {
    /// Send this request.
    Now(Ticket),
    /// Ask again at this instant.
    Later(Instant),
    /// Nothing more: it is enough.
    Over,
}

/// When it is enough.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// After so many requests.
    Requests(u64),
    /// At this instant. In the open model every request planned before it is sent, however late.
    Until(Instant),
}

/// The open model's plan: one request after the other, evenly.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The instant of the first.
    pub started: Instant,
    /// Requests per second.
    pub rate: f64,
}

impl Plan {
    /// When this request is due; nothing if the clock does not run that long.
    fn instant(&self, sequence: u64) -> Option<Instant> {
        let after = Duration::try_from_secs_f64(sequence as f64 / self.rate).ok()?;
        self.started.checked_add(after)
    }
}

/// Gives out the requests of a run to all event threads.
#[derive(Debug)]
pub struct Schedule {
    goal: Goal,
    plan: Option<Plan>,
    next: AtomicU64,
    stopped: AtomicBool,
}

impl Schedule {
    /// A schedule that has given out nothing yet; of the open model if there is a plan.
    pub fn new(goal: Goal, plan: Option<Plan>) -> Self {
        Self { goal, plan, next: AtomicU64::new(0), stopped: AtomicBool::new(false) }
    }

    /// Whether requests have planned instants.
    pub fn is_open(&self) -> bool {
        self.plan.is_some()
    }

    /// What a connection that is free now is to do.
    pub fn next(&self, now: Instant) -> Turn {
        match &self.plan {
            Some(plan) => self.next_planned(plan, now),
            None => self.next_at_once(now),
        }
    }

    fn next_at_once(&self, now: Instant) -> Turn {
        if self.is_over(now) {
            return Turn::Over;
        }
        let sequence = self.next.fetch_add(1, Ordering::Relaxed);
        match self.goal {
            Goal::Requests(total) if sequence >= total => Turn::Over,
            _ => Turn::Now(Ticket { sequence, planned: now }),
        }
    }

    fn next_planned(&self, plan: &Plan, now: Instant) -> Turn {
        let mut sequence = self.next.load(Ordering::Relaxed);
        loop {
            let Some(planned) = plan.instant(sequence) else { return Turn::Over };
            let enough = match self.goal {
                Goal::Requests(total) => sequence >= total,
                Goal::Until(end) => planned >= end,
            };
            if enough || self.stopped.load(Ordering::Relaxed) {
                return Turn::Over;
            }
            if planned > now {
                return Turn::Later(planned);
            }
            let following = sequence + 1;
            match self.next.compare_exchange_weak(sequence, following, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Turn::Now(Ticket { sequence, planned }),
                Err(taken) => sequence = taken,
            }
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
    use super::*;

    fn ticket(turn: Turn) -> Option<Ticket> {
        if let Turn::Now(ticket) = turn { Some(ticket) } else { None }
    }

    #[test]
    fn every_number_once_and_no_more_than_asked() {
        let schedule = Schedule::new(Goal::Requests(3), None);
        let now = Instant::now();
        let given: Vec<_> =
            (0..9).filter_map(|_| ticket(schedule.next(now))).map(|ticket| ticket.sequence).collect();
        assert_eq!(given, [0, 1, 2]);
        assert_eq!(schedule.issued(), 3);
    }

    #[test]
    fn until_an_instant() {
        let now = Instant::now();
        let schedule = Schedule::new(Goal::Until(now + Duration::from_secs(1)), None);
        assert!(ticket(schedule.next(now)).is_some());
        assert!(matches!(schedule.next(now + Duration::from_secs(1)), Turn::Over));
        assert_eq!(schedule.issued(), 1);
    }

    #[test]
    fn stopped() {
        let plan = Plan { started: Instant::now(), rate: 1.0 };
        for plan in [None, Some(plan)] {
            let schedule = Schedule::new(Goal::Requests(3), plan);
            schedule.stop();
            assert!(matches!(schedule.next(Instant::now()), Turn::Over));
            assert_eq!(schedule.issued(), 0);
        }
    }

    #[test]
    fn planned_requests_come_in_their_time_and_none_is_left_out() {
        let started = Instant::now();
        let second = Duration::from_secs(1);
        let schedule = Schedule::new(Goal::Until(started + 2 * second), Some(Plan { started, rate: 2.0 }));
        let Turn::Now(first) = schedule.next(started) else { panic!("the first is due at once") };
        assert_eq!((first.sequence, first.planned), (0, started));
        let Turn::Later(due) = schedule.next(started) else { panic!("the second is not due yet") };
        assert_eq!(due, started + second / 2);
        // Long after the end: what was planned before it is due still, from the instants that were planned.
        let late = started + 10 * second;
        let planned: Vec<_> = (0..9)
            .filter_map(|_| ticket(schedule.next(late)))
            .map(|ticket| ticket.planned - started)
            .collect();
        assert_eq!(planned, [second / 2, second, second * 3 / 2]);
        assert_eq!(schedule.issued(), 4);
    }

    #[test]
    fn a_plan_beyond_the_clock_ends() {
        let started = Instant::now();
        let schedule = Schedule::new(Goal::Requests(u64::MAX), Some(Plan { started, rate: 1e-300 }));
        assert!(ticket(schedule.next(started)).is_some());
        assert!(matches!(schedule.next(started), Turn::Over));
    }
}
