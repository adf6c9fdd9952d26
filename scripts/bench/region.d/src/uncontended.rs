//! One process alone, 1000 entries, random order: the region and LMDB.

use std::hint::black_box;

use common::region::Region;

use crate::keys::{self, Keys, VALUE};
use crate::lmdb::Lmdb;
use crate::processes::{self, ns_per_operation};
use crate::table::{Side, Table, Target, in_turn, ratios};
use crate::{Effort, ours};

const ENTRIES: u64 = 1000;

pub fn run(table: &mut Table, effort: Effort) {
    processes::pin(0);
    let region = Region::create(&ours::memory_file(), 64 << 20).expect("a region");
    let mut seat = ours::seat(&region, 0, 1);
    let map = ours::filled(&mut seat, "map", ENTRIES);
    let lmdb = Lmdb::filled(ENTRIES);

    let mut keys = Keys::new(ENTRIES);
    let mut other_keys = Keys::new(ENTRIES);
    let puts = in_turn(
        effort.rounds,
        &mut [
            &mut || {
                ns_per_operation(effort, || {
                    let key = keys.next();
                    ours::put(&mut seat, map, &key, &keys::value(&key));
                })
            },
            &mut || {
                ns_per_operation(effort, || {
                    let key = other_keys.next();
                    lmdb.put(&key, &keys::value(&key));
                })
            },
        ],
    );
    let [ours, theirs] = &puts[..] else { unreachable!("two contenders") };
    against(table, "put, 64 bytes", ours, "LMDB", theirs, Target::AtLeast(3.0));

    let (mut buffer, mut other_buffer) = (Vec::with_capacity(VALUE), Vec::with_capacity(VALUE));
    let mut third_buffer = Vec::with_capacity(VALUE);
    let mut third_keys = Keys::new(ENTRIES);
    let gets = in_turn(
        effort.rounds,
        &mut [
            &mut || {
                ns_per_operation(effort, || {
                    assert!(map.get_into(&region, &keys.next(), &mut buffer).expect("get"));
                    black_box(&buffer);
                })
            },
            &mut || {
                ns_per_operation(effort, || {
                    assert!(lmdb.get(&other_keys.next(), &mut other_buffer));
                    black_box(&other_buffer);
                })
            },
            &mut || {
                let txn = lmdb.read();
                ns_per_operation(effort, || {
                    assert!(lmdb.get_in(&txn, &third_keys.next(), &mut third_buffer));
                    black_box(&third_buffer);
                })
            },
        ],
    );
    let [ours, theirs, long_lived] = &gets[..] else { unreachable!("three contenders") };
    against(table, "get, 64 bytes", ours, "LMDB", theirs, Target::AtLeast(3.0));
    against(table, "  its snapshot kept", ours, "LMDB", long_lived, Target::None);
}

fn against(table: &mut Table, what: &str, ours: &[f64], who: &str, theirs: &[f64], target: Target) {
    let (mine, other) = (Side { name: "region", rounds: ours }, Side { name: who, rounds: theirs });
    table.compare(what, &mine, &other, &ratios(theirs, ours), target);
}
