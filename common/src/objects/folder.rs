//! Folders: maps from names to objects. One folder, which is always there, holds the others.

use std::sync::atomic::Ordering::Relaxed;

use crate::layout::Object;
use crate::limits::MAX_NAME;
use crate::lock;
use crate::objects::buckets::{BUCKETS, COUNT, ROOT, Tree, hash_of};
use crate::objects::map;
use crate::objects::reading::{self, Broken, ReadError};
use crate::objects::{Counter, Handle, Kind, Map, ROOT_OBJECT, counter, identity};
use crate::region::Region;
use crate::txn::{Transaction, TxnError};

/// The folder of folders.
const ROOT_FOLDER: Handle = Handle { index: ROOT_OBJECT, generation: 0 };

/// A folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Folder(Handle);

/// What a name in a folder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The object.
    pub handle: Handle,
    /// What it is.
    pub kind: Kind,
}

impl Folder {
    /// The folder of this name.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn open(region: &Region, name: &str) -> Result<Self, ReadError> {
        find(region, ROOT_FOLDER, name, Kind::Folder).map(Self)
    }

    /// The names of all folders, with their handles, in order.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn all(region: &Region) -> Result<Vec<(String, Self)>, ReadError> {
        let entries = list(region, ROOT_FOLDER)?;
        Ok(entries.into_iter().map(|(name, entry)| (name, Self(entry.handle))).collect())
    }

    /// The map of this name in the folder.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn open_map(self, region: &Region, name: &str) -> Result<Map, ReadError> {
        find(region, self.0, name, Kind::Map).map(Map)
    }

    /// The counter of this name in the folder.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn open_counter(self, region: &Region, name: &str) -> Result<Counter, ReadError> {
        find(region, self.0, name, Kind::Counter).map(Counter)
    }

    /// The names in the folder and what they stand for, in order.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn list(self, region: &Region) -> Result<Vec<(String, Entry)>, ReadError> {
        list(region, self.0)
    }

    /// Which entry of the object table it is, in which generation.
    pub fn handle(self) -> Handle {
        self.0
    }
}

fn find(region: &Region, folder: Handle, name: &str, kind: Kind) -> Result<Handle, ReadError> {
    let hash = hash_of(region, name.as_bytes());
    let entry = reading::read(region, folder, Kind::Folder, |object| {
        let Some(found) = Tree::of(region, object).find(hash, name.as_bytes())? else { return Ok(None) };
        let mut value = Vec::new();
        found.entry.value(&mut value);
        Entry::from_bytes(&value).map(Some)
    })?;
    entry.filter(|entry| entry.kind == kind).map(|entry| entry.handle).ok_or(ReadError::NotFound)
}

fn list(region: &Region, folder: Handle) -> Result<Vec<(String, Entry)>, ReadError> {
    let mut named = Vec::new();
    for (name, value) in map::entries(region, folder, Kind::Folder)? {
        let name = String::from_utf8(name).map_err(|_| ReadError::Damaged)?;
        named.push((name, Entry::from_bytes(&value).map_err(|Broken| ReadError::Damaged)?));
    }
    named.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(named)
}

impl Entry {
    fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        let words = [self.handle.index, self.handle.generation, self.kind as u32];
        bytes
            .as_chunks_mut::<4>()
            .0
            .iter_mut()
            .zip(words)
            .for_each(|(place, word)| *place = word.to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, Broken> {
        let ([index, generation, kind], []) = bytes.as_chunks::<4>() else { return Err(Broken) };
        let kind = Kind::of(u32::from_le_bytes(*kind).into()).ok_or(Broken)?;
        let handle =
            Handle { index: u32::from_le_bytes(*index), generation: u32::from_le_bytes(*generation) };
        Ok(Self { handle, kind })
    }
}

/// Whether a name is one that a folder takes.
pub(crate) fn check_name(name: &str) -> Result<(), TxnError> {
    let good = (1..=MAX_NAME).contains(&name.len()) && !name.contains(|c: char| c == '/' || c.is_control());
    good.then_some(()).ok_or(TxnError::BadName)
}

impl<'s, 'r> Transaction<'s, 'r> {
    /// The folder of this name, made if there is none.
    ///
    /// # Errors
    /// [`TxnError`]; the transaction is rolled back then.
    pub fn open_or_create_folder(&mut self, name: &str) -> Result<Folder, TxnError> {
        self.attempt(|txn| txn.open_or_create(ROOT_FOLDER, name, Kind::Folder).map(Folder))
    }

