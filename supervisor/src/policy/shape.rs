//! The shape of a pool: as many workers always, or as many as are needed and some to spare.

use common::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// How many workers there are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shape {
    /// As many always.
    Fixed(u32),
    /// As many as are busy and some to spare, between bounds.
    Dynamic(Bounds),
}

/// The bounds of a dynamic pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// Workers at least.
    pub min_workers: u32,
    /// Workers at most.
    pub max_workers: u32,
    /// Less than so many waiting for a connection: more are started.
    pub min_spare: u32,
    /// More than so many waiting for a connection for some time: the others are retired.
    pub max_spare: u32,
}

/// The options that say which pool is wanted, as far as they are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// `--workers`
    pub workers: Option<u32>,
    /// `--min-workers`
    pub min_workers: Option<u32>,
    /// `--max-workers`
    pub max_workers: Option<u32>,
    /// `--min-spare`
    pub min_spare: Option<u32>,
    /// `--max-spare`
    pub max_spare: Option<u32>,
}

/// Workers where nothing is said, and the most of a dynamic pool where that is not said.
const WORKERS: u32 = 1000;

/// The fewest workers, and the fewest spare ones, where that is not said.
const FEW: u32 = 5;

/// The most spare workers where that is not said, unless there are to be more at least.
const SPARE: u32 = 20;

impl Wanted {
    /// The shape of the pool.
    ///
    /// # Errors
    /// Options that contradict each other (exit 2).
    pub fn shape(self) -> Result<Shape> {
        let Self { workers, min_workers, max_workers, min_spare, max_spare } = self;
        let dynamic = [
            ("--min-workers", min_workers),
            ("--max-workers", max_workers),
            ("--min-spare", min_spare),
            ("--max-spare", max_spare),
        ];
        let Some((option, _)) = dynamic.into_iter().find(|(_, value)| value.is_some()) else {
            return at_least_one("--workers", workers.unwrap_or(WORKERS)).map(Shape::Fixed);
        };
        if workers.is_some() {
            return Err(Error::usage(format!(
                "--workers is for a fixed pool and {option} for a dynamic one; name one kind"
            )));
        }
        for (option, value) in dynamic {
            at_least_one(option, value.unwrap_or(1))?;
        }
        let most = max_workers.unwrap_or(WORKERS.max(min_workers.unwrap_or(0)).max(min_spare.unwrap_or(0)));
        let min_workers = min_workers.unwrap_or(FEW.min(most));
        let spare = max_spare.map_or(FEW, |max_spare| FEW.min(max_spare)).min(most);
        let min_spare = min_spare.unwrap_or(spare);
        let max_spare = max_spare.unwrap_or(SPARE.max(min_spare.saturating_mul(2)));
        not_above(("--min-workers", min_workers), ("--max-workers", most))?;
        not_above(("--min-spare", min_spare), ("--max-spare", max_spare))?;
        not_above(("--min-spare", min_spare), ("--max-workers", most))?;
        Ok(Shape::Dynamic(Bounds { min_workers, max_workers: most, min_spare, max_spare }))
    }
}

fn at_least_one(option: &str, value: u32) -> Result<u32> {
    if value > 0 { Ok(value) } else { Err(Error::usage(format!("{option} 0: at least 1 is needed"))) }
}

fn not_above((low, less): (&str, u32), (high, more): (&str, u32)) -> Result<()> {
    if less <= more {
        return Ok(());
    }
    Err(Error::usage(format!("{low} {less} is more than {high} {more}; lower the one or raise the other")))
}

impl Shape {
    /// Workers at most.
    pub fn most(self) -> u32 {
        match self {
            Self::Fixed(workers) => workers,
            Self::Dynamic(bounds) => bounds.max_workers,
        }
    }

    /// Workers at least.
    pub fn least(self) -> u32 {
        match self {
            Self::Fixed(workers) => workers,
            Self::Dynamic(bounds) => bounds.min_workers,
        }
    }

