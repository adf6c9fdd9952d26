//! The collector: with `--collect` it is one more child, which ships the journal. It speaks no protocol and holds
//! nothing of the region; whenever it is gone it is started again.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use common::destination::Destination;
use common::error::{Context, Result};
use common::ids::Pid;
use common::sys::process::{self, Terms};
use nix::sys::signal::Signal;

use crate::children;
use crate::companion::Companion;
use crate::policy::Clock;

/// What the collector is told.
#[derive(Debug)]
pub struct Errand {
    /// The program.
    pub program: PathBuf,
    /// What it ships,
    pub spool_dir: PathBuf,
    /// where to,
    pub destination: Destination,
    /// how often,
    pub interval: Duration,
    /// and for how long at the end.
    pub drain: Duration,
}

impl Errand {
    fn arguments(&self) -> Vec<OsString> {
        let mut spool = OsString::from("--tmp-persist-dir=");
        spool.push(&self.spool_dir);
        let options = [
            format!("--url={}", self.destination),
            format!("--dist-interval={}", self.interval.as_secs_f64()),
            format!("--drain={}ms", self.drain.as_millis()),
            "--no-device".to_owned(),
        ];
        [spool].into_iter().chain(options.map(OsString::from)).collect()
    }
}

/// The collector of an instance, if it has one.
#[derive(Debug, Default)]
pub struct Shipping {
    errand: Option<Errand>,
    collector: Companion,
}

impl Shipping {
    /// With this errand, or none.
    pub fn new(errand: Option<Errand>) -> Self {
        Self { errand, ..Self::default() }
    }

    /// With this errand, or none, and a collector that a predecessor in this process had.
    pub fn resume(errand: Option<Errand>, collector: Companion) -> Self {
        Self { errand, collector }
    }

    /// For a successor.
    pub fn pack(&self) -> Companion {
        self.collector
    }

    /// Whether this process is the collector.
    pub fn is(&self, pid: Pid) -> bool {
        self.collector.is(pid)
    }

    /// When a missing collector's start is due.
    pub fn due(&self) -> Option<Clock> {
        self.errand.as_ref().and_then(|_| self.collector.due())
    }

    /// Starts it where that is due.
    ///
    /// # Errors
    /// It cannot be started; that is tried again later.
    pub fn start_if_due(&mut self, now: Clock, terms: &Terms, log_level: &str) -> Result<()> {
        let Some(errand) = self.errand.as_ref().filter(|_| self.collector.is_due(now)) else { return Ok(()) };
        let environment = [(common::logging::LEVEL_VARIABLE, log_level)];
        let started = process::start_apart(terms, &errand.program, &errand.arguments(), &environment);
        self.collector.started(&started, now);
        started.map(drop).context(|| format!("cannot start {}", errand.program.display()))
    }

    /// Another one takes its place, once it has sent what it is sending.
    pub fn renew(&self) {
        if let Some(collector) = self.collector.pid() {
            children::signal(collector, Signal::SIGINT);
        }
    }

    /// It is gone.
    pub fn lost(&mut self, now: Clock) {
        self.collector.lost(now);
    }

    /// Nobody ships any more; gives who is to be told.
    pub fn end(&mut self) -> Option<Pid> {
        self.errand = None;
        self.collector.take()
    }
}
