//! How a map lies in the heap: linear hashing, growing by one bucket at a time.
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

use crate::heap;
use crate::ids::Offset;
use crate::layout::Object;
use crate::limits::{MAX_KEY, MAX_VALUE, WORDS_OF_PAGE};
use crate::objects::reading::Broken;
use crate::region::Region;

/// The words of an object's body that make it a map.
pub(crate) const COUNT: usize = 0;
pub(crate) const BUCKETS: usize = 1;
pub(crate) const ROOT: usize = 2;

/// Words of a page: buckets of a segment, pointers of a directory.
pub(crate) const FAN: u64 = WORDS_OF_PAGE as u64;
pub(crate) const WORD: usize = size_of::<u64>();

/// Most buckets: what two levels of directories reach.
pub(crate) const MOST_BUCKETS: u64 = FAN * FAN * FAN;

/// A chain longer than this was scribbled into a ring: keys are spread by a secret.
pub(crate) const LONGEST_CHAIN: usize = 4096;

/// The words of an entry before its key.
pub(crate) const NEXT: usize = 0;
pub(crate) const HASH: usize = 1;
pub(crate) const LENGTHS: usize = 2;
pub(crate) const KEY: usize = 3;

/// A link is the offset of an entry, below the highest bits of its hash: so an entry whose link has other bits is passed
/// over without a look at it, but for its next link.
pub(crate) const TAG_SHIFT: u32 = 48;

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
pub(crate) fn link_to(offset: Offset, hash: u64) -> u64 {
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
    pub(crate) region: &'r Region,
    pub(crate) buckets: u64,
    pub(crate) root: u64,
}

/// An entry and the word that points to it.
pub(crate) struct Found<'r> {
    pub(crate) link: Place<'r>,
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
    pub(crate) key: &'r [AtomicU64],
    pub(crate) value: &'r [AtomicU64],
    pub(crate) key_length: usize,
    pub(crate) value_length: usize,
}

impl<'r> Tree<'r> {
    #[inline]
    pub(crate) fn of(region: &'r Region, object: &Object) -> Self {
        let [buckets, root] = [BUCKETS, ROOT].map(|index| object.body[index].load(Relaxed));
        Self { region, buckets, root }
    }

    /// The word that is the bucket of this number.
    #[inline]
    pub(crate) fn bucket(&self, number: u64) -> Result<Place<'r>, Broken> {
        self.segment(number)?.place(self.region, number % FAN)
    }

    /// The page that this bucket is on.
    pub(crate) fn segment(&self, number: u64) -> Result<Page, Broken> {
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

    #[inline(always)]
    pub(crate) fn find(&self, hash: u64, key: &[u8]) -> Result<Option<Found<'r>>, Broken> {
        if self.buckets == 0 {
            return Ok(None);
        }
        let link = self.bucket(bucket_of(hash, self.buckets))?;
        let first = link.word.load(Relaxed);
        // Mostly it is the bucket's first: so that one is looked at where this is called, and the others elsewhere.
        match self.entry_of(first, hash, key)? {
            Some(entry) => Ok(Some(Found { link, entry })),
            None => self.find_behind(first, hash, key),
        }
    }

    /// Goes on behind the entry that `next` leads to, the first of a chain.
    #[inline(never)]
    fn find_behind(&self, mut next: u64, hash: u64, key: &[u8]) -> Result<Option<Found<'r>>, Broken> {
        for _ in 1..LONGEST_CHAIN {
            if next == 0 {
                return Ok(None);
            }
            let offset = target(next);
            if (next ^ hash) >> TAG_SHIFT == 0 {
                // It was looked at, and is another's; if it is damaged that is told, not passed over.
                Entry::at(self.region, offset)?;
            }
            let words = self.region.heap_words(offset, NEXT + 1).ok_or(Broken)?;
            let link = Place { offset, word: &words[NEXT] };
            next = link.word.load(Relaxed);
            if let Some(entry) = self.entry_of(next, hash, key)? {
                return Ok(Some(Found { link, entry }));
            }
        }
        if next == 0 { Ok(None) } else { Err(Broken) }
    }

    /// The entry that a link leads to, if it is this key's.
    #[inline(always)]
    fn entry_of(&self, link: u64, hash: u64, key: &[u8]) -> Result<Option<Entry<'r>>, Broken> {
        if link == 0 || (link ^ hash) >> TAG_SHIFT != 0 {
            return Ok(None);
        }
        let offset = target(link);
        // Where the value lies is known from the entry's lengths only: one miss of the caches after another.
        self.region.prefetch(Offset(offset.0 + 64));
        self.region.prefetch(Offset(offset.0 + 96));
        Entry::of_key(self.region, offset, hash, key)
    }

    /// The entries of one bucket, from its first on.
    pub(crate) fn chain(&self, number: u64) -> Result<Vec<Entry<'r>>, Broken> {
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
    pub(crate) fn descendants(
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
    pub(crate) fn check(region: &Region, buckets: u64) -> Result<(), Broken> {
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

    /// The lower directory of this number, where there are two levels.
    pub(crate) fn directory(&self, number: u64) -> Result<Page, Broken> {
        Ok(Page(Page(self.root).place(self.region, number)?.word.load(Relaxed)))
    }
}

/// A page of buckets or of pointers, which may be anything.
#[derive(Clone, Copy)]
pub(crate) struct Page(pub(crate) u64);

impl Page {
    #[inline]
    pub(crate) fn place(self, region: &Region, number: u64) -> Result<Place<'_>, Broken> {
        // The page is looked at and not the word, which is on it.
        let page = region.heap_page(Offset(self.0)).ok_or(Broken)?;
        let word = page.get(number as usize).ok_or(Broken)?;
        Ok(Place { offset: Offset(self.0 + number * WORD as u64), word })
    }
}

