//! Changing the tree of folders: making, moving and deleting them.
//!
//! Whoever does that holds the root's lock, so the tree is changed by one at a time: what a path leads to stays, no folder
//! gets into itself, none too deep.

use crate::limits::MAX_DEPTH;
use crate::objects::buckets::Tree;
use crate::objects::folder::{Entry, Folder, ROOT_FOLDER, check_name, look_up};
use crate::objects::reading::ReadError;
use crate::objects::{Handle, Kind};
use crate::region::Region;
use crate::txn::{Transaction, TxnError};

impl Transaction<'_, '_> {
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

    /// The folder at this path, which this transaction may have made.
    ///
    /// # Errors
    /// [`TxnError::NotFound`] and others; the transaction is rolled back then.
    pub fn open_folder(&mut self, path: &str) -> Result<Folder, TxnError> {
        self.attempt(|txn| txn.walk_to(path))
    }

    /// The same; `None` where there is none, and the transaction goes on.
    ///
    /// # Errors
    /// [`TxnError`]; the transaction is rolled back then.
    pub fn find_folder(&mut self, path: &str) -> Result<Option<Folder>, TxnError> {
        self.attempt(|txn| match txn.walk_to(path) {
            Err(TxnError::NotFound) => Ok(None),
            found => found.map(Some),
        })
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
            let mut room = txn.region().geometry().object_count;
            if above + txn.height(moved.handle, MAX_DEPTH, &mut room)? > MAX_DEPTH {
                return Err(TxnError::TooDeep);
            }
            txn.move_name((folder, name), (other_folder, other), |kind| kind == Kind::Folder)
        })
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
        let folder = names.into_iter().try_fold(ROOT_FOLDER, |folder, name| self.folder_in(folder, name))?;
        Ok((folder, last))
    }

    fn walk_to(&mut self, path: &str) -> Result<Folder, TxnError> {
        let (above, name) = self.walk(path)?;
        self.folder_in(above, name).map(Folder)
    }

    fn folder_in(&mut self, folder: Handle, name: &str) -> Result<Handle, TxnError> {
        let entry = self.look_up(folder, name)?.filter(|entry| entry.kind == Kind::Folder);
        entry.map(|entry| entry.handle).ok_or(TxnError::NotFound)
    }

    /// How many levels of folders there are in a folder, itself included; at most one more than `most`. There are no more
    /// folders than `room`.
    fn height(&mut self, folder: Handle, most: usize, room: &mut u32) -> Result<usize, TxnError> {
        let Some(most) = most.checked_sub(1) else { return Ok(1) };
        *room = room.checked_sub(1).ok_or(TxnError::Damaged)?;
        let mut highest = 1;
        for below in self.folders_in(folder)? {
            highest = highest.max(1 + self.height(below, most, room)?);
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

    /// The same without taking the lock.
    pub(crate) fn look_up(&mut self, folder: Handle, name: &str) -> Result<Option<Entry>, TxnError> {
        // What this transaction is changing itself cannot be read from outside.
        if self.seat.holds(folder.index).is_some() {
            return self.entry(folder, name);
        }
        Ok(look_up(self.region(), folder, name)?)
    }

    /// Takes several locks in the order in which locks are waited for. Whether the objects are still there is for the
    /// caller to see.
    pub(crate) fn lock_in_order(&mut self, wanted: &mut [(Handle, Kind)]) -> Result<(), TxnError> {
        wanted.sort_by_key(|(handle, _)| handle.index);
        for (handle, kind) in wanted {
            match self.lock(*handle, *kind) {
                Err(TxnError::NotFound) => {}
                outcome => drop(outcome?),
            }
        }
        Ok(())
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
