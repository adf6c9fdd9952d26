//! What comes back: lines, of which one is the reply to the one request that is outstanding on a connection.

use crate::failure::Failure;

/// No reply is longer: a message of 64 KiB and what stands around it. What a hostile server sends is bounded by this.
const MAX_LINE: usize = 128 * 1024;

/// What the bytes so far amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No reply yet.
    Pending,
    /// The request's own reply.
    Handled,
    /// An error, or too much of something else.
    Failed(Failure),
}

/// Finds the reply in what a connection receives, however it is cut into pieces.
#[derive(Debug, Default)]
pub struct Scanner {
    /// The beginning of a line whose end has not come. Without capacity for most connections most of the time: a
    /// reply normally comes in one piece and is judged where it was received.
    partial: Vec<u8>,
}

impl Scanner {
    /// Takes in what was received; `expected` is [`Requests::write_expected`](crate::request::Requests::write_expected).
    pub fn feed(&mut self, mut received: &[u8], expected: &[u8]) -> Verdict {
        while let Some(end) = received.iter().position(|&byte| byte == b'\n') {
            let (line, rest) = (&received[..end], &received[end + 1..]);
            let verdict = self.take_line(line, expected);
            if verdict != Verdict::Pending {
                self.keep_tail(rest);
                return verdict;
            }
            received = rest;
        }
        self.extend(received)
    }

    /// The connection ended: what there is of a line is the whole line.
    pub fn finish(&mut self, expected: &[u8]) -> Verdict {
        match self.take_line(b"", expected) {
            Verdict::Pending => Verdict::Failed(Failure::Closed),
            verdict => verdict,
        }
    }

    /// Forgets what belonged to a connection that is no more.
    pub fn clear(&mut self) {
        self.partial = Vec::new();
    }

    fn take_line(&mut self, end: &[u8], expected: &[u8]) -> Verdict {
        if self.partial.is_empty() {
            return judge(end, expected);
        }
        if self.extend(end) != Verdict::Pending {
            return Verdict::Failed(Failure::ReplyTooLong);
        }
        let verdict = judge(&self.partial, expected);
        self.clear();
        verdict
    }

    fn extend(&mut self, bytes: &[u8]) -> Verdict {
        if self.partial.len() + bytes.len() > MAX_LINE {
            return Verdict::Failed(Failure::ReplyTooLong);
        }
        self.partial.extend_from_slice(bytes);
        Verdict::Pending
    }

    /// Whole lines after the reply came before the next request was sent, so they are no reply to it.
    fn keep_tail(&mut self, rest: &[u8]) {
        let start = rest.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        self.partial = rest[start..].to_vec();
    }
}

/// What a whole line means for the outstanding request.
fn judge(line: &[u8], expected: &[u8]) -> Verdict {
    // A C program sends the NUL behind its string now and then.
    let start = line.iter().position(|byte| !matches!(byte, b'\0' | b' ' | b'\r')).unwrap_or(line.len());
    let line = &line[start..];
    if let Some(kind) = error_kind(line) {
        return Verdict::Failed(Failure::of_line(kind));
    }
    if let [whole @ .., b'\n'] = expected {
        return if line.strip_suffix(b"\r").unwrap_or(line) == whole {
            Verdict::Handled
        } else {
            Verdict::Pending
        };
    }
    match find(line, expected) {
        Some(token) if is_reply_up_to_token(&line[..token]) => Verdict::Handled,
        _ => Verdict::Pending,
    }
}

/// `busy` of `error busy: a bounded wait ran out`.
fn error_kind(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(b"error")?;
    let rest = match rest {
        [] | [b':', ..] => return Some(b""),
        [b' ', rest @ ..] => rest,
        _ => return None,
    };
    let end = rest.iter().position(|byte| matches!(byte, b':' | b' ' | b'\r')).unwrap_or(rest.len());
    Some(&rest[..end])
}

