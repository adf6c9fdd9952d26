//! Whether the open model's plan was kept, and by whose fault if it was not.
//!
//! A request that leaves late because every connection still waits for the server is the server's affair: that is what
//! counting from the planned instant is for. One that leaves late although a connection was free, or a reply that lies
//! there unread, is the generator's own: beyond a little of that the latencies are not the server's, and the run is
//! refused.

use std::time::{Duration, Instant};

use common::error::Result;
use hdrhistogram::Histogram;

use crate::tally::{histogram, merge_histograms, nanoseconds};

/// So late by its own fault a request shows that the generator did not get the processor.
const LATE: Duration = Duration::from_millis(10);
/// A run with more late requests than this share is refused.
const MOST_LATE: f64 = 0.01;
/// A thread that waits for events for less than the rest of its time never catches up.
const MOST_BUSY: f64 = 0.95;
/// A shorter run says nothing about how busy its threads were.
const TELLING: Duration = Duration::from_millis(100);

/// How well the plan was kept: by one event thread, and the sum over all of them.
#[derive(Clone, Debug)]
pub struct Pace {
    sent: u64,
    waited: u64,
    late: u64,
    /// What was planned up to here could not leave in time, because the generator was held up until then.
    held_until: Option<Instant>,
    slip: Histogram<u64>,
    longest: Duration,
    begun: Instant,
    slept: Duration,
    over: bool,
    busiest: f64,
}

impl Pace {
    /// A thread that begins now.
    pub fn new(now: Instant) -> Result<Self> {
        Ok(Self {
            sent: 0,
            waited: 0,
            late: 0,
            held_until: None,
            slip: histogram()?,
            longest: Duration::ZERO,
            begun: now,
            slept: Duration::ZERO,
            over: false,
            busiest: 0.0,
        })
    }

    /// A request is being sent. `free_since`: there has been a free connection all the time since then.
    pub fn send(&mut self, planned: Instant, free_since: Instant, now: Instant) {
        let slip = now.saturating_duration_since(planned);
        self.sent += 1;
        self.slip.saturating_record(nanoseconds(slip).max(1));
        self.longest = self.longest.max(slip);
        if now.saturating_duration_since(planned.max(free_since)) >= LATE {
            self.held_until = Some(now);
        }
        // A backlog of the generator's own making keeps the connections busy, too: whoever stood in it is late.
        if self.held_until.is_some_and(|until| planned <= until) {
            self.late += 1;
        } else {
            self.waited += u64::from(free_since > planned);
        }
    }

    /// The thread waited for events.
    pub fn sleep(&mut self, slept: Duration) {
        if !self.over {
            self.slept += slept;
        }
    }

    /// Everything is sent: from here on there is nothing to be late for.
    pub fn end(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.begun);
        if !self.over && elapsed >= TELLING {
            self.busiest = 1.0 - self.slept.as_secs_f64() / elapsed.as_secs_f64();
        }
        self.over = true;
    }

    /// Adds another thread's.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        self.sent += other.sent;
        self.waited += other.waited;
        self.late += other.late;
        self.longest = self.longest.max(other.longest);
        self.busiest = self.busiest.max(other.busiest);
        merge_histograms(&mut self.slip, &other.slip)
    }

    /// By how much this share of the requests left after their planned instants, at most.
    pub fn slip(&self, quantile: f64) -> Duration {
        Duration::from_nanos(self.slip.value_at_quantile(quantile)).min(self.longest)
    }

    /// The most that a request left after its planned instant.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// Requests that found every connection taken at their planned instant.
    pub fn waited(&self) -> u64 {
        self.waited
    }

    /// Requests that left [`LATE`] or more after they could have, or behind such a one, by the generator's own fault.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// The share of its time for which the busiest thread did not wait for events, from 0 to 1.
    pub fn busiest(&self) -> f64 {
        self.busiest
    }

    /// Why the latencies are not to be believed, if they are not.
    pub fn refusal(&self) -> Option<String> {
        if self.late as f64 > self.sent as f64 * MOST_LATE {
            let (late, sent, limit) = (self.late, self.sent, LATE.as_millis());
            return Some(format!(
                "it was held up for {limit} ms or more when {late} of {sent} requests were to leave"
            ));
        }
        if self.busiest > MOST_BUSY {
            return Some(format!("a thread of it was busy {:.1} % of the time", self.busiest * 100.0));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn waiting_for_the_server_is_no_fault_of_the_generator() {
        let start = Instant::now();
        let mut pace = Pace::new(start).unwrap();
        for number in 0..100 {
            let planned = start + number * MS;
            pace.send(planned, planned + 500 * MS, planned + 501 * MS);
        }
        pace.sleep(300 * MS);
        pace.end(start + 600 * MS);
        assert_eq!((pace.waited(), pace.late(), pace.refusal()), (100, 0, None));
        assert_eq!(pace.longest(), 501 * MS);
        assert!(pace.slip(0.5) >= 500 * MS && (pace.busiest() - 0.5).abs() < 1e-9);
    }

    #[test]
    fn leaving_late_beside_a_free_connection_is() {
        let start = Instant::now();
        let mut pace = Pace::new(start).unwrap();
        for number in 0..98 {
            pace.send(start + number * MS, start, start + number * MS);
        }
        let mut other = pace.clone();
        other.send(start, start, start + LATE);
        pace.merge(&other).unwrap();
        assert_eq!((pace.late(), pace.refusal()), (1, None));
        pace.send(start, start, start + LATE);
        assert!(pace.refusal().unwrap().starts_with("it was held up for 10 ms or more when 2 of 198"));
    }

    #[test]
    fn who_stands_in_the_backlog_of_a_generator_that_was_held_up_is_late() {
        let start = Instant::now();
        let mut pace = Pace::new(start).unwrap();
        let resumed = start + 500 * MS;
        // One goes out at once, the others when its connection is free again, and what is planned after that in time.
        pace.send(start, start, resumed);
        for number in 1..100 {
            pace.send(start + number * MS, resumed + number * MS, resumed + number * MS);
        }
        pace.send(start + 600 * MS, start + 610 * MS, start + 610 * MS);
        assert_eq!((pace.late(), pace.waited()), (100, 1));
        assert!(pace.refusal().is_some());
    }

    #[test]
    fn never_waiting_is() {
        let start = Instant::now();
        let mut pace = Pace::new(start).unwrap();
        pace.sleep(4 * MS);
        pace.end(start + 100 * MS);
        // What comes after the last request does not count.
        pace.sleep(1000 * MS);
        pace.end(start + 1100 * MS);
        assert_eq!(pace.refusal().unwrap(), "a thread of it was busy 96.0 % of the time");
        let mut brief = Pace::new(start).unwrap();
        brief.end(start + 99 * MS);
        assert_eq!(brief.refusal(), None);
    }
}
