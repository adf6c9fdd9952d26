//! How a blob lies in the heap. Up to [`CHUNK`] bytes are one block. What is longer is cut into such chunks, which a page of
//! pointers leads to.

use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::ids::Offset;
use crate::layout::Object;
use crate::limits::{MAX_BLOB, MAX_BLOCK_PAGES, PAGE_SIZE};
use crate::objects::buckets::{Page, WORD, pairs};
use crate::objects::reading::{self, Broken, ReadError};
use crate::objects::{Handle, Kind};
use crate::region::Region;

/// The words of an object's body that make it a blob.
pub(crate) const LENGTH: usize = 0;
/// How many chunks a page of pointers leads to; 0 = the root is the only block, or there is none.
pub(crate) const CHUNKS: usize = 1;
pub(crate) const ROOT: usize = 2;

/// Bytes of a chunk: the longest block that there is.
pub const CHUNK: usize = MAX_BLOCK_PAGES as usize * PAGE_SIZE as usize;

const _: () = assert!(MAX_BLOB / CHUNK as u64 <= PAGE_SIZE / WORD as u64);

/// A blob's body, as it says at this moment.
#[derive(Clone, Copy)]
pub(crate) struct Shape<'r> {
    pub(crate) region: &'r Region,
    pub(crate) length: u64,
    pub(crate) chunks: u64,
    pub(crate) root: u64,
}

impl<'r> Shape<'r> {
    #[inline]
    pub(crate) fn of(region: &'r Region, object: &Object) -> Self {
        let [length, chunks, root] = [LENGTH, CHUNKS, ROOT].map(|word| object.body[word].load(Relaxed));
        Self { region, length, chunks, root }
    }

    pub(crate) fn check(&self) -> Result<(), Broken> {
        let chunked = self.length > CHUNK as u64;
        let chunks = if chunked { self.length.div_ceil(CHUNK as u64) } else { 0 };
        (self.length <= MAX_BLOB && self.chunks == chunks).then_some(()).ok_or(Broken)
    }

    /// Where the chunk of this number begins.
    #[inline]
    pub(crate) fn chunk(&self, number: u64) -> Result<Offset, Broken> {
        if self.chunks == 0 {
            return if number == 0 { Ok(Offset(self.root)) } else { Err(Broken) };
        }
        if number >= self.chunks || self.chunks > MAX_BLOB / CHUNK as u64 {
            return Err(Broken);
        }
        Ok(Offset(Page(self.root).place(self.region, number)?.word.load(Relaxed)))
    }

    #[inline(always)]
    pub(crate) fn read(&self, from: u64, bytes: &mut [u8]) -> Result<(), Broken> {
        let (start, length) = ((from % CHUNK as u64) as usize, bytes.len());
        // A blob of nothing has no chunk to look into.
        if length == 0 {
            return Ok(());
        }
        if start + length <= CHUNK {
            let part = Part { number: from / CHUNK as u64, start, length };
            if (start | length).is_multiple_of(WORD) {
                return self.read_words(part, bytes);
            }
        }
        self.read_parts(from, bytes)
    }

    /// The same where it is whole words of one chunk, which takes no looking at its ends.
    #[inline(always)]
    fn read_words(&self, part: Part, bytes: &mut [u8]) -> Result<(), Broken> {
        let chunk = self.chunk(part.number)?;
        let offset = Offset(chunk.0.wrapping_add(part.start as u64));
        let places = bytes.as_chunks_mut::<WORD>().0;
        let words = self.region.heap_words(offset, places.len()).ok_or(Broken)?;
        for (place, word) in places.iter_mut().zip(words) {
            *place = word.load(Relaxed).to_le_bytes();
        }
        Ok(())
    }

    /// The same where it begins or ends within a word, or lies in several chunks.
    #[inline(never)]
    fn read_parts(&self, from: u64, bytes: &mut [u8]) -> Result<(), Broken> {
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
pub(crate) struct Part {
    pub(crate) number: u64,
    pub(crate) start: usize,
    pub(crate) length: usize,
}

/// The parts of a range, chunk by chunk.
#[inline]
pub(crate) fn parts(from: u64, length: usize) -> impl Iterator<Item = Part> {
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
    pub(crate) fn words_range(&self) -> Range<usize> {
        self.start / WORD..(self.start + self.length).div_ceil(WORD)
    }

    /// The words of the chunk that the part lies in.
    #[inline]
    pub(crate) fn words<'r>(&self, region: &'r Region, chunk: Offset) -> Result<&'r [AtomicU64], Broken> {
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
    pub(crate) fn overlay(&self, words: &[AtomicU64], bytes: &[u8]) {
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
