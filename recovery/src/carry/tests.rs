use std::os::unix::fs::FileExt as _;

use common::error::Exit;
use common::ids::Generation;
use common::limits::USER_ROWS;
use common::slots::owner;

use super::*;
use crate::scene::{Scene, with_objects, with_queue_and_blob};

fn region(length: u64) -> Region {
    Region::create(&tempfile::tempfile().unwrap(), length).unwrap()
}

/// Messages of so many users, from two slots.
fn send(region: &Region, users: usize) {
    for index in [7, 8] {
        let owner = owner(SlotIndex(index), Generation(1));
        region.slot(owner.slot).unwrap().reserve(owner.generation, 1);
        let mut seat = Seat::take(region, owner).unwrap();
        for number in 0..users {
            let user = format!("user {number}");
            let account = tally::account(&mut seat, &user).unwrap();
            let mut txn = seat.begin().unwrap();
            txn.count_message(account, &user, number as u64 + u64::from(index)).unwrap();
            txn.commit().unwrap();
        }
        seat.leave();
        let slot = region.slot(owner.slot).unwrap();
        slot.shift(owner.generation, common::slots::State::Left, common::slots::State::Free);
    }
}

fn rows(region: &Region) -> Vec<Pair> {
    let rows = Folder::open(region, "users").unwrap().open_map(region, "rows").unwrap();
    let mut rows = rows.entries(region).unwrap();
    rows.sort();
    rows
}

#[test]
fn everything_is_carried_to_a_larger_region_and_back() {
    let scene = Scene::new();
    with_objects(&scene);
    with_queue_and_blob(&scene);
    send(&scene.region, USER_ROWS + 30);
    let (grown, shrunk) = (region(4 << 20), region(1 << 20));
    carry(&scene.region, &grown).unwrap();
    carry(&grown, &shrunk).unwrap();
    for carried in [&grown, &shrunk] {
        assert_eq!(tally::totals(carried).unwrap().users, tally::totals(&scene.region).unwrap().users);
        assert_eq!(carried.totals(), scene.region.totals());
        assert_eq!(rows(carried), rows(&scene.region), "the same numbers");
        assert_eq!(Folder::all(carried).unwrap().len(), 3);
        let shop = Folder::open(carried, "shop").unwrap();
        let names: Vec<_> = shop.list(carried).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["back", "empty", "large", "sold", "stock"]);
        assert_eq!(shop.open_counter(carried, "sold").unwrap().get(carried), Ok(7));
        for name in ["stock", "large", "empty"] {
            let sorted = |region: &Region, map: Map| {
                let mut pairs = map.entries(region).unwrap();
                pairs.sort();
                pairs
            };
            let here = shop.open_map(carried, name).unwrap();
            assert_eq!(sorted(carried, here), sorted(&scene.region, scene.map(name)), "{name}");
        }
        let [here, there] = [carried, &scene.region].map(|region| {
            let back = Folder::open(region, "shop/back").unwrap();
            let jobs = back.open_queue(region, "jobs").unwrap();
            let text = back.open_blob(region, "text").unwrap().get(region).unwrap();
            (jobs.items(region).unwrap(), jobs.capacity(region).unwrap(), text)
        });
        assert_eq!(here, there);
        assert_eq!((here.0.len(), here.1, here.2.len()), (10, Some(12), 1000));
        assert_eq!(verify::check_with(carried, &[]), []);
        assert!(carried.slots().all(|(_, slot)| !crate::repair::needs_repair(slot)));
    }
    // Whoever sends next is counted on.
    send(&shrunk, USER_ROWS + 30);
    assert_eq!(tally::totals(&shrunk).unwrap().users["user 80"].messages, 4);
    assert_eq!(verify::check_with(&shrunk, &[]), []);
}

#[test]
fn what_does_not_fit_is_said_and_the_old_region_stays_as_it_is() {
    let create = |length| {
        let file = tempfile::tempfile().unwrap();
        let region = Region::create(&file, length).unwrap();
        (file, region)
    };
    let bytes = |file: &File| {
        let mut bytes = vec![0; 4 << 20];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    let (old_file, old) = create(4 << 20);
    with_seat(&old, SlotIndex(0), |seat| {
        let mut txn = seat.begin().unwrap();
        let folder = txn.create_folder("large").unwrap();
        let map = txn.create_map(folder, "map").unwrap();
        txn.commit().unwrap();
        let pairs: Vec<Pair> = (0..1000_u32).map(|key| (key.to_le_bytes().to_vec(), vec![7; 1000])).collect();
        pairs.chunks(BATCH).try_for_each(|pairs| put_all(seat, map, pairs)).unwrap();
    })
    .unwrap();
    let (new_file, _new) = create(1 << 20);
    let before = bytes(&old_file);
    let error = run(&old_file, &new_file).unwrap_err();
    assert_eq!(error.exit(), Exit::Usage);
    assert!(error.to_string().contains("choose a larger --region-size"), "{error}");
    assert!(bytes(&old_file) == before);
    let (larger_file, _larger) = create(8 << 20);
    run(&old_file, &larger_file).unwrap();
    old.slot(SlotIndex(3)).unwrap().owner.store(99, std::sync::atomic::Ordering::SeqCst);
    let (another_file, _another) = create(8 << 20);
    assert_eq!(run(&old_file, &another_file).unwrap_err().exit(), Exit::Region);
}
