//! A sequenced-packet socket: one frame a packet, descriptors beside it.

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    self, AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    UnixAddr, sockopt,
};

use super::socket::timeval;
use crate::limits::{MAX_FRAME, MAX_FRAME_FDS};

/// `SCM_MAX_FD` of the kernel.
const KERNEL_MAX_FDS: usize = 253;

/// One end of a channel.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    /// Where frames are received; kept, because a frame may be long and most are short.
    buffer: RefCell<Vec<u8>>,
    /// Whether descriptors are received. A stranger's are not: to close one can take as long as he likes.
    takes_descriptors: bool,
}

/// What one receive gave.
#[derive(Debug)]
pub enum Received {
    /// A frame and the descriptors that came with it.
    Frame(Vec<u8>, Vec<OwnedFd>),
    /// Nothing now.
    Nothing,
    /// The other end is gone.
    Closed,
}

impl Channel {
    /// Two connected ends.
    ///
    /// # Errors
    /// What socketpair reports.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) =
            socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self::from_descriptor(one), Self::from_descriptor(other)))
    }

    /// Connects to the listening socket at `path`.
    ///
    /// # Errors
    /// What connect reports.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = socket::socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        connect(&socket, path, || Ok(()))?;
        Ok(Self::from_descriptor(socket))
    }

    /// The same, waiting for at most `limit` where many others are waiting to be let in, as at a process that is stopped.
    ///
    /// # Errors
    /// As [`Channel::connect`]; `WouldBlock` where the time is over.
    pub fn connect_within(path: &Path, limit: Duration) -> io::Result<Self> {
        let socket = socket::socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        let until = Instant::now() + limit;
        connect(&socket, path, || {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(socket::setsockopt(&socket, sockopt::SendTimeout, &timeval(left))?)
        })?;
        Ok(Self::from_descriptor(socket))
    }

    /// The same without waiting, also where many others are waiting to be let in.
    ///
    /// # Errors
    /// As [`Channel::connect`]; `WouldBlock`.
    pub fn connect_at_once(path: &Path) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket::socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        connect(&socket, path, || Ok(()))?;
        nix::fcntl::fcntl(&socket, nix::fcntl::F_SETFL(nix::fcntl::OFlag::empty()))?;
        Ok(Self::from_descriptor(socket))
    }

    /// The channel in an inherited or received descriptor.
    pub fn from_descriptor(socket: OwnedFd) -> Self {
        Self { socket, buffer: RefCell::new(Vec::new()), takes_descriptors: true }
    }

    /// The same, where the other end is not to send descriptors.
    #[must_use]
    pub fn without_descriptors(self) -> Self {
        Self { takes_descriptors: false, ..self }
    }

    /// Whether the other end may send descriptors.
    pub fn takes_descriptors(&self) -> bool {
        self.takes_descriptors
    }

    /// The descriptor, to be handed to a child.
    pub fn into_descriptor(self) -> OwnedFd {
        self.socket
    }

    /// Sends one frame whole or not at all, waiting for room.
    ///
    /// # Errors
    /// What sendmsg reports; EPIPE where the other end is gone.
    pub fn send(&self, frame: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
        self.send_with(frame, descriptors, MsgFlags::empty())
    }

    /// Sends one frame whole or not at all; never waits.
    ///
    /// # Errors
    /// As [`Channel::send`]; `WouldBlock` where there is no room.
    pub fn try_send(&self, frame: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
        self.send_with(frame, descriptors, MsgFlags::MSG_DONTWAIT)
    }

    fn send_with(&self, frame: &[u8], descriptors: &[RawFd], flags: MsgFlags) -> io::Result<()> {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let control = if descriptors.is_empty() { &rights[..0] } else { &rights[..] };
        let parts = [IoSlice::new(frame)];
        let flags = flags | MsgFlags::MSG_NOSIGNAL;
        loop {
            match socket::sendmsg::<()>(self.socket.as_raw_fd(), &parts, control, flags, None) {
                Err(nix::errno::Errno::EINTR) => {}
                Ok(sent) if sent == frame.len() => return Ok(()),
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Receives one frame, waiting for it.
    ///
    /// # Errors
    /// What recvmsg reports; a frame or a set of descriptors beyond the limits.
    pub fn receive(&self) -> io::Result<Received> {
        self.receive_with(MsgFlags::empty())
    }

    /// Receives one frame if there is one.
    ///
    /// # Errors
    /// As [`Channel::receive`].
    pub fn try_receive(&self) -> io::Result<Received> {
        self.receive_with(MsgFlags::MSG_DONTWAIT)
    }

    /// Receives one short frame, waiting for it, and writes to no other memory than `buffer`: how many bytes, 0 once the other
    /// end is gone. Descriptors that come with it are closed.
    ///
    /// # Errors
    /// What recv reports; `InvalidData`: a frame longer than `buffer`, which is lost.
    pub fn receive_in(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            // With this flag it says how long the frame was.
            match socket::recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC) {
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::ECONNRESET) => return Ok(0),
                Err(error) => return Err(error.into()),
                Ok(length) if length > buffer.len() => return Err(too_long()),
                Ok(length) => return Ok(length),
            }
        }
    }

    /// Nothing goes either way any more, whoever else has a descriptor of this end.
    pub fn shut_down(&self) {
        let _ = socket::shutdown(self.socket.as_raw_fd(), socket::Shutdown::Both);
    }

    fn receive_with(&self, flags: MsgFlags) -> io::Result<Received> {
        let mut frame = self.buffer.borrow_mut();
        frame.resize(MAX_FRAME, 0);
        // Room for as many as the kernel ever sends with one frame: those that did not fit would be open all the same.
        let mut control = self.takes_descriptors.then(|| nix::cmsg_space!([RawFd; KERNEL_MAX_FDS]));
        let (length, descriptors, cut) = loop {
            let mut parts = [IoSliceMut::new(&mut frame)];
            let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
            match socket::recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, control.as_deref_mut(), flags) {
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) => return Ok(Received::Nothing),
                Err(nix::errno::Errno::ECONNRESET) => return Ok(Received::Closed),
                Err(error) => return Err(error.into()),
                Ok(message) if !self.takes_descriptors && message.flags.contains(MsgFlags::MSG_CTRUNC) => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "a control frame came with descriptors, which nobody takes here",
                    ));
                }
                Ok(message) if !self.takes_descriptors => {
                    break (message.bytes, Vec::new(), message.flags.contains(MsgFlags::MSG_TRUNC));
                }
                Ok(message) => {
                    let cut = message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
                    break (message.bytes, adopt_rights(message.cmsgs()?), cut);
                }
            }
        };
        if cut || descriptors.len() > MAX_FRAME_FDS {
            return Err(too_long());
        }
        if length == 0 {
            return Ok(Received::Closed);
        }
        Ok(Received::Frame(frame[..length].to_vec(), descriptors))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn adopt_rights<'a>(messages: impl Iterator<Item = ControlMessageOwned> + 'a) -> Vec<OwnedFd> {
    let numbers = messages.flat_map(|message| match message {
        ControlMessageOwned::ScmRights(numbers) => numbers,
        _ => Vec::new(),
    });
    // SAFETY: the kernel has just opened these descriptors for this process, and nobody else knows their numbers.
    numbers.map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect()
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a control frame is longer than its limit")
}

