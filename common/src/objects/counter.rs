//! A number that everybody may change.

use std::sync::atomic::Ordering::Relaxed;

use crate::layout::Object;
use crate::objects::reading::{self, ReadError};
use crate::objects::{Handle, Kind};
use crate::region::Region;
use crate::txn::{Transaction, TxnError};

/// The word of an object's body that is the number.
pub(crate) const VALUE: usize = 0;

/// A counter in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Counter(pub(crate) Handle);

/// From a handle that was given away; one of another kind finds nothing.
impl From<Handle> for Counter {
    fn from(handle: Handle) -> Self {
        Self(handle)
    }
}

/// A counter under the lock of a transaction.
#[derive(Debug)]
pub struct LockedCounter<'t, 's, 'r> {
    pub(crate) txn: &'t mut Transaction<'s, 'r>,
    pub(crate) index: u32,
    pub(crate) object: &'r Object,
}

impl Counter {
    /// Its value as last committed. Not for a counter that this process's own transaction has changed: see
    /// [`LockedCounter::get`].
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn get(self, region: &Region) -> Result<u64, ReadError> {
        reading::read(region, self.0, Kind::Counter, |object| Ok(object.body[VALUE].load(Relaxed)))
    }

    /// Which entry of the object table it is, in which generation.
    pub fn handle(self) -> Handle {
        self.0
    }
}

impl LockedCounter<'_, '_, '_> {
    /// Its value, with what this transaction has changed.
    pub fn get(&self) -> u64 {
        self.object.body[VALUE].load(Relaxed)
    }

    /// Adds to it, wrapping around at 2⁶⁴; gives the sum.
    ///
    /// # Errors
    /// [`TxnError::TooLarge`]; the transaction is rolled back then.
    pub fn add(&mut self, amount: u64) -> Result<u64, TxnError> {
        let sum = self.get().wrapping_add(amount);
        self.set(sum).map(|()| sum)
    }

    /// Gives it another value.
    ///
    /// # Errors
    /// [`TxnError::TooLarge`]; the transaction is rolled back then.
    pub fn set(&mut self, value: u64) -> Result<(), TxnError> {
        self.txn.attempt(|txn| txn.set_body(self.index, self.object, VALUE, value))
    }
}
