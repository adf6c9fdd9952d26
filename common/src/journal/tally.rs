//! How many records stand in a file, whoever wrote it, in memory that does not depend on its length.

use std::fs::File;
use std::io::{self, Read};

use memchr::{memchr, memchr_iter, memrchr};

/// What the writers' own records begin with, and how the end of one looks.
const HEAD: &[u8] = br#"{"id":""#;
const CHECK: &[u8] = br#","crc":""#;
const TAIL: usize = CHECK.len() + 8 + br#""}"#.len();

/// Bytes read at a time.
const CHUNK: usize = 256 * 1024;

/// Records in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Lines that look like records of the journal's own writers.
    pub own: u64,
    /// Other lines that are not blank.
    pub foreign: u64,
}

impl Tally {
    /// All of them.
    pub fn all(self) -> u64 {
        self.own + self.foreign
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { own: self.own + other.own, foreign: self.foreign + other.foreign }
    }
}

/// Counts the records of a file from its beginning, showing each chunk to `see` besides.
///
/// # Errors
/// What reading reports.
pub fn count(mut file: &File, mut see: impl FnMut(&[u8])) -> io::Result<Tally> {
    let mut counter = Counter::default();
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(counter.finish()),
            Ok(count) => {
                see(&chunk[..count]);
                counter.feed(&chunk[..count]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Counts what it is fed.
#[derive(Debug, Default)]
pub struct Counter {
    tally: Tally,
    /// The first and the last bytes of the line that has begun, without blanks before it.
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Counter {
    /// The next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        if !self.head.is_empty() {
            let Some(end) = memchr(b'\n', rest) else { return self.extend(rest) };
            self.extend(&rest[..end]);
            self.end_line();
            rest = &rest[end + 1..];
        }
        // Lines that lie here whole, as nearly all do, are looked at where they lie.
        let has_holes = memchr(0, rest).is_some();
        let mut begin = 0;
        for end in memchr_iter(b'\n', rest) {
            let line = &rest[begin..end];
            self.count_line(if has_holes { behind_holes(line) } else { line });
            begin = end + 1;
        }
        self.extend(&rest[begin..]);
    }

    fn count_line(&mut self, line: &[u8]) {
        let line = line.trim_ascii_start();
        if line.is_empty() {
            return;
        }
        let is_own = line.starts_with(HEAD)
            && line.len().checked_sub(TAIL).is_some_and(|tail| line[tail..].starts_with(CHECK));
        self.count(is_own);
    }

    /// There are no more: a last line without its end is nobody's record of ours.
    pub fn finish(mut self) -> Tally {
        self.tail.clear();
        self.end_line();
        self.tally
    }

    fn extend(&mut self, mut bytes: &[u8]) {
        let whole = bytes.len();
        bytes = behind_holes(bytes);
        if bytes.len() < whole {
            self.head.clear();
            self.tail.clear();
        }
        if self.head.is_empty() {
            bytes = bytes.trim_ascii_start();
        }
        let missing = HEAD.len() - self.head.len();
        self.head.extend_from_slice(&bytes[..bytes.len().min(missing)]);
        if bytes.len() >= TAIL {
            self.tail.clear();
            self.tail.extend_from_slice(&bytes[bytes.len() - TAIL..]);
        } else {
            self.tail.extend_from_slice(bytes);
            let excess = self.tail.len().saturating_sub(TAIL);
            self.tail.drain(..excess);
        }
    }

    fn end_line(&mut self) {
        if !self.head.is_empty() {
            let own = self.head == HEAD && self.tail.len() == TAIL && self.tail.starts_with(CHECK);
            self.count(own);
        }
        self.head.clear();
        self.tail.clear();
    }

    fn count(&mut self, is_own: bool) {
        if is_own { self.tally.own += 1 } else { self.tally.foreign += 1 }
    }
}

/// A NUL stands in no record: what comes before the last one is a hole, or was torn.
fn behind_holes(bytes: &[u8]) -> &[u8] {
    memrchr(0, bytes).map_or(bytes, |hole| &bytes[hole + 1..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{Generation, Owner, Pid, SlotIndex};
    use crate::journal::record::{Record, RecordId};

    fn record(message: &str) -> Vec<u8> {
        let owner = Owner { slot: SlotIndex(1), generation: Generation(1) };
        let mut line = Vec::new();
        let id = RecordId { epoch: 7, owner, seq: 1 };
        Record { id, time_ns: 1, pid: Pid(1), user: "u", message }.encode(&mut line);
        line
    }

    fn counted(bytes: &[u8], cut: usize) -> Tally {
        let mut counter = Counter::default();
        bytes.chunks(cut.max(1)).for_each(|part| counter.feed(part));
        counter.finish()
    }

    #[test]
    fn lines_are_counted_by_whose_they_are() {
        let own = record("m");
        let table: [(Vec<u8>, u64, u64); 9] = [
            (Vec::new(), 0, 0),
            (own.clone(), 1, 0),
            ([b"   ".to_vec(), own.clone(), b"\n \n".to_vec()].concat(), 1, 0),
            (b"a\nb".to_vec(), 0, 2),
            (b"\r\n\t\n".to_vec(), 0, 0),
            ([b"{\"id\":\"to\0\0".to_vec(), own.clone()].concat(), 1, 0),
            ([own.clone(), own[..own.len() / 2].to_vec()].concat(), 1, 1),
            ([own.clone(), vec![0; 100]].concat(), 1, 0),
            ([b"{\"id\":\"1\"}\n".to_vec(), own.clone(), own].concat(), 2, 1),
        ];
        for (content, own, foreign) in table {
            for cut in 1..content.len() + 2 {
                let text = String::from_utf8_lossy(&content).into_owned();
                assert_eq!(counted(&content, cut), Tally { own, foreign }, "{cut} {text:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_record_is_own(messages in proptest::collection::vec(".{0,60}", 0..20), cut in 1_usize..300) {
            let content: Vec<u8> = messages.iter().flat_map(|message| record(message)).collect();
            prop_assert_eq!(counted(&content, cut), Tally { own: messages.len() as u64, foreign: 0 });
        }
    }
}
