//! What the children report. Every report is an allegation.

use common::error::Error;
use common::ids::{Owner, Pid};
use common::sys::process::{self};
use common::wire::control::{Delay, Order, Report};

use crate::children::Child;
use crate::cli::Recovery;
use crate::policy::{Cause, Clock};
use crate::repairs::REPAIR_DEADLINE;

use super::commands::Successor;
use super::{LOAD_DEADLINE, Phase, Supervisor};

impl Supervisor {
    pub(super) fn take_template_reports(&mut self) {
        while let Some(report) = self.template.child.as_mut().and_then(Child::report) {
            match report {
                // Whether it can clone is to be seen.
                Report::Ready => self.template.now_loaded(),
                Report::Failed(why) => self.failure_said = Some(why),
                Report::Spawned(owner, pid) => self.spawned(owner, pid),
                Report::SpawnFailed(owner, errno) => self.spawn_failed(owner, errno),
                other => log::warn!("the template reports {other:?}"),
            }
        }
    }

    pub(super) fn spawned(&mut self, owner: Owner, pid: Pid) {
        if self.pool.reserved() != Some(owner) {
            // What it was asked is still to be answered, and the deadline runs.
            log::error!("the template names process {pid} for {owner}, and was not asked to");
            return;
        }
        if let Some(child) = &mut self.template.child {
            child.deadline = None;
        }
        if !self.may_be_a_worker(pid) {
            log::error!("process {pid} was named for {owner}, and cannot be it");
            let to_repair = self.pool.abandon(&self.region, owner);
            self.repair_if(to_repair);
            return;
        }
        self.template.does_well();
        if let Some(ending) = self.pool.spawned(owner, pid, self.now() + LOAD_DEADLINE) {
            self.died(pid, ending);
        }
        self.note_oldest_ready_workers();
    }

    /// A pid from the template, or from the region, is an allegation: a worker is a child of this process, and none of
    /// those that are known.
    pub(super) fn may_be_a_worker(&self, pid: Pid) -> bool {
        let others = [&self.template, &self.recovery, &self.keeper].into_iter().any(|kept| kept.is(pid))
            || self.next_template.as_ref().is_some_and(|next| next.child.pid == pid)
            || self.checkpoints.is(pid)
            || self.restoring.is(pid)
            || self.upgrade.is(pid)
            || self.shipping.is(pid)
            || self.showing.is(pid)
            || self.leaving.iter().any(|(leaving, _)| *leaving == pid);
        let exists = self.pool.has_seen_die(pid) || process::is_child(pid);
        pid.0 > 0 && exists && !others && !self.pool.knows(pid)
    }

    pub(super) fn spawn_failed(&mut self, owner: Owner, errno: i32) {
        if self.pool.reserved() != Some(owner) {
            log::error!("the template gives up {owner}, and was not asked for it");
            return;
        }
        let now = self.now();
        if let Some(child) = &mut self.template.child {
            child.deadline = None;
        }
        self.template.does_well();
        let to_repair = self.pool.abandon(&self.region, owner);
        self.repair_if(to_repair);
        self.policy.worker_failed(now, Cause::Refused);
        let (have, pool) = (self.pool.counts().ready, self.policy.shape());
        let (want, option) = (pool.most(), pool.option());
        let cause = std::io::Error::from_raw_os_error(errno);
        let why = format!(
            "cannot start more workers ({have} of {want} are running): {cause}; raise the limit of processes \
             (pids.max of the cgroup, ulimit -u) or the memory, or ask for fewer ({option})"
        );
        self.log_failure(now, &why);
        // The thread that reserves space counts where processes do, and is gone soon.
        if !self.announced && self.reservation.is_none() {
            self.stop_with(Error::failure(why));
        }
    }

    pub(super) fn take_next_template_reports(&mut self) {
        while let Some(report) = self.next_template.as_mut().and_then(|next| next.child.report()) {
            match report {
                Report::Ready => {
                    if let Some(Successor { child, .. }) = &mut self.next_template {
                        child.ready = true;
                        child.deadline = None;
                    }
                }
                Report::Failed(why) => self.failure_said = Some(why),
                other => log::warn!("the next template reports {other:?}"),
            }
        }
    }

