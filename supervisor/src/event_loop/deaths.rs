//! Deaths: what each means, and what is done about it.

use std::time::Duration;

use common::error::{Context, Error, Result};
use common::ids::{Owner, Pid};
use common::sys::process::{self, Ending};
use common::wire::control::{CrashReport, Response};
use nix::sys::signal::Signal;

use crate::children::{self, Child};
use crate::cli::Recovery;
use crate::policy::{Cause, Clock};
use crate::pool::Death;

use super::{Phase, START_ATTEMPTS, Supervisor, nobodys_fault};

/// How long after a death that was named others are looked for, at most, and workers replaced.
const OTHERS_DELAY: Duration = Duration::from_millis(1);

/// A crash that the log has not been told of: whoever waits for the repair does not wait for the log.
pub(super) struct Crash {
    pid: Pid,
    owner: Owner,
    /// How a worker ended. How an attached program did, only its own parent is told.
    ending: Option<Ending>,
    /// When SIGCHLD was taken, by the clock that all processes share.
    noticed_ns: u64,
    /// Whether status has it.
    reported: bool,
}

impl Supervisor {
    pub(super) fn take_signals(&mut self) -> Result<()> {
        self.signals.take().into_iter().try_for_each(|signal| self.take_signal(signal))
    }

    pub(super) fn take_signal(&mut self, signal: Signal) -> Result<()> {
        match signal {
            Signal::SIGCHLD => self.reap()?,
            Signal::SIGTERM | Signal::SIGINT => self.begin_drain(),
            Signal::SIGQUIT => self.stop_now(),
            Signal::SIGHUP => self.reload(None),
            Signal::SIGUSR1 => self.reopen_logs(),
            Signal::SIGUSR2 => self.want_upgrade(None),
            Signal::SIGTTIN => self.scale_by(1),
            Signal::SIGTTOU => self.scale_by(-1),
            other => log::warn!("{other} is not used"),
        }
        Ok(())
    }

    /// One SIGCHLD may stand for many deaths. The one that it names is repaired at once, even before it is reaped. The
    /// kernel looks for others among all children, and with a thousand of them that takes longer than a repair: by then
    /// whoever waits for this one shall be running, and not be waiting for this process to leave the processor.
    pub(super) fn reap(&mut self) -> Result<()> {
        self.noticed_ns = process::monotonic_ns();
        let named = self.signals.named_child();
        let ending = named.map_or(Ok(None), process::ending_of).context(|| "cannot reap".to_owned())?;
        let (Some(pid), Some(ending)) = (named, ending) else { return self.reap_others() };
        self.died(pid, ending);
        self.tell_recovery(self.now());
        self.report_crashes();
        process::reap_ended(pid);
        self.others_due.get_or_insert(self.now() + OTHERS_DELAY);
        Ok(())
    }

    /// Reaps until nobody is left, and has all of them repaired together.
    pub(super) fn reap_others(&mut self) -> Result<()> {
        self.others_due = None;
        while let Some((pid, ending)) = process::reap().context(|| "cannot reap".to_owned())? {
            self.died(pid, ending);
        }
        self.tell_recovery(self.now());
        self.log_crashes();
        Ok(())
    }

    pub(super) fn note_client_crash(&mut self, pid: Pid, owner: Owner) {
        self.crashes.push(Crash { pid, owner, ending: None, noticed_ns: self.noticed_ns, reported: false });
    }

    /// For status, before anybody says that they are repaired.
    fn report_crashes(&mut self) {
        for crash in self.crashes.iter_mut().filter(|crash| !crash.reported) {
            crash.reported = true;
            let slot = self.region.slot(crash.owner.slot);
            self.crash_reports.add(CrashReport {
                at_ns: process::now_ns(),
                owner: crash.owner,
                pid: crash.pid,
                ending: crash.ending.map(|ending| ending.to_string()),
                doing: slot.map(common::layout::Slot::doing).unwrap_or_default(),
                repaired_us: None,
            });
        }
    }

