use std::time::Instant;

use common::journal::spool::{data_name, lock_name};
use common::limits::JOURNAL_RING;
use common::lock;
use common::objects::Folder;
use common::wire::control::Sync;
use proptest::prelude::*;

use super::*;
use crate::keeper::Keeper;
use crate::scene::{
    STEPS, Scene, Step, counts, die_after, with_objects, with_open_minute, with_queue_and_blob,
};

#[test]
fn every_slot_is_repaired_whatever_its_owner_was_at() {
    let scene = Scene::new();
    with_open_minute(&scene);
    for (index, last) in (0..).zip(STEPS) {
        die_after(&scene, index, 5, last);
    }
    let counted = STEPS.into_iter().filter(|last| counts(*last)).count() as u64;
    assert_eq!(take_over(&scene.region, &scene.spool, &[]).unwrap().repaired, STEPS.len() as u32 + 1);
    assert_eq!(scene.messages(), 1 + counted);
    assert_eq!(scene.records() as u64, 1 + counted);
    let totals = scene.region.totals();
    let idle = 3; // never live, left cleanly, and the owner of the first message
    assert_eq!((totals.crashes, totals.recoveries), (0, STEPS.len() as u64 + 1 - idle));
    assert_eq!(take_over(&scene.region, &scene.spool, &[]).unwrap().repaired, 0);
}

#[test]
fn attached_programs_that_live_are_left_alone_and_those_that_died_have_crashed() {
    let scene = Scene::new();
    with_open_minute(&scene);
    let lives = die_after(&scene, 1, 5, Step::Changed);
    let dead = die_after(&scene, 2, 5, Step::Changed);
    die_after(&scene, 3, 5, Step::Changed);
    let attached = [Attached { owner: lives, lives: true }, Attached { owner: dead, lives: false }];
    let repaired = take_over(&scene.region, &scene.spool, &attached).unwrap().repaired;
    assert!(scene.slot(1).is(lives.generation, State::Live) && !scene.slot(1).holds_nothing());
    assert!(!needs_repair(scene.slot(2)) && !needs_repair(scene.slot(3)));
    // The owner of the first message is repaired besides.
    assert_eq!((repaired, scene.region.totals().crashes), (3, 1));
    // Its next generation is another's.
    let other = slots::owner(lives.slot, Generation(4));
    sweep(&scene.region, &scene.spool, &[Attached { owner: other, lives: true }]).unwrap();
    assert!(!needs_repair(scene.slot(1)));
}

#[test]
fn unknown_states_and_a_free_slot_that_holds_something_are_repaired() {
    let scene = Scene::new();
    let unknown = scene.slot(1);
    unknown.owner.store(4 << 32 | 99, SeqCst);
    let free = scene.slot(2);
    free.intent.minute.store(1, SeqCst);
    free.intent.off.store(common::layout::NO_OFFSET, SeqCst);
    assert_eq!(take_over(&scene.region, &scene.spool, &[]).unwrap().repaired, 2);
    assert!(unknown.is(Generation(4), State::Free));
    assert!(!needs_repair(free));
    assert_eq!(scene.region.totals().recoveries, 2);
}

#[test]
fn one_slot_that_is_refused_does_not_keep_the_others_from_repair() {
    let scene = Scene::new();
    with_open_minute(&scene);
    let refused = die_after(&scene, 1, 5, STEPS[3]);
    scene.slot(1).mini.store(1, SeqCst);
    die_after(&scene, 2, 5, STEPS[3]);
    let outcome = take_over(&scene.region, &scene.spool, &[]);
    assert!(matches!(outcome, Err(Obstacle::Refused(owner, _)) if owner == refused), "{outcome:?}");
    assert!(needs_repair(scene.slot(1)) && !needs_repair(scene.slot(2)));
}

#[test]
fn a_gate_that_was_scribbled_over_is_open_again() {
    let scene = Scene::new();
    let word = &scene.region.header().gate.word;
    for scribble in [1 << 31, u64::MAX, 1 << 32 | 1 << 31 | 5] {
        word.store(scribble, SeqCst);
        take_over(&scene.region, &scene.spool, &[]).unwrap();
        assert_eq!(word.load(SeqCst), 0, "{scribble:#x}");
    }
    scene.message(&mut scene.seat(1, 1));
}

#[test]
fn damaged_objects_are_not_served_from() {
    let scene = Scene::new();
    with_objects(&scene);
    take_over(&scene.region, &scene.spool, &[]).unwrap();
    let stock = scene.region.object(scene.map("stock").handle().index).unwrap();
    stock.lock.store(7 << 32 | 5, SeqCst);
    let before = scene.snapshot();
    let outcome = take_over(&scene.region, &scene.spool, &[]);
    assert!(
        matches!(&outcome, Err(Obstacle::Refused(_, why)) if why.contains("/shop/stock: its lock is held")),
        "{outcome:?}"
    );
    assert!(scene.snapshot() == before);
}

