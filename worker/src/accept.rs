//! Where connections come in.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use common::ids::SlotIndex;
use common::region::Region;
use common::sys::signal::Retirement;
use common::sys::socket::{self, Doorbell, Listener};

/// How long a worker waits for a new region's space before it looks whether it is to leave.
const COMPLETION: Duration = Duration::from_millis(50);

/// How long a worker that cannot accept leaves the matter be, at first and at most.
const PAUSES: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(1);

/// The log says once in so long that connections cannot be accepted.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// A connection, and whether it is one that has its listener's timeouts.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub socket: OwnedFd,
    pub inherits: bool,
}

/// The listening sockets, as one worker waits on them.
///
/// A single one is waited on by accepting: one system call a connection, and the kernel's queue holds only those who
/// really wait. Several are waited on together by an epoll, in which the worker is enrolled only while it waits: for
/// every connection the kernel walks over the enrolled workers that are busy, and with a thousand of them that costs
/// more than everything else together.
#[derive(Debug)]
pub(crate) struct Entrance {
    /// Where there are several.
    doorbell: Option<Doorbell>,
    trouble: Trouble,
}

/// Connections that cannot be accepted: descriptors or memory are short.
#[derive(Debug, Default)]
struct Trouble {
    pause: Duration,
    logged: Option<Instant>,
}

/// A worker's place at the door.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub region: &'a Region,
    pub slot: SlotIndex,
}

impl Entrance {
    /// Made in the worker itself: an epoll that several processes had would be one object for all of them.
    pub fn new(listeners: &[Listener]) -> io::Result<Self> {
        let doorbell = if listeners.len() == 1 { None } else { Some(Doorbell::new()?) };
        Ok(Self { doorbell, trouble: Trouble::default() })
    }

    /// The next connection; `None` once asked to leave.
    pub fn next(
        &mut self,
        listeners: &[Listener],
        retirement: &Retirement,
        place: Place<'_>,
    ) -> Option<Arrival> {
        let mut urgent = false;
        while !retirement.asked() {
            if place.region.stand_at_door(place.slot, urgent) {
                let arrival = self.wait(listeners, retirement, place.region)?;
                place.region.take_from_door(place.slot);
                return Some(arrival);
            }
            let waiting = || listeners.iter().any(|listener| listener.waiting() > 0);
            urgent = !retirement.asked() && place.region.doubt_door(place.slot, waiting);
        }
        None
    }

    fn wait(&mut self, listeners: &[Listener], retirement: &Retirement, region: &Region) -> Option<Arrival> {
        while !retirement.asked() {
            if region.is_incomplete() {
                region.await_completion(COMPLETION);
                continue;
            }
            match self.take(listeners) {
                Ok(Some(arrival)) => {
                    self.trouble.pause = Duration::ZERO;
                    return Some(arrival);
                }
                Ok(None) => {}
                Err(error) => self.trouble.rest(&error),
            }
        }
        None
    }

    fn take(&self, listeners: &[Listener]) -> io::Result<Option<Arrival>> {
        let index = match &self.doorbell {
            None => Some(0),
            Some(doorbell) => wait_for_one(doorbell, listeners)?,
        };
        let Some(listener) = index.and_then(|index| listeners.get(index)) else { return Ok(None) };
        let accepted = socket::accept(listener.socket.as_fd())?;
        Ok(accepted.map(|socket| Arrival { socket, inherits: listener.tcp }))
    }
}

/// Interrupted or not, whoever was woken goes and looks: the kernel wakes one worker for a connection, and nobody else
/// would come for it.
fn wait_for_one(doorbell: &Doorbell, listeners: &[Listener]) -> io::Result<Option<usize>> {
    for (index, listener) in listeners.iter().enumerate() {
        doorbell.enroll(listener.socket.as_fd(), index)?;
    }
    let woken = doorbell.wait();
    for listener in listeners {
        doorbell.withdraw(listener.socket.as_fd());
    }
    woken
}

impl Trouble {
    fn rest(&mut self, error: &io::Error) {
        if self.logged.is_none_or(|logged| logged.elapsed() > LOG_EVERY) {
            self.logged = Some(Instant::now());
            log::warn!("cannot accept connections: {error}; trying again");
        }
        self.pause = (self.pause * 2).clamp(*PAUSES.start(), *PAUSES.end());
        std::thread::sleep(self.pause);
    }
}
