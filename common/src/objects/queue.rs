//! Queues: items in order, to be put in and taken out at both ends: first in, first out, or last in, first out.
//!
//! An item is a block, linked with its neighbours. What the links before the first and behind the last item hold does not
//! matter: so taking an item out changes none of its neighbours.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

use crate::bell::{self, Side};
use crate::heap;
use crate::ids::Offset;
use crate::layout::Object;
use crate::limits::MAX_ITEM;
use crate::objects::buckets::{WORD, append, pairs};
use crate::objects::reading::{self, Broken, ReadError};
use crate::objects::{Handle, Kind};
use crate::planted::{self, Bug};
use crate::region::Region;
use crate::txn::{Transaction, TxnError};

/// The words of an object's body that make it a queue.
pub(crate) const COUNT: usize = 0;
pub(crate) const FIRST: usize = 1;
pub(crate) const LAST: usize = 2;
/// Most items that it is to have; 0 = any number.
pub(crate) const CAPACITY: usize = 3;
/// Who sleeps until it changes, see `bell`. Never logged.
pub(crate) const SLEEPERS: usize = 4;

/// How many of them a change of the items changes.
const CHANGED: usize = 3;

/// The words of an item's block before its bytes.
pub(crate) const NEXT: usize = 0;
pub(crate) const PREVIOUS: usize = 1;
pub(crate) const LENGTH: usize = 2;
/// In flight: the how manieth item it is that was taken through its slot.
pub(crate) const SERIAL: usize = 3;
pub(crate) const BYTES: usize = 4;

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

/// One item's block, its bounds checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<'r> {
    pub(crate) offset: Offset,
    pub(crate) head: &'r [AtomicU64],
    pub(crate) bytes: &'r [AtomicU64],
    pub(crate) length: usize,
}

impl<'r> Node<'r> {
    #[inline]
    pub(crate) fn at(region: &'r Region, offset: Offset) -> Result<Self, Broken> {
        let length = region.heap_words(offset, BYTES).ok_or(Broken)?[LENGTH].load(Relaxed) as usize;
        Self::of_length(region, offset, length)
    }

    /// The item, if it has so many bytes.
    #[inline]
    pub(crate) fn of_length(region: &'r Region, offset: Offset, length: usize) -> Result<Self, Broken> {
        if length > MAX_ITEM {
            return Err(Broken);
        }
        let words = region.heap_words(offset, BYTES + length.div_ceil(WORD)).ok_or(Broken)?;
        let (head, bytes) = words.split_at(BYTES);
        Ok(Self { offset, head, bytes, length })
    }

    #[inline]
    fn at_end(region: &'r Region, object: &Object, end: End) -> Result<Option<Self>, Broken> {
        if object.body[COUNT].load(Relaxed) == 0 {
            return Ok(None);
        }
        Self::at(region, Offset(object.body[end.word()].load(Relaxed))).map(Some)
    }

    fn to_vec(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        append(self.bytes, self.length, &mut bytes);
        bytes
    }

    /// Bytes that it takes of its block.
    pub(crate) fn size(&self) -> usize {
        (BYTES + self.bytes.len()) * WORD
    }
}

impl End {
    /// The word of the body that leads to it.
    const fn word(self) -> usize {
        match self {
            Self::Front => FIRST,
            Self::Back => LAST,
        }
    }

    /// The link of an item that leads away from this end.
    const fn inward(self) -> usize {
        match self {
            Self::Front => NEXT,
            Self::Back => PREVIOUS,
        }
    }

    /// The link that leads towards it.
    const fn outward(self) -> usize {
        match self {
            Self::Front => PREVIOUS,
            Self::Back => NEXT,
        }
    }
}

fn each<'r>(
    region: &'r Region,
    object: &Object,
    mut visit: impl FnMut(Node<'r>) -> Result<(), Broken>,
) -> Result<(), Broken> {
    let count = object.body[COUNT].load(Relaxed);
    if count > heap::most_blocks(region) {
        return Err(Broken);
    }
    let mut at = object.body[FIRST].load(Relaxed);
    for _ in 0..count {
        let node = Node::at(region, Offset(at))?;
        at = node.head[NEXT].load(Relaxed);
        visit(node)?;
    }
    Ok(())
}

/// Calls `visit` with every block that a queue uses at one moment.
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
        each(region, object, |node| {
            found.push(node.offset);
            Ok(())
        })
    })?;
    found.into_iter().for_each(&mut visit);
    Ok(())
}

/// Whom the giving back of a queue's lock wakes.
#[derive(Debug)]
pub(crate) struct Bell {
    sleepers: u64,
    sides: [bool; 2],
    gone: bool,
}

