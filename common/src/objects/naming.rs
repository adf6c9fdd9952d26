//! Objects by their names in a folder: making, renaming and deleting them, and taking their locks. Whoever changes the names in
//! a folder holds its lock.

use std::sync::atomic::Ordering::Relaxed;

use crate::layout::Object;
use crate::lock;
use crate::objects::buckets::{COUNT, Tree};
use crate::objects::folder::{Entry, Folder, check_name};
use crate::objects::{Blob, Counter, Handle, Kind, Map, Queue, blob, counter, identity, items, map, queue};
use crate::planted::{self, Bug};
use crate::txn::{Transaction, TxnError};

impl<'s, 'r> Transaction<'s, 'r> {
    /// The map of this name in a folder, made if there is none.
    ///
    /// # Errors
    /// [`TxnError`]; the transaction is rolled back then.
    pub fn open_or_create_map(&mut self, folder: Folder, name: &str) -> Result<Map, TxnError> {
        self.attempt(|txn| txn.open_or_create(folder.0, name, Kind::Map).map(|(handle, _)| Map(handle)))
    }

    /// The counter of this name in a folder, made if there is none.
    ///
    /// # Errors
    /// [`TxnError`]; the transaction is rolled back then.
    pub fn open_or_create_counter(&mut self, folder: Folder, name: &str) -> Result<Counter, TxnError> {
        let made = self.attempt(|txn| txn.open_or_create(folder.0, name, Kind::Counter));
        made.map(|(handle, _)| Counter(handle))
    }

    /// The blob of this name in a folder, made empty if there is none.
    ///
    /// # Errors
    /// [`TxnError`]; the transaction is rolled back then.
    pub fn open_or_create_blob(&mut self, folder: Folder, name: &str) -> Result<Blob, TxnError> {
        self.attempt(|txn| txn.open_or_create(folder.0, name, Kind::Blob).map(|(handle, _)| Blob(handle)))
    }

    /// The queue of this name in a folder; if there is none one is made, for at most `capacity` items, or any number
    /// with 0.
    ///
    /// # Errors
    /// [`TxnError`]; the transaction is rolled back then.
    pub fn open_or_create_queue(
        &mut self,
        folder: Folder,
        name: &str,
        capacity: u64,
    ) -> Result<Queue, TxnError> {
        self.attempt(|txn| match txn.open_or_create(folder.0, name, Kind::Queue)? {
            (handle, false) => Ok(Queue(handle)),
            (handle, true) => txn.limit(handle, capacity),
        })
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

    /// A new blob in a folder, empty.
    ///
    /// # Errors
    /// [`TxnError::Exists`] and others; the transaction is rolled back then.
    pub fn create_blob(&mut self, folder: Folder, name: &str) -> Result<Blob, TxnError> {
        self.attempt(|txn| txn.create(folder.0, name, Kind::Blob).map(Blob))
    }

    /// A new queue in a folder, for at most `capacity` items, or any number with 0.
    ///
    /// # Errors
    /// [`TxnError::Exists`] and others; the transaction is rolled back then.
    pub fn create_queue(&mut self, folder: Folder, name: &str, capacity: u64) -> Result<Queue, TxnError> {
        self.attempt(|txn| {
            let handle = txn.create(folder.0, name, Kind::Queue)?;
            txn.limit(handle, capacity)
        })
    }

    /// Deletes the object of this name from a folder; says whether there was one. Its handles find nothing from the
    /// commit on, and whoever waits for it is told. What it holds is freed after the commit, in as many transactions as it
    /// takes; should the process die at that, the rest is freed after the next deletion, or at the next start. Items in
    /// flight stay with those who have taken them. A folder is deleted by [`Transaction::delete_folder`] only.
    ///
    /// # Errors
    /// [`TxnError`]; the transaction is rolled back then.
    pub fn delete(&mut self, folder: Folder, name: &str) -> Result<bool, TxnError> {
        self.attempt(|txn| txn.unlink(folder.0, name, |kind| kind.is_named() && kind != Kind::Folder))
    }

    /// Gives an object another name, in the same folder or in another one. Its handles go on as before.
    ///
    /// # Errors
    /// [`TxnError::NotFound`], [`TxnError::Exists`] and others; the transaction is rolled back then.
    pub fn rename(&mut self, folder: Folder, name: &str, to: Folder, other: &str) -> Result<(), TxnError> {
        self.attempt(|txn| {
            txn.lock_in_order(&mut [(folder.0, Kind::Folder), (to.0, Kind::Folder)])?;
            txn.move_name((folder.0, name), (to.0, other), |kind| kind.is_named() && kind != Kind::Folder)
        })
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

    /// Takes the lock of a queue, unless this transaction has it already.
    ///
    /// # Errors
    /// As [`Transaction::map`].
    #[inline]
    pub fn queue(&mut self, queue: Queue) -> Result<queue::LockedQueue<'_, 's, 'r>, TxnError> {
        let object = self.attempt(|txn| txn.lock(queue.0, Kind::Queue))?;
        Ok(queue::LockedQueue { txn: self, queue, object })
    }

    /// Takes the lock of a blob, unless this transaction has it already.
    ///
    /// # Errors
    /// As [`Transaction::map`].
    pub fn blob(&mut self, blob: Blob) -> Result<blob::LockedBlob<'_, 's, 'r>, TxnError> {
        let object = self.attempt(|txn| txn.lock(blob.0, Kind::Blob))?;
        Ok(blob::LockedBlob { txn: self, index: blob.0.index, object })
    }
}

