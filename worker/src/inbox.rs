//! What has been received and not yet answered.

use std::ops::Range;

use common::wire::line::{Frame, MAX_FRAMED, next_frame};

/// Bytes at first; most requests are short, and most workers idle.
const SMALL: usize = 4 * 1024;

/// A buffer of received bytes that gives out requests.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// So many bytes from `start` on hold no terminator.
    searched: usize,
    taken: u64,
    /// The request taken out last.
    request: Range<usize>,
}

/// What [`Inbox::next`] finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A request, which is taken out: [`Inbox::request`].
    Request,
    Incomplete,
    TooLong,
}

impl Inbox {
    /// Where to receive to: at least one byte, unless the longest request is there and has no end.
    pub fn room(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.bytes.len() {
            let larger = (2 * self.bytes.len()).clamp(SMALL, MAX_FRAMED);
            self.bytes.resize(larger, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// So many bytes of the room have been filled.
    pub fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }

    /// Looks for the next request.
    pub fn next(&mut self) -> Next {
        loop {
            match next_frame(&self.bytes[self.start..self.end], self.searched) {
                Frame::TooLong => return Next::TooLong,
                Frame::Incomplete => {
                    self.searched = self.end - self.start;
                    return Next::Incomplete;
                }
                Frame::Nothing { consumed } => self.take(consumed),
                Frame::Request { line, consumed } => {
                    self.request = self.start..self.start + line.len();
                    self.take(consumed);
                    return Next::Request;
                }
            }
        }
    }

    /// The request taken out last, until the next [`Inbox::room`].
    pub fn request(&self) -> &[u8] {
        &self.bytes[self.request.clone()]
    }

    fn take(&mut self, consumed: usize) {
        self.start += consumed;
        self.searched = 0;
        self.taken += 1;
    }

    /// Whether every byte received has been taken out.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// How many requests have been taken out, empty ones too: while the number stays, so does an incomplete line.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Forgets what is there, and the memory that a long request needed.
    pub fn reset(&mut self) {
        (self.start, self.end, self.searched, self.taken) = (0, 0, 0, 0);
        self.request = 0..0;
        self.bytes.truncate(SMALL);
        self.bytes.shrink_to(SMALL);
    }
}

#[cfg(test)]
mod tests {
    use common::limits::MAX_REQUEST;

    use super::*;

    fn receive(inbox: &mut Inbox, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = inbox.room();
            let part = room.len().min(bytes.len());
            room[..part].copy_from_slice(&bytes[..part]);
            inbox.filled(part);
            bytes = &bytes[part..];
        }
    }

    #[test]
    fn requests_come_out_in_order() {
        let mut inbox = Inbox::default();
        receive(&mut inbox, b"one\ntwo\r\n\0three\0fo");
        for expected in [&b"one"[..], b"two", b"three"] {
            assert_eq!(inbox.next(), Next::Request);
            assert_eq!(inbox.request(), expected);
        }
        assert_eq!(inbox.next(), Next::Incomplete);
        receive(&mut inbox, b"ur\n");
        assert_eq!(inbox.next(), Next::Request);
        assert_eq!(inbox.request(), b"four");
        assert!(inbox.is_empty());
        assert_eq!(inbox.taken(), 5);
    }

    #[test]
    fn it_grows_for_the_longest_request_and_no_further() {
        let mut inbox = Inbox::default();
        let longest = vec![b'x'; MAX_REQUEST];
        receive(&mut inbox, &longest);
        assert_eq!(inbox.next(), Next::Incomplete);
        receive(&mut inbox, b"\r\n");
        assert_eq!(inbox.next(), Next::Request);
        assert_eq!(inbox.request(), longest);
        assert_eq!(inbox.bytes.len(), MAX_FRAMED);
        receive(&mut inbox, &longest);
        receive(&mut inbox, b"x");
        assert_eq!(inbox.next(), Next::TooLong);
        inbox.reset();
        assert!(inbox.is_empty() && inbox.bytes.capacity() == SMALL);
    }

    #[test]
    fn nothing_is_allocated_before_something_is_received() {
        assert_eq!(Inbox::default().bytes.capacity(), 0);
    }
}
