use std::os::unix::fs::MetadataExt as _;

use common::journal::spool::{data_name, data_path, lock_name};
use common::layout::NO_OFFSET;

use super::*;
use crate::repair::Repairer;
use crate::scene::{LENGTH, Scene, Step, die_after, with_open_minute};
use crate::takeover::take_over;

fn keeper(scene: &Scene) -> Keeper<'_> {
    Keeper::new(&scene.region, &scene.spool, Sync::Interval).unwrap()
}

fn has(scene: &Scene, name: &str) -> bool {
    scene.directory.path().join(name).exists()
}

fn size(scene: &Scene, minute: Minute) -> u64 {
    std::fs::metadata(data_path(scene.directory.path(), minute)).unwrap().len()
}

#[test]
fn a_minute_that_is_over_is_closed_and_sealed() {
    let scene = Scene::new();
    let minute = with_open_minute(&scene);
    let mut keeper = keeper(&scene);
    keeper.tick(minute, Instant::now());
    assert_eq!(scene.journal().open_minute(), OpenMinute { minute, closed: false }, "its time is not over");
    keeper.tick(minute.next(), Instant::now());
    assert_eq!(scene.journal().open_minute(), OpenMinute { minute, closed: true });
    assert_eq!((scene.spool.read_sealed().unwrap(), scene.journal().sealed_minute()), (minute, minute));
    assert!(has(&scene, &data_name(minute)) && !has(&scene, &lock_name(minute)));
    assert_eq!(scene.journal().ring_claims(), [None; common::limits::JOURNAL_RING]);
    assert_eq!(scene.journal().spool_bytes(), size(&scene, minute));
    assert_eq!(scene.journal().oldest.load(SeqCst), minute.0);
    assert!(with_open_minute(&scene) > minute);
}

#[test]
fn an_intent_keeps_its_minute_and_later_ones_from_being_sealed_until_it_is_repaired() {
    let scene = Scene::new();
    let first = with_open_minute(&scene);
    let owner = die_after(&scene, 3, 9, Step::HalfWritten);
    assert!(scene.journal().close(scene.journal().open_minute()));
    let second = with_open_minute(&scene);
    let mut keeper = keeper(&scene);
    let now = Instant::now();
    for round in 0..20 {
        keeper.tick(Minute(second.0 + 1), now + Duration::from_secs(round));
        assert_eq!(scene.spool.read_sealed().unwrap(), Minute(0));
        assert!(keeper.obstacle().is_some_and(|text| text.contains("slot 3 generation 9")));
    }
    assert_eq!(scene.journal().ring_claims().iter().flatten().count(), 2);
    Repairer::new(&scene.region, &scene.spool).repair(owner, true).unwrap();
    keeper.tick(Minute(second.0 + 1), now + Duration::from_secs(30));
    assert_eq!(scene.journal().sealed_minute(), second);
    assert!(!has(&scene, &lock_name(first)) && !has(&scene, &lock_name(second)));
    assert_eq!((scene.records(), scene.messages()), (2, 2));
}

#[test]
fn a_later_intent_does_not_keep_earlier_minutes() {
    let scene = Scene::new();
    let first = with_open_minute(&scene);
    assert!(scene.journal().close(scene.journal().open_minute()));
    let second = with_open_minute(&scene);
    die_after(&scene, 3, 9, Step::HalfWritten);
    keeper(&scene).tick(second, Instant::now());
    assert_eq!(scene.journal().sealed_minute(), first);
    assert!(has(&scene, &lock_name(second)));
    assert_eq!(scene.journal().spool_bytes(), size(&scene, first) + scene.journal().claimed(second).unwrap());
}

#[test]
fn an_intent_counts_in_whatever_state_its_slot_is() {
    let scene = Scene::new();
    let minute = with_open_minute(&scene);
    let free = &scene.slot(5).intent;
    free.off.store(NO_OFFSET, SeqCst);
    free.minute.store(minute.0, SeqCst);
    let mut keeper = keeper(&scene);
    assert!(!keeper.seal_everything(Instant::now()));
    assert!(has(&scene, &lock_name(minute)));
    free.clear();
    assert!(keeper.seal_everything(Instant::now()));
}

