//! Maps from bytes to bytes: linear hashing, growing by one bucket at a time.
//!
//! W. Litwin, "Linear hashing: a new tool for file and table addressing" (VLDB '80): with n buckets a key's bucket is
//! given by as many low bits of its hash as name one that exists; when there are too few for the entries, the next ones
//! in order are split in two. So a put never waits for the whole table to be rehashed.
//!
//! Buckets are words in segments of one page each; a segment is found through at most two pages of pointers, none while
//! one segment suffices. A bucket is a link to its first entry, an entry one block: next link, hash, lengths, key, value.
//! Buckets from n on are not there, whatever their words hold.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use siphasher::sip::SipHasher13;

use crate::heap;
use crate::ids::Offset;
use crate::layout::Object;
use crate::limits::{MAX_IN_PLACE, MAX_KEY, MAX_VALUE, PAGE_SIZE};
use crate::objects::reading::{self, Broken, ReadError};
use crate::objects::{Handle, Kind};
use crate::planted::{self, Bug};
use crate::region::Region;
use crate::txn::{Transaction, TxnError};

/// The words of an object's body that make it a map.
pub(crate) const COUNT: usize = 0;
pub(crate) const BUCKETS: usize = 1;
pub(crate) const ROOT: usize = 2;

/// Words of a page: buckets of a segment, pointers of a directory.
pub(crate) const FAN: u64 = PAGE_SIZE / WORD as u64;
const WORD: usize = size_of::<u64>();

/// Buckets that a map has from its first entry on.
const FIRST_BUCKETS: u64 = 8;

/// Buckets for each entry. An entry behind another in its chain costs whoever looks for it one more miss of the caches,
/// and the processor a wrong guess; a bucket costs a word.
const BUCKETS_PER_ENTRY: u64 = 2;

/// Most buckets: what two levels of directories reach.
pub(crate) const MOST_BUCKETS: u64 = FAN * FAN * FAN;

/// A chain longer than this was scribbled into a ring: keys are spread by a secret.
pub(crate) const LONGEST_CHAIN: usize = 4096;

/// The words of an entry before its key.
pub(crate) const NEXT: usize = 0;
const HASH: usize = 1;
pub(crate) const LENGTHS: usize = 2;
pub(crate) const KEY: usize = 3;

/// How much of the heap, over and over, one listing copies.
const MOST_COPIED: u64 = 4;

/// A link is the offset of an entry, below the highest bits of its hash: so an entry whose link has other bits is passed
/// over without a look at it, but for its next link.
pub(crate) const TAG_SHIFT: u32 = 48;

/// What a deletion still logs in one transaction, in words: the rest is for the next one.
const DRAIN_ROOM: usize = 64;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// A map in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Map(pub(crate) Handle);

/// A map under the lock of a transaction.
#[derive(Debug)]
pub struct LockedMap<'t, 's, 'r> {
    pub(crate) txn: &'t mut Transaction<'s, 'r>,
    pub(crate) index: u32,
    pub(crate) object: &'r Object,
}

impl Map {
    /// A copy of the value under `key`, as last committed. Not for a map that this process's own transaction has
    /// changed: see [`LockedMap::get`].
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn get(self, region: &Region, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        let mut value = Vec::new();
        Ok(self.get_into(region, key, &mut value)?.then_some(value))
    }

    /// The same into a buffer of the caller's, replacing what was in it. False where there is no such key; the buffer
    /// is empty then.
    ///
    /// # Errors
    /// [`ReadError`].
    #[inline]
    pub fn get_into(self, region: &Region, key: &[u8], value: &mut Vec<u8>) -> Result<bool, ReadError> {
        let hash = hash_of(region, key);
        reading::read(region, self.0, Kind::Map, |object| {
            let found = Tree::of(region, object).find(hash, key)?;
            // What the buffer holds is written over and not cleared first: mostly it is as long as it must be.
            match &found {
                Some(Found { entry, .. }) => copy(entry.value, entry.value_length, 0, value),
                None => value.clear(),
            }
            Ok(found.is_some())
        })
    }

