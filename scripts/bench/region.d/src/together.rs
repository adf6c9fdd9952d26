//! Two processes on two cores: different objects, and the same one beside a robust mutex around a copy.

use std::cell::UnsafeCell;
use std::hint::black_box;

use common::objects::Map;
use common::region::Region;
use common::txn::Seat;

use crate::keys::{self, Keys, VALUE};
use crate::processes::{at_once, ns_per_operation, shared};
use crate::table::{Side, Table, Target, in_turn, ratios};
use crate::{Effort, ours};

const ENTRIES: u64 = 1000;
const NAMES: [&str; 2] = ["one", "other"];

pub fn run(table: &mut Table, effort: Effort) {
    let file = ours::memory_file();
    let region = Region::create(&file, 64 << 20).expect("a region");
    let mut seat = ours::seat(&region, 9, 1);
    for name in NAMES {
        ours::filled(&mut seat, name, ENTRIES);
    }

    let generation = std::cell::Cell::new(1);
    let write = |count: usize, name: &dyn Fn(usize) -> &'static str, puts: Puts| {
        generation.set(generation.get() + 1);
        at_once(count, |number, wait| {
            let region = Region::attach(&file).expect("the region");
            let mut seat = ours::seat(&region, number as u32, generation.get());
            let map = ours::open(&region, name(number));
            let ns = puts(effort, &mut seat, map, wait);
            seat.leave();
            ns
        })
    };
    let different = in_turn(
        effort.rounds,
        &mut [&mut || write(2, &|number| NAMES[number], all_keys), &mut || write(1, &|_| NAMES[0], all_keys)],
    );
    let [two, one] = &different[..] else { unreachable!("two contenders") };
    let (mine, other) = (Side { name: "two", rounds: two }, Side { name: "one", rounds: one });
    table.compare("two writers, two objects", &mine, &other, &ratios(one, two), Target::AtLeast(1.6));

    let mutex = Mutex::new();
    let same = in_turn(
        effort.rounds,
        &mut [&mut || write(2, &|_| NAMES[0], one_key), &mut || {
            at_once(2, |number, wait| {
                let value = [number as u8; VALUE];
                wait();
                ns_per_operation(effort, || mutex.copy(black_box(&value)))
            })
        }],
    );
    let [ours, theirs] = &same[..] else { unreachable!("two contenders") };
    let (mine, other) = (Side { name: "region", rounds: ours }, Side { name: "mutex", rounds: theirs });
    table.compare("two writers, one object", &mine, &other, &ratios(ours, theirs), Target::AtMost(1.5));
}

/// Nanoseconds of a put, from when what it is given says so.
type Puts = fn(Effort, &mut Seat<'_>, Map, &dyn Fn()) -> f64;

/// Under every key, in random order.
fn all_keys(effort: Effort, seat: &mut Seat<'_>, map: Map, wait: &dyn Fn()) -> f64 {
    let mut keys = Keys::new(ENTRIES);
    when_mapped(effort, wait, || {
        let key = keys.next();
        ours::put(seat, map, &key, &keys::value(&key));
    })
}

/// Under one key. Like what is copied under the mutex beside it, key and value are there beforehand.
fn one_key(effort: Effort, seat: &mut Seat<'_>, map: Map, wait: &dyn Fn()) -> f64 {
    let key = keys::key(0);
    let value = keys::value(&key);
    when_mapped(effort, wait, || ours::put(seat, map, black_box(&key), black_box(&value)))
}

/// Measures once all that is touched is mapped.
fn when_mapped(effort: Effort, wait: &dyn Fn(), mut put: impl FnMut()) -> f64 {
    (0..4 * ENTRIES).for_each(|_| put());
    wait();
    ns_per_operation(effort, put)
}

/// A robust mutex that processes share, and what it guards, on a cache line of its own.
#[repr(C)]
struct Mutex {
    mutex: UnsafeCell<libc::pthread_mutex_t>,
    guarded: Guarded,
}

#[repr(C, align(64))]
struct Guarded(UnsafeCell<[u8; VALUE]>);

impl Mutex {
    fn new() -> &'static Self {
        let this = shared::<Self>();
        // SAFETY: nobody else knows the mutex yet; the attributes are initialised before they are used.
        unsafe {
            let mut attributes = std::mem::zeroed();
            libc::pthread_mutexattr_init(&raw mut attributes);
            libc::pthread_mutexattr_setpshared(&raw mut attributes, libc::PTHREAD_PROCESS_SHARED);
            libc::pthread_mutexattr_setrobust(&raw mut attributes, libc::PTHREAD_MUTEX_ROBUST);
            assert_eq!(libc::pthread_mutex_init(this.mutex.get(), &raw const attributes), 0);
        }
        this
    }

    #[inline]
    fn copy(&self, value: &[u8; VALUE]) {
        // SAFETY: initialised in new(); what it guards is touched under it alone.
        unsafe {
            assert_eq!(libc::pthread_mutex_lock(self.mutex.get()), 0);
            self.guarded.0.get().copy_from_nonoverlapping(value, 1);
            libc::pthread_mutex_unlock(self.mutex.get());
        }
    }
}
