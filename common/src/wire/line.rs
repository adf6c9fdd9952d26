//! The line protocol: requests ended by a newline or a NUL, one reply line each.

use std::fmt::Write as _;

use crate::ids::Pid;
use crate::limits::MAX_REQUEST;

/// How the bytes received so far begin.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A whole request, and how many bytes it takes with its terminator.
    Request {
        /// The request without its terminator, and without the `\r` before a newline.
        line: &'a [u8],
        /// Bytes to drop from the front of the buffer.
        consumed: usize,
    },
    /// An empty request ended by NUL, to be ignored.
    Nothing {
        /// Bytes to drop from the front of the buffer.
        consumed: usize,
    },
    /// No terminator yet.
    Incomplete,
    /// Longer than [`MAX_REQUEST`].
    TooLong,
}

/// Finds the first request in `received`, whose first `searched` bytes are known to hold no terminator.
pub fn next_frame(received: &[u8], searched: usize) -> Frame<'_> {
    let ended = received[searched..].iter().position(|&byte| byte == b'\n' || byte == 0);
    let Some(end) = ended.map(|position| searched + position) else {
        return if unterminated_is_too_long(received) { Frame::TooLong } else { Frame::Incomplete };
    };
    let (line, consumed) = (&received[..end], end + 1);
    let line = match received[end] {
        b'\n' => line.strip_suffix(b"\r").unwrap_or(line),
        _ if line.is_empty() => return Frame::Nothing { consumed },
        _ => line,
    };
    if line.len() > MAX_REQUEST { Frame::TooLong } else { Frame::Request { line, consumed } }
}

/// One byte beyond the limit may still be the `\r` of a newline on its way.
fn unterminated_is_too_long(received: &[u8]) -> bool {
    received.len() > MAX_REQUEST + 1 || (received.len() == MAX_REQUEST + 1 && received[MAX_REQUEST] != b'\r')
}

/// Bytes that a buffer must hold for the longest request and its terminator.
pub const MAX_FRAMED: usize = MAX_REQUEST + 2;

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// The line `print`: a greeting, nothing recorded.
    Print,
    /// A message of a user.
    Message {
        /// Who sends it.
        user: &'a str,
        /// What is to be recorded; may be empty.
        message: &'a str,
    },
    /// Neither; why.
    Malformed(&'static str),
}

/// Reads a request.
pub fn parse(line: &[u8]) -> Request<'_> {
    let Ok(text) = std::str::from_utf8(line) else {
        return Request::Malformed("the request is not UTF-8");
    };
    match text.split_once(':') {
        Some((user, message)) => Request::Message { user, message },
        None if text == "print" => Request::Print,
        None if text.is_empty() => Request::Malformed("the request is empty; send USER:MESSAGE"),
        None => Request::Malformed("the request has no colon; send USER:MESSAGE"),
    }
}

/// The kinds of refusal, as the first word after `error` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The user may not.
    Unauthorized,
    /// The request cannot be read.
    Malformed,
    /// The request is longer than the limit.
    TooLong,
    /// No space for the record.
    Full,
    /// A deadline passed.
    Timeout,
    /// A bounded wait ran out; nothing was recorded.
    Busy,
}

impl Refusal {
    /// The word in the reply.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::Malformed => "malformed",
            Self::TooLong => "too-long",
            Self::Full => "full",
            Self::Timeout => "timeout",
            Self::Busy => "busy",
        }
    }

    /// Whether the connection closes after it.
    pub fn closes(self) -> bool {
        matches!(self, Self::TooLong | Self::Timeout)
    }
}

/// Appends the reply to a recorded message.
pub fn write_receipt(reply: &mut Vec<u8>, pid: Pid, user: &str, message: &str) {
    reply.extend_from_slice(b"server ");
    write_number(reply, pid.0.unsigned_abs());
    reply.extend_from_slice(b" recvd message \"");
    reply.extend_from_slice(message.as_bytes());
    reply.extend_from_slice(b"\" from user ");
    reply.extend_from_slice(user.as_bytes());
    reply.push(b'\n');
}

fn write_number(reply: &mut Vec<u8>, number: u32) {
    let mut digits = [0; 10];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    reply.extend_from_slice(&digits[at..]);
}

