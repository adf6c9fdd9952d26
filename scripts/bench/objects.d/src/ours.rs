//! The region's side.

use std::cell::Cell;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use common::ids::{Generation, SlotIndex};
use common::objects::queue::End;
use common::objects::{Blob, Folder, Queue};
use common::region::Region;
use common::slots;
use common::txn::{Seat, TxnError};

use crate::processes::is_told;

/// A region in memory, and who has had its slots.
pub struct Ours {
    pub region: Region,
    generation: Cell<u32>,
}

impl Ours {
    pub fn new(length: u64) -> Self {
        let file = tempfile::tempfile_in("/dev/shm").expect("a file in /dev/shm");
        let region = Region::create(&file, length).expect("a region");
        Self { region, generation: Cell::new(0) }
    }

    pub fn seat(&self, index: u32) -> Seat<'_> {
        self.generation.set(self.generation.get() + 1);
        self.seat_of(index, self.generation.get())
    }

    /// For another process: it does not see what generations there were since it was forked.
    pub fn seat_of(&self, index: u32, generation: u32) -> Seat<'_> {
        let owner = slots::owner(SlotIndex(index), Generation(generation));
        self.region.slot(owner.slot).expect("a slot").reserve(owner.generation, 1);
        Seat::take(&self.region, owner).expect("a seat")
    }

    pub fn queue(&self, name: &str, capacity: u64) -> Queue {
        let mut seat = self.seat(0);
        let mut txn = seat.begin().expect("begin");
        let folder = txn.open_or_create_folder("bench").expect("folder");
        let queue = txn.create_queue(folder, name, capacity).expect("queue");
        txn.commit().expect("commit");
        seat.leave();
        queue
    }

    pub fn blob(&self, name: &str, bytes: &[u8]) -> Blob {
        let mut seat = self.seat(0);
        let mut txn = seat.begin().expect("begin");
        let folder = txn.open_or_create_folder("bench").expect("folder");
        let blob = txn.create_blob(folder, name).expect("blob");
        txn.blob(blob).expect("blob").set(bytes).expect("set");
        txn.commit().expect("commit");
        seat.leave();
        assert!(Folder::open(&self.region, "bench").is_ok());
        blob
    }
}

/// A deadline for who only wants to wait.
pub fn some_day() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// Pushes one item in a transaction of its own, and waits for room where there is none.
#[inline]
pub fn push(seat: &mut Seat<'_>, queue: Queue, deadline: Instant, item: &[u8]) -> Result<(), TxnError> {
    let mut txn = seat.begin_with_room(queue, deadline)?;
    txn.queue(queue)?.push_back(item)?;
    txn.commit()
}

/// Pops one likewise.
#[inline]
pub fn pop(seat: &mut Seat<'_>, queue: Queue, deadline: Instant, item: &mut Vec<u8>) -> Result<(), TxnError> {
    let mut txn = seat.begin_with_item(queue, deadline)?;
    txn.queue(queue)?.pop_into(End::Front, item)?;
    txn.commit()
}

/// Pushes until told to stop. Whoever consumes pops more than one item afterwards, so nobody waits for ever.
pub fn produce(ours: &Ours, queue: Queue, index: u32, generation: u32, item: &[u8], stop: &AtomicU32) {
    let mut seat = ours.seat_of(index, generation);
    let mut deadline = Instant::now();
    while !is_told(stop) {
        match push(&mut seat, queue, deadline, item) {
            Ok(()) => {}
            Err(TxnError::TimedOut) => deadline = Instant::now() + Duration::from_millis(200),
            Err(error) => panic!("{error}"),
        }
    }
    seat.leave();
}