#[test]
fn leftovers_of_a_former_region_are_sealed_in_order() {
    let scene = Scene::new();
    let minutes: Vec<Minute> = (0..3)
        .map(|_| {
            let minute = with_open_minute(&scene);
            assert!(scene.journal().close(scene.journal().open_minute()));
            minute
        })
        .collect();
    let region = Region::create(&tempfile::tempfile().unwrap(), LENGTH).unwrap();
    take_over(&region, &scene.spool, &[]).unwrap();
    let mut keeper = Keeper::new(&region, &scene.spool, Sync::Never).unwrap();
    keeper.tick(Minute::now(), Instant::now());
    assert_eq!(scene.spool.read_sealed().unwrap(), minutes[2]);
    assert!(minutes.iter().all(|minute| !has(&scene, &lock_name(*minute))));
    let bytes: u64 = minutes.iter().map(|minute| size(&scene, *minute)).sum();
    assert_eq!(region.header().journal.spool_bytes(), bytes);
    assert_eq!(scene.records(), 3);
}

#[test]
fn another_programs_lock_is_left_alone_and_keeps_nothing_back() {
    let scene = Scene::new();
    let minute = with_open_minute(&scene);
    let foreign = Minute(minute.0 - 5);
    for name in [data_name(foreign), lock_name(foreign)] {
        std::fs::write(scene.directory.path().join(name), "{torn").unwrap();
    }
    let mut keeper = keeper(&scene);
    assert!(keeper.seal_everything(Instant::now()));
    assert_eq!(scene.journal().sealed_minute(), minute);
    assert!(has(&scene, &lock_name(foreign)) && size(&scene, foreign) == 5);
}

