//! One connection, from accept to close.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use common::limits::MAX_REQUEST;
use common::slots::Counter;
use common::sys::signal::Retirement;
use common::sys::socket;
use common::units::Span;
use common::wire::line::write_refusal;

use crate::accept::Arrival;
use crate::exchange::{Exchange, Ledger};
use crate::inbox::{Inbox, Next};
use crate::patience::Patience;
use crate::{Kind, Refusal, Service, Settings};

/// Replies are collected while further requests are there to be answered, up to so many bytes.
const SEND_AT: usize = 64 * 1024;

/// A request that takes longer than this has its reply sent at once: the next may take as long.
const SLOW: Duration = Duration::from_millis(1);

/// How long a peer may take to read the last line of a connection that is closed on it.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long a worker that is to leave still waits for the rest of a request, or for a connection's first.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// A client that keeps its connection pauses when it has sent nothing for so long.
const PAUSE: Duration = Duration::from_millis(500);

/// A client that has sent so much more than was read does not wait for answers.
const FLOOD: usize = 16 * 1024;

/// Memory that the replies of a connection leave allocated.
const SMALL: usize = 4 * 1024;

/// Where a worker serves its connections.
pub(crate) struct Desk<S> {
    service: S,
    ledger: Ledger,
    inbox: Inbox,
    /// Replies that are to be sent.
    outbox: Vec<u8>,
    /// The reply to the request being handled.
    reply: Vec<u8>,
    read_timeout: Duration,
    connections: u64,
    requests: u64,
    /// After so many requests the worker leaves.
    most_requests: u64,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The peer has closed it, has gone, or has everything that was sent to it.
    Plain,
    /// The peer may be sending still, and must not lose what it has not read yet.
    Gentle,
}

impl<S: Service> Desk<S> {
    pub fn new(service: S, ledger: Ledger, settings: &Settings) -> Self {
        let (inbox, outbox, reply) = (Inbox::default(), Vec::new(), Vec::new());
        Self {
            service,
            most_requests: most_requests(settings.max_requests, &ledger),
            ledger,
            inbox,
            outbox,
            reply,
            read_timeout: settings.read_timeout,
            connections: 0,
            requests: 0,
        }
    }

    /// Whether the worker has answered as many requests as it is to.
    pub fn is_spent(&self) -> bool {
        self.requests >= self.most_requests
    }

    /// Serves one connection to its end.
    pub fn serve(&mut self, arrival: Arrival, retirement: &Retirement) {
        let Arrival { socket, inherits } = arrival;
        self.connections += 1;
        retirement.serving(socket.as_fd());
        let prepared =
            if inherits { Ok(()) } else { socket::set_timeouts(socket.as_fd(), self.read_timeout) };
        let ending = prepared.and_then(|()| self.converse(socket.as_fd(), retirement));
        retirement.alone();
        match ending {
            Ok(Ending::Gentle) => socket::close_gently(socket, FAREWELL),
            // A connection that fails is the peer's affair, not this worker's.
            Ok(Ending::Plain) | Err(_) => drop(socket),
        }
        self.tidy();
    }

    /// Leaves the region cleanly.
    pub fn leave(self) {
        self.ledger.seat.leave();
    }

