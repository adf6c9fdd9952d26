//! The distribution of latencies as HdrHistogram's own tools write and plot it: percentiles that come the closer
//! together the nearer they are to 100, each with the value that they do not exceed.

use std::fmt::Write as _;
use std::path::Path;

use common::error::{Context, Result};
use hdrhistogram::Histogram;

/// Lines between one halving of the distance to 100 % and the next.
const TICKS_PER_HALVING: u32 = 5;

/// A share of the requests, and the latency that they did not exceed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// From 0 to 1.
    pub share: f64,
    /// Milliseconds.
    pub ms: f64,
    /// Requests up to here.
    pub count: u64,
}

/// The distribution of latencies in nanoseconds, from the shortest to the longest.
pub fn points(latency: &Histogram<u64>) -> Vec<Point> {
    let mut count = 0;
    latency
        .iter_quantiles(TICKS_PER_HALVING)
        .map(|step| {
            count += step.count_since_last_iteration();
            Point {
                share: step.quantile_iterated_to(),
                ms: milliseconds(step.value_iterated_to() as f64),
                count,
            }
        })
        .collect()
}

/// Writes it to a file, in milliseconds.
pub fn write(path: &Path, latency: &Histogram<u64>) -> Result<()> {
    std::fs::write(path, text(latency))
        .context(|| format!("cannot write the latencies to {}", path.display()))
}

fn text(latency: &Histogram<u64>) -> String {
    let mut text =
        format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    for Point { share, ms, count } in points(latency) {
        let _ = write!(text, "{ms:12.3} {share:14.12} {count:10}");
        // The last line has none.
        let _ = if share < 1.0 { writeln!(text, " {:14.2}", 1.0 / (1.0 - share)) } else { writeln!(text) };
    }
    let (mean, deviation, max) = (latency.mean(), latency.stdev(), latency.max() as f64);
    let [mean, deviation, max] = [mean, deviation, max].map(milliseconds);
    let _ = writeln!(text, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]");
    let _ = writeln!(text, "#[Max     = {max:12.3}, Total count    = {:12}]", latency.len());
    let _ = writeln!(text, "#[Buckets = {:12}, SubBuckets     = {:12}]", latency.buckets(), 2048);
    text
}

fn milliseconds(nanoseconds: f64) -> f64 {
    nanoseconds / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::histogram;

    #[test]
    fn every_request_is_in_it() {
        let mut latency = histogram().unwrap();
        for ms in 1..=1000 {
            latency.record(ms * 1_000_000).unwrap();
        }
        let points = points(&latency);
        assert!(points.windows(2).all(|two| two[0].share <= two[1].share && two[0].ms <= two[1].ms));
        let last = points.last().unwrap();
        assert_eq!((last.share, last.count), (1.0, 1000));
        assert!((last.ms - 1000.0).abs() < 1.0);
        let median = points.iter().find(|point| point.share >= 0.5).unwrap();
        assert!((median.ms - 500.0).abs() < 2.0, "{median:?}");
        let text = text(&latency);
        assert!(text.starts_with("       Value     Percentile TotalCount 1/(1-Percentile)\n\n"));
        assert!(text.contains("Total count    =         1000]"), "{text}");
    }

    #[test]
    fn nothing_was_handled() {
        let latency = histogram().unwrap();
        assert!(text(&latency).contains("Total count    =            0]"));
    }
}
