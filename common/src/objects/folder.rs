//! Folders: maps from names to objects, and to other folders: a tree, whose root is always there and holds folders only.
//! How the tree changes is in `tree`, how the names in a folder do in `naming`.

use crate::limits::{MAX_DEPTH, MAX_NAME};
use crate::objects::buckets::Tree;
use crate::objects::map;
use crate::objects::reading::{self, Broken, ReadError};
use crate::objects::{Blob, Counter, Handle, Kind, Map, Queue, ROOT_OBJECT};
use crate::region::Region;
use crate::txn::TxnError;

/// The root of the tree.
pub(crate) const ROOT_FOLDER: Handle = Handle { index: ROOT_OBJECT, generation: 0 };

/// A folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Folder(pub(crate) Handle);

/// What a name in a folder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The object.
    pub handle: Handle,
    /// What it is.
    pub kind: Kind,
}

impl Folder {
    /// The folder at this path: names with `/` between them.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn open(region: &Region, path: &str) -> Result<Self, ReadError> {
        let mut folder = ROOT_FOLDER;
        for (depth, name) in path.split('/').enumerate() {
            if depth == MAX_DEPTH {
                return Err(ReadError::NotFound);
            }
            folder = find(region, folder, name, Kind::Folder)?;
        }
        Ok(Self(folder))
    }

    /// The names of the folders at the top of the tree, with their handles, in order.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn top(region: &Region) -> Result<Vec<(String, Self)>, ReadError> {
        let entries = list(region, ROOT_FOLDER)?;
        Ok(entries.into_iter().map(|(name, entry)| (name, Self(entry.handle))).collect())
    }

    /// The paths of all folders, with their handles, each behind the one that it is in. Not all of one moment: a folder
    /// that is moved meanwhile may be missing.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn all(region: &Region) -> Result<Vec<(String, Self)>, ReadError> {
        let mut all = Vec::new();
        let mut last = vec![(String::new(), ROOT_FOLDER)];
        // A region that was scribbled over may lead round in a ring.
        let mut room = region.geometry().object_count;
        for _ in 0..MAX_DEPTH {
            let mut next = Vec::new();
            for (path, folder) in last {
                let entries = match list(region, folder) {
                    // Deleted since it was listed.
                    Err(ReadError::NotFound) if folder != ROOT_FOLDER => continue,
                    entries => entries?,
                };
                for (name, entry) in entries.into_iter().filter(|(_, entry)| entry.kind == Kind::Folder) {
                    room = room.checked_sub(1).ok_or(ReadError::Damaged)?;
                    let below = if path.is_empty() { name } else { format!("{path}/{name}") };
                    next.push((below, entry.handle));
                }
            }
            all.extend(next.iter().map(|(path, handle)| (path.clone(), Self(*handle))));
            last = next;
        }
        all.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(all)
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

    /// The queue of this name in the folder.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn open_queue(self, region: &Region, name: &str) -> Result<Queue, ReadError> {
        find(region, self.0, name, Kind::Queue).map(Queue)
    }

    /// The blob of this name in the folder.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn open_blob(self, region: &Region, name: &str) -> Result<Blob, ReadError> {
        find(region, self.0, name, Kind::Blob).map(Blob)
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
    let entry = look_up(region, folder, name)?;
    entry.filter(|entry| entry.kind == kind).map(|entry| entry.handle).ok_or(ReadError::NotFound)
}

/// What a name in a folder stands for, as last committed.
pub(crate) fn look_up(region: &Region, folder: Handle, name: &str) -> Result<Option<Entry>, ReadError> {
    let hash = region.hash_of(name.as_bytes());
    reading::read(region, folder, Kind::Folder, |object| {
        let Some(found) = Tree::of(region, object).find(hash, name.as_bytes())? else { return Ok(None) };
        let mut value = Vec::new();
        found.entry.value(&mut value);
        Entry::from_bytes(&value).map(Some)
    })
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
    pub(crate) fn to_bytes(self) -> [u8; 12] {
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
