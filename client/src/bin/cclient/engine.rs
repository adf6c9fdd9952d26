//! One event thread and its share of the connections. Each connection has at most one request outstanding.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use common::error::{Context, Result};
use crossbeam_channel::Sender;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::alarm::Alarm;
use crate::failure::Failure;
use crate::pace::Pace;
use crate::reply::{Scanner, Verdict};
use crate::request::Requests;
use crate::schedule::{Schedule, Ticket, Turn};
use crate::socket::{Peer, Socket};
use crate::tally::Tally;

/// What all event threads share.
#[derive(Debug)]
pub struct Job {
    /// The server's addresses, in the order they are tried.
    pub peers: Vec<Peer>,
    /// What is sent.
    pub requests: Requests,
    /// When it is sent.
    pub schedule: Schedule,
    /// Whether a connection serves more than one request.
    pub keep_alive: bool,
    /// How long a request may take.
    pub timeout: Option<Duration>,
    /// How long a connection rests when the server could not be reached.
    pub rest: Duration,
    /// Whether to remember which requests were acknowledged.
    pub remember: bool,
}

/// What an event thread tells the main thread.
#[derive(Debug)]
pub enum Note {
    /// So many more requests are handled, or have failed.
    Progress(u64),
    /// The thread is through.
    Done(Box<Result<Tally>>),
}

/// New connections between two looks at what has arrived, so that replies are not kept waiting by a long start.
const STARTS_PER_TURN: usize = 64;
/// Reads from one connection before the others have their turn, however much a hostile server sends.
const READS_PER_TURN: usize = 16;
const EVENTS_PER_TURN: usize = 1024;
const RECEIVE_BUFFER: usize = 64 * 1024;
/// The longest the loop sleeps: progress is reported, and a stop noticed, this often.
const TICK: Duration = Duration::from_millis(100);
/// What the alarm's events say instead of a connection's number.
const ALARM: u64 = u64::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No request.
    Idle,
    /// Connecting; nothing is sent.
    Dialing,
    /// Part of the request is sent.
    Sending,
    /// All of it is sent.
    Waiting,
}

#[derive(Debug)]
struct Connection {
    phase: Phase,
    socket: Option<Socket>,
    /// The socket's connection has had its last reply: the socket can serve only another connection.
    spent: bool,
    /// What the socket is registered for; nothing while it is not registered.
    interest: EpollFlags,
    ticket: Ticket,
    deadline: Option<Instant>,
    /// Bytes of the request that are sent.
    sent: usize,
    /// The first of the server's addresses that was tried for this request, and how many were.
    first_peer: usize,
    tried: usize,
    scanner: Scanner,
}

/// One event thread.
pub struct Engine<'a> {
    job: &'a Job,
    notes: Sender<Note>,
    epoll: Epoll,
    connections: Vec<Connection>,
    /// Idle connections that may take the next request.
    ready: VecDeque<usize>,
    /// When they are to ask for it; before, nothing is due.
    wake: Instant,
    /// Since when there has been one all the time, if there is one.
    free_since: Instant,
    /// Of the open model: what wakes the thread for the next planned request.
    alarm: Option<Alarm>,
    /// Idle connections that rest until an instant; the rest is always the same, so the first is due first.
    resting: VecDeque<(Instant, usize)>,
    /// Connections with a request outstanding.
    active: usize,
    /// The address that accepted the last connection.
    preferred_peer: usize,
    next_sweep: Instant,
    reported: u64,
    tally: Tally,
    outgoing: Vec<u8>,
    expected: Vec<u8>,
    received: Vec<u8>,
}

const READABLE: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLRDHUP);
const BOTH: EpollFlags = READABLE.union(EpollFlags::EPOLLOUT);
const HANGUP: EpollFlags = EpollFlags::EPOLLRDHUP.union(EpollFlags::EPOLLHUP).union(EpollFlags::EPOLLERR);

impl<'a> Engine<'a> {
    /// Runs one event thread to its end and reports it.
    pub fn run(job: &'a Job, connections: usize, notes: &Sender<Note>) {
        let result = Self::new(job, connections, notes.clone()).and_then(Self::work);
        if result.is_err() {
            job.schedule.stop();
        }
        // Nobody listens any more only if the main thread has failed, and then it has said so.
        let _ = notes.send(Note::Done(Box::new(result)));
    }

