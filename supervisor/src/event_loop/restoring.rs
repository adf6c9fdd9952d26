//! A damaged region: everybody who works in it is ended, it is set aside, and the newest checkpoint is gone back to. The
//! listening sockets stay: connections wait.

use std::fs::File;
use std::time::Duration;

use common::error::{Context as _, Error, Result};
use common::ids::Pid;
use common::region::Region;
use common::sys::file;
use common::sys::process::{self, Ending};
use common::wire::control::Response;

use crate::children::{self, Child, Kept};
use crate::policy::Clock;
use crate::pool::Pool;
use crate::recoverer::Recoverer;
use crate::repairs::Repairs;

use super::{LEAVE_DEADLINE, Phase, Supervisor};

/// A region that was restored and is damaged again within this time is not restored once more.
const AGAIN: Duration = Duration::from_secs(60);

/// How long restoring may take: so long, and a millisecond for so many bytes of the region.
const AT_LEAST: Duration = Duration::from_secs(120);
const WRITTEN_PER_MS: u64 = 4 * 1024;

/// The program that makes the restored region.
#[derive(Debug)]
pub(super) struct Restorer {
    pid: Pid,
    said: File,
}

/// What became of damage.
#[derive(Debug, Default)]
pub(super) struct Restoring {
    /// Why the region is given up.
    why: String,
    restorer: Option<Restorer>,
    /// When this instance last went back to a checkpoint.
    last: Option<Clock>,
    /// Until a reload, for status.
    pub(super) said: Option<String>,
}

impl Restoring {
    /// For a successor, while nothing is being restored.
    pub(super) fn pack(&self) -> (String, Option<Clock>, Option<String>) {
        (self.why.clone(), self.last, self.said.clone())
    }

    /// What a predecessor in this process had packed.
    pub(super) fn unpack((why, last, said): (String, Option<Clock>, Option<String>)) -> Self {
        Self { why, restorer: None, last, said }
    }

    pub(super) fn is(&self, pid: Pid) -> bool {
        self.restorer.as_ref().is_some_and(|restorer| restorer.pid == pid)
    }

    /// The program is of no use any more; its process, which is still to be reaped.
    pub(super) fn give_up(&mut self) -> Option<Pid> {
        let Restorer { pid, .. } = self.restorer.take()?;
        children::kill(pid);
        Some(pid)
    }
}

impl Supervisor {
    /// Nobody serves from this region any more.
    pub(super) fn go_back(&mut self, what: &str) {
        let now = self.now();
        let again = self.restoring.last.is_some_and(|last| now.saturating_sub(last) < AGAIN);
        if again || !matches!(self.phase, Phase::TakingOver | Phase::Serving) {
            let again = if again { " again, just after it was restored from a checkpoint" } else { "" };
            return self.stop_with(Error::region(format!(
                "the region is damaged{again}: {what}; `recovery verify` says more, and the next start goes back to the \
                 newest checkpoint"
            )));
        }
        self.restoring.why = what.to_owned();
        if let Err(error) = self.part_from_clients() {
            return self.stop_with(error);
        }
        self.pool.fell_all().into_iter().for_each(children::kill);
        let next = self.next_template.take().map(|next| next.child);
        let kept = [self.template.child.take(), self.recovery.child.take(), self.keeper.child.take()];
        let checkpoint = self.checkpoints.forget();
        for child in kept.into_iter().chain([next, checkpoint]).flatten() {
            self.end(&child);
        }
        // With the template nobody answers for its clone: it is found among the dead, or was never there.
        self.settle_outstanding_spawn();
        self.pool.fell_all().into_iter().for_each(children::kill);
        self.answer_reload(&Response::Refused("the region is damaged".to_owned()));
        let more = Duration::from_millis(self.region.geometry().length / WRITTEN_PER_MS);
        self.phase = Phase::Restoring { until: now + AT_LEAST + more };
    }

    fn end(&mut self, child: &Child) {
        children::kill(child.pid);
        self.leaving.push((child.pid, self.now() + LEAVE_DEADLINE));
    }

    /// Once everybody is gone the region is restored by the program that knows what is in it.
    pub(super) fn restore(&mut self, now: Clock, until: Clock) {
        if let Some(restorer) = &self.restoring.restorer {
            if now >= until {
                children::kill(restorer.pid);
            }
            return;
        }
        if !self.pool.has_no_process() || !self.leaving.is_empty() {
            return;
        }
        let next = self.rundir.prepare_restoring();
        let started = next.and_then(|next| self.recoverer().begin_rebuilding(&next));
        match started {
            Ok((pid, said)) => self.restoring.restorer = Some(Restorer { pid, said }),
            Err(error) => self.cannot_go_back(&error),
        }
    }

    pub(super) fn restorer_died(&mut self, ending: Ending) {
        let Some(mut restorer) = self.restoring.restorer.take() else { return };
        let said = process::what_was_said(&mut restorer.said).unwrap_or_default();
        if !matches!(self.phase, Phase::Restoring { .. }) {
            return;
        }
        let adopted = self.recoverer().rebuilt(ending, &said).and_then(|()| self.adopt());
        if let Err(error) = adopted {
            self.cannot_go_back(&error);
        }
    }

    fn recoverer(&self) -> Recoverer<'_> {
        Recoverer::of(&self.prepared, &self.spool)
    }

    fn cannot_go_back(&mut self, error: &Error) {
        let _ = self.rundir.remove("region.next");
        let why = &self.restoring.why;
        self.verdict.get_or_insert(Error::region(format!("the region is damaged: {why}; {error}")));
        self.phase = self.closing(self.now());
        self.answer_attach_waiters();
    }

    /// The restored region is this instance's: what is to be done first is what every life begins with.
    fn adopt(&mut self) -> Result<()> {
        let now = self.now();
        let adopted = self.rundir.adopt_restored()?;
        self.options.check_room(adopted.unverified.contents().geometry())?;
        let region_to_show =
            file::reopen_read_only(&adopted.file).context(|| "cannot open the region".to_owned())?;
        let region = adopted.unverified.once(Region::mark_in_use)?;
        self.equip(&region);
        self.region_to_show = region_to_show;
        self.region_file = adopted.file;
        self.pool = Pool::of(&region);
        self.region = region;
        self.repairs = Repairs::starting_with_takeover(now);
        self.recovery = Kept::default();
        self.template = Kept::default();
        self.keeper = Kept::default();
        self.crashes.clear();
        self.others_due = None;
        self.attentive = false;
        self.restoring.last = Some(now);
        let why = &self.restoring.why;
        self.restoring.said = Some(format!(
            "the region was damaged ({why}) and went back to a checkpoint; a reload acknowledges this"
        ));
        self.phase = Phase::TakingOver;
        Ok(())
    }
}
