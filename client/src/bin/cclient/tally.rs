//! What one event thread counts, and the sum over all of them.

use std::time::Duration;

use common::error::{Error, Result};
use hdrhistogram::Histogram;

use crate::bitmap::Bitmap;
use crate::failure::Failure;
use crate::pace::Pace;

/// Three digits up to an hour; what takes longer counts as an hour here, and `max` holds the truth.
const LONGEST: Duration = Duration::from_secs(3600);

/// Outcomes of requests.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Requests whose own reply came.
    pub handled: u64,
    failed: [u64; Failure::ALL.len()],
    latency: Histogram<u64>,
    max: Duration,
    acknowledged: Option<Bitmap>,
    /// How well the open model's plan was kept; nothing in the closed model.
    pub pace: Option<Pace>,
}

impl Tally {
    /// Nothing yet. Which requests were acknowledged is remembered only if someone is going to ask.
    pub fn new(remember: bool) -> Result<Self> {
        let acknowledged = remember.then(Bitmap::default);
        let (latency, max) = (histogram()?, Duration::ZERO);
        Ok(Self { handled: 0, failed: [0; _], latency, max, acknowledged, pace: None })
    }

    /// A request got its reply.
    pub fn handled(&mut self, sequence: u64, latency: Duration) {
        self.handled += 1;
        self.latency.saturating_record(nanoseconds(latency).max(1));
        self.max = self.max.max(latency);
        if let Some(acknowledged) = &mut self.acknowledged {
            acknowledged.insert(sequence);
        }
    }

    /// A request got none.
    pub fn failed(&mut self, failure: Failure) {
        self.failed[failure as usize] += 1;
    }

    /// Adds another thread's outcomes.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        self.handled += other.handled;
        for (count, added) in self.failed.iter_mut().zip(other.failed) {
            *count += added;
        }
        self.max = self.max.max(other.max);
        if let (Some(all), Some(added)) = (&mut self.acknowledged, &other.acknowledged) {
            all.merge(added);
        }
        match (&mut self.pace, &other.pace) {
            (Some(all), Some(added)) => all.merge(added)?,
            (all @ None, Some(added)) => *all = Some(added.clone()),
            (_, None) => {}
        }
        merge_histograms(&mut self.latency, &other.latency)
    }

    /// Requests that failed.
    pub fn errors(&self) -> u64 {
        self.failed.iter().sum()
    }

    /// Kinds that occurred, the most frequent first.
    pub fn errors_by_kind(&self) -> Vec<(Failure, u64)> {
        let counted = Failure::ALL.into_iter().zip(self.failed);
        let mut kinds: Vec<_> = counted.filter(|(_, count)| *count > 0).collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        kinds
    }

    /// The latency that this share of the handled requests did not exceed.
    pub fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_nanos(self.latency.value_at_quantile(quantile)).min(self.max)
    }

    /// The longest latency, exactly.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// The latencies of the handled requests, in nanoseconds.
    pub fn latency(&self) -> &Histogram<u64> {
        &self.latency
    }

    /// The requests that got their reply, if they were to be remembered.
    pub fn acknowledged(&self) -> Option<&Bitmap> {
        self.acknowledged.as_ref()
    }
}

/// An empty histogram of nanoseconds.
pub fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, nanoseconds(LONGEST), 3)
        .map_err(|cause| Error::failure(format!("cannot make a histogram of times: {cause}")))
}

/// Adds what was counted in another one.
pub fn merge_histograms(all: &mut Histogram<u64>, added: &Histogram<u64>) -> Result<()> {
    all.add(added).map_err(|cause| Error::failure(format!("cannot add up the times: {cause}")))
}

/// The duration as histograms count it.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums() {
        let mut all = Tally::new(true).unwrap();
        assert_eq!((all.quantile(0.5), all.max(), all.errors()), (Duration::ZERO, Duration::ZERO, 0));
        let mut one = all.clone();
        for sequence in 0..100 {
            one.handled(sequence, Duration::from_micros(sequence + 1));
        }
        one.handled(100, Duration::from_secs(7200));
        one.failed(Failure::Refused);
        one.failed(Failure::TimedOut);
        one.failed(Failure::TimedOut);
        all.merge(&one).unwrap();
        all.merge(&one).unwrap();
        assert_eq!((all.handled, all.errors()), (202, 6));
        assert_eq!(all.errors_by_kind(), [(Failure::TimedOut, 4), (Failure::Refused, 2)]);
        assert_eq!(all.quantile(0.5).as_micros(), 51);
        assert_eq!(all.max(), Duration::from_secs(7200));
        assert!(all.quantile(1.0) >= LONGEST && all.quantile(1.0) <= all.max());
        assert_eq!(all.acknowledged().unwrap().without(&Bitmap::default()).count(), 101);
    }
}
