//! Stream sockets: listening, accepting, and the few options that matter.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    self, AddressFamily, Backlog, MsgFlags, SockFlag, SockType, SockaddrStorage, UnixAddr, sockopt,
};
use nix::sys::time::TimeVal;

use super::readiness;

/// As many waiting connections as the kernel allows: net.core.somaxconn.
const BACKLOG: Backlog = Backlog::MAXALLOWABLE;

/// A listening socket, non-blocking, and where it really listens.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: OwnedFd,
    /// Whether it speaks TCP.
    pub tcp: bool,
}

/// Whether an address cannot be listened on because it, or its family, is not in use on this machine: a name may have such.
pub fn is_not_here(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

/// Listens on a TCP address.
///
/// # Errors
/// What bind and listen report (EADDRINUSE, EACCES, EADDRNOTAVAIL).
pub fn listen_tcp(address: SocketAddr) -> io::Result<Listener> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(family, SockType::Stream, flags, None)?;
    socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        // Every address is listened on by itself: "all addresses of a name" has both families where both exist.
        socket::setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    socket::listen(&socket, BACKLOG)?;
    Ok(Listener { socket, tcp: true })
}

/// Listens on a path. A socket file that nobody listens on any more is replaced; a live one is EADDRINUSE.
///
/// # Errors
/// What bind and listen report.
pub fn listen_unix(path: &Path) -> io::Result<Listener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let address = UnixAddr::new(path)?;
    match socket::bind(socket.as_raw_fd(), &address) {
        Err(Errno::EADDRINUSE) if is_abandoned(path, &address)? => {
            std::fs::remove_file(path)?;
            socket::bind(socket.as_raw_fd(), &address)?;
        }
        bound => bound?,
    }
    socket::listen(&socket, BACKLOG)?;
    Ok(Listener { socket, tcp: false })
}

/// Whether `path` is a socket that refuses connections.
fn is_abandoned(path: &Path, address: &UnixAddr) -> io::Result<bool> {
    use std::os::unix::fs::FileTypeExt;
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    let probe = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK, None)?;
    Ok(socket::connect(probe.as_raw_fd(), address) == Err(Errno::ECONNREFUSED))
}

/// Takes over a socket that somebody else opened and that listens.
///
/// # Errors
/// `InvalidInput` where it is not a listening stream socket.
pub fn adopt_listener(socket: OwnedFd) -> io::Result<Listener> {
    if !is_listening_stream(socket.as_fd()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a listening stream socket"));
    }
    let address: SockaddrStorage = socket::getsockname(socket.as_raw_fd())?;
    let tcp = address.as_sockaddr_in().is_some() || address.as_sockaddr_in6().is_some();
    Ok(Listener { socket, tcp })
}

/// Whether it is a listening stream socket.
pub fn is_listening_stream(descriptor: BorrowedFd<'_>) -> bool {
    let listens = socket::getsockopt(&descriptor, sockopt::AcceptConn).unwrap_or(false);
    listens && matches!(socket::getsockopt(&descriptor, sockopt::SockType), Ok(SockType::Stream))
}

impl Listener {
    /// Whether accepting waits. The flag is the socket's, for everybody who has it.
    ///
    /// # Errors
    /// What fcntl reports.
    pub fn set_waiting(&self, waiting: bool) -> io::Result<()> {
        use nix::fcntl::{F_GETFL, F_SETFL, OFlag, fcntl};
        let mut flags = OFlag::from_bits_retain(fcntl(&self.socket, F_GETFL)?);
        flags.set(OFlag::O_NONBLOCK, !waiting);
        fcntl(&self.socket, F_SETFL(flags))?;
        Ok(())
    }

    /// Connections that are waiting to be accepted. Of a socket that does not count them: 1 if there is any.
    pub fn waiting(&self) -> u32 {
        if self.tcp { self.accept_queue().unwrap_or(0) } else { self.somebody_waits().into() }
    }

    /// For a listening socket the kernel puts the length of its queue where a connected one has unanswered segments.
    fn accept_queue(&self) -> Option<u32> {
        // SAFETY: all zeros is a valid tcp_info, which is integers only.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        let mut size = size_of::<libc::tcp_info>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `size` bytes to `info`, and how many to `size`.
        let asked = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut info).cast(),
                &raw mut size,
            )
        };
        (asked == 0).then_some(info.tcpi_unacked)
    }

    fn somebody_waits(&self) -> bool {
        readiness::now(&self.socket, PollFlags::POLLIN).is_ok_and(|ready| !ready.is_empty())
    }

    /// The TCP port that the kernel gave; `None` for other sockets.
    pub fn port(&self) -> Option<u16> {
        self.tcp_address().map(|address| address.port())
    }

    /// The TCP address that it listens on; `None` for other sockets.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        let address: SockaddrStorage = socket::getsockname(self.socket.as_raw_fd()).ok()?;
        let four = address.as_sockaddr_in().map(|four| SocketAddr::V4((*four).into()));
        four.or_else(|| address.as_sockaddr_in6().map(|six| SocketAddr::V6((*six).into())))
    }

    /// The path of a Unix socket that has one.
    pub fn path(&self) -> Option<PathBuf> {
        let address: UnixAddr = socket::getsockname(self.socket.as_raw_fd()).ok()?;
        address.path().map(Path::to_owned)
    }

    /// Sets what every accepted connection starts with. Linux copies a TCP listener's timeouts and options to the
    /// sockets it accepts, so no connection costs a system call for them.
    ///
    /// # Errors
    /// What setsockopt reports.
    pub fn set_defaults(&self, timeout: Duration) -> io::Result<()> {
        if self.tcp {
            socket::setsockopt(&self.socket, sockopt::TcpNoDelay, &true)?;
        }
        set_timeouts(self.socket.as_fd(), timeout)
    }
}

