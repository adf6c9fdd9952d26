//! The real program takes checkpoints, and dies at every one of its system calls: alone, or with the machine, which forgets any
//! part of what was not synced. What is found then is gone back to: the last checkpoint that was said to be taken, or one that
//! is newer, and every message that the journal still has is counted.
//!
//! And the proof of the proof: were any one of the syncs left out, a machine's death would be found that loses something.

#![cfg(target_arch = "x86_64")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;

use common::ids::{Minute, Owner, SlotIndex};
use common::journal::spool::{Spool, data_path, shipped_name};
use common::journal::writer::Writer;
use common::objects::Folder;
use common::region::UnverifiedRegion;
use common::slots::State;
use common::tally;
use common::txn::Seat;
use common::wire::control::{Order, Report, Sync};
use recovery::checkpoint::format;
use recovery::checkpoint::store::{DIRECTORY, name_of};
use recovery::keeper::Keeper;
use recovery::repair::Repairer;
use recovery::restore::rebuild;
use support::Instance;
use support::disk::{Dice, Disk, Synced, Tree, Watcher};
use support::tracer::{Done, Tracer};

/// Deaths of the machine that are tried after each system call, besides those that forget all or nothing.
fn samples() -> u64 {
    std::env::var("HOLDFAST_MACHINE_DEATHS").ok().and_then(|text| text.parse().ok()).unwrap_or(4)
}

/// An instance whose one worker sends messages, each with a change of a map.
struct Shop {
    instance: Instance,
    sent: u64,
}

impl Shop {
    fn new() -> Self {
        let instance = Instance::new();
        let standby = instance.start("standby");
        instance.take_over(&standby);
        standby.dismiss();
        Self { instance, sent: 0 }
    }

    fn worker(&self) -> (Seat<'_>, Writer) {
        let slot = self.instance.region.slot(SlotIndex(3)).unwrap();
        let owner = self.instance.reserve(3, slot.standing().0.0 + 1);
        let spool = Spool::open_or_create(&self.instance.spool_path()).unwrap();
        (Seat::take(&self.instance.region, owner).unwrap(), Writer::new(spool, Sync::Never))
    }

    fn send(&mut self, count: u64) {
        let sent = self.sent;
        let (mut seat, mut writer) = self.worker();
        for number in sent + 1..=sent + count {
            let account = tally::account(&mut seat, "anna").unwrap();
            let mut txn = seat.begin().unwrap();
            let shop = txn.open_or_create_folder("shop").unwrap();
            let stock = txn.open_or_create_map(shop, "stock").unwrap();
            txn.map(stock).unwrap().put(b"n", &number.to_le_bytes()).unwrap();
            txn.count_message(account, "anna", 4).unwrap();
            writer.append(&txn, "anna", "text").unwrap();
            txn.commit().unwrap();
            writer.settle(&seat.slot().intent).unwrap();
        }
        seat.leave();
        self.free(3);
        self.sent += count;
    }

    /// Everything is sealed, and the last minute delivered, as the keeper and the collector do it.
    fn ship(&self) -> Minute {
        let minute = self.instance.region.header().journal.open_minute().minute;
        let mut keeper = Keeper::new(&self.instance.region, &self.instance.spool, Sync::Never).unwrap();
        assert!(keeper.seal_everything(std::time::Instant::now()), "{:?}", keeper.obstacle());
        let spool = self.instance.spool_path();
        std::fs::rename(data_path(&spool, minute), spool.join(shipped_name(minute))).unwrap();
        minute
    }

    fn free(&self, slot: u32) {
        let slot = self.instance.region.slot(SlotIndex(slot)).unwrap();
        slot.shift(slot.standing().0, State::Left, State::Free);
    }

    /// Takes a checkpoint with the real program, stopped at each system call. `at_call` may kill it before one.
    fn checkpoint(&self, mut after_call: impl FnMut(Done), kill_before: Option<u64>) -> Option<u64> {
        let generation = self.instance.region.slot(SlotIndex(5)).unwrap().standing().0.0 + 1;
        let owner = self.instance.reserve(5, generation);
        let child = self.instance.start("checkpoint");
        let tracer = Tracer::stop(child.pid.raw(), &self.instance.spool_path());
        child.order(&Order::Checkpoint(owner));
        let mut calls = 0;
        while tracer.to_next_call() {
            if kill_before == Some(calls) {
                tracer.kill();
                std::mem::forget(child);
                self.repair(owner);
                return None;
            }
            calls += 1;
            after_call(tracer.make_call());
        }
        let number = match child.report() {
            Report::Checkpointed(taken) => taken.number,
            other => panic!("{other:?}"),
        };
        std::mem::forget(child);
        self.free(5);
        Some(number)
    }

