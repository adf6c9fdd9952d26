//! What the tests play in: a region and a spool, and owners that die at any step of a message's life.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::Ordering::SeqCst;

use common::ids::{Generation, Minute, Owner, Pid, SlotIndex};
use common::journal::record::{Record, RecordId};
use common::journal::spool::{Spool, data_path};
use common::journal::writer::Writer;
use common::layout::{JournalState, Slot};
use common::objects::{Folder, Map};
use common::region::Region;
use common::slots::{Counter, State, owner};
use common::sys::file::write_whole_at;
use common::txn::{Seat, TxnError};
use common::undo::UndoLog;
use common::wire::control::{Checkpointed, Sync};

use crate::takeover::take_over;

pub const LENGTH: u64 = 1 << 20;

/// A region and a spool, taken over and ready to serve.
pub struct Scene {
    pub directory: tempfile::TempDir,
    pub file: File,
    pub region: Region,
    pub spool: Spool,
    _writers: File,
}

impl Scene {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open_or_create(directory.path()).unwrap();
        let writers = spool.take().unwrap();
        let file = tempfile::tempfile().unwrap();
        let region = Region::create(&file, LENGTH).unwrap();
        take_over(&region, &spool, &[]).unwrap();
        Self { directory, file, region, spool, _writers: writers }
    }

    pub fn journal(&self) -> &JournalState {
        &self.region.header().journal
    }

    pub fn slot(&self, index: u32) -> &Slot {
        self.region.slot(SlotIndex(index)).unwrap()
    }

    pub fn seat(&self, index: u32, generation: u32) -> Seat<'_> {
        self.slot(index).reserve(Generation(generation), 1);
        Seat::take(&self.region, owner(SlotIndex(index), Generation(generation))).unwrap()
    }

    /// What a supervisor does with a slot whose owner has left.
    pub fn free(&self, index: u32) {
        let slot = self.slot(index);
        assert!(slot.shift(slot.standing().0, State::Left, State::Free));
    }

    /// One of the maps in the folder that `with_objects` makes.
    pub fn map(&self, name: &str) -> Map {
        Folder::open(&self.region, "shop").unwrap().open_map(&self.region, name).unwrap()
    }

    pub fn writer(&self) -> Writer {
        Writer::new(Spool::open_or_create(self.directory.path()).unwrap(), Sync::Never)
    }

    /// A message as a worker records it.
    pub fn record(&self, seat: &mut Seat<'_>, user: &str, message: &str) {
        let account = common::tally::account(seat, user).unwrap();
        let mut writer = self.writer();
        let mut transaction = seat.begin().unwrap();
        transaction.count_message(account, user, message.len() as u64).unwrap();
        writer.append(&transaction, user, message).unwrap();
        transaction.commit().unwrap();
        writer.settle(&seat.slot().intent).unwrap();
    }

    /// Takes a checkpoint, as the owner of the slot `index`.
    pub fn checkpoint(&self, index: u32, generation: u32) -> Result<Checkpointed, String> {
        let seat = self.seat(index, generation);
        let taken = crate::checkpoint::take(&self.region, &self.spool, seat.owner());
        seat.leave();
        self.free(index);
        taken
    }

    /// A whole message by an owner that goes on living.
    pub fn message(&self, seat: &mut Seat<'_>) {
        let mut writer = self.writer();
        let mut transaction = seat.begin().unwrap();
        transaction.add(Counter::Messages, 1).unwrap();
        writer.append(&transaction, "user", "a message that was recorded").unwrap();
        transaction.commit().unwrap();
        writer.settle(&seat.slot().intent).unwrap();
    }

    /// The whole records in the spool. Everything else in its files must be blank or NUL.
    pub fn records(&self) -> usize {
        let mut ids = BTreeSet::new();
        for file in self.spool.minutes().unwrap() {
            let bytes = std::fs::read(data_path(self.directory.path(), file.minute)).unwrap_or_default();
            for line in bytes.split(|byte| *byte == b'\n') {
                let blank = |byte: &u8| *byte == b' ' || *byte == 0;
                let line: Vec<u8> = line.iter().copied().skip_while(blank).collect();
                if !line.is_empty() {
                    let value: serde_json::Value = serde_json::from_slice(&line).expect("a whole record");
                    assert!(ids.insert(value["id"].to_string()), "twice: {value}");
                }
            }
        }
        ids.len()
    }

    pub fn messages(&self) -> u64 {
        self.region.totals().messages
    }

    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub fn snapshot(&self) -> Vec<u8> {
        let mut image = vec![0; LENGTH as usize];
        self.file.read_exact_at(&mut image, 0).unwrap();
        image
    }

    pub fn restore(&self, image: &[u8]) {
        self.file.write_all_at(image, 0).unwrap();
    }
}

/// The steps of an owner's life, in order; it may die after each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Reserved,
    Live,
    Changed,
    Numbered,
    Announced,
    Claimed,
    Placed,
    ByteWritten,
    HalfWritten,
    NewlineMissing,
    Written,
    Committed,
    Published,
    Settled,
    Left,
}