/// Whether `server PID recvd message "` stands somewhere in `head`: at its start, or after a greeting that was sent
/// without a newline. What stands between it and the token is the message, and is not compared.
fn is_reply_up_to_token(head: &[u8]) -> bool {
    const START: &[u8] = b"server ";
    let mut rest = head;
    while let Some(start) = find(rest, START) {
        rest = &rest[start + START.len()..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits > 0 && rest[digits..].starts_with(b" recvd message \"") {
            return true;
        }
    }
    false
}

fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(offset) = text[from..].iter().position(|&byte| byte == first) {
        let start = from + offset;
        if text[start..].starts_with(needle) {
            return Some(start);
        }
        from = start + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXPECTED: &[u8] = b"00ab-7\" from user arijort";
    const REPLY: &str = "server 29756 recvd message \"lalala 00ab-7\" from user arijort";

    fn all_at_once(text: impl AsRef<[u8]>) -> Verdict {
        let mut scanner = Scanner::default();
        match scanner.feed(text.as_ref(), EXPECTED) {
            Verdict::Pending => scanner.finish(EXPECTED),
            verdict => verdict,
        }
    }

    #[test]
    fn replies() {
        for text in [
            format!("{REPLY}\n"),
            REPLY.to_owned(),
            format!("{REPLY}\0\0garbage \u{fffd}"),
            format!("{REPLY}\r\nmore"),
            format!("hello world\n{REPLY}"),
            format!("hello world{REPLY}"),
            format!("hello world\0\n\0\0{REPLY}\n"),
            format!("\n\n{REPLY}\n"),
            "server 1 recvd message \"00ab-7\" from user arijort\n".to_owned(),
            "server 1 recvd message \"a \"quoted\" 00ab-7\" from user x 00ab-7\" from user arijort\n"
                .to_owned(),
        ] {
            assert_eq!(all_at_once(&text), Verdict::Handled, "{text:?}");
        }
    }

    #[test]
    fn echoes() {
        let judged = |line: &[u8]| judge(line, b"arijort:lalala 00ab-7\n");
        assert_eq!(judged(b"arijort:lalala 00ab-7"), Verdict::Handled);
        assert_eq!(judged(b"arijort:lalala 00ab-7\r"), Verdict::Handled);
        assert_eq!(judged(b"error: no"), Verdict::Failed(Failure::ServerOther));
        for other in [&b""[..], b"arijort:lalala 00ab-71", b"00ab-7", REPLY.as_bytes()] {
            assert_eq!(judged(other), Verdict::Pending);
        }
    }

    #[test]
    fn no_replies() {
        for text in [
            "",
            "hello world\n",
            "server 29756 recvd message \"lalala 00ab-17\" from user arijort\n",
            "server 29756 recvd message \"lalala 00ab-7\" from user foobar\n",
            "server 29756 recvd message \"lalala 00ab-7\"\n",
            "server 29756 recvd message \"lalala 00ab-7\" from user arijor",
            "server recvd message \"lalala 00ab-7\" from user arijort\n",
            "server x1 recvd message \"lalala 00ab-7\" from user arijort\n",
            "arijort:lalala 00ab-7\n",
            "server 1 recvd mess\nage \"lalala 00ab-7\" from user arijort\n",
            "erroneous\n",
        ] {
            assert_eq!(all_at_once(text), Verdict::Failed(Failure::Closed), "{text:?}");
        }
    }

    #[test]
    fn errors_by_kind() {
        for (text, failure) in [
            ("error unauthorized: no such user\n", Failure::ServerUnauthorized),
            ("error malformed", Failure::ServerMalformed),
            ("error too-long: at most 64 KiB\n", Failure::ServerTooLong),
            ("error full: no space\n", Failure::ServerFull),
            ("error timeout: idle\r\n", Failure::ServerTimeout),
            ("hello world\nerror busy: later\n", Failure::ServerBusy),
            ("error\n", Failure::ServerOther),
            ("error: seven\n", Failure::ServerOther),
            ("error seven: eight\n", Failure::ServerOther),
        ] {
            assert_eq!(all_at_once(text), Verdict::Failed(failure), "{text:?}");
        }
        // An error that quotes the reply is an error.
        assert_eq!(all_at_once(format!("error full: {REPLY}\n")), Verdict::Failed(Failure::ServerFull));
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut scanner = Scanner::default();
        let verdicts: Vec<_> = (0..200).map(|_| scanner.feed(&[b'x'; 1024], EXPECTED)).collect();
        assert_eq!(verdicts[0], Verdict::Pending);
        assert!(verdicts.contains(&Verdict::Failed(Failure::ReplyTooLong)));
        assert!(scanner.partial.len() <= MAX_LINE);
    }

    #[test]
    fn what_follows_a_reply_does_not_answer_the_next_request() {
        let mut scanner = Scanner::default();
        assert_eq!(scanner.feed(format!("{REPLY}\n{REPLY}\nhel").as_bytes(), EXPECTED), Verdict::Handled);
        assert_eq!(scanner.feed(b"lo\n", EXPECTED), Verdict::Pending);
        assert_eq!(scanner.finish(EXPECTED), Verdict::Failed(Failure::Closed));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8), greeting in "[ -~]{0,20}\n?") {
            let text = format!("{greeting}{REPLY}\n");
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut scanner = Scanner::default();
            let verdicts: Vec<_> =
                cuts.windows(2).map(|cut| scanner.feed(&text.as_bytes()[cut[0]..cut[1]], EXPECTED)).collect();
            let (last, before) = verdicts.split_last().unwrap();
            prop_assert!(before.iter().all(|verdict| *verdict == Verdict::Pending));
            prop_assert_eq!(*last, all_at_once(&text));
        }

        #[test]
        fn nothing_panics_and_nothing_else_is_a_reply(bytes: Vec<u8>) {
            prop_assert!(!matches!(all_at_once(&bytes), Verdict::Handled));
        }
    }
}
