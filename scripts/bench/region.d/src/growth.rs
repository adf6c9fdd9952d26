//! What an operation costs as the map grows, beside the standard library's.

use std::collections::HashMap;
use std::hint::black_box;

use common::objects::Map;
use common::region::Region;
use common::txn::Seat;

use crate::keys::{self, KEY, Keys, VALUE};
use crate::processes::{self, ns_per_operation};
use crate::table::{Table, Target, in_turn, median};
use crate::{Effort, ours};

const SMALLEST: u64 = 100;
/// More than an entry takes of a region, its share of the buckets and of the region's tables included.
const BYTES_OF_ENTRY: u64 = 320;

/// What a get waits for.
#[derive(Clone, Copy)]
enum Order {
    /// The one before: its value says which key comes next. So the time is what a get takes.
    OneByOne,
    /// Nothing: the processor begins the next one while this one's memory is on its way, if its window reaches so far.
    AtOnce,
}

/// Both maps at one size, the same keys in both.
struct Pair<'r> {
    map: Map,
    std: HashMap<[u8; KEY], [u8; VALUE]>,
    region: &'r Region,
    /// What is asked for next: of ours, of the standard library's. They go on where they were, from round to round: keys
    /// that were the same in every slice would be a small part of a large map, and in the caches.
    keys: [Keys; 2],
}

pub fn run(table: &mut Table, effort: Effort) {
    processes::pin(0);
    // All the sizes together are a ninth more than the largest.
    let size = (effort.entries * BYTES_OF_ENTRY).next_multiple_of(4096).max(512 << 20);
    let region = Region::create(&ours::memory_file(), size).expect("a region");
    let mut seat = ours::seat(&region, 0, 1);
    let sizes: Vec<u64> = std::iter::successors(Some(SMALLEST), |size| Some(size * 10))
        .take_while(|size| *size <= effort.entries)
        .collect();
    let mut pairs: Vec<Pair<'_>> =
        sizes.iter().map(|entries| Pair::filled(&region, &mut seat, *entries)).collect();

    let (mut gets, mut at_once, mut puts) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        // All sizes in every round, so that each ratio is of figures of the same moment.
        gets.push(pairs.iter_mut().map(|pair| pair.get(effort, Order::OneByOne)).collect::<Vec<_>>());
        at_once.push(pairs.iter_mut().map(|pair| pair.get(effort, Order::AtOnce)).collect::<Vec<_>>());
        puts.push(pairs.iter_mut().map(|pair| pair.put(&mut seat, effort)).collect::<Vec<_>>());
    }
    for (what, rounds) in [("get", &gets), ("gets at once", &at_once), ("put", &puts)] {
        for (index, entries) in sizes.iter().enumerate() {
            let of = |side: usize| rounds.iter().map(|round| round[index][side]).collect::<Vec<_>>();
            let (ours, theirs) = (median(&of(0)), median(&of(1)));
            let grown: Vec<f64> = rounds
                .iter()
                .map(|round| (round[index][0] / round[0][0]) / (round[index][1] / round[0][1]))
                .collect();
            // The target is about the whole way; the sizes between show where it is steep.
            let target = if index + 1 == sizes.len() { Target::AtMost(1.3) } else { Target::None };
            let figures = format!("region {ours:.1} ns, HashMap {theirs:.1} ns");
            table.line(&format!("{what}, {entries} entries"), &figures, &grown, target);
        }
    }
}

impl<'r> Pair<'r> {
    fn filled(region: &'r Region, seat: &mut Seat<'_>, entries: u64) -> Self {
        let map = ours::filled(seat, &entries.to_string(), entries);
        let std = (0..entries).map(|number| (keys::key(number), [1; VALUE])).collect();
        Self { map, std, region, keys: [Keys::new(entries), Keys::new(entries)] }
    }

    /// Nanoseconds of a get: ours, the standard library's.
    fn get(&mut self, effort: Effort, order: Order) -> [f64; 2] {
        let Self { map, std, region, keys: [keys, other_keys] } = self;
        let (mut buffer, mut other_buffer) = (vec![0; VALUE], vec![0; VALUE]);
        let measured = in_turn(
            1,
            &mut [
                &mut || {
                    ns_per_operation(effort, || {
                        let key = order.next(keys, &buffer);
                        assert!(map.get_into(region, &key, &mut buffer).expect("get"));
                        black_box(&buffer);
                    })
                },
                &mut || {
                    ns_per_operation(effort, || {
                        let key = order.next(other_keys, &other_buffer);
                        other_buffer.clear();
                        other_buffer.extend_from_slice(std.get(&key).expect("get"));
                        black_box(&other_buffer);
                    })
                },
            ],
        );
        [measured[0][0], measured[1][0]]
    }

    /// Nanoseconds of a put under a key that is there: ours, the standard library's.
    fn put(&mut self, seat: &mut Seat<'_>, effort: Effort) -> [f64; 2] {
        let Self { map, std, keys: [keys, other_keys], .. } = self;
        let measured = in_turn(
            1,
            &mut [
                &mut || {
                    ns_per_operation(effort, || {
                        let key = keys.next();
                        ours::put(seat, *map, &key, &keys::value(&key));
                    })
                },
                &mut || {
                    ns_per_operation(effort, || {
                        let key = other_keys.next();
                        black_box(std.insert(key, keys::value(&key)));
                    })
                },
            ],
        );
        [measured[0][0], measured[1][0]]
    }
}

impl Order {
    #[inline]
    fn next(self, keys: &mut Keys, value: &[u8]) -> [u8; KEY] {
        match self {
            Self::OneByOne => keys.next_after(value[0]),
            Self::AtOnce => keys.next(),
        }
    }
}
