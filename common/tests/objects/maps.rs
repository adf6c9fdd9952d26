//! Maps and counters against the standard library's, with rollbacks, growth, deletion and a heap that fills up.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use common::heap::Usage;
use common::objects::{Folder, Kind, Map, ReadError};
use common::txn::{Seat, TxnError};
use proptest::prelude::*;

use crate::{region, seat};

fn new_map(seat: &mut Seat<'_>, name: &str) -> Map {
    let mut txn = seat.begin().unwrap();
    let folder = txn.open_or_create_folder("test").unwrap();
    let map = txn.create_map(folder, name).unwrap();
    txn.commit().unwrap();
    map
}

fn put(seat: &mut Seat<'_>, map: Map, key: &[u8], value: &[u8]) -> Result<bool, TxnError> {
    let mut txn = seat.begin()?;
    let there = txn.map(map)?.put(key, value)?;
    txn.commit()?;
    Ok(there)
}

#[derive(Clone, Debug)]
enum Action {
    Put(u8, usize),
    Remove(u8),
    Get(u8),
}

fn action() -> impl Strategy<Value = Action> {
    let length = prop_oneof![0_usize..20, 200_usize..300, 1000_usize..9000];
    prop_oneof![
        3 => (any::<u8>(), length).prop_map(|(key, length)| Action::Put(key, length)),
        1 => any::<u8>().prop_map(Action::Remove),
        1 => any::<u8>().prop_map(Action::Get),
    ]
}

fn key(number: u8) -> Vec<u8> {
    vec![number; usize::from(number) % 40 + 1]
}

