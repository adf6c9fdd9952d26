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
use common::sys::socket;
use common::sys::transport::{Stream, Transport};
use common::wire::control::{self, Request, Response};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use serde::{Deserialize, Serialize};

use crate::access::{AccessPolicy, Rights};
use crate::listen::Listeners;
use crate::policy::Clock;

/// With so many connections that belong to nobody who is attached, the oldest that has never asked for anything makes
/// room for a new one.
const MAX_VISITORS: usize = 256;

/// Connections that are accepted, and that are looked at, in one turn. The others wait for the next.
const AT_A_TIME: usize = 256;

/// A connection's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnectionId(pub(crate) u64);

#[derive(Debug)]
struct Connection {
    transport: Box<dyn Transport>,
    /// Who is at the other end; over the network nobody knows.
    peer: Option<Peer>,
    rights: Rights,
    /// Whether it has asked for something, and may be waiting for the answer.
    has_asked: bool,
    /// Whether it is an attached program's, and stays until that ends it.
    attached: bool,
    /// Whether it is a child's of this instance, which may read whatever the policy says, and stays as long as the child.
    own: bool,
}

/// Who is at a connection's other end, where that is known.
type Visitor = (Box<dyn Transport>, Option<Peer>);

/// What came over the control socket.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody asks for something, and may.
    Asked(ConnectionId, Request),
    /// The connection of an attached program is gone.
    Lost(ConnectionId),
}

mod packed;
pub use packed::PackedControl;

