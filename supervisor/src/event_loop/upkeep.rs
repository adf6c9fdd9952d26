//! The supervisor's own children: started when they are missing, replaced when they do not answer.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use common::error::{Error, Result};
use common::ids::Pid;
use common::sys::process::{Priority, Terms};
use common::wire::control::{Settings, Start};
use nix::sys::signal::Signal;

use crate::children::{self, Child, Kept};
use crate::cli::{Options, Recovery};
use crate::policy::Clock;

use super::commands::Successor;
use super::{LEAVE_DEADLINE, LOAD_DEADLINE, NEVER, Phase, START_ATTEMPTS, Supervisor};

impl Supervisor {
    pub(super) fn start_children(&mut self, now: Clock) {
        let serving = matches!(self.phase, Phase::TakingOver | Phase::Serving);
        let closing = matches!(self.phase, Phase::Restoring { .. } | Phase::Closing { .. } | Phase::Gone);
        let wants_recovery = match self.options.recovery {
            Recovery::Standby => !closing,
            Recovery::Spawn => !closing && self.repairs.has_untold(),
        };
        if wants_recovery && self.recovery.is_due(now) {
            let role = if self.options.recovery == Recovery::Standby { "standby" } else { "once" };
            let started = self.start_child(&self.prepared.recovery, role, 0);
            self.recovery_overdue = false;
            self.keep(now, started, |this| &mut this.recovery);
        }
        if serving && self.template.is_due(now) {
            let number = self.number_of_next_template();
            let started = self.start_child(&self.prepared.worker, "template", number);
            if started.is_ok() {
                self.template_number = number;
            }
            self.keep(now, started, |this| &mut this.template);
        }
        // Takeover prepares what the keeper keeps: one after the other.
        if !closing && !self.repairs.is_taking_over() && self.keeper.is_due(now) {
            let started = self.start_child(&self.prepared.recovery, "journal", 0);
            self.keep(now, started, |this| &mut this.keeper);
        }
        if !closing {
            self.ship(now);
            self.show(now);
        }
    }

    /// One that stands in while a successor loads has the number that it stands in for: it is started with the options that
    /// are to be replaced, and its workers with it.
    fn number_of_next_template(&mut self) -> u32 {
        if self.next_template.is_some() && self.template_number > 0 {
            return self.template_number;
        }
        self.templates_started += 1;
        self.templates_started
    }

    /// Nor is showing itself.
    fn show(&mut self, now: Clock) {
        let terms = Terms { identity: self.prepared.exporter_identity.clone(), ..Terms::default() };
        let log_level = self.options.log_level.to_string();
        if let Err(error) = self.showing.start_if_due(now, &terms, &log_level, &mut self.control) {
            self.log_failure(now, &error.to_string());
        }
    }

    /// Shipping is not what the instance is for: it goes on without.
    pub(super) fn ship(&mut self, now: Clock) {
        let terms = Terms { identity: self.prepared.identity.clone(), ..Terms::default() };
        let log_level = self.options.log_level.to_string();
        if let Err(error) = self.shipping.start_if_due(now, &terms, &log_level) {
            self.log_failure(now, &error.to_string());
        }
    }

    pub(super) fn keep(&mut self, now: Clock, started: Result<Child>, place: fn(&mut Self) -> &mut Kept) {
        match started {
            Ok(mut child) => {
                child.deadline = Some(now + LOAD_DEADLINE);
                place(self).child = Some(child);
            }
            Err(error) => {
                place(self).lost(now);
                self.child_failed(now, &error.to_string());
            }
        }
    }

    pub(super) fn start_child(&self, program: &Path, role: &str, template: u32) -> Result<Child> {
        self.start_child_with(&self.options, program, role, template)
    }

