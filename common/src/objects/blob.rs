//! Blobs: bytes under a name, read and replaced whole or in ranges.
//!
//! How they lie in the heap is in `chunks`. A range of up to [`MAX_IN_PLACE`] bytes is written over what was there, and that
//! is logged; a longer one is written into copies of its chunks, and only the pointers to them are.

use std::sync::atomic::Ordering::Relaxed;

use crate::ids::Offset;
use crate::layout::Object;
use crate::limits::{MAX_BLOB, MAX_IN_PLACE, PAGE_SIZE};
use crate::objects::buckets::{Page, WORD, pairs};
pub use crate::objects::chunks::{CHUNK, blocks};
use crate::objects::chunks::{CHUNKS, LENGTH, Part, ROOT, Shape, parts};
use crate::objects::reading::{self, ReadError};
use crate::objects::{Handle, Kind};
use crate::planted::{self, Bug};
use crate::region::Region;
use crate::txn::{Transaction, TxnError};

/// A blob in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Blob(pub(crate) Handle);

/// From a handle that was given away; one of another kind finds nothing.
impl From<Handle> for Blob {
    fn from(handle: Handle) -> Self {
        Self(handle)
    }
}

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