/// Lets no descriptors be sent to a socket, where the kernel can see to that (since Linux 6.16): one that waits to be
/// received would be closed in this process.
fn refuse_descriptors(socket: &OwnedFd) -> io::Result<()> {
    const SO_PASSRIGHTS: libc::c_int = 83;
    let no: libc::c_int = 0;
    // SAFETY: the kernel reads as many bytes of `no` as it has.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const no).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match super::cerr(set.into()) {
        Err(error) if error.raw_os_error() != Some(libc::ENOPROTOOPT) => Err(error),
        _ => Ok(()),
    }
}

/// A listening socket for channels that strangers connect. They send frames, and no descriptors.
#[derive(Debug)]
pub struct ChannelListener {
    socket: OwnedFd,
}

impl ChannelListener {
    /// Listens at `path`, which must not exist. Who can connect is for the file's mode to say.
    ///
    /// # Errors
    /// What bind and listen report.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket::socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        socket::bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        // Those that connect have it of this one.
        refuse_descriptors(&socket)?;
        // As many as the kernel allows: after a start, all who were attached come at once.
        socket::listen(&socket, Backlog::MAXALLOWABLE)?;
        Ok(Self { socket })
    }

    /// The one that a predecessor in this process made.
    pub fn from_descriptor(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Takes a waiting connection; `None` where none waits.
    ///
    /// # Errors
    /// What accept reports.
    pub fn accept(&self) -> io::Result<Option<Channel>> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let accepted = match socket::accept4(self.socket.as_raw_fd(), flags) {
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR | nix::errno::Errno::ECONNABORTED) => {
                return Ok(None);
            }
            accepted => accepted?,
        };
        // SAFETY: the kernel has just opened this descriptor for this process.
        let socket = unsafe { OwnedFd::from_raw_fd(accepted) };
        Ok(Some(Channel { takes_descriptors: false, ..Channel::from_descriptor(socket) }))
    }
}

