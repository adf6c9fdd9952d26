//! The messages that the journal has and a checkpoint has not: counted in the restored region, and for their users.
//!
//! A checkpoint has the record of a slot if the slot's sequence number at that moment was as high: the number only grows,
//! and no transaction was under way. Another region's records are of a life before the checkpoint, and counted there or
//! in no counters of ours; or of one after it, which had been restored from it. Minutes tell which: a region's records stand
//! in later minutes than every file that was there before it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};

use common::ids::{Minute, SlotIndex};
use common::journal::record::{self, RecordId};
use common::journal::spool::Spool;
use common::limits::{MAX_RECORD, MAX_USER};
use common::planted::{self, Bug};
use common::region::Region;
use common::tally::{self, Sent};
use common::txn::TxnError;
use serde::Deserialize;

use self::files::Files;
use super::{COUNTER, bad};
use crate::checkpoint::format::{Head, Moment, Unfit};
use crate::tidy::{tidy, with_seat};

mod files;

/// What a checkpoint has of the journal.
pub(super) struct Seen {
    epoch: u64,
    /// For each slot the sequence number of its last record.
    last: Vec<u64>,
    /// Every record in an earlier minute is counted.
    open: Minute,
}

impl Seen {
    /// Of the checkpoint that was just placed in this region.
    pub fn of(region: &Region, head: &Head, moment: &Moment) -> Self {
        let last = region.slots().map(|(_, slot)| slot.intent.seq.load(std::sync::atomic::Ordering::Relaxed));
        Self { epoch: head.epoch, last: last.collect(), open: moment.open.minute }
    }

    fn has(&self, id: RecordId, minute: Minute) -> bool {
        if planted::has(Bug::CountedTwice) {
            false
        } else if id.epoch == self.epoch {
            self.last.get(id.owner.slot.0 as usize).is_some_and(|last| id.seq <= *last)
        } else {
            minute <= self.open
        }
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    id: &'a str,
    user: String,
    message: String,
}

/// Counts what the spool has and the checkpoint has not; gives how many records that were.
pub(super) fn count(region: &Region, spool: &Spool, seen: &Seen) -> Result<u64, Unfit> {
    let mut users = BTreeMap::<String, Sent>::new();
    for (minute, file) in Files::find(spool, seen.open)?.each() {
        read(file, |id, user, bytes| {
            if !seen.has(id, minute) {
                let sent = users.entry(user).or_default();
                sent.messages += 1;
                sent.bytes += bytes;
            }
        })?;
    }
    let mut left = users.iter().collect();
    credit(region, COUNTER, &mut left)?;
    if !left.is_empty() {
        credit_wherever_there_is_room(region, &mut left)?;
    }
    Ok(users.values().map(|sent| sent.messages).sum())
}

type Credits<'u> = Vec<(&'u String, &'u Sent)>;

/// Free blocks belong to slots, and new users need some. In whichever slot they are counted, they have sent the sum over all.
fn credit_wherever_there_is_room(region: &Region, left: &mut Credits<'_>) -> Result<(), Unfit> {
    if let Err(error) = tidy(region) {
        log::warn!("what deleted objects hold cannot be freed: {error}");
    }
    for (index, _) in region.slots() {
        credit(region, index, left)?;
        if left.is_empty() {
            return Ok(());
        }
    }
    Err(bad(format!("it has no room for {} new users whose messages the journal has beyond it", left.len())))
}

/// Counts in one slot; those that there is no room for are left.
fn credit(region: &Region, index: SlotIndex, left: &mut Credits<'_>) -> Result<(), Unfit> {
    let counted = with_seat(region, index, |seat| {
        for (user, sent) in std::mem::take(left) {
            match tally::credit(seat, user, *sent) {
                Ok(()) => {}
                Err(TxnError::Full | TxnError::TooManyObjects) => left.push((user, sent)),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    });
    let why = |error| bad(format!("what the journal has beyond it cannot be counted: {error}"));
    counted.unwrap_or(Err(TxnError::Disturbed)).map_err(why)
}

/// Gives every whole record of a file, with its user and the length of its message. What is torn, blank or no record of
/// ours is passed over, as sealing does.
fn read(file: &File, mut found: impl FnMut(RecordId, String, u64)) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut line = Vec::new();
    while next_line(&mut reader, &mut line)? {
        let torn = line.iter().rposition(|byte| *byte == 0).map_or(0, |last| last + 1);
        let rest = &line[torn..];
        let begin = rest.iter().position(|byte| *byte != b' ').unwrap_or(rest.len());
        let Ok(Line { id, user, message }) = serde_json::from_slice(&rest[begin..]) else { continue };
        if let Some(id) = RecordId::read(id)
            && record::is_whole(&rest[begin..], id)
            && user.len() <= MAX_USER
        {
            found(id, user, message.len() as u64);
        }
    }
    Ok(())
}

/// The next line with its newline. Of one that is longer than any record only the end is kept: in front of a record there
/// may stand blanks and holes.
fn next_line(reader: &mut BufReader<&File>, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    loop {
        let buffer = match reader.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            buffer => buffer?,
        };
        if buffer.is_empty() {
            return Ok(!line.is_empty());
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let count = end.map_or(buffer.len(), |end| end + 1);
        line.extend_from_slice(&buffer[..count]);
        reader.consume(count);
        if line.len() > 2 * MAX_RECORD {
            line.drain(..line.len() - MAX_RECORD);
        }
        if end.is_some() {
            return Ok(true);
        }
    }
}