/// Whether it is free again or the queue's lock keeps its item, nobody is left who would give that lock back.
#[test]
fn an_item_that_cannot_go_back_since_nobody_has_its_queues_lock_is_damage() {
    for word in [7 << 32 | 5, 1 << 32 | 4, lock::WAITERS, 9 << 32] {
        let scene = Scene::new();
        with_objects(&scene);
        with_queue_and_blob(&scene);
        let jobs =
            Folder::open(&scene.region, "shop/back").unwrap().open_queue(&scene.region, "jobs").unwrap();
        let mut seat = scene.seat(3, 1);
        let mut txn = seat.begin().unwrap();
        txn.queue(jobs).unwrap().take_front().unwrap().unwrap();
        txn.commit().unwrap();
        std::mem::forget(seat);
        scene.region.object(jobs.handle().index).unwrap().lock.store(word, SeqCst);
        for start in ["the first", "another"] {
            let outcome = take_over(&scene.region, &scene.spool, &[]);
            assert!(
                matches!(&outcome, Err(Obstacle::Refused(_, why)) if why.contains("/shop/back/jobs: ")),
                "{word:#x}, {start}: {outcome:?}"
            );
        }
    }
}

#[test]
fn new_records_go_under_a_name_that_no_file_has() {
    let scene = Scene::new();
    let former = with_open_minute(&scene);
    take_over(&scene.region, &scene.spool, &[]).unwrap();
    let open = scene.journal().open_minute();
    assert_eq!((open.minute, open.closed), (former, true));
    assert!(with_open_minute(&scene) > former);
    assert_eq!(scene.records(), 2);
}

#[test]
fn starts_that_nothing_is_sealed_between_leave_a_minute_to_write_to() {
    let scene = Scene::new();
    for start in 0..3 * JOURNAL_RING as u32 {
        let mut seat = scene.seat(5, start + 1);
        scene.message(&mut seat);
        seat.leave();
        scene.free(5);
        take_over(&scene.region, &scene.spool, &[]).unwrap();
    }
    assert_eq!(scene.records(), 3 * JOURNAL_RING);
    assert!(!scene.journal().has_room() && !scene.journal().open_minute().closed);
}

/// Fills the ring with minutes that have a record each. Gives the open word before the last of them was opened.
fn fill_ring(scene: &Scene) -> OpenMinute {
    let mut seat = scene.seat(5, 1);
    let mut before = scene.journal().open_minute();
    while scene.journal().has_room() {
        scene.journal().close(scene.journal().open_minute());
        before = scene.journal().open_minute();
        scene.message(&mut seat);
    }
    seat.leave();
    scene.free(5);
    before
}

#[test]
fn a_full_ring_of_closed_minutes_has_its_oldest_sealed() {
    let scene = Scene::new();
    fill_ring(&scene);
    assert!(scene.journal().close(scene.journal().open_minute()));
    take_over(&scene.region, &scene.spool, &[]).unwrap();
    let sealed = scene.journal().sealed_minute();
    assert!(scene.journal().has_room() && sealed > Minute(0));
    assert_eq!(scene.spool.read_sealed().unwrap(), sealed);
    with_open_minute(&scene);
    assert_eq!(scene.records(), JOURNAL_RING + 1);
}

#[test]
fn a_full_ring_whose_newest_minute_was_just_being_opened_goes_on_with_that() {
    let scene = Scene::new();
    let before = fill_ring(&scene);
    let newest = scene.journal().open_minute().minute;
    scene.journal().open.store(OpenMinute { closed: false, ..before }.word(), SeqCst);
    take_over(&scene.region, &scene.spool, &[]).unwrap();
    assert_eq!(scene.journal().open_minute(), OpenMinute { minute: newest, closed: false });
    with_open_minute(&scene);
    assert_eq!(scene.records(), JOURNAL_RING + 1);
}

/// What may happen to an instance's journal between two messages.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A worker dies at its message; it is repaired at once,
    Death(Step),
    /// or stays as it is: repair is slow, or it is stopped and not dead.
    Stuck(Step),
    /// The keeper finds the open minute over; it lives, or has just been started.
    Keeper,
    /// The open word is as it was before the last minute was opened: whoever opened it died in between.
    HalfOpened,
    /// The keeper dies of the order to seal everything, having closed everything.
    Closed,
    /// The whole instance is killed, and the next one takes over.
    TakeOver,
}

