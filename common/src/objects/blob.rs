//! Blobs: bytes under a name, read and replaced whole or in ranges.
//!
//! Up to [`CHUNK`] bytes are one block. What is longer is cut into such chunks, which a page of pointers leads to. A range
//! of up to [`MAX_IN_PLACE`] bytes is written over what was there, and that is logged; a longer one is written into copies
//! of its chunks, and only the pointers to them are.

use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::ids::Offset;
use crate::layout::Object;
use crate::limits::{MAX_BLOB, MAX_BLOCK_PAGES, MAX_IN_PLACE, PAGE_SIZE};
use crate::objects::buckets::{Page, WORD, pairs};
use crate::objects::reading::{self, Broken, ReadError};
use crate::objects::{Handle, Kind};
use crate::planted::{self, Bug};
use crate::region::Region;
use crate::txn::{Transaction, TxnError};

/// The words of an object's body that make it a blob.
pub(crate) const LENGTH: usize = 0;
/// How many chunks a page of pointers leads to; 0 = the root is the only block, or there is none.
pub(crate) const CHUNKS: usize = 1;
pub(crate) const ROOT: usize = 2;

/// Bytes of a chunk: the longest block that there is.
pub const CHUNK: usize = MAX_BLOCK_PAGES as usize * PAGE_SIZE as usize;

const _: () = assert!(MAX_BLOB / CHUNK as u64 <= PAGE_SIZE / WORD as u64);

/// A blob in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Blob(pub(crate) Handle);

/// A blob under the lock of a transaction.
#[derive(Debug)]
pub struct LockedBlob<'t, 's, 'r> {
    pub(crate) txn: &'t mut Transaction<'s, 'r>,
    pub(crate) index: u32,
    pub(crate) object: &'r Object,
}

impl Blob {
    /// How many bytes it has, as last committed.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn len(self, region: &Region) -> Result<u64, ReadError> {
        reading::read(region, self.0, Kind::Blob, |object| Ok(object.body[LENGTH].load(Relaxed)))
    }

    /// Whether it has none.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn is_empty(self, region: &Region) -> Result<bool, ReadError> {
        Ok(self.len(region)? == 0)
    }

    /// A copy of all of it, as it was at one moment.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn get(self, region: &Region) -> Result<Vec<u8>, ReadError> {
        let mut bytes = Vec::new();
        reading::read(region, self.0, Kind::Blob, |object| {
            let shape = Shape::of(region, object);
            shape.check()?;
            bytes.resize(shape.length as usize, 0);
            shape.read(0, &mut bytes)
        })?;
        Ok(bytes)
    }

    /// Fills `bytes` with what is in the blob from `offset` on, as it was at one moment. False where it does not reach so
    /// far.
    ///
    /// # Errors
    /// [`ReadError`].
    #[inline]
    pub fn read_at(self, region: &Region, offset: u64, bytes: &mut [u8]) -> Result<bool, ReadError> {
        reading::read(region, self.0, Kind::Blob, |object| {
            let shape = Shape::of(region, object);
            let end = offset.checked_add(bytes.len() as u64);
            if end.is_none_or(|end| end > shape.length) {
                return Ok(false);
            }
            shape.read(offset, bytes).map(|()| true)
        })
    }

    /// Which entry of the object table it is, in which generation.
    pub fn handle(self) -> Handle {
        self.0
    }
}

/// A blob's body, as it says at this moment.
#[derive(Clone, Copy)]
struct Shape<'r> {
    region: &'r Region,
    length: u64,
    chunks: u64,
    root: u64,
}

impl<'r> Shape<'r> {
    #[inline]
    fn of(region: &'r Region, object: &Object) -> Self {
        let [length, chunks, root] = [LENGTH, CHUNKS, ROOT].map(|word| object.body[word].load(Relaxed));
        Self { region, length, chunks, root }
    }

