//! One non-blocking TCP socket, and how it is given up. Half of what a short connection costs is paid here, on the
//! processors the server shares, so there is no system call that can be done without.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, setsockopt, sockopt,
};

/// One address of the server, in the form the kernel takes.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    family: AddressFamily,
    address: SockaddrStorage,
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        Self { family, address: address.into() }
    }
}

/// A socket on its way to the server, or there.
#[derive(Debug)]
pub struct Socket {
    descriptor: OwnedFd,
    family: AddressFamily,
}

impl Socket {
    /// Begins to connect. Nagle's algorithm stays on for short requests: each goes out in one piece while nothing is
    /// unacknowledged, so it never waits. A long one could wait with its last piece.
    pub fn connect(peer: &Peer, request_size: usize) -> Result<Self, Errno> {
        const ONE_SEGMENT: usize = 1200;
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let descriptor = socket::socket(peer.family, SockType::Stream, flags, None)?;
        let socket = Self { descriptor, family: peer.family };
        if request_size > ONE_SEGMENT {
            setsockopt(&socket.descriptor, sockopt::TcpNoDelay, &true)?;
        }
        socket.begin(peer)?;
        Ok(socket)
    }

    fn begin(&self, peer: &Peer) -> Result<(), Errno> {
        match socket::connect(self.descriptor.as_raw_fd(), &peer.address) {
            Err(Errno::EINPROGRESS | Errno::EINTR) => Ok(()),
            other => other,
        }
    }

    /// Sends what it can without waiting.
    pub fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        socket::send(self.descriptor.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL)
    }

    /// Receives what is there; 0 is the end.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        socket::recv(self.descriptor.as_raw_fd(), buffer, MsgFlags::empty())
    }

    /// Ends the connection by a reset and begins a new one from the same socket: a fresh connection with a local port of
    /// its own, without the cost of another descriptor and another registration.
    /// Only for a connection whose reply has come; see [`abort`](Self::abort).
    pub fn reconnect(&self, peer: &Peer) -> Result<(), Errno> {
        if peer.family != self.family {
            return Err(Errno::EAFNOSUPPORT);
        }
        rustix::net::connect_unspec(&self.descriptor)
            .map_err(|cause| Errno::from_raw(cause.raw_os_error()))?;
        self.begin(peer)
    }

    /// Ends the connection by a reset.
    ///
    /// Whoever closes a connection first keeps its local port in TIME_WAIT for a minute, and between one client
    /// address and one server address there are some 28,000 ports: at 20,000 fresh connections a second they would be
    /// gone after less than two seconds. A reset leaves no TIME_WAIT. It also throws away whatever the other side has not
    /// read yet, so this is only for a connection whose reply has come: the server has read the whole request, and
    /// nothing is outstanding in either direction. Every other connection is dropped, which closes it in the ordinary way.
    pub fn abort(self) {
        // If the option is refused the connection closes in the ordinary way: a port less for a minute, nothing lost.
        let _ = rustix::net::sockopt::set_socket_linger(&self.descriptor, Some(Duration::ZERO));
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