    /// The map of this name in a folder, made if there is none.
    ///
    /// # Errors
    /// [`TxnError`]; the transaction is rolled back then.
    pub fn open_or_create_map(&mut self, folder: Folder, name: &str) -> Result<Map, TxnError> {
        self.attempt(|txn| txn.open_or_create(folder.0, name, Kind::Map).map(Map))
    }

    /// The counter of this name in a folder, made if there is none.
    ///
    /// # Errors
    /// [`TxnError`]; the transaction is rolled back then.
    pub fn open_or_create_counter(&mut self, folder: Folder, name: &str) -> Result<Counter, TxnError> {
        self.attempt(|txn| txn.open_or_create(folder.0, name, Kind::Counter).map(Counter))
    }

    /// A new folder.
    ///
    /// # Errors
    /// [`TxnError::Exists`] and others; the transaction is rolled back then.
    pub fn create_folder(&mut self, name: &str) -> Result<Folder, TxnError> {
        self.attempt(|txn| txn.create(ROOT_FOLDER, name, Kind::Folder).map(Folder))
    }

    /// A new map in a folder.
    ///
    /// # Errors
    /// [`TxnError::Exists`] and others; the transaction is rolled back then.
    pub fn create_map(&mut self, folder: Folder, name: &str) -> Result<Map, TxnError> {
        self.attempt(|txn| txn.create(folder.0, name, Kind::Map).map(Map))
    }

    /// A new counter in a folder.
    ///
    /// # Errors
    /// [`TxnError::Exists`] and others; the transaction is rolled back then.
    pub fn create_counter(&mut self, folder: Folder, name: &str) -> Result<Counter, TxnError> {
        self.attempt(|txn| txn.create(folder.0, name, Kind::Counter).map(Counter))
    }

    /// Deletes the map or counter of this name from a folder; says whether there was one. Its handles find nothing from
    /// the commit on. What it holds is freed after the commit, in as many transactions as it takes; should the process
    /// die at that, the rest is freed after the next deletion, or at the next start.
    ///
    /// # Errors
    /// [`TxnError`]; the transaction is rolled back then.
    pub fn delete(&mut self, folder: Folder, name: &str) -> Result<bool, TxnError> {
        self.attempt(|txn| txn.unlink(folder.0, name, |kind| matches!(kind, Kind::Map | Kind::Counter)))
    }

    /// Deletes a folder that holds nothing; says whether there was one.
    ///
    /// # Errors
    /// [`TxnError::NotEmpty`] and others; the transaction is rolled back then.
    pub fn delete_folder(&mut self, name: &str) -> Result<bool, TxnError> {
        self.attempt(|txn| txn.unlink(ROOT_FOLDER, name, |kind| kind == Kind::Folder))
    }

    /// Takes the lock of a map, unless this transaction has it already.
    ///
    /// # Errors
    /// [`TxnError::NotFound`], [`TxnError::Busy`], [`TxnError::TooManyLocks`]; the transaction is rolled back then.
    pub fn map(&mut self, map: Map) -> Result<map::LockedMap<'_, 's, 'r>, TxnError> {
        let object = self.attempt(|txn| txn.lock(map.0, Kind::Map))?;
        Ok(map::LockedMap { txn: self, index: map.0.index, object })
    }

