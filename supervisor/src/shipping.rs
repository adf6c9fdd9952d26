//! The collector: with `--collect` it is one more child, which ships the journal. It speaks no protocol and holds
//! nothing of the region; whenever it is gone it is started again.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use common::destination::Destination;
use common::error::{Context, Result};
use common::ids::Pid;
use common::sys::process::{self, Terms};

use crate::policy::{Backoff, Clock};

/// One that lived for so long was of use, and the next one is started at once.
const USEFUL: Duration = Duration::from_secs(5);

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
    running: Option<(Pid, Clock)>,
    backoff: Backoff,
}

impl Shipping {
    /// With this errand, or none.
    pub fn new(errand: Option<Errand>) -> Self {
        Self { errand, ..Self::default() }
    }

    /// Whether this process is the collector.
    pub fn is(&self, pid: Pid) -> bool {
        self.running.is_some_and(|(running, _)| running == pid)
    }

    /// When a missing collector's start is due.
    pub fn due(&self) -> Option<Clock> {
        (self.errand.is_some() && self.running.is_none()).then(|| self.backoff.due())
    }

    /// Starts it where that is due.
    ///
    /// # Errors
    /// It cannot be started; that is tried again later.
    pub fn start_if_due(&mut self, now: Clock, terms: &Terms, log_level: &str) -> Result<()> {
        let Some(errand) =
            self.errand.as_ref().filter(|_| self.running.is_none() && self.backoff.due() <= now)
        else {
            return Ok(());
        };
        let environment = [(common::logging::LEVEL_VARIABLE, log_level)];
        match process::start_apart(terms, &errand.program, &errand.arguments(), &environment) {
            Ok(pid) => {
                self.running = Some((pid, now));
                Ok(())
            }
            Err(error) => {
                self.backoff.failed(now);
                Err(error).context(|| format!("cannot start {}", errand.program.display()))
            }
        }
    }

    /// It is gone.
    pub fn lost(&mut self, now: Clock) {
        match self.running.take() {
            Some((_, since)) if now.saturating_sub(since) >= USEFUL => self.backoff.reset(),
            _ => self.backoff.failed(now),
        }
    }

    /// Nobody ships any more; gives who is to be told.
    pub fn end(&mut self) -> Option<Pid> {
        self.errand = None;
        self.running.take().map(|(pid, _)| pid)
    }
}
