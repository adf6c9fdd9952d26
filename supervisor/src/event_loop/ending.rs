//! The end: drain, repair, sweep, seal, and let everybody go.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use common::error::{Error, Result};
use common::wire::control::{Order, Response};
use nix::sys::signal::Signal;

use crate::children::{self};
use crate::policy::Clock;
use crate::service_manager;

use super::{LEAVE_DEADLINE, NEVER, Phase, QUEUES_DEADLINE, REPAIRS_DEADLINE, SEAL_DEADLINE, Supervisor};

impl Supervisor {
    pub(super) fn begin_drain(&mut self) {
        if let Phase::Restoring { .. } = self.phase {
            // The next start goes on with it.
            log::info!("stopping");
            self.verdict.get_or_insert(Error::region(
                "the region is damaged; the next start goes back to a checkpoint",
            ));
            self.phase = self.closing(self.now());
            self.answer_attach_waiters();
            return;
        }
        if !matches!(self.phase, Phase::TakingOver | Phase::Serving) {
            return;
        }
        log::info!("draining");
        service_manager::stops();
        self.forget_upgrade();
        self.stop_checkpoints();
        self.phase = Phase::Draining { kill_at: self.now() + self.options.grace.limit().unwrap_or(NEVER) };
        self.region.header().supervision.draining.store(1, Relaxed);
        self.policy.drain();
        self.region.header().demand.disarm();
        self.listeners.close();
        if let Some(next) = self.next_template.take() {
            self.let_go(next.child);
        }
        self.answer_reload(&Response::Refused("the instance is stopping".to_owned()));
        for waiter in std::mem::take(&mut self.touch_waiters) {
            self.control.reply(waiter, &Response::Refused("the instance is stopping".to_owned()), &[]);
        }
        self.answer_attach_waiters();
    }

    pub(super) fn stop_now(&mut self) {
        self.hurried = true;
        self.begin_drain();
        let now = self.now();
        if let Phase::Draining { kill_at } = &mut self.phase
            && *kill_at > now
        {
            *kill_at = now;
        }
    }

    pub(super) fn stop_with(&mut self, error: Error) {
        self.verdict.get_or_insert(error);
        self.stop_now();
    }

    pub(super) fn damaged(&mut self, what: &str) {
        log::error!("the region is damaged: {what}");
        self.region.header().supervision.damaged.store(1, SeqCst);
        self.go_back(what);
    }

    pub(super) fn is_damaged(&self) -> bool {
        self.region.header().supervision.damaged.load(SeqCst) != 0
    }

    pub(super) fn drain(&mut self, now: Clock, kill_at: Clock) {
        if self.pool.reserved().is_none()
            && let Some(template) = self.template.child.take()
        {
            self.let_go(template);
        }
        let counts = self.pool.counts();
        let plan = self.policy.plan(now, counts);
        self.ask_again = None;
        self.retire(plan.retire_outdated, plan.retire_surplus, now);
        if now >= kill_at {
            self.pool.fell_all().into_iter().for_each(children::kill);
        } else if self.pool.has_no_process() {
            // Nobody is left whom the grace is for: from now on it is the repairs' time.
            self.phase = Phase::Draining { kill_at: now };
            return;
        }
        let repaired =
            self.is_repaired() || now >= kill_at + QUEUES_DEADLINE && self.only_queues_are_awaited();
        if !self.swept && repaired {
            self.swept = true;
            self.repairs.add_sweep(now);
            self.tell_recovery(now);
            return;
        }
        // An instance that has never served and cannot has promised nothing to anybody.
        if now >= kill_at + REPAIRS_DEADLINE && self.pool.has_no_process() && !repaired {
            let left = self.repairs.len();
            self.verdict.get_or_insert(Error::failure(format!(
                "{left} slots could not be repaired in time, because the spool cannot be read or written; the next start does it"
            )));
            self.phase = self.closing(now);
            return;
        }
        let hopeless = self.is_damaged() || (!self.announced && self.verdict.is_some());
        if self.pool.has_no_process() && self.template.child.is_none() && (repaired || hopeless) {
            let until = now + SEAL_DEADLINE;
            self.phase = if repaired { Phase::Sealing { ordered: false, until } } else { self.closing(now) };
        }
    }