    pub(super) fn log_crashes(&mut self) {
        let now = self.now();
        self.report_crashes();
        if !self.crashes.is_empty() {
            // What they said comes first, as it did.
            self.voices.hear_all(now);
        }
        for Crash { pid, owner, ending, noticed_ns, .. } in self.crashes.drain(..) {
            log::debug!("process {pid}: its death was noticed at {noticed_ns} ns");
            self.crash_log.warn(now, || match ending {
                Some(ending) => format!("worker {pid} in {owner} crashed: {ending}"),
                None => format!("attached process {pid} in {owner} crashed: it ended without a farewell"),
            });
        }
    }

    pub(super) fn died(&mut self, pid: Pid, ending: Ending) {
        let now = self.now();
        if self.recovery.is(pid) {
            self.recovery_died(now, pid, ending);
        } else if self.template.is(pid) {
            self.template_died(now, pid, ending);
        } else if self.next_template.as_ref().is_some_and(|next| next.child.pid == pid) {
            self.next_template_died(ending);
        } else if self.keeper.is(pid) {
            self.keeper_died(now, pid, ending);
        } else if self.checkpoints.is(pid) {
            self.checkpoint_died(now, pid, ending);
        } else if self.restoring.is(pid) {
            self.restorer_died(ending);
        } else if self.shipping.is(pid) {
            self.shipping.lost(now);
            if ending != Ending::Exited(0) {
                self.log_failure(now, &format!("the collector (process {pid}) {ending}"));
            }
        } else if self.showing.is(pid) {
            self.showing.lost(now, &mut self.control);
            // One that was told to make room for another has said so itself.
            if ending != Ending::Exited(0) {
                self.log_failure(now, &format!("the exporter (process {pid}) {ending}"));
            }
        } else if self.upgrade.is(pid) {
            self.asked_died(ending);
        } else if let Some(place) = self.leaving.iter().position(|(leaving, _)| *leaving == pid) {
            self.leaving.swap_remove(place);
        } else {
            let death = self.pool.died(&self.region, pid, ending);
            self.worker_died(now, pid, ending, death);
        }
    }

    pub(super) fn worker_died(&mut self, now: Clock, pid: Pid, ending: Ending, death: Death) {
        match death {
            Death::Unknown | Death::Left => {}
            // However it leaves, one that comes and goes is not replaced faster than one that crashes.
            // With --max-requests it is how often that the operator wants.
            Death::LeftUnasked if self.options.max_requests > 0 => {}
            Death::LeftUnasked => self.policy.worker_died(now),
            Death::Young(to_repair) => {
                self.repair_if(to_repair);
                self.policy.worker_failed(now, Cause::DiedYoung);
                let why = format!("worker {pid} {ending} before it was ready");
                self.log_failure(now, &why);
                self.give_up_what_is_awaited(&why);
            }
            Death::Felled(owner) => self.repairs.add(owner, false, now),
            Death::Crashed(owner) => {
                self.repairs.add(owner, true, now);
                self.policy.worker_died(now);
                let noticed_ns = self.noticed_ns;
                self.crashes.push(Crash { pid, owner, ending: Some(ending), noticed_ns, reported: false });
            }
        }
    }

    /// Whoever has started a daemon waits until it serves, and is told when nothing comes of that. In the foreground
    /// nobody waits: there it goes on trying, later and later, until the cause is gone.
    fn give_up_what_is_awaited(&mut self, why: &str) {
        let awaited = self.starter.is_detached() && !self.announced;
        let attempts = self.policy.died_young_in_a_row();
        if awaited && attempts >= START_ATTEMPTS {
            self.stop_with(Error::failure(format!("no worker gets ready, after {attempts} attempts: {why}")));
        }
    }