    /// How many entries it has, as last committed.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn len(self, region: &Region) -> Result<u64, ReadError> {
        reading::read(region, self.0, Kind::Map, |object| Ok(object.body[COUNT].load(Relaxed)))
    }

    /// Whether it has none.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn is_empty(self, region: &Region) -> Result<bool, ReadError> {
        Ok(self.len(region)? == 0)
    }

    /// Every entry, in no order. An entry that is there from before the call to its end is given exactly once,
    /// whatever is put and removed meanwhile, with a value that it has had; another at most once.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn entries(self, region: &Region) -> Result<Vec<Pair>, ReadError> {
        entries(region, self.0, Kind::Map)
    }

    /// Which entry of the object table it is, in which generation.
    pub fn handle(self) -> Handle {
        self.0
    }
}

impl LockedMap<'_, '_, '_> {
    /// A copy of the value under `key`, with what this transaction has changed.
    ///
    /// # Errors
    /// [`TxnError::Damaged`]; the transaction is rolled back then.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, TxnError> {
        let hash = hash_of(self.txn.region(), key);
        self.txn.attempt(|txn| {
            let found = Tree::of(txn.region(), self.object).find(hash, key)?;
            Ok(found.map(|found| {
                let mut value = Vec::new();
                found.entry.value(&mut value);
                value
            }))
        })
    }

    /// How many entries it has.
    pub fn len(&self) -> u64 {
        self.object.body[COUNT].load(Relaxed)
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts `value` under `key`, in place of what was there; says whether there was something.
    ///
    /// # Errors
    /// [`TxnError::Full`], [`TxnError::TooLarge`], [`TxnError::TooLong`] for a key above [`MAX_KEY`] or a value above
    /// [`MAX_VALUE`]; the transaction is rolled back then.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<bool, TxnError> {
        self.txn.attempt(|txn| txn.put(self.index, self.object, key, value))
    }

    /// Removes what is under `key`; says whether there was something.
    ///
    /// # Errors
    /// [`TxnError::TooLarge`]; the transaction is rolled back then.
    pub fn remove(&mut self, key: &[u8]) -> Result<bool, TxnError> {
        self.txn.attempt(|txn| txn.remove(self.index, self.object, key))
    }
}

/// A key's hash. Keyed by the region's random epoch: who chooses keys cannot choose their bucket.
#[inline]
pub(crate) fn hash_of(region: &Region, key: &[u8]) -> u64 {
    let epoch = region.epoch();
    SipHasher13::new_with_keys(epoch, epoch.rotate_left(32) ^ 0x9e37_79b9_7f4a_7c15).hash(key)
}

/// The bucket of a hash among `buckets`, which are at least one.
#[inline]
pub(crate) fn bucket_of(hash: u64, buckets: u64) -> u64 {
    // As many low bits as the last bucket's number has; defined for whatever the region says.
    let mask = u64::MAX >> (buckets.wrapping_sub(1) | 1).leading_zeros();
    let bucket = hash & mask;
    if bucket < buckets { bucket } else { hash & (mask >> 1) }
}

/// A link to an entry of this hash.
#[inline]
fn link_to(offset: Offset, hash: u64) -> u64 {
    hash >> TAG_SHIFT << TAG_SHIFT | offset.0
}

/// Where the entry of a link lies, whatever it may be.
#[inline]
pub(crate) fn target(link: u64) -> Offset {
    Offset(link & ((1 << TAG_SHIFT) - 1))
}

/// The buckets of a map, as its body says at this moment.
#[derive(Clone, Copy)]
pub(crate) struct Tree<'r> {
    region: &'r Region,
    buckets: u64,
    root: u64,
}

/// An entry and the word that points to it.
pub(crate) struct Found<'r> {
    link: Place<'r>,
    pub(crate) entry: Entry<'r>,
}

/// A word of the heap and where it stands.
#[derive(Clone, Copy)]
pub(crate) struct Place<'r> {
    pub(crate) offset: Offset,
    pub(crate) word: &'r AtomicU64,
}