    /// Whether everything is repaired but that items go back to queues whose locks attached programs have, for as long as
    /// those like. The journal can be sealed then, and the next instance goes on with it.
    fn only_queues_are_awaited(&self) -> bool {
        self.pool.has_no_process() && self.repairs.only_await_queues()
    }

    fn may_be_sealed(&self) -> bool {
        self.is_repaired() || self.is_damaged() || self.only_queues_are_awaited()
    }

    /// Whether no slot waits for repair, nor may come to, but those of attached programs.
    pub(super) fn is_repaired(&self) -> bool {
        self.repairs.is_empty() && self.pool.is_empty()
    }

    pub(super) fn seal(&mut self, now: Clock, ordered: bool, until: Clock) {
        if now >= until {
            self.verdict.get_or_insert(Error::failure(if self.is_repaired() {
                "the journal could not be sealed; its last minute is sealed when the next instance starts"
            } else {
                "a program that was attached could not be repaired in time; the next start does it"
            }));
            self.phase = self.closing(now);
        } else if !ordered
            && self.may_be_sealed()
            && self.keeper.ready().is_some_and(|keeper| keeper.order(&Order::SealAll))
        {
            self.phase = Phase::Sealing { ordered: true, until };
        }
    }

    pub(super) fn sealed(&mut self) {
        if let Phase::Sealing { ordered: true, until } = self.phase {
            self.phase = if self.may_be_sealed() {
                self.last_checkpoint(self.now())
            } else {
                // An attached program has died meanwhile. Its repair may say something in the journal, which is sealed again.
                Phase::Sealing { ordered: false, until }
            };
        }
    }

    pub(super) fn closing(&mut self, now: Clock) -> Phase {
        let children = [
            self.template.child.take(),
            self.recovery.child.take(),
            self.keeper.child.take(),
            self.checkpoints.forget(),
        ];
        for child in children.into_iter().flatten() {
            self.let_go(child);
        }
        if let Some(restorer) = self.restoring.give_up() {
            self.leaving.push((restorer, now + LEAVE_DEADLINE));
            // What it has made of it so far is of no use.
            let _ = self.rundir.remove("region.next");
        }
        // It ships what has just been sealed; in a hurry it only finishes what it is sending. Should it be killed, the next one
        // sends that again under the same key.
        let patience = match self.shipping.end() {
            Some(collector) => {
                let signal = if self.hurried { Signal::SIGINT } else { Signal::SIGTERM };
                children::signal(collector, signal);
                let patience = self.options.grace.limit().unwrap_or(NEVER).max(LEAVE_DEADLINE);
                self.leaving.push((collector, now + patience));
                patience
            }
            None => LEAVE_DEADLINE,
        };
        if let Some(exporter) = self.showing.end() {
            children::signal(exporter, Signal::SIGTERM);
            self.leaving.push((exporter, now + LEAVE_DEADLINE));
        }
        Phase::Closing { until: now + patience }
    }

    pub(super) fn close(&mut self, now: Clock, until: Clock) {
        if now >= until {
            self.leaving.iter().for_each(|(pid, _)| children::kill(*pid));
            self.phase = Phase::Closing { until: now + LEAVE_DEADLINE };
        }
        if self.leaving.is_empty() && self.pool.has_no_process() {
            self.phase = Phase::Gone;
        }
    }

    pub(super) fn finish(mut self) -> Result<()> {
        let _ = self.rundir.remove("control.sock");
        self.voices.hear_all(self.now());
        for owner in self.repairs.await_queues() {
            log::warn!(
                "what the former owner of {owner} had taken goes back to its queue at the next start, or later: an attached \
                 program has the queue's lock"
            );
        }
        log::info!("stopped with {} messages in total", self.region.totals().messages);
        let verdict = self.verdict.take();
        // The lock goes before the connections: who waits for the end of a connection can start the next instance.
        let Self { pid_file, rundir, writers, control, .. } = self;
        drop(pid_file);
        rundir.release();
        drop(writers);
        drop(control);
        verdict.map_or(Ok(()), Err)
    }
}
