//! Changing the tree of names: making, moving and deleting objects and folders.
//!
//! Whoever makes, moves or deletes a folder holds the root's lock, so the tree of folders is changed by one at a time: what
//! a path leads to stays, no folder gets into itself, none too deep. Objects in a folder need its lock only.

use std::sync::atomic::Ordering::Relaxed;

use crate::limits::MAX_DEPTH;
use crate::lock;
use crate::objects::buckets::{COUNT, Tree, hash_of};
use crate::objects::folder::{Entry, Folder, ROOT_FOLDER, check_name, look_up};
use crate::objects::reading::ReadError;
use crate::objects::{Blob, Counter, Handle, Kind, Map, Queue, blob, counter, identity, map, queue};
use crate::planted::{self, Bug};
use crate::region::Region;
use crate::txn::{Transaction, TxnError};

impl<'s, 'r> Transaction<'s, 'r> {
    /// The folder at this path (names with `/` between them), made if there is none, and those that lead to it.
    ///
    /// # Errors
    /// [`TxnError`]; the transaction is rolled back then.
    pub fn open_or_create_folder(&mut self, path: &str) -> Result<Folder, TxnError> {
        self.attempt(|txn| {
            let names = txn.names(path)?;
            names.into_iter().try_fold(ROOT_FOLDER, |folder, name| match txn.look_up(folder, name)? {
                Some(Entry { handle, kind: Kind::Folder }) => Ok(handle),
                Some(_) => Err(TxnError::Exists),
                None => txn.create(folder, name, Kind::Folder),
            })
        })
        .map(Folder)
    }

    /// A new folder at this path, which all but the last name lead to.
    ///
    /// # Errors
    /// [`TxnError::Exists`], [`TxnError::NotFound`], [`TxnError::TooDeep`] beyond [`MAX_DEPTH`] and others; the transaction
    /// is rolled back then.
    pub fn create_folder(&mut self, path: &str) -> Result<Folder, TxnError> {
        self.attempt(|txn| {
            let (folder, name) = txn.walk(path)?;
            txn.create(folder, name, Kind::Folder).map(Folder)
        })
    }

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

