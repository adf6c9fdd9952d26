//! Items in flight, for consumers whose work takes longer than a transaction: an item is taken from its queue and belongs
//! to its consumer's slot, until it is finished or put back. If the consumer dies, repair puts it back.
//!
//! The slot says which items it has, and the transactions that change that need no lock: nobody else looks there while the
//! owner lives. So a queue that is deleted leaves its items in flight to their owners, who free them.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::ids::{Offset, SlotIndex};
use crate::layout::{InFlight, Object, Slot};
use crate::objects::buckets::{WORD, append};
use crate::objects::items::{NEXT, Node, PREVIOUS, SERIAL};
use crate::objects::queue::{End, LockedQueue, Queue};
use crate::objects::survey::Before;
use crate::objects::{Handle, Kind};
use crate::planted::{self, Bug};
use crate::region::Region;
use crate::txn::{Seat, Transaction, TxnError};

/// Set in the word that says where an item is, if it was taken from the back.
const FROM_BACK: u64 = 1;

/// An item that this owner has taken. It is known by the serial that it got when it was taken: once finished or put
/// back it is not found any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Taken {
    place: usize,
    /// Where its block begins.
    pub offset: Offset,
    /// The queue that it was taken from.
    pub queue: Queue,
    /// The end that it was taken from.
    pub end: End,
    /// The how manieth item it is that was taken through this slot.
    pub serial: u64,
}

/// The items that a slot says it has. What is in them is an allegation.
pub fn taken<'r>(region: &'r Region, slot: &'r Slot) -> impl Iterator<Item = Taken> + 'r {
    slot.in_flight.iter().enumerate().filter_map(|(place, said)| read(region, place, said))
}

/// The same as they were before an unfinished change.
pub fn taken_before(region: &Region, index: SlotIndex, before: &Before) -> Vec<Taken> {
    let first = region.slot_offset(index).0 + std::mem::offset_of!(Slot, in_flight) as u64;
    let word = |within: usize, word| before.word(Offset(first + within as u64), word);
    let said = region.slot(index).into_iter().flat_map(|slot| slot.in_flight.iter().enumerate());
    said.filter_map(|(place, said)| {
        let at = place * size_of::<InFlight>();
        let item = at + std::mem::offset_of!(InFlight, item);
        of_words(region, place, word(at, &said.queue), word(item, &said.item))
    })
    .collect()
}

fn read(region: &Region, place: usize, said: &InFlight) -> Option<Taken> {
    of_words(region, place, said.queue.load(Relaxed), said.item.load(Relaxed))
}

fn of_words(region: &Region, place: usize, queue: u64, item: u64) -> Option<Taken> {
    if item == 0 {
        return None;
    }
    let handle = Handle { index: queue as u32, generation: (queue >> 32) as u32 };
    let offset = Offset(item & !FROM_BACK);
    let end = if item & FROM_BACK == 0 { End::Front } else { End::Back };
    let serial = region.heap_words(offset, SERIAL + 1).map_or(0, |words| words[SERIAL].load(Relaxed));
    Some(Taken { place, offset, queue: Queue(handle), end, serial })
}

/// A copy of the bytes of an item in flight; `None` where there is no such item.
pub fn item(region: &Region, taken: &Taken) -> Option<Vec<u8>> {
    let node = Node::at(region, taken.offset).ok()?;
    let mut bytes = Vec::new();
    append(node.bytes, node.length, &mut bytes);
    Some(bytes)
}

/// Bytes that an item in flight needs of its block; `None` where it cannot be one.
pub fn size(region: &Region, taken: &Taken) -> Option<usize> {
    Node::at(region, taken.offset).ok().map(|node| node.size())
}

impl LockedQueue<'_, '_, '_> {
    /// Takes the first item, to be worked on after this transaction: see [`Transaction::finish`]. `None` where there is
    /// none.
    ///
    /// # Errors
    /// [`TxnError::TooManyInFlight`] beyond [`MAX_IN_FLIGHT`](crate::limits::MAX_IN_FLIGHT) and others; the transaction is
    /// rolled back then.
    pub fn take_front(&mut self) -> Result<Option<(Taken, Vec<u8>)>, TxnError> {
        self.take(End::Front)
    }

    /// Takes the last item likewise.
    ///
    /// # Errors
    /// As [`LockedQueue::take_front`].
    pub fn take_back(&mut self) -> Result<Option<(Taken, Vec<u8>)>, TxnError> {
        self.take(End::Back)
    }

    fn take(&mut self, end: End) -> Result<Option<(Taken, Vec<u8>)>, TxnError> {
        if self.is_empty() {
            return Ok(None);
        }
        let taken = self.txn.attempt(|txn| txn.take(self.queue, self.object, end))?;
        Ok(item(self.txn.region(), &taken).map(|bytes| (taken, bytes)))
    }
}

