use std::sync::atomic::Ordering::Relaxed;

use common::ids::{Generation, SlotIndex};
use common::slots::{Counter, owner};
use common::txn::Seat;

use super::*;

mod anticipated;
mod objects;
use crate::scene::{STEPS, Scene, Step, counts, die_after, with_open_minute};

const SLOT: u32 = 3;

fn repairer(scene: &Scene) -> Repairer<'_> {
    Repairer::new(&scene.region, &scene.spool)
}

/// What must hold of a slot that was repaired after a death at `last`, whatever happened in between.
fn check_repaired(scene: &Scene, last: Step, about: &str) {
    let slot = scene.slot(SLOT);
    let counted = u64::from(counts(last));
    assert!(!needs_repair(slot), "{about}");
    assert_eq!(scene.records() as u64, 1 + counted, "{about}");
    assert_eq!(scene.messages(), 1 + counted, "{about}");
    assert_eq!(slot.published.word(Counter::Bytes).load(Relaxed), counted * 100, "{about}");
    assert_eq!(slot.counters.word(Counter::Bytes).load(Relaxed), counted * 100, "{about}");
    let totals = scene.region.totals();
    assert_eq!((totals.crashes, totals.recoveries), (1, 1), "{about}");
}

fn fate(last: Step) -> Fate {
    match last {
        Step::Reserved | Step::Live => Fate::None,
        Step::Written => Fate::Completed,
        last if last > Step::Written => Fate::None,
        _ => Fate::RolledBack,
    }
}

#[test]
fn a_death_after_each_step() {
    for last in STEPS {
        let scene = Scene::new();
        with_open_minute(&scene);
        let owner = die_after(&scene, SLOT, 9, last);
        let remains = repairer(&scene).repair(owner, true).unwrap().expect("something to repair");
        assert_eq!(remains.transaction, fate(last), "{last:?}");
        check_repaired(&scene, last, &format!("{last:?}"));
        assert!(repairer(&scene).repair(owner, true).unwrap().is_none(), "{last:?}");
        check_repaired(&scene, last, &format!("{last:?}, ordered again"));
    }
}

/// What a deletion leaves is freed within the commit, in transactions of which the record says nothing.
#[test]
fn a_record_does_not_complete_the_transaction_behind_its_own() {
    let scene = Scene::new();
    with_open_minute(&scene);
    let mut seat = scene.seat(SLOT, 9);
    let mut transaction = seat.begin().unwrap();
    let folder = transaction.open_or_create_folder("folder").unwrap();
    transaction.open_or_create_map(folder, "map").unwrap();
    transaction.commit().unwrap();

    let mut transaction = seat.begin().unwrap();
    transaction.delete(folder, "map").unwrap();
    transaction.add(Counter::Messages, 1).unwrap();
    scene.writer().append(&transaction, "user", "the map is deleted").unwrap();
    transaction.commit().unwrap();
    let mut behind = seat.begin().unwrap();
    behind.add(Counter::Bytes, 100).unwrap();
    std::mem::forget(behind);

    let remains = repairer(&scene).repair(seat.owner(), true).unwrap().expect("something to repair");
    assert_eq!(remains.transaction, Fate::RolledBack);
    assert_eq!((scene.messages(), scene.records()), (2, 2));
    assert_eq!(scene.slot(SLOT).counters.word(Counter::Bytes).load(Relaxed), 0);
}

/// A log that is FREEING names states that are FREE already. The page that they stand on must not become another's data
/// meanwhile: what looks like a state there would be set FREE.
#[test]
fn a_commit_cut_short_while_it_frees_touches_nothing_that_is_anothers_since() {
    const FREED: u32 = 200;
    let scene = Scene::new();
    let (mut one, mut other) = (scene.seat(SLOT, 9), scene.seat(SLOT + 1, 1));
    let mut transaction = other.begin().unwrap();
    let folder = transaction.open_or_create_folder("folder").unwrap();
    let [emptied, filled] = ["emptied", "filled"].map(|name| transaction.create_map(folder, name).unwrap());
    transaction.commit().unwrap();
    let put = |seat: &mut Seat<'_>, map, key: u32, value: &[u8]| {
        let mut transaction = seat.begin()?;
        transaction.map(map)?.put(&key.to_le_bytes(), value)?;
        transaction.commit()
    };
    (0..2 * FREED).for_each(|key| put(&mut other, emptied, key, &[1; 40]).unwrap());

    // One frees entries on the other's pages, and dies when they are FREE and its log is not EMPTY yet.
    let mut transaction = one.begin().unwrap();
    for key in FREED..2 * FREED {
        transaction.map(emptied).unwrap().remove(&key.to_le_bytes()).unwrap();
    }
    let words = scene.slot(SLOT).undo.load(SeqCst) & 0xffff_ffff;
    transaction.commit().unwrap();
    scene.slot(SLOT).undo.store(2 << 32 | words, SeqCst);
    let locked = emptied.handle().index;
    scene.region.object(locked).unwrap().lock.store(lock::tag(one.owner()), SeqCst);
    scene.slot(SLOT).held[0].store(locked, SeqCst);
    scene.slot(SLOT).held_count.store(1, SeqCst);
    // The other goes through its pages, and fills all that are nobody's with what looks like states of the dead one's.
    (0..FREED).for_each(|key| put(&mut other, filled, key, &[1; 40]).unwrap());
    let states = heap::pending(SlotIndex(SLOT)).to_le_bytes().repeat(2000);
    let pages = (FREED..).find(|key| put(&mut other, filled, *key, &states).is_err()).unwrap();
    repairer(&scene).repair(one.owner(), true).unwrap().expect("something to repair");
    for key in FREED..pages {
        let value = filled.get(&scene.region, &key.to_le_bytes()).unwrap().unwrap();
        assert!(value == states, "value {key} was changed by the repair");
    }
}