fn event() -> impl Strategy<Value = Event> {
    let step = || proptest::sample::select(&STEPS[..]);
    prop_oneof![
        1 => step().prop_map(Event::Death),
        1 => step().prop_map(Event::Stuck),
        3 => Just(Event::Keeper),
        1 => Just(Event::HalfOpened),
        1 => Just(Event::Closed),
        6 => Just(Event::TakeOver),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// However lives and deaths follow one another, after a takeover there is a minute to write to; and once nothing is
    /// stuck any more, everything is sealed.
    #[test]
    fn the_ring_of_minutes_never_stays_full(events in proptest::collection::vec(event(), 1..40)) {
        let scene = Scene::new();
        let mut expected = 0;
        let mut said = 0;
        let mut message = |seat: u32| {
            said += 1;
            let mut seat = scene.seat(seat, said);
            scene.message(&mut seat);
            seat.leave();
        };
        message(5);
        scene.free(5);
        expected += 1;
        let (mut generation, mut stuck) = (0, false);
        let mut before = scene.journal().open_minute();
        for event in events {
            generation += 1;
            match event {
                Event::Death(step) => {
                    let owner = die_after(&scene, 1, generation, step);
                    Repairer::new(&scene.region, &scene.spool).repair(owner, true).unwrap();
                    expected += usize::from(counts(step));
                }
                // A closed minute takes nothing.
                Event::Stuck(step) if !stuck && !scene.journal().open_minute().closed => {
                    die_after(&scene, 2, generation, step);
                    stuck = true;
                    expected += usize::from(counts(step));
                }
                Event::Stuck(_) => {}
                Event::Keeper => {
                    let mut keeper = Keeper::new(&scene.region, &scene.spool, Sync::Never).unwrap();
                    keeper.tick(scene.journal().open_minute().minute.next(), Instant::now());
                }
                Event::HalfOpened => {
                    let now = scene.journal().open_minute();
                    if now.minute > before.minute && before.minute > scene.journal().sealed_minute() {
                        scene.journal().open.store(before.word(), SeqCst);
                    }
                }
                Event::Closed => {
                    scene.journal().close(scene.journal().open_minute());
                }
                Event::TakeOver => {}
            }
            if matches!(event, Event::TakeOver | Event::Closed | Event::HalfOpened) {
                take_over(&scene.region, &scene.spool, &[]).unwrap();
                stuck = false;
            }
            before = scene.journal().open_minute();
            message(5);
            scene.free(5);
            expected += 1;
            // What the stuck one has written is perhaps half of a record.
            if !stuck {
                prop_assert_eq!(scene.records(), expected, "after {:?}", event);
            }
        }
        take_over(&scene.region, &scene.spool, &[]).unwrap();
        let mut keeper = Keeper::new(&scene.region, &scene.spool, Sync::Never).unwrap();
        prop_assert!(keeper.seal_everything(Instant::now()), "{:?}", keeper.obstacle());
        prop_assert_eq!(scene.journal().ring_claims(), [None; JOURNAL_RING]);
        prop_assert_eq!(scene.records(), expected);
    }
}

#[test]
fn a_fresh_region_beside_an_old_spool() {
    let scene = Scene::new();
    let former = with_open_minute(&scene);
    scene.spool.write_sealed(Minute(former.0 - 1)).unwrap();
    let fresh = Region::create(&tempfile::tempfile().unwrap(), crate::scene::LENGTH).unwrap();
    take_over(&fresh, &scene.spool, &[]).unwrap();
    let journal = &fresh.header().journal;
    assert_eq!(journal.sealed_minute(), Minute(former.0 - 1));
    assert_eq!(journal.open_minute(), OpenMinute { minute: former, closed: true });
    let size = std::fs::metadata(scene.directory.path().join(data_name(former))).unwrap().len();
    assert_eq!(journal.closed_bytes.load(SeqCst), size, "no entry of the ring counts it");
    assert_eq!(journal.oldest.load(SeqCst), former.0);
}

#[test]
fn a_region_used_again_counts_no_byte_twice() {
    let scene = Scene::new();
    let former = with_open_minute(&scene);
    std::fs::write(scene.directory.path().join(data_name(Minute(7))), "0123456789").unwrap();
    take_over(&scene.region, &scene.spool, &[]).unwrap();
    let size = std::fs::metadata(scene.directory.path().join(data_name(former))).unwrap().len();
    assert_eq!(scene.journal().closed_bytes.load(SeqCst), 10);
    assert_eq!(scene.journal().spool_bytes(), 10 + size);
    assert_eq!(scene.journal().oldest.load(SeqCst), 7);
}

#[test]
fn entries_of_the_ring_that_nobody_would_seal_are_dropped() {
    let scene = Scene::new();
    let former = with_open_minute(&scene);
    for entry in &scene.journal().ring {
        if entry.tail.load(SeqCst) == 0 {
            entry.tail.store(0x1234_5678_9abc_def0, SeqCst);
        }
    }
    take_over(&scene.region, &scene.spool, &[]).unwrap();
    let left: Vec<_> = scene.journal().ring_claims().into_iter().flatten().collect();
    assert_eq!((left.len(), left[0].minute), (1, former));
    assert_eq!(scene.journal().ring.len(), JOURNAL_RING);
}

#[test]
fn a_spool_that_lost_its_word_gets_it_back_from_the_region() {
    let scene = Scene::new();
    let minute = with_open_minute(&scene);
    scene.journal().sealed.store(minute.0 - 1, SeqCst);
    take_over(&scene.region, &scene.spool, &[]).unwrap();
    assert_eq!(scene.spool.read_sealed().unwrap(), Minute(minute.0 - 1));
    assert_eq!(scene.journal().sealed_minute(), Minute(minute.0 - 1));
}

#[test]
fn what_is_sealed_cannot_be_guessed() {
    let scene = Scene::new();
    std::fs::write(scene.directory.path().join("sealed"), "garbage").unwrap();
    assert!(
        matches!(take_over(&scene.region, &scene.spool, &[]), Err(Obstacle::Spool(why)) if why.contains("sealed"))
    );
}

#[test]
fn from_where_the_journal_goes_on() {
    const NOW: u64 = 29_000_000;
    const FAR: u64 = NOW + 20_000_000;
    // (region's sealed, region's open), spool's sealed, names in the spool, ours → sealed, open
    type Case = ((u64, u64), u64, &'static [u64], &'static [u64], (u64, u64));
    let table: [Case; 10] = [
        ((0, 0), 0, &[], &[], (0, 0)),
        ((0, 0), 50, &[], &[], (50, 50)),
        ((60, 61), 50, &[], &[], (60, 61)),
        ((50, 61), 60, &[], &[], (60, 61)),
        ((50, 61), 50, &[70, 99], &[70], (50, 99)),
        // A little ahead of the clock is believed, far ahead is not.
        ((0, NOW), 0, &[NOW + 3], &[], (0, NOW + 3)),
        ((0, NOW), 0, &[FAR], &[], (0, NOW)),
        // Unless it is certainly ours: the clock was wrong once, and no name is ever used twice.
        ((0, NOW), 0, &[FAR], &[FAR], (0, FAR)),
        ((0, NOW), FAR, &[], &[], (FAR, FAR)),
        // Garbage in the region is not believed.
        ((u64::MAX, u64::MAX >> 1), 50, &[], &[], (50, 50)),
    ];
    for (said, durable, files, ours, expected) in table {
        let files: Vec<_> = files.iter().copied().map(Minute).collect();
        let ours = ours.iter().copied().map(Minute).collect();
        let said = (Minute(said.0), Minute(said.1));
        let found = go_on_from(said, Minute(durable), &files, &ours, Minute(NOW));
        assert_eq!(found, (Minute(expected.0), Minute(expected.1)), "{said:?} {durable} {files:?}");
    }
}

#[test]
fn another_programs_lock_and_file_are_left_alone() {
    let scene = Scene::new();
    let minute = Minute(Minute::now().0 + 2);
    for name in [data_name(minute), lock_name(minute)] {
        std::fs::write(scene.directory.path().join(name), "another's").unwrap();
    }
    take_over(&scene.region, &scene.spool, &[]).unwrap();
    assert!(with_open_minute(&scene) > minute);
    let found = std::fs::read(scene.directory.path().join(data_name(minute))).unwrap();
    assert_eq!(found, b"another's");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random bytes over the slots, the journal's words and the undo logs: never a panic, and either refused or
    /// repaired so that a second pass finds nothing.
    #[test]
    fn garbage_is_refused_or_repaired(
        slots in proptest::collection::vec((0_usize..32, 0_usize..1024, proptest::collection::vec(any::<u8>(), 1..64)), 0..8),
        journal in proptest::collection::vec((192_usize..384, any::<u8>()), 0..8),
        small in any::<bool>(),
    ) {
        let scene = Scene::new();
        with_open_minute(&scene);
        for (index, last) in (0..).zip(STEPS) {
            die_after(&scene, index, 5, last);
        }
        let mut image = scene.snapshot();
        for (slot, offset, bytes) in &slots {
            for (place, byte) in (*offset..1024).zip(bytes) {
                // Small values are plausible more often.
                image[4096 + slot * 1024 + place] = if small { byte & 3 } else { *byte };
            }
        }
        for (place, byte) in journal {
            image[place] = byte;
        }
        scene.restore(&image);
        let first = take_over(&scene.region, &scene.spool, &[]);
        let second = take_over(&scene.region, &scene.spool, &[]);
        match first {
            Ok(_) => prop_assert!(matches!(second, Ok(TakenOver { repaired: 0, .. })), "{second:?}"),
            Err(_) => prop_assert!(second.is_err(), "{second:?}"),
        }
        let _ = verify::check_with(&scene.region, &[]);
    }
}
