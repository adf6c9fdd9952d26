//! The control socket: requests in, replies out, and never a wait for anybody.

use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::path::Path;

use common::error::{Context, Result};
use common::log_limit::LogLimit;
use common::sys::channel::{Channel, ChannelListener, Received};
use common::wire::control::{self, Request, Response};

use crate::policy::Clock;

/// More connections than this wait in the socket's backlog.
const MAX_CONNECTIONS: usize = 256;

/// A connection's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId(u64);

/// The listening control socket and who is connected.
#[derive(Debug)]
pub struct ControlSocket {
    listener: ChannelListener,
    connections: Vec<(ConnectionId, Channel)>,
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

    /// What to poll for reading: the listener (unless there are connections enough) and every connection.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let accepting = !self.resting && self.connections.len() < MAX_CONNECTIONS;
        let listener = accepting.then(|| self.listener.as_fd());
        listener.into_iter().chain(self.connections.iter().map(|(_, channel)| channel.as_fd()))
    }

    /// Takes what has arrived. A connection that is closed or speaks nonsense is dropped.
    pub fn requests(&mut self, now: Clock) -> Vec<(ConnectionId, Request)> {
        self.accept(now);
        let mut requests = Vec::new();
        let complaints = &mut self.complaints;
        self.connections.retain(|(id, channel)| match channel.try_receive() {
            Ok(Received::Nothing) => true,
            Ok(Received::Closed) => false,
            Ok(Received::Frame(frame, _)) => match control::decode(&frame) {
                Ok(request) => {
                    requests.push((*id, request));
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
        while !self.resting && self.connections.len() < MAX_CONNECTIONS {
            match self.listener.accept() {
                Ok(Some((channel, uid))) if may_connect(uid) => {
                    self.connections.push((ConnectionId(self.next), channel));
                    self.next += 1;
                }
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

    /// Sends a reply. Whoever does not take it at once is dropped.
    pub fn reply(&mut self, to: ConnectionId, response: &Response, descriptors: &[RawFd]) {
        self.connections.retain(|(id, channel)| {
            *id != to
                || control::encode(response)
                    .map_err(std::io::Error::from)
                    .and_then(|frame| channel.try_send(&frame, descriptors))
                    .inspect_err(|error| log::debug!("control socket: a reply was not taken: {error}"))
                    .is_ok()
        });
    }
}

/// The directory keeps others out already; this is the second door.
fn may_connect(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}
