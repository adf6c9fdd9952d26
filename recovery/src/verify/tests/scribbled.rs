//! Random words all over the region: no tool falls over or goes on for ever, and what is refused stays as it was.

use std::sync::atomic::AtomicU64;
use std::time::Instant;

use common::tally;
use common::txn::{Transaction, TxnError};

use super::*;
use crate::dump::Dump;
use crate::repair::{Setback, needs_repair};
use crate::scene::{put, with_objects, with_queue_and_blob};

/// How often the region is scribbled over, unless `HOLDFAST_SCRIBBLES` says another number; the same in every run.
const ROUNDS: u64 = 500;

/// Far more than one round takes.
const DEADLINE: Duration = Duration::from_secs(30);

/// The same numbers in every run (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// What is likely to be taken for something: small numbers, places in the heap, bits here and there.
    fn word(&mut self, region: &Region) -> u64 {
        let geometry = region.geometry();
        match self.below(6) {
            0 => self.below(u64::MAX),
            1 => self.below(70),
            2 => geometry.heap + self.below(u64::from(geometry.page_count)) * 4096,
            3 => geometry.heap + self.below(u64::from(geometry.page_count) * 4096) / 16 * 16,
            4 => self.below(40) << 32 | self.below(40),
            _ => u64::MAX - self.below(9),
        }
    }
}

/// Where a scribble is likely to hurt: anywhere, in the slots, the logs, the tables, the pages in use.
fn target(random: &mut Random, region: &Region) -> Offset {
    let geometry = region.geometry();
    let (from, to) = match random.below(6) {
        0 => (128, geometry.length),
        1 => (128, geometry.logs),
        2 => (geometry.logs, geometry.tallies),
        3 => (geometry.objects, geometry.objects + 12 * 64),
        4 => (geometry.slabs, geometry.heap),
        _ => (geometry.heap, geometry.heap + 40 * 4096),
    };
    Offset((from + random.below(to - from)) / 8 * 8)
}

#[test]
fn no_tool_falls_over_or_goes_on_for_ever() {
    let scene = Scene::new();
    with_open_minute(&scene);
    with_objects(&scene);
    with_queue_and_blob(&scene);
    let mut seat = scene.seat(3, 9);
    let folder = common::objects::Folder::open(&scene.region, "shop/back").unwrap();
    let queue = folder.open_queue(&scene.region, "jobs").unwrap();
    let mut txn = seat.begin().unwrap();
    txn.queue(queue).unwrap().take_front().unwrap().unwrap();
    txn.commit().unwrap();
    let mut txn = seat.begin().unwrap();
    txn.queue(queue).unwrap().push_front(b"half done").unwrap();
    txn.map(scene.map("stock")).unwrap().put(b"half", b"done").unwrap();
    std::mem::forget(txn);
    let sound = scene.snapshot();
    let mut random = Random(0x5eed_5eed);
    let rounds = std::env::var("HOLDFAST_SCRIBBLES").ok().and_then(|rounds| rounds.parse().ok());
    for round in 0..rounds.unwrap_or(ROUNDS) {
        scene.restore(&sound);
        for _ in 0..=random.below(20) {
            let (at, word) = (target(&mut random, &scene.region), random.word(&scene.region));
            scene.region.word(at).unwrap().store(word, SeqCst);
        }
        let began = Instant::now();
        use_every_tool(&scene, round);
        assert!(began.elapsed() < DEADLINE, "round {round} took {:?}", began.elapsed());
    }
}

fn use_every_tool(scene: &Scene, round: u64) {
    let region = &scene.region;
    check_with(region, &[0]);
    let dump = Dump::of(region);
    assert!(!dump.text().is_empty() && serde_json::to_string(&dump).is_ok());
    for (index, _) in region.slots().filter(|(_, slot)| needs_repair(slot)) {
        let before = scene.snapshot();
        let owner = slots::owner(index, region.slot(index).unwrap().standing().0);
        let took = region.slot(index).unwrap().in_flight.iter().any(|said| said.item.load(SeqCst) != 0);
        let repaired = Repairer::new(region, &scene.spool).repair(owner, true);
        // That a queue is damaged is seen when an item is put back to it, after the rest.
        if matches!(repaired, Err(Setback::Damage(_))) && !took {
            assert!(scene.snapshot() == before, "round {round}: what is refused stays as it was");
        }
    }
    // A reader waits for a second where it seems to be changed: not in each of so many rounds.
    (0..region.geometry().object_count).filter_map(|index| region.object(index)).for_each(|object| {
        object.seq.fetch_and(!1, SeqCst);
        object.lock.store(0, SeqCst);
    });
    read_everything(region);
    write_something(scene);
}

fn read_everything(region: &Region) {
    for (_, folder) in common::objects::Folder::all(region).into_iter().flatten() {
        for (name, _) in folder.list(region).into_iter().flatten() {
            let _ = folder.open_map(region, &name).and_then(|map| map.entries(region));
            let _ = folder.open_counter(region, &name).and_then(|counter| counter.get(region));
            let _ = folder.open_queue(region, &name).and_then(|queue| queue.items(region));
            let _ = folder.open_blob(region, &name).and_then(|blob| blob.get(region));
            if let Ok(map) = folder.open_map(region, &name) {
                let _ = map.get(region, b"anything");
                let _ =
                    common::objects::map::blocks(region, map.handle(), common::objects::Kind::Map, |_| ());
            }
        }
    }
    let _ = tally::totals(region);
}

fn write_something(scene: &Scene) {
    let words: [&AtomicU64; 3] = [&scene.slot(4).undo, &scene.slot(4).mini, &scene.slot(4).intent.minute];
    words.iter().for_each(|word| word.store(0, SeqCst));
    scene.slot(4).held_count.store(0, SeqCst);
    scene.slot(4).in_flight.iter().for_each(|said| said.item.store(0, SeqCst));
    let mut seat = scene.seat(4, 2);
    let shop = common::objects::Folder::open(&scene.region, "shop");
    if let Ok(stock) = shop.and_then(|shop| shop.open_map(&scene.region, "stock")) {
        for number in 0..20_u64 {
            let _ = put(&mut seat, stock, &(number << 50).to_le_bytes(), &[1; 40]);
        }
    }
    if let Ok(back) = common::objects::Folder::open(&scene.region, "shop/back") {
        let region = &scene.region;
        type Work<'w> = &'w dyn Fn(&mut Transaction<'_, '_>) -> std::result::Result<(), TxnError>;
        let mut tried = |work: Work<'_>| {
            let _ = seat.begin().and_then(|mut txn| work(&mut txn).and_then(|()| txn.commit()));
        };
        if let Ok(jobs) = back.open_queue(region, "jobs") {
            tried(&|txn| txn.queue(jobs)?.push_back(&[1; 40]).map(drop));
            tried(&|txn| txn.queue(jobs)?.pop_front().map(drop));
            tried(&|txn| txn.queue(jobs)?.take_back().map(drop));
        }
        if let Ok(text) = back.open_blob(region, "text") {
            tried(&|txn| txn.blob(text)?.write_at(100, &[1; 300]));
            tried(&|txn| txn.blob(text)?.set(&[1; 40]));
        }
        tried(&|txn| txn.rename(back, "jobs", back, "others"));
        tried(&|txn| txn.rename_folder("shop/back", "front"));
        tried(&|txn| txn.delete(back, "others").map(drop));
        let _ = seat.put_all_back(Duration::from_millis(1));
    }
    let _ = seat.free_deleted();
    let _ = seat.give_back_empty_slabs();
}
