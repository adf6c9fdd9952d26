//! One record: a line of JSON that carries its own check.

use std::io::Write as _;

use serde::Serialize;

use crate::ids::{Generation, Owner, Pid, SlotIndex};

/// What a record says.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Which record of all there ever are.
    pub id: RecordId,
    /// When it was made, in nanoseconds since the epoch.
    pub time_ns: u64,
    /// The process that made it.
    pub pid: Pid,
    /// The user.
    pub user: &'a str,
    /// The message.
    pub message: &'a str,
}

/// A record's id, which never repeats: the epoch is random for every region file, the sequence number only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordId {
    /// The region's epoch.
    pub epoch: u64,
    /// Slot and generation.
    pub owner: Owner,
    /// The slot's sequence number.
    pub seq: u64,
}

impl RecordId {
    /// Reads an id as a record has it.
    pub fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let epoch = u64::from_str_radix(parts.next()?, 16).ok()?;
        let (slot, generation) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let owner = Owner { slot: SlotIndex(slot), generation: Generation(generation) };
        let id = Self { epoch, owner, seq: parts.next()?.parse().ok()? };
        (id.to_string() == text).then_some(id)
    }
}

impl std::fmt::Display for RecordId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Owner { slot, generation } = self.owner;
        write!(f, "{:016x}.{slot}.{generation}.{}", self.epoch, self.seq)
    }
}

/// The record's fields as they are written; `crc` follows as the last one.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(serialize_with = "as_text")]
    id: RecordId,
    #[serde(serialize_with = "as_time")]
    time: u64,
    pid: i32,
    user: &'a str,
    message: &'a str,
}

fn as_text<S: serde::Serializer>(id: &RecordId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

fn as_time<S: serde::Serializer>(time_ns: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    let time = i128::from(*time_ns);
    // u64 nanoseconds end in the year 2554, which is in range.
    let time = jiff::Timestamp::from_nanosecond(time).unwrap_or_default();
    serializer.collect_str(&format_args!("{time:.9}"))
}

/// What follows the checked bytes: `,"crc":"01234567"}` and the newline.
const TRAILER: usize = br#","crc":"01234567"}"#.len() + 1;

impl Record<'_> {
    /// Writes the record into `line`, replacing what was there.
    pub fn encode(&self, line: &mut Vec<u8>) {
        line.clear();
        let fields =
            Line { id: self.id, time: self.time_ns, pid: self.pid.0, user: self.user, message: self.message };
        // Strings and numbers into memory: there is nothing that could fail.
        let _ = serde_json::to_writer(&mut *line, &fields);
        line.pop();
        let check = crc32c::crc32c(line);
        let _ = writeln!(line, r#","crc":"{check:08x}"}}"#);
    }
}

/// Whether `line` is the whole record of this id, checked.
pub fn is_whole(line: &[u8], id: RecordId) -> bool {
    let Some((checked, trailer)) = line.split_last_chunk::<TRAILER>() else {
        return false;
    };
    let begins = format!(r#"{{"id":"{id}","#);
    let ends = format!(",\"crc\":\"{:08x}\"}}\n", crc32c::crc32c(checked));
    checked.starts_with(begins.as_bytes()) && trailer[..] == *ends.as_bytes()
}

/// Whether the check that a line carries is right, whosever record it is; `None` where it carries none. The line ends
/// with its newline.
pub fn is_sound(line: &[u8]) -> Option<bool> {
    let (checked, trailer) = line.split_last_chunk::<TRAILER>()?;
    let carries_one = trailer.starts_with(br#","crc":""#) && trailer.ends_with(b"\"}\n");
    let right = format!(",\"crc\":\"{:08x}\"}}\n", crc32c::crc32c(checked));
    carries_one.then(|| trailer[..] == *right.as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::{MAX_RECORD, MAX_REQUEST};

    fn id(seq: u64) -> RecordId {
        RecordId { epoch: 0xfeed, owner: Owner { slot: SlotIndex(3), generation: Generation(8) }, seq }
    }

    fn encoded(user: &str, message: &str) -> Vec<u8> {
        let mut line = Vec::new();
        let time_ns = 1_594_054_584_270_823_600;
        Record { id: id(5), time_ns, pid: Pid(77), user, message }.encode(&mut line);
        line
    }

    #[test]
    fn the_fields_are_those_that_readers_expect() {
        let line = encoded("arijort", "a \"quoted\"\tmessage");
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["id"], "000000000000feed.3.8.5");
        assert_eq!(RecordId::read("000000000000feed.3.8.5"), Some(id(5)));
        assert_eq!(RecordId::read("feed.3.8.5"), None);
        assert_eq!(value["time"], "2020-07-06T16:56:24.270823600Z");
        assert_eq!(value["pid"], 77);
        assert_eq!(value["user"], "arijort");
        assert_eq!(value["message"], "a \"quoted\"\tmessage");
        assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
    }

    #[test]
    fn the_longest_record_is_within_its_limit() {
        let message = "\u{1}".repeat(MAX_REQUEST);
        assert!(encoded("", &message).len() <= MAX_RECORD);
    }

    #[test]
    fn only_the_whole_record_of_the_id_is_whole() {
        let line = encoded("u", "message");
        assert!(is_whole(&line, id(5)) && is_sound(&line) == Some(true));
        assert!(!is_whole(&line, id(6)));
        assert!(!is_whole(&[], id(5)));
        for cut in 0..line.len() {
            let mut torn = line.clone();
            torn[cut..].fill(0);
            assert!(!is_whole(&torn, id(5)) && !is_whole(&line[..cut], id(5)), "{cut}");
        }
        for place in 0..line.len() {
            let mut altered = line.clone();
            altered[place] ^= 1;
            assert!(!is_whole(&altered, id(5)) && is_sound(&altered) != Some(true), "{place}");
        }
    }

    proptest! {
        #[test]
        fn what_was_said_is_read_back(user in ".{0,20}", message in ".*") {
            let line = encoded(&user, &message);
            let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
            prop_assert_eq!(&value["user"], &user);
            prop_assert_eq!(&value["message"], &message);
            prop_assert!(is_whole(&line, id(5)));
        }
    }
}
