//! Where connections come in.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use common::sys::signal::Retirement;
use common::sys::socket::{self, Doorbell, Listener};

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
#[derive(Debug)]
pub(crate) struct Entrance {
    doorbell: Doorbell,
    trouble: Trouble,
}

/// Connections that cannot be accepted: descriptors or memory are short.
#[derive(Debug, Default)]
struct Trouble {
    pause: Duration,
    logged: Option<Instant>,
}

impl Entrance {
    /// Made in the worker itself: an epoll that several processes had would be one object for all of them.
    pub fn new(listeners: &[Listener]) -> io::Result<Self> {
        let doorbell = Doorbell::new(listeners.iter().map(|listener| listener.socket.as_fd()))?;
        Ok(Self { doorbell, trouble: Trouble::default() })
    }

    pub fn doorbell(&self) -> BorrowedFd<'_> {
        self.doorbell.as_fd()
    }

    /// The next connection; `None` once asked to leave. Asked or not, a wake-up is followed by an accept: the kernel
    /// wakes one worker for a connection, and nobody else would come for it.
    pub fn next(&mut self, listeners: &[Listener], retirement: &Retirement) -> Option<Arrival> {
        while !retirement.asked() {
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
        let Some(listener) = self.doorbell.wait()?.and_then(|index| listeners.get(index)) else {
            return Ok(None);
        };
        let accepted = socket::accept(listener.socket.as_fd())?;
        Ok(accepted.map(|socket| Arrival { socket, inherits: listener.tcp }))
    }
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