#[test]
fn a_minute_whose_lock_or_file_somebody_removed_does_not_stay_in_the_way() {
    type Removal = (&'static [fn(Minute) -> String], bool);
    let removals: [Removal; 3] =
        [(&[lock_name], true), (&[data_name], true), (&[data_name, lock_name], false)];
    for (remove, is_sealed) in removals {
        let scene = Scene::new();
        let minute = with_open_minute(&scene);
        for name in remove {
            std::fs::remove_file(scene.directory.path().join(name(minute))).unwrap();
        }
        let mut keeper = keeper(&scene);
        keeper.tick(minute.next(), Instant::now());
        // What is gone altogether is not sealed, but it does not take up a place either.
        assert_eq!(scene.journal().sealed_minute(), if is_sealed { minute } else { Minute(0) });
        assert_eq!(scene.journal().ring_claims().iter().flatten().count(), usize::from(!is_sealed));
        with_open_minute(&scene);
        let open = scene.journal().open_minute().minute;
        keeper.tick(open, Instant::now() + ROUND);
        let left: Vec<_> = scene.journal().ring_claims().into_iter().flatten().collect();
        assert_eq!((left.len(), left[0].minute), (1, open));
    }
}

#[test]
fn a_stray_lock_at_a_sealed_minute_is_cleared_away_and_the_file_stays_as_it_is() {
    let scene = Scene::new();
    let first = with_open_minute(&scene);
    let mut keeper = keeper(&scene);
    assert!(keeper.seal_everything(Instant::now()));
    let before = std::fs::read(data_path(scene.directory.path(), first)).unwrap();
    // What a writer makes that slept through the sealing.
    scene.spool.create_minute(first).unwrap();
    scene.spool.create_minute(Minute(first.0 - 1)).unwrap();
    keeper.tick(Minute::now(), Instant::now() + Duration::from_secs(5));
    assert!(!has(&scene, &lock_name(first)) && !has(&scene, &lock_name(Minute(first.0 - 1))));
    assert!(!has(&scene, &data_name(Minute(first.0 - 1))), "it was empty");
    assert_eq!(std::fs::read(data_path(scene.directory.path(), first)).unwrap(), before);
    assert_eq!(scene.spool.read_sealed().unwrap(), first);
}

#[test]
fn sealing_everything_includes_minutes_that_were_made_and_not_opened() {
    let scene = Scene::new();
    let minute = with_open_minute(&scene);
    let made = Minute(minute.0 + 2);
    scene.spool.create_minute(made).unwrap();
    let mut keeper = keeper(&scene);
    keeper.tick(minute, Instant::now());
    assert!(has(&scene, &lock_name(made)), "it may be opened at any moment");
    assert!(keeper.seal_everything(Instant::now()));
    let own = [".generated", ".sealed.next", ".writers"].map(str::to_owned);
    assert_eq!(scene.names(), [&own[..], &[data_name(minute), "sealed".to_owned()]].concat());
    assert_eq!(scene.journal().open_minute(), OpenMinute { minute: made, closed: true });
    assert!(with_open_minute(&scene) > made);
}

#[test]
fn what_the_file_system_refuses_is_tried_again_and_nothing_is_lost() {
    let scene = Scene::new();
    let minute = with_open_minute(&scene);
    let in_the_way = scene.directory.path().join(".sealed.next");
    std::fs::create_dir(&in_the_way).unwrap();
    let mut keeper = keeper(&scene);
    let now = Instant::now();
    for round in 0..3 {
        keeper.tick(minute.next(), now + Duration::from_secs(round));
        assert!(keeper.obstacle().is_some());
        assert!(has(&scene, &lock_name(minute)));
        assert_eq!(scene.journal().sealed_minute(), Minute(0));
        assert!(scene.journal().claimed(minute).is_some(), "still accounted for by the ring");
    }
    std::fs::remove_dir(in_the_way).unwrap();
    keeper.tick(minute.next(), now + Duration::from_secs(3));
    assert_eq!((scene.journal().sealed_minute(), scene.records()), (minute, 1));
}

#[test]
fn a_clock_that_was_set_back_does_not_keep_a_minute_open() {
    let scene = Scene::new();
    let minute = with_open_minute(&scene);
    let mut keeper = keeper(&scene);
    let (hours_before, now) = (Minute(minute.0 - 300), Instant::now());
    keeper.tick(hours_before, now);
    keeper.tick(hours_before, now + LONGEST_OPEN - TICK);
    assert!(!scene.journal().open_minute().closed);
    keeper.tick(hours_before, now + LONGEST_OPEN);
    assert_eq!(scene.journal().sealed_minute(), minute);
}

#[test]
fn what_is_synced_is_not_synced_again_unless_somebody_was_still_writing() {
    let scene = Scene::new();
    let minute = with_open_minute(&scene);
    let mut keeper = keeper(&scene);
    let now = Instant::now();
    let owner = die_after(&scene, 3, 9, Step::Claimed);
    keeper.tick(minute, now);
    assert_eq!(keeper.synced.get(&minute), None, "the bytes of the claim may still be written");
    Repairer::new(&scene.region, &scene.spool).repair(owner, true).unwrap();
    keeper.tick(minute, now + ROUND);
    assert_eq!(keeper.synced.get(&minute).copied(), scene.journal().claimed(minute));
    let never = Keeper::new(&scene.region, &scene.spool, Sync::Never).map(|mut keeper| {
        keeper.tick(minute, now);
        keeper.synced.len()
    });
    assert_eq!(never.unwrap(), 0);
}

#[test]
fn removed_files_leave_the_accounts() {
    let scene = Scene::new();
    let minute = with_open_minute(&scene);
    let mut keeper = keeper(&scene);
    let now = Instant::now();
    keeper.tick(minute.next(), now);
    assert!(scene.journal().spool_bytes() > 0);
    scene.spool.remove_minute(minute).unwrap();
    keeper.tick(minute.next(), now + ROUND);
    assert_eq!((scene.journal().spool_bytes(), scene.journal().oldest.load(SeqCst)), (0, 0));
}

#[test]
fn an_idle_journal_is_neither_written_nor_is_its_region() {
    let scene = Scene::new();
    let minute = with_open_minute(&scene);
    let mut keeper = keeper(&scene);
    let now = Instant::now();
    keeper.tick(minute.next(), now);
    let stamp = |scene: &Scene| {
        let metadata = scene.spool.directory().metadata().unwrap();
        (metadata.mtime(), metadata.mtime_nsec(), size(scene, minute))
    };
    let before = (scene.snapshot(), stamp(&scene));
    for round in 1..100 {
        keeper.tick(minute.next(), now + Duration::from_secs(round));
    }
    assert!((scene.snapshot(), stamp(&scene)) == before);
}

#[test]
fn garbage_in_the_journals_words_is_put_right_or_survived() {
    for garbage in [1, u64::MAX, 1 << 63, 0x1234_5678_9abc_def0] {
        let scene = Scene::new();
        let minute = with_open_minute(&scene);
        let mut keeper = keeper(&scene);
        let now = Instant::now();
        keeper.tick(minute, now);
        scene.journal().sealed.store(garbage, SeqCst);
        scene.journal().closed_bytes.store(garbage, SeqCst);
        scene.journal().ring[3].tail.store(garbage, SeqCst);
        keeper.tick(minute, now + ROUND);
        assert_eq!(scene.journal().sealed_minute(), Minute(0));
        scene.journal().open.store(garbage, SeqCst);
        keeper.tick(minute, now + ROUND * 2);
        keeper.seal_everything(now + ROUND * 3);
        assert_eq!(scene.records(), 1);
    }
}
