//! Every kind of damage to objects and to the heap is found where it is.

use common::heap::{HEAP_OBJECT, pending};
use common::layout::{Object, Slab};
use common::objects::survey::{Before, Part, Survey};
use common::objects::{Folder, ROOT_OBJECT};
use common::tally::Row;

use super::*;
use crate::scene::with_objects;

/// The object of this name in the folder.
fn object<'a>(scene: &'a Scene, name: &str) -> &'a Object {
    scene.region.object(index(scene, name)).unwrap()
}

fn index(scene: &Scene, name: &str) -> u32 {
    let folder = Folder::open(&scene.region, "shop").unwrap();
    let (_, entry) =
        folder.list(&scene.region).unwrap().into_iter().find(|(found, _)| found == name).unwrap();
    entry.handle.index
}

/// Where the entries of an object are.
fn entries(scene: &Scene, index: u32) -> Vec<Offset> {
    let before = Before::default();
    let survey = Survey::of(&scene.region, index, &before).unwrap();
    let mut found = Vec::new();
    for number in 0..survey.buckets() {
        let visit = |part: Part<'_>| {
            found.extend(if let Part::Item(item) = part { Some(item.offset()) } else { None });
        };
        survey.step(number, visit).unwrap();
    }
    found
}

/// A word of an entry of the map `stock`.
fn word(scene: &Scene, entry: usize, word: u64) -> &std::sync::atomic::AtomicU64 {
    let offset = entries(scene, index(scene, "stock"))[entry];
    scene.region.word(Offset(offset.0 + word * 8)).unwrap()
}

fn state(scene: &Scene, offset: Offset) -> &std::sync::atomic::AtomicU16 {
    common::heap::block_at(&scene.region, offset).unwrap().state
}

/// The slab of the pages of the map `large`.
fn slab(scene: &Scene) -> (u32, &Slab) {
    let offset = entries(scene, index(scene, "large"))[0];
    let page = scene.region.page_of(offset).unwrap().0;
    (page, scene.region.slab(page).unwrap())
}

type Scribble = fn(&Scene);

