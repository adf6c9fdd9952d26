//! What is sent: the user's message and a token that names the run and the request within it.

use std::fs::File;
use std::io::{Read, Write as _};
use std::str::FromStr;

use common::error::{Context, Error, Result};

/// `USER:MESSAGE` as given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The name before the first colon.
    pub user: String,
    /// Everything after it; may be empty.
    pub text: String,
}

impl FromStr for Message {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why| Error::usage(format!("MESSAGE {why}: write it as USER:MESSAGE"));
        let (user, message) = text.split_once(':').ok_or_else(|| wrong("has no colon"))?;
        if user.is_empty() {
            return Err(wrong("names no user"));
        }
        // Either would end the request on the wire, and the rest would be taken for another.
        if text.contains(['\n', '\0']) {
            return Err(wrong("contains a line break or a NUL"));
        }
        Ok(Self { user: user.to_owned(), text: message.to_owned() })
    }
}

/// The requests of one run. The token of request 17 is `RUN-17`, RUN being 16 random hexadecimal digits, so no token
/// is the end of another and none comes twice, whoever else sends to the same server.
#[derive(Clone, Debug)]
pub struct Requests {
    message: Message,
    run: String,
    echoed: bool,
}

impl Requests {
    /// The requests of a new run.
    pub fn new(message: Message) -> Result<Self> {
        let mut random = [0; 8];
        File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut random))
            .context(|| "cannot read /dev/urandom for the token of this run".to_owned())?;
        Ok(Self::with_run(message, u64::from_ne_bytes(random)))
    }

    fn with_run(message: Message, run: u64) -> Self {
        Self { message, run: format!("{run:016x}"), echoed: false }
    }

    /// The same, and whether the reply to each is the request itself.
    pub fn echoed(self, echoed: bool) -> Self {
        Self { echoed, ..self }
    }

    /// Bytes of the longest request.
    pub fn longest(&self) -> usize {
        self.message.user.len()
            + self.message.text.len()
            + self.run.len()
            + ": -\n".len()
            + u64::MAX.ilog10() as usize
            + 1
    }

    /// Writes request `sequence` as it goes over the wire into `buffer`, in place of what was there.
    pub fn write(&self, sequence: u64, buffer: &mut Vec<u8>) {
        buffer.clear();
        for part in [&self.message.user, ":", &self.message.text, " ", &self.run] {
            buffer.extend_from_slice(part.as_bytes());
        }
        writeln!(buffer, "-{sequence}").unwrap_or_else(|_| unreachable!("writing to memory"));
    }

    /// Writes what the reply to request `sequence` must contain after the start of the message: `TOKEN" from user USER`.
    /// Of a server that echoes it is the request itself, which ends with its newline and is the whole line.
    pub fn write_expected(&self, sequence: u64, buffer: &mut Vec<u8>) {
        if self.echoed {
            return self.write(sequence, buffer);
        }
        buffer.clear();
        buffer.extend_from_slice(self.run.as_bytes());
        write!(buffer, "-{sequence}\" from user ").unwrap_or_else(|_| unreachable!("writing to memory"));
        buffer.extend_from_slice(self.message.user.as_bytes());
    }

    /// The token of request `sequence`.
    pub fn token(&self, sequence: u64) -> String {
        format!("{}-{sequence}", self.run)
    }

    /// The request whose token a recorded message bears, whatever else the message says; none if it is of another run.
    pub fn sequence_in(&self, message: &str) -> Option<Sent> {
        let (_, rest) = message.split_once(&self.run)?;
        let digits = rest.strip_prefix('-').unwrap_or_default();
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        Some(digits[..end].parse().map_or(Sent::Unknown, Sent::Request))
    }

    /// Whether a record holds exactly what request `sequence` sent.
    pub fn is_as_sent(&self, sequence: u64, user: &str, message: &str) -> bool {
        let token = message.strip_prefix(self.message.text.as_str()).and_then(|rest| rest.strip_prefix(' '));
        user == self.message.user && token.is_some_and(|token| token == self.token(sequence))
    }
}

/// What a record with this run's name in it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The request with this number.
    Request(u64),
    /// None: the token itself is altered.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(message: &str) -> Requests {
        Requests::with_run(message.parse().unwrap(), 0xabc)
    }

    #[test]
    fn on_the_wire() {
        let mut buffer = b"left over".to_vec();
        requests("arijort:hi: there").write(17, &mut buffer);
        assert_eq!(buffer, b"arijort:hi: there 0000000000000abc-17\n");
        requests("arijort:").write(0, &mut buffer);
        assert_eq!(buffer, b"arijort: 0000000000000abc-0\n");
        requests("a:b").write(u64::MAX, &mut buffer);
        assert_eq!(buffer.len(), requests("a:b").longest());
        requests("a:b").write_expected(5, &mut buffer);
        assert_eq!(buffer, b"0000000000000abc-5\" from user a");
        requests("a:b").echoed(true).write_expected(5, &mut buffer);
        assert_eq!(buffer, b"a:b 0000000000000abc-5\n");
    }

    #[test]
    fn messages_that_do_not_conform() {
        for text in ["", "no colon", ":no user", "a:two\nlines", "a:nul\0"] {
            assert!(text.parse::<Message>().unwrap_err().to_string().contains("USER:MESSAGE"));
        }
    }

    #[test]
    fn tokens_are_recognised() {
        let requests = requests("arijort:hi");
        assert_eq!(requests.sequence_in("hi 0000000000000abc-17"), Some(Sent::Request(17)));
        assert_eq!(requests.sequence_in("ho 0000000000000abc-17!"), Some(Sent::Request(17)));
        assert_eq!(requests.sequence_in("hi 0000000000000abc-"), Some(Sent::Unknown));
        assert_eq!(requests.sequence_in("hi 0000000000000abc-99999999999999999999"), Some(Sent::Unknown));
        assert_eq!(requests.sequence_in("hi 0000000000000abd-17"), None);
        assert!(requests.is_as_sent(17, "arijort", "hi 0000000000000abc-17"));
        assert!(!requests.is_as_sent(1, "arijort", "hi 0000000000000abc-17"));
        assert!(!requests.is_as_sent(17, "foobar", "hi 0000000000000abc-17"));
        assert!(!requests.is_as_sent(17, "arijort", "hi  0000000000000abc-17"));
        assert!(!requests.is_as_sent(17, "arijort", "hi 0000000000000abc-17 "));
    }

    #[test]
    fn runs_differ() {
        let message: Message = "a:b".parse().unwrap();
        assert_ne!(Requests::new(message.clone()).unwrap().run, Requests::new(message).unwrap().run);
    }
}