/// One entry, its bounds checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'r> {
    pub(crate) offset: Offset,
    pub(crate) head: &'r [AtomicU64],
    key: &'r [AtomicU64],
    value: &'r [AtomicU64],
    key_length: usize,
    value_length: usize,
}

impl<'r> Tree<'r> {
    #[inline]
    pub(crate) fn of(region: &'r Region, object: &Object) -> Self {
        let [buckets, root] = [BUCKETS, ROOT].map(|index| object.body[index].load(Relaxed));
        Self { region, buckets, root }
    }

    /// The word that is the bucket of this number.
    #[inline]
    fn bucket(&self, number: u64) -> Result<Place<'r>, Broken> {
        self.segment(number)?.place(self.region, number % FAN)
    }

    /// The page that this bucket is on.
    fn segment(&self, number: u64) -> Result<Page, Broken> {
        if self.buckets > MOST_BUCKETS {
            return Err(Broken);
        }
        let mut page = Page(self.root);
        if self.buckets > FAN * FAN {
            page = Page(page.place(self.region, number / (FAN * FAN))?.word.load(Relaxed));
        }
        if self.buckets > FAN {
            page = Page(page.place(self.region, number / FAN % FAN)?.word.load(Relaxed));
        }
        Ok(page)
    }

    #[inline]
    pub(crate) fn find(&self, hash: u64, key: &[u8]) -> Result<Option<Found<'r>>, Broken> {
        if self.buckets == 0 {
            return Ok(None);
        }
        let mut link = self.bucket(bucket_of(hash, self.buckets))?;
        for _ in 0..LONGEST_CHAIN {
            let next = link.word.load(Relaxed);
            if next == 0 {
                return Ok(None);
            }
            let offset = target(next);
            if (next ^ hash) >> TAG_SHIFT == 0 {
                // Where the value lies is known from the entry's lengths only: one miss of the caches after another.
                self.region.prefetch(Offset(offset.0 + 64));
                self.region.prefetch(Offset(offset.0 + 96));
                let entry = Entry::at(self.region, offset)?;
                if entry.head[HASH].load(Relaxed) == hash && entry.has_key(key) {
                    return Ok(Some(Found { link, entry }));
                }
            }
            let words = self.region.heap_words(offset, NEXT + 1).ok_or(Broken)?;
            link = Place { offset, word: &words[NEXT] };
        }
        Err(Broken)
    }

    /// The entries of one bucket, from its first on.
    fn chain(&self, number: u64) -> Result<Vec<Entry<'r>>, Broken> {
        let mut entries = Vec::new();
        let mut next = self.bucket(number)?.word.load(Relaxed);
        while next != 0 {
            if entries.len() == LONGEST_CHAIN {
                return Err(Broken);
            }
            let entry = Entry::at(self.region, target(next))?;
            next = entry.head[NEXT].load(Relaxed);
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Gives the entries of the buckets that one of `former` buckets has been split into since.
    fn descendants(
        &self,
        number: u64,
        former: u64,
        mut visit: impl FnMut(&Entry<'r>) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        let mask = former.next_power_of_two();
        // A bucket that has not been split yet at `former` has one bit less to itself than one that has.
        let step = if number + mask / 2 >= former && number < mask / 2 { mask / 2 } else { mask };
        for bucket in (number..self.buckets).step_by(step.max(1) as usize) {
            self.chain(bucket)?.iter().try_for_each(&mut visit)?;
        }
        Ok(())
    }

    /// Whether there can be so many buckets: each is a word of the heap.
    fn check(region: &Region, buckets: u64) -> Result<(), Broken> {
        let most = (u64::from(region.geometry().page_count) * FAN).min(MOST_BUCKETS);
        if buckets <= most { Ok(()) } else { Err(Broken) }
    }

    /// Every block that the map uses: directories, segments, entries. For verification.
    pub(crate) fn blocks(&self, mut visit: impl FnMut(Offset)) -> Result<(), Broken> {
        if self.buckets == 0 {
            return Ok(());
        }
        Self::check(self.region, self.buckets)?;
        let mut room = heap::most_blocks(self.region);
        visit(Offset(self.root));
        if self.buckets > FAN * FAN {
            for directory in 0..self.buckets.div_ceil(FAN * FAN) {
                visit(Offset(Page(self.root).place(self.region, directory)?.word.load(Relaxed)));
            }
        }
        for segment in 0..self.buckets.div_ceil(FAN) {
            if self.buckets > FAN {
                visit(Offset(self.segment(segment * FAN)?.0));
            }
            for number in segment * FAN..((segment + 1) * FAN).min(self.buckets) {
                for entry in self.chain(number)? {
                    room = room.checked_sub(1).ok_or(Broken)?;
                    visit(entry.offset);
                }
            }
        }
        Ok(())
    }
}

/// A page of buckets or of pointers, which may be anything.
#[derive(Clone, Copy)]
pub(crate) struct Page(pub(crate) u64);

impl Page {
    #[inline]
    pub(crate) fn place(self, region: &Region, number: u64) -> Result<Place<'_>, Broken> {
        let offset = Offset(self.0.wrapping_add(number * WORD as u64));
        let words =
            region.heap_words(offset, 1).filter(|_| self.0.is_multiple_of(PAGE_SIZE)).ok_or(Broken)?;
        Ok(Place { offset, word: &words[0] })
    }
}

