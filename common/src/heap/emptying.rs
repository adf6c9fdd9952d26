//! Giving back what is empty: while nobody else is at work, a slot's wholly FREE slabs become nobody's, so that a slot
//! that nobody takes again keeps no memory from the others.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use super::{Cursor, FREE, WHOLE_PAGES};
use crate::layout::{SLAB_LISTS, Slot};
use crate::txn::{Seat, TxnError};

/// Whether a slot has slabs.
pub fn has_slabs(slot: &Slot) -> bool {
    slot.slabs.iter().any(|head| head.load(Relaxed) != 0)
}

impl Seat<'_> {
    /// Gives every slab of this slot of which all blocks are FREE back to the heap, each in a mini-transaction. Not
    /// inside a transaction. Says how many there were.
    ///
    /// # Errors
    /// [`TxnError::Busy`]; [`TxnError::Damaged`] for a list that is none.
    pub fn give_back_empty_slabs(&mut self) -> Result<u32, TxnError> {
        // Where the next block is looked for may be on what goes.
        self.cursors = [Cursor::default(); SLAB_LISTS];
        (0..SLAB_LISTS as u32).map(|class| self.give_back_of_class(class)).sum()
    }

    fn give_back_of_class(&mut self, class: u32) -> Result<u32, TxnError> {
        let mut link = self.slot.slabs[class as usize].load(Relaxed);
        let (mut before, mut given) = (0, 0);
        // A list has no more slabs than there are pages: one that goes on was scribbled into a ring.
        for _ in 0..=self.region.geometry().page_count {
            if link == 0 {
                return Ok(given);
            }
            let slab = self.own_slab(link, class)?;
            let next = slab.next.load(Relaxed);
            let empty = match class {
                WHOLE_PAGES => slab.state.load(Acquire) == FREE,
                _ => self.is_empty_slab(link - 1, class),
            };
            if empty {
                self.give_back(class, link - 1, before)?;
                given += 1;
            } else {
                before = link;
            }
            link = next;
        }
        Err(TxnError::Damaged)
    }
}
