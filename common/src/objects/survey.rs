//! What an object is made of, as it stands at this moment: for those who verify a region or show it. Nothing here
//! waits, locks or stores, and nothing that is read is believed.
//!
//! An object in the middle of a change is seen through its changer's undo log: as it was before, and as it would be
//! after a repair.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

use crate::ids::Offset;
use crate::layout::Object;
use crate::objects::buckets::{
    BUCKETS, COUNT, Entry, FAN, KEY, LENGTHS, LONGEST_CHAIN, MOST_BUCKETS, NEXT, Page, Place, TAG_SHIFT,
    bucket_of, target,
};
use crate::objects::folder::{self, Entry as Named};
use crate::objects::items;
use crate::objects::reading::Broken;
use crate::objects::{Handle, Kind};
use crate::region::Region;
use crate::undo::{LogState, UndoLog};

mod pieces;

pub use pieces::Piece;

/// What stood where before an unfinished change.
#[derive(Debug, Default)]
pub struct Before(HashMap<u64, Old>);

/// What a log keeps of one place.
#[derive(Clone, Copy, Debug)]
struct Old {
    length: usize,
    value: u64,
}

impl Before {
    /// What a log would put back. Nothing unless its transaction is under way.
    pub fn of(log: &UndoLog<'_>) -> Self {
        let mut before = HashMap::new();
        if log.state() == Some(LogState::Active) {
            // From the last record to the first: what was there first is what counts.
            for record in log.records() {
                for (index, old) in (0..).zip(record.old) {
                    let old = Old { length: record.length.min(8), value: old.load(Relaxed) };
                    before.insert(record.offset.0 + index * 8, old);
                }
            }
        }
        Self(before)
    }

    /// A word, as it was.
    pub fn word(&self, offset: Offset, word: &AtomicU64) -> u64 {
        self.old(offset, size_of::<u64>()).unwrap_or_else(|| word.load(Relaxed))
    }

    /// Half a word, as it was.
    pub fn half(&self, offset: Offset, half: &AtomicU32) -> u32 {
        self.old(offset, size_of::<u32>()).map_or_else(|| half.load(Relaxed), |old| old as u32)
    }

    /// A quarter of a word, such as a block's state, as it was.
    pub fn quarter(&self, offset: Offset, quarter: &AtomicU16) -> u16 {
        self.old(offset, size_of::<u16>()).map_or_else(|| quarter.load(Relaxed), |old| old as u16)
    }

    /// What is kept of exactly this place, or of the word that it is a part of.
    fn old(&self, offset: Offset, length: usize) -> Option<u64> {
        if let Some(old) = self.0.get(&offset.0).filter(|old| old.length >= length) {
            return Some(old.value);
        }
        let whole = self.0.get(&(offset.0 & !7)).filter(|old| old.length == 8)?;
        Some(whole.value >> (8 * (offset.0 & 7)))
    }

    fn place(&self, place: Place<'_>) -> u64 {
        self.word(place.offset, place.word)
    }
}

/// Why an object cannot be what it says: words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw(pub String);

/// One object, as its entry in the object table says.
#[derive(Debug)]
pub struct Survey<'a> {
    region: &'a Region,
    /// What an unfinished change of it has changed.
    pub before: &'a Before,
    index: u32,
    identity: u64,
    body: [u64; 5],
}

/// What an object is made of.
#[derive(Debug)]
pub enum Part<'a> {
    /// A page of buckets or of pointers.
    Page(Offset),
    /// An entry of a map or of a folder.
    Item(Item<'a>),
    /// An item of a queue, or a chunk of a blob.
    Piece(Piece<'a>),
}

/// An entry of a map or of a folder, its bounds checked.
#[derive(Debug)]
pub struct Item<'a> {
    entry: Entry<'a>,
    /// What led to it.
    link: u64,
    before: &'a Before,
}

impl Item<'_> {
    /// Where its block begins.
    pub fn offset(&self) -> Offset {
        self.entry.offset
    }

    /// Bytes of the block that it needs.
    pub fn bytes(&self) -> usize {
        self.entry.bytes()
    }

    /// Its key.
    pub fn key(&self) -> Vec<u8> {
        let mut key = Vec::new();
        self.entry.key(&mut key);
        key
    }

    /// Its value.
    pub fn value(&self) -> Vec<u8> {
        let (words, length) = self.entry.value_words();
        let offsets = (self.entry.value_offset().0..).step_by(size_of::<u64>());
        let words = words.iter().zip(offsets).map(|(word, offset)| self.before.word(Offset(offset), word));
        let mut value: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        value.truncate(length);
        value
    }

    /// Whether key and value are filled up to whole words with zeros: by words is how keys are compared.
    pub fn is_filled_up(&self) -> bool {
        let (key, key_length) = self.entry.key_words();
        let (value, value_length) = self.entry.value_words();
        let last = |words: &[AtomicU64], from: Offset| {
            let place = Offset(from.0 + (words.len().saturating_sub(1) * size_of::<u64>()) as u64);
            words.last().map(|word| self.before.word(place, word))
        };
        let value_from = self.entry.value_offset();
        let key_from = Offset(value_from.0 - size_of_val(key) as u64);
        is_filled_up(last(key, key_from), key_length) && is_filled_up(last(value, value_from), value_length)
    }

    /// In a folder: what is named; `None` where the value names nothing.
    pub fn named(&self) -> Option<Named> {
        Named::from_bytes(&self.value()).ok()
    }
}

/// Whether these bytes are a name that a folder takes.
pub fn is_name(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|name| folder::check_name(name).is_ok())
}

