//! Taking apart what was deleted: nobody finds it any more, and its blocks are freed in as many transactions as it takes.

use std::sync::atomic::Ordering::Relaxed;

use crate::layout::Object;
use crate::objects::{Handle, Kind, chunks, items, queue};
use crate::txn::{Transaction, TxnError};

/// What a deletion still logs in one transaction, in words: the rest is for the next one.
pub(crate) const DRAIN_ROOM: usize = 64;

impl<'r> Transaction<'_, 'r> {
    /// Frees what a deleted object still holds, as much as one transaction can; its entry is free at last. True once it
    /// is.
    pub(crate) fn drop_some(&mut self, index: u32, object: &'r Object) -> Result<bool, TxnError> {
        let identity = object.identity.load(Relaxed);
        let handle = Handle { index, generation: (identity >> 32) as u32 };
        let kind = Kind::of(identity).filter(|kind| kind.is_dropping()).ok_or(TxnError::NotFound)?;
        self.lock(handle, kind)?;
        let done = match kind {
            Kind::DroppingQueue => self.drain_queue(index, object)?,
            Kind::DroppingBlob => self.drain_blob(index, object)?,
            _ => self.drain(index, object)?,
        };
        if done {
            self.set_body(index, object, 0, 0)?;
            self.set_identity(index, object, handle.identity(Kind::Free))?;
        }
        Ok(done)
    }

    fn drain_queue(&mut self, index: u32, object: &'r Object) -> Result<bool, TxnError> {
        while object.body[items::COUNT].load(Relaxed) > 0 {
            if self.seat.log.room() < DRAIN_ROOM {
                return Ok(false);
            }
            let node = self.unlink_item(index, object, queue::End::Front)?;
            self.free(node.offset)?;
        }
        Ok(true)
    }

    /// From the last chunk on; what is left without chunks is one block.
    fn drain_blob(&mut self, index: u32, object: &'r Object) -> Result<bool, TxnError> {
        while let Some(last) = chunks::last_block(self.region(), object)? {
            if self.seat.log.room() < DRAIN_ROOM {
                return Ok(false);
            }
            self.free(last)?;
            let chunks = object.body[chunks::CHUNKS].load(Relaxed);
            match chunks.checked_sub(1) {
                Some(fewer) => self.set_body(index, object, chunks::CHUNKS, fewer)?,
                None => self.set_body(index, object, chunks::ROOT, 0)?,
            }
        }
        Ok(true)
    }
}
