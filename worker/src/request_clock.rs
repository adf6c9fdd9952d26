//! How long the present request has taken, by a clock that costs no system call. It stands in the slot too, where the
//! supervisor sees it.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use common::layout::Slot;
use common::sys::process::coarse_ms;
use common::units::Span;

use crate::{Kind, Refusal};

/// The clock of one worker's requests. Without `--request-timeout` it stands still.
#[derive(Debug)]
pub(crate) struct RequestClock {
    limit_ms: Option<u64>,
    began: u64,
}

impl RequestClock {
    /// For requests that may take so long; 0 = for ever.
    pub fn new(limit: Duration) -> Self {
        let limit_ms =
            (!limit.is_zero()).then(|| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1));
        Self { limit_ms, began: 0 }
    }

    /// The worker turns to a request.
    pub fn start(&mut self, slot: &Slot) {
        if self.limit_ms.is_some() {
            self.began = coarse_ms();
            slot.since_ms.store(self.began, Relaxed);
        }
    }

    /// It has done with it.
    pub fn stop(&self, slot: &Slot) {
        if self.limit_ms.is_some() {
            slot.since_ms.store(0, Relaxed);
        }
    }

    /// How long the request may still take.
    pub fn left(&self) -> Option<Duration> {
        let taken = || coarse_ms().saturating_sub(self.began);
        self.limit_ms.map(|limit| Duration::from_millis(limit.saturating_sub(taken())))
    }

    /// Whether the request has taken too long.
    pub fn is_over(&self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }

    /// What the client is told then.
    pub fn refusal(&self) -> Refusal {
        let limit = Span(Duration::from_millis(self.limit_ms.unwrap_or(0)));
        Refusal::new(Kind::Timeout, format!("the request took longer than {limit}"))
    }
}