    fn check(&self) -> Result<(), Broken> {
        let chunked = self.length > CHUNK as u64;
        let chunks = if chunked { self.length.div_ceil(CHUNK as u64) } else { 0 };
        (self.length <= MAX_BLOB && self.chunks == chunks).then_some(()).ok_or(Broken)
    }

    /// Where the chunk of this number begins.
    #[inline]
    fn chunk(&self, number: u64) -> Result<Offset, Broken> {
        if self.chunks == 0 {
            return if number == 0 { Ok(Offset(self.root)) } else { Err(Broken) };
        }
        if number >= self.chunks || self.chunks > MAX_BLOB / CHUNK as u64 {
            return Err(Broken);
        }
        Ok(Offset(Page(self.root).place(self.region, number)?.word.load(Relaxed)))
    }

    #[inline]
    fn read(&self, from: u64, bytes: &mut [u8]) -> Result<(), Broken> {
        let mut done = 0;
        for part in parts(from, bytes.len()) {
            let words = part.words(self.region, self.chunk(part.number)?)?;
            part.copy(words, &mut bytes[done..done + part.length]);
            done += part.length;
        }
        Ok(())
    }
}

/// What a range of a blob is of one chunk.
#[derive(Clone, Copy, Debug)]
struct Part {
    number: u64,
    start: usize,
    length: usize,
}

/// The parts of a range, chunk by chunk.
#[inline]
fn parts(from: u64, length: usize) -> impl Iterator<Item = Part> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = from + done as u64;
        let start = (at % CHUNK as u64) as usize;
        let part = Part { number: at / CHUNK as u64, start, length: (length - done).min(CHUNK - start) };
        done += part.length;
        (part.length > 0).then_some(part)
    })
}

impl Part {
    fn words_range(&self) -> Range<usize> {
        self.start / WORD..(self.start + self.length).div_ceil(WORD)
    }

    /// The words of the chunk that the part lies in.
    #[inline]
    fn words<'r>(&self, region: &'r Region, chunk: Offset) -> Result<&'r [AtomicU64], Broken> {
        let range = self.words_range();
        let offset = Offset(chunk.0.wrapping_add((range.start * WORD) as u64));
        region.heap_words(offset, range.len()).ok_or(Broken)
    }

    /// Copies the part out of its words.
    #[inline]
    fn copy(&self, words: &[AtomicU64], bytes: &mut [u8]) {
        let skip = self.start % WORD;
        if skip == 0 {
            let (whole, rest) = bytes.as_chunks_mut::<WORD>();
            for (place, word) in whole.iter_mut().zip(words) {
                *place = word.load(Relaxed).to_le_bytes();
            }
            if let (false, Some(last)) = (rest.is_empty(), words.last()) {
                let length = rest.len();
                rest.copy_from_slice(&last.load(Relaxed).to_le_bytes()[..length]);
            }
            return;
        }
        let source = words.iter().flat_map(|word| word.load(Relaxed).to_le_bytes());
        bytes.iter_mut().zip(source.skip(skip)).for_each(|(place, byte)| *place = byte);
    }

    /// Writes the part over its words.
    fn overlay(&self, words: &[AtomicU64], bytes: &[u8]) {
        let skip = self.start % WORD;
        let mut filled: Vec<u8> = words.iter().flat_map(|word| word.load(Relaxed).to_le_bytes()).collect();
        filled[skip..skip + bytes.len()].copy_from_slice(bytes);
        pairs(words, &filled).for_each(|(word, content)| word.store(content, Relaxed));
    }
}

/// The last of a blob's blocks: its last chunk, or where there is none its root.
pub(crate) fn last_block(region: &Region, object: &Object) -> Result<Option<Offset>, Broken> {
    let shape = Shape::of(region, object);
    match shape.chunks.checked_sub(1) {
        Some(last) => shape.chunk(last).map(Some),
        None => Ok((shape.root != 0).then_some(Offset(shape.root))),
    }
}