    /// The shape with another number of workers: of a dynamic pool the most, to which its other bounds give way.
    #[must_use]
    pub fn scaled(self, workers: u32) -> Self {
        match self {
            Self::Fixed(_) => Self::Fixed(workers),
            Self::Dynamic(bounds) => Self::Dynamic(Bounds {
                max_workers: workers,
                min_workers: bounds.min_workers.min(workers),
                min_spare: bounds.min_spare.min(workers),
                max_spare: bounds.max_spare,
            }),
        }
    }

    /// The option that asks for so many workers, for messages.
    pub fn option(self) -> &'static str {
        match self {
            Self::Fixed(_) => "--workers",
            Self::Dynamic(_) => "--max-workers",
        }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(workers) => write!(f, "{workers}"),
            Self::Dynamic(bounds) => write!(f, "{} to {}", bounds.min_workers, bounds.max_workers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(given: [u32; 5]) -> Result<Shape> {
        let [workers, min_workers, max_workers, min_spare, max_spare] =
            given.map(|value| (value != u32::MAX).then_some(value));
        Wanted { workers, min_workers, max_workers, min_spare, max_spare }.shape()
    }

    const NO: u32 = u32::MAX;

    #[test]
    fn what_is_not_said_has_a_default_that_fits() {
        let dynamic = |min_workers, max_workers, min_spare, max_spare| {
            Ok(Shape::Dynamic(Bounds { min_workers, max_workers, min_spare, max_spare }))
        };
        // --workers, --min-workers, --max-workers, --min-spare, --max-spare
        let table = [
            ([NO, NO, NO, NO, NO], Ok(Shape::Fixed(1000))),
            ([7, NO, NO, NO, NO], Ok(Shape::Fixed(7))),
            ([NO, 5, 1000, 5, 20], dynamic(5, 1000, 5, 20)),
            ([NO, 10, NO, NO, NO], dynamic(10, 1000, 5, 20)),
            ([NO, 2000, NO, NO, NO], dynamic(2000, 2000, 5, 20)),
            ([NO, NO, 3, NO, NO], dynamic(3, 3, 3, 20)),
            ([NO, NO, NO, 50, NO], dynamic(5, 1000, 50, 100)),
            ([NO, NO, NO, NO, 2], dynamic(5, 1000, 2, 2)),
        ];
        for (given, expected) in table {
            assert_eq!(shape(given), expected, "{given:?}");
        }
    }

    #[test]
    fn contradictions_are_one_sentence() {
        let table = [
            ([0, NO, NO, NO, NO], "--workers 0"),
            ([7, NO, NO, 3, NO], "--workers is for a fixed pool and --min-spare"),
            ([NO, 9, 8, NO, NO], "--min-workers 9 is more than --max-workers 8"),
            ([NO, NO, NO, 9, 8], "--min-spare 9 is more than --max-spare 8"),
            ([NO, NO, 8, 9, NO], "--min-spare 9 is more than --max-workers 8"),
            ([NO, 0, NO, NO, NO], "--min-workers 0"),
            ([NO, NO, NO, NO, 0], "--max-spare 0"),
        ];
        for (given, words) in table {
            let error = shape(given).expect_err("a contradiction");
            assert!(error.to_string().contains(words), "{given:?}: {error}");
            assert_eq!(error.exit() as u8, 2);
        }
    }

    #[test]
    fn other_bounds_give_way_to_the_most_and_come_back() {
        let asked = shape([NO, 5, 100, 4, 20]).unwrap();
        assert_eq!(
            asked.scaled(2),
            Shape::Dynamic(Bounds { min_workers: 2, max_workers: 2, min_spare: 2, max_spare: 20 })
        );
        assert_eq!(asked.scaled(200).most(), 200);
        assert_eq!(asked.scaled(200).least(), 5);
    }
}