    pub(super) fn take_recovery_reports(&mut self) {
        while let Some(report) = self.recovery.child.as_mut().and_then(Child::report) {
            match report {
                Report::Ready => {
                    self.recovery.now_loaded();
                    self.tell_recovery(self.now());
                }
                Report::LeftForLater(owner) => self.left_for_later(owner),
                Report::TakenOver(repaired) => self.taken_over(repaired),
                Report::Repaired(owner) => self.repaired(owner),
                Report::Refused(owner, why) => self.repair_refused(owner, &why),
                Report::Delayed(Delay { about, awaits, why }) => {
                    self.log_failure(self.now(), &format!("recovery waits and tries again: {why}"));
                    self.repairs.is_delayed(about, awaits);
                    self.extend_repair_deadline();
                }
                Report::TriesAgain(about) => self.repairs.tries_again(about),
                Report::Failed(why) => self.failure_said = Some(format!("recovery: {why}")),
                other => log::warn!("recovery reports {other:?}"),
            }
        }
    }

    /// Whoever waits to be served does not wait for a program that is stopped, and is none of the instance's.
    fn left_for_later(&mut self, owner: Owner) {
        // Those that died as attached programs are known already, and are to be repaired in any case.
        if self.phase == Phase::TakingOver && self.pool.adopt_dead(&self.region, owner) {
            log::warn!(
                "what the former owner of {owner} had taken goes back later: an attached program has the queue's lock"
            );
            self.repairs.add(owner, false, self.now());
        }
    }

    pub(super) fn taken_over(&mut self, repaired: u32) {
        self.repairs.taken_over();
        self.extend_repair_deadline();
        if repaired > 0 {
            log::info!("{repaired} slots of a former life were repaired");
        }
        if self.phase == Phase::TakingOver {
            self.phase = Phase::Serving;
            self.answer_attach_waiters();
            if std::mem::take(&mut self.reload_wanted) {
                self.reload(None);
            }
        }
    }

    pub(super) fn repaired(&mut self, owner: Owner) {
        let now = self.now();
        if self.repairs.repaired(owner, now) {
            self.pool.repaired(owner);
            self.crash_reports.repaired(owner, self.repairs.last_us());
        }
        self.extend_repair_deadline();
    }

    pub(super) fn repair_refused(&mut self, owner: Owner, why: &str) {
        let now = self.now();
        self.log_failure(now, &format!("{owner} cannot be repaired: {why}"));
        let last = if self.repairs.is_at_the_whole() {
            self.repairs.refused_whole()
        } else {
            self.repairs.refused(owner)
        };
        self.extend_repair_deadline();
        if last {
            self.damaged(&format!("{owner} cannot be repaired: {why}"));
        }
    }

    /// Recovery has just shown that it works: what is left of its orders gets a deadline of its own.
    pub(super) fn extend_repair_deadline(&mut self) {
        self.recovery.does_well();
        let deadline = self.repairs.has_told().then(|| self.now() + REPAIR_DEADLINE);
        if let Some(child) = &mut self.recovery.child {
            child.deadline = deadline;
        }
    }

    pub(super) fn tell_recovery(&mut self, now: Clock) {
        if self.is_damaged() {
            // Nobody serves from this region any more, and nobody shall repair it by guessing.
            return;
        }
        let Some(child) = self.recovery.child.as_mut().filter(|child| child.ready) else { return };
        // One started for a single crash takes one order, and another one only while it waits with what it has: else it
        // may be about to leave.
        let takes_more = self.options.recovery == Recovery::Standby || !self.repairs.is_at_work();
        if !takes_more {
            return;
        }
        let Some(order) = self.repairs.next_order(|| self.pool.all_attached()) else { return };
        if child.order(&order) {
            self.repairs.told();
            let whole = matches!(order, Order::TakeOver(_) | Order::Sweep(_));
            let allowed = if whole { LOAD_DEADLINE } else { REPAIR_DEADLINE };
            child.deadline = Some(child.deadline.unwrap_or(now + allowed));
        }
    }

    pub(super) fn take_keeper_reports(&mut self) {
        while let Some(report) = self.keeper.child.as_mut().and_then(Child::report) {
            match report {
                Report::Ready => self.keeper.now_ready(),
                Report::Sealed => self.sealed(),
                Report::Failed(why) => log::error!("the journal's keeper: {why}"),
                other => log::warn!("the journal's keeper reports {other:?}"),
            }
        }
    }
}