/// Whether of the last word of so many bytes the rest is zero.
fn is_filled_up(last: Option<u64>, length: usize) -> bool {
    let used = length % size_of::<u64>() * 8;
    used == 0 || last.is_none_or(|last| last >> used == 0)
}

impl<'a> Survey<'a> {
    /// The entry of the object table at `index`, if there is one.
    pub fn of(region: &'a Region, index: u32, before: &'a Before) -> Option<Self> {
        let object = region.object(index)?;
        let place = |within: usize, word: &AtomicU64| {
            before.word(Offset(region.object_offset(index).0 + within as u64), word)
        };
        let first = std::mem::offset_of!(Object, body);
        let body = [0, 1, 2, 3, 4].map(|which| place(first + which * 8, &object.body[which]));
        let identity = place(std::mem::offset_of!(Object, identity), &object.identity);
        Some(Self { region, before, index, identity, body })
    }

    /// What it is; `None` for a kind that does not exist.
    pub fn kind(&self) -> Option<Kind> {
        Kind::of(self.identity)
    }

    /// Which object it is.
    pub fn handle(&self) -> Handle {
        Handle { index: self.index, generation: (self.identity >> 32) as u32 }
    }

    /// A counter's value; how many entries or items a map, folder or queue says it has; a blob's bytes.
    pub fn count(&self) -> u64 {
        self.body[COUNT]
    }

    /// Buckets of a map or folder.
    pub fn buckets(&self) -> u64 {
        self.body[BUCKETS]
    }

    /// Most items of a queue; 0 = any number.
    pub fn capacity(&self) -> u64 {
        self.body[items::CAPACITY]
    }

    /// In how many steps the object is read: a bucket each; all of a queue or of a blob in one.
    pub fn steps(&self) -> u64 {
        match self.kind() {
            Some(kind) if kind.has_buckets() => self.buckets(),
            Some(kind) if kind.has_items() || kind.has_chunks() => 1,
            _ => 0,
        }
    }

    /// Whether there can be as much of it as it says.
    ///
    /// # Errors
    /// More than the heap has room for.
    pub fn check_shape(&self) -> Result<(), Flaw> {
        match self.kind() {
            Some(kind) if kind.has_buckets() => self.check_buckets(),
            Some(kind) if kind.has_items() => self.check_items(),
            Some(kind) if kind.has_chunks() => self.check_chunks(kind),
            _ => Ok(()),
        }
    }

    /// Gives what the object is made of in one of its steps.
    ///
    /// # Errors
    /// [`Flaw`].
    pub fn step(&self, number: u64, visit: impl FnMut(Part<'a>)) -> Result<(), Flaw> {
        self.check_shape()?;
        match self.kind() {
            Some(kind) if kind.has_buckets() => self.bucket(number, visit),
            Some(kind) if kind.has_items() => self.items(visit),
            Some(kind) if kind.has_chunks() => self.chunks(visit),
            _ => Ok(()),
        }
    }

    fn check_buckets(&self) -> Result<(), Flaw> {
        let most = (u64::from(self.region.geometry().page_count) * FAN).min(MOST_BUCKETS);
        if self.buckets() > most {
            return Err(Flaw(format!("it says that it has {} buckets, which is impossible", self.buckets())));
        }
        Ok(())
    }

    /// Gives every page that is first needed for the bucket of this number, and the bucket's entries.
    fn bucket(&self, number: u64, mut visit: impl FnMut(Part<'a>)) -> Result<(), Flaw> {
        let place = self.lead_to(number, &mut visit).map_err(|Broken| {
            Flaw(format!("the pages that lead to its bucket {number} are not in the heap"))
        })?;
        let mut next = self.before.place(place);
        for _ in 0..LONGEST_CHAIN {
            if next == 0 {
                return Ok(());
            }
            let entry = self
                .entry(target(next))
                .map_err(|Broken| Flaw(format!("an entry of its bucket {number} at {next:#x} is none")))?;
            let link = std::mem::replace(&mut next, self.before.word(entry.offset, &entry.head[NEXT]));
            visit(Part::Item(Item { entry, link, before: self.before }));
        }
        Err(Flaw(format!("the entries of its bucket {number} have no end")))
    }

    fn entry(&self, offset: Offset) -> Result<Entry<'a>, Broken> {
        let head = self.region.heap_words(offset, KEY).ok_or(Broken)?;
        let at = Offset(offset.0 + (LENGTHS * size_of::<u64>()) as u64);
        Entry::of_lengths(self.region, offset, self.before.word(at, &head[LENGTHS]))
    }

    fn lead_to(&self, number: u64, visit: &mut impl FnMut(Part<'a>)) -> Result<Place<'a>, Broken> {
        let [_, buckets, root, ..] = self.body;
        let mut page = root;
        if number == 0 {
            visit(Part::Page(Offset(page)));
        }
        for (reach, below) in [(FAN * FAN, FAN * FAN), (FAN, FAN)] {
            if buckets > reach {
                page = self.before.place(Page(page).place(self.region, number / below % FAN)?);
                if number.is_multiple_of(below) {
                    visit(Part::Page(Offset(page)));
                }
            }
        }
        Page(page).place(self.region, number % FAN)
    }

    /// What is wrong with where an item of this key stands, if something is.
    pub fn misplaced(&self, item: &Item<'_>, key: &[u8], number: u64) -> Option<&'static str> {
        let hash = item.entry.hash();
        if hash != self.region.hash_of(key) {
            return Some("has a hash that is not its key's");
        }
        if (item.link ^ hash) >> TAG_SHIFT != 0 {
            return Some("is led to by a link with the bits of another hash");
        }
        (bucket_of(hash, self.buckets()) != number).then_some("is in a bucket that is not its hash's")
    }
}
