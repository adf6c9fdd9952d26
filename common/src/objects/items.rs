//! How a queue lies in the heap: each item is a block, linked with its neighbours. What the links before the first and behind
//! the last item hold does not matter: so taking an item out changes none of its neighbours.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::heap;
use crate::ids::Offset;
use crate::layout::Object;
use crate::limits::{MAX_ITEM, PAGE_SIZE};
use crate::objects::buckets::{WORD, append, pairs};
use crate::objects::queue::End;
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
    pub(crate) fn at_end(region: &'r Region, object: &Object, end: End) -> Result<Option<Self>, Broken> {
        if object.body[COUNT].load(Relaxed) == 0 {
            return Ok(None);
        }
        Self::at(region, Offset(object.body[end.word()].load(Relaxed))).map(Some)
    }

    pub(crate) fn to_vec(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        append(self.bytes, self.length, &mut bytes);
        bytes
    }

    /// Bytes that it takes of its block.
    pub(crate) fn size(&self) -> usize {
        (BYTES + self.bytes.len()) * WORD
    }
}

/// Gives every item, the first one first.
pub(crate) fn each<'r>(
    region: &'r Region,
    object: &Object,
    mut visit: impl FnMut(Node<'r>) -> Result<(), Broken>,
) -> Result<(), Broken> {
    let count = object.body[COUNT].load(Relaxed);
    if count > heap::most_blocks(region) {
        return Err(Broken);
    }
    // Items that lead back to one another would be more than the heap holds.
    let mut room = u64::from(region.geometry().page_count) * PAGE_SIZE;
    let mut at = object.body[FIRST].load(Relaxed);
    for _ in 0..count {
        let node = Node::at(region, Offset(at))?;
        room = room.checked_sub(node.size() as u64).ok_or(Broken)?;
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

impl<'r> Transaction<'_, 'r> {
    #[inline]
    pub(crate) fn push(
        &mut self,
        index: u32,
        object: &'r Object,
        end: End,
        item: &[u8],
    ) -> Result<(), TxnError> {
        if item.len() > MAX_ITEM {
            return Err(TxnError::TooLong);
        }
        let words = BYTES + item.len().div_ceil(WORD);
        let offset = self.allocate(words * WORD)?;
        let (head, bytes) = self.fresh(offset, words)?.split_at(BYTES);
        head[LENGTH].store(item.len() as u64, Relaxed);
        head[SERIAL].store(0, Relaxed);
        pairs(bytes, item).for_each(|(word, bytes)| word.store(bytes, Relaxed));
        self.link_item(index, object, end, offset, head)
    }

    /// Makes a block an item of a queue, under its lock. Nobody else knows the block: whether its own links, the first words
    /// of `head`, have to be logged is for the caller to say.
    #[inline]
    pub(crate) fn link_item(
        &mut self,
        index: u32,
        object: &'r Object,
        end: End,
        offset: Offset,
        head: &[AtomicU64],
    ) -> Result<(), TxnError> {
        let count = object.body[COUNT].load(Relaxed);
        let neighbour = object.body[end.word()].load(Relaxed);
        head[end.inward()].store(if count == 0 { 0 } else { neighbour }, Relaxed);
        head[end.outward()].store(0, Relaxed);
        self.note_items(index, object)?;
        if count == 0 {
            object.body[FIRST].store(offset.0, Relaxed);
            object.body[LAST].store(offset.0, Relaxed);
        } else {
            let link = Offset(neighbour.wrapping_add((end.outward() * WORD) as u64));
            self.change_word(link, offset.0)?;
            object.body[end.word()].store(offset.0, Relaxed);
        }
        object.body[COUNT].store(count.wrapping_add(1), Relaxed);
        Ok(())
    }

    #[inline]
    fn note_items(&mut self, index: u32, object: &'r Object) -> Result<(), TxnError> {
        let changed = if planted::has(Bug::EndsNotLogged) { 1 } else { CHANGED };
        self.note_body(index, object, changed)
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
        self.note_items(index, object)?;
        if count == 1 {
            object.body[FIRST].store(0, Relaxed);
            object.body[LAST].store(0, Relaxed);
        } else {
            let next = node.head[end.inward()].load(Relaxed);
            // Whoever takes several has the next one on its way from another's caches meanwhile.
            self.region().prefetch(Offset(next));
            self.region().prefetch(Offset(next.wrapping_add(64)));
            object.body[end.word()].store(next, Relaxed);
        }
        object.body[COUNT].store(count - 1, Relaxed);
        Ok(node)
    }
}
