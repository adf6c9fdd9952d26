//! From the clone to the last connection. Until the first connection a worker writes to as few pages of memory as it
//! can: every one is a copy, and there are a thousand workers.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd};
use std::process::ExitCode;
use std::sync::atomic::Ordering::{Release, SeqCst};

use common::error::{Context, Error, Result};
use common::ids::Pid;
use common::layout::Slot;
use common::logging;
use common::region::Region;
use common::slots::{Activity, Counter};
use common::sys::channel::Channel;
use common::sys::signal::{self, Retirement};
use common::sys::{clone, process, scheduling};
use common::txn::Seat;
use common::wire::control::Settings;

use crate::Service;
use crate::accept::{Entrance, Place};
use crate::connection::Desk;
use crate::exchange::Ledger;
use crate::template::{Estate, Newborn, Template};

/// The code of a clone that cannot become a worker; the log says why. None of the programs' documented codes.
const UNFIT: u8 = 70;

/// What a worker needs before its first connection.
struct Post {
    seat: Seat<'static>,
    entrance: Entrance,
    retirement: Retirement,
}

/// Lives as a worker and gives the code to leave with.
pub(crate) fn live<S: Service>(template: Template<S>, newborn: &Newborn) -> ExitCode {
    let Template { channel, start, estate, mut service, .. } = template;
    shed(channel);
    match take_post(&estate, &mut service, start.supervisor, newborn) {
        Ok(Some(post)) => {
            serve(service, estate, &start.settings, post);
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("a clone cannot become a worker: {error}");
            ExitCode::from(UNFIT)
        }
    }
}

/// Ends what is the template's alone: its channel.
fn shed(channel: Channel) {
    // By number: to drop the channel would be to write to the memory where its buffer is.
    let _ = nix::unistd::close(channel.as_fd().as_raw_fd());
    std::mem::forget(channel);
}

/// In the order of the design: the supervisor lives, this process is who it thinks it is; then the slot; then
/// signals, when there is somebody whom they find. `None`: not wanted any more.
fn take_post(
    estate: &Estate,
    service: &mut impl Service,
    supervisor: Pid,
    newborn: &Newborn,
) -> Result<Option<Post>> {
    if !process::die_with_parent(supervisor).context(|| "cannot bind to the supervisor".to_owned())? {
        return Ok(None);
    }
    rustix::thread::set_name(c"worker").context(|| "cannot set the name".to_owned())?;
    logging::rename("worker");
    // Measured with a thousand workers: a quarter more requests a second at 64 connections (scripts/bench/main-job).
    let _ = scheduling::wake_without_interrupting();
    test_myself(estate.region, newborn)?;
    let entrance = Entrance::new(&estate.listeners).context(|| "cannot wait for connections".to_owned())?;
    // Before the slot is taken: a service that dies of this is not ready, and is not tried again and again.
    service.cloned(Pid::current());
    let Some(seat) = Seat::take(estate.region, newborn.owner) else { return Ok(None) };
    let post = take_seat(estate, newborn, seat, entrance).context(|| "cannot catch signals".to_owned())?;
    Ok(Some(post))
}

/// A clone that libc does not know of must be right about who it is.
fn test_myself(region: &Region, newborn: &Newborn) -> Result<()> {
    let said = region.slot(newborn.owner.slot).map(Slot::pid);
    if !clone::thread_id_is_right() {
        return Err(Error::failure("libc has another process's thread id"));
    }
    if said != Some(Pid::current()) {
        return Err(Error::failure(format!("{} does not name this process", newborn.owner)));
    }
    Ok(())
}

fn take_seat(
    estate: &Estate,
    newborn: &Newborn,
    mut seat: Seat<'static>,
    entrance: Entrance,
) -> io::Result<Post> {
    // Where the kernel will not, the supervisor learns of this worker's death a little later.
    seat.hang_knell();
    let retirement = Retirement::arm(seat.slot())?;
    signal::set_blocked(&newborn.blocked)?;
    // The slot is live already: either the supervisor sees that when it stops being attentive, or the bell rings.
    if estate.region.header().supervision.attentive.load(SeqCst) == 0 {
        ring(&estate.bell);
    }
    Ok(Post { seat, entrance, retirement })
}

/// Serves connections until asked to leave.
fn serve<S: Service>(service: S, mut estate: Estate, settings: &Settings, post: Post) {
    let Post { mut seat, mut entrance, retirement } = post;
    seat.carry(estate.tidings);
    let slot = seat.slot();
    let demand = &estate.region.header().demand;
    let place = Place { region: estate.region, slot: seat.owner().slot };
    // Nothing of what follows is made before somebody comes.
    let mut next = entrance.next(&estate.listeners, &retirement, place);
    if next.is_none() {
        estate.region.leave_door(place.slot);
        return seat.leave();
    }
    let mut desk = Desk::new(service, Ledger::new(seat, estate.spool, settings), settings);
    while let Some(arrival) = next {
        estate.log.follow(estate.region);
        slot.activity.store(Activity::Busy as u32, Release);
        if demand.turned_busy() {
            ring(&estate.bell);
        }
        slot.count(Counter::Connections);
        desk.serve(arrival, &retirement);
        if retirement.asked() || desk.is_spent() {
            break;
        }
        // Counted first: what is seen to be idle has been counted.
        demand.turned_idle();
        slot.activity.store(Activity::Idle as u32, Release);
        next = entrance.next(&estate.listeners, &retirement, place);
    }
    estate.region.leave_door(place.slot);
    desk.leave();
}

/// Has the supervisor look at the slots.
fn ring(mut bell: &File) {
    // A bell that cannot be rung is one that is rung already.
    let _ = bell.write(&1_u64.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use common::ids::{Generation, SlotIndex};
    use nix::sys::signal::SigSet;

    use super::*;

    #[test]
    fn a_clone_that_its_slot_does_not_name_is_unfit() {
        let region = Region::create(&tempfile::tempfile().unwrap(), 1 << 20).unwrap();
        let owner = common::slots::owner(SlotIndex(1), Generation(1));
        let newborn = Newborn { owner, blocked: SigSet::empty() };
        let pid = &region.slot(owner.slot).unwrap().pid;
        pid.store(std::process::id(), SeqCst);
        assert_eq!(test_myself(&region, &newborn), Ok(()));
        pid.store(std::process::id() + 1, SeqCst);
        assert!(test_myself(&region, &newborn).is_err());
        let absent = common::slots::owner(SlotIndex(999), Generation(1));
        assert!(test_myself(&region, &Newborn { owner: absent, blocked: SigSet::empty() }).is_err());
    }
}
