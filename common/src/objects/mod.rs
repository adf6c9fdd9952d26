//! Objects: what processes share by name. Folders, a tree of them, hold maps, queues, blobs and counters.
//!
//! ```
//! # use common::{ids::*, region::Region, slots, txn::Seat};
//! # let file = tempfile::tempfile().unwrap();
//! # let region = Region::create(&file, 1 << 20).unwrap();
//! # region.slot(SlotIndex(0)).unwrap().reserve(Generation(1), 1);
//! # let mut seat = Seat::take(&region, slots::owner(SlotIndex(0), Generation(1))).unwrap();
//! use common::objects::{Folder, Map};
//!
//! // Changes are made in transactions: all of them or none.
//! let mut txn = seat.begin()?;
//! let shop = txn.open_or_create_folder("shop")?;
//! let stock = txn.open_or_create_map(shop, "stock")?;
//! let sold = txn.open_or_create_counter(shop, "sold")?;
//! txn.map(stock)?.put(b"apples", b"7")?;
//! txn.counter(sold)?.add(3)?;
//! txn.commit()?;
//!
//! // Reading takes no lock, writes nothing, and works on a read-only mapping.
//! let stock = Folder::open(&region, "shop")?.open_map(&region, "stock")?;
//! assert_eq!(stock.get(&region, b"apples")?.as_deref(), Some(&b"7"[..]));
//! assert_eq!(sold.get(&region)?, 3);
//!
//! // What is not committed is as if it had not been.
//! let mut txn = seat.begin()?;
//! txn.map(stock)?.remove(b"apples")?;
//! drop(txn);
//! assert!(stock.get(&region, b"apples")?.is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Queues are waited for before the transaction: see [`Seat::begin_with_item`](crate::seat::Seat::begin_with_item).
//!
//! An object's lock, sequence word and identity stand in the object table, at a place that never becomes something
//! else. A handle names the entry and the object's generation: a handle of a deleted object finds nothing.

pub mod blob;
pub mod counter;
pub mod folder;
pub mod in_flight;
pub mod map;
pub mod queue;
pub mod tree;
pub mod waiting;

pub(crate) mod buckets;
pub(crate) mod chunks;
pub(crate) mod items;

mod editing;
mod emptying;
mod naming;
mod reading;
pub mod survey;

use std::sync::atomic::Ordering::Relaxed;

pub use blob::Blob;
pub use counter::Counter;
pub use folder::Folder;
pub use in_flight::Taken;
pub use map::Map;
pub use queue::Queue;
pub(crate) use reading::Broken;
pub use reading::ReadError;

use crate::heap::HEAP_OBJECT;
use crate::layout::Object;
use crate::region::Region;

/// The object table's entry that is the folder of folders.
pub const ROOT_OBJECT: u32 = 1;

/// What an entry of the object table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Nothing: to be used for the next object.
    Free = 0,
    /// The heap's lock and words.
    Heap = 1,
    /// Names of objects.
    Folder = 2,
    /// Values under keys.
    Map = 3,
    /// A number.
    Counter = 4,
    /// A map or folder that was deleted, with blocks that are still to be freed.
    Dropping = 5,
    /// Items in order.
    Queue = 6,
    /// Bytes.
    Blob = 7,
    /// A queue that was deleted, likewise.
    DroppingQueue = 8,
    /// A blob that was deleted, likewise.
    DroppingBlob = 9,
}

impl Kind {
    /// The kind in an identity word; `None` for one that does not exist.
    pub fn of(identity: u64) -> Option<Self> {
        match identity as u32 {
            0 => Some(Self::Free),
            1 => Some(Self::Heap),
            2 => Some(Self::Folder),
            3 => Some(Self::Map),
            4 => Some(Self::Counter),
            5 => Some(Self::Dropping),
            6 => Some(Self::Queue),
            7 => Some(Self::Blob),
            8 => Some(Self::DroppingQueue),
            9 => Some(Self::DroppingBlob),
            _ => None,
        }
    }

    /// Whether it was deleted, and has blocks that are still to be freed.
    pub const fn is_dropping(self) -> bool {
        matches!(self, Self::Dropping | Self::DroppingQueue | Self::DroppingBlob)
    }

    /// Whether folders have names for such objects.
    pub const fn is_named(self) -> bool {
        matches!(self, Self::Folder | Self::Map | Self::Counter | Self::Queue | Self::Blob)
    }

    /// Whether it is made as a map is: of buckets.
    pub const fn has_buckets(self) -> bool {
        matches!(self, Self::Folder | Self::Map | Self::Dropping)
    }

    /// Whether it is made as a queue is.
    pub const fn has_items(self) -> bool {
        matches!(self, Self::Queue | Self::DroppingQueue)
    }

    /// Whether it is made as a blob is.
    pub const fn has_chunks(self) -> bool {
        matches!(self, Self::Blob | Self::DroppingBlob)
    }

    /// What becomes of such an object when it is deleted.
    pub(crate) const fn deleted(self) -> Self {
        match self {
            Self::Map | Self::Folder => Self::Dropping,
            Self::Queue => Self::DroppingQueue,
            Self::Blob => Self::DroppingBlob,
            other => other,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Free => "nothing",
            Self::Heap => "heap",
            Self::Folder => "folder",
            Self::Map => "map",
            Self::Counter => "counter",
            Self::Queue => "queue",
            Self::Blob => "blob",
            Self::Dropping | Self::DroppingQueue | Self::DroppingBlob => "being deleted",
        })
    }
}

/// Names an object in one generation of its entry in the object table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    /// The entry.
    pub index: u32,
    /// The generation of objects there.
    pub generation: u32,
}

impl Handle {
    /// The identity word of such an object.
    pub(crate) const fn identity(self, kind: Kind) -> u64 {
        identity(self.generation, kind)
    }
}

pub(crate) const fn identity(generation: u32, kind: Kind) -> u64 {
    (generation as u64) << 32 | kind as u64
}

/// In a region that is being created: the objects that are always there.
pub(crate) fn found(region: &Region) {
    for (index, kind) in [(HEAP_OBJECT, Kind::Heap), (ROOT_OBJECT, Kind::Folder)] {
        if let Some(object) = region.object(index) {
            object.identity.store(identity(0, kind), Relaxed);
        }
    }
}

/// Every entry of the object table that is an object, with its kind.
pub fn all(region: &Region) -> impl Iterator<Item = (Handle, Kind, &Object)> {
    (0..region.geometry().object_count).filter_map(|index| {
        let object = region.object(index)?;
        let identity = object.identity.load(Relaxed);
        let kind = Kind::of(identity).filter(|kind| *kind != Kind::Free)?;
        Some((Handle { index, generation: (identity >> 32) as u32 }, kind, object))
    })
}

/// Whether an undo record may name these bytes of the object table: identity or body of an object whose lock `holds`.
pub fn may_be_logged(region: &Region, offset: u64, length: usize, holds: impl Fn(u32) -> bool) -> bool {
    let size = size_of::<Object>() as u64;
    let Some(within) = offset.checked_sub(region.geometry().objects) else { return false };
    let (index, within) = (within / size, within % size);
    index < region.geometry().object_count.into()
        && within >= std::mem::offset_of!(Object, identity) as u64
        && within + length as u64 <= size
        && holds(index as u32)
}
