//! How long a peer is waited for.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use common::sys::socket::set_read_timeout;

use crate::inbox::Inbox;

/// The deadline of an incomplete line runs from its first byte, so that drips do not put it off. The socket's own
/// timeout does for everything else, and also for the first wait for the rest of a line: only a line that takes three
/// reads costs a system call.
#[derive(Debug)]
pub(crate) struct Patience {
    limit: Duration,
    /// The incomplete line, known by how many requests came before it, and when it began.
    line: Option<(u64, Instant)>,
    shortened: bool,
}

impl Patience {
    /// For a connection whose timeout is `limit`.
    pub fn new(limit: Duration) -> Self {
        Self { limit, line: None, shortened: false }
    }

    /// To be called before each wait. False where the deadline has passed.
    pub fn allows_waiting(&mut self, inbox: &Inbox, connection: BorrowedFd<'_>) -> io::Result<bool> {
        let left = match self.line {
            _ if inbox.is_empty() => {
                self.line = None;
                self.limit
            }
            Some((line, began)) if line == inbox.taken() => self.limit.saturating_sub(began.elapsed()),
            _ => {
                self.line = Some((inbox.taken(), Instant::now()));
                self.limit
            }
        };
        let full = left == self.limit;
        if left.is_zero() {
            return Ok(false);
        }
        if !full || self.shortened {
            set_read_timeout(connection, left)?;
            self.shortened = !full;
        }
        Ok(true)
    }
}