proptest! {
    #![proptest_config(crate::cases(64))]

    #[test]
    fn a_map_is_what_a_hash_map_is(
        transactions in proptest::collection::vec((proptest::collection::vec(action(), 1..12), any::<bool>()), 1..crate::most(60))
    ) {
        let region = region(8 << 20);
        let mut seat = seat(&region, 1);
        let map = new_map(&mut seat, "map");
        let mut model = HashMap::<Vec<u8>, Vec<u8>>::new();
        for (number, (actions, commits)) in transactions.into_iter().enumerate() {
            let mut changed = model.clone();
            let mut txn = seat.begin().unwrap();
            for action in actions {
                let mut locked = txn.map(map).unwrap();
                match action {
                    Action::Put(name, length) => {
                        let value = vec![number as u8; length];
                        let there = locked.put(&key(name), &value).unwrap();
                        prop_assert_eq!(there, changed.insert(key(name), value).is_some());
                    }
                    Action::Remove(name) => {
                        prop_assert_eq!(locked.remove(&key(name)).unwrap(), changed.remove(&key(name)).is_some());
                    }
                    Action::Get(name) => {
                        prop_assert_eq!(locked.get(&key(name)).unwrap(), changed.get(&key(name)).cloned());
                    }
                }
                prop_assert_eq!(locked.len(), changed.len() as u64);
            }
            if commits {
                txn.commit().unwrap();
                model = changed;
            } else {
                drop(txn);
            }
            prop_assert_eq!(map.len(&region).unwrap(), model.len() as u64);
            let entries: HashMap<_, _> = map.entries(&region).unwrap().into_iter().collect();
            prop_assert_eq!(&entries, &model);
            for number in 0..=255 {
                prop_assert_eq!(map.get(&region, &key(number)).unwrap(), model.get(&key(number)).cloned());
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes an hour there")]
fn a_map_grows_through_all_its_levels_and_is_deleted_whole() {
    // Beyond one directory of segments: 512 × 512 buckets.
    const ENTRIES: u64 = 300_000;
    let region = region(128 << 20);
    let mut seat = seat(&region, 1);
    let map = new_map(&mut seat, "map");
    for first in (0..ENTRIES).step_by(8) {
        let mut txn = seat.begin().unwrap();
        let mut locked = txn.map(map).unwrap();
        for number in first..first + 8 {
            assert!(!locked.put(&number.to_le_bytes(), &(number * 3).to_le_bytes()).unwrap());
        }
        txn.commit().unwrap();
    }
    assert_eq!(map.len(&region).unwrap(), ENTRIES);
    for number in 0..ENTRIES {
        let value = map.get(&region, &number.to_le_bytes()).unwrap().unwrap();
        assert_eq!(value, (number * 3).to_le_bytes());
    }
    let entries: BTreeMap<_, _> = map.entries(&region).unwrap().into_iter().collect();
    assert_eq!(entries.len() as u64, ENTRIES);

    let mut txn = seat.begin().unwrap();
    let folder = txn.open_or_create_folder("test").unwrap();
    assert!(txn.delete(folder, "map").unwrap());
    txn.commit().unwrap();
    assert_eq!(map.get(&region, b"x"), Err(ReadError::NotFound));
    assert_eq!(put(&mut seat, map, b"x", b"y"), Err(TxnError::NotFound));
    assert!(common::objects::all(&region).all(|(_, kind, _)| kind != Kind::Dropping));

    // What it held can be used again.
    let used = Usage::of(&region).used;
    let other = new_map(&mut seat, "other");
    for number in 0..ENTRIES {
        put(&mut seat, other, &number.to_le_bytes(), &[7; 8]).unwrap();
    }
    assert!(Usage::of(&region).used <= used + used / 10, "{:?}, before {used}", Usage::of(&region));
}

#[test]
#[cfg_attr(miri, ignore = "takes an hour there")]
fn an_iterator_gives_what_is_there_all_the_time_once_and_ends() {
    let region = region(16 << 20);
    let mut seat = seat(&region, 1);
    let map = new_map(&mut seat, "map");
    for number in 0..2000_u64 {
        put(&mut seat, map, &number.to_le_bytes(), b"stays").unwrap();
    }
    let mut seen = BTreeMap::<u64, u32>::new();
    let mut others = 1 << 32_u64;
    for pair in map.iter(&region).unwrap() {
        let key = u64::from_le_bytes(pair.unwrap().0.try_into().unwrap());
        *seen.entry(key).or_default() += 1;
        // What comes and goes meanwhile splits buckets before and behind it.
        for _ in 0..4 {
            put(&mut seat, map, &u64::to_le_bytes(others), b"comes").unwrap();
            others += 1;
        }
        let mut txn = seat.begin().unwrap();
        txn.map(map).unwrap().remove(&u64::to_le_bytes(others - 2)).unwrap();
        txn.commit().unwrap();
    }
    assert!((0..2000).all(|key| seen.get(&key) == Some(&1)));
    assert!(seen.values().all(|times| *times == 1));
    let mut iterator = map.iter(&region).unwrap();
    assert!(iterator.next().unwrap().is_ok());
    let mut txn = seat.begin().unwrap();
    let folder = txn.open_or_create_folder("test").unwrap();
    txn.delete(folder, "map").unwrap();
    txn.commit().unwrap();
    let last = iterator.find(Result::is_err).unwrap();
    assert_eq!((last, iterator.next()), (Err(ReadError::NotFound), None));
}

#[test]
#[cfg_attr(miri, ignore = "takes an hour there")]
fn a_full_heap_refuses_and_changes_nothing() {
    let region = region(1 << 20);
    let mut seat = seat(&region, 1);
    let map = new_map(&mut seat, "map");
    let mut count = 0_u64;
    while put(&mut seat, map, &count.to_le_bytes(), &[1; 500]).is_ok() {
        count += 1;
    }
    assert!(count > 100);
    assert_eq!(put(&mut seat, map, b"large", &[0; 100_000]), Err(TxnError::Full));
    assert_eq!(map.len(&region).unwrap(), count);
    // The failing transaction took nothing along: what was changed before the failure is as it was.
    let mut txn = seat.begin().unwrap();
    let mut locked = txn.map(map).unwrap();
    assert!(locked.remove(&0_u64.to_le_bytes()).unwrap());
    assert_eq!(locked.put(b"large", &[0; 100_000]), Err(TxnError::Full));
    assert_eq!(locked.put(b"small", b""), Err(TxnError::RolledBack));
    assert_eq!(txn.commit(), Err(TxnError::RolledBack));
    assert!(map.get(&region, &0_u64.to_le_bytes()).unwrap().is_some());
    // Another slot finds no page; this one finds what it frees.
    let mut other = crate::seat(&region, 2);
    assert_eq!(put(&mut other, map, b"another's", &[1; 500]), Err(TxnError::Full));
    let mut txn = seat.begin().unwrap();
    assert!(txn.map(map).unwrap().remove(&5_u64.to_le_bytes()).unwrap());
    txn.commit().unwrap();
    assert_eq!(put(&mut seat, map, b"12345678", &[2; 500]), Ok(false));
    assert!(seat.slot().holds_nothing());
}

#[test]
fn bounds_are_errors_and_roll_back() {
    let region = region(4 << 20);
    let mut seat = seat(&region, 1);
    let map = new_map(&mut seat, "map");
    assert_eq!(put(&mut seat, map, &[0; 1025], b""), Err(TxnError::TooLong));
    assert_eq!(put(&mut seat, map, b"", &vec![0; 128 * 1024 + 1]), Err(TxnError::TooLong));
    assert_eq!(put(&mut seat, map, &[0; 1024], &vec![9; 128 * 1024]), Ok(false));
    assert_eq!(map.get(&region, &[0; 1024]).unwrap().unwrap(), vec![9; 128 * 1024]);

    let mut txn = seat.begin().unwrap();
    let mut locked = txn.map(map).unwrap();
    let refused = (0_u64..).find_map(|number| locked.put(&number.to_le_bytes(), &[1; 64]).err());
    assert_eq!(refused, Some(TxnError::TooLarge));
    drop(txn);
    assert_eq!(map.len(&region).unwrap(), 1);

    let mut txn = seat.begin().unwrap();
    let folder = txn.open_or_create_folder("test").unwrap();
    let refused = (0..100).find_map(|number| txn.create_map(folder, &format!("map {number}")).err());
    assert_eq!(refused, Some(TxnError::TooManyLocks));
    drop(txn);
    let folder = Folder::open(&region, "test").unwrap();
    assert_eq!(folder.list(&region).unwrap().len(), 1);

    let refused = (0..1000).find_map(|number| {
        let mut txn = seat.begin().unwrap();
        let made = txn.create_counter(folder, &format!("counter {number}"));
        made.and_then(|_| txn.commit()).err()
    });
    assert_eq!(refused, Some(TxnError::TooManyObjects));
    for name in ["", "a/b", "a\nb", &"x".repeat(65)] {
        let mut txn = seat.begin().unwrap();
        assert_eq!(txn.create_map(folder, name), Err(TxnError::BadName), "{name:?}");
    }
}

#[test]
fn names_are_made_found_listed_and_deleted() {
    let region = region(1 << 20);
    let mut seat = seat(&region, 1);
    assert_eq!(Folder::open(&region, "shop"), Err(ReadError::NotFound));
    let mut txn = seat.begin().unwrap();
    let shop = txn.create_folder("shop").unwrap();
    let stock = txn.create_map(shop, "stock").unwrap();
    let sold = txn.create_counter(shop, "sold").unwrap();
    assert_eq!(txn.counter(sold).unwrap().add(3), Ok(3));
    txn.commit().unwrap();
    let shop = Folder::open(&region, "shop").unwrap();
    assert_eq!(shop.open_map(&region, "stock"), Ok(stock));
    assert_eq!(shop.open_counter(&region, "stock"), Err(ReadError::NotFound), "it is a map");
    let names: Vec<_> =
        shop.list(&region).unwrap().into_iter().map(|(name, entry)| (name, entry.kind)).collect();
    assert_eq!(names, [("sold".to_owned(), Kind::Counter), ("stock".to_owned(), Kind::Map)]);
    assert_eq!(sold.get(&region), Ok(3));

    for (refused, expected) in [(0, TxnError::Exists), (1, TxnError::Exists), (2, TxnError::NotEmpty)] {
        let mut txn = seat.begin().unwrap();
        let outcome = match refused {
            0 => txn.create_map(shop, "sold").map(drop),
            1 => txn.open_or_create_map(shop, "sold").map(drop),
            _ => txn.delete_folder("shop").map(drop),
        };
        assert_eq!(outcome, Err(expected));
    }
    let mut txn = seat.begin().unwrap();
    assert!(txn.delete(shop, "sold").unwrap() && txn.delete(shop, "stock").unwrap());
    assert!(!txn.delete(shop, "stock").unwrap());
    assert!(txn.delete_folder("shop").unwrap());
    txn.commit().unwrap();
    assert_eq!(Folder::all(&region).unwrap(), []);
    assert_eq!((sold.get(&region), stock.len(&region)), (Err(ReadError::NotFound), Err(ReadError::NotFound)));
    assert!(common::objects::all(&region).all(|(_, kind, _)| matches!(kind, Kind::Heap | Kind::Folder)));
}

#[test]
fn a_handle_of_a_creation_that_was_rolled_back_meets_no_other_object() {
    let region = region(1 << 20);
    let mut seat = seat(&region, 1);
    let mut txn = seat.begin().unwrap();
    let folder = txn.open_or_create_folder("test").unwrap();
    let never = txn.create_map(folder, "never").unwrap();
    drop(txn);
    let map = new_map(&mut seat, "map");
    assert_ne!(never.handle(), map.handle());
    assert_eq!(never.len(&region), Err(ReadError::NotFound));
}

#[test]
fn a_lock_held_by_another_is_waited_for_and_then_the_transaction_is_rolled_back() {
    let region = region(1 << 20);
    let (mut one, mut other) = (seat(&region, 1), seat(&region, 2));
    let (first, second) = (new_map(&mut one, "first"), new_map(&mut one, "second"));
    let mut held = one.begin().unwrap();
    held.map(first).unwrap().put(b"a", b"1").unwrap();
    let mut against_the_order = other.begin().unwrap();
    against_the_order.map(second).unwrap().put(b"b", b"2").unwrap();
    assert_eq!(against_the_order.map(first).map(drop), Err(TxnError::Busy));
    drop(against_the_order);
    assert_eq!(second.get(&region, b"b"), Ok(None));
    let began = Instant::now();
    let mut waiting = other.begin().unwrap();
    assert_eq!(waiting.map(first).map(drop), Err(TxnError::Busy));
    assert!(began.elapsed() >= Duration::from_secs(1));
    drop(waiting);
    held.commit().unwrap();
    assert_eq!(put(&mut other, first, b"a", b"3"), Ok(true));
}

#[test]
#[cfg_attr(miri, ignore = "there is no fork")]
fn a_forked_child_cannot_go_on_with_its_parents_seat() {
    let region = region(1 << 20);
    let mut seat = seat(&region, 1);
    let map = new_map(&mut seat, "map");
    let mut txn = seat.begin().unwrap();
    txn.map(map).unwrap().put(b"a", b"parent's").unwrap();
    // SAFETY: the child only uses what it has inherited, and leaves by _exit.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            drop(txn);
            let refused = matches!(seat.begin().map(drop), Err(TxnError::Forked));
            // SAFETY: ends this process, and runs nothing else of it.
            unsafe { libc::_exit(i32::from(!refused)) }
        }
        nix::unistd::ForkResult::Parent { child } => {
            let status = nix::sys::wait::waitpid(child, None).unwrap();
            assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
        }
    }
    txn.commit().unwrap();
    assert_eq!(map.get(&region, b"a").unwrap().unwrap(), b"parent's");
}

#[test]
fn a_map_whose_words_were_scribbled_over_is_damaged_and_nothing_goes_on_for_ever() {
    use std::sync::atomic::Ordering::SeqCst;
    let region = region(1 << 20);
    let mut seat = seat(&region, 1);
    let map = new_map(&mut seat, "map");
    for number in 0..100_u64 {
        put(&mut seat, map, &number.to_le_bytes(), b"value").unwrap();
    }
    let buckets = &region.object(map.handle().index).unwrap().body[1];
    let good = buckets.load(SeqCst);
    for bad in [u64::MAX, u64::MAX >> 1, 1 << 63, 1 << 40, 1 << 27, 1 << 26] {
        buckets.store(bad, SeqCst);
        let _ = map.get(&region, b"anything");
        assert_eq!(map.entries(&region), Err(ReadError::Damaged), "{bad:#x} buckets");
        let blocks = common::objects::map::blocks(&region, map.handle(), Kind::Map, |_| ());
        assert_eq!(blocks, Err(ReadError::Damaged), "{bad:#x} buckets");
        let _ = put(&mut seat, map, b"another", b"value");
        assert!(seat.slot().holds_nothing());
    }
    buckets.store(good, SeqCst);
    // Every word of its segment leads to the same entry: each bucket is one entry long, and there are too many.
    let root = region.object(map.handle().index).unwrap().body[2].load(SeqCst);
    let segment = region.words(common::ids::Offset(root), 512).unwrap();
    let entry = segment.iter().map(|word| word.load(SeqCst)).find(|word| *word != 0).unwrap();
    // The high bits of a link are of the hash.
    let offset = entry & ((1 << 48) - 1);
    let entry = region.words(common::ids::Offset(offset), 3).unwrap();
    entry[0].store(0, SeqCst);
    entry[2].store((100 << 10) << 32 | 8, SeqCst);
    segment.iter().for_each(|word| word.store(offset, SeqCst));
    assert_eq!(map.entries(&region), Err(ReadError::Busy));
}
