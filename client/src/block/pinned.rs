//! Content that is used where it lies.

use std::sync::Arc;

use common::ids::Offset;
use common::planted::{self, Bug};
use common::sys::copy;

use super::failure::Result;
use super::file::{Block, damaged};
use super::layout::Head;

/// Content that stays as it is while this is there. It needs neither the [`Consumer`](super::Consumer) nor the block's name
/// any more.
///
/// A large content lies in the block: the kernel holds a lock for it, which every producer respects, and takes it off
/// should this process die. A small one (16 KiB at most) is a copy, which is faster than a lock.
///
/// There is no `&[u8]` here. That nobody writes to the content is a promise of all the programs that use this library; a
/// program that writes to the file by other means would break what the compiler assumes of a slice, and no check in this
/// process can exclude it. So the bytes are copied out, in whole or in part, or used through [`Pinned::pointer`] by whoever
/// takes the promise.
#[derive(Debug)]
pub struct Pinned {
    version: u64,
    length: usize,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Own(Vec<u8>),
    Shared { block: Arc<Block>, buffer: u64 },
}

impl Pinned {
    /// Pins what `head` tells of; `None` where it is not there any more.
    pub(super) fn take(block: &Arc<Block>, head: Head) -> Result<Option<Self>> {
        if !block.geometry().is_large() {
            let mut copy = Vec::new();
            let version = block.copy(head, &mut copy)?;
            return Ok(version.map(|version| Self { version, length: copy.len(), bytes: Bytes::Own(copy) }));
        }
        let Some(found) = block.find(head)? else { return Ok(None) };
        if !block.pin(found.buffer)? {
            return Ok(None);
        }
        let bytes = Bytes::Shared { block: Arc::clone(block), buffer: found.buffer };
        let pinned = Self { version: found.version, length: found.length as usize, bytes };
        // Between the two it may have been overwritten. From here on it is not.
        let holds = planted::has(Bug::PinTrusted) || block.still_holds(found.buffer, found.version);
        Ok(holds.then_some(pinned))
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Its bytes; at least one.
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Copies from `offset` on; false where so many bytes are not there.
    #[must_use]
    pub fn copy_to(&self, offset: usize, into: &mut [u8]) -> bool {
        let Some(end) = offset.checked_add(into.len()).filter(|end| *end <= self.length) else {
            return false;
        };
        match &self.bytes {
            Bytes::Own(bytes) => into.copy_from_slice(&bytes[offset..end]),
            Bytes::Shared { block, buffer } => {
                let at = block.geometry().buffer(*buffer) + offset as u64;
                return copy::out_of(block.mapping(), Offset(at), into);
            }
        }
        true
    }

    /// All of it, piece by piece, in a buffer of a few pages: for checksums, and for writing it elsewhere.
    ///
    /// # Errors
    /// What `use_piece` gives.
    pub fn for_each_piece<E>(
        &self,
        mut use_piece: impl FnMut(&[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut piece = [0; 8 * 1024];
        for offset in (0..self.length).step_by(piece.len()) {
            let piece = &mut piece[..(self.length - offset).min(8 * 1024)];
            if self.copy_to(offset, piece) {
                use_piece(piece)?;
            }
        }
        Ok(())
    }

    /// Where the bytes are, for as long as this is there.
    ///
    /// # Errors
    /// A block that is damaged.
    pub fn pointer(&self) -> Result<*const u8> {
        match &self.bytes {
            Bytes::Own(bytes) => Ok(bytes.as_ptr()),
            Bytes::Shared { block, buffer } => {
                let at = Offset(block.geometry().buffer(*buffer));
                block.mapping().pointer(at, self.length).ok_or_else(damaged)
            }
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Bytes::Shared { block, buffer } = &self.bytes {
            block.unpin(*buffer);
        }
    }
}
