//! Serving: as many workers as the policy wants, of the template that serves.

use std::io::Read as _;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use common::slots::Totals;
use common::wire::control::Order;
use nix::sys::signal::Signal;

use crate::children::{self};
use crate::policy::Clock;
use crate::pool::Leave;
use crate::service_manager;

use super::{CLONE_DEADLINE, NEVER, Supervisor, TICK};

/// However long it takes to add up the total.
const TOTAL_AT_LEAST_EVERY: Duration = Duration::from_secs(60);

/// For so long repairs come before new workers.
const REPAIRS_FIRST: Duration = Duration::from_millis(10);

/// So long at least a worker waits for its client to pause.
const SHORTEST_PATIENCE: Duration = Duration::from_millis(100);

impl Supervisor {
    pub(super) fn look_at_workers(&mut self) {
        let _ = (&self.bell).read(&mut [0; 8]);
        self.note_ready_workers();
    }

    /// Some of those that are ready, or all; whether there are any.
    pub(super) fn note_ready_workers(&mut self) -> bool {
        let ready = self.pool.note_ready(&self.region);
        self.has_noted(ready)
    }

    pub(super) fn note_oldest_ready_workers(&mut self) {
        let now = self.now();
        let ready = self.pool.note_oldest_ready(&self.region, now);
        self.has_noted(ready);
    }

    pub(super) fn note_all_ready_workers(&mut self) {
        let ready = self.pool.note_all_ready(&self.region);
        self.has_noted(ready);
    }

    fn has_noted(&mut self, ready: u32) -> bool {
        if ready > 0 {
            self.policy.worker_ready();
        }
        ready > 0
    }

    pub(super) fn serve(&mut self, now: Clock) {
        if self.leaves_for_idleness(now) {
            return self.begin_drain();
        }
        self.swap_templates();
        self.replace_other_children();
        let counts = self.take_counts();
        if !self.announced && counts.ready >= self.policy.shape().least() && self.reservation.is_none() {
            self.announce(counts.ready);
        }
        let plan = self.policy.plan(now, counts);
        self.ask_again = plan.ask_again;
        let repairs_first_until = self.repairs_first_until(now);
        if plan.start > 0 {
            self.start_worker_after_repairs(repairs_first_until, now);
        } else if self.template.ready().is_some() && self.pool.reserved().is_none() {
            // Nothing is wanted of it that it could fail at.
            self.template.does_well();
        }
        self.retire(plan.retire_outdated, plan.retire_surplus, now);
        self.watch_spare(plan.watch_spare);
    }

    /// Until when repairs come before new workers: somebody may be waiting for one, and a clone takes longer. But recovery that
    /// is away, or has much to do, does not keep the pool small: only the first moments of its work are its own.
    fn repairs_first_until(&mut self, now: Clock) -> Option<Clock> {
        if !self.repairs.is_at_work() && !self.repairs.has_untold() {
            self.repairing_since = None;
            return None;
        }
        let until = *self.repairing_since.get_or_insert(now) + REPAIRS_FIRST;
        Some(until).filter(|until| now < *until)
    }

    fn start_worker_after_repairs(&mut self, repairs_first_until: Option<Clock>, now: Clock) {
        if let Some(until) = repairs_first_until {
            self.ask_again = Some(self.ask_again.map_or(until, |then| then.min(until)));
        } else if self.others_due.is_none() {
            self.start_worker(now);
        }
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
        // The outdated ones are to be gone about when the grace period after the reload is over.
        let (of_outdated, of_surplus) = (self.leave(self.template_since, now), self.leave(now, now));
        let mut leaving = self.pool.retire(&self.region, outdated, 0, of_outdated);
        leaving.extend(self.pool.retire(&self.region, 0, surplus, of_surplus));
        for pid in leaving {
            children::signal(pid, Signal::SIGTERM);
        }
    }

    /// How long a worker that is asked to leave now may take, where the reason dates from `since`. Whoever has a client
    /// that keeps its connection waits for it to pause, and is pressed in time to end well.
    fn leave(&self, since: Clock, now: Clock) -> Leave {
        let grace = self.options.grace.limit().unwrap_or(NEVER);
        Leave { press_at: (since + grace / 4 * 3).max(now + SHORTEST_PATIENCE), kill_at: now + grace }
    }

    pub(super) fn announce(&mut self, ready: u32) {
        self.announced = true;
        self.is_needed();
        let line = format!("Running with {ready} workers on {}", self.listeners.names().join(", "));
        self.starter.serves(&line);
        log::info!("{line}");
        service_manager::serves(&line);
        if service_manager::is_impatient(TICK) {
            log::warn!("the service manager's watchdog wants to hear more often than every {TICK:?}");
        }
        self.answer_touches();
    }

    /// A new region has all of its space: transactions may begin. Or there is none: nobody has kept anything in the region yet.
    pub(super) fn look_at_reservation(&mut self) {
        let Some(reservation) = self.reservation.take_if(|reservation| reservation.has_ended()) else {
            return;
        };
        match reservation.end() {
            Ok(()) => {
                self.region.complete();
                self.answer_attach_waiters();
            }
            Err(error) => {
                // Unless somebody has written where he must not, and others have believed it.
                if self.region.totals() == Totals::default() {
                    self.rundir.remove_region();
                }
                self.stop_with(error);
            }
        }
    }

    /// Nobody is to wait for space that nobody reserves: somebody has written where he must not.
    fn watch_completion(&self) {
        if self.reservation.is_none() && self.region.is_incomplete() && self.verdict.is_none() {
            log::error!("the region is said to be incomplete, and is not");
            self.region.complete();
        }
    }

    pub(super) fn tick(&mut self, now: Clock) {
        self.next_tick = now + TICK;
        service_manager::is_alive();
        self.control.rested();
        self.watch_gate();
        self.watch_completion();
        self.look_after_clients();
        if self.options.idle_exit.limit().is_some() {
            self.look_for_connections();
        }
        if now >= self.total_due {
            self.log_total();
        }
    }

    /// Says how many messages there have been, if more have come. To add them up is to read from every slot, which is 10 ms
    /// with a thousand that have not been looked at for a second, and during that a processor serves nobody: it is done
    /// only if the journal says that there is something new, and takes at most a thousandth of the time.
    fn log_total(&mut self) {
        let written = self.region.header().journal.ring.each_ref().map(|minute| minute.tail.load(Relaxed));
        // Looked at once more after the last change: a message is in the journal before it is counted.
        let changed = std::mem::replace(&mut self.written, written) != written;
        if !std::mem::replace(&mut self.written_lately, changed) && !changed {
            return;
        }
        let began = self.now();
        let total = self.region.totals().messages;
        let ended = self.now();
        self.total_due = ended + (1000 * (ended - began)).min(TOTAL_AT_LEAST_EVERY);
        if total != self.total_logged {
            self.total_logged = total;
            log::info!("total requests {total}");
        }
    }
}