impl<'r> Entry<'r> {
    #[inline]
    pub(crate) fn at(region: &'r Region, offset: Offset) -> Result<Self, Broken> {
        let head = region.heap_words(offset, KEY).ok_or(Broken)?;
        Self::of_lengths(region, offset, head[LENGTHS].load(Relaxed))
    }

    /// The entry, if its word of lengths is this one.
    #[inline]
    pub(crate) fn of_lengths(region: &'r Region, offset: Offset, lengths: u64) -> Result<Self, Broken> {
        let (key_length, value_length) = ((lengths & 0xffff_ffff) as usize, (lengths >> 32) as usize);
        if key_length > MAX_KEY || value_length > MAX_VALUE {
            return Err(Broken);
        }
        let (key, value) = (key_length.div_ceil(WORD), value_length.div_ceil(WORD));
        let (head, body) = region.heap_words(offset, KEY + key + value).ok_or(Broken)?.split_at(KEY);
        let (key, value) = body.split_at(key);
        Ok(Self { offset, head, key, value, key_length, value_length })
    }

    #[inline]
    fn next(&self) -> Place<'r> {
        Place { offset: self.offset, word: &self.head[NEXT] }
    }

    #[inline]
    fn has_key(&self, key: &[u8]) -> bool {
        self.key_length == key.len() && pairs(self.key, key).all(|(word, bytes)| word.load(Relaxed) == bytes)
    }

    /// Bytes that it takes of its block.
    pub(crate) fn bytes(&self) -> usize {
        (KEY + self.key.len() + self.value.len()) * WORD
    }

    /// The hash that it says its key has.
    pub(crate) fn hash(&self) -> u64 {
        self.head[HASH].load(Relaxed)
    }

    /// Appends the key to `bytes`.
    pub(crate) fn key(&self, bytes: &mut Vec<u8>) {
        append(self.key, self.key_length, bytes);
    }

    /// Appends the value to `bytes`.
    #[inline]
    pub(crate) fn value(&self, bytes: &mut Vec<u8>) {
        append(self.value, self.value_length, bytes);
    }

    /// The words of the value, and how many bytes of them it has.
    pub(crate) fn value_words(&self) -> (&'r [AtomicU64], usize) {
        (self.value, self.value_length)
    }

    pub(crate) fn value_offset(&self) -> Offset {
        Offset(self.offset.0 + ((KEY + self.key.len()) * WORD) as u64)
    }
}