pub const STEPS: [Step; 15] = [
    Step::Reserved,
    Step::Live,
    Step::Changed,
    Step::Numbered,
    Step::Announced,
    Step::Claimed,
    Step::Placed,
    Step::ByteWritten,
    Step::HalfWritten,
    Step::NewlineMissing,
    Step::Written,
    Step::Committed,
    Step::Published,
    Step::Settled,
    Step::Left,
];

/// Lives up to and including `last` in slot `index`, and dies there.
pub fn die_after(scene: &Scene, index: u32, generation: u32, last: Step) -> Owner {
    let owner = owner(SlotIndex(index), Generation(generation));
    let slot = scene.slot(index);
    slot.reserve(owner.generation, 1);
    let mut seat = None;
    let (mut line, mut off) = (Vec::new(), 0);
    for step in STEPS.into_iter().filter(|step| *step > Step::Reserved && *step <= last) {
        let write = |length: usize| {
            let file = scene.spool.open_minute(scene.journal().open_minute().minute).unwrap();
            write_whole_at(&file, &line[..length], off).unwrap();
        };
        match step {
            Step::Reserved => {}
            Step::Live => {
                slot.set_doing(b"serving somebody");
                seat = Seat::take(&scene.region, owner);
            }
            Step::Changed => {
                let mut transaction = seat.as_mut().unwrap().begin().unwrap();
                transaction.add(Counter::Messages, 1).unwrap();
                transaction.add(Counter::Bytes, 100).unwrap();
                std::mem::forget(transaction);
            }
            Step::Numbered => {
                let id = RecordId { epoch: scene.region.epoch(), owner, seq: slot.intent.next_seq() };
                Record { id, time_ns: 1, pid: Pid(77), user: "user", message: "the last one" }
                    .encode(&mut line);
            }
            Step::Announced => slot.intent.announce(scene.journal().open_minute().minute, line.len() as u64),
            Step::Claimed => {
                let minute = scene.journal().open_minute().minute;
                off = scene.journal().claimed(minute).expect("a minute is open");
                scene.journal().entry(minute).tail.fetch_add(line.len() as u64, SeqCst);
            }
            Step::Placed => slot.intent.place(off),
            Step::ByteWritten => write(1),
            Step::HalfWritten => write(line.len() / 2),
            Step::NewlineMissing => write(line.len() - 1),
            Step::Written => write(line.len()),
            Step::Committed => UndoLog::of(&scene.region, owner.slot).unwrap().commit(),
            Step::Published => {
                slot.publish();
                common::gate::leave(&slot.open);
            }
            Step::Settled => slot.intent.clear(),
            Step::Left => seat.take().unwrap().leave(),
        }
    }
    owner
}

/// Whether the message of an owner that died after `last` counts.
pub fn counts(last: Step) -> bool {
    last >= Step::Written
}

/// Gives the journal an open minute with a record in it; the owner lives in the last slot.
pub fn with_open_minute(scene: &Scene) -> Minute {
    let mut seat = scene.seat(31, 1);
    scene.message(&mut seat);
    seat.leave();
    scene.journal().open_minute().minute
}

/// A folder with a map that has two levels of pages, a map with large values, an empty one and a counter; made by an
/// owner that has left.
pub fn with_objects(scene: &Scene) {
    let mut seat = scene.seat(30, 1);
    let mut txn = seat.begin().unwrap();
    let folder = txn.create_folder("shop").unwrap();
    let stock = txn.create_map(folder, "stock").unwrap();
    let large = txn.create_map(folder, "large").unwrap();
    txn.create_map(folder, "empty").unwrap();
    let sold = txn.create_counter(folder, "sold").unwrap();
    txn.counter(sold).unwrap().add(7).unwrap();
    txn.commit().unwrap();
    for number in 0..600_u64 {
        put(&mut seat, stock, &number.to_le_bytes(), b"some").unwrap();
    }
    for number in 0..4_u8 {
        put(&mut seat, large, &[number; 20], &vec![number; 5000]).unwrap();
    }
    seat.leave();
    scene.free(30);
}

/// In the folder that `with_objects` makes another one, with a queue of ten items and a blob; made by the same owner.
pub fn with_queue_and_blob(scene: &Scene) {
    let mut seat = scene.seat(30, 2);
    let mut txn = seat.begin().unwrap();
    let back = txn.create_folder("shop/back").unwrap();
    let jobs = txn.create_queue(back, "jobs", 12).unwrap();
    let text = txn.create_blob(back, "text").unwrap();
    txn.blob(text).unwrap().set(&[0xb; 1000]).unwrap();
    for number in 0..10 {
        assert!(txn.queue(jobs).unwrap().push_back(&[number; 40]).unwrap());
    }
    txn.commit().unwrap();
    seat.leave();
    scene.free(30);
}

/// One put in a transaction of its own.
pub fn put(seat: &mut Seat<'_>, map: Map, key: &[u8], value: &[u8]) -> Result<(), TxnError> {
    let mut txn = seat.begin()?;
    txn.map(map)?.put(key, value)?;
    txn.commit()
}
