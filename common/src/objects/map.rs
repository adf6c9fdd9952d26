//! Maps from bytes to bytes, as their users see them. How they lie in the heap is in `buckets`, how they change in
//! `editing`.

use std::sync::atomic::Ordering::Relaxed;

use crate::ids::Offset;
use crate::layout::Object;
use crate::limits::PAGE_SIZE;
use crate::objects::buckets::{BUCKETS, COUNT, Found, Tree, copy};
use crate::objects::reading::{self, Broken, ReadError};
use crate::objects::{Handle, Kind};
use crate::region::Region;
use crate::txn::{Transaction, TxnError};

/// How much of the heap, over and over, one listing copies.
const MOST_COPIED: u64 = 4;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// A map in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Map(pub(crate) Handle);

/// From a handle that was given away; one of another kind finds nothing.
impl From<Handle> for Map {
    fn from(handle: Handle) -> Self {
        Self(handle)
    }
}

/// A map under the lock of a transaction.
#[derive(Debug)]
pub struct LockedMap<'t, 's, 'r> {
    pub(crate) txn: &'t mut Transaction<'s, 'r>,
    pub(crate) index: u32,
    pub(crate) object: &'r Object,
}

impl Map {
    /// A copy of the value under `key`, as last committed. Not for a map that this process's own transaction has
    /// changed: see [`LockedMap::get`].
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn get(self, region: &Region, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        let mut value = Vec::new();
        Ok(self.get_into(region, key, &mut value)?.then_some(value))
    }

    /// The same into a buffer of the caller's, replacing what was in it. False where there is no such key; the buffer
    /// is empty then.
    ///
    /// # Errors
    /// [`ReadError`].
    #[inline]
    pub fn get_into(self, region: &Region, key: &[u8], value: &mut Vec<u8>) -> Result<bool, ReadError> {
        let hash = region.hash_of(key);
        reading::read(region, self.0, Kind::Map, |object| {
            let found = Tree::of(region, object).find(hash, key)?;
            // What the buffer holds is written over and not cleared first: mostly it is as long as it must be.
            match &found {
                Some(Found { entry, .. }) => copy(entry.value, entry.value_length, 0, value),
                None => value.clear(),
            }
            Ok(found.is_some())
        })
    }

    /// How many entries it has, as last committed.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn len(self, region: &Region) -> Result<u64, ReadError> {
        reading::read(region, self.0, Kind::Map, |object| Ok(object.body[COUNT].load(Relaxed)))
    }

    /// Whether it has none.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn is_empty(self, region: &Region) -> Result<bool, ReadError> {
        Ok(self.len(region)? == 0)
    }

    /// The entries, in no order, read a few at a time while others go on changing the map. Nothing is locked and nothing
    /// kept from them.
    ///
    /// What it promises: an entry that is there from this call to the iterator's end is given exactly once, whatever is
    /// put and removed meanwhile, with a value that it has had in that time. One that is put or removed meanwhile is given
    /// once or not at all. What two entries say need not be of the same moment. The iterator ends: after an error, or
    /// once it has been through the buckets that there were at first and what they were split into; with
    /// [`ReadError::Busy`] where so much is put meanwhile that it has copied the heap several times, and with
    /// [`ReadError::NotFound`] where the map is deleted.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn iter(self, region: &Region) -> Result<Entries<'_>, ReadError> {
        Entries::of(region, self.0, Kind::Map)
    }

    /// Every entry, in no order, as [`Map::iter`] gives them. An entry that is there from before the call to its end is given exactly once,
    /// whatever is put and removed meanwhile, with a value that it has had; another at most once.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn entries(self, region: &Region) -> Result<Vec<Pair>, ReadError> {
        entries(region, self.0, Kind::Map)
    }

    /// Which entry of the object table it is, in which generation.
    pub fn handle(self) -> Handle {
        self.0
    }
}

