//! Random words all over the region: no tool falls over or goes on for ever, and what is refused stays as it was.

use std::sync::atomic::AtomicU64;
use std::time::Instant;

use common::tally;

use super::*;
use crate::dump::Dump;
use crate::repair::{Setback, needs_repair};
use crate::scene::{put, with_objects};

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
    let mut seat = scene.seat(3, 9);
    let mut txn = seat.begin().unwrap();
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
        if let Err(Setback::Damage(_)) = Repairer::new(region, &scene.spool).repair(owner, true) {
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
    let mut seat = scene.seat(4, 2);
    let shop = common::objects::Folder::open(&scene.region, "shop");
    if let Ok(stock) = shop.and_then(|shop| shop.open_map(&scene.region, "stock")) {
        for number in 0..20_u64 {
            let _ = put(&mut seat, stock, &(number << 50).to_le_bytes(), &[1; 40]);
        }
    }
    let _ = seat.free_deleted();
    let _ = seat.give_back_empty_slabs();
}
