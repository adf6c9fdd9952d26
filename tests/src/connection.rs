//! A client of the line protocol, one line at a time, every wait with a deadline.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use crate::DEADLINE;

/// A connection to an instance.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<Stream>,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A receipt: `server PID recvd message "MESSAGE" from user USER`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The worker's pid.
    pub pid: i32,
    /// The message.
    pub message: String,
    /// The user.
    pub user: String,
}

impl Receipt {
    /// Reads a reply; `None` where it is something else.
    pub fn read(line: &str) -> Option<Self> {
        let (pid, rest) = line.strip_prefix("server ")?.split_once(" recvd message \"")?;
        let (message, user) = rest.rsplit_once("\" from user ")?;
        Some(Self { pid: pid.parse().ok()?, message: message.to_owned(), user: user.to_owned() })
    }
}

impl Connection {
    /// Connects to an address as the line on stdout gives it.
    ///
    /// # Panics
    /// Where nobody accepts.
    #[track_caller]
    pub fn to(address: &str) -> Self {
        Self::try_to(address).unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"))
    }

    /// Connects, or does not.
    ///
    /// # Errors
    /// What connect reports.
    pub fn try_to(address: &str) -> std::io::Result<Self> {
        let stream = match address.split_once(':') {
            Some(("unix", path)) => Stream::Unix(UnixStream::connect(path)?),
            Some(("tcp", place)) => Stream::Tcp(TcpStream::connect(place)?),
            _ => return Err(ErrorKind::InvalidInput.into()),
        };
        match &stream {
            Stream::Tcp(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(DEADLINE))?;
                stream.set_write_timeout(Some(DEADLINE))?;
            }
            Stream::Unix(stream) => {
                stream.set_read_timeout(Some(DEADLINE))?;
                stream.set_write_timeout(Some(DEADLINE))?;
            }
        }
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// A second handle, for a thread that writes while this one reads.
    ///
    /// # Panics
    /// Where the descriptor cannot be duplicated.
    pub fn another(&self) -> Self {
        let stream = match self.reader.get_ref() {
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone().expect("a descriptor can be duplicated")),
            Stream::Unix(stream) => Stream::Unix(stream.try_clone().expect("a descriptor can be duplicated")),
        };
        Self { reader: BufReader::new(stream) }
    }

    /// Sends bytes as they are.
    ///
    /// # Panics
    /// Where the other side is gone.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes.as_ref()).expect("the other side takes what is sent");
    }

    /// Sends bytes, or does not.
    ///
    /// # Errors
    /// What write reports.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// Whether something has come that was not read yet, or the end.
    pub fn has_answered(&self) -> bool {
        let mut polled = [PollFd::new(self.reader.get_ref().as_fd(), PollFlags::POLLIN)];
        !self.reader.buffer().is_empty() || poll(&mut polled, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }

    /// The next line, without its newline; `None` at the end, whether orderly or not.
    ///
    /// # Errors
    /// The deadline; a line that is cut, or is not UTF-8.
    pub fn try_line(&mut self) -> std::io::Result<Option<String>> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => Ok(None),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error),
            Ok(_) => match line.strip_suffix('\n') {
                Some(whole) => Ok(Some(whole.to_owned())),
                None => Err(std::io::Error::new(ErrorKind::UnexpectedEof, format!("a cut line: {line:?}"))),
            },
        }
    }

    /// The next line, without its newline.
    ///
    /// # Panics
    /// Where none comes.
    #[track_caller]
    pub fn line(&mut self) -> String {
        match self.try_line() {
            Ok(Some(line)) => line,
            other => panic!("a line was expected: {other:?}"),
        }
    }

    /// Sends a line and gives the one that answers it.
    #[track_caller]
    pub fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\n"));
        self.line()
    }

    /// Sends a message, which must be recorded, and gives the pid of who answered.
    ///
    /// # Panics
    /// Where anything else is answered.
    #[track_caller]
    pub fn say(&mut self, user: &str, message: &str) -> i32 {
        let reply = self.ask(&format!("{user}:{message}"));
        let receipt = Receipt::read(&reply).unwrap_or_else(|| panic!("a receipt was expected: {reply}"));
        assert_eq!((receipt.user.as_str(), receipt.message.as_str()), (user, message));
        receipt.pid
    }

    /// Reads the next line, which must be an error of this kind.
    ///
    /// # Panics
    /// Where it is not.
    #[track_caller]
    pub fn expect_error(&mut self, kind: &str) -> String {
        let line = self.line();
        assert!(line.starts_with(&format!("error {kind}: ")), "error {kind} was expected: {line}");
        line
    }

    /// Nothing more comes, and the connection ends.
    ///
    /// # Panics
    /// Where something comes, or it does not end.
    #[track_caller]
    pub fn expect_end(&mut self) {
        match self.try_line() {
            Ok(None) => {}
            other => panic!("the connection should have ended: {other:?}"),
        }
    }

    /// Says that nothing more will be sent.
    ///
    /// # Panics
    /// Where the connection is gone.
    pub fn finish_sending(&mut self) {
        self.half_close().expect("a connection can be half closed");
    }

    /// The same, where the other side may have ended the connection already.
    pub fn finish_sending_if_open(&mut self) {
        let _ = self.half_close();
    }

    fn half_close(&self) -> std::io::Result<()> {
        match self.reader.get_ref() {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// Ends the connection by a reset, as a program that crashes with unread data does.
    ///
    /// # Panics
    /// Where the option cannot be set.
    pub fn reset(self) {
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&self.reader.get_ref().as_fd(), sockopt::Linger, &linger).expect("lingering can be set");
    }
}

impl Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