/// Where it must be found, and what must be said there.
const TABLE: [(&str, &str, Scribble); 37] = [
    ("/shop/stock", "bits of another hash", |scene| {
        let linked = (0..600).map(|entry| word(scene, entry, 0)).find(|link| link.load(SeqCst) != 0);
        linked.unwrap().fetch_xor(1 << 60, SeqCst);
    }),
    ("/shop/stock", "lock is held by", |scene| object(scene, "stock").lock.store(7 << 32 | 4, SeqCst)),
    ("/shop/stock", "lock is held by", |scene| object(scene, "stock").lock.store(1 << 32 | 31, SeqCst)),
    ("/shop/stock", "lock is held by", |scene| object(scene, "stock").lock.store(1 << 32 | 999, SeqCst)),
    ("/shop/stock", "nobody has it", |scene| object(scene, "stock").lock.store(1 << 31, SeqCst)),
    ("/shop/stock", "names nobody", |scene| object(scene, "stock").lock.store(5 << 32, SeqCst)),
    ("/shop/stock", "nobody has its lock", |scene| object(scene, "stock").seq.store(5, SeqCst)),
    ("/shop/stock", "says that it has 601", |scene| object(scene, "stock").body[0].store(601, SeqCst)),
    ("/shop/stock", "impossible", |scene| object(scene, "stock").body[1].store(u64::MAX, SeqCst)),
    ("/shop/stock", "says that it has 600 entries", |scene| object(scene, "stock").body[1].store(0, SeqCst)),
    ("/shop/stock", "not in the heap", |scene| object(scene, "stock").body[2].store(8, SeqCst)),
    ("/shop/stock", "not its key's", |scene| word(scene, 9, 1).store(5, SeqCst)),
    ("/shop/stock", "not its key's", |scene| word(scene, 9, 3).store(u64::MAX, SeqCst)),
    ("/shop/stock", "is none", |scene| word(scene, 9, 2).store(u64::MAX, SeqCst)),
    ("/shop/stock", "bytes at", |scene| word(scene, 9, 2).store(100 << 32 | 8, SeqCst)),
    ("/shop/stock", "other bytes than zeros", |scene| {
        // The key has eight bytes, the value four.
        word(scene, 9, 4).fetch_or(1 << 63, SeqCst);
    }),
    ("/shop/stock", "is none", |scene| word(scene, 9, 0).store(u64::MAX - 7, SeqCst)),
    ("/shop/stock", "have no end", |scene| {
        let own = entries(scene, index(scene, "stock"))[9];
        word(scene, 9, 0).store(own.0, SeqCst);
    }),
    ("/shop/stock", "where no block begins", |scene| {
        // An entry as it should be, in the middle of another's block.
        let large = Offset(entries(scene, index(scene, "large"))[0].0 + 64);
        for number in 0..5 {
            let content = word(scene, 9, number).load(SeqCst);
            scene.region.word(Offset(large.0 + number * 8)).unwrap().store(content, SeqCst);
        }
        word(scene, 8, 0).store(large.0, SeqCst);
    }),
    ("/shop/stock", "not in use", |scene| {
        let entry = entries(scene, index(scene, "stock"))[9];
        state(scene, entry).store(0, SeqCst);
    }),
    ("block", "being freed by slot 3, and not in its log", |scene| {
        let spare = entries(scene, index(scene, "stock"))[9];
        state(scene, Offset(free_block(scene, spare))).store(pending(SlotIndex(3)), SeqCst);
    }),
    ("block", "nothing refers to it", |scene| {
        let spare = entries(scene, index(scene, "stock"))[9];
        state(scene, Offset(free_block(scene, spare))).store(1, SeqCst);
    }),
    ("block", "which there is not", |scene| {
        let spare = entries(scene, index(scene, "stock"))[9];
        state(scene, Offset(free_block(scene, spare))).store(60_000, SeqCst);
    }),
    ("object", "kind that does not exist", |scene| {
        scene.region.object(60).unwrap().identity.store(77, SeqCst);
    }),
    ("object", "not", |scene| scene.region.object(60).unwrap().identity.store(1, SeqCst)),
    ("object", "named 0 times", |scene| scene.region.object(60).unwrap().identity.store(4, SeqCst)),
    ("/shop", "which is not there", |scene| object(scene, "sold").identity.store(9 << 32 | 4, SeqCst)),
    ("/shop", "which is not there", |scene| object(scene, "sold").identity.store(1 << 32, SeqCst)),
    ("object", "must be the heap", |scene| {
        scene.region.object(HEAP_OBJECT).unwrap().identity.store(2, SeqCst);
    }),
    ("/", "must be the folder", |scene| scene.region.object(ROOT_OBJECT).unwrap().identity.store(3, SeqCst)),
    ("slot 30", "is not such a slab", |scene| slab(scene).1.owner.store(9, SeqCst)),
    ("page", "in none of its lists", |scene| slab(scene).1.owner.store(9, SeqCst)),
    ("page", "does not begin anywhere", |scene| {
        scene.region.slab(slab(scene).0 + 1).unwrap().owner.store(9, SeqCst);
    }),
    ("slot 30", "was met before", |scene| {
        let (page, slab) = slab(scene);
        slab.next.store(page + 1, SeqCst);
    }),
    ("heap", "pages are in use", |scene| {
        scene.region.object(HEAP_OBJECT).unwrap().body[0].store(5, SeqCst);
    }),
    ("slot 3", "has counted", |scene| {
        let tally = scene.region.tally(SlotIndex(3)).unwrap();
        tally.cells[Row::new(5).unwrap().index()].published[0].store(1, SeqCst);
    }),
    ("users", "have sent", |scene| {
        let slot = scene.slot(3);
        for counters in [&slot.counters, &slot.published] {
            counters.words[1].store(5, SeqCst);
        }
    }),
];

/// A block near this one that is free.
fn free_block(scene: &Scene, near: Offset) -> u64 {
    let block = common::heap::block_at(&scene.region, near).unwrap();
    let step = block.size as u64;
    (1..200)
        .map(|number| near.0 + number * step)
        .find(|offset| {
            common::heap::block_at(&scene.region, Offset(*offset))
                .is_some_and(|block| block.state.load(SeqCst) == 0 && block.size as u64 == step)
        })
        .or_else(|| {
            let words = |page| common::heap::shared_block(&scene.region, page, 1, 79);
            (0..scene.region.geometry().page_count)
                .filter(|page| {
                    let slab = scene.region.slab(*page).unwrap();
                    slab.owner.load(SeqCst) != 0 && slab.class.load(SeqCst) == 1
                })
                .filter_map(words)
                .find(|block| block.state.load(SeqCst) == 0)
                .map(|block| block.offset.0)
        })
        .expect("a free block")
}

#[test]
fn every_kind_of_damage_to_objects_is_found_where_it_is() {
    for (number, (place, words, scribble)) in TABLE.into_iter().enumerate() {
        let scene = Scene::new();
        with_objects(&scene);
        assert_eq!(check_with(&scene.region, &[]), []);
        scribble(&scene);
        let findings = check_with(&scene.region, &[0]);
        let found = findings.iter().any(|finding| {
            let begins = finding.place == place || finding.place.starts_with(&format!("{place} "));
            begins && finding.text.contains(words)
        });
        assert!(found, "scribble {number}, {place}: {words}: {findings:?}");
    }
}

