//! Deaths with objects' locks, in the freeing of blocks, and in the small log.

use std::time::{Duration, Instant};

use common::heap::{FREE, HEAP_OBJECT, USED, pending};
use common::ids::Offset;
use common::layout::Slab;
use common::limits::PAGE_SIZE;
use common::lock::WAITERS;
use common::objects::{Folder, Map, Queue};
use common::txn::Seat;

use super::*;
use crate::scene::{put, with_objects, with_queue_and_blob};
use crate::verify::check_with;

const KEY: [u8; 8] = 5_u64.to_le_bytes();

fn dead() -> Owner {
    owner(SlotIndex(SLOT), Generation(9))
}

/// A transaction under way on the map, with something added, something changed and something removed.
fn change<'r>(seat: &mut Seat<'r>, map: Map) {
    let mut txn = seat.begin().unwrap();
    let mut locked = txn.map(map).unwrap();
    locked.put(&KEY, b"more").unwrap();
    locked.put(b"another", &[1; 500]).unwrap();
    locked.remove(&6_u64.to_le_bytes()).unwrap();
    std::mem::forget(txn);
}

/// The state of the block that a map of one entry has its entry in.
fn log(scene: &Scene) -> UndoLog<'_> {
    UndoLog::of(&scene.region, SlotIndex(SLOT)).unwrap()
}

#[test]
fn whoever_waits_for_a_dead_owners_lock_gets_it_at_once_and_finds_the_object_as_it_was() {
    let scene = Scene::new();
    with_objects(&scene);
    let map = scene.map("stock");
    let lock = &scene.region.object(map.handle().index).unwrap().lock;
    change(&mut scene.seat(SLOT, 9), map);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let mut seat = scene.seat(4, 1);
            let mut txn = seat.begin().unwrap();
            let began = Instant::now();
            let value = txn.map(map).unwrap().get(&KEY).unwrap();
            assert!(began.elapsed() < Duration::from_secs(1));
            (value, txn.map(map).unwrap().get(b"another").unwrap())
        });
        while lock.load(Acquire) & WAITERS == 0 {
            std::thread::yield_now();
        }
        repairer(&scene).repair(dead(), true).unwrap().unwrap();
        assert_eq!(waiter.join().unwrap(), (Some(b"some".to_vec()), None));
    });
    assert_eq!(map.len(&scene.region), Ok(600));
    assert_eq!(check_with(&scene.region, &[0]).len(), 1, "one lives in a region said to be clean");
}

#[test]
fn a_lock_of_another_is_not_taken_off_though_it_is_in_the_dead_ones_list() {
    let scene = Scene::new();
    with_objects(&scene);
    let (stock, large) = (scene.map("stock"), scene.map("large"));
    let mut living = scene.seat(4, 1);
    let mut txn = living.begin().unwrap();
    txn.map(large).unwrap().put(b"a", b"b").unwrap();
    change(&mut scene.seat(SLOT, 9), stock);
    // As if it had died between announcing the lock and taking it.
    scene.slot(SLOT).held[1].store(large.handle().index, SeqCst);
    scene.slot(SLOT).held_count.store(2, SeqCst);
    repairer(&scene).repair(dead(), true).unwrap().unwrap();
    let object = scene.region.object(large.handle().index).unwrap();
    assert!(lock::names(object.lock.load(SeqCst), lock::tag(owner(SlotIndex(4), Generation(1)))));
    assert_eq!(object.seq.load(SeqCst) & 1, 1, "being changed still");
    txn.commit().unwrap();
    assert_eq!(large.get(&scene.region, b"a").unwrap().unwrap(), b"b");
}

#[test]
fn a_death_between_the_commit_and_the_release_leaves_the_change() {
    let scene = Scene::new();
    with_objects(&scene);
    let map = scene.map("stock");
    change(&mut scene.seat(SLOT, 9), map);
    log(&scene).commit_freeing(&scene.region, SlotIndex(SLOT));
    let remains = repairer(&scene).repair(dead(), true).unwrap().unwrap();
    assert_eq!(remains.transaction, Fate::None);
    assert_eq!(map.get(&scene.region, &KEY).unwrap().unwrap(), b"more");
    assert_eq!(map.len(&scene.region), Ok(600), "one added, one removed");
    assert_eq!(check_with(&scene.region, &[]), []);
}

