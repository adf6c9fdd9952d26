//! `--idle-exit`: an instance that nobody has needed for so long ends by itself.
//!
//! Whoever hands out its address holds the lock on `RUN/start.lock` while asking for it, and asking starts the clock
//! again. The instance ends only while it holds that lock itself, and holds it to its end: so nobody is handed an address
//! at which nobody listens any more.

use std::fs::File;

use common::sys::file::{self, Lock};
use common::wire::control::{Listening, Response};

use crate::control::ConnectionId;
use crate::policy::Clock;

use super::{NEVER, Phase, Supervisor, TICK};

/// Since when nobody has needed the instance.
#[derive(Debug, Default)]
pub(super) struct Idleness {
    since: Clock,
    /// Whether somebody did at the last look: when that ended is not known, but not before.
    was_needed: bool,
    /// When to look whether it has lasted long enough; where somebody held the lock, later than that.
    look_at: Clock,
    connections: u64,
    /// Held once the instance ends for it.
    _lock: Option<File>,
}

impl Idleness {
    /// For a successor, which does not end for it.
    pub(super) fn pack(&self) -> (Clock, Clock, u64) {
        (self.since, self.look_at, self.connections)
    }

    /// What a predecessor in this process had packed.
    pub(super) fn unpack((since, look_at, connections): (Clock, Clock, u64)) -> Self {
        Self { since, was_needed: true, look_at, connections, _lock: None }
    }
}

impl Supervisor {
    /// When to look next; never without the option.
    pub(super) fn idle_exit_due(&self) -> Option<Clock> {
        let limit = self.options.idle_exit.limit()?;
        (self.phase == Phase::Serving && self.announced)
            .then(|| self.idleness.look_at.max(self.idleness.since.saturating_add(limit)))
    }

    /// Somebody needs it.
    pub(super) fn is_needed(&mut self) {
        self.idleness.since = self.now();
    }

    /// Looks whether there is, or has been since the last look, a connection, or a program is attached.
    pub(super) fn look_for_connections(&mut self) {
        let connections = self.region.totals().connections;
        let came = std::mem::replace(&mut self.idleness.connections, connections) != connections;
        let needed = came
            || self.pool.attached() > 0
            || self.listeners.waiting() > 0
            || !self.pool.is_at_rest(&self.region);
        if std::mem::replace(&mut self.idleness.was_needed, needed) || needed {
            self.is_needed();
        }
    }

    /// Whether it is time to end. True only with the lock, and nobody at the door.
    pub(super) fn leaves_for_idleness(&mut self, now: Clock) -> bool {
        if self.idle_exit_due().is_none_or(|due| due > now) {
            return false;
        }
        self.idleness.look_at = now + TICK;
        let lock = match self.rundir.start_lock().map(|file| (file::try_lock(&file, Lock::Exclusive), file)) {
            Ok((Ok(true), file)) => file,
            // Somebody is about to ask, or to connect.
            Ok((Ok(false), _)) => return false,
            Ok((Err(error), _)) => {
                self.log_failure(now, &format!("cannot lock start.lock: {error}"));
                return false;
            }
            Err(error) => {
                self.log_failure(now, &error.to_string());
                return false;
            }
        };
        // Who asked before the lock was free may still have to be heard.
        self.take_requests();
        self.look_for_connections();
        let limit = self.options.idle_exit.limit().unwrap_or(NEVER);
        if self.phase != Phase::Serving || self.idleness.since.saturating_add(limit) > self.now() {
            return false;
        }
        log::info!("nobody has needed this instance for long enough: it ends");
        self.idleness._lock = Some(lock);
        true
    }

    /// Answers where it listens, once it serves.
    pub(super) fn touch(&mut self, id: ConnectionId) {
        self.is_needed();
        match self.phase {
            Phase::TakingOver | Phase::Serving => {
                self.touch_waiters.push(id);
                self.answer_touches();
            }
            _ => {
                self.control.reply(id, &Response::Refused("the instance is stopping".to_owned()), &[]);
            }
        }
    }

    pub(super) fn answer_touches(&mut self) {
        if !self.announced {
            return;
        }
        for waiter in std::mem::take(&mut self.touch_waiters) {
            let version = env!("CARGO_PKG_VERSION").to_owned();
            let listening = Listening { version, addresses: self.listeners.names().to_vec() };
            self.control.reply(waiter, &Response::Listening(listening), &[]);
        }
    }
}