#[test]
fn an_object_that_two_names_stand_for_is_found() {
    let scene = Scene::new();
    with_objects(&scene);
    let folder = Folder::open(&scene.region, "shop").unwrap();
    let before = Before::default();
    let survey = Survey::of(&scene.region, folder.handle().index, &before).unwrap();
    let (empty, large) = (index(&scene, "empty"), index(&scene, "large"));
    for number in 0..survey.buckets() {
        let visit = |part: Part<'_>| {
            if let Part::Item(item) = part
                && item.key() == b"empty"
            {
                // Index and generation, behind the head and the key.
                let target =
                    u64::from(large) | scene.region.object(large).unwrap().identity.load(SeqCst) >> 32 << 32;
                scene.region.word(Offset(item.offset().0 + 32)).unwrap().store(target, SeqCst);
            }
        };
        survey.step(number, visit).unwrap();
    }
    let findings = check_with(&scene.region, &[0]);
    assert!(findings.iter().any(|finding| finding.text.contains("named 2 times")), "{findings:?}");
    let lost = format!("object {empty}");
    assert!(findings.iter().any(|finding| finding.place == lost && finding.text.contains("named 0 times")));
}

/// Where it must be found, what must be said, and what damages it.
type Damage = (&'static str, &'static str, fn(&Scene));

/// Where it must be found in a queue, a blob or what a slot has taken, and what must be said there.
const OF_PIECES: [Damage; 12] = [
    ("/shop/back/jobs", "impossible", |scene| back(scene, "jobs").body[0].store(1 << 40, SeqCst)),
    ("/shop/back/jobs", "last item", |scene| back(scene, "jobs").body[0].store(5, SeqCst)),
    ("/shop/back/jobs", "last item", |scene| back(scene, "jobs").body[2].store(16, SeqCst)),
    ("/shop/back/jobs", "its item 0", |scene| back(scene, "jobs").body[1].store(1 << 40, SeqCst)),
    ("/shop/back/jobs", "does not lead back", |scene| {
        item(scene, 1).fetch_add(8, SeqCst);
    }),
    ("/shop/back/jobs", "its item 2", |scene| item(scene, 0).store(12, SeqCst)),
    ("/shop/back/jobs", "in a block of", |scene| item(scene, 2).store(9000, SeqCst)),
    ("/shop/back/text", "impossible", |scene| back(scene, "text").body[0].store(1 << 30, SeqCst)),
    ("/shop/back/text", "impossible", |scene| back(scene, "text").body[1].store(3, SeqCst)),
    ("/shop/back/text", "no block begins", |scene| {
        back(scene, "text").body[2].fetch_add(32, SeqCst);
    }),
    ("/shop/back/text", "not in use", |scene| {
        state(scene, Offset(back(scene, "text").body[2].load(SeqCst))).store(0, SeqCst);
    }),
    ("slot 3", "where no block begins", |scene| scene.slot(3).in_flight[0].item.store(64, SeqCst)),
];

fn back<'a>(scene: &'a Scene, name: &str) -> &'a Object {
    let folder = Folder::open(&scene.region, "shop/back").unwrap();
    let (_, entry) =
        folder.list(&scene.region).unwrap().into_iter().find(|(found, _)| found == name).unwrap();
    scene.region.object(entry.handle.index).unwrap()
}

/// A word of the second item.
fn item(scene: &Scene, word: u64) -> &std::sync::atomic::AtomicU64 {
    let first = Offset(back(scene, "jobs").body[1].load(SeqCst));
    let second = scene.region.word(first).unwrap().load(SeqCst);
    scene.region.word(Offset(second + word * 8)).unwrap()
}

#[test]
fn damage_to_queues_blobs_and_items_in_flight_is_found_where_it_is() {
    for (index, (place, said, scribble)) in OF_PIECES.into_iter().enumerate() {
        let scene = Scene::new();
        scene.region.mark_in_use().unwrap();
        with_objects(&scene);
        crate::scene::with_queue_and_blob(&scene);
        let mut seat = scene.seat(3, 9);
        let jobs =
            Folder::open(&scene.region, "shop/back").unwrap().open_queue(&scene.region, "jobs").unwrap();
        let mut txn = seat.begin().unwrap();
        txn.queue(jobs).unwrap().take_front().unwrap().unwrap();
        txn.commit().unwrap();
        assert_eq!(check_with(&scene.region, &[0]), []);
        scribble(&scene);
        let findings = check_with(&scene.region, &[0; 3]);
        let found = findings.iter().any(|finding| finding.place == place && finding.text.contains(said));
        assert!(found, "scribble {index}: {findings:?}");
    }
}