    fn repair(&self, owner: Owner) {
        self.instance.declare_dead(owner);
        let (region, spool) = (&self.instance.region, &self.instance.spool);
        Repairer::new(region, spool).repair(owner, false).unwrap();
        assert_eq!(region.header().gate.word.load(SeqCst), 0, "the gate is open");
        assert_eq!(region.slot(owner.slot).unwrap().standing().1, Some(State::Free));
        assert_eq!(recovery::verify::check(region), []);
    }
}

/// What must be found in a spool: `least` is the number of the last checkpoint that was said to be taken, `held` what the map
/// held at each.
fn judge(spool_dir: &Path, least: u64, held: &BTreeMap<u64, u64>, shipped: &Shipped) -> Result<(), String> {
    let spool = Spool::open_or_create(spool_dir).map_err(|error| error.to_string())?;
    check_covered(spool_dir)?;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("region");
    let restored = match rebuild(&path, &spool, spool_dir) {
        Err(error) if least == 0 && error.to_string().contains("there is no checkpoint") => return Ok(()),
        restored => restored.map_err(|error| error.to_string())?,
    };
    if restored.number < least {
        return Err(format!("checkpoint {} was gone back to, and {least} had been taken", restored.number));
    }
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let region = UnverifiedRegion::open(&file).map_err(|error| error.to_string())?;
    let region = region.contents();
    let (records, counted) = (records(spool_dir) + shipped.gone_from(spool_dir), region.totals().messages);
    let of_anna = tally::totals(region).map_err(|error| error.to_string())?.users;
    let of_anna = of_anna.get("anna").map_or(0, |sent| sent.messages);
    if (counted, of_anna) != (records, records) {
        return Err(format!(
            "{counted} messages are counted, {of_anna} of anna, and {records} are in the journal"
        ));
    }
    let stock = Folder::open(region, "shop").and_then(|shop| shop.open_map(region, "stock"));
    let value = stock.and_then(|stock| stock.get(region, b"n")).ok().flatten();
    let value = value.map_or(0, |value| u64::from_le_bytes(value.try_into().unwrap()));
    match held.get(&restored.number) {
        Some(held) if *held == value => Ok(()),
        held => Err(format!("the map holds {value}, and held {held:?} at checkpoint {}", restored.number)),
    }
}

/// The minute that was delivered, and how many records it had. It may go once it is not needed.
#[derive(Clone, Copy, Debug, Default)]
struct Shipped(Option<(Minute, u64)>);

impl Shipped {
    fn gone_from(&self, spool_dir: &Path) -> u64 {
        let gone = |minute: &Minute| {
            !spool_dir.join(shipped_name(*minute)).exists() && !data_path(spool_dir, *minute).exists()
        };
        self.0.filter(|(minute, _)| gone(minute)).map_or(0, |(_, records)| records)
    }
}

/// Every minute before the one in `covered` must be in both checkpoints, since it may be removed.
fn check_covered(spool_dir: &Path) -> Result<(), String> {
    let directory = spool_dir.join(DIRECTORY);
    let Ok(text) = std::fs::read_to_string(directory.join("covered")) else { return Ok(()) };
    let covered: u64 = text.trim().parse().map_err(|_| format!("covered holds {text:?}"))?;
    let moment = |number| {
        let file = std::fs::File::open(directory.join(name_of(number))).ok()?;
        format::read_moment(&file).ok().map(|moment| moment.open.minute.0)
    };
    let mut moments: Vec<u64> = (0..100).filter_map(moment).collect();
    let last_two = moments.split_off(moments.len().saturating_sub(2));
    match last_two.iter().find(|minute| **minute < covered) {
        Some(minute) => {
            Err(format!("minutes before {covered} may go, and a checkpoint knows them up to {minute}"))
        }
        None => Ok(()),
    }
}

/// The whole records in a spool, each once.
fn records(spool_dir: &Path) -> u64 {
    let mut ids = BTreeSet::new();
    for entry in std::fs::read_dir(spool_dir).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if !name.ends_with(".dat") && !name.ends_with(".sent") {
            continue;
        }
        // Without its newline a record is torn.
        let content = std::fs::read(entry.path()).unwrap();
        for line in content.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            let line = line.rsplit(|byte| *byte == 0).next().unwrap_or_default().trim_ascii();
            if let Ok(value) = serde_json::from_slice::<serde_json::Value>(line) {
                ids.insert(value["id"].to_string());
            }
        }
    }
    ids.len() as u64
}

/// What was there after each system call that did something to the spool.
struct Film {
    /// What was certain when the checkpoint began.
    begun: Disk,
    frames: Vec<(Tree, Option<Synced>)>,
    /// The last checkpoint before this one, and what the map held at each.
    before: u64,
    held: BTreeMap<u64, u64>,
    shipped: Shipped,
}

