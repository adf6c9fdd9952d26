//! The service manager that started this process, where one did (systemd): it is told what the service is at, passes
//! sockets on, and keeps those that were opened here, so that a successor finds them with whoever waits in their queues.
//!
//! The protocol is sd_notify(3)'s and sd_listen_fds(3)'s. Nothing of it reaches the children: see
//! `common::sys::process::SERVICE_MANAGER_VARIABLES`.

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use common::error::{Context, Error, Result};
use common::sys::file;
use sd_notify::NotifyState;

/// The names under which the manager keeps sockets for a successor begin so. An address follows.
const KEPT: &str = "holdfast-listen";

/// A socket that was passed to this process.
#[derive(Debug)]
pub struct Passed {
    /// The socket.
    pub socket: OwnedFd,
    /// Who has left it.
    pub giver: Giver,
}

/// Who has left a socket to this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Giver {
    /// The manager itself, by a socket unit.
    Manager,
    /// A predecessor, with the manager, under this name.
    Predecessor(String),
    /// A former program in this very process.
    ThisProcess,
}

/// The sockets that the manager passes to this process, but those that the options name by their numbers.
///
/// # Errors
/// Variables that contradict themselves, or name what is not open (exit 2).
pub fn passed_sockets(named: &[RawFd]) -> Result<Vec<Passed>> {
    let unusable =
        |error| Error::usage(format!("the sockets that LISTEN_FDS tells of are unusable: {error}"));
    let sockets = sd_notify::listen_fds_with_names().map_err(unusable)?;
    sockets
        .filter(|(number, _)| !named.contains(number))
        .map(|(number, name)| {
            let kept = name.starts_with(KEPT);
            let giver = if kept { Giver::Predecessor(name) } else { Giver::Manager };
            Ok(Passed { socket: file::adopt(number).map_err(unusable)?, giver })
        })
        .collect()
}

/// Has the manager keep these, which listen at these addresses. Whoever is not kept is opened again by the next one.
///
/// # Errors
/// What the manager's socket reports.
pub fn keep(sockets: &[(&str, BorrowedFd<'_>)]) -> Result<()> {
    for (address, socket) in sockets {
        let name = kept_name(address);
        sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(&name)], &[*socket])
            .context(|| "cannot leave the sockets with the service manager".to_owned())?;
    }
    Ok(())
}

/// Has the manager keep no longer what it keeps under this name: nobody listens there, and whoever connects would wait
/// for ever.
pub fn let_go(name: &str) {
    tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}

/// Every address has a name of its own. A colon would end it.
fn kept_name(address: &str) -> String {
    format!("{KEPT}-{}", address.replace(':', "_"))
}

/// The service runs, again or for the first time; `line` says how.
pub fn serves(line: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(line)]);
}

/// A reload begins; [`serves`] says that it is over.
pub fn reloads() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => log::warn!("the service manager is not told of the reload: {error}"),
    }
}

/// What the service is at has not changed, and there is something to be said.
pub fn says(line: &str) {
    tell(&[NotifyState::Status(line)]);
}

/// The service ends.
pub fn stops() {
    tell(&[NotifyState::Stopping, NotifyState::Status("finishing what was begun")]);
}

/// The event loop turns.
pub fn is_alive() {
    if sd_notify::watchdog_enabled().is_some() {
        tell(&[NotifyState::Watchdog]);
    }
}

/// Whether a watchdog is set that cannot be satisfied by word once in `period`.
pub fn is_impatient(period: Duration) -> bool {
    sd_notify::watchdog_enabled().is_some_and(|limit| limit < period * 2)
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::warn!("the service manager cannot be told: {error}");
    }
}
