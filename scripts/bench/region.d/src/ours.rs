//! The region's side.

use std::fs::File;

use common::ids::{Generation, SlotIndex};
use common::objects::{Folder, Map};
use common::region::Region;
use common::slots;
use common::txn::Seat;

use crate::keys::{self, VALUE};

/// A file in memory, without a name.
pub fn memory_file() -> File {
    tempfile::tempfile_in("/dev/shm").expect("a file in /dev/shm")
}

/// A seat in a slot that nobody has; the generation says which of the slot's owners it is.
pub fn seat(region: &Region, slot: u32, generation: u32) -> Seat<'_> {
    let owner = slots::owner(SlotIndex(slot), Generation(generation));
    region.slot(owner.slot).expect("a slot").reserve(owner.generation, 1);
    Seat::take(region, owner).expect("a seat")
}

/// A map of this name with the first so many keys.
pub fn filled(seat: &mut Seat<'_>, name: &str, entries: u64) -> Map {
    let mut txn = seat.begin().expect("begin");
    let folder = txn.open_or_create_folder("bench").expect("folder");
    let map = txn.create_map(folder, name).expect("map");
    txn.commit().expect("commit");
    for number in 0..entries {
        put(seat, map, &keys::key(number), &[1; VALUE]);
    }
    map
}

/// The map of this name, in another process.
pub fn open(region: &Region, name: &str) -> Map {
    let folder = Folder::open(region, "bench").expect("folder");
    folder.open_map(region, name).expect("map")
}

/// One put in one transaction.
#[inline]
pub fn put(seat: &mut Seat<'_>, map: Map, key: &[u8], value: &[u8]) {
    let mut txn = seat.begin().expect("begin");
    txn.map(map).expect("lock").put(key, value).expect("put");
    txn.commit().expect("commit");
}
