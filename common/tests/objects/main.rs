//! Every kind of object against what the standard library has for it, with rollbacks, growth, deletion and a heap that
//! fills up; and waiting at queues.

mod blobs;
mod folders;
mod maps;
mod queues;
mod waiting;

use common::ids::{Generation, SlotIndex};
use common::objects::{Folder, Kind};
use common::region::Region;
use common::slots;
use common::txn::Seat;
use proptest::test_runner::Config as ProptestConfig;

/// How many cases a property is tried with: Miri is some thousand times slower.
fn cases(usual: u32) -> ProptestConfig {
    if cfg!(miri) {
        ProptestConfig { cases: 1, failure_persistence: None, ..ProptestConfig::default() }
    } else {
        ProptestConfig::with_cases(usual)
    }
}

/// How long a case is at most.
fn most(usual: usize) -> usize {
    if cfg!(miri) { usual / 10 } else { usual }
}

fn region(length: u64) -> Region {
    Region::create(&tempfile::tempfile().unwrap(), length).unwrap()
}

fn seat(region: &Region, index: u32) -> Seat<'_> {
    let owner = slots::owner(SlotIndex(index), Generation(1));
    region.slot(owner.slot).unwrap().reserve(owner.generation, 1);
    Seat::take(region, owner).unwrap()
}

fn folder(seat: &mut Seat<'_>) -> Folder {
    let mut txn = seat.begin().unwrap();
    let folder = txn.open_or_create_folder("test").unwrap();
    txn.commit().unwrap();
    folder
}

/// Whether nothing is left of what was deleted.
fn nothing_is_left(region: &Region) -> bool {
    common::objects::all(region).all(|(_, kind, _)| matches!(kind, Kind::Heap | Kind::Folder))
}