    pub(super) fn recovery_died(&mut self, now: Clock, pid: Pid, ending: Ending) {
        // What it reported before it died still counts.
        self.take_recovery_reports();
        let was_ready = self.recovery.ready().is_some();
        // One started for a single crash leaves when it has done its work.
        let done = ending == Ending::Exited(0) && self.options.recovery == Recovery::Spawn;
        // One that leaves its work undone of its own accord will do so again; unless it had done what it was started for, and
        // what it was told besides found it leaving.
        let found_leaving = done && self.recovery.did_well();
        let useless = self.repairs.has_told() && !nobodys_fault(ending) && !found_leaving;
        self.recovery.lost_as(now, was_ready && !useless);
        if !done {
            self.log_failure(now, &format!("recovery (process {pid}) {ending}"));
        }
        let by_deadline = std::mem::take(&mut self.recovery_overdue);
        let said = self.failure_said.take();
        if let Some(what) = self.repairs.recovery_died(ending, by_deadline) {
            self.damaged(&format!("recovery failed three times to repair {what}"));
        } else if let Some(why) = said {
            self.recovery_gave_up(now, ending, why);
        } else if !was_ready && !nobodys_fault(ending) {
            self.child_failed(now, &format!("recovery {ending} before it was ready"));
        }
    }

    /// Recovery has left with a sentence: something outside the region is wrong, and trying again at once is no use.
    pub(super) fn recovery_gave_up(&mut self, now: Clock, ending: Ending, why: String) {
        if self.announced {
            self.recovery.lost(now);
            self.log_failure(now, &why);
            return;
        }
        self.stop_with(match ending {
            Ending::Exited(2) => Error::usage(why),
            Ending::Exited(4) => Error::region(why),
            _ => Error::failure(why),
        });
    }

    pub(super) fn template_died(&mut self, now: Clock, pid: Pid, ending: Ending) {
        let was_ready = self.template.ready().is_some();
        self.take_template_reports();
        // One that dies of the order to clone, or does not answer it, will do so again.
        let hung = self.template.child.as_ref().is_some_and(Child::was_given_up);
        let useless = self.pool.reserved().is_some() && (hung || !nobodys_fault(ending));
        self.template.lost_as(now, was_ready && !useless);
        self.settle_outstanding_spawn();
        let said = self.failure_said.take();
        let why = said.unwrap_or_else(|| format!("template {pid} {ending}"));
        if was_ready && useless {
            self.child_failed(now, &why);
        } else if was_ready || nobodys_fault(ending) {
            self.log_failure(now, &why);
        } else if !self.announced {
            let usage = ending == Ending::Exited(2);
            self.stop_with(if usage { Error::usage(why) } else { Error::failure(why) });
        } else {
            self.child_failed(now, &why);
        }
    }

    pub(super) fn repair_if(&mut self, owner: Option<Owner>) {
        if let Some(owner) = owner {
            self.repairs.add(owner, false, self.now());
        }
    }

    /// The template is gone with a clone outstanding. Either nobody has taken the slot, and now nobody can: a clone that is
    /// on its way to it is not waited for. Or the clone has, and the kernel stored its pid there before it ran.
    pub(super) fn settle_outstanding_spawn(&mut self) {
        let Some(owner) = self.pool.reserved() else { return };
        let pid = self.region.slot(owner.slot).map_or(Pid(0), common::layout::Slot::pid);
        if !self.pool.withdraw(&self.region, owner) {
            self.spawned(owner, pid);
        } else if self.may_be_a_worker(pid) {
            children::kill(pid);
        }
    }

    pub(super) fn next_template_died(&mut self, ending: Ending) {
        self.take_next_template_reports();
        self.next_template = None;
        let said = self.failure_said.take();
        let why = said.unwrap_or_else(|| format!("the template {ending}"));
        log::error!("reload failed, the former template goes on: {why}");
        self.answer_reload(&Response::Refused(format!("reload failed, the former template goes on: {why}")));
    }

    pub(super) fn keeper_died(&mut self, now: Clock, pid: Pid, ending: Ending) {
        self.take_keeper_reports();
        let was_ready = self.keeper.ready().is_some();
        self.keeper.lost(now);
        if let Phase::Sealing { ordered, .. } = &mut self.phase {
            *ordered = false;
        }
        let why = format!("the journal's keeper (process {pid}) {ending}");
        if was_ready || nobodys_fault(ending) { log::warn!("{why}") } else { self.child_failed(now, &why) }
    }
}
