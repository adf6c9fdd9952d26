//! Requests that take too long. The worker is asked to leave: one that reacts tells its client, records nothing and goes.
//! One that does not is killed.

use std::time::Duration;

use common::sys::process;
use common::units::Span;
use nix::sys::signal::Signal;

use crate::children;
use crate::policy::Clock;

use super::{REQUEST_GRACE, Supervisor};

/// A worker that keeps the time itself has told its client by then, and need not be asked.
const SLACK: Duration = Duration::from_millis(50);

/// The slots are not looked at more often than this, however short the timeout: their clock is no finer.
const LEAST_PACE: Duration = Duration::from_millis(5);

impl Supervisor {
    /// When the slots are to be looked at next; never without the option.
    pub(super) fn request_due(&self) -> Option<Clock> {
        self.options.request_timeout.limit().map(|_| self.next_request_due)
    }

    /// Looks when the oldest request that was seen will have taken too long, or when one that began since then may
    /// have: no request is older than the last look.
    pub(super) fn end_long_requests(&mut self, now: Clock) {
        let Some(limit) = self.options.request_timeout.limit() else { return };
        if now < self.next_request_due {
            return;
        }
        let allowed = limit.saturating_add(SLACK);
        let allowed_ms = u64::try_from(allowed.as_millis()).unwrap_or(u64::MAX);
        let kill_at = now + REQUEST_GRACE.min(self.options.grace.limit().unwrap_or(REQUEST_GRACE));
        let (overdue, longest) = self.pool.overdue(&self.region, process::coarse_ms(), allowed_ms, kill_at);
        for worker in overdue {
            children::signal(worker.pid, Signal::SIGTERM);
            let doing = self.region.slot(worker.slot).map(common::layout::Slot::doing).unwrap_or_default();
            let so_long = Span(Duration::from_millis(worker.for_ms));
            self.overdue_log.warn(now, || {
                format!("worker {} has been at {doing:?} for {so_long} and is asked to leave", worker.pid)
            });
        }
        let left = Duration::from_millis(allowed_ms.saturating_sub(longest)).max(LEAST_PACE);
        self.next_request_due = now.saturating_add(left);
    }
}
