//! What carries control frames, behind one small interface: frames go whole or not at all, and nobody is waited for unless
//! that is asked for. A [`Channel`] (`unix:`) carries descriptors too, and says who is at its other end; a [`Stream`]
//! (`tcp:`) does neither, so that it serves for status and control only.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, MsgFlags};
use serde::{Deserialize, Serialize};

use super::channel::{Channel, Received};
use crate::limits::MAX_FRAME;

/// One end of a conversation in frames.
pub trait Transport: AsFd + fmt::Debug {
    /// Sends one frame whole, or not at all; never waits.
    ///
    /// # Errors
    /// `WouldBlock` where there is no room; `Unsupported` where descriptors cannot be carried.
    fn try_send(&self, frame: &[u8], descriptors: &[RawFd]) -> io::Result<()>;

    /// Receives one frame if there is one.
    ///
    /// # Errors
    /// A frame beyond the limit; what the kernel reports.
    fn try_receive(&self) -> io::Result<Received>;

    /// Nothing goes either way any more, whoever else has a descriptor of this end.
    fn shut_down(&self);

    /// Where the conversation stands, for a successor in this process that gets the descriptor.
    fn conversation(&self) -> Conversation;
}

/// A conversation in frames, besides its descriptor.
#[derive(Debug, Serialize, Deserialize)]
pub enum Conversation {
    /// Over a [`Channel`].
    Channel {
        /// Whether the other end may send descriptors.
        takes_descriptors: bool,
    },
    /// Over a [`Stream`].
    Stream {
        /// What has come of the frame that is coming.
        arrived: Vec<u8>,
    },
}

impl Conversation {
    /// Goes on with it over this descriptor.
    pub fn resume(self, socket: OwnedFd) -> Box<dyn Transport> {
        match self {
            Self::Channel { takes_descriptors: true } => Box::new(Channel::from_descriptor(socket)),
            Self::Channel { takes_descriptors: false } => {
                Box::new(Channel::from_descriptor(socket).without_descriptors())
            }
            Self::Stream { arrived } => Box::new(Stream { socket, arrived: RefCell::new(arrived) }),
        }
    }
}

/// Receives one frame, waiting for it for at most `limit`; [`Received::Nothing`] then.
///
/// # Errors
/// As [`Transport::try_receive`].
pub fn receive_within(transport: &dyn Transport, limit: Duration) -> io::Result<Received> {
    let deadline = Instant::now().checked_add(limit);
    loop {
        let left = deadline.map_or(limit, |end| end.saturating_duration_since(Instant::now()));
        let timeout = PollTimeout::try_from(left.saturating_add(Duration::from_micros(999)));
        let timeout = timeout.unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(transport.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => match transport.try_receive()? {
                Received::Nothing if deadline.is_none_or(|end| Instant::now() < end) => {}
                received => return Ok(received),
            },
        }
    }
}

impl Transport for Channel {
    fn try_send(&self, frame: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
        Self::try_send(self, frame, descriptors)
    }

    fn try_receive(&self) -> io::Result<Received> {
        Self::try_receive(self)
    }

    fn shut_down(&self) {
        Self::shut_down(self);
    }

    fn conversation(&self) -> Conversation {
        Conversation::Channel { takes_descriptors: self.takes_descriptors() }
    }
}

/// Bytes that say how long the frame behind them is, little-endian.
const LENGTH: usize = 4;

/// A TCP connection: each frame behind its length.
#[derive(Debug)]
pub struct Stream {
    socket: OwnedFd,
    /// What has come of the frame that is coming, its length included. Never more than that frame.
    arrived: RefCell<Vec<u8>>,
}

impl Stream {
    /// The stream in a descriptor.
    pub fn from_descriptor(socket: OwnedFd) -> Self {
        Self { socket, arrived: RefCell::new(Vec::new()) }
    }

