//! Serving: as many workers as the policy wants, of the template that serves.

use common::wire::control::Order;
use nix::sys::signal::Signal;

use crate::children::{self};
use crate::policy::Clock;

use super::{CLONE_DEADLINE, NEVER, Supervisor, TICK};

impl Supervisor {
    pub(super) fn look_at_workers(&mut self) {
        let _ = self.bell.read();
        self.note_ready_workers();
    }

    pub(super) fn note_ready_workers(&mut self) -> bool {
        let some = self.pool.note_ready(&self.region) > 0;
        if some {
            self.policy.worker_ready();
        }
        some
    }

    pub(super) fn serve(&mut self, now: Clock) {
        self.swap_templates();
        let counts = self.pool.counts();
        if !self.announced && counts.ready >= self.policy.target() {
            self.announce(counts.ready);
        }
        let plan = self.policy.plan(now, counts);
        self.ask_again = plan.ask_again;
        // Not while somebody may be waiting for a repair: a clone takes longer.
        if plan.start > 0 && self.others_due.is_none() {
            self.start_worker(now);
        }
        self.retire(plan.retire_outdated, plan.retire_surplus, now);
    }

    /// Asks the template for one worker; one at a time is outstanding.
    pub(super) fn start_worker(&mut self, now: Clock) {
        if self.template.ready().is_none() || self.pool.reserved().is_some() {
            return;
        }
        let Some(owner) = self.pool.reserve(&self.region, self.template_number) else { return };
        let Some(child) = &mut self.template.child else { return };
        if child.order(&Order::Spawn(owner)) {
            child.deadline = Some(now + CLONE_DEADLINE);
        } else {
            let to_repair = self.pool.abandon(&self.region, owner);
            self.repair_if(to_repair);
        }
    }

    pub(super) fn retire(&mut self, outdated: u32, surplus: u32, now: Clock) {
        if outdated + surplus == 0 {
            return;
        }
        let deadline = now + self.options.grace.limit().unwrap_or(NEVER);
        for pid in self.pool.retire(outdated, surplus, deadline) {
            children::signal(pid, Signal::SIGTERM);
        }
    }

    pub(super) fn announce(&mut self, ready: u32) {
        self.announced = true;
        let line = format!("Running with {ready} workers on {}", self.listeners.names().join(", "));
        self.starter.serves(&line);
        log::info!("{line}");
    }

    pub(super) fn tick(&mut self, now: Clock) {
        self.next_tick = now + TICK;
        self.control.rested();
        let total = self.region.totals().messages;
        if total != self.total_logged {
            self.total_logged = total;
            log::info!("total requests {total}");
        }
    }
}
