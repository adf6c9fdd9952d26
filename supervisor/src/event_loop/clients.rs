//! Programs that attach: a slot for each, and what their ends mean. The end of a process is known by a hold on it; the end
//! of a connection is none.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use common::error::Result;
use common::ids::{Owner, Pid};
use common::limits::MAX_CLIENTS;
use common::sys::file;
use common::sys::peer::Process;
use common::sys::process;
use common::wire::control::{Access, Membership, Response};

use crate::cli::slots_for;
use crate::clients::Clients;
use crate::control::ConnectionId;
use crate::pool::Departure;

use super::{Phase, Supervisor};

impl Supervisor {
    /// Somebody wants a share in the region. While it is being made or restored, or every slot is still being looked at, he
    /// waits.
    pub(super) fn attach(&mut self, id: ConnectionId, access: Access) {
        match self.phase {
            Phase::TakingOver | Phase::Restoring { .. } => self.let_wait(id, access),
            Phase::Serving if self.reservation.is_some() => self.let_wait(id, access),
            Phase::Serving => match access {
                Access::Read if self.control.carries_descriptors(id) => {
                    self.control.reply(id, &Response::Shown, &[self.region_to_show.as_raw_fd()]);
                }
                Access::Read => {
                    let why = "the region cannot be had over the network; attach on its machine".to_owned();
                    self.control.reply(id, &Response::Refused(why), &[]);
                }
                Access::Write => self.join(id),
            },
            _ => {
                self.control.reply(id, &Response::Refused("the instance is stopping".to_owned()), &[]);
            }
        }
    }

    /// One wait for each connection, and none for those that are closed.
    fn let_wait(&mut self, id: ConnectionId, access: Access) {
        self.attach_waiters.retain(|(waiter, _)| self.control.is_connected(*waiter));
        if self.attach_waiters.iter().any(|(waiter, _)| *waiter == id) {
            let why = "this connection waits for a slot already; each slot needs its own".to_owned();
            self.control.reply(id, &Response::Refused(why), &[]);
        } else {
            self.attach_waiters.push((id, access));
        }
    }

    pub(super) fn answer_attach_waiters(&mut self) {
        for (id, access) in std::mem::take(&mut self.attach_waiters) {
            self.attach(id, access);
        }
    }

    fn join(&mut self, id: ConnectionId) {
        if let Err(why) = self.try_join(id) {
            self.control.reply(id, &Response::Refused(why), &[]);
        }
    }

    fn try_join(&mut self, id: ConnectionId) -> std::result::Result<(), String> {
        if self.control.is_attached(id) {
            return Err("this connection has a slot already; each slot needs its own".to_owned());
        }
        let process = self.control.process(id).map_err(|error| {
            format!(
                "the process cannot be watched from here, and what it leaves could not be repaired: {error}"
            )
        })?;
        let pid = process.pid;
        let owner = self.reserve_for(pid)?;
        let epoch = self.region.epoch();
        let held = match self.clients.join(owner, epoch, process, id) {
            Ok(held) => held,
            Err(error) => {
                self.pool.release_left(&self.region, owner);
                return Err(format!("the slot cannot be kept: {error}"));
            }
        };
        let joined = Response::Joined(Membership { owner, epoch });
        let tidings = self.tidings_to_give();
        let descriptors = [Some(&self.region_file), Some(&held), tidings.as_ref()];
        let descriptors: Vec<RawFd> = descriptors.into_iter().flatten().map(AsRawFd::as_raw_fd).collect();
        self.control.set_attached(id, true);
        if self.control.reply(id, &joined, &descriptors) {
            log::debug!("process {pid} is attached in {owner}");
        } else {
            self.client_disconnected(id);
        }
        Ok(())
    }

    /// Workers come first: as many slots are left as they may need.
    fn reserve_for(&mut self, pid: Pid) -> std::result::Result<Owner, String> {
        let attached = self.pool.attached() as usize;
        let kept = slots_for(self.policy.shape()).saturating_sub(self.pool.used_by_workers());
        let owner =
            (attached < MAX_CLIENTS).then(|| self.pool.reserve_for(&self.region, pid, kept)).flatten();
        owner.ok_or_else(|| {
            format!(
                "no slot is free: {attached} programs are attached, and the rest is for workers; start the instance with \
                 a larger --region-size"
            )
        })
    }

