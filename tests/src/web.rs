//! As much of HTTP/1.1 as is needed to ask an exporter, and to ask it wrongly.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::DEADLINE;

/// What was answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub code: u16,
    /// Everything before the body, as it came.
    pub head: String,
    /// The body.
    pub body: String,
}

/// A connection for requests.
#[derive(Debug)]
pub struct Caller {
    stream: TcpStream,
    arrived: Vec<u8>,
}

impl Caller {
    /// Connects to HOST:PORT.
    ///
    /// # Errors
    /// What connect reports.
    pub fn to(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Self { stream, arrived: Vec::new() })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// What writing reports.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Reads one answer; to a HEAD, one without a body.
    ///
    /// # Errors
    /// A connection that ends before it is whole, or what is no answer.
    pub fn answer(&mut self, has_body: bool) -> io::Result<Answer> {
        let end = loop {
            if let Some(end) = self.arrived.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            self.more()?;
        };
        let head = String::from_utf8_lossy(&self.arrived[..end]).into_owned();
        let odd = || io::Error::new(io::ErrorKind::InvalidData, format!("no answer: {head}"));
        let code =
            head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).ok_or_else(odd)?;
        let value = |line: &str| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        };
        let length = head.lines().find_map(value).unwrap_or(0);
        let whole = if has_body { end + length } else { end };
        while self.arrived.len() < whole {
            self.more()?;
        }
        let body = String::from_utf8_lossy(&self.arrived[end..whole]).into_owned();
        self.arrived.drain(..whole);
        Ok(Answer { code, head, body })
    }

    /// Waits until the other end closes; gives what came before.
    ///
    /// # Errors
    /// What reading reports.
    pub fn rest(&mut self) -> io::Result<String> {
        while self.more().is_ok() {}
        Ok(String::from_utf8_lossy(&self.arrived).into_owned())
    }

    /// For how long a read waits.
    ///
    /// # Errors
    /// What setsockopt reports.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(patience))
    }

    fn more(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.arrived.extend_from_slice(&chunk[..count]);
                Ok(())
            }
        }
    }
}

/// Gets one path over a connection of its own.
///
/// # Errors
/// As [`Caller`].
pub fn try_get(address: &str, path: &str) -> io::Result<Answer> {
    let mut caller = Caller::to(address)?;
    caller.send(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"))?;
    caller.answer(true)
}

/// The same, and it must be answered well.
///
/// # Panics
/// Where it is not.
#[track_caller]
pub fn get(address: &str, path: &str) -> String {
    let answer = try_get(address, path).unwrap_or_else(|error| panic!("GET {path}: {error}"));
    assert_eq!(answer.code, 200, "{path}: {}{}", answer.head, answer.body);
    answer.body
}