impl AsFd for ChannelListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Connects, again where a signal cut it short: nothing is under way at a Unix socket then. Before each time `prepare`.
fn connect(socket: &OwnedFd, path: &Path, prepare: impl Fn() -> io::Result<()>) -> io::Result<()> {
    let address = UnixAddr::new(path)?;
    loop {
        prepare()?;
        match socket::connect(socket.as_raw_fd(), &address) {
            Err(nix::errno::Errno::EINTR) => {}
            ended => return Ok(ended?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_stranger_s_descriptors_are_not_received() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("socket");
        let listener = ChannelListener::bind(&path).unwrap();
        let (stranger, guest) = (Channel::connect(&path).unwrap(), Channel::connect(&path).unwrap());
        let (theirs, witness) = UnixStream::pair().unwrap();
        witness.set_nonblocking(true).unwrap();
        // Also those that are sent before they are let in. Where the kernel does not send them, that is all.
        let sent = stranger.try_send(b"frame", &[theirs.as_raw_fd()]);
        drop(theirs);
        let (of_stranger, of_guest) =
            (listener.accept().unwrap().unwrap(), listener.accept().unwrap().unwrap());
        match (sent, of_stranger.try_receive()) {
            (Ok(()), Err(error)) => assert_eq!(error.kind(), io::ErrorKind::InvalidData),
            (Err(error), Ok(Received::Nothing)) => assert_eq!(error.raw_os_error(), Some(libc::EPERM)),
            other => panic!("{other:?}"),
        }
        assert_eq!(nix::unistd::read(&witness, &mut [0]), Ok(0), "nobody has it");
        // Frames come, and descriptors go the other way.
        guest.try_send(b"frame", &[]).unwrap();
        assert!(matches!(of_guest.try_receive().unwrap(), Received::Frame(frame, _) if frame == b"frame"));
        of_guest.try_send(b"reply", &[witness.as_raw_fd()]).unwrap();
        assert!(
            matches!(guest.try_receive().unwrap(), Received::Frame(_, descriptors) if descriptors.len() == 1)
        );
    }

    #[test]
    fn where_the_kernel_sends_descriptors_they_end_the_conversation() {
        let (one, other) = Channel::pair().unwrap();
        let other = Channel { takes_descriptors: false, ..other };
        one.try_send(b"frame", &[one.as_fd().as_raw_fd()]).unwrap();
        assert_eq!(other.try_receive().unwrap_err().kind(), io::ErrorKind::InvalidData);
        one.try_send(b"frame", &[]).unwrap();
        assert!(matches!(other.try_receive().unwrap(), Received::Frame(..)));
    }

    #[test]
    fn short_frames_are_received_where_they_are_wanted() {
        let (one, other) = Channel::pair().unwrap();
        let mut buffer = [0; 8];
        let (theirs, witness) = UnixStream::pair().unwrap();
        one.send(b"order", &[theirs.as_raw_fd()]).unwrap();
        drop(theirs);
        assert_eq!(other.receive_in(&mut buffer).unwrap(), 5);
        assert_eq!(&buffer[..5], b"order");
        assert_eq!(nix::unistd::read(&witness, &mut [0]), Ok(0), "nobody has the descriptor");
        one.send(b"too long an order", &[]).unwrap();
        one.send(b"the next", &[]).unwrap();
        assert_eq!(other.receive_in(&mut buffer).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(other.receive_in(&mut buffer).unwrap(), 8);
        drop(one);
        assert_eq!(other.receive_in(&mut buffer).unwrap(), 0);
    }
}