/// Calls `visit` with every block that a blob uses at one moment.
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
        let shape = Shape::of(region, object);
        if shape.root != 0 {
            found.push(Offset(shape.root));
        }
        for number in 0..shape.chunks.min(MAX_BLOB / CHUNK as u64 + 1) {
            found.push(shape.chunk(number)?);
        }
        Ok(())
    })?;
    found.into_iter().for_each(&mut visit);
    Ok(())
}

impl LockedBlob<'_, '_, '_> {
    /// How many bytes it has, with what this transaction has changed.
    pub fn len(&self) -> u64 {
        self.object.body[LENGTH].load(Relaxed)
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy of all of it, with what this transaction has changed.
    ///
    /// # Errors
    /// [`TxnError::Damaged`]; the transaction is rolled back then.
    pub fn get(&mut self) -> Result<Vec<u8>, TxnError> {
        self.txn.attempt(|txn| {
            let shape = Shape::of(txn.region(), self.object);
            shape.check()?;
            let mut bytes = vec![0; shape.length as usize];
            shape.read(0, &mut bytes)?;
            Ok(bytes)
        })
    }

    /// Fills `bytes` with what is in it from `offset` on.
    ///
    /// # Errors
    /// [`TxnError::OutOfRange`] where it does not reach so far; the transaction is rolled back then.
    pub fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), TxnError> {
        self.txn.attempt(|txn| {
            let shape = Shape::of(txn.region(), self.object);
            check_range(&shape, offset, bytes.len())?;
            Ok(shape.read(offset, bytes)?)
        })
    }

    /// Replaces all of it.
    ///
    /// # Errors
    /// [`TxnError::TooLong`] above [`MAX_BLOB`], [`TxnError::Full`], [`TxnError::TooLarge`]; the transaction is rolled
    /// back then.
    pub fn set(&mut self, bytes: &[u8]) -> Result<(), TxnError> {
        self.txn.attempt(|txn| txn.replace_blob(self.index, self.object, bytes))
    }

    /// Replaces what is in it from `offset` on by as many bytes. Its length stays as it is.
    ///
    /// # Errors
    /// [`TxnError::OutOfRange`] where it does not reach so far, [`TxnError::Full`], [`TxnError::TooLarge`]; the
    /// transaction is rolled back then.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), TxnError> {
        self.txn.attempt(|txn| txn.write_blob(self.index, self.object, offset, bytes))
    }
}

fn check_range(shape: &Shape<'_>, offset: u64, length: usize) -> Result<(), TxnError> {
    let end = offset.checked_add(length as u64).filter(|end| *end <= shape.length);
    end.map(drop).ok_or(TxnError::OutOfRange)
}

