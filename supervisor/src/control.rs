//! The control socket: requests in, replies out, and never a wait for anybody.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use common::error::{Context, Result};
use common::log_limit::LogLimit;
use common::sys::channel::{Channel, ChannelListener, Received};
use common::sys::peer::{Peer, Process};
use common::wire::control::{self, Request, Response};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::access::{AccessPolicy, Rights};
use crate::policy::Clock;

/// With so many connections that belong to nobody who is attached, the oldest that has never asked for anything makes
/// room for a new one.
const MAX_VISITORS: usize = 256;

/// Connections that are looked at in one turn. The others wait for the next.
const AT_A_TIME: usize = 256;

/// A connection's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(u64);

#[derive(Debug)]
struct Connection {
    channel: Channel,
    peer: Peer,
    rights: Rights,
    /// Whether it has asked for something, and may be waiting for the answer.
    has_asked: bool,
    /// Whether it is an attached program's, and stays until that ends it.
    attached: bool,
}

/// What came over the control socket.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody asks for something, and may.
    Asked(ConnectionId, Request),
    /// The connection of an attached program is gone.
    Lost(ConnectionId),
}

/// The listening control socket and who is connected.
#[derive(Debug)]
pub struct ControlSocket {
    listener: ChannelListener,
    path: PathBuf,
    access: AccessPolicy,
    connections: BTreeMap<ConnectionId, Connection>,
    /// The connections, so that a thousand of them cost one descriptor to wait for.
    arrivals: Epoll,
    attached: usize,
    next: u64,
    /// Set when a connection could not be accepted: the listener stays ready, and is let be until the next tick.
    resting: bool,
    complaints: LogLimit,
    denials: LogLimit,
}

impl ControlSocket {
    /// Listens at `path`.
    ///
    /// # Errors
    /// What bind and listen report.
    pub fn open(path: &Path, access: AccessPolicy) -> Result<Self> {
        let doing = || "cannot listen on RUN/control.sock".to_owned();
        let this = Self {
            listener: ChannelListener::bind(path).context(doing)?,
            path: path.to_owned(),
            access,
            connections: BTreeMap::new(),
            arrivals: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context(doing)?,
            attached: 0,
            next: 0,
            resting: false,
            complaints: LogLimit::default(),
            denials: LogLimit::default(),
        };
        this.open_doors()?;
        Ok(this)
    }

    /// Another policy, for whoever connects or asks from now on.
    ///
    /// # Errors
    /// Where the socket's mode cannot be changed.
    pub fn set_access(&mut self, access: AccessPolicy) -> Result<()> {
        self.access = access;
        for connection in self.connections.values_mut() {
            connection.rights = self.access.rights(&connection.peer);
        }
        self.open_doors()
    }

    /// The kernel lets those connect who may write to the socket's file and pass through its directory. Where the policy
    /// admits somebody else, everybody may, and is looked at then.
    fn open_doors(&self) -> Result<()> {
        let mode = if self.access.admits_others() { 0o666 } else { 0o600 };
        let doing = || "cannot change who may connect to RUN/control.sock".to_owned();
        std::fs::set_permissions(&self.path, Permissions::from_mode(mode)).context(doing)
    }

    /// Whether the policy admits others than the instance's own user.
    pub fn admits_others(&self) -> bool {
        self.access.admits_others()
    }