/// Bounds every blocking read and write on a socket.
///
/// # Errors
/// What setsockopt reports.
pub fn set_timeouts(socket: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
    set_read_timeout(socket, timeout)?;
    Ok(socket::setsockopt(&socket, sockopt::SendTimeout, &timeval(timeout))?)
}

/// Bounds every blocking read on a socket; at least a microsecond, since zero would mean for ever.
///
/// # Errors
/// What setsockopt reports.
pub fn set_read_timeout(socket: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
    Ok(socket::setsockopt(&socket, sockopt::ReceiveTimeout, &timeval(timeout))?)
}

pub(super) fn timeval(duration: Duration) -> TimeVal {
    let micros = duration.subsec_micros().max(u32::from(duration.as_secs() == 0));
    TimeVal::new(duration.as_secs().try_into().unwrap_or(i64::MAX), micros.into())
}

/// Several listening sockets of one worker behind one wait. Each worker has its own: with EPOLLEXCLUSIVE the kernel
/// wakes one waiting worker for a connection. It walks over those that are enrolled and busy until it finds one, so
/// a worker is to be enrolled only while it waits.
#[derive(Debug)]
pub struct Doorbell {
    epoll: Epoll,
}

impl Doorbell {
    /// One that waits on nothing yet.
    ///
    /// # Errors
    /// What `epoll_create` reports.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)? })
    }

    /// Waits on this listener too from now on, under this index. What waits there already is noticed.
    ///
    /// # Errors
    /// What `epoll_ctl` reports.
    pub fn enroll(&self, listener: BorrowedFd<'_>, index: usize) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE, index as u64);
        match self.epoll.add(listener, event) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits on this listener no more.
    pub fn withdraw(&self, listener: BorrowedFd<'_>) {
        // It fails only where the listener is not enrolled.
        let _ = self.epoll.delete(listener);
    }

    /// Waits until a connection may be waiting and gives the index of its listener; `None` when interrupted, or asked
    /// to leave (see [`Retirement`](crate::sys::signal::Retirement)).
    ///
    /// # Errors
    /// What `epoll_wait` reports.
    pub fn wait(&self) -> io::Result<Option<usize>> {
        let mut events = [EpollEvent::empty()];
        match self.epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(Errno::EINTR) | Ok(0) => Ok(None),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(usize::try_from(events[0].data()).ok()),
        }
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

/// Takes a waiting connection; `None` where another worker was faster or the peer has gone.
///
/// # Errors
/// What accept reports besides (EMFILE, ENFILE, ENOBUFS, ENOMEM).
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    match socket::accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
        // SAFETY: the kernel has just opened this descriptor for this process.
        Ok(accepted) => Ok(Some(unsafe { OwnedFd::from_raw_fd(accepted) })),
        // Errors of the connection, not of the listener: accept(2) says to treat them like EAGAIN.
        Err(
            Errno::EAGAIN
            | Errno::EINTR
            | Errno::ECONNABORTED
            | Errno::ENETDOWN
            | Errno::EPROTO
            | Errno::ENOPROTOOPT
            | Errno::EHOSTDOWN
            | Errno::ENONET
            | Errno::EHOSTUNREACH
            | Errno::EOPNOTSUPP
            | Errno::ENETUNREACH,
        ) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads what has come, waiting for something; 0 at the end. A peer that reset the connection has ended it too.
///
/// # Errors
/// `WouldBlock` at the socket's timeout; what recv reports.
pub fn receive(connection: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket::recv(connection.as_raw_fd(), buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => {}
            Err(Errno::ECONNRESET) => return Ok(0),
            received => return Ok(received?),
        }
    }
}

/// Bytes that have arrived and wait to be read.
///
/// # Errors
/// What ioctl reports.
pub fn arrived(connection: BorrowedFd<'_>) -> io::Result<usize> {
    Ok(usize::try_from(rustix::io::ioctl_fionread(connection)?).unwrap_or(usize::MAX))
}

/// Sends all of `bytes`. A peer that takes them in drips has `limit` for the rest once the socket's own timeout has
/// cut a send short.
///
/// # Errors
/// `WouldBlock` at the socket's timeout, `TimedOut` at the limit; EPIPE or ECONNRESET where the peer is gone.
pub fn send_whole(connection: BorrowedFd<'_>, mut bytes: &[u8], limit: Duration) -> io::Result<()> {
    let mut cut_short: Option<Instant> = None;
    while !bytes.is_empty() {
        match socket::send(connection.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(sent) => bytes = &bytes[sent..],
        }
        if !bytes.is_empty() && cut_short.get_or_insert_with(Instant::now).elapsed() > limit {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}

/// Ends a connection so that the last line sent still arrives: no more writing, then reading what the peer had on the
/// way for at most `limit`. Closing at once would reset the connection and with it what the peer has not read yet.
#[cold]
#[inline(never)] // The buffer below would otherwise stand in the stack of who calls, and cost each worker its pages.
pub fn close_gently(connection: OwnedFd, limit: Duration) {
    let deadline = Instant::now() + limit;
    let _ = socket::shutdown(connection.as_raw_fd(), socket::Shutdown::Write);
    let mut scrap = [0; 16 * 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let bounded = !left.is_zero() && set_read_timeout(connection.as_fd(), left).is_ok();
        if !bounded || !matches!(receive(connection.as_fd(), &mut scrap), Ok(1..)) {
            break;
        }
    }
    drop(connection);
}
