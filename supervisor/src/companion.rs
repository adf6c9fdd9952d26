//! A child that the instance can do without: whenever it is gone it is started again, later and later if it was of no use.

use std::time::Duration;

use common::ids::Pid;
use serde::{Deserialize, Serialize};

use crate::policy::{Backoff, Clock};

/// One that lived for so long was of use, and the next one is started at once.
const USEFUL: Duration = Duration::from_secs(5);

/// Which process it is, if there is one, and when the next is due. Handed as it is to a successor in this process.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Companion {
    running: Option<(Pid, Clock)>,
    backoff: Backoff,
}

impl Companion {
    /// Whether this process is it.
    pub fn is(&self, pid: Pid) -> bool {
        self.pid() == Some(pid)
    }

    /// The process, if there is one.
    pub fn pid(&self) -> Option<Pid> {
        self.running.map(|(pid, _)| pid)
    }

    /// When the start of a missing one is due.
    pub fn due(&self) -> Option<Clock> {
        self.running.is_none().then(|| self.backoff.due())
    }

    /// Whether one is missing and its start is due.
    pub fn is_due(&self, now: Clock) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    /// It was started, or could not be.
    pub fn started<E>(&mut self, started: &Result<Pid, E>, now: Clock) {
        match started {
            Ok(pid) => self.running = Some((*pid, now)),
            Err(_) => self.backoff.failed(now),
        }
    }

    /// It is gone.
    pub fn lost(&mut self, now: Clock) {
        match self.running.take() {
            Some((_, since)) if now.saturating_sub(since) >= USEFUL => self.backoff.reset(),
            _ => self.backoff.failed(now),
        }
    }

    /// It is somebody else's affair from now on.
    pub fn take(&mut self) -> Option<Pid> {
        self.running.take().map(|(pid, _)| pid)
    }
}