impl<'r> Transaction<'_, 'r> {
    fn take(&mut self, queue: Queue, object: &'r Object, end: End) -> Result<Taken, TxnError> {
        let slot = self.slot();
        let free = slot.in_flight.iter().position(|said| said.item.load(Relaxed) == 0);
        let place = free.ok_or(TxnError::TooManyInFlight)?;
        let node = self.unlink_item(queue.0.index, object, end)?;
        // Not logged: a number that was used once is not used again.
        let serial = slot.takes.load(Relaxed).wrapping_add(1);
        slot.takes.store(serial, Relaxed);
        self.change_word(Offset(node.offset.0 + (SERIAL * WORD) as u64), serial)?;
        let back = if end == End::Back { FROM_BACK } else { 0 };
        let handle = u64::from(queue.0.generation) << 32 | u64::from(queue.0.index);
        self.set_in_flight(place, handle, node.offset.0 | back)?;
        Ok(Taken { place, offset: node.offset, queue, end, serial })
    }

    fn set_in_flight(&mut self, place: usize, queue: u64, item: u64) -> Result<(), TxnError> {
        let within = std::mem::offset_of!(Slot, in_flight) + place * size_of::<InFlight>();
        let offset = Offset(self.region().slot_offset(self.owner().slot).0 + within as u64);
        if !planted::has(Bug::TakeNotLogged) {
            let words = self.region().words(offset, 2).ok_or(TxnError::Damaged)?;
            self.seat.log.note_words(offset, words)?;
        }
        let said = self.slot().in_flight.get(place).ok_or(TxnError::NotFound)?;
        said.queue.store(queue, Relaxed);
        said.item.store(item, Relaxed);
        Ok(())
    }

    /// Whether this owner has the item still.
    fn check(&self, taken: &Taken) -> Result<(), TxnError> {
        let said = self.slot().in_flight.get(taken.place);
        let same = said.and_then(|said| read(self.region(), taken.place, said)) == Some(*taken);
        same.then_some(()).ok_or(TxnError::NotFound)
    }

    /// An item that this owner has, by its serial.
    ///
    /// # Errors
    /// [`TxnError::NotFound`] where this owner does not have it (any more); the transaction is rolled back then.
    pub fn taken(&mut self, serial: u64) -> Result<Taken, TxnError> {
        self.attempt(|txn| {
            taken(txn.region(), txn.slot()).find(|taken| taken.serial == serial).ok_or(TxnError::NotFound)
        })
    }

    /// What was to be done with an item is done: it is gone with the commit. Needs no lock, and no queue.
    ///
    /// # Errors
    /// [`TxnError::NotFound`] where this owner does not have the item (any more), and others; the transaction is rolled
    /// back then.
    pub fn finish(&mut self, taken: &Taken) -> Result<(), TxnError> {
        self.attempt(|txn| {
            txn.check(taken)?;
            txn.let_go(taken)
        })
    }

    fn let_go(&mut self, taken: &Taken) -> Result<(), TxnError> {
        self.set_in_flight(taken.place, 0, 0)?;
        self.free(taken.offset)
    }

    /// Puts an item back to the end of its queue that it was taken from, also where the queue is full by now.
    ///
    /// # Errors
    /// [`TxnError::NotFound`] where this owner does not have the item (any more), or the queue was deleted: the item can
    /// be finished then. The transaction is rolled back.
    pub fn put_back(&mut self, taken: &Taken) -> Result<(), TxnError> {
        self.attempt(|txn| {
            txn.check(taken)?;
            let object = txn.lock(taken.queue.0, Kind::Queue)?;
            let node = Node::at(txn.region(), taken.offset)?;
            txn.seat.log.note_words(node.offset, &node.head[NEXT..=PREVIOUS])?;
            txn.link_item(taken.queue.0.index, object, taken.end, taken.offset, node.head)?;
            txn.set_in_flight(taken.place, 0, 0)
        })
    }
}

impl Seat<'_> {
    /// Puts every item back that this owner has taken, the last one first: so they stand in their queues as before. An
    /// item whose queue was deleted is freed. Each in a transaction of its own. One queue that is locked keeps nothing from
    /// going back to the others; what goes back to it stays in flight, all of it, since it would not stand there as before.
    ///
    /// # Errors
    /// [`TxnError::Busy`] where a queue's lock could not be had within `patience`, which is for the first such queue and all
    /// others together, and others. What was not put back stays in flight.
    pub fn put_all_back(&mut self, patience: Duration) -> Result<u32, TxnError> {
        let mut items: Vec<_> = taken(self.region, self.slot).collect();
        items.sort_by_key(|taken| std::cmp::Reverse(taken.serial));
        let (mut count, mut patience, mut busy) = (0, patience, Vec::new());
        for taken in &items {
            if busy.contains(&taken.queue) {
                continue;
            }
            let mut txn = self.begin()?;
            txn.seat.progress.patience = patience;
            match txn.put_back(taken) {
                Ok(()) => txn.commit()?,
                Err(TxnError::NotFound) => {
                    drop(txn);
                    let mut txn = self.begin()?;
                    txn.finish(taken)?;
                    txn.commit()?;
                }
                Err(TxnError::Busy) => {
                    busy.push(taken.queue);
                    patience = Duration::ZERO;
                    continue;
                }
                Err(error) => return Err(error),
            }
            count += 1;
        }
        if busy.is_empty() { Ok(count) } else { Err(TxnError::Busy) }
    }
}