impl LockedMap<'_, '_, '_> {
    /// A copy of the value under `key`, with what this transaction has changed.
    ///
    /// # Errors
    /// [`TxnError::Damaged`]; the transaction is rolled back then.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, TxnError> {
        let hash = self.txn.region().hash_of(key);
        self.txn.attempt(|txn| {
            let found = Tree::of(txn.region(), self.object).find(hash, key)?;
            Ok(found.map(|found| {
                let mut value = Vec::new();
                found.entry.value(&mut value);
                value
            }))
        })
    }

    /// How many entries it has.
    pub fn len(&self) -> u64 {
        self.object.body[COUNT].load(Relaxed)
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts `value` under `key`, in place of what was there; says whether there was something.
    ///
    /// # Errors
    /// [`TxnError::Full`], [`TxnError::TooLarge`], [`TxnError::TooLong`] for a key above [`MAX_KEY`](crate::limits::MAX_KEY) or a value above
    /// [`MAX_VALUE`](crate::limits::MAX_VALUE); the transaction is rolled back then.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<bool, TxnError> {
        self.txn.attempt(|txn| txn.put(self.index, self.object, key, value))
    }

    /// Removes what is under `key`; says whether there was something.
    ///
    /// # Errors
    /// [`TxnError::TooLarge`]; the transaction is rolled back then.
    pub fn remove(&mut self, key: &[u8]) -> Result<bool, TxnError> {
        self.txn.attempt(|txn| txn.remove(self.index, self.object, key))
    }
}

/// Every entry of an object that is made as a map is; see [`Map::entries`].
pub(crate) fn entries(region: &Region, handle: Handle, kind: Kind) -> Result<Vec<Pair>, ReadError> {
    Entries::of(region, handle, kind)?.collect()
}

/// The entries of a map, one after the other, while others change it; see [`Map::iter`].
#[derive(Debug)]
pub struct Entries<'r> {
    region: &'r Region,
    handle: Handle,
    kind: Kind,
    /// Buckets that there were at first; one where there was none: the first bucket of a map is then the ancestor of all.
    former: u64,
    /// Which of them is read next.
    number: u64,
    /// What was read of the one before and not given yet.
    ready: Vec<Pair>,
    copied: u64,
}

impl<'r> Entries<'r> {
    fn of(region: &'r Region, handle: Handle, kind: Kind) -> Result<Self, ReadError> {
        let former = reading::read(region, handle, kind, |object| {
            let buckets = object.body[BUCKETS].load(Relaxed);
            Tree::check(region, buckets).map(|()| buckets)
        })?;
        Ok(Self { region, handle, kind, former: former.max(1), number: 0, ready: Vec::new(), copied: 0 })
    }

    /// Reads the next bucket, with what it has been split into since.
    fn read_on(&mut self) -> Result<(), ReadError> {
        let Self { region, handle, kind, former, number, .. } = *self;
        let heap = u64::from(region.geometry().page_count) * PAGE_SIZE;
        self.copied += reading::read(region, handle, kind, |object| {
            self.ready.clear();
            let mut bytes = 0;
            Tree::of(region, object).descendants(number, former, |entry| {
                // More than the heap has was scribbled into a ring.
                bytes += entry.bytes() as u64;
                if bytes > heap {
                    return Err(Broken);
                }
                let (mut key, mut value) = (Vec::new(), Vec::new());
                entry.key(&mut key);
                entry.value(&mut value);
                self.ready.push((key, value));
                Ok(())
            })?;
            Ok(bytes)
        })?;
        self.number += 1;
        // So much can only have been put while it was being read, or stands in many buckets at once.
        if self.copied > MOST_COPIED * heap { Err(ReadError::Busy) } else { Ok(()) }
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Pair, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() {
            if self.number >= self.former {
                return None;
            }
            if let Err(error) = self.read_on() {
                // What comes behind an error is its end.
                self.ready.clear();
                self.number = self.former;
                return Some(Err(error));
            }
        }
        self.ready.pop().map(Ok)
    }
}

/// Calls `visit` with every block that a map uses at one moment; see [`Tree::blocks`].
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
        Tree::of(region, object).blocks(|offset| found.push(offset))
    })?;
    found.into_iter().for_each(&mut visit);
    Ok(())
}
