//! Blobs against `Vec<u8>`.

use common::limits::MAX_BLOB;
use common::objects::blob::CHUNK;
use common::objects::{Blob, ReadError};
use common::txn::{Seat, TxnError};
use proptest::prelude::*;

use crate::{folder, nothing_is_left, region, seat};

fn new_blob(seat: &mut Seat<'_>) -> Blob {
    let folder = folder(seat);
    let mut txn = seat.begin().unwrap();
    let blob = txn.create_blob(folder, "blob").unwrap();
    txn.commit().unwrap();
    blob
}

fn set(seat: &mut Seat<'_>, blob: Blob, bytes: &[u8]) -> Result<(), TxnError> {
    let mut txn = seat.begin()?;
    txn.blob(blob)?.set(bytes)?;
    txn.commit()
}

/// Bytes that are different wherever they stand.
fn bytes(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|place| (place % 251) as u8 ^ seed).collect()
}

#[derive(Clone, Debug)]
enum Action {
    Set(usize),
    Write(u32, usize),
    Read(u32, usize),
}

fn action() -> impl Strategy<Value = Action> {
    let length =
        prop_oneof![0_usize..300, 1000_usize..9000, CHUNK - 20..CHUNK + 20, 2 * CHUNK..2 * CHUNK + 9];
    let range = || (any::<u32>(), prop_oneof![4 => 0_usize..70, 1 => 200_usize..300, 1 => 4000_usize..5000]);
    prop_oneof![
        1 => length.prop_map(Action::Set),
        3 => range().prop_map(|(at, length)| Action::Write(at, length)),
        2 => range().prop_map(|(at, length)| Action::Read(at, length)),
    ]
}

proptest! {
    #![proptest_config(crate::cases(48))]

    #[test]
    fn a_blob_is_what_a_vector_is(
        transactions in proptest::collection::vec((proptest::collection::vec(action(), 1..5), any::<bool>()), 1..crate::most(20))
    ) {
        let region = region(16 << 20);
        let mut seat = seat(&region, 1);
        let blob = new_blob(&mut seat);
        let mut model = Vec::new();
        for (number, (actions, commits)) in transactions.into_iter().enumerate() {
            let mut changed = model.clone();
            let mut txn = seat.begin().unwrap();
            for action in actions {
                let mut locked = txn.blob(blob).unwrap();
                match action {
                    Action::Set(length) => {
                        changed = bytes(length, number as u8);
                        locked.set(&changed).unwrap();
                    }
                    Action::Write(at, length) => {
                        let length = length.min(changed.len());
                        let at = at as usize % (changed.len() - length + 1);
                        let written = bytes(length, !(number as u8));
                        locked.write_at(at as u64, &written).unwrap();
                        changed[at..at + length].copy_from_slice(&written);
                    }
                    Action::Read(at, length) => {
                        let length = length.min(changed.len());
                        let at = at as usize % (changed.len() - length + 1);
                        let mut read = vec![0; length];
                        locked.read_at(at as u64, &mut read).unwrap();
                        prop_assert!(read == changed[at..at + length]);
                    }
                }
            }
            if commits {
                txn.commit().unwrap();
                model = changed;
            } else {
                drop(txn);
            }
            prop_assert!(blob.get(&region).unwrap() == model);
            prop_assert_eq!(blob.len(&region).unwrap(), model.len() as u64);
            for (at, length) in [(0, 64), (7, 64), (model.len().saturating_sub(64), 64), (CHUNK - 30, 60)] {
                let mut read = vec![0; length];
                let there = blob.read_at(&region, at as u64, &mut read).unwrap();
                prop_assert_eq!(there, at + length <= model.len());
                prop_assert!(!there || read == model[at..at + length]);
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes an hour there")]
fn bounds_are_errors_and_roll_back() {
    let region = region(128 << 20);
    let mut seat = seat(&region, 1);
    let blob = new_blob(&mut seat);
    let longest = bytes(20 << 20, 3);
    assert_eq!(set(&mut seat, blob, &vec![0; MAX_BLOB as usize + 1]), Err(TxnError::TooLong));
    assert_eq!(set(&mut seat, blob, &longest), Ok(()));
    assert!(blob.get(&region).unwrap() == longest);
    // Another of that length in one transaction, and the former one freed.
    for _ in 0..3 {
        assert_eq!(set(&mut seat, blob, &longest), Ok(()));
    }
    for (at, length) in [(20 << 20, 1), ((20 << 20) - 1, 2), (u64::MAX, 1), (u64::MAX, 0)] {
        let mut txn = seat.begin().unwrap();
        let written = txn.blob(blob).unwrap().write_at(at, &vec![1; length]);
        assert_eq!(written, Err(TxnError::OutOfRange));
        drop(txn);
        assert_eq!(blob.read_at(&region, at, &mut vec![0; length]), Ok(false));
    }
    let folder = folder(&mut seat);
    let mut txn = seat.begin().unwrap();
    assert!(txn.delete(folder, "blob").unwrap());
    txn.commit().unwrap();
    assert!(nothing_is_left(&region));
    assert_eq!(blob.get(&region), Err(ReadError::NotFound));
    assert_eq!(set(&mut seat, blob, b"late"), Err(TxnError::NotFound));
    let blob = new_blob(&mut seat);
    assert_eq!(set(&mut seat, blob, &longest), Ok(()), "what the other held is free");
}

#[test]
#[cfg_attr(miri, ignore = "takes an hour there")]
fn a_full_heap_refuses_and_changes_nothing() {
    let region = region(1 << 20);
    let mut seat = seat(&region, 1);
    let blob = new_blob(&mut seat);
    set(&mut seat, blob, &bytes(100_000, 1)).unwrap();
    assert_eq!(set(&mut seat, blob, &bytes(10 << 20, 2)), Err(TxnError::Full));
    assert!(blob.get(&region).unwrap() == bytes(100_000, 1));
    assert_eq!(set(&mut seat, blob, b""), Ok(()));
    assert_eq!(blob.is_empty(&region), Ok(true));
    assert_eq!(set(&mut seat, blob, &bytes(100_000, 3)), Ok(()));
}

#[test]
#[cfg_attr(miri, ignore = "takes an hour there")]
fn a_blob_whose_words_were_scribbled_over_is_damaged_and_reaches_nothing_else() {
    use std::sync::atomic::Ordering::SeqCst;
    let region = region(4 << 20);
    let mut seat = seat(&region, 1);
    let blob = new_blob(&mut seat);
    set(&mut seat, blob, &bytes(CHUNK * 2, 1)).unwrap();
    let body = &region.object(blob.handle().index).unwrap().body;
    let good: Vec<u64> = body.iter().map(|word| word.load(SeqCst)).collect();
    for which in 0..3 {
        for bad in [u64::MAX, u64::MAX >> 1, 1 << 63, 1 << 40, 1 << 30, 8, 1, 0] {
            body[which].store(bad, SeqCst);
            let _ = (blob.get(&region), blob.read_at(&region, 1 << 18, &mut [0; 64]));
            let _ = blob.read_at(&region, u64::MAX - 64, &mut [0; 64]);
            let mut txn = seat.begin().unwrap();
            let _ = txn.blob(blob).and_then(|mut blob| blob.write_at(300_000, &[1; 300]));
            drop(txn);
            assert!(seat.slot().holds_nothing());
            body.iter().zip(&good).for_each(|(word, good)| word.store(*good, SeqCst));
        }
    }
    assert!(blob.get(&region).unwrap() == bytes(CHUNK * 2, 1));
}