/// The log word of a transaction that is FREEING, as the format has it.
fn freeing(scene: &Scene) {
    let word = &scene.slot(SLOT).undo;
    word.store(2 << 32 | word.load(SeqCst) & 0xffff_ffff, SeqCst);
}

#[test]
fn a_death_in_freeing_is_finished_and_what_is_anothers_by_now_is_left_alone() {
    for freed_before in [false, true] {
        let scene = Scene::new();
        with_objects(&scene);
        let map = scene.map("stock");
        change(&mut scene.seat(SLOT, 9), map);
        freeing(&scene);
        let record = log(&scene).records().find(|record| {
            record.length == 2
                && scene.region.quarter(record.offset).unwrap().load(SeqCst) == pending(SlotIndex(SLOT))
        });
        let state = scene.region.quarter(record.expect("a block that it freed").offset).unwrap();
        if freed_before {
            // It had come to this one, and another owner of the slab's slot has taken it since.
            state.store(USED, SeqCst);
        }
        let remains = repairer(&scene).repair(dead(), true).unwrap().unwrap();
        assert_eq!(remains.transaction, Fate::Completed);
        assert_eq!(map.get(&scene.region, &KEY).unwrap().unwrap(), b"more");
        assert_eq!(state.load(SeqCst), if freed_before { USED } else { FREE });
        let findings = check_with(&scene.region, &[0]);
        assert_eq!(
            findings.len(),
            usize::from(freed_before),
            "the block that nobody really has: {findings:?}"
        );
    }
}

#[test]
fn a_death_while_a_slab_changes_hands_leaves_it_with_whom_it_was() {
    let scene = Scene::new();
    with_objects(&scene);
    let mut seat = scene.seat(SLOT, 9);
    let mini = UndoLog::mini_of(&scene.region, SlotIndex(SLOT)).unwrap();
    put(&mut seat, scene.map("empty"), b"key", b"value").unwrap();
    assert_eq!(check_with(&scene.region, &[0]).len(), 1, "it lives");
    let before = scene.snapshot();
    // As `take_slab` begins: the lock, the records, half of the stores.
    let heap = scene.region.object(HEAP_OBJECT).unwrap();
    scene.slot(SLOT).held[0].store(HEAP_OBJECT, SeqCst);
    scene.slot(SLOT).held_count.store(1, SeqCst);
    heap.lock.store(lock::tag(dead()) | WAITERS, SeqCst);
    let free = |index: &u32| scene.region.slab(*index).unwrap().owner.load(SeqCst) == 0;
    let index = (0..scene.region.geometry().page_count).find(free).unwrap();
    let slab = scene.region.slab(index).unwrap();
    let at = scene.region.slab_offset(index);
    mini.note_words(at, scene.region.words(at, size_of::<Slab>() / 8).unwrap()).unwrap();
    let body = Offset(scene.region.object_offset(HEAP_OBJECT).0 + 24);
    mini.note_words(body, scene.region.words(body, 2).unwrap()).unwrap();
    slab.owner.store(SLOT + 1, SeqCst);
    slab.class.store(3, SeqCst);
    heap.body[0].fetch_add(1, SeqCst);
    assert_eq!(check_with(&scene.region, &[0]).len(), 1, "half-done is no finding");
    repairer(&scene).repair(dead(), true).unwrap().unwrap();
    assert_eq!((slab.owner.load(SeqCst), heap.lock.load(SeqCst)), (0, 0));
    assert_eq!(check_with(&scene.region, &[]), []);
    let geometry = scene.region.geometry();
    let from = geometry.slabs as usize;
    let to = from + geometry.page_count as usize * size_of::<Slab>();
    assert!(scene.snapshot()[from..to] == before[from..to], "the slab table as it was");
    assert!(geometry.heap.is_multiple_of(PAGE_SIZE));
}

