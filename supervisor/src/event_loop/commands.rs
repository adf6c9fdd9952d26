//! What an operator asks for: another template, another number of workers, logs opened again.

use std::sync::atomic::Ordering::SeqCst;

use common::error::Result;
use common::wire::control::Response;

use crate::access::AccessPolicy;
use crate::children::Child;
use crate::config::Renewed;
use crate::control::ConnectionId;
use crate::policy::Shape;
use crate::service_manager;

use super::{LEAVE_DEADLINE, LOAD_DEADLINE, NEVER, Phase, Supervisor, open_logs};

/// A template that is to take over, with the configuration under which it was started.
pub(super) struct Successor {
    pub(super) child: Child,
    number: u32,
    renewed: Renewed,
    access: AccessPolicy,
}

impl Supervisor {
    pub(super) fn reload(&mut self, waiter: Option<ConnectionId>) {
        if self.phase == Phase::TakingOver {
            // The template that loads now may have read the files already.
            self.reload_wanted = true;
            self.reload_waiters.extend(waiter);
            return;
        }
        if self.phase != Phase::Serving {
            if let Some(id) = waiter {
                self.control.reply(id, &Response::Refused("the instance is not serving".to_owned()), &[]);
            }
            return;
        }
        self.reload_waiters.extend(waiter);
        service_manager::reloads();
        if let Some(former) = self.next_template.take() {
            // It may have read the files before they were changed again.
            self.let_go(former.child);
        }
        match self.start_successor() {
            Ok(successor) => self.next_template = Some(successor),
            Err(error) => {
                log::error!("reload failed, everything stays as it was: {error}");
                self.answer_reload(&Response::Refused(error.to_string()));
            }
        }
    }

    /// Starts a template under the configuration as it stands in the file now. Until that template serves, the former
    /// configuration is in force: should it not load, nothing has changed.
    fn start_successor(&mut self) -> Result<Successor> {
        let renewed = self.sources.read_again()?;
        for option in &renewed.waiting {
            log::warn!("the configuration has another {option}, which waits for the next start");
        }
        self.prepared.check_again(&renewed.options)?;
        let access = AccessPolicy::read(renewed.options.policy.as_deref())?;
        self.templates_started += 1;
        let number = self.templates_started;
        let mut child = self.start_child_with(&renewed.options, &self.prepared.worker, "template", number)?;
        child.deadline = Some(self.now() + LOAD_DEADLINE);
        Ok(Successor { child, number, renewed, access })
    }

    /// Whatever can change while an instance runs changes here, or has with the template.
    fn put_in_force(&mut self, renewed: Renewed, access: AccessPolicy) -> Result<()> {
        self.listeners.set_timeout(renewed.options.read_timeout.limit().unwrap_or(NEVER))?;
        self.control.set_access(access)?;
        self.rundir.let_through(self.control.admits_others())?;
        common::logging::set_level(renewed.options.log_level);
        self.options = self.sources.adopt(renewed);
        self.next_request_due = self.now();
        Ok(())
    }

    /// A loaded template takes over from the former one, once no clone of that is outstanding.
    pub(super) fn swap_templates(&mut self) {
        if self.pool.reserved().is_some() {
            return;
        }
        let loaded = self.next_template.take_if(|successor| successor.child.ready);
        let Some(Successor { child, number, renewed, access }) = loaded else { return };
        if let Err(error) = self.put_in_force(renewed, access) {
            log::error!("reload failed, the former template goes on: {error}");
            self.let_go(child);
            return self.answer_reload(&Response::Refused(error.to_string()));
        }
        log::info!("template {} (generation {number}) serves from now on", child.pid);
        if let Some(former) = self.template.child.replace(child) {
            self.let_go(former);
        }
        self.template_number = number;
        self.template.now_ready();
        self.template_since = self.now();
        self.restoring.said = None;
        self.policy.template_changed();
        self.pool.outdate_before(number);
        self.want_other_children();
        self.answer_reload(&Response::Done);
    }

    pub(super) fn answer_reload(&mut self, response: &Response) {
        if self.announced && self.phase == Phase::Serving {
            let outcome = match response {
                Response::Refused(why) => why,
                _ => "serving",
            };
            service_manager::serves(outcome);
        }
        for waiter in std::mem::take(&mut self.reload_waiters) {
            self.control.reply(waiter, response, &[]);
        }
    }

    /// Closes a child's channel: it leaves, and is reaped like any other.
    pub(super) fn let_go(&mut self, child: Child) {
        self.leaving.push((child.pid, self.now() + LEAVE_DEADLINE));
        drop(child);
    }

    pub(super) fn scale(&mut self, workers: u32) {
        if matches!(self.phase, Phase::TakingOver | Phase::Serving) {
            let at_most = if matches!(self.policy.shape(), Shape::Dynamic(_)) { " at most" } else { "" };
            log::info!("{workers} workers are wanted{at_most}");
            self.policy.scale(workers);
        }
    }

    /// One worker more or fewer; of a dynamic pool, at most. At a bound nothing happens.
    pub(super) fn scale_by(&mut self, change: i32) {
        let wanted = self.policy.shape().most().saturating_add_signed(change);
        if let Response::Refused(why) = self.scale_within_bounds(wanted) {
            log::warn!("{why}");
        }
    }

    pub(super) fn reopen_logs(&mut self) {
        if let Err(error) = open_logs(&self.prepared, &self.options) {
            log::error!("{error}");
        }
        self.region.header().supervision.log_epoch.fetch_add(1, SeqCst);
        // It has none of the files, only what stderr was.
        self.showing.renew();
        log::info!("logs are opened again");
    }
}
