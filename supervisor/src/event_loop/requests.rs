//! What clients of the control socket ask for.

use std::os::fd::AsRawFd;

use client::attach::summarize;
use common::ids::Pid;
use common::wire::control::{DaemonState, DaemonStatus, Request, Response};

use crate::children::Kept;
use crate::control::Event;

use super::{Phase, Supervisor};

impl Supervisor {
    pub(super) fn take_requests(&mut self) {
        for event in self.control.events(self.now()) {
            let (id, request) = match event {
                Event::Asked(id, request) => (id, request),
                Event::Lost(id) => {
                    self.client_disconnected(id);
                    continue;
                }
            };
            if !matches!(request, Request::Status | Request::Summary) {
                self.is_needed();
            }
            match request {
                Request::Status => {
                    let status = Response::Status(Box::new(self.status()));
                    self.control.reply(id, &status, &[self.region_to_show.as_raw_fd()]);
                }
                Request::Summary => {
                    // What the dead were at are the beginnings of messages, which are not for the network.
                    let mut daemon = DaemonStatus { crashes: Vec::new(), ..self.status() };
                    daemon.checkpoint_failing =
                        daemon.checkpoint_failing.map(|_| "the instance's log says why".to_owned());
                    let summary = summarize(daemon, &self.region);
                    self.control.reply(id, &Response::Summary(Box::new(summary)), &[]);
                }
                Request::Stop { fast } => {
                    self.control.reply(id, &Response::Done, &[]);
                    if fast { self.stop_now() } else { self.begin_drain() }
                }
                Request::Reload => self.reload(Some(id)),
                Request::Upgrade => self.want_upgrade(Some(id)),
                Request::Checkpoint => self.want_checkpoint(id),
                Request::Touch => self.touch(id),
                Request::Attach(access) => self.attach(id, access),
                Request::Rejoin(membership) => self.rejoin(id, membership),
                Request::Detach(owner) => self.detach(id, owner),
                Request::Scale(workers) => {
                    let response = self.scale_within_bounds(workers);
                    self.control.reply(id, &response, &[]);
                }
            }
        }
    }

    pub(super) fn scale_within_bounds(&mut self, workers: u32) -> Response {
        let most = self.region.geometry().slot_count.saturating_sub(2);
        if workers == 0 || workers > most {
            return Response::Refused(format!(
                "{workers} workers are not possible here: choose between 1 and {most}"
            ));
        }
        if !matches!(self.phase, Phase::TakingOver | Phase::Serving) {
            return Response::Refused("the instance is stopping".to_owned());
        }
        self.scale(workers);
        Response::Done
    }

    pub(super) fn status(&self) -> DaemonStatus {
        DaemonStatus {
            state: self.state(),
            supervisor: Pid::current(),
            template: self.template.pid(),
            recovery: self.recovery.pid(),
            generation: self.template_number,
            listen: self.listeners.names().to_vec(),
            configured: self.policy.shape().most(),
            at_least: self.policy.shape().least(),
            recovery_us: self.repairs.durations(),
            restored: self.restoring.said.clone(),
            checkpoint_failing: self.checkpoints.failing().map(str::to_owned),
            metrics: self.showing.names().to_vec(),
            crashes: self.crash_reports.newest_first(),
        }
    }

    pub(super) fn state(&self) -> DaemonState {
        let failing = self.restoring.said.is_some()
            || self.checkpoints.keeps_failing()
            || self.policy.is_backing_off()
            || [&self.template, &self.recovery, &self.keeper].into_iter().any(Kept::is_backing_off);
        match self.phase {
            Phase::Restoring { .. } => DaemonState::Degraded,
            Phase::TakingOver if failing => DaemonState::Degraded,
            Phase::TakingOver => DaemonState::Starting,
            Phase::Serving if failing => DaemonState::Degraded,
            Phase::Serving if !self.announced => DaemonState::Starting,
            Phase::Serving => DaemonState::Running,
            _ => DaemonState::Draining,
        }
    }
}