    fn new(job: &'a Job, connections: usize, notes: Sender<Note>) -> Result<Self> {
        let now = Instant::now();
        let epoll =
            Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context(|| "cannot create an epoll".to_owned())?;
        let mut tally = Tally::new(job.remember)?;
        let mut alarm = None;
        if job.schedule.is_open() {
            alarm = Some(Alarm::new(&epoll, ALARM)?);
            tally.pace = Some(Pace::new(now)?);
        }
        Ok(Self {
            job,
            notes,
            epoll,
            connections: (0..connections).map(|_| Connection::new(now)).collect(),
            ready: (0..connections).collect(),
            wake: now,
            free_since: now,
            alarm,
            resting: VecDeque::new(),
            active: 0,
            preferred_peer: 0,
            next_sweep: now,
            reported: 0,
            tally,
            outgoing: Vec::with_capacity(job.requests.longest()),
            expected: Vec::new(),
            received: vec![0; RECEIVE_BUFFER],
        })
    }

    fn work(mut self) -> Result<Tally> {
        let mut events = vec![EpollEvent::empty(); EVENTS_PER_TURN];
        loop {
            self.start_what_is_due();
            if self.active == 0 && self.ready.is_empty() && self.resting.is_empty() {
                return Ok(self.tally);
            }
            let count = self.wait(&mut events)?;
            for event in &events[..count] {
                self.on_event(event);
            }
            self.on_time();
        }
    }

    fn start_what_is_due(&mut self) {
        let now = Instant::now();
        for _ in 0..STARTS_PER_TURN {
            if self.wake > now {
                return;
            }
            let Some(index) = self.ready.pop_front() else { return };
            self.begin(index);
        }
    }

    /// Sleeps until something happens or is due.
    fn wait(&mut self, events: &mut [EpollEvent]) -> Result<usize> {
        let before = Instant::now();
        let sleep = self.sleep(before)?;
        let count = match self.epoll.wait(events, sleep) {
            Err(Errno::EINTR) => 0,
            other => other.context(|| "cannot wait for connections".to_owned())?,
        };
        if let Some(pace) = &mut self.tally.pace {
            pace.sleep(before.elapsed());
        }
        Ok(count)
    }

    /// How long to wait for events.
    fn sleep(&mut self, now: Instant) -> Result<EpollTimeout> {
        if !self.ready.is_empty() {
            if self.wake <= now {
                return Ok(EpollTimeout::ZERO);
            }
            if let Some(alarm) = &mut self.alarm {
                alarm.set(self.wake, now)?;
            }
        }
        let rested = self.resting.front().map_or(TICK, |(due, _)| due.saturating_duration_since(now));
        let sleep = self.next_sweep.saturating_duration_since(now).min(rested).min(TICK);
        // Rounded up: waking too early would mean waking twice.
        Ok(EpollTimeout::try_from(sleep + Duration::from_micros(999)).unwrap_or(EpollTimeout::ZERO))
    }

    fn on_event(&mut self, event: &EpollEvent) {
        if event.data() == ALARM {
            // It has woken the thread, which is all that it is for.
            return;
        }
        // The number came from this thread, through the kernel.
        let index = usize::try_from(event.data()).unwrap_or(usize::MAX);
        let hangup = event.events().intersects(HANGUP);
        match self.connections[index].phase {
            Phase::Idle if self.job.schedule.is_open() => self.hear_idle(index, hangup),
            // It hung up, or talks without being asked; the next request, which is due now, will tell.
            Phase::Idle => {}
            Phase::Dialing => self.transmit(index),
            Phase::Sending => {
                self.transmit(index);
                // A server that refuses a long request answers before it has read all of it.
                if self.connections[index].phase == Phase::Sending
                    && event.events().contains(EpollFlags::EPOLLIN)
                {
                    self.receive(index, hangup);
                }
            }
            Phase::Waiting => self.receive(index, hangup),
        }
    }

    /// Takes the next request, if there is one. The connection is idle.
    fn begin(&mut self, index: usize) {
        let now = Instant::now();
        let connection = &mut self.connections[index];
        let ticket = match self.job.schedule.next(now) {
            Turn::Now(ticket) => ticket,
            Turn::Later(planned) => return self.park(index, planned, now),
            Turn::Over => {
                if let Some(pace) = &mut self.tally.pace {
                    pace.end(now);
                }
                return connection.leave();
            }
        };
        let deadline = self.job.timeout.and_then(|timeout| ticket.planned.checked_add(timeout));
        if let Some(pace) = &mut self.tally.pace {
            pace.send(ticket.planned, self.free_since, now);
            if deadline.is_some_and(|deadline| deadline <= now) {
                self.tally.failed(Failure::NotSent);
                return self.ready.push_back(index);
            }
        }
        self.active += 1;
        connection.ticket = ticket;
        connection.deadline = deadline;
        connection.sent = 0;
        connection.first_peer = self.preferred_peer;
        connection.tried = 0;
        if connection.socket.is_some() && !connection.spent {
            connection.phase = Phase::Sending;
            self.transmit(index);
        } else {
            self.dial(index, Failure::Connecting);
        }
    }