impl<'r> Entry<'r> {
    #[inline]
    pub(crate) fn at(region: &'r Region, offset: Offset) -> Result<Self, Broken> {
        let head = region.heap_words(offset, KEY).ok_or(Broken)?;
        Self::of_lengths(region, offset, head[LENGTHS].load(Relaxed))
    }

    /// The entry, if its key is this one. One that has another is not looked at further.
    #[inline(always)]
    fn of_key(region: &'r Region, offset: Offset, hash: u64, key: &[u8]) -> Result<Option<Self>, Broken> {
        let head = region.heap_words(offset, KEY).ok_or(Broken)?;
        let [its_hash, lengths] = [HASH, LENGTHS].map(|index| head[index].load(Relaxed));
        if its_hash != hash || lengths & 0xffff_ffff != key.len() as u64 {
            return Ok(None);
        }
        let entry = Self::of_lengths(region, offset, lengths)?;
        Ok(entry.has_key(key).then_some(entry))
    }

    /// The entry, if its word of lengths is this one.
    #[inline(always)]
    pub(crate) fn of_lengths(region: &'r Region, offset: Offset, lengths: u64) -> Result<Self, Broken> {
        let (key_length, value_length) = ((lengths & 0xffff_ffff) as usize, (lengths >> 32) as usize);
        if key_length > MAX_KEY || value_length > MAX_VALUE {
            return Err(Broken);
        }
        let (key, value) = (words_for(key_length), words_for(value_length));
        let (head, body) = region.heap_words(offset, KEY + key + value).ok_or(Broken)?.split_at(KEY);
        let (key, value) = body.split_at(key);
        Ok(Self { offset, head, key, value, key_length, value_length })
    }

    #[inline]
    pub(crate) fn next(&self) -> Place<'r> {
        Place { offset: self.offset, word: &self.head[NEXT] }
    }

    #[inline(always)]
    pub(crate) fn has_key(&self, key: &[u8]) -> bool {
        let (whole, rest) = key.as_chunks::<WORD>();
        self.key_length == key.len()
            && self
                .key
                .iter()
                .zip(whole)
                .all(|(word, bytes)| word.load(Relaxed) == u64::from_le_bytes(*bytes))
            && (rest.is_empty() || self.key.last().is_some_and(|word| word.load(Relaxed) == filled_up(rest)))
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

    /// The words of the key, and how many bytes of them it has.
    pub(crate) fn key_words(&self) -> (&'r [AtomicU64], usize) {
        (self.key, self.key_length)
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
pub(crate) fn pairs<'a>(
    words: &'a [AtomicU64],
    bytes: &'a [u8],
) -> impl Iterator<Item = (&'a AtomicU64, u64)> {
    let (whole, rest) = bytes.as_chunks::<WORD>();
    let last = words.get(whole.len()).filter(|_| !rest.is_empty()).map(|word| (word, filled_up(rest)));
    words.iter().zip(whole).map(|(word, bytes)| (word, u64::from_le_bytes(*bytes))).chain(last)
}

/// How many words so many bytes need, which are as few as a key or a value has.
#[inline]
#[expect(clippy::manual_div_ceil, reason = "div_ceil does for any number, with more instructions")]
fn words_for(bytes: usize) -> usize {
    (bytes + WORD - 1) / WORD
}

/// The last word of bytes that do not fill it.
#[inline]
fn filled_up(rest: &[u8]) -> u64 {
    let mut filled = [0; WORD];
    filled[..rest.len()].copy_from_slice(rest);
    u64::from_le_bytes(filled)
}

#[inline]
pub(crate) fn append(words: &[AtomicU64], length: usize, bytes: &mut Vec<u8>) {
    copy(words, length, bytes.len(), bytes);
}

/// Makes `length` bytes of these words what `bytes` holds from `start` on.
#[inline]
pub(crate) fn copy(words: &[AtomicU64], length: usize, start: usize, bytes: &mut Vec<u8>) {
    // Made long enough first: pushing each word would look each time whether there is room.
    bytes.resize(start + size_of_val(words), 0);
    for (place, word) in bytes[start..].as_chunks_mut::<WORD>().0.iter_mut().zip(words) {
        *place = word.load(Relaxed).to_le_bytes();
    }
    bytes.truncate(start + length);
}
