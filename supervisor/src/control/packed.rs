//! The control socket as it is handed to a successor in this process, with everybody who is connected: nobody notices.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use common::error::{Context, Result};
use common::log_limit::LogLimit;
use common::sys::channel::ChannelListener;
use common::sys::peer::Peer;
use common::sys::transport::Conversation;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use serde::{Deserialize, Serialize};

use super::{Connection, ConnectionId, ControlSocket};
use crate::access::{AccessPolicy, Rights};
use crate::listen::PackedListeners;
use crate::upgrade::luggage::{Arrived, Luggage, Packed};

/// The sockets and who is connected.
#[derive(Debug, Serialize, Deserialize)]
pub struct PackedControl {
    listener: Packed,
    remote: PackedListeners,
    access: AccessPolicy,
    connections: Vec<PackedConnection>,
    next: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct PackedConnection {
    id: ConnectionId,
    socket: Packed,
    conversation: Conversation,
    /// Who it is, the kernel says again.
    has_peer: bool,
    has_asked: bool,
    attached: bool,
    own: bool,
}

impl ControlSocket {
    /// For a successor.
    pub fn pack<'a>(&'a self, luggage: &mut Luggage<'a>) -> PackedControl {
        let connections = self.connections.iter().map(|(id, connection)| PackedConnection {
            id: *id,
            socket: luggage.pack(&connection.transport),
            conversation: connection.transport.conversation(),
            has_peer: connection.peer.is_some(),
            has_asked: connection.has_asked,
            attached: connection.attached,
            own: connection.own,
        });
        let connections = connections.collect();
        PackedControl {
            listener: luggage.pack(&self.listener),
            remote: self.remote.pack(luggage),
            access: self.access.clone(),
            connections,
            next: self.next,
        }
    }
}

impl PackedControl {
    /// The control socket, whose file is at `path`.
    ///
    /// # Errors
    /// A socket that has not come along; what the kernel reports.
    pub fn unpack(self, path: PathBuf, arrived: &mut Arrived) -> Result<ControlSocket> {
        let Self { listener, remote, access, connections, next } = self;
        let doing = || "cannot take over the connections of RUN/control.sock".to_owned();
        let arrivals = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context(doing)?;
        let mut control = ControlSocket {
            listener: ChannelListener::from_descriptor(arrived.take(listener)?),
            remote: remote.unpack(arrived)?,
            path,
            access,
            connections: BTreeMap::new(),
            arrivals,
            attached: 0,
            next,
            resting: false,
            complaints: LogLimit::default(),
            denials: LogLimit::default(),
        };
        for packed in connections {
            let (id, attached) = (packed.id, packed.attached);
            let connection = packed.unpack(&control.access, arrived)?;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, id.0);
            control.arrivals.add(&connection.transport, event).context(doing)?;
            control.connections.insert(id, connection);
            control.attached += usize::from(attached);
        }
        Ok(control)
    }
}

impl PackedConnection {
    fn unpack(self, access: &AccessPolicy, arrived: &mut Arrived) -> Result<Connection> {
        let Self { socket, conversation, has_peer, has_asked, attached, own, .. } = self;
        let transport = conversation.resume(arrived.take(socket)?);
        let peer = has_peer.then(|| Peer::of(transport.as_fd())).transpose();
        let peer = peer.context(|| "cannot tell who is connected to RUN/control.sock".to_owned())?;
        let rights = if own { Rights::Read } else { access.rights(peer.as_ref()) };
        Ok(Connection { transport, peer, rights, has_asked, attached, own })
    }
}
