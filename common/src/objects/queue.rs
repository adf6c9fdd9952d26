//! Queues: items in order, to be put in and taken out at both ends: first in, first out, or last in, first out. How they lie
//! in the heap is in `items`.

use std::sync::atomic::Ordering::Relaxed;

use crate::bell::Side;
use crate::layout::Object;
use crate::objects::buckets::copy;
pub use crate::objects::items::blocks;
use crate::objects::items::{CAPACITY, COUNT, FIRST, LAST, NEXT, Node, PREVIOUS, each};
use crate::objects::reading::{self, ReadError};
use crate::objects::waiting::is_ready;
use crate::objects::{Handle, Kind};
use crate::region::Region;
use crate::txn::{Transaction, TxnError};

/// An end of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// Where the first item is.
    Front,
    /// Where the last one is.
    Back,
}

/// A queue in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Queue(pub(crate) Handle);

/// From a handle that was given away; one of another kind finds nothing.
impl From<Handle> for Queue {
    fn from(handle: Handle) -> Self {
        Self(handle)
    }
}

/// A queue under the lock of a transaction.
#[derive(Debug)]
pub struct LockedQueue<'t, 's, 'r> {
    pub(crate) txn: &'t mut Transaction<'s, 'r>,
    pub(crate) queue: Queue,
    pub(crate) object: &'r Object,
}

impl Queue {
    /// How many items it has, as last committed; those in flight are not among them.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn len(self, region: &Region) -> Result<u64, ReadError> {
        reading::read(region, self.0, Kind::Queue, |object| Ok(object.body[COUNT].load(Relaxed)))
    }

    /// Whether it has none.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn is_empty(self, region: &Region) -> Result<bool, ReadError> {
        Ok(self.len(region)? == 0)
    }

    /// Most items that it takes; `None` for any number.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn capacity(self, region: &Region) -> Result<Option<u64>, ReadError> {
        let capacity =
            reading::read(region, self.0, Kind::Queue, |object| Ok(object.body[CAPACITY].load(Relaxed)))?;
        Ok((capacity != 0).then_some(capacity))
    }

    /// A copy of the item at one end, which stays where it is.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn peek(self, region: &Region, end: End) -> Result<Option<Vec<u8>>, ReadError> {
        reading::read(region, self.0, Kind::Queue, |object| {
            let Some(node) = Node::at_end(region, object, end)? else { return Ok(None) };
            Ok(Some(node.to_vec()))
        })
    }

    /// Copies of all items, the first one first, as they were at one moment. In a queue that changes all the time and is
    /// long there may be no such moment.
    ///
    /// # Errors
    /// [`ReadError::Busy`] and others.
    pub fn items(self, region: &Region) -> Result<Vec<Vec<u8>>, ReadError> {
        reading::read(region, self.0, Kind::Queue, |object| {
            let mut items = Vec::new();
            each(region, object, |node| {
                items.push(node.to_vec());
                Ok(())
            })?;
            Ok(items)
        })
    }

    /// Which entry of the object table it is, in which generation.
    pub fn handle(self) -> Handle {
        self.0
    }
}

impl End {
    /// The word of the body that leads to it.
    pub(crate) const fn word(self) -> usize {
        match self {
            Self::Front => FIRST,
            Self::Back => LAST,
        }
    }

    /// The link of an item that leads away from this end.
    pub(crate) const fn inward(self) -> usize {
        match self {
            Self::Front => NEXT,
            Self::Back => PREVIOUS,
        }
    }

    /// The link that leads towards it.
    pub(crate) const fn outward(self) -> usize {
        match self {
            Self::Front => PREVIOUS,
            Self::Back => NEXT,
        }
    }
}

impl LockedQueue<'_, '_, '_> {
    /// How many items it has, with what this transaction has changed.
    pub fn len(&self) -> u64 {
        self.object.body[COUNT].load(Relaxed)
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes it take at most so many items, or any number with 0. Those that it has stay.
    ///
    /// # Errors
    /// [`TxnError::TooLarge`]; the transaction is rolled back then.
    pub fn set_capacity(&mut self, capacity: u64) -> Result<(), TxnError> {
        self.txn.attempt(|txn| txn.set_body(self.queue.0.index, self.object, CAPACITY, capacity))
    }

    /// Whether it has as many as it takes.
    pub fn is_full(&self) -> bool {
        !is_ready(self.object, Side::Room)
    }

    /// Puts an item behind the last one. False where the queue is full; the transaction goes on then.
    ///
    /// # Errors
    /// [`TxnError::Full`], [`TxnError::TooLarge`], [`TxnError::TooLong`] for an item above
    /// [`MAX_ITEM`](crate::limits::MAX_ITEM); the transaction is rolled back then.
    pub fn push_back(&mut self, item: &[u8]) -> Result<bool, TxnError> {
        self.push(End::Back, item)
    }

    /// Puts an item before the first one, as [`LockedQueue::push_back`].
    ///
    /// # Errors
    /// The same.
    pub fn push_front(&mut self, item: &[u8]) -> Result<bool, TxnError> {
        self.push(End::Front, item)
    }

    /// Puts an item at one end, as [`LockedQueue::push_back`].
    ///
    /// # Errors
    /// The same.
    pub fn push(&mut self, end: End, item: &[u8]) -> Result<bool, TxnError> {
        if self.is_full() {
            return Ok(false);
        }
        self.txn.attempt(|txn| txn.push(self.queue.0.index, self.object, end, item)).map(|()| true)
    }

    /// Takes the first item out; `None` where there is none.
    ///
    /// # Errors
    /// [`TxnError::TooLarge`], [`TxnError::Damaged`]; the transaction is rolled back then.
    pub fn pop_front(&mut self) -> Result<Option<Vec<u8>>, TxnError> {
        self.pop(End::Front)
    }

    /// Takes the last item out; `None` where there is none.
    ///
    /// # Errors
    /// As [`LockedQueue::pop_front`].
    pub fn pop_back(&mut self) -> Result<Option<Vec<u8>>, TxnError> {
        self.pop(End::Back)
    }

    /// Takes the item at one end out; `None` where there is none.
    ///
    /// # Errors
    /// As [`LockedQueue::pop_front`].
    pub fn pop(&mut self, end: End) -> Result<Option<Vec<u8>>, TxnError> {
        let mut item = Vec::new();
        Ok(self.pop_into(end, &mut item)?.then_some(item))
    }

    /// The same into a buffer of the caller's, replacing what was in it. False where there is no item.
    ///
    /// # Errors
    /// As [`LockedQueue::pop_front`].
    #[inline]
    pub fn pop_into(&mut self, end: End, item: &mut Vec<u8>) -> Result<bool, TxnError> {
        if self.is_empty() {
            item.clear();
            return Ok(false);
        }
        self.txn.attempt(|txn| {
            let node = txn.unlink_item(self.queue.0.index, self.object, end)?;
            copy(node.bytes, node.length, 0, item);
            txn.free(node.offset)
        })?;
        Ok(true)
    }
}