    /// Deletes the folder at this path, which holds nothing; says whether there was one.
    ///
    /// # Errors
    /// [`TxnError::NotEmpty`] and others; the transaction is rolled back then.
    pub fn delete_folder(&mut self, path: &str) -> Result<bool, TxnError> {
        self.attempt(|txn| match txn.walk(path) {
            Ok((folder, name)) => txn.unlink(folder, name, |kind| kind == Kind::Folder),
            Err(TxnError::NotFound) => Ok(false),
            Err(error) => Err(error),
        })
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

    /// Moves the folder at one path, with everything in it, to another. Its handles go on as before.
    ///
    /// # Errors
    /// [`TxnError::NotFound`], [`TxnError::Exists`], [`TxnError::IntoItself`], [`TxnError::TooDeep`] and others; the
    /// transaction is rolled back then.
    pub fn rename_folder(&mut self, path: &str, to: &str) -> Result<(), TxnError> {
        self.attempt(|txn| {
            let (from, to) = ((txn.walk(path)?, path), (txn.walk(to)?, to));
            let ((folder, name), (other_folder, other)) = (from.0, to.0);
            if to.1.strip_prefix(path).is_some_and(|below| below.starts_with('/')) {
                return Err(TxnError::IntoItself);
            }
            txn.lock_in_order(&mut [(folder, Kind::Folder), (other_folder, Kind::Folder)])?;
            let moved = txn.look_up(folder, name)?.ok_or(TxnError::NotFound)?;
            let above = to.1.split('/').count() - 1;
            if above + txn.height(moved.handle, MAX_DEPTH)? > MAX_DEPTH {
                return Err(TxnError::TooDeep);
            }
            txn.move_name((folder, name), (other_folder, other), |kind| kind == Kind::Folder)
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
    /// The names of a path, with the root's lock: the tree of folders stays as it is then.
    fn names<'p>(&mut self, path: &'p str) -> Result<Vec<&'p str>, TxnError> {
        self.lock(ROOT_FOLDER, Kind::Folder)?;
        let names: Vec<_> = path.split('/').collect();
        names.iter().try_for_each(|name| check_name(name))?;
        if names.len() > MAX_DEPTH { Err(TxnError::TooDeep) } else { Ok(names) }
    }

    /// The folder that all but the last name of a path lead to, and that name.
    fn walk<'p>(&mut self, path: &'p str) -> Result<(Handle, &'p str), TxnError> {
        let mut names = self.names(path)?;
        let last = names.pop().ok_or(TxnError::BadName)?;
        let folder = names.into_iter().try_fold(ROOT_FOLDER, |folder, name| {
            let entry = self.look_up(folder, name)?.filter(|entry| entry.kind == Kind::Folder);
            entry.map(|entry| entry.handle).ok_or(TxnError::NotFound)
        })?;
        Ok((folder, last))
    }

    /// How many levels of folders there are in a folder, itself included; at most one more than `most`.
    fn height(&mut self, folder: Handle, most: usize) -> Result<usize, TxnError> {
        let Some(most) = most.checked_sub(1) else { return Ok(1) };
        let mut highest = 1;
        for below in self.folders_in(folder)? {
            highest = highest.max(1 + self.height(below, most)?);
        }
        Ok(highest)
    }

    fn folders_in(&self, folder: Handle) -> Result<Vec<Handle>, TxnError> {
        let mut entries = Vec::new();
        if let Some(names) = self.seat.holds(folder.index) {
            let tree = Tree::of(self.region(), names);
            for number in 0..tree.buckets {
                for entry in tree.chain(number)? {
                    let mut value = Vec::new();
                    entry.value(&mut value);
                    entries.push(Entry::from_bytes(&value)?);
                }
            }
        } else {
            entries.extend(Folder(folder).list(self.region())?.into_iter().map(|(_, entry)| entry));
        }
        Ok(entries.into_iter().filter(|entry| entry.kind == Kind::Folder).map(|entry| entry.handle).collect())
    }

    fn open_or_create(&mut self, folder: Handle, name: &str, kind: Kind) -> Result<(Handle, bool), TxnError> {
        match self.entry(folder, name)? {
            Some(entry) if entry.kind == kind => Ok((entry.handle, false)),
            Some(_) => Err(TxnError::Exists),
            None => Ok((self.create(folder, name, kind)?, true)),
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

    fn limit(&mut self, handle: Handle, capacity: u64) -> Result<Queue, TxnError> {
        let object = self.lock(handle, Kind::Queue)?;
        self.set_body(handle.index, object, queue::CAPACITY, capacity)?;
        Ok(Queue(handle))
    }

    /// What a name stands for, under the folder's lock.
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

    /// The same without taking the lock.
    fn look_up(&mut self, folder: Handle, name: &str) -> Result<Option<Entry>, TxnError> {
        // What this transaction is changing itself cannot be read from outside.
        if self.seat.holds(folder.index).is_some() {
            return self.entry(folder, name);
        }
        Ok(look_up(self.region(), folder, name)?)
    }

    /// Takes several locks in the order in which locks are waited for. Whether the objects are still there is for the
    /// caller to see.
    fn lock_in_order(&mut self, wanted: &mut [(Handle, Kind)]) -> Result<(), TxnError> {
        wanted.sort_by_key(|(handle, _)| handle.index);
        for (handle, kind) in wanted {
            match self.lock(*handle, *kind) {
                Err(TxnError::NotFound) => {}
                outcome => drop(outcome?),
            }
        }
        Ok(())
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

    fn unlink(
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
        self.dropped |= then.is_dropping();
        Ok(true)
    }

    /// Under the locks of both folders.
    fn move_name(
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

/// The folder of a path and the name in it: `shop/orders` and `today` of `shop/orders/today`.
///
/// # Errors
/// [`ReadError::NotFound`] for a path of one name, and where there is no such folder.
pub fn folder_of<'p>(region: &Region, path: &'p str) -> Result<(Folder, &'p str), ReadError> {
    let (folder, name) = path.rsplit_once('/').ok_or(ReadError::NotFound)?;
    Ok((Folder::open(region, folder)?, name))
}