#[test]
fn what_the_owner_was_doing_is_handed_on() {
    let scene = Scene::new();
    with_open_minute(&scene);
    let owner = die_after(&scene, SLOT, 9, Step::Live);
    scene.slot(SLOT).set_doing(b"a\nb");
    scene.slot(SLOT).pid.store(77, Relaxed);
    let remains = repairer(&scene).repair(owner, true).unwrap().unwrap();
    let expected = "slot 3 generation 9 (pid 77): it had no transaction under way; it was at: a b";
    assert_eq!(remains.to_string(), expected);
}

/// The repair's steps, one at a time; see `Repairer::repair`.
fn run_steps(corpse: &Corpse<'_>, count: usize) {
    let steps: [&dyn Fn(); 6] = [
        &|| corpse.validate().unwrap(),
        &|| corpse.count(true),
        &|| {
            corpse.settle_logs().unwrap();
        },
        &|| corpse.release_locks(),
        &|| corpse.republish(),
        &|| corpse.free().unwrap(),
    ];
    steps[..count].iter().for_each(|step| step());
}

#[test]
fn a_repairer_that_dies_after_each_of_its_steps_is_followed_by_another() {
    for last in STEPS {
        for (first, second) in (0..=6).flat_map(|first| (0..=6).map(move |second| (first, second))) {
            let scene = Scene::new();
            with_open_minute(&scene);
            let owner = die_after(&scene, SLOT, 9, last);
            for count in [first, second] {
                if let Some(corpse) = repairer(&scene).corpse(owner).unwrap() {
                    run_steps(&corpse, count);
                }
            }
            let _ = repairer(&scene).repair(owner, true).unwrap();
            check_repaired(&scene, last, &format!("{last:?}, {first} then {second} steps"));
        }
    }
}

#[test]
fn a_repair_over_files_that_were_mended_already() {
    for last in STEPS {
        let scene = Scene::new();
        with_open_minute(&scene);
        let owner = die_after(&scene, SLOT, 9, last);
        let before = scene.snapshot();
        repairer(&scene).repair(owner, true).unwrap();
        let after = scene.snapshot();
        // The region as it was, the spool as the repair left it: a death between the blanks and the undo.
        scene.restore(&before);
        repairer(&scene).repair(owner, true).unwrap();
        check_repaired(&scene, last, &format!("{last:?}"));
        assert!(scene.snapshot() == after, "{last:?}: the same region, byte for byte");
    }
}

#[test]
fn another_generation_and_a_free_slot_are_left_alone() {
    let scene = Scene::new();
    let mut seat = scene.seat(SLOT, 10);
    scene.message(&mut seat);
    let before = scene.snapshot();
    for generation in [9, 11] {
        let former = owner(SlotIndex(SLOT), Generation(generation));
        assert!(repairer(&scene).repair(former, true).unwrap().is_none());
    }
    let never = owner(SlotIndex(SLOT + 1), Generation(0));
    assert!(repairer(&scene).repair(never, true).unwrap().is_none());
    assert!(scene.snapshot() == before);
}

#[test]
fn deaths_are_counted_once_per_generation_and_lives_lost_with_the_supervisor_are_no_crashes() {
    let scene = Scene::new();
    with_open_minute(&scene);
    for (generation, crashed) in [(1, true), (2, true), (3, false)] {
        let owner = die_after(&scene, SLOT, generation, Step::Changed);
        repairer(&scene).repair(owner, crashed).unwrap();
    }
    let left = die_after(&scene, SLOT, 4, Step::Left);
    repairer(&scene).repair(left, false).unwrap();
    let never_live = die_after(&scene, SLOT, 5, Step::Reserved);
    repairer(&scene).repair(never_live, false).unwrap();
    let totals = scene.region.totals();
    assert_eq!((totals.crashes, totals.recoveries), (2, 3));
}

type Scribble = fn(&Scene);

