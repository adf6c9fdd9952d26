use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use common::slots;

use super::*;
use crate::repair::Repairer;
use crate::scene::{STEPS, Scene, die_after, with_open_minute};

mod bounds;

mod damage;

mod online;

mod scribbled;

fn places(scene: &Scene) -> Vec<String> {
    let mut places: Vec<_> =
        check_with(&scene.region, &[0; 3]).into_iter().map(|finding| finding.place).collect();
    places.dedup();
    places
}

#[test]
fn no_step_of_a_life_is_a_finding_before_or_after_its_repair() {
    for last in STEPS {
        let scene = Scene::new();
        scene.region.mark_in_use().unwrap();
        with_open_minute(&scene);
        let owner = die_after(&scene, 3, 9, last);
        assert_eq!(check(&scene.region), [], "{last:?}");
        Repairer::new(&scene.region, &scene.spool).repair(owner, true).unwrap();
        assert_eq!(check(&scene.region), [], "{last:?}, repaired");
        assert!(summary(&scene.region).starts_with("sound: 32 slots, 0 live"));
    }
}

#[test]
fn every_kind_of_damage_is_found_where_it_is() {
    type Scribble = fn(&Scene);
    let table: [(&str, Scribble); 25] = [
        ("slot 3", |scene| scene.slot(3).owner.store(99, SeqCst)),
        ("slot 3", |scene| scene.slot(3).undo.store(5, SeqCst)),
        ("slot 3", |scene| scene.slot(3).mini.store(5, SeqCst)),
        ("slot 3", |scene| scene.slot(3).held_count.store(32, SeqCst)),
        ("slot 3", |scene| scene.slot(3).held_count.store(1, SeqCst)),
        ("slot 3", |scene| scene.slot(3).intent.minute.store(5, SeqCst)),
        ("slot 3", |scene| scene.slot(3).counters.words[1].store(5, SeqCst)),
        ("slot 3", |scene| scene.slot(3).published.words[1].store(5, SeqCst)),
        ("slot 3", |scene| scene.slot(3).base.words[1].store(5, SeqCst)),
        ("slot 3", |scene| scene.slot(3).pad3[2].store(5, SeqCst)),
        ("slot 3", |scene| scene.slot(3).pad0.store(5, SeqCst)),
        ("slot 3", |scene| scene.slot(3).knell.pad[4].store(5, SeqCst)),
        ("slot 3", |scene| scene.slot(3).knell.reserved[0].store(5, SeqCst)),
        ("header", |scene| scene.region.header().supervision.pad.store(5, SeqCst)),
        ("header", |scene| scene.region.header().supervision.reserved.store(5, SeqCst)),
        ("header", |scene| scene.region.header().supervision.incomplete.store(2, SeqCst)),
        ("header", |scene| scene.region.header().demand.reserved[11].store(5, SeqCst)),
        ("header", |scene| scene.region.header().history.reserved.store(5, SeqCst)),
        ("header", |scene| scene.region.header().door.reserved[6].store(5, SeqCst)),
        ("header", |scene| scene.region.word(Offset(4088)).unwrap().store(5, SeqCst)),
        ("header", |scene| scene.region.header().supervision.damaged.store(1, SeqCst)),
        ("header", |scene| scene.region.header().supervision.draining.store(5, SeqCst)),
        ("journal", |scene| scene.journal().open.store(u64::MAX, SeqCst)),
        ("journal", |scene| scene.journal().sealed.store(1 << 30, SeqCst)),
        ("journal", |scene| scene.journal().ring[5].tail.store(0x1234_5678_9abc_def0, SeqCst)),
    ];
    for (index, (place, scribble)) in table.into_iter().enumerate() {
        let scene = Scene::new();
        scene.region.mark_in_use().unwrap();
        with_open_minute(&scene);
        scribble(&scene);
        assert_eq!(places(&scene), [place], "scribble {index}");
    }
}

#[test]
fn a_clean_region_has_nobody_in_it() {
    let scene = Scene::new();
    assert!(scene.region.is_clean());
    assert_eq!(places(&scene), [""; 0]);
    let _live = scene.seat(3, 1);
    assert_eq!(places(&scene), ["header"]);
}

#[test]
fn what_is_being_changed_is_no_finding() {
    let scene = Scene::new();
    scene.region.mark_in_use().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut seat = scene.seat(3, 1);
            while !stop.load(SeqCst) {
                scene.message(&mut seat);
                seat.slot().count(slots::Counter::Connections);
            }
        });
        for _ in 0..200 {
            assert_eq!(check(&scene.region), []);
        }
        stop.store(true, SeqCst);
    });
    assert!(scene.messages() > 0);
}
