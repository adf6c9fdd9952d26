//! What was scribbled leads to the same blocks again and again: what is made of that is bounded by the region's size.

use common::layout::Object;
use common::objects::survey::{Before, Part, Survey};
use common::objects::{Folder, Kind, ROOT_OBJECT};

use super::*;
use crate::dump::Dump;
use crate::scene::{LENGTH, put, with_objects, with_queue_and_blob};

fn json(scene: &Scene) -> String {
    serde_json::to_string(&Dump::of(&scene.region)).unwrap()
}

fn said(scene: &Scene) -> String {
    check_with(&scene.region, &[]).iter().map(|finding| format!("{finding}\n")).collect()
}

fn object(scene: &Scene, index: u32) -> &Object {
    scene.region.object(index).unwrap()
}

/// Lets a name in a folder stand for another object of the same kind.
fn point(scene: &Scene, folder: u32, name: &str, to: u32) {
    let before = Before::default();
    let survey = Survey::of(&scene.region, folder, &before).unwrap();
    let target = u64::from(to) | object(scene, to).identity.load(SeqCst) >> 32 << 32;
    let mut pointed = false;
    for number in 0..survey.buckets() {
        let visit = |part: Part<'_>| {
            if let Part::Item(item) = part
                && item.key() == name.as_bytes()
            {
                // Index and generation, behind the head and the key.
                let at = item.offset().0 + 24 + name.len().next_multiple_of(8) as u64;
                scene.region.word(Offset(at)).unwrap().store(target, SeqCst);
                pointed = true;
            }
        };
        survey.step(number, visit).unwrap();
    }
    assert!(pointed, "{name}");
}

#[test]
fn folders_that_are_made_of_the_same_pages() {
    let scene = Scene::new();
    with_objects(&scene);
    let mut seat = scene.seat(4, 1);
    let stock = scene.map("stock");
    for number in 0..100_u64 {
        put(&mut seat, stock, &[number as u8; 200], &[1; 1000]).unwrap();
    }
    seat.leave();
    scene.free(4);
    let (root, shared) = (object(&scene, ROOT_OBJECT), object(&scene, stock.handle().index));
    let free = (0..scene.region.geometry().object_count)
        .map(|index| object(&scene, index))
        .filter(|object| Kind::of(object.identity.load(SeqCst)) == Some(Kind::Free));
    for object in free {
        object.identity.store(root.identity.load(SeqCst), SeqCst);
        for (to, from) in object.body.iter().zip(&shared.body) {
            to.store(from.load(SeqCst), SeqCst);
        }
    }
    let findings = said(&scene);
    assert!(findings.contains("together with the objects before it, it has more bytes than the heap"));
    assert!(findings.lines().count() < 2 * MOST_BLOCKS, "{}", findings.lines().count());
    assert!(findings.len() + json(&scene).len() < 16 * LENGTH as usize);
}

#[test]
fn a_queue_whose_item_follows_itself() {
    let scene = Scene::new();
    with_objects(&scene);
    with_queue_and_blob(&scene);
    let back = Folder::open(&scene.region, "shop/back").unwrap();
    let jobs = back.open_queue(&scene.region, "jobs").unwrap();
    let mut seat = scene.seat(4, 1);
    let mut txn = seat.begin().unwrap();
    assert!(txn.queue(jobs).unwrap().push_front(&[7; 5000]).unwrap());
    txn.commit().unwrap();
    seat.leave();
    scene.free(4);
    let body = &object(&scene, jobs.handle().index).body;
    let first = body[1].load(SeqCst);
    for at in [first, first + 8] {
        scene.region.word(Offset(at)).unwrap().store(first, SeqCst);
    }
    body[0].store(common::heap::most_blocks(&scene.region), SeqCst);
    body[2].store(first, SeqCst);
    assert!(
        said(&scene).contains("/shop/back/jobs: together with the objects before it"),
        "{}",
        said(&scene)
    );
    assert!(json(&scene).len() < 16 * LENGTH as usize);
}

#[test]
fn folders_that_stand_in_each_other_deeper_than_they_can() {
    const FOLDERS: usize = 25;
    let scene = Scene::new();
    let mut seat = scene.seat(4, 1);
    let mut txn = seat.begin().unwrap();
    txn.create_folder("pool").unwrap();
    txn.commit().unwrap();
    let folders: Vec<u32> = (0..FOLDERS)
        .map(|number| {
            let mut txn = seat.begin().unwrap();
            let folder = txn.create_folder(&format!("pool/{number}")).unwrap();
            txn.create_folder(&format!("pool/{number}/next")).unwrap();
            txn.commit().unwrap();
            folder.handle().index
        })
        .collect();
    seat.leave();
    scene.free(4);
    for next in folders.windows(2) {
        point(&scene, next[0], "next", next[1]);
    }
    point(&scene, ROOT_OBJECT, "pool", folders[0]);
    let findings = said(&scene);
    assert!(findings.contains("the folder is 9 levels deep, and 8 is the most"), "{findings}");
    for text in [findings, json(&scene)] {
        assert!(text.contains("pool/next/next") && !text.contains(&"/next".repeat(10)), "{text}");
    }
}

#[test]
fn slabs_that_follow_each_other_in_a_ring_are_counted_once() {
    let scene = Scene::new();
    with_objects(&scene);
    let before = json(&scene);
    let slabs = || scene.slot(30).slabs.iter().filter_map(|head| head.load(SeqCst).checked_sub(1));
    for head in slabs() {
        let mut last = head;
        while let Some(next) = scene.region.slab(last).unwrap().next.load(SeqCst).checked_sub(1) {
            last = next;
        }
        scene.region.slab(last).unwrap().next.store(head + 1, SeqCst);
    }
    assert_eq!(json(&scene), before);
}