    /// Takes the lock of a counter, unless this transaction has it already.
    ///
    /// # Errors
    /// As [`Transaction::map`].
    pub fn counter(&mut self, counter: Counter) -> Result<counter::LockedCounter<'_, 's, 'r>, TxnError> {
        let object = self.attempt(|txn| txn.lock(counter.0, Kind::Counter))?;
        Ok(counter::LockedCounter { txn: self, index: counter.0.index, object })
    }

    fn open_or_create(&mut self, folder: Handle, name: &str, kind: Kind) -> Result<Handle, TxnError> {
        match self.entry(folder, name)? {
            Some(entry) if entry.kind == kind => Ok(entry.handle),
            Some(_) => Err(TxnError::Exists),
            None => self.create(folder, name, kind),
        }
    }

    fn create(&mut self, folder: Handle, name: &str, kind: Kind) -> Result<Handle, TxnError> {
        check_name(name)?;
        let names = self.lock(folder, Kind::Folder)?;
        if self.entry(folder, name)?.is_some() {
            return Err(TxnError::Exists);
        }
        let handle = self.claim_entry(kind)?;
        self.put(folder.index, names, name.as_bytes(), &Entry { handle, kind }.to_bytes())?;
        Ok(handle)
    }

    fn entry(&mut self, folder: Handle, name: &str) -> Result<Option<Entry>, TxnError> {
        let names = self.lock(folder, Kind::Folder)?;
        let hash = hash_of(self.region(), name.as_bytes());
        let Some(found) = Tree::of(self.region(), names).find(hash, name.as_bytes())? else {
            return Ok(None);
        };
        let mut value = Vec::new();
        found.entry.value(&mut value);
        Ok(Some(Entry::from_bytes(&value)?))
    }

    /// A free entry of the object table becomes an object of this kind, with its lock held.
    fn claim_entry(&mut self, kind: Kind) -> Result<Handle, TxnError> {
        let (count, hint) = (self.region().geometry().object_count, self.seat.next_object);
        for index in (hint..count).chain(0..hint.min(count)) {
            let object = self.region().object(index).ok_or(TxnError::Damaged)?;
            if Kind::of(object.identity.load(Relaxed)) != Some(Kind::Free) || !self.try_lock(index, object)? {
                continue;
            }
            let former = object.identity.load(Relaxed);
            if Kind::of(former) != Some(Kind::Free) {
                self.seat.drop_last_lock();
                continue;
            }
            let generation = ((former >> 32) as u32).wrapping_add(1);
            // Never taken back, also if the transaction is: nobody shall meet another object under this handle.
            self.region().mark(self.region().object_offset(index), size_of::<Object>());
            lock::begin_change(&object.seq);
            object.identity.store(identity(generation, Kind::Free), Relaxed);
            self.set_identity(index, object, identity(generation, kind))?;
            for word in [COUNT, BUCKETS, ROOT] {
                self.set_body(index, object, word, 0)?;
            }
            self.seat.next_object = index + 1;
            return Ok(Handle { index, generation });
        }
        Err(TxnError::TooManyObjects)
    }

    fn unlink(
        &mut self,
        folder: Handle,
        name: &str,
        wanted: impl Fn(Kind) -> bool,
    ) -> Result<bool, TxnError> {
        let Some(Entry { handle, kind }) = self.entry(folder, name)?.filter(|entry| wanted(entry.kind))
        else {
            return Ok(false);
        };
        let names = self.lock(folder, Kind::Folder)?;
        let object = self.lock(handle, kind)?;
        if kind == Kind::Folder && object.body[COUNT].load(Relaxed) != 0 {
            return Err(TxnError::NotEmpty);
        }
        self.remove(folder.index, names, name.as_bytes())?;
        // A counter has no blocks to be freed.
        let then = if kind == Kind::Counter { Kind::Free } else { Kind::Dropping };
        self.set_identity(handle.index, object, handle.identity(then))?;
        self.dropped |= then == Kind::Dropping;
        Ok(true)
    }

    /// Frees what a deleted object still holds, as much as one transaction can; its entry is free at last. True once it
    /// is.
    pub(crate) fn drop_some(&mut self, index: u32, object: &'r Object) -> Result<bool, TxnError> {
        let handle = Handle { index, generation: (object.identity.load(Relaxed) >> 32) as u32 };
        self.lock(handle, Kind::Dropping)?;
        let done = self.drain(index, object)?;
        if done {
            self.set_body(index, object, COUNT, 0)?;
            self.set_identity(index, object, handle.identity(Kind::Free))?;
        }
        Ok(done)
    }
}
