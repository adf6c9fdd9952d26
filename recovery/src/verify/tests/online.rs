//! Verification while others change everything at full speed, and while somebody is stopped in the middle of a change.

use common::objects::Kind;
use common::txn::{Seat, Transaction, TxnError};

use super::*;
use crate::scene::{put, with_objects};

/// Changes of every kind, round after round.
fn live(scene: &Scene, slot: u32, stop: &AtomicBool) {
    let mut seat = scene.seat(slot, 1);
    let own = format!("own-{slot}");
    for round in 0_u64.. {
        if stop.load(SeqCst) {
            return seat.leave();
        }
        // Another may have the lock for too long, or the heap be full: then there is no change.
        let _ = change(scene, &mut seat, &own, round);
    }
}

fn change(scene: &Scene, seat: &mut Seat<'_>, own: &str, round: u64) -> std::result::Result<(), TxnError> {
    let stock = scene.map("stock");
    put(seat, stock, &(round % 700).to_le_bytes(), &vec![7; (round % 90) as usize])?;
    let mut txn = seat.begin()?;
    txn.map(stock)?.remove(&((round * 31) % 700).to_le_bytes())?;
    if round.is_multiple_of(5) {
        drop(txn);
    } else {
        txn.commit()?;
    }
    let mut txn = seat.begin()?;
    let folder = txn.open_or_create_folder("shop")?;
    let map = txn.open_or_create_map(folder, own)?;
    txn.map(map)?.put(&round.to_le_bytes(), &[3; 300])?;
    let sold = txn.open_or_create_counter(folder, "sold")?;
    txn.counter(sold)?.add(1)?;
    txn.commit()?;
    if round.is_multiple_of(7) {
        let mut txn = seat.begin()?;
        txn.delete(folder, own)?;
        txn.commit()?;
    }
    Ok(())
}

#[test]
fn what_others_change_at_full_speed_is_no_finding() {
    let scene = Scene::new();
    scene.region.mark_in_use().unwrap();
    with_objects(&scene);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for slot in 1..4 {
            scope.spawn({
                let (scene, stop) = (&scene, &stop);
                move || live(scene, slot, stop)
            });
        }
        for _ in 0..60 {
            let findings = check(&scene.region);
            if !findings.is_empty() {
                stop.store(true, SeqCst);
            }
            assert_eq!(findings, []);
        }
        stop.store(true, SeqCst);
    });
    assert_eq!(check_with(&scene.region, &[]), [], "at rest");
    let sold = common::objects::Folder::open(&scene.region, "shop").unwrap();
    assert!(sold.open_counter(&scene.region, "sold").unwrap().get(&scene.region).unwrap() > 1000);
}

type Work = fn(&Scene, &mut Transaction<'_, '_>) -> std::result::Result<(), TxnError>;

/// What somebody may be in the middle of.
const HALF_DONE: [Work; 7] = [
    |scene, txn| txn.map(scene.map("stock"))?.put(b"new", &[1; 100]).map(drop),
    |scene, txn| {
        (0..40_u64)
            .try_for_each(|key| txn.map(scene.map("stock"))?.put(&(key << 40).to_le_bytes(), b"x").map(drop))
    },
    |scene, txn| {
        (0..40_u64).try_for_each(|key| txn.map(scene.map("stock"))?.remove(&key.to_le_bytes()).map(drop))
    },
    |scene, txn| txn.map(scene.map("large"))?.put(&[1; 20], &[9; 9000]).map(drop),
    |_, txn| {
        let folder = txn.open_or_create_folder("another")?;
        let map = txn.create_map(folder, "map")?;
        txn.map(map)?.put(b"a", b"b").map(drop)
    },
    |_, txn| {
        let folder = txn.open_or_create_folder("shop")?;
        txn.delete(folder, "stock")?;
        txn.delete(folder, "sold").map(drop)
    },
    |_, txn| {
        let folder = txn.open_or_create_folder("shop")?;
        for name in ["stock", "large", "empty", "sold"] {
            txn.delete(folder, name)?;
        }
        txn.delete_folder("shop").map(drop)
    },
];

#[test]
fn what_a_dead_owner_has_left_half_done_is_no_finding_before_or_after_its_repair() {
    for (number, work) in HALF_DONE.into_iter().enumerate() {
        let scene = Scene::new();
        scene.region.mark_in_use().unwrap();
        with_objects(&scene);
        let mut seat = scene.seat(3, 9);
        let mut txn = seat.begin().unwrap();
        work(&scene, &mut txn).unwrap();
        std::mem::forget(txn);
        assert_eq!(check_with(&scene.region, &[]), [], "work {number}");
        let owner = slots::owner(SlotIndex(3), common::ids::Generation(9));
        Repairer::new(&scene.region, &scene.spool).repair(owner, true).unwrap();
        assert_eq!(check_with(&scene.region, &[]), [], "work {number}, repaired");
        assert!(common::objects::all(&scene.region).all(|(_, kind, _)| kind != Kind::Dropping));
        assert_eq!(scene.map("stock").len(&scene.region), Ok(600));
    }
}