    /// Nothing is due before `planned`. What has served its one request is not kept open until then.
    fn park(&mut self, index: usize, planned: Instant, now: Instant) {
        if self.connections[index].spent {
            self.connections[index].leave();
        }
        self.ready.push_back(index);
        // Asked again in time even if the plan is stopped.
        self.wake = planned.min(now + TICK);
    }

    /// An idle connection that the server has closed is replaced for its next request. What it says unasked is skipped,
    /// as it would be before the next reply.
    fn hear_idle(&mut self, index: usize, hangup: bool) {
        let connection = &mut self.connections[index];
        let Some(socket) = &connection.socket else { return };
        let verdict = match socket.receive(&mut self.received) {
            _ if hangup => Verdict::Failed(Failure::Closed),
            Ok(0) => Verdict::Failed(Failure::Closed),
            Ok(count) => {
                self.job.requests.write_expected(connection.ticket.sequence, &mut self.expected);
                connection.scanner.feed(&self.received[..count], &self.expected)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Verdict::Pending,
            Err(cause) => Verdict::Failed(Failure::of_transfer(cause)),
        };
        if let Verdict::Failed(failure) = verdict
            && failure.ends_connection()
        {
            connection.scanner.clear();
            drop(connection.take_socket());
        }
    }

    /// Connects to the first of the addresses not yet tried that does not refuse at once.
    fn dial(&mut self, index: usize, mut failure: Failure) {
        let peers = &self.job.peers;
        let connection = &mut self.connections[index];
        while connection.tried < peers.len() {
            let peer = &peers[(connection.first_peer + connection.tried) % peers.len()];
            match connection.connect(peer, self.job.requests.longest()) {
                Ok(()) => {
                    connection.phase = Phase::Dialing;
                    // Often the connection is there by now; if not, this only asks to be told.
                    return self.transmit(index);
                }
                Err(cause) => failure = Failure::of_connecting(cause),
            }
            connection.tried += 1;
        }
        self.finish(index, Err(failure), false);
    }

    /// Sends what is left of the request.
    fn transmit(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let Some(socket) = &connection.socket else { return };
        self.job.requests.write(connection.ticket.sequence, &mut self.outgoing);
        let cause = loop {
            match socket.send(&self.outgoing[connection.sent..]) {
                Ok(count) => {
                    if connection.phase == Phase::Dialing {
                        self.preferred_peer =
                            (connection.first_peer + connection.tried) % self.job.peers.len();
                        connection.phase = Phase::Sending;
                    }
                    connection.sent += count;
                    if connection.sent == self.outgoing.len() {
                        connection.phase = Phase::Waiting;
                        return self.watch(index, READABLE);
                    }
                }
                Err(Errno::EAGAIN) => return self.watch(index, BOTH),
                Err(Errno::EINTR) => {}
                Err(cause) => break cause,
            }
        };
        if connection.phase == Phase::Dialing {
            connection.take_socket();
            connection.tried += 1;
            self.dial(index, Failure::of_connecting(cause));
        } else {
            self.receive_last(index, Failure::of_transfer(cause));
        }
    }

    /// Nothing more can be sent, but the server may have said why.
    fn receive_last(&mut self, index: usize, failure: Failure) {
        let request = self.connections[index].ticket.sequence;
        self.receive(index, true);
        let connection = &self.connections[index];
        if connection.phase != Phase::Idle && connection.ticket.sequence == request {
            self.finish(index, Err(failure), false);
        }
    }

    /// Reads what has arrived and acts on it.
    fn receive(&mut self, index: usize, mut hangup: bool) {
        let connection = &mut self.connections[index];
        let Some(socket) = &connection.socket else { return };
        self.job.requests.write_expected(connection.ticket.sequence, &mut self.expected);
        let mut verdict = Verdict::Pending;
        for _ in 0..READS_PER_TURN {
            verdict = match socket.receive(&mut self.received) {
                Ok(0) => {
                    hangup = true;
                    connection.scanner.finish(&self.expected)
                }
                Ok(count) => {
                    let verdict = connection.scanner.feed(&self.received[..count], &self.expected);
                    if verdict == Verdict::Pending && count < self.received.len() && !hangup {
                        // That was all; asking again would only be told so.
                        return;
                    }
                    verdict
                }
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => Verdict::Pending,
                Err(cause) => Verdict::Failed(Failure::of_transfer(cause)),
            };
            if verdict != Verdict::Pending {
                break;
            }
        }
        match verdict {
            Verdict::Pending => {}
            Verdict::Handled => self.finish(index, Ok(()), !hangup),
            Verdict::Failed(failure) => self.finish(index, Err(failure), !hangup),
        }
    }

    /// The request is decided. The next one follows at once after a reply, and after its turn otherwise: failures can
    /// come so fast that one connection would use up all requests.
    fn finish(&mut self, index: usize, outcome: std::result::Result<(), Failure>, open: bool) {
        let now = Instant::now();
        self.note_free(now);
        let connection = &mut self.connections[index];
        // A connection on which part of a request is still unsent is no good for the next one.
        let reusable = open && self.job.keep_alive && connection.phase == Phase::Waiting;
        connection.phase = Phase::Idle;
        self.active -= 1;
        connection.settle(outcome.err(), reusable);
        match outcome {
            Ok(()) => {
                let Ticket { sequence, planned } = connection.ticket;
                self.tally.handled(sequence, now.saturating_duration_since(planned));
                self.begin(index);
            }
            Err(failure) => {
                self.tally.failed(failure);
                if failure.is_of_connecting() && !self.job.rest.is_zero() {
                    self.resting.push_back((now + self.job.rest, index));
                } else {
                    self.ready.push_back(index);
                }
            }
        }
    }

    /// A connection becomes free.
    fn note_free(&mut self, now: Instant) {
        if self.ready.is_empty() {
            self.free_since = now;
        }
    }

    fn watch(&mut self, index: usize, interest: EpollFlags) {
        if let Err(cause) = self.connections[index].watch(&self.epoll, interest, index) {
            self.finish(index, Err(Failure::of_transfer(cause)), false);
        }
    }

    /// What is due: connections that have rested, requests whose time is up, progress.
    fn on_time(&mut self) {
        let now = Instant::now();
        while self.resting.front().is_some_and(|(due, _)| *due <= now) {
            self.note_free(now);
            self.ready.extend(self.resting.pop_front().map(|(_, index)| index));
        }
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + self.sweep_interval();
        if self.job.timeout.is_some() {
            self.sweep(now);
        }
        let decided = self.tally.handled + self.tally.errors();
        // The main thread may have given up; the end of this thread will show it.
        let _ = self.notes.send(Note::Progress(decided - self.reported));
        self.reported = decided;
    }

    /// Every connection is looked at, a few times within a timeout: cheaper than keeping deadlines in order, which every
    /// request would have to pay for.
    fn sweep(&mut self, now: Instant) {
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            if connection.phase != Phase::Idle && connection.deadline.is_some_and(|deadline| deadline <= now)
            {
                self.finish(index, Err(Failure::TimedOut), false);
            }
        }
    }

