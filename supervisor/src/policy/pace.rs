//! How fast: later and later after failures, and so many replacements a second.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Clock;

/// Replacements of workers that died after they were ready: at once, up to so many a second.
const REPLACEMENTS_PER_SECOND: u32 = 100;

pub(super) const FIRST_DELAY: Duration = Duration::from_millis(50);
pub(super) const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// Doubling delays after failures of one cause.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Backoff {
    failures: u32,
    until: Clock,
}

impl Backoff {
    /// One more failure: the next try is later than the last. Failures before that try is due are of one attempt.
    pub fn failed(&mut self, now: Clock) {
        if self.failures > 0 && now < self.until {
            return;
        }
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
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Bucket {
    tokens: f64,
    filled: Clock,
}

impl Bucket {
    pub fn full() -> Self {
        Self { tokens: f64::from(REPLACEMENTS_PER_SECOND), filled: Duration::ZERO }
    }

    pub fn take(&mut self, now: Clock) -> bool {
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

    pub fn next(&self, now: Clock) -> Clock {
        now + Duration::from_secs(1) / REPLACEMENTS_PER_SECOND
    }
}
