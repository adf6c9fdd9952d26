//! Writers that are killed at any moment, and recovery too: what counts is what is recorded, always.

mod support;

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use common::ids::{Generation, Owner, Pid, SlotIndex};
use common::journal::spool::Spool;
use common::journal::writer::Writer;
use common::layout::NO_OFFSET;
use common::region::Region;
use common::slots::Counter;
use common::sys::process;
use common::txn::Seat;
use common::wire::control::{Order, Report, Sync};
use nix::sys::signal::Signal;
use support::{Instance, until};

const WRITERS: u32 = 3;
const ROUNDS: u32 = 100;

/// A small generator, so that a seed is a run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

const DIRECTORY: &str = "HOLDFAST_TEST_DIRECTORY";
const OWNER: &str = "HOLDFAST_TEST_OWNER";

/// Not a test of its own: the process that the test below starts and kills.
#[test]
#[ignore = "a process that another test starts"]
fn writer_process() {
    let (Ok(directory), Ok(owner)) = (std::env::var(DIRECTORY), std::env::var(OWNER)) else { return };
    let mut numbers = owner.split(' ').map(|number| number.parse::<u32>().unwrap());
    let mut number = || numbers.next().unwrap();
    let owner = common::slots::owner(SlotIndex(number()), Generation(number()));
    if !process::die_with_parent(Pid(number() as i32)).unwrap() {
        return;
    }
    let region = std::path::Path::new(&directory).join("region");
    let file = std::fs::File::options().read(true).write(true).open(region).unwrap();
    let region = Region::attach(&file).unwrap();
    write_for_ever(&region, owner, &std::path::Path::new(&directory).join("spool"));
}

fn write_for_ever(region: &Region, owner: Owner, spool: &std::path::Path) {
    let mut seat = Seat::take(region, owner).unwrap();
    let mut writer = Writer::new(Spool::open_or_create(spool).unwrap(), Sync::Never);
    let mut dice = Dice((u64::from(owner.generation.0) << 32) | (u64::from(owner.slot.0) + 1));
    let text = "x".repeat(20_000);
    for count in 0_u64.. {
        // So that those who wait to be killed neither fill the disk nor take the processor from the others.
        if count > 40 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let longest = if dice.below(8) == 0 { 20_000 } else { 200 };
        let length = dice.below(longest);
        let mut transaction = seat.begin().unwrap();
        transaction.add(Counter::Messages, 1).unwrap();
        transaction.add(Counter::Bytes, length).unwrap();
        writer.append(&transaction, "user", &text[..length as usize]).unwrap();
        transaction.commit().unwrap();
        writer.settle(&seat.slot().intent).unwrap();
    }
}

fn start_writer(instance: &Instance, owner: Owner) -> Child {
    let Owner { slot, generation } = owner;
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer_process", "--ignored", "--nocapture"])
        .env(DIRECTORY, instance.directory.path())
        .env(OWNER, format!("{slot} {generation} {}", std::process::id()))
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Kills a writer once it has written a few messages and is, mostly, at a chosen place.
fn kill_somewhere(instance: &Instance, owner: Owner, dice: &mut Dice, writer: &mut Child) {
    let slot = instance.slot(owner);
    let counted = || slot.counters.word(Counter::Messages).load(SeqCst);
    let goal = slot.base.word(Counter::Messages).load(SeqCst).max(counted()) + dice.below(20);
    until("the writer has written", || {
        assert_eq!(writer.try_wait().unwrap(), None, "the writer ended by itself");
        counted() >= goal
    });
    let intent = &slot.intent;
    match dice.below(4) {
        0 => until("the log is active", || slot.undo.load(SeqCst) != 0),
        1 => until("a record is announced", || intent.minute.load(SeqCst) != 0),
        2 => until("a record is placed", || {
            intent.minute.load(SeqCst) != 0 && intent.off.load(SeqCst) != NO_OFFSET
        }),
        _ => spin(dice.below(100_000)),
    }
    writer.kill().unwrap();
    writer.wait().unwrap();
    instance.declare_dead(owner);
}

fn spin(nanoseconds: u64) {
    let moment = Instant::now() + Duration::from_nanos(nanoseconds);
    while Instant::now() < moment {
        std::hint::spin_loop();
    }
}

/// Where an owner died, for the test's output: it says how much of a message's life the run has seen.
fn station(instance: &Instance, owner: Owner) -> &'static str {
    let slot = instance.slot(owner);
    let announced = slot.intent.minute.load(SeqCst) != 0;
    let placed = announced && slot.intent.off.load(SeqCst) != NO_OFFSET;
    match (slot.undo.load(SeqCst) != 0, announced, placed) {
        (false, false, _) => "idle",
        (true, false, _) => "changed",
        (true, true, false) => "announced",
        (true, true, true) => "placed",
        (false, true, _) => "committed",
    }
}

#[test]
fn whatever_is_killed_the_count_is_the_number_of_records() {
    let seed = process::random_word().unwrap() | 1;
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let instance = Instance::new();
    let keeper = instance.start("journal");
    let mut standby = instance.start("standby");
    instance.take_over(&standby);
    let mut stations = BTreeMap::new();
    for round in 1..=ROUNDS {
        let owners: Vec<Owner> = (0..WRITERS).map(|slot| instance.reserve(slot, round)).collect();
        let mut writers: Vec<_> = owners.iter().map(|owner| start_writer(&instance, *owner)).collect();
        for (owner, writer) in owners.iter().zip(&mut writers) {
            kill_somewhere(&instance, *owner, &mut dice, writer);
            *stations.entry(station(&instance, *owner)).or_insert(0) += 1;
        }
        let order = Order::Repair(owners.iter().map(|owner| (*owner, true)).collect());
        standby.order(&order);
        if round % 5 == 0 {
            spin(dice.below(200_000));
            standby.signal(Signal::SIGKILL);
            assert_eq!(standby.wait(), None);
            standby = instance.start("standby");
            standby.order(&order);
        }
        for owner in &owners {
            assert_eq!(standby.report(), Report::Repaired(*owner), "round {round}");
        }
        if round % 10 == 0 {
            assert_eq!(instance.region.totals().messages, instance.records(), "round {round}");
        }
    }
    println!("died at {stations:?}");
    let totals = instance.region.totals();
    let deaths = u64::from(WRITERS * ROUNDS);
    assert_eq!((totals.crashes, totals.recoveries), (deaths, deaths));
    assert_eq!(recovery::verify::check(&instance.region), []);
    keeper.order(&Order::SealAll);
    assert_eq!(keeper.report(), Report::Sealed);
    assert_eq!(totals.messages, instance.records());
    let journal = &instance.region.header().journal;
    let sizes: u64 = instance.spool.minutes().unwrap().iter().map(|file| file.size).sum();
    assert_eq!(journal.spool_bytes(), sizes);
}