#[test]
fn a_log_that_names_an_object_whose_lock_its_owner_does_not_hold_is_refused() {
    let scene = Scene::new();
    with_objects(&scene);
    let (stock, large) = (scene.map("stock"), scene.map("large"));
    change(&mut scene.seat(SLOT, 9), stock);
    let object = scene.region.object(large.handle().index).unwrap();
    let body = Offset(scene.region.object_offset(large.handle().index).0 + 24);
    log(&scene).note_words(body, &object.body[..1]).unwrap();
    let before = scene.snapshot();
    let refused = repairer(&scene).repair(dead(), true);
    assert!(matches!(&refused, Err(Setback::Damage(why)) if why.contains("not its owner's")), "{refused:?}");
    assert!(scene.snapshot() == before, "before the first store");
    // Held by another, in the dead one's name of an earlier generation, or by nobody: it is all the same.
    for word in
        [lock::tag(owner(SlotIndex(4), Generation(9))), lock::tag(owner(SlotIndex(SLOT), Generation(8)))]
    {
        object.lock.store(word, SeqCst);
        assert!(matches!(repairer(&scene).repair(dead(), true), Err(Setback::Damage(_))));
    }
    object.lock.store(lock::tag(dead()), SeqCst);
    repairer(&scene).repair(dead(), true).unwrap().unwrap();
    assert_eq!(stock.len(&scene.region), Ok(600));
}

#[test]
fn a_small_log_that_names_what_is_not_the_heaps_is_refused() {
    let scene = Scene::new();
    with_objects(&scene);
    let _seat = scene.seat(SLOT, 9);
    let mini = UndoLog::mini_of(&scene.region, SlotIndex(SLOT)).unwrap();
    let other = Offset(scene.region.slot_offset(SlotIndex(4)).0 + 640);
    mini.note_half(other, scene.region.half(other).unwrap()).unwrap();
    let before = scene.snapshot();
    let refused = repairer(&scene).repair(dead(), true);
    assert!(matches!(&refused, Err(Setback::Damage(why)) if why.contains("in the small log")), "{refused:?}");
    assert!(scene.snapshot() == before);
}

/// The dead one has taken the first two items and the last one, and was about to take another.
fn take_three(scene: &Scene) -> Queue {
    let back = Folder::open(&scene.region, "shop/back").unwrap();
    let jobs = back.open_queue(&scene.region, "jobs").unwrap();
    let mut seat = scene.seat(SLOT, 9);
    for front in [true, false, true] {
        let mut txn = seat.begin().unwrap();
        let mut locked = txn.queue(jobs).unwrap();
        let taken = if front { locked.take_front() } else { locked.take_back() };
        assert!(taken.unwrap().is_some());
        txn.commit().unwrap();
    }
    let mut txn = seat.begin().unwrap();
    txn.queue(jobs).unwrap().take_front().unwrap().unwrap();
    std::mem::forget(txn);
    jobs
}

fn numbers(scene: &Scene, jobs: Queue) -> Vec<u8> {
    jobs.items(&scene.region).unwrap().iter().map(|item| item[0]).collect()
}