/// The listening control socket and who is connected.
#[derive(Debug)]
pub struct ControlSocket {
    listener: ChannelListener,
    /// `--control-listen`: for status and control alone.
    remote: Listeners,
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
    pub fn open(path: &Path, access: AccessPolicy, remote: Listeners) -> Result<Self> {
        let doing = || "cannot listen on RUN/control.sock".to_owned();
        let this = Self {
            listener: ChannelListener::bind(path).context(doing)?,
            remote,
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
        for connection in self.connections.values_mut().filter(|connection| !connection.own) {
            connection.rights = self.access.rights(connection.peer.as_ref());
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

    /// What to poll for reading: the listeners, and all connections together.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listeners = [self.listener.as_fd()].into_iter().chain(self.remote.descriptors().map(AsFd::as_fd));
        listeners.filter(|_| !self.resting).chain([self.arrivals.0.as_fd()])
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
        let received = connection.transport.try_receive().and_then(|received| match received {
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
                let (who, rights) = (name(connection.peer.as_ref()), connection.rights);
                self.denied(now, &who, rights);
                self.reply(id, &refusal(&who, rights), &[]);
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

    fn denied(&mut self, now: Clock, who: &str, rights: Rights) {
        self.denials.warn(now, || format!("control socket: {who} was denied; it may {}", rights.name()));
    }

    /// Ends a connection, whoever has a descriptor of its other end still.
    pub fn hang_up(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get(&id) {
            connection.transport.shut_down();
        }
        self.close(id);
    }

    /// Too many are there. Who waits for an answer can ask again, and need not wonder whether this is an instance at all.
    fn make_leave(&mut self, id: ConnectionId) {
        if self.connections.get(&id).is_some_and(|connection| connection.has_asked) {
            let crowded = Response::Refused("too many ask at once; ask again".to_owned());
            self.reply(id, &crowded, &[]);
        }
        self.close(id);
    }

    fn close(&mut self, id: ConnectionId) -> Option<Event> {
        let connection = self.connections.remove(&id)?;
        // Closing it would not do where somebody has a descriptor of it still, which he may.
        let _ = self.arrivals.delete(&connection.transport);
        self.attached -= usize::from(connection.attached);
        connection.attached.then_some(Event::Lost(id))
    }

    /// Accepting may be possible again.
    pub fn rested(&mut self) {
        self.resting = false;
    }

    fn accept(&mut self, now: Clock) {
        for _ in 0..AT_A_TIME {
            if self.resting {
                return;
            }
            let admitted = match self.next_visitor() {
                Ok(None) => return,
                Ok(Some((transport, peer))) => self.admit(now, transport, peer),
                Err(error) => Err(error),
            };
            if let Err(error) = admitted {
                self.resting = true;
                self.complaints.warn(now, || format!("control socket: {error}"));
            }
        }
    }

    /// Somebody who waits to be let in, and who he is where that is known.
    fn next_visitor(&self) -> std::io::Result<Option<Visitor>> {
        if let Some(channel) = self.listener.accept()? {
            let peer = Peer::of(channel.as_fd())?;
            return Ok(Some((Box::new(channel), Some(peer))));
        }
        for listener in self.remote.descriptors() {
            if let Some(connection) = socket::accept(listener.as_fd())? {
                return Ok(Some((Box::new(Stream::from_descriptor(connection)), None)));
            }
        }
        Ok(None)
    }

    fn admit(
        &mut self,
        now: Clock,
        transport: Box<dyn Transport>,
        peer: Option<Peer>,
    ) -> std::io::Result<()> {
        let rights = self.access.rights(peer.as_ref());
        if rights == Rights::None {
            let who = name(peer.as_ref());
            self.denied(now, &who, rights);
            turn_away(&*transport, &who);
            return Ok(());
        }
        if self.connections.len() - self.attached >= MAX_VISITORS {
            let stays = |connection: &Connection| connection.attached || connection.own;
            let visitors = || self.connections.iter().filter(|(_, connection)| !stays(connection));
            let idle = visitors().find(|(_, connection)| !connection.has_asked);
            let goes = idle.or_else(|| visitors().next()).map(|(id, _)| *id);
            if let Some(id) = goes {
                self.make_leave(id);
            }
        }
        self.enter(Connection { transport, peer, rights, has_asked: false, attached: false, own: false })
            .map(drop)
    }

    /// Lets a child of this instance ask for status, and nothing else, over a channel that it was born with.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn adopt(&mut self, channel: Channel) -> std::io::Result<ConnectionId> {
        let (transport, rights) = (Box::new(channel.without_descriptors()), Rights::Read);
        self.enter(Connection { transport, peer: None, rights, has_asked: false, attached: false, own: true })
    }

    fn enter(&mut self, connection: Connection) -> std::io::Result<ConnectionId> {
        let id = ConnectionId(self.next);
        self.next += 1;
        self.arrivals.add(&connection.transport, EpollEvent::new(EpollFlags::EPOLLIN, id.0))?;
        self.connections.insert(id, connection);
        Ok(id)
    }

    /// Sends a reply; whether it was taken. Whoever does not take it at once is dropped.
    pub fn reply(&mut self, to: ConnectionId, response: &Response, descriptors: &[RawFd]) -> bool {
        let Some(connection) = self.connections.get(&to) else { return false };
        let sent = control::encode(response)
            .map_err(std::io::Error::from)
            .and_then(|frame| connection.transport.try_send(&frame, descriptors));
        if let Err(error) = &sent {
            log::debug!("control socket: a reply was not taken: {error}");
            // An attached program's goes the way that it goes when the other end closes it.
            connection.transport.shut_down();
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
        match &connection.peer {
            None => Err(std::io::Error::other("it is somewhere in the network")),
            Some(peer) if peer.pid.0 <= 0 => Err(std::io::Error::other("it lives in another pid namespace")),
            Some(peer) => Process::at(connection.transport.as_fd(), peer),
        }
    }

    /// Whether descriptors can be sent over a connection.
    pub fn carries_descriptors(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_some_and(|connection| connection.peer.is_some())
    }

    /// Whether somebody is connected by this name still.
    pub fn is_connected(&self, id: ConnectionId) -> bool {
        self.connections.contains_key(&id)
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

/// Who it is, for people.
fn name(peer: Option<&Peer>) -> String {
    match peer {
        Some(peer) => format!("user {} (process {})", peer.uid, peer.pid),
        None => "somebody in the network".to_owned(),
    }
}

fn refusal(who: &str, rights: Rights) -> Response {
    let may = if rights == Rights::None { "not join" } else { "only read" };
    Response::Refused(format!("{who} may {may} here (--policy says who may what)"))
}

/// Says why, as far as somebody listens, and that is all.
fn turn_away(transport: &dyn Transport, who: &str) {
    // What was asked already is read, since the reply would be lost otherwise.
    let _ = transport.try_receive();
    if let Ok(frame) = control::encode(&refusal(who, Rights::None)) {
        let _ = transport.try_send(&frame, &[]);
    }
}