    /// What to poll for reading: the listener, and all connections together.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listener = (!self.resting).then(|| self.listener.as_fd());
        listener.into_iter().chain([self.arrivals.0.as_fd()])
    }

    /// Takes what has arrived. A connection that is closed or speaks nonsense is dropped.
    pub fn events(&mut self, now: Clock) -> Vec<Event> {
        self.accept(now);
        let mut ready = [EpollEvent::empty(); AT_A_TIME];
        let count = self.arrivals.wait(&mut ready, EpollTimeout::ZERO).unwrap_or(0);
        let ids = ready[..count].iter().map(|event| ConnectionId(event.data()));
        ids.filter_map(|id| self.take(now, id)).collect()
    }

    fn take(&mut self, now: Clock, id: ConnectionId) -> Option<Event> {
        let connection = self.connections.get_mut(&id)?;
        let received = connection.channel.try_receive().and_then(|received| match received {
            Received::Frame(frame, _) => Ok(Some(control::decode::<Request>(&frame)?)),
            Received::Nothing => Ok(None),
            Received::Closed => Err(std::io::ErrorKind::BrokenPipe.into()),
        });
        match received {
            Ok(None) => None,
            Ok(Some(request)) => {
                connection.has_asked = true;
                if connection.rights.allow(&request) {
                    return Some(Event::Asked(id, request));
                }
                let (peer, rights) = (connection.peer.clone(), connection.rights);
                let may = if rights == Rights::None { "not join" } else { "only read" };
                let refusal = Response::Refused(format!(
                    "user {} may {may} here (--policy says who may what)",
                    peer.uid
                ));
                self.denied(now, &peer, rights);
                self.reply(id, &refusal, &[]);
                None
            }
            Err(error) => {
                if error.kind() != std::io::ErrorKind::BrokenPipe {
                    self.complaints.warn(now, || format!("control socket: {error}"));
                }
                self.close(id)
            }
        }
    }

    fn denied(&mut self, now: Clock, peer: &Peer, rights: Rights) {
        self.denials.warn(now, || {
            format!(
                "control socket: process {} of user {} was denied; it may {}",
                peer.pid,
                peer.uid,
                rights.name()
            )
        });
    }

    /// Ends a connection, whoever has a descriptor of its other end still.
    pub fn hang_up(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get(&id) {
            connection.channel.shut_down();
        }
        self.close(id);
    }

    fn close(&mut self, id: ConnectionId) -> Option<Event> {
        let connection = self.connections.remove(&id)?;
        // Closing it would not do where somebody has a descriptor of it still, which he may.
        let _ = self.arrivals.delete(&connection.channel);
        self.attached -= usize::from(connection.attached);
        connection.attached.then_some(Event::Lost(id))
    }

    /// Accepting may be possible again.
    pub fn rested(&mut self) {
        self.resting = false;
    }

    fn accept(&mut self, now: Clock) {
        while !self.resting {
            let admitted = match self.listener.accept() {
                Ok(None) => return,
                Ok(Some(channel)) => self.admit(now, channel),
                Err(error) => Err(error),
            };
            if let Err(error) = admitted {
                self.resting = true;
                self.complaints.warn(now, || format!("control socket: {error}"));
            }
        }
    }

    fn admit(&mut self, now: Clock, channel: Channel) -> std::io::Result<()> {
        let peer = Peer::of(channel.as_fd())?;
        let rights = self.access.rights(&peer);
        if rights == Rights::None {
            self.denied(now, &peer, rights);
            turn_away(&channel, &peer);
            return Ok(());
        }
        if self.connections.len() - self.attached >= MAX_VISITORS {
            let visitors = || self.connections.iter().filter(|(_, connection)| !connection.attached);
            let idle = visitors().find(|(_, connection)| !connection.has_asked);
            let goes = idle.or_else(|| visitors().next()).map(|(id, _)| *id);
            goes.map(|id| self.close(id));
        }
        let id = ConnectionId(self.next);
        self.next += 1;
        self.arrivals.add(&channel, EpollEvent::new(EpollFlags::EPOLLIN, id.0))?;
        self.connections.insert(id, Connection { channel, peer, rights, has_asked: false, attached: false });
        Ok(())
    }

    /// Sends a reply; whether it was taken. Whoever does not take it at once is dropped.
    pub fn reply(&mut self, to: ConnectionId, response: &Response, descriptors: &[RawFd]) -> bool {
        let Some(connection) = self.connections.get(&to) else { return false };
        let sent = control::encode(response)
            .map_err(std::io::Error::from)
            .and_then(|frame| connection.channel.try_send(&frame, descriptors));
        if let Err(error) = &sent {
            log::debug!("control socket: a reply was not taken: {error}");
            // An attached program's goes the way that it goes when the other end closes it.
            connection.channel.shut_down();
            if !connection.attached {
                self.close(to);
            }
        }
        sent.is_ok()
    }

    /// The process at the other end.
    ///
    /// # Errors
    /// Where it has ended, or lives where it cannot be seen.
    pub fn process(&self, id: ConnectionId) -> std::io::Result<Process> {
        let gone = || std::io::Error::from_raw_os_error(nix::libc::ESRCH);
        let connection = self.connections.get(&id).ok_or_else(gone)?;
        if connection.peer.pid.0 <= 0 {
            return Err(std::io::Error::other("it lives in another pid namespace"));
        }
        Process::at(connection.channel.as_fd(), &connection.peer)
    }

    /// Whether the connection is an attached program's.
    pub fn is_attached(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_some_and(|connection| connection.attached)
    }

    /// The connection is an attached program's from now on, or none any more.
    pub fn set_attached(&mut self, id: ConnectionId, attached: bool) {
        if let Some(connection) = self.connections.get_mut(&id)
            && connection.attached != attached
        {
            connection.attached = attached;
            if attached { self.attached += 1 } else { self.attached -= 1 }
        }
    }
}

/// Says why, as far as somebody listens, and that is all.
fn turn_away(channel: &Channel, peer: &Peer) {
    let refusal =
        Response::Refused(format!("user {} may not join here (--policy says who may what)", peer.uid));
    // What was asked already is read, since the reply would be lost otherwise.
    let _ = channel.try_receive();
    if let Ok(frame) = control::encode(&refusal) {
        let _ = channel.try_send(&frame, &[]);
    }
}