    /// A process that was attached has connected again.
    pub(super) fn rejoin(&mut self, id: ConnectionId, membership: Membership) {
        let mut tidings = None;
        let response = match self.control.process(id) {
            Err(error) => Response::Refused(format!("the process cannot be watched from here: {error}")),
            Ok(_) if self.control.is_attached(id) && !self.clients.has(membership.owner, id) => {
                Response::Refused("this connection has a slot already; each slot needs its own".to_owned())
            }
            Ok(process) if self.takes_again(id, membership, &process) => {
                tidings = self.tidings_to_give();
                Response::Joined(membership)
            }
            Ok(_) => Response::Refused(
                "the process is not attached to this region any more; let it attach again".to_owned(),
            ),
        };
        let descriptors: Vec<RawFd> = tidings.iter().map(AsRawFd::as_raw_fd).collect();
        self.control.reply(id, &response, &descriptors);
    }

    /// By which an attached program tells recovery of a dead one whose lock it waits for: open for it alone, so that it
    /// can make nobody else wait there. Without it those deaths are learned of a little later.
    fn tidings_to_give(&self) -> Option<File> {
        file::reopen_both_ways(&self.tidings).ok()
    }

    fn takes_again(&mut self, id: ConnectionId, membership: Membership, process: &Process) -> bool {
        if membership.epoch != self.region.epoch() {
            return false;
        }
        let Ok(former) = self.clients.rejoin(membership.owner, process, id) else { return false };
        former.filter(|former| *former != id).inspect(|former| self.control.hang_up(*former));
        self.control.set_attached(id, true);
        true
    }

    /// A process has left its slot, and says so.
    pub(super) fn detach(&mut self, id: ConnectionId, owner: Owner) {
        if !self.clients.has(owner, id) {
            let why = "the process has no such slot".to_owned();
            self.control.reply(id, &Response::Refused(why), &[]);
            return;
        }
        let response = if self.release_client(owner) {
            self.control.set_attached(id, false);
            Response::Done
        } else {
            Response::Refused(
                "something in the slot is half-done; it is kept until the process ends".to_owned(),
            )
        };
        self.control.reply(id, &response, &[]);
    }

    /// A lost connection is not a death. It may be a farewell.
    pub(super) fn client_disconnected(&mut self, id: ConnectionId) {
        if let Some(owner) = self.clients.disconnected(id) {
            self.release_client(owner);
        }
    }

    fn release_client(&mut self, owner: Owner) -> bool {
        let left = self.pool.release_left(&self.region, owner);
        if left {
            self.clients.remove(owner);
        }
        left
    }

    /// Processes of attached programs have ended.
    pub(super) fn take_client_deaths(&mut self) {
        self.noticed_ns = process::monotonic_ns();
        for owner in self.clients.ended() {
            self.client_ended(owner);
        }
        self.tell_recovery(self.now());
        self.log_crashes();
    }

    fn client_ended(&mut self, owner: Owner) {
        let (pid, connection) = self.clients.remove(owner).unwrap_or((Pid(0), None));
        // A child of it may have the other end still.
        connection.inspect(|id| self.control.hang_up(*id));
        if self.pool.departed(&self.region, owner) == Some(Departure::Crashed) {
            self.repairs.add(owner, true, self.now());
            self.note_client_crash(pid, owner);
        }
    }

    /// The region is given up. Attached programs are nobody's children, and keep it mapped for as long as they like: whatever
    /// they do there reaches nobody. They are told by the region itself and by the end of their connections, and attach anew.
    pub(super) fn part_from_clients(&mut self) -> Result<()> {
        let attached = self.pool.attached();
        if attached > 0 {
            log::warn!(
                "{attached} programs are attached to the damaged region; they are told to attach again"
            );
        }
        let connections = self.clients.connections();
        self.clients = Clients::new(self.rundir.clients()?)?;
        connections.into_iter().for_each(|id| self.control.hang_up(id));
        Ok(())
    }

    /// Those without a connection may have left without a word. They, and those who are not known, may be gone where no
    /// event says so.
    pub(super) fn look_after_clients(&mut self) {
        for owner in self.clients.unconnected() {
            if !self.release_client(owner) && self.clients.is_gone(owner, &self.region_file) {
                self.client_ended(owner);
            }
        }
        for owner in self.clients.unwatched() {
            if self.clients.is_gone(owner, &self.region_file) {
                self.client_ended(owner);
            }
        }
        self.tell_recovery(self.now());
    }
}
