use common::heap::Usage;
use common::objects::Folder;

use super::*;
use crate::scene::{Scene, put, with_objects};
use crate::takeover::take_over;
use crate::verify;

/// Two slots with slabs of their own, and a map that was deleted by somebody who died before he freed what it holds.
fn untidy() -> Scene {
    let scene = Scene::new();
    with_objects(&scene);
    let mut other = scene.seat(4, 1);
    for number in 0..60_u8 {
        put(&mut other, scene.map("empty"), &[number; 300], &[number; 700]).unwrap();
    }
    other.leave();
    scene.free(4);
    let identity = &scene.region.object(scene.map("stock").handle().index).unwrap().identity;
    let was = identity.load(std::sync::atomic::Ordering::SeqCst);
    let mut seat = scene.seat(5, 1);
    let folder = Folder::open(&scene.region, "shop").unwrap();
    for name in ["stock", "empty"] {
        let mut txn = seat.begin().unwrap();
        txn.delete(folder, name).unwrap();
        // Committed, and dead before the freeing that follows.
        let log = common::undo::UndoLog::of(&scene.region, SlotIndex(5)).unwrap();
        log.commit_freeing(&scene.region, SlotIndex(5));
        std::mem::forget(txn);
        seat = after_death(&scene);
    }
    seat.leave();
    scene.free(5);
    assert_ne!(identity.load(std::sync::atomic::Ordering::SeqCst), was);
    scene
}

/// The next owner of slot 5, after the last one's repair.
fn after_death(scene: &Scene) -> Seat<'_> {
    let dead = owner(SlotIndex(5), scene.slot(5).standing().0);
    crate::repair::Repairer::new(&scene.region, &scene.spool).repair(dead, true).unwrap();
    scene.seat(5, dead.generation.0 + 1)
}

#[test]
fn what_was_deleted_is_free_and_what_is_empty_goes_back() {
    let scene = untidy();
    let before = Usage::of(&scene.region).used;
    let dropping = || objects::all(&scene.region).filter(|(_, kind, _)| kind.is_dropping()).count();
    assert_eq!(dropping(), 2);
    let tidied = tidy(&scene.region).unwrap();
    assert_eq!((tidied.dropped, dropping()), (2, 0));
    assert!(tidied.slabs > 5, "{tidied:?}");
    assert!(Usage::of(&scene.region).used < before / 2, "{:?}, before {before}", Usage::of(&scene.region));
    assert!(!heap::has_slabs(scene.slot(4)), "nothing in use is its");
    assert_eq!(verify::check_with(&scene.region, &[]), []);
    assert_eq!(tidy(&scene.region).unwrap(), Tidied::default());
    assert!(scene.region.slots().all(|(_, slot)| !crate::repair::needs_repair(slot)));
    assert_eq!(scene.map("large").entries(&scene.region).unwrap().len(), 4);
}

#[test]
fn a_slot_with_an_owner_is_not_tidied() {
    let scene = untidy();
    let _living = scene.seat(4, 9);
    tidy(&scene.region).unwrap();
    assert!(heap::has_slabs(scene.slot(4)));
    assert!(scene.slot(4).is(common::ids::Generation(9), State::Live));
}

#[test]
fn whoever_dies_at_tidying_is_followed_by_another() {
    // The states that it goes through, with and without something half-done.
    type Work = fn(&mut Seat<'_>);
    let stations: [Work; 4] = [
        |_| (),
        |seat| {
            let _ = seat.free_deleted();
        },
        |seat| {
            let _ = seat.give_back_empty_slabs();
        },
        |seat| {
            let txn = seat.begin().unwrap();
            std::mem::forget(txn);
        },
    ];
    for (number, work) in stations.into_iter().enumerate() {
        for index in [0, 4, 30] {
            let scene = untidy();
            let generation = scene.slot(index).standing().0;
            scene.slot(index).reserve(generation, 0);
            if number > 0 {
                let mut seat = Seat::take(&scene.region, owner(SlotIndex(index), generation)).unwrap();
                work(&mut seat);
            }
            take_over(&scene.region, &scene.spool, &[]).unwrap();
            assert_eq!(verify::check_with(&scene.region, &[]), [], "station {number}, slot {index}");
            assert_eq!(tidy(&scene.region).unwrap(), Tidied::default(), "nothing was left to do");
            assert!(scene.slot(index).is(generation, State::Free));
        }
    }
}