impl Transaction<'_, '_> {
    fn open_or_create(&mut self, folder: Handle, name: &str, kind: Kind) -> Result<(Handle, bool), TxnError> {
        match self.entry(folder, name)? {
            Some(entry) if entry.kind == kind => Ok((entry.handle, false)),
            Some(_) => Err(TxnError::Exists),
            None => Ok((self.create(folder, name, kind)?, true)),
        }
    }

    pub(crate) fn create(&mut self, folder: Handle, name: &str, kind: Kind) -> Result<Handle, TxnError> {
        check_name(name)?;
        let names = self.lock(folder, Kind::Folder)?;
        if self.entry(folder, name)?.is_some() {
            return Err(TxnError::Exists);
        }
        let handle = self.claim_entry(kind)?;
        self.put(folder.index, names, name.as_bytes(), &Entry { handle, kind }.to_bytes())?;
        Ok(handle)
    }

    fn limit(&mut self, handle: Handle, capacity: u64) -> Result<Queue, TxnError> {
        let object = self.lock(handle, Kind::Queue)?;
        self.set_body(handle.index, object, items::CAPACITY, capacity)?;
        Ok(Queue(handle))
    }

    /// What a name stands for, under the folder's lock.
    pub(crate) fn entry(&mut self, folder: Handle, name: &str) -> Result<Option<Entry>, TxnError> {
        let names = self.lock(folder, Kind::Folder)?;
        let hash = self.region().hash_of(name.as_bytes());
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
            self.note_body(index, object, object.body.len())?;
            object.body.iter().for_each(|word| word.store(0, Relaxed));
            self.seat.next_object = index + 1;
            return Ok(Handle { index, generation });
        }
        Err(TxnError::TooManyObjects)
    }

    pub(crate) fn unlink(
        &mut self,
        folder: Handle,
        name: &str,
        wanted: impl Fn(Kind) -> bool,
    ) -> Result<bool, TxnError> {
        // Looked up first without locks, so that both can be waited for in order.
        if let Some(entry) = self.look_up(folder, name)? {
            self.lock_in_order(&mut [(folder, Kind::Folder), (entry.handle, entry.kind)])?;
        }
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
        let then = if kind == Kind::Counter { Kind::Free } else { kind.deleted() };
        self.set_identity(handle.index, object, handle.identity(then))?;
        self.seat.progress.dropped |= then.is_dropping();
        Ok(true)
    }

    /// Under the locks of both folders.
    pub(crate) fn move_name(
        &mut self,
        (from, name): (Handle, &str),
        (to, other): (Handle, &str),
        wanted: impl Fn(Kind) -> bool,
    ) -> Result<(), TxnError> {
        check_name(other)?;
        let entry = self.entry(from, name)?.filter(|entry| wanted(entry.kind)).ok_or(TxnError::NotFound)?;
        if self.entry(to, other)?.is_some() {
            return if (from, name) == (to, other) { Ok(()) } else { Err(TxnError::Exists) };
        }
        let (names, others) = (self.lock(from, Kind::Folder)?, self.lock(to, Kind::Folder)?);
        self.put(to.index, others, other.as_bytes(), &entry.to_bytes())?;
        if planted::has(Bug::RenamedInTwo) {
            self.seat.log.commit();
        }
        self.remove(from.index, names, name.as_bytes()).map(drop)
    }
}
