//! How long somebody waits in all, however often.

use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A moment that is later than anybody waits, and can still be computed.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// A time that began when this was made.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    whole: Duration,
    end: Instant,
}

impl Patience {
    /// Begins.
    pub fn of(whole: Duration) -> Self {
        Self { whole, end: Instant::now() + whole.min(LONGEST) }
    }

    /// What is left of it.
    pub fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Whether nothing is.
    pub fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    /// How long it is in all.
    pub fn whole(&self) -> Duration {
        self.whole
    }
}

/// Does what may wait without end, for at most so long; `None` then, and it goes on waiting beside this thread.
pub fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, waiting) = mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    waiting.recv_timeout(limit).ok()
}