/// Under a queue's lock: whom to wake once it is given back. Whoever is woken and leaves something for another wakes the
/// next: so one is enough, however many items there are.
#[inline]
pub(crate) fn bell(object: &Object) -> Option<Bell> {
    let sleepers = object.body[SLEEPERS].load(Acquire);
    if !bell::is_any_waited_for(sleepers) {
        return None;
    }
    if planted::has(Bug::BatonDropped) && object.seq.load(Relaxed).is_multiple_of(2) {
        return None;
    }
    let gone = Kind::of(object.identity.load(Relaxed)) != Some(Kind::Queue);
    let gone = gone && !planted::has(Bug::DeletedQuietly);
    let sides = Side::ALL.map(|side| bell::is_waited_for(sleepers, side) && is_ready(object, side));
    Some(Bell { sleepers, sides, gone })
}

impl Bell {
    /// Wakes them.
    #[cold]
    pub(crate) fn ring(&self, object: &Object) {
        if self.gone {
            return bell::ring_all(&object.seq);
        }
        for (side, ready) in Side::ALL.into_iter().zip(self.sides) {
            if ready {
                bell::ring(&object.seq, &object.body[SLEEPERS], self.sleepers, side);
            }
        }
    }
}

/// Whether there is what is waited for.
#[inline]
pub(crate) fn is_ready(object: &Object, side: Side) -> bool {
    let count = object.body[COUNT].load(Relaxed);
    match side {
        Side::Item => count > 0,
        Side::Room => {
            let capacity = object.body[CAPACITY].load(Relaxed);
            capacity == 0 || count < capacity
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
        item.clear();
        if self.is_empty() {
            return Ok(false);
        }
        self.txn.attempt(|txn| {
            let node = txn.unlink_item(self.queue.0.index, self.object, end)?;
            append(node.bytes, node.length, item);
            txn.free(node.offset)
        })?;
        Ok(true)
    }
}

impl<'r> Transaction<'_, 'r> {
    #[inline]
    fn push(&mut self, index: u32, object: &'r Object, end: End, item: &[u8]) -> Result<(), TxnError> {
        if item.len() > MAX_ITEM {
            return Err(TxnError::TooLong);
        }
        let words = BYTES + item.len().div_ceil(WORD);
        let offset = self.allocate(words * WORD)?;
        let (head, bytes) = self.fresh(offset, words)?.split_at(BYTES);
        head[LENGTH].store(item.len() as u64, Relaxed);
        head[SERIAL].store(0, Relaxed);
        pairs(bytes, item).for_each(|(word, bytes)| word.store(bytes, Relaxed));
        self.link_item(index, object, end, offset)
    }

    /// Makes a block an item of a queue, under its lock. Nobody else knows the block: whether its own links have to be
    /// logged is for the caller to say.
    pub(crate) fn link_item(
        &mut self,
        index: u32,
        object: &'r Object,
        end: End,
        offset: Offset,
    ) -> Result<(), TxnError> {
        let count = object.body[COUNT].load(Relaxed);
        let neighbour = object.body[end.word()].load(Relaxed);
        let head = self.fresh(offset, BYTES)?;
        head[end.inward()].store(if count == 0 { 0 } else { neighbour }, Relaxed);
        head[end.outward()].store(0, Relaxed);
        self.note_body(index, object, CHANGED)?;
        if count == 0 {
            object.body[FIRST].store(offset.0, Relaxed);
            object.body[LAST].store(offset.0, Relaxed);
        } else {
            let link = Offset(neighbour.wrapping_add((end.outward() * WORD) as u64));
            if planted::has(Bug::LinkNotLogged) {
                self.fresh(link, 1)?[0].store(offset.0, Relaxed);
            } else {
                self.change_word(link, offset.0)?;
            }
            object.body[end.word()].store(offset.0, Relaxed);
        }
        object.body[COUNT].store(count.wrapping_add(1), Relaxed);
        Ok(())
    }

    /// Takes the item at one end, of which there is at least one, out of a queue under its lock. The block is still in use.
    #[inline]
    pub(crate) fn unlink_item(
        &mut self,
        index: u32,
        object: &'r Object,
        end: End,
    ) -> Result<Node<'r>, TxnError> {
        let count = object.body[COUNT].load(Relaxed);
        let node = Node::at_end(self.region(), object, end)?.ok_or(TxnError::Damaged)?;
        self.note_body(index, object, CHANGED)?;
        if count == 1 {
            object.body[FIRST].store(0, Relaxed);
            object.body[LAST].store(0, Relaxed);
        } else {
            object.body[end.word()].store(node.head[end.inward()].load(Relaxed), Relaxed);
        }
        object.body[COUNT].store(count - 1, Relaxed);
        Ok(node)
    }
}