/// Words with the bytes that are or will be in them, the last one filled up with zeros.
#[inline]
fn pairs<'a>(words: &'a [AtomicU64], bytes: &'a [u8]) -> impl Iterator<Item = (&'a AtomicU64, u64)> {
    let (whole, rest) = bytes.as_chunks::<WORD>();
    let last = words.get(whole.len()).filter(|_| !rest.is_empty()).map(|word| {
        let mut filled = [0; WORD];
        filled[..rest.len()].copy_from_slice(rest);
        (word, u64::from_le_bytes(filled))
    });
    words.iter().zip(whole).map(|(word, bytes)| (word, u64::from_le_bytes(*bytes))).chain(last)
}

#[inline]
fn append(words: &[AtomicU64], length: usize, bytes: &mut Vec<u8>) {
    copy(words, length, bytes.len(), bytes);
}

/// Makes `length` bytes of these words what `bytes` holds from `start` on.
#[inline]
fn copy(words: &[AtomicU64], length: usize, start: usize, bytes: &mut Vec<u8>) {
    // Made long enough first: pushing each word would look each time whether there is room.
    bytes.resize(start + size_of_val(words), 0);
    for (place, word) in bytes[start..].as_chunks_mut::<WORD>().0.iter_mut().zip(words) {
        *place = word.load(Relaxed).to_le_bytes();
    }
    bytes.truncate(start + length);
}

/// Every entry of an object that is made as a map is; see [`Map::entries`].
pub(crate) fn entries(region: &Region, handle: Handle, kind: Kind) -> Result<Vec<Pair>, ReadError> {
    let former = reading::read(region, handle, kind, |object| {
        let buckets = object.body[BUCKETS].load(Relaxed);
        Tree::check(region, buckets).map(|()| buckets)
    })?;
    let heap = u64::from(region.geometry().page_count) * PAGE_SIZE;
    let (mut all, mut copied) = (Vec::new(), 0);
    // A map that had no bucket may have got some since: its first is then the ancestor of all.
    for number in 0..former.max(1) {
        let known = all.len();
        copied += reading::read(region, handle, kind, |object| {
            all.truncate(known);
            let (tree, mut bytes) = (Tree::of(region, object), 0);
            tree.descendants(number, former.max(1), |entry| {
                // More than the heap has was scribbled into a ring.
                bytes += entry.bytes() as u64;
                if bytes > heap {
                    return Err(Broken);
                }
                let (mut key, mut value) = (Vec::new(), Vec::new());
                entry.key(&mut key);
                entry.value(&mut value);
                all.push((key, value));
                Ok(())
            })?;
            Ok(bytes)
        })?;
        // So much can only have been put while it was being read, or stands in many buckets at once.
        if copied > MOST_COPIED * heap {
            return Err(ReadError::Busy);
        }
    }
    Ok(all)
}

/// Calls `visit` with every block that a map uses at one moment; see [`Tree::blocks`].
///
/// # Errors
/// [`ReadError`].
pub fn blocks(
    region: &Region,
    handle: Handle,
    kind: Kind,
    mut visit: impl FnMut(Offset),
) -> Result<(), ReadError> {
    let mut found = Vec::new();
    reading::read(region, handle, kind, |object| {
        found.clear();
        Tree::of(region, object).blocks(|offset| found.push(offset))
    })?;
    found.into_iter().for_each(&mut visit);
    Ok(())
}

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
        let hash = hash_of(region, key);
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
        let words = self.region().heap_words(entry.value_offset(), value.len().div_ceil(WORD));
        let words = words.ok_or(TxnError::Damaged)?;
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
        let hash = hash_of(self.region(), key);
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
        let place = self.region().heap_words(offset, words).ok_or(TxnError::Damaged)?;
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
        let half = 1 << new.ilog2();
        let segment = self.segment_for_another(index, object, &before)?;
        // Not there yet, so not logged.
        let last = segment.place(region, new % FAN)?;
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
                directory.place(region, new / reach % FAN)?.word.store(page.0, Relaxed);
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

impl<'r> Tree<'r> {
    /// The lower directory of this number, where there are two levels.
    fn directory(&self, number: u64) -> Result<Page, Broken> {
        Ok(Page(Page(self.root).place(self.region, number)?.word.load(Relaxed)))
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
