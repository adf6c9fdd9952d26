//! The journal: minute files of NDJSON records in a spool directory. Every byte range of a file has an owner, so that
//! repair can decide about each record after any death.

pub mod names;

pub mod spool;

pub mod record;

pub mod tally;

pub mod room;

pub mod intent;

pub mod writer;

pub mod single;

pub mod twofold;

pub mod generated;

pub mod seal;

use std::sync::atomic::Ordering::SeqCst;

use crate::ids::Minute;
use crate::layout::{JournalState, MinuteState};
use crate::limits::JOURNAL_RING;

/// The journal's open minute, as one word: the minute and, in the lowest bit, whether it is closed. A closed minute
/// takes no more records; the next record opens another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenMinute {
    /// Its number.
    pub minute: Minute,
    /// Whether nothing may be added.
    pub closed: bool,
}

impl OpenMinute {
    /// The word in the region.
    pub fn word(self) -> u64 {
        self.minute.0 << 1 | u64::from(self.closed)
    }

    /// What a word says.
    pub fn from_word(word: u64) -> Self {
        Self { minute: Minute(word >> 1), closed: word & 1 == 1 }
    }
}

/// Bits of a tail word that hold the offset; the minute's low bits stand above.
const OFFSET_BITS: u32 = 44;
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;

/// The highest bit of a tag is always set, so that no minute's word is 0, which means "free".
const TAG_MARK: u64 = 1 << (u64::BITS - OFFSET_BITS - 1);

/// An offset in the file of one minute, as a word that no other minute's word equals for a year.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tagged {
    tag: u64,
    offset: u64,
}

impl Tagged {
    fn new(minute: Minute, offset: u64) -> Self {
        Self { tag: TAG_MARK | minute.0 & (TAG_MARK - 1), offset: offset & OFFSET_MASK }
    }

    fn word(self) -> u64 {
        self.tag << OFFSET_BITS | self.offset
    }

    fn from_word(word: u64) -> Self {
        Self { tag: word >> OFFSET_BITS, offset: word & OFFSET_MASK }
    }

    /// The minute nearest to `near` that has this tag.
    fn minute_near(self, near: Minute) -> Minute {
        let above = TAG_MARK.leading_zeros() + 1;
        let ahead = self.tag.wrapping_sub(near.0) << above;
        // The difference of the tags without the mark, its sign extended.
        Minute(near.0.wrapping_add_signed(ahead.cast_signed() >> above))
    }

    /// The offset, if the word is this minute's.
    fn offset_in(self, minute: Minute) -> Option<u64> {
        (self.tag == Self::new(minute, 0).tag).then_some(self.offset)
    }
}

impl JournalState {
    /// The open minute.
    pub fn open_minute(&self) -> OpenMinute {
        OpenMinute::from_word(self.open.load(SeqCst))
    }

    /// Every minute up to this one is sealed.
    pub fn sealed_minute(&self) -> Minute {
        Minute(self.sealed.load(SeqCst))
    }

    /// Closes the open minute if it is still `open`.
    pub fn close(&self, open: OpenMinute) -> bool {
        let closed = OpenMinute { closed: true, ..open };
        self.open.compare_exchange(open.word(), closed.word(), SeqCst, SeqCst).is_ok()
    }

    /// The ring's entry for a minute.
    pub fn entry(&self, minute: Minute) -> &MinuteState {
        &self.ring[(minute.0 % JOURNAL_RING as u64) as usize]
    }

    /// What each of the ring's entries says; `None` where it is free.
    pub fn ring_claims(&self) -> [Option<Claims>; JOURNAL_RING] {
        let near = self.open_minute().minute;
        std::array::from_fn(|index| self.ring[index].claims(near))
    }

    /// How far the file of an unsealed minute is claimed; `None` where the ring has no entry for it.
    pub fn claimed(&self, minute: Minute) -> Option<u64> {
        let claims = self.entry(minute).claims(minute)?;
        (claims.minute == minute).then_some(claims.tail)
    }

    /// Bytes written to unsealed minutes, and bytes reserved for them on the disk.
    pub fn open_bytes(&self) -> (u64, u64) {
        self.ring_claims().into_iter().flatten().fold((0, 0), |(written, reserved), claims| {
            (written + claims.tail, reserved + claims.reserved.max(claims.tail))
        })
    }

    /// Whether another minute can be opened beside those that are not sealed.
    pub fn has_room(&self) -> bool {
        self.ring.iter().any(|entry| entry.tail.load(SeqCst) == 0)
    }

    /// Bytes in the spool: what nobody writes any more and what the unsealed minutes hold.
    pub fn spool_bytes(&self) -> u64 {
        self.closed_bytes.load(SeqCst).saturating_add(self.open_bytes().0)
    }

    /// Frees the ring's entries of sealed minutes. The caller has seen that no intent names one.
    pub fn release_sealed_entries(&self) {
        let sealed = self.sealed_minute();
        for entry in &self.ring {
            let word = entry.tail.load(SeqCst);
            if word != 0 && Tagged::from_word(word).minute_near(sealed) <= sealed {
                entry.reserved.store(0, SeqCst);
                let _ = entry.tail.compare_exchange(word, 0, SeqCst, SeqCst);
            }
        }
    }
}

/// What an entry of the ring says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Whose entry it is, as far as the low bits tell.
    pub minute: Minute,
    /// The file is claimed up to here.
    pub tail: u64,
    /// Disk space is reserved up to here.
    pub reserved: u64,
}

impl MinuteState {
    /// What the entry says; the minute is the one nearest to `near`.
    fn claims(&self, near: Minute) -> Option<Claims> {
        let word = self.tail.load(SeqCst);
        let tail = Tagged::from_word(word);
        let reserved = Tagged::from_word(self.reserved.load(SeqCst));
        let reserved = if reserved.tag == tail.tag { reserved.offset } else { 0 };
        (word != 0).then(|| Claims { minute: tail.minute_near(near), tail: tail.offset, reserved })
    }

    /// Makes the entry this minute's, empty. True where it is, whoever did it; false where another minute has it.
    fn prepare(&self, minute: Minute) -> bool {
        let fresh = Tagged::new(minute, 0).word();
        match self.tail.compare_exchange(0, fresh, SeqCst, SeqCst) {
            Ok(_) => true,
            Err(word) => Tagged::from_word(word).offset_in(minute).is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn words_come_back(minute in 0_u64..1 << 40, offset in 0..=OFFSET_MASK, closed in any::<bool>()) {
            let tagged = Tagged::from_word(Tagged::new(Minute(minute), offset).word());
            prop_assert_eq!(tagged.offset_in(Minute(minute)), Some(offset));
            prop_assert_eq!(tagged.offset_in(Minute(minute + 1)), None);
            for near in minute.saturating_sub(1000)..minute + 1000 {
                prop_assert_eq!(tagged.minute_near(Minute(near)), Minute(minute));
            }
            let open = OpenMinute { minute: Minute(minute), closed };
            prop_assert_eq!(OpenMinute::from_word(open.word()), open);
        }
    }
}