    /// Connects to one of these addresses.
    ///
    /// # Errors
    /// Why the last of them could not be reached.
    pub fn connect(addresses: &[SocketAddr], limit: Duration) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            match TcpStream::connect_timeout(address, limit) {
                Ok(stream) => return Ok(Self::from_descriptor(stream.into())),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Transport for Stream {
    fn try_send(&self, frame: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
        if !descriptors.is_empty() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut bytes = Vec::with_capacity(LENGTH + frame.len());
        bytes.extend((frame.len() as u32).to_le_bytes());
        bytes.extend(frame);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match socket::send(self.socket.as_raw_fd(), &bytes, flags)? {
            sent if sent == bytes.len() => Ok(()),
            // Half a frame is on its way: nothing that follows could be understood.
            _ => {
                self.shut_down();
                Err(io::ErrorKind::WriteZero.into())
            }
        }
    }

    fn try_receive(&self) -> io::Result<Received> {
        let mut arrived = self.arrived.borrow_mut();
        loop {
            let wanted = wanted(&arrived)?;
            if arrived.len() == wanted {
                return Ok(Received::Frame(std::mem::take(&mut *arrived).split_off(LENGTH), Vec::new()));
            }
            let had = arrived.len();
            arrived.resize(wanted, 0);
            let received = socket::recv(self.socket.as_raw_fd(), &mut arrived[had..], MsgFlags::MSG_DONTWAIT);
            arrived.truncate(had + received.unwrap_or(0));
            match received {
                Ok(0) | Err(nix::errno::Errno::ECONNRESET) => return Ok(Received::Closed),
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) => return Ok(Received::Nothing),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn shut_down(&self) {
        let _ = socket::shutdown(self.socket.as_raw_fd(), socket::Shutdown::Both);
    }

    fn conversation(&self) -> Conversation {
        Conversation::Stream { arrived: self.arrived.borrow().clone() }
    }
}

/// Bytes of the length, or once that is known, of the whole frame with it.
fn wanted(arrived: &[u8]) -> io::Result<usize> {
    let Some(length) = arrived.first_chunk::<LENGTH>() else { return Ok(LENGTH) };
    match u32::from_le_bytes(*length) as usize {
        0 => Err(io::Error::new(io::ErrorKind::InvalidData, "a control frame is empty")),
        length if length > MAX_FRAME => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "a control frame is longer than its limit"))
        }
        length => Ok(LENGTH + length),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use proptest::prelude::*;

    use super::*;

    fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = Stream::connect(&[listener.local_addr().unwrap()], Duration::from_secs(5)).unwrap();
        (one, listener.accept().unwrap().0)
    }

    fn frame(transport: &dyn Transport) -> Vec<u8> {
        match receive_within(transport, Duration::from_secs(5)).unwrap() {
            Received::Frame(frame, _) => frame,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn frames_arrive_whole_however_they_are_cut() {
        let (one, mut other) = pair();
        let long = vec![7; MAX_FRAME];
        let mut bytes = Vec::new();
        for frame in [&b"a"[..], &long, b"xyz"] {
            bytes.extend((frame.len() as u32).to_le_bytes());
            bytes.extend(frame);
        }
        let sender = std::thread::spawn(move || {
            for piece in [&bytes[..3], &bytes[3..6], &bytes[6..40_000], &bytes[40_000..]] {
                other.write_all(piece).unwrap();
            }
            other
        });
        assert_eq!(frame(&one), b"a");
        assert_eq!(frame(&one), long);
        assert_eq!(frame(&one), b"xyz");
        drop(sender.join().unwrap());
        assert!(matches!(receive_within(&one, Duration::from_secs(5)).unwrap(), Received::Closed));
    }

    #[test]
    fn what_is_sent_is_received_by_either_kind() {
        let (one, other) = pair();
        let (three, four) = Channel::pair().unwrap();
        let kinds: [(Box<dyn Transport>, Box<dyn Transport>); 2] = [
            (Box::new(one), Box::new(Stream::from_descriptor(other.into()))),
            (Box::new(three), Box::new(four)),
        ];
        for (here, there) in kinds {
            assert!(matches!(there.try_receive().unwrap(), Received::Nothing));
            here.try_send(b"frame", &[]).unwrap();
            assert_eq!(frame(&*there), b"frame");
            there.shut_down();
            assert!(matches!(receive_within(&*here, Duration::from_secs(5)).unwrap(), Received::Closed));
        }
    }

    #[test]
    fn a_successor_goes_on_in_the_middle_of_a_frame() {
        let (one, mut other) = pair();
        other.write_all(&[3, 0, 0, 0, b'a']).unwrap();
        // What has come by now, or none of it: either way it goes on from there.
        assert!(matches!(one.try_receive().unwrap(), Received::Nothing));
        let conversation = one.conversation();
        let successor = conversation.resume(one.as_fd().try_clone_to_owned().unwrap());
        drop(one);
        other.write_all(b"bc").unwrap();
        assert_eq!(frame(&*successor), b"abc");
        let (one, other) = Channel::pair().unwrap();
        let strict = one.without_descriptors();
        let Conversation::Channel { takes_descriptors } = strict.conversation() else { panic!() };
        assert!(!takes_descriptors);
        drop(other);
    }

    proptest! {
        #[test]
        fn garbage_never_panics_and_takes_no_more_than_a_frame(bytes in proptest::collection::vec(any::<u8>(), 1..300)) {
            let (one, mut other) = pair();
            other.write_all(&bytes).unwrap();
            drop(other);
            while let Ok(Received::Frame(frame, _)) = receive_within(&one, Duration::from_secs(5)) {
                prop_assert!(frame.len() <= MAX_FRAME);
            }
        }
    }
}