impl<'r> Transaction<'_, 'r> {
    fn replace_blob(&mut self, index: u32, object: &'r Object, bytes: &[u8]) -> Result<(), TxnError> {
        if bytes.len() as u64 > MAX_BLOB {
            return Err(TxnError::TooLong);
        }
        let old = Shape::of(self.region(), object);
        old.check()?;
        if old.length == bytes.len() as u64 && bytes.len() <= MAX_IN_PLACE {
            return self.write_blob(index, object, 0, bytes);
        }
        let (chunks, root) = match bytes.len() {
            0 => (0, 0),
            1..=CHUNK => (0, self.write_chunk(bytes)?.0),
            _ => self.write_chunks(bytes)?,
        };
        self.note_body(index, object, 3)?;
        for (word, value) in [(LENGTH, bytes.len() as u64), (CHUNKS, chunks), (ROOT, root)] {
            object.body[word].store(value, Relaxed);
        }
        for number in 0..old.chunks {
            self.free(old.chunk(number)?)?;
        }
        if old.root != 0 { self.free(Offset(old.root)) } else { Ok(()) }
    }

    /// Writes a chunk where nobody sees it yet.
    fn write_chunk(&mut self, bytes: &[u8]) -> Result<Offset, TxnError> {
        let offset = self.allocate(bytes.len())?;
        let words = self.fresh(offset, bytes.len().div_ceil(WORD))?;
        pairs(words, bytes).for_each(|(word, content)| word.store(content, Relaxed));
        Ok(offset)
    }

    fn write_chunks(&mut self, bytes: &[u8]) -> Result<(u64, u64), TxnError> {
        let directory = self.allocate(PAGE_SIZE as usize)?;
        let pointers = self.fresh(directory, bytes.len().div_ceil(CHUNK))?;
        for (pointer, chunk) in pointers.iter().zip(bytes.chunks(CHUNK)) {
            pointer.store(self.write_chunk(chunk)?.0, Relaxed);
        }
        Ok((pointers.len() as u64, directory.0))
    }

    fn write_blob(
        &mut self,
        index: u32,
        object: &'r Object,
        from: u64,
        bytes: &[u8],
    ) -> Result<(), TxnError> {
        let shape = Shape::of(self.region(), object);
        shape.check()?;
        check_range(&shape, from, bytes.len())?;
        let mut rest = bytes;
        for part in parts(from, bytes.len()) {
            let (now, later) = rest.split_at(part.length);
            rest = later;
            if part.length <= MAX_IN_PLACE || planted::has(Bug::RangeNotLogged) {
                self.write_in_place(index, object, &shape, &part, now)?;
            } else {
                self.write_copy(index, object, &shape, &part, now)?;
            }
        }
        Ok(())
    }

    fn write_in_place(
        &mut self,
        index: u32,
        object: &'r Object,
        shape: &Shape<'r>,
        part: &Part,
        bytes: &[u8],
    ) -> Result<(), TxnError> {
        let chunk = shape.chunk(part.number)?;
        let words = part.words(self.region(), chunk)?;
        self.touch(index, object)?;
        let offset = Offset(chunk.0 + (part.words_range().start * WORD) as u64);
        let noted = if planted::has(Bug::RangeNotLogged) { &words[..1] } else { words };
        self.seat.log.note_words(offset, noted)?;
        part.overlay(words, bytes);
        Ok(())
    }

    fn write_copy(
        &mut self,
        index: u32,
        object: &'r Object,
        shape: &Shape<'r>,
        part: &Part,
        bytes: &[u8],
    ) -> Result<(), TxnError> {
        let old = shape.chunk(part.number)?;
        let length = (shape.length - part.number * CHUNK as u64).min(CHUNK as u64) as usize;
        let count = length.div_ceil(WORD);
        let from = self.region().heap_words(old, count).ok_or(TxnError::Damaged)?;
        let copy = self.allocate(length)?;
        let to = self.fresh(copy, count)?;
        to.iter().zip(from).for_each(|(to, from)| to.store(from.load(Relaxed), Relaxed));
        part.overlay(&to[part.words_range()], bytes);
        self.touch(index, object)?;
        if shape.chunks == 0 {
            self.set_body(index, object, ROOT, copy.0)?;
        } else {
            let pointer = Page(shape.root).place(self.region(), part.number)?;
            self.seat.log.change(pointer.offset, pointer.word, copy.0)?;
        }
        self.free(old)
    }
}

/// Whether a blob of so many bytes can have so many chunks, and blocks for each of them. For verification.
pub fn has_shape(length: u64, chunks: u64, root: u64) -> bool {
    let expected = if length > CHUNK as u64 { length.div_ceil(CHUNK as u64) } else { 0 };
    length <= MAX_BLOB && chunks == expected && (root == 0) == (length == 0)
}

/// How many bytes of a blob's block of this number there are to be.
pub fn chunk_length(length: u64, number: u64) -> usize {
    length.saturating_sub(number * CHUNK as u64).min(CHUNK as u64) as usize
}

/// Most chunks.
pub const MOST_CHUNKS: u64 = MAX_BLOB / CHUNK as u64;