    fn converse(&mut self, socket: BorrowedFd<'_>, retirement: &Retirement) -> io::Result<Ending> {
        let mut patience = Patience::new(self.read_timeout);
        loop {
            if !patience.allows_waiting(&self.inbox, socket)? {
                return self.give_up(socket);
            }
            if retirement.asked() || self.is_spent() {
                return self.finish(socket, retirement);
            }
            match socket::receive(socket, self.inbox.room()) {
                Ok(0) => return self.end(socket),
                Ok(count) => self.inbox.filled(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && retirement.asked() => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.give_up(socket),
                Err(error) => return Err(error),
            }
            if let Some(ending) = self.answer(socket)? {
                return Ok(ending);
            }
        }
    }

    /// Answers every request that is there.
    fn answer(&mut self, socket: BorrowedFd<'_>) -> io::Result<Option<Ending>> {
        loop {
            match self.inbox.next() {
                Next::Incomplete => break,
                Next::TooLong => return self.refuse_and_close(socket, &too_long()).map(Some),
                Next::Request => {}
            }
            // With nothing behind it the reply is sent at once anyway, and the clock need not be asked.
            let begun = (!self.inbox.is_empty()).then(Instant::now);
            let handled = self.handle();
            if std::mem::take(&mut self.ledger.unsettled) {
                // As if this worker had died before it could answer.
                self.send(socket)?;
                return Err(io::Error::other("the journal cannot be synced"));
            }
            if let Err(refusal) = handled {
                if refusal.kind().closes() {
                    return self.refuse_and_close(socket, &refusal).map(Some);
                }
                self.refuse(&refusal);
            }
            if self.outbox.len() >= SEND_AT || begun.is_some_and(|begun| begun.elapsed() > SLOW) {
                self.send(socket)?;
            }
        }
        self.send(socket)?;
        Ok(None)
    }

    /// Has the service answer the request that was taken out.
    fn handle(&mut self) -> Result<(), Refusal> {
        let request = self.inbox.request();
        let slot = self.ledger.seat.slot();
        slot.set_doing(request);
        self.reply.clear();
        self.requests += 1;
        self.ledger.clock.start(slot);
        let (ledger, reply, connection) = (&mut self.ledger, &mut self.reply, self.connections);
        let begun = Instant::now();
        let answered = self.service.handle(request, &mut Exchange { ledger, reply, connection });
        slot.count(Counter::Requests);
        slot.add(Counter::WorkNs, u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
        self.ledger.clock.stop(slot);
        slot.set_doing(b"");
        if answered.is_ok() && !self.ledger.unsettled {
            self.outbox.extend_from_slice(&self.reply);
        }
        answered
    }

    fn refuse(&mut self, refusal: &Refusal) {
        self.ledger.seat.slot().count(Counter::Errors);
        write_refusal(&mut self.outbox, refusal.kind(), refusal.reason());
    }

    fn refuse_and_close(&mut self, socket: BorrowedFd<'_>, refusal: &Refusal) -> io::Result<Ending> {
        self.refuse(refusal);
        self.send(socket)?;
        Ok(Ending::Gentle)
    }

    fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        socket::send_whole(socket, &self.outbox, self.read_timeout)?;
        self.outbox.clear();
        Ok(())
    }

    /// The peer has sent everything: what stands without its end is not executed.
    fn end(&mut self, socket: BorrowedFd<'_>) -> io::Result<Ending> {
        if !self.inbox.is_empty() {
            let cut = Refusal::new(Kind::Malformed, "the connection ended before the request did");
            self.refuse(&cut);
            self.send(socket)?;
        }
        Ok(Ending::Plain)
    }

    /// The peer has been silent, or has not come to the end of its line, for too long.
    fn give_up(&mut self, socket: BorrowedFd<'_>) -> io::Result<Ending> {
        let what = if self.inbox.is_empty() { "no request came" } else { "the request did not end" };
        let why = format!("{what} within {}", Span(self.read_timeout));
        self.refuse_and_close(socket, &Refusal::new(Kind::Timeout, why))
    }

    /// The worker is to leave. A client that sends the next request once it has the answer to the last one would find
    /// the connection closed under it, so it is served until it pauses; but not for ever.
    fn finish(&mut self, socket: BorrowedFd<'_>, retirement: &Retirement) -> io::Result<Ending> {
        let mut patient = false;
        while self.owes_nothing() && socket::arrived(socket)? < FLOOD && !self.is_pressed(retirement) {
            if !std::mem::replace(&mut patient, true) {
                socket::set_read_timeout(socket, PAUSE)?;
            }
            match socket::receive(socket, self.inbox.room()) {
                Ok(0) => return self.end(socket),
                Ok(count) => self.inbox.filled(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            if let Some(ending) = self.answer(socket)? {
                return Ok(ending);
            }
        }
        self.finish_at_once(socket)
    }

    /// Whether clients that keep their connection are not waited for any longer: the whole instance ends, the time for
    /// leaving does, or this worker has answered twice as many requests as it was to.
    fn is_pressed(&self, retirement: &Retirement) -> bool {
        let draining = &self.ledger.region().header().supervision.draining;
        retirement.pressed() || draining.load(Relaxed) != 0 || self.requests / 2 >= self.most_requests
    }

    /// What has arrived is answered. More is waited for, and not for long, where a request is under way, or where none
    /// has come yet on a connection that was accepted.
    fn finish_at_once(&mut self, socket: BorrowedFd<'_>) -> io::Result<Ending> {
        let mut left = socket::arrived(socket)?;
        let deadline = Instant::now() + LAST_REQUEST;
        while left > 0 || !self.owes_nothing() {
            let patience = deadline.saturating_duration_since(Instant::now());
            if left == 0 && patience.is_zero() {
                break;
            }
            socket::set_read_timeout(socket, patience)?;
            match socket::receive(socket, self.inbox.room()) {
                Ok(0) => return self.end(socket),
                Ok(count) => {
                    self.inbox.filled(count);
                    left = left.saturating_sub(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            if let Some(ending) = self.answer(socket)? {
                return Ok(ending);
            }
        }
        let silent = self.inbox.is_empty() && socket::arrived(socket)? == 0;
        Ok(if silent { Ending::Plain } else { Ending::Gentle })
    }

    /// Whether at least one request was answered, and no other has begun.
    fn owes_nothing(&self) -> bool {
        self.inbox.is_empty() && self.inbox.taken() > 0
    }

    /// Forgets the connection, and gives back the memory of its long requests and replies, and a journal file that is done.
    fn tidy(&mut self) {
        self.inbox.reset();
        self.ledger.writer.let_go_of_sealed(&self.ledger.region().header().journal);
        for buffer in [&mut self.outbox, &mut self.reply] {
            buffer.clear();
            buffer.shrink_to(SMALL);
        }
    }
}

/// `--max-requests` with an eighth more or less, by the slot and its generation: workers that start together do not leave
/// together.
fn most_requests(about: u64, ledger: &Ledger) -> u64 {
    if about == 0 {
        return u64::MAX;
    }
    let (generation, _) = ledger.seat.slot().standing();
    let mixed = (u64::from(generation.0) << 32 | u64::from(ledger.pid.0.unsigned_abs()))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(32);
    (about - about / 8 + mixed % (about / 4 + 1)).max(1)
}

fn too_long() -> Refusal {
    Refusal::new(Kind::TooLong, format!("a request has at most {MAX_REQUEST} bytes"))
}