impl Film {
    /// Tries deaths of the machine after each call; `without`: the sync of this number is not made. Gives the first loss.
    fn loss(&self, without: Option<usize>, seed: u64) -> Option<String> {
        let mut disk = self.begun.clone();
        let (mut dice, mut syncs) = (Dice(seed), 0);
        let mut tried: Vec<Tree> = Vec::new();
        for (number, (now, synced)) in self.frames.iter().enumerate() {
            if let Some(synced) = synced {
                if without != Some(syncs) {
                    disk.sync(synced, now);
                }
                syncs += 1;
            }
            // Once it has said so the new one counts.
            let last = number + 1 == self.frames.len();
            let least = self.before + u64::from(last);
            let modes = [Some(false), Some(true)].into_iter().chain((0..samples()).map(|_| None));
            for mode in modes {
                let found = disk.found(now, mode, &mut dice);
                if !last && tried.contains(&found) {
                    continue;
                }
                let directory = tempfile::tempdir().unwrap();
                found.make(directory.path());
                if let Err(error) = judge(directory.path(), least, &self.held, &self.shipped) {
                    return Some(format!("after call {number} of {}: {error}", self.frames.len()));
                }
                tried.push(found);
            }
        }
        None
    }
}

/// Three checkpoints: the first; one with a shipped minute before it; one by which that is covered.
fn films() -> Vec<Film> {
    let mut shop = Shop::new();
    let mut watcher = Watcher::new(&shop.instance.spool_path());
    let (mut held, mut films, mut shipped) = (BTreeMap::new(), Vec::new(), Shipped::default());
    let mut disk = Disk::all_of(&watcher.look());
    for before in 0..4 {
        shop.send(3);
        if before == 1 {
            shipped = Shipped(Some((shop.ship(), shop.sent)));
            // Sealing syncs the file, and then the directory.
            disk = Disk::all_of(&watcher.look());
            shop.send(2);
        }
        held.insert(before + 1, shop.sent);
        let begun = disk.clone();
        let mut frames = vec![(watcher.look(), None)];
        let number = shop.checkpoint(
            |done| match done {
                Done::Nothing => {}
                Done::Changed => frames.push((watcher.look(), None)),
                Done::Synced(synced) => {
                    let now = watcher.look();
                    disk.sync(&synced, &now);
                    frames.push((now, Some(synced)));
                }
            },
            None,
        );
        assert_eq!(number, Some(before + 1));
        frames.push((watcher.look(), None));
        films.push(Film { begun, frames, before, held: held.clone(), shipped });
    }
    assert_eq!(shop.instance.spool.shipped().unwrap(), [], "the shipped minute is covered in the end");
    films
}

#[test]
fn whatever_the_machine_forgets_nothing_is_lost_that_was_on_the_disk() {
    let films = films();
    for (number, film) in films.iter().enumerate() {
        assert_eq!(film.loss(None, 7 + number as u64), None, "checkpoint {}", film.before + 1);
    }
}

/// The proof of the proof. In the first two checkpoints each sync has something to do.
#[test]
fn without_any_one_of_the_syncs_something_would_be_lost() {
    for film in &films()[..2] {
        let synced = film.frames.iter().filter_map(|(_, synced)| synced.as_ref());
        for (sync, what) in synced.enumerate() {
            let loss = (1..=20).find_map(|seed| film.loss(Some(sync), seed));
            let loss = loss.unwrap_or_else(|| panic!("sync {sync} of {what:?} is not missed"));
            println!("checkpoint {} without sync {sync} of {what:?}: {loss}", film.before + 1);
        }
    }
}

#[test]
fn killed_before_any_of_its_system_calls_it_leaves_what_there_was_or_one_more() {
    let mut shop = Shop::new();
    let mut held = BTreeMap::new();
    for number in 1..=2 {
        shop.send(3);
        held.insert(number, shop.sent);
        assert_eq!(shop.checkpoint(|_| {}, None), Some(number));
    }
    let (mut last, mut calls) = (2, 0);
    loop {
        shop.send(1);
        // Killed ones may have been complete already.
        held.insert(last + 1, shop.sent);
        let taken = shop.checkpoint(|_| {}, Some(calls));
        let directory = tempfile::tempdir().unwrap();
        Watcher::new(&shop.instance.spool_path()).look().make(directory.path());
        judge(directory.path(), taken.unwrap_or(last), &held, &Shipped::default())
            .unwrap_or_else(|error| panic!("call {calls}: {error}"));
        let newest = shop.instance.spool_path().join(DIRECTORY).join(name_of(last + 1));
        if newest.exists() {
            last += 1;
        }
        if taken.is_some() {
            break;
        }
        calls += 1;
    }
    println!("killed before each of {calls} system calls");
    assert!(calls > 30, "{calls}");
}
