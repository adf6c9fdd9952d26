//! When there are too many spare workers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Bounds, Clock};

/// So long there must have been more spare workers than are wanted: a load that comes and goes within this time forks
/// nobody, and one that has ended is forgotten in little more.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The least that have been spare since there have been too many of them at every moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Shrink {
    since: Option<Clock>,
    lowest: u32,
}

impl Shrink {
    /// How many to retire now, or when to ask again. `lowest` is the least that were spare since the last call, and
    /// `ready` are all that could be retired.
    pub fn surplus(&mut self, now: Clock, bounds: Bounds, ready: u32, lowest: u32) -> (u32, Option<Clock>) {
        let retirable = ready.saturating_sub(bounds.min_workers);
        if lowest <= bounds.max_spare || retirable == 0 {
            self.since = None;
            return (0, None);
        }
        let since = *self.since.get_or_insert_with(|| {
            self.lowest = lowest;
            now
        });
        self.lowest = self.lowest.min(lowest);
        let due = since + PATIENCE;
        if now < due {
            return (0, Some(due));
        }
        self.since = None;
        ((self.lowest - bounds.max_spare).min(retirable), None)
    }

    /// Begins to wait anew.
    pub fn reset(&mut self) {
        self.since = None;
    }
}