    /// The same under options that are not in force yet.
    pub(super) fn start_child_with(
        &self,
        options: &Options,
        program: &Path,
        role: &str,
        template: u32,
    ) -> Result<Child> {
        let is_template = role == "template";
        let priority = match role {
            // To repair also while every core is busy.
            "standby" | "once" => Priority::Foremost,
            "checkpoint" => Priority::Kept,
            "template" => Priority::Raisable,
            _ => Priority::Usual,
        };
        let terms = Terms {
            identity: self.prepared.identity.clone(),
            priority,
            // Others know what they say, and how often.
            stderr: is_template.then(|| self.voices.stderr()),
        };
        let start = Start {
            supervisor: Pid::current(),
            template,
            spool_dir: self.prepared.spool_dir.clone(),
            settings: Settings {
                users: options.users.clone(),
                latency: options.latency.0,
                access_log: options.access_log.clone(),
                read_timeout: options.read_timeout.limit().unwrap_or(NEVER),
                sync: options.sync(),
                // What workers write comes through the supervisor.
                log: options.log.clone().filter(|_| !is_template),
                log_level: options.log_level.to_string(),
                request_timeout: options.request_timeout.0,
                max_requests: options.max_requests,
                seal_interval: options.collect.as_ref().map(|_| options.collect_interval.0),
            },
            listeners: self.listeners.descriptors().count() as u32,
        };
        let own = [
            self.region_file.as_raw_fd(),
            self.spool.directory().as_raw_fd(),
            self.writers.as_raw_fd(),
            self.rundir.alive.as_raw_fd(),
            self.bell.as_raw_fd(),
            self.tidings.as_fd().as_raw_fd(),
        ];
        let endowment: Vec<RawFd> =
            own.into_iter().chain(self.listeners.descriptors().map(AsRawFd::as_raw_fd)).collect();
        Child::start(program, &[role], &terms, start, &endowment)
    }

    /// A child could not be started, or failed before it was ready. Fatal only while nothing has ever been served.
    pub(super) fn child_failed(&mut self, now: Clock, why: &str) {
        self.log_failure(now, why);
        if self.announced {
            return;
        }
        self.start_failures += 1;
        if self.start_failures >= START_ATTEMPTS {
            self.stop_with(Error::failure(why));
        }
    }

    pub(super) fn log_failure(&mut self, now: Clock, why: &str) {
        self.failure_log.warn(now, || why.to_owned());
    }

    pub(super) fn kill_the_overdue(&mut self, now: Clock) {
        let overdue = |child: &mut Child| child.deadline.take_if(|deadline| *deadline <= now).is_some();
        let mut never_loaded = Vec::new();
        for (kept, what) in [
            (&mut self.template, "the template"),
            (&mut self.recovery, "recovery"),
            (&mut self.keeper, "the journal's keeper"),
        ] {
            let Some(child) = &mut kept.child else { continue };
            child.expect_its_end(now + LEAVE_DEADLINE);
            if overdue(child) {
                let why = format!("{what} (process {}) does not answer and is replaced", child.pid);
                log::error!("{why}");
                if !child.ready {
                    never_loaded.push(why);
                }
                self.recovery_overdue |= what == "recovery" && child.ready;
                child.give_up();
            }
        }
        if let Some(child) = self.checkpoints.child_mut()
            && overdue(child)
        {
            log::error!("the checkpoint process {} takes too long and is killed", child.pid);
            child.give_up();
        }
        if let Some(Successor { child, .. }) = &mut self.next_template
            && overdue(child)
        {
            child.give_up();
        }
        for why in never_loaded {
            self.child_failed(now, &why);
        }
        for (pid, deadline) in &mut self.leaving {
            if std::mem::replace(deadline, if *deadline <= now { Clock::MAX } else { *deadline }) <= now {
                children::kill(*pid);
            }
        }
        for pid in self.pool.press(now) {
            children::signal(pid, Signal::SIGTERM);
        }
        if self.pool.next_deadline().is_some_and(|deadline| deadline <= now) {
            // Whoever is ready and has not been looked at since is not to be killed for it.
            self.note_all_ready_workers();
        }
        for (slot, pid) in self.pool.fell_overdue(now) {
            children::kill(pid);
            let doing = self.region.slot(slot).map(common::layout::Slot::doing).unwrap_or_default();
            let what = if doing.is_empty() { String::new() } else { format!(" (it is at {doing:?})") };
            self.overdue_log
                .warn(now, || format!("worker {pid}{what} did not get ready or leave in time and is killed"));
        }
    }
}