/// What no owner leaves, and a word of the reason that must be given.
const DAMAGE: [(&str, Scribble); 12] = [
    ("no state", |scene| scene.slot(SLOT).undo.store(7 << 32, SeqCst)),
    ("no state", |scene| scene.slot(SLOT).undo.store(2, SeqCst)),
    ("ends no record", |scene| scene.slot(SLOT).undo.store(1 << 32 | 3, SeqCst)),
    ("length", |scene| scene.slot(SLOT).undo.store(1 << 32 | 0xffff_fffe, SeqCst)),
    ("not its owner's", |scene| {
        scene.region.undo_area(SlotIndex(SLOT)).unwrap()[1].store(8 << 48 | 128, SeqCst);
    }),
    ("in the small log", |scene| scene.slot(SLOT).mini.store(1, SeqCst)),
    ("FREEING", |scene| scene.slot(SLOT).mini.store(2 << 32, SeqCst)),
    ("no such lock", |scene| {
        scene.slot(SLOT).held[0].store(u32::MAX, SeqCst);
        scene.slot(SLOT).held_count.store(1, SeqCst);
    }),
    ("locks", |scene| scene.slot(SLOT).held_count.store(u32::MAX, SeqCst)),
    ("impossible", |scene| scene.slot(SLOT).intent.len.store(u64::MAX, SeqCst)),
    ("nobody has claimed", |scene| scene.slot(SLOT).intent.len.store(100_000, SeqCst)),
    ("nobody has claimed", |scene| scene.slot(SLOT).intent.minute.store(u64::MAX, SeqCst)),
];

#[test]
fn what_does_not_validate_is_refused_before_the_first_store() {
    for (reason, scribble) in DAMAGE {
        let scene = Scene::new();
        with_open_minute(&scene);
        let owner = die_after(&scene, SLOT, 9, Step::HalfWritten);
        scribble(&scene);
        let before = (scene.snapshot(), file_bytes(&scene));
        match repairer(&scene).repair(owner, true) {
            Err(Setback::Damage(why)) => assert!(why.contains(reason), "{reason}: {why}"),
            other => panic!("{reason}: {other:?}"),
        }
        assert!((scene.snapshot(), file_bytes(&scene)) == before, "{reason}");
    }
    let scene = Scene::new();
    let nowhere = owner(SlotIndex(u32::MAX), Generation(1));
    assert!(matches!(repairer(&scene).repair(nowhere, true), Err(Setback::Damage(_))));
}

/// What is acknowledged stays in the journal, wherever in what was claimed a dead one's intent points.
#[test]
fn an_intent_that_points_at_anothers_record_is_damage_and_the_record_stays() {
    for last in [Step::Placed, Step::HalfWritten, Step::Written] {
        for off in [0, 1, 40] {
            let scene = Scene::new();
            with_open_minute(&scene);
            let owner = die_after(&scene, SLOT, 9, last);
            scene.slot(SLOT).intent.off.store(off, SeqCst);
            scene.slot(SLOT).intent.len.fetch_min(60, SeqCst);
            let before = (file_bytes(&scene), scene.slot(SLOT).undo.load(SeqCst));
            for _ in 0..2 {
                let refused = repairer(&scene).repair(owner, true);
                let about = format!("{last:?} {off}: {refused:?}");
                assert!(
                    matches!(refused, Err(Setback::Damage(why)) if why.contains("another's record")),
                    "{about}"
                );
            }
            assert!((file_bytes(&scene), scene.slot(SLOT).undo.load(SeqCst)) == before);
        }
    }
}

fn file_bytes(scene: &Scene) -> Vec<u8> {
    let minute = scene.journal().open_minute().minute;
    std::fs::read(common::journal::spool::data_path(scene.directory.path(), minute)).unwrap()
}

#[test]
fn a_torn_record_in_a_sealed_minute_goes_back_and_the_file_stays_as_it_is() {
    for (last, messages) in [(Step::HalfWritten, 1), (Step::Written, 2)] {
        let scene = Scene::new();
        let minute = with_open_minute(&scene);
        let owner = die_after(&scene, SLOT, 9, last);
        let before = file_bytes(&scene);
        repairer(&scene).with_sealed(minute).repair(owner, true).unwrap();
        assert_eq!(scene.messages(), messages);
        assert_eq!(file_bytes(&scene), before);
    }
}

#[test]
fn a_file_that_cannot_be_read_is_no_damage_and_the_slot_waits() {
    let scene = Scene::new();
    let minute = with_open_minute(&scene);
    let owner = die_after(&scene, SLOT, 9, Step::Written);
    let path = common::journal::spool::data_path(scene.directory.path(), minute);
    let aside = scene.directory.path().join("aside");
    std::fs::rename(&path, &aside).unwrap();
    // Opened for writing, a directory is EISDIR, for root too.
    std::fs::create_dir(&path).unwrap();
    for _ in 0..3 {
        assert!(matches!(repairer(&scene).repair(owner, true), Err(Setback::Io(_))));
        assert!(needs_repair(scene.slot(SLOT)));
    }
    std::fs::remove_dir(&path).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    repairer(&scene).repair(owner, true).unwrap();
    check_repaired(&scene, Step::Written, "after the disk came back");
}
