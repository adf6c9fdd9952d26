//! The control socket: requests in, replies out, and never a wait for anybody.

use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::path::Path;

use common::error::{Context, Result};
use common::log_limit::LogLimit;
use common::sys::channel::{Channel, ChannelListener, Received};
use common::wire::control::{self, Request, Response};

use crate::policy::Clock;

/// With so many connections the oldest that has never asked for anything makes room for a new one.
const MAX_CONNECTIONS: usize = 256;

/// A connection's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId(u64);

#[derive(Debug)]
struct Connection {
    id: ConnectionId,
    channel: Channel,
    /// Whether it has asked for something, and may be waiting for the answer.
    has_asked: bool,
}

/// The listening control socket and who is connected.
#[derive(Debug)]
pub struct ControlSocket {
    listener: ChannelListener,
    connections: Vec<Connection>,
    next: u64,
    /// Set when a connection could not be accepted: the listener stays ready, and is let be until the next tick.
    resting: bool,
    complaints: LogLimit,
}

impl ControlSocket {
    /// Listens at `path`.
    ///
    /// # Errors
    /// What bind and listen report.
    pub fn open(path: &Path) -> Result<Self> {
        let listener =
            ChannelListener::bind(path).context(|| "cannot listen on RUN/control.sock".to_owned())?;
        let complaints = LogLimit::default();
        Ok(Self { listener, connections: Vec::new(), next: 0, resting: false, complaints })
    }

    /// What to poll for reading: the listener and every connection.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listener = (!self.resting).then(|| self.listener.as_fd());
        listener.into_iter().chain(self.connections.iter().map(|connection| connection.channel.as_fd()))
    }

    /// Takes what has arrived. A connection that is closed or speaks nonsense is dropped.
    pub fn requests(&mut self, now: Clock) -> Vec<(ConnectionId, Request)> {
        self.accept(now);
        let mut requests = Vec::new();
        let complaints = &mut self.complaints;
        self.connections.retain_mut(|connection| match connection.channel.try_receive() {
            Ok(Received::Nothing) => true,
            Ok(Received::Closed) => false,
            Ok(Received::Frame(frame, _)) => match control::decode(&frame) {
                Ok(request) => {
                    connection.has_asked = true;
                    requests.push((connection.id, request));
                    true
                }
                Err(error) => {
                    complaints.warn(now, || format!("control socket: {error}"));
                    false
                }
            },
            Err(error) => {
                complaints.warn(now, || format!("control socket: {error}"));
                false
            }
        });
        requests
    }

    /// Accepting may be possible again.
    pub fn rested(&mut self) {
        self.resting = false;
    }

    fn accept(&mut self, now: Clock) {
        while !self.resting {
            match self.listener.accept() {
                Ok(Some((channel, uid))) if may_connect(uid) => self.admit(channel),
                Ok(Some((_, uid))) => {
                    self.complaints.warn(now, || format!("control socket: uid {uid} was turned away"));
                }
                Ok(None) => return,
                Err(error) => {
                    self.resting = true;
                    self.complaints.warn(now, || format!("control socket: {error}"));
                }
            }
        }
    }

    fn admit(&mut self, channel: Channel) {
        if self.connections.len() >= MAX_CONNECTIONS {
            let idle = self.connections.iter().position(|connection| !connection.has_asked);
            self.connections.remove(idle.unwrap_or(0));
        }
        let id = ConnectionId(self.next);
        self.next += 1;
        self.connections.push(Connection { id, channel, has_asked: false });
    }

    /// Sends a reply. Whoever does not take it at once is dropped.
    pub fn reply(&mut self, to: ConnectionId, response: &Response, descriptors: &[RawFd]) {
        self.connections.retain(|connection| {
            connection.id != to
                || control::encode(response)
                    .map_err(std::io::Error::from)
                    .and_then(|frame| connection.channel.try_send(&frame, descriptors))
                    .inspect_err(|error| log::debug!("control socket: a reply was not taken: {error}"))
                    .is_ok()
        });
    }
}

/// The directory keeps others out already; this is the second door.
fn may_connect(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}
