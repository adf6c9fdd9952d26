//! Changing a map under the lock of a transaction: putting, removing, splitting buckets, and taking apart what nobody
//! finds any more. Every word that somebody could reach is logged before it changes; what is not linked yet is not.

use std::sync::atomic::Ordering::Relaxed;

use crate::heap;
use crate::ids::Offset;
use crate::layout::Object;
use crate::limits::{MAX_IN_PLACE, MAX_KEY, MAX_VALUE, PAGE_SIZE};
use crate::objects::buckets::{
    BUCKETS, COUNT, Entry, FAN, Found, HASH, KEY, LENGTHS, MOST_BUCKETS, NEXT, Page, Place, ROOT, Tree, WORD,
    bucket_of, link_to, pairs, target,
};
use crate::objects::emptying::DRAIN_ROOM;
use crate::planted::{self, Bug};
use crate::region::Region;
use crate::txn::{Transaction, TxnError};

/// Buckets that a map has from its first entry on.
const FIRST_BUCKETS: u64 = 8;

/// Buckets for each entry. An entry behind another in its chain costs whoever looks for it one more miss of the caches,
/// and the processor a wrong guess; a bucket costs a word.
const BUCKETS_PER_ENTRY: u64 = 2;

impl<'r> Transaction<'_, 'r> {
    /// Puts into an object that is made as a map is, under its lock.
    pub(crate) fn put(
        &mut self,
        index: u32,
        object: &'r Object,
        key: &[u8],
        value: &[u8],
    ) -> Result<bool, TxnError> {
        if key.len() > MAX_KEY || value.len() > MAX_VALUE {
            return Err(TxnError::TooLong);
        }
        let region = self.region();
        let hash = region.hash_of(key);
        match Tree::of(region, object).find(hash, key)? {
            Some(found) if found.takes_in_place(region, value)? => {
                self.overwrite(index, object, &found.entry, value)?;
                Ok(true)
            }
            Some(found) => {
                self.replace(index, object, &found, key, value, hash)?;
                Ok(true)
            }
            None => {
                self.insert(index, object, key, value, hash)?;
                Ok(false)
            }
        }
    }

    fn overwrite(
        &mut self,
        index: u32,
        object: &'r Object,
        entry: &Entry<'r>,
        value: &[u8],
    ) -> Result<(), TxnError> {
        let words = if value.len() == entry.value_length {
            entry.value
        } else {
            let words = self.region().heap_words(entry.value_offset(), value.len().div_ceil(WORD));
            words.ok_or(TxnError::Damaged)?
        };
        self.touch(index, object)?;
        if value.len() != entry.value_length {
            let lengths = (value.len() as u64) << 32 | entry.key_length as u64;
            let offset = Offset(entry.offset.0 + (LENGTHS * WORD) as u64);
            self.seat.log.change(offset, &entry.head[LENGTHS], lengths)?;
        }
        if !words.is_empty() {
            self.seat.log.note_words(entry.value_offset(), words)?;
            pairs(words, value).for_each(|(word, bytes)| word.store(bytes, Relaxed));
        }
        Ok(())
    }

    fn replace(
        &mut self,
        index: u32,
        object: &'r Object,
        found: &Found<'r>,
        key: &[u8],
        value: &[u8],
        hash: u64,
    ) -> Result<(), TxnError> {
        let next = found.entry.head[NEXT].load(Relaxed);
        let offset = self.write_entry(next, hash, key, value)?;
        self.touch(index, object)?;
        self.seat.log.change(found.link.offset, found.link.word, link_to(offset, hash))?;
        self.free(found.entry.offset)
    }

    fn insert(
        &mut self,
        index: u32,
        object: &'r Object,
        key: &[u8],
        value: &[u8],
        hash: u64,
    ) -> Result<(), TxnError> {
        let region = self.region();
        if object.body[BUCKETS].load(Relaxed) == 0 {
            self.first_segment(index, object)?;
        }
        let tree = Tree::of(region, object);
        let bucket = tree.bucket(bucket_of(hash, tree.buckets))?;
        let offset = self.write_entry(bucket.word.load(Relaxed), hash, key, value)?;
        self.touch(index, object)?;
        self.seat.log.change(bucket.offset, bucket.word, link_to(offset, hash))?;
        let count = object.body[COUNT].load(Relaxed).wrapping_add(1);
        if planted::has(Bug::ChangeNotLogged) {
            object.body[COUNT].store(count, Relaxed);
        } else {
            self.set_body(index, object, COUNT, count)?;
        }
        for _ in 0..BUCKETS_PER_ENTRY {
            let buckets = object.body[BUCKETS].load(Relaxed);
            if count.saturating_mul(BUCKETS_PER_ENTRY) > buckets && buckets < MOST_BUCKETS {
                self.split(index, object)?;
            }
        }
        Ok(())
    }

    pub(crate) fn remove(&mut self, index: u32, object: &'r Object, key: &[u8]) -> Result<bool, TxnError> {
        let hash = self.region().hash_of(key);
        let Some(found) = Tree::of(self.region(), object).find(hash, key)? else { return Ok(false) };
        self.touch(index, object)?;
        self.seat.log.change(found.link.offset, found.link.word, found.entry.head[NEXT].load(Relaxed))?;
        self.free(found.entry.offset)?;
        let count = object.body[COUNT].load(Relaxed).wrapping_sub(1);
        self.set_body(index, object, COUNT, count)?;
        Ok(true)
    }

    /// Writes an entry where nobody sees it yet.
    fn write_entry(&mut self, next: u64, hash: u64, key: &[u8], value: &[u8]) -> Result<Offset, TxnError> {
        let key_words = key.len().div_ceil(WORD);
        let words = KEY + key_words + value.len().div_ceil(WORD);
        let offset = self.allocate(words * WORD)?;
        let lengths = (value.len() as u64) << 32 | key.len() as u64;
        let place = self.fresh(offset, words)?;
        let (head, body) = place.split_at(KEY);
        head.iter().zip([next, hash, lengths]).for_each(|(word, content)| word.store(content, Relaxed));
        let contents = pairs(body, key).chain(pairs(&body[key_words..], value));
        contents.for_each(|(word, bytes)| word.store(bytes, Relaxed));
        Ok(offset)
    }

    fn new_page(&mut self) -> Result<Page, TxnError> {
        Ok(Page(self.allocate(PAGE_SIZE as usize)?.0))
    }

    fn first_segment(&mut self, index: u32, object: &'r Object) -> Result<(), TxnError> {
        let segment = self.new_page()?;
        for number in 0..FIRST_BUCKETS {
            segment.place(self.region(), number)?.word.store(0, Relaxed);
        }
        self.set_body(index, object, ROOT, segment.0)?;
        self.set_body(index, object, BUCKETS, FIRST_BUCKETS)
    }

    /// Splits the next bucket in order: its entries go to itself and to the new last one by one more bit of their hash.
    fn split(&mut self, index: u32, object: &'r Object) -> Result<(), TxnError> {
        let region = self.region();
        let before = Tree::of(region, object);
        let new = before.buckets;
        let half = 1 << new.checked_ilog2().ok_or(TxnError::Damaged)?;
        let segment = self.segment_for_another(index, object, &before)?;
        // Not there yet, so not logged.
        let last = segment.place(region, new % FAN)?;
        region.mark(last.offset, WORD);
        last.word.store(0, Relaxed);
        let mut ends = [before.bucket(new - half)?, last];
        for entry in before.chain(new - half)? {
            let hash = entry.head[HASH].load(Relaxed);
            let goes_up = hash & half != 0;
            self.link(&mut ends[usize::from(goes_up)], link_to(entry.offset, hash))?;
            ends[usize::from(goes_up)] = entry.next();
        }
        for end in &mut ends {
            self.link(end, 0)?;
        }
        self.set_body(index, object, BUCKETS, new + 1)
    }

    /// Makes a word of a chain this link, where it is not already.
    fn link(&mut self, place: &mut Place<'r>, link: u64) -> Result<(), TxnError> {
        if place.word.load(Relaxed) == link {
            return Ok(());
        }
        Ok(self.seat.log.change(place.offset, place.word, link)?)
    }

    /// The page that the next bucket will be on, with what leads to it.
    fn segment_for_another(
        &mut self,
        index: u32,
        object: &'r Object,
        before: &Tree<'r>,
    ) -> Result<Page, TxnError> {
        let region = self.region();
        let new = before.buckets;
        if !new.is_multiple_of(FAN) {
            return Ok(before.segment(new)?);
        }
        let segment = self.new_page()?;
        let mut page = segment;
        // From the segment upwards: a directory that has room takes what is below, else another is made for it.
        for reach in [FAN, FAN * FAN] {
            if new == reach {
                // One level more: what was the root is the first under the new one.
                let root = self.new_page()?;
                root.place(region, 0)?.word.store(before.root, Relaxed);
                root.place(region, 1)?.word.store(page.0, Relaxed);
                self.set_body(index, object, ROOT, root.0)?;
                return Ok(segment);
            }
            if !new.is_multiple_of(reach * FAN) {
                let under_root = new < reach * FAN;
                let directory =
                    if under_root { Page(before.root) } else { before.directory(new / (FAN * FAN))? };
                // Beyond what is there, so not logged.
                let place = directory.place(region, new / reach % FAN)?;
                region.mark(place.offset, WORD);
                place.word.store(page.0, Relaxed);
                return Ok(segment);
            }
            let directory = self.new_page()?;
            directory.place(region, 0)?.word.store(page.0, Relaxed);
            page = directory;
        }
        Err(TxnError::Full)
    }

    /// Frees blocks of a map that nobody finds any more, as many as one transaction can. True once there are none.
    pub(crate) fn drain(&mut self, index: u32, object: &'r Object) -> Result<bool, TxnError> {
        let region = self.region();
        self.touch(index, object)?;
        loop {
            let tree = Tree::of(region, object);
            let Some(last) = tree.buckets.checked_sub(1) else { return Ok(true) };
            let bucket = tree.bucket(last)?;
            let first = bucket.word.load(Relaxed);
            if self.seat.log.room() < DRAIN_ROOM {
                return Ok(false);
            }
            if first != 0 {
                let entry = Entry::at(region, target(first))?;
                self.seat.log.change(bucket.offset, bucket.word, entry.head[NEXT].load(Relaxed))?;
                self.free(entry.offset)?;
                continue;
            }
            self.drop_last_bucket(index, object, &tree)?;
        }
    }

    fn drop_last_bucket(&mut self, index: u32, object: &'r Object, tree: &Tree<'r>) -> Result<(), TxnError> {
        let region = self.region();
        let last = tree.buckets - 1;
        if last == 0 || last.is_multiple_of(FAN) {
            self.free(Offset(tree.segment(last)?.0))?;
            if last > FAN * FAN && last.is_multiple_of(FAN * FAN) {
                self.free(Offset(tree.directory(last / (FAN * FAN))?.0))?;
            }
            if last == FAN * FAN {
                self.free(Offset(tree.directory(1)?.0))?;
            }
            if last == FAN || last == FAN * FAN {
                // One level less: the first under the root becomes the root.
                let below = Page(tree.root).place(region, 0)?.word.load(Relaxed);
                self.free(Offset(tree.root))?;
                self.set_body(index, object, ROOT, below)?;
            }
        }
        if last == 0 {
            self.set_body(index, object, ROOT, 0)?;
        }
        self.set_body(index, object, BUCKETS, last)
    }
}

impl Found<'_> {
    /// Whether a value can be written over the one that is there.
    fn takes_in_place(&self, region: &Region, value: &[u8]) -> Result<bool, TxnError> {
        if value.len() == self.entry.value_length {
            return Ok(value.len() <= MAX_IN_PLACE);
        }
        let block = heap::block_at(region, self.entry.offset).ok_or(TxnError::Damaged)?;
        let bytes = (KEY + self.entry.key.len()) * WORD + value.len().next_multiple_of(WORD);
        Ok(value.len().max(self.entry.value_length) <= MAX_IN_PLACE && bytes <= block.size)
    }
}