/// Appends a refusal: one line, whatever `reason` holds.
pub fn write_refusal(reply: &mut Vec<u8>, refusal: Refusal, reason: &str) {
    let mut line = String::with_capacity(reason.len() + 32);
    let _ = write!(line, "error {}: ", refusal.word());
    line.extend(reason.chars().map(|c| if c.is_control() { ' ' } else { c }));
    line.push('\n');
    reply.extend_from_slice(line.as_bytes());
}

/// The reply to `print`.
pub const GREETING: &[u8] = b"hello world\n";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(bytes: &[u8]) -> (&[u8], usize) {
        match next_frame(bytes, 0) {
            Frame::Request { line, consumed } => (line, consumed),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn terminators() {
        assert_eq!(request(b"a:b\nrest"), (&b"a:b"[..], 4));
        assert_eq!(request(b"a:b\0rest"), (&b"a:b"[..], 4));
        assert_eq!(request(b"a:b\r\n"), (&b"a:b"[..], 5));
        assert_eq!(request(b"a:b\r\r\n"), (&b"a:b\r"[..], 6));
        assert_eq!(request(b"a:b\r\0"), (&b"a:b\r"[..], 5));
        assert_eq!(request(b"\n"), (&b""[..], 1));
        assert_eq!(next_frame(b"\0", 0), Frame::Nothing { consumed: 1 });
        assert_eq!(next_frame(b"a:b", 0), Frame::Incomplete);
        assert_eq!(next_frame(b"", 0), Frame::Incomplete);
    }

    #[test]
    fn the_longest_request_and_one_byte_more() {
        let longest = vec![b'x'; MAX_REQUEST];
        let with = |tail: &[u8]| [&longest[..], tail].concat();
        assert_eq!(next_frame(&longest, 0), Frame::Incomplete);
        assert_eq!(request(&with(b"\n")).0.len(), MAX_REQUEST);
        assert_eq!(request(&with(b"\r\n")).0.len(), MAX_REQUEST);
        assert_eq!(request(&with(b"\0")).0.len(), MAX_REQUEST);
        assert_eq!(next_frame(&with(b"\r"), 0), Frame::Incomplete);
        for tail in [&b"x"[..], b"x\n", b"\r\0", b"\rx", b"xx"] {
            assert_eq!(next_frame(&with(tail), 0), Frame::TooLong, "{tail:?}");
        }
    }

    #[test]
    fn requests() {
        assert_eq!(parse(b"print"), Request::Print);
        assert_eq!(parse(b"u:m:n"), Request::Message { user: "u", message: "m:n" });
        assert_eq!(parse(b"u:"), Request::Message { user: "u", message: "" });
        for malformed in [&b""[..], b"no colon", b"\xff:x", b"printx"] {
            assert!(matches!(parse(malformed), Request::Malformed(_)), "{malformed:?}");
        }
    }

    #[test]
    fn replies() {
        let mut reply = Vec::new();
        write_receipt(&mut reply, Pid(40_213), "arijort", "hi");
        write_refusal(&mut reply, Refusal::Full, "two\nlines");
        assert_eq!(reply, b"server 40213 recvd message \"hi\" from user arijort\nerror full: two lines\n");
    }

    proptest! {
        #[test]
        fn never_reads_beyond_what_came(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            match next_frame(&bytes, 0) {
                Frame::Request { line, consumed } => {
                    prop_assert!(consumed <= bytes.len() && line.len() < consumed);
                    parse(line);
                }
                Frame::Nothing { consumed } => prop_assert_eq!(consumed, 1),
                Frame::Incomplete => prop_assert!(!bytes.contains(&b'\n') && !bytes.contains(&0)),
                Frame::TooLong => prop_assert!(false),
            }
        }

        #[test]
        fn where_the_search_begins_makes_no_difference(bytes in "[a:\r\n\0]{0,40}") {
            let bytes = bytes.as_bytes();
            for searched in 0..=bytes.iter().position(|&b| b == b'\n' || b == 0).unwrap_or(bytes.len()) {
                prop_assert_eq!(next_frame(bytes, searched), next_frame(bytes, 0));
            }
        }

        #[test]
        fn numbers_are_decimal(number in any::<u32>()) {
            let mut reply = Vec::new();
            write_number(&mut reply, number);
            prop_assert_eq!(reply, number.to_string().into_bytes());
        }
    }
}