    fn sweep_interval(&self) -> Duration {
        self.job.timeout.map_or(TICK, |timeout| (timeout / 20).clamp(Duration::from_millis(1), TICK))
    }
}

impl Connection {
    fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Idle,
            socket: None,
            spent: false,
            interest: EpollFlags::empty(),
            ticket: Ticket { sequence: 0, planned: now },
            deadline: None,
            sent: 0,
            first_peer: 0,
            tried: 0,
            scanner: Scanner::default(),
        }
    }

    /// Begins a fresh connection, from the socket of the last one if that was answered.
    fn connect(&mut self, peer: &Peer, request_size: usize) -> std::result::Result<(), Errno> {
        if self.socket.as_ref().is_some_and(|socket| socket.reconnect(peer).is_ok()) {
            self.spent = false;
            return Ok(());
        }
        if let Some(socket) = self.take_socket() {
            socket.abort();
        }
        self.socket = Some(Socket::connect(peer, request_size)?);
        self.spent = false;
        Ok(())
    }

    /// Decides what becomes of the socket after a request: kept for the next one, kept to be reset when a fresh
    /// connection is made from it, or closed.
    fn settle(&mut self, failure: Option<Failure>, reusable: bool) {
        self.spent = !reusable || failure.is_some_and(Failure::ends_connection);
        if self.spent {
            self.scanner.clear();
        }
        if failure.is_some_and(|failure| !failure.is_answer()) {
            drop(self.take_socket());
        }
    }

    /// Gives up a socket that has had its last reply, if one was kept.
    fn leave(&mut self) {
        if let Some(socket) = self.take_socket() {
            socket.abort();
        }
    }

    fn take_socket(&mut self) -> Option<Socket> {
        self.interest = EpollFlags::empty();
        self.socket.take()
    }

    fn watch(&mut self, epoll: &Epoll, interest: EpollFlags, index: usize) -> nix::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        if self.interest == interest {
            return Ok(());
        }
        let mut event = EpollEvent::new(interest, index as u64);
        if self.interest.is_empty() {
            epoll.add(socket, event)?;
        } else {
            epoll.modify(socket, &mut event)?;
        }
        self.interest = interest;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};

    use super::*;
    use crate::schedule::Goal;

    /// Answers each connection's one request.
    fn serve(listener: &TcpListener, connections: usize) {
        for stream in listener.incoming().take(connections) {
            let (stream, mut line) = (stream.unwrap(), String::new());
            BufReader::new(&stream).read_line(&mut line).unwrap();
            let (user, message) = line.trim_end().split_once(':').unwrap();
            writeln!(&stream, "server 1 recvd message \"{message}\" from user {user}").unwrap();
        }
    }

    fn tally(peers: Vec<Peer>, requests: u64, message: &str) -> Tally {
        let job = Job {
            peers,
            requests: Requests::new(message.parse().unwrap()).unwrap(),
            schedule: Schedule::new(Goal::Requests(requests), None),
            keep_alive: false,
            timeout: Some(Duration::from_secs(60)),
            rest: Duration::ZERO,
            remember: false,
        };
        let (sender, notes) = crossbeam_channel::unbounded();
        Engine::run(&job, 2, &sender);
        let last = notes.try_iter().last();
        let Some(Note::Done(tally)) = last else { panic!("ended without results: {last:?}") };
        tally.unwrap()
    }

    #[test]
    fn the_next_address_of_a_name_is_tried() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let good = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || serve(&listener, 10));
        // Nothing listens on port 1 of these, or on any address of the other family.
        let refusing = [SocketAddr::from((Ipv4Addr::LOCALHOST, 1)), "[::1]:1".parse().unwrap()];
        let peers = refusing.into_iter().chain([good]).map(Peer::from).collect();
        let tally = tally(peers, 10, "arijort:hi");
        assert_eq!((tally.handled, tally.errors()), (10, 0));
        server.join().unwrap();
    }

    #[test]
    fn every_address_refuses() {
        let peers = [1, 1].map(|port| Peer::from(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
        let tally = tally(peers.to_vec(), 10, "arijort:hi");
        assert_eq!(tally.handled, 0);
        assert_eq!(tally.errors_by_kind(), [(Failure::Refused, 10)]);
    }

    /// Longer than all buffers between client and server, so that sending takes several turns.
    fn long_message() -> String {
        format!("arijort:{}", "x".repeat(16 << 20))
    }

    #[test]
    fn a_long_request_is_sent_piece_by_piece() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let peer = Peer::from(listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            for stream in listener.incoming().take(4) {
                let (stream, mut line) = (stream.unwrap(), String::new());
                BufReader::new(&stream).read_line(&mut line).unwrap();
                assert!(line.starts_with(&long_message()));
                let token = line.trim_end().rsplit_once(' ').unwrap().1;
                writeln!(&stream, "server 1 recvd message \"{token}\" from user arijort").unwrap();
            }
        });
        let tally = tally(vec![peer], 4, &long_message());
        assert_eq!((tally.handled, tally.errors()), (4, 0));
        server.join().unwrap();
    }

    #[test]
    fn the_reason_is_read_although_sending_failed() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let peer = Peer::from(listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            for stream in listener.incoming().take(20) {
                let mut stream = stream.unwrap();
                stream.read_exact(&mut [0; 10]).unwrap();
                writeln!(stream, "error too-long: at most 64 KiB").unwrap();
                // Dropped with unread data, which resets the connection while the request is still being sent.
            }
        });
        let tally = tally(vec![peer], 20, &long_message());
        assert_eq!(tally.errors_by_kind(), [(Failure::ServerTooLong, 20)]);
        server.join().unwrap();
    }
}