#[test]
fn items_in_flight_go_back_to_where_they_were() {
    let scene = Scene::new();
    with_objects(&scene);
    with_queue_and_blob(&scene);
    let jobs = take_three(&scene);
    assert_eq!(check_with(&scene.region, &[0]).len(), 1, "one lives in a region said to be clean");
    repairer(&scene).repair(dead(), true).unwrap().unwrap();
    assert_eq!(numbers(&scene, jobs), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert!(scene.slot(SLOT).holds_nothing());
    assert_eq!(check_with(&scene.region, &[]), []);
}

#[test]
fn an_item_in_flight_waits_for_a_queue_that_another_holds_and_the_slot_with_it() {
    let scene = Scene::new();
    with_objects(&scene);
    with_queue_and_blob(&scene);
    let jobs = take_three(&scene);
    scene.slot(SLOT).held_count.store(0, SeqCst);
    log(&scene).undo(&scene.region);
    let object = scene.region.object(jobs.handle().index).unwrap();
    lock::end_change(&object.seq);
    object.lock.store(0, SeqCst);
    let mut living = scene.seat(4, 1);
    let mut txn = living.begin().unwrap();
    txn.queue(jobs).unwrap().push_back(&[10; 40]).unwrap();
    assert!(matches!(repairer(&scene).repair(dead(), true), Err(Setback::Later(Fate::None))));
    assert!(!scene.slot(SLOT).holds_nothing() && needs_repair(scene.slot(SLOT)));
    txn.commit().unwrap();
    repairer(&scene).repair(dead(), true).unwrap().unwrap();
    assert_eq!(numbers(&scene, jobs), [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 9], "10 was behind 8 when 9 came back");
    assert_eq!(scene.slot(SLOT).crashes.load(SeqCst) as u32, 1);
    living.leave();
    assert_eq!(check_with(&scene.region, &[]), []);
}

#[test]
fn a_takeover_puts_items_back_whose_queue_a_later_slot_died_with() {
    let scene = Scene::new();
    with_objects(&scene);
    with_queue_and_blob(&scene);
    let jobs = take_three(&scene);
    scene.slot(SLOT).held_count.store(0, SeqCst);
    log(&scene).undo(&scene.region);
    let object = scene.region.object(jobs.handle().index).unwrap();
    lock::end_change(&object.seq);
    object.lock.store(0, SeqCst);
    let mut other = scene.seat(SLOT + 1, 1);
    let mut txn = other.begin().unwrap();
    txn.queue(jobs).unwrap().pop_front().unwrap().unwrap();
    std::mem::forget(txn);
    crate::takeover::take_over(&scene.region, &scene.spool, &[]).unwrap();
    assert_eq!(numbers(&scene, jobs), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(check_with(&scene.region, &[]), []);
}

#[test]
fn what_became_of_a_transaction_is_said_though_an_item_had_to_wait() {
    let scene = Scene::new();
    with_objects(&scene);
    with_queue_and_blob(&scene);
    let back = Folder::open(&scene.region, "shop/back").unwrap();
    let jobs = back.open_queue(&scene.region, "jobs").unwrap();
    let mut seat = scene.seat(SLOT, 9);
    let mut txn = seat.begin().unwrap();
    txn.queue(jobs).unwrap().take_front().unwrap().unwrap();
    txn.commit().unwrap();
    change(&mut seat, scene.map("stock"));
    // Whoever has the queue died too, and comes later.
    let mut other = scene.seat(SLOT + 1, 1);
    let mut txn = other.begin().unwrap();
    txn.queue(jobs).unwrap().pop_front().unwrap().unwrap();
    std::mem::forget(txn);
    let taken_over = crate::takeover::take_over(&scene.region, &scene.spool, &[]).unwrap();
    let fates: Vec<_> =
        taken_over.dead.iter().map(|remains| (remains.owner.slot, remains.transaction)).collect();
    assert_eq!(fates, [(SlotIndex(SLOT + 1), Fate::RolledBack), (SlotIndex(SLOT), Fate::RolledBack)]);
    assert_eq!(numbers(&scene, jobs), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn an_item_whose_queue_is_gone_is_freed_and_a_scribbled_one_refused() {
    let scene = Scene::new();
    with_objects(&scene);
    with_queue_and_blob(&scene);
    let jobs = take_three(&scene);
    let good = scene.slot(SLOT).in_flight[1].item.swap(8, SeqCst);
    let before = scene.snapshot();
    let refused = repairer(&scene).repair(dead(), true);
    assert!(matches!(&refused, Err(Setback::Damage(why)) if why.contains("taken an item")), "{refused:?}");
    assert!(scene.snapshot() == before, "before the first store");
    scene.slot(SLOT).in_flight[1].item.store(good, SeqCst);
    // Its transaction ends, and the queue is deleted while it works on what it has taken.
    log(&scene).undo(&scene.region);
    let object = scene.region.object(jobs.handle().index).unwrap();
    lock::end_change(&object.seq);
    object.lock.store(0, SeqCst);
    scene.slot(SLOT).held_count.store(0, SeqCst);
    let mut living = scene.seat(4, 1);
    let back = Folder::open(&scene.region, "shop/back").unwrap();
    let mut txn = living.begin().unwrap();
    assert!(txn.delete(back, "jobs").unwrap());
    txn.commit().unwrap();
    living.leave();
    repairer(&scene).repair(dead(), true).unwrap().unwrap();
    assert!(scene.slot(SLOT).holds_nothing());
    assert_eq!(check_with(&scene.region, &[]), []);
}
