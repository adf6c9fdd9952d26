//! A sound region with a little of everything in it, to be scribbled over.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::Ordering::SeqCst;

use common::ids::{Generation, Offset, Owner, SlotIndex};
use common::journal::spool::Spool;
use common::journal::writer::Writer;
use common::objects::queue::End;
use common::objects::{self, Folder};
use common::region::Region;
use common::slots::{Counter, owner};
use common::txn::{Seat, TxnError};
use common::wire::control::Sync;
use recovery::takeover::take_over;

/// The least that there is.
const LENGTH: u64 = 1 << 20;

/// Bytes of the input for each word that is scribbled.
const SCRIBBLE: usize = 12;

/// Most words that are scribbled.
const MOST: usize = 64;

/// The owner that dies inside a transaction.
const VICTIM: Owner = owner(SlotIndex(3), Generation(9));

/// A region, a spool, and the region's bytes when it was sound.
pub struct Scene {
    /// The region.
    pub region: Region,
    /// The spool.
    pub spool: Spool,
    file: File,
    sound: Vec<u8>,
    _writers: File,
}

impl Scene {
    /// Makes it.
    pub fn new() -> Self {
        let directory = crate::file("spool");
        let spool = Spool::open_or_create(&directory).expect("a spool");
        let writers = spool.take().expect("nobody else's");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(crate::file("region"))
            .expect("a file");
        let region = Region::create(&file, LENGTH).expect("a region");
        take_over(&region, &spool, &[]).unwrap_or_else(|_| panic!("a new region can be taken over"));
        furnish(&region, &directory).expect("objects");
        let mut sound = vec![0; LENGTH as usize];
        file.read_exact_at(&mut sound, 0).expect("its bytes");
        Self { region, spool, file, sound, _writers: writers }
    }

    /// As it was when it was sound, but for the words that the input names.
    pub fn scribble(&self, input: &[u8]) {
        self.file.write_all_at(&self.sound, 0).expect("its bytes");
        for scribble in input.chunks_exact(SCRIBBLE).take(MOST) {
            let (at, what) = scribble.split_at(4);
            let at = u64::from(u32::from_le_bytes(at.try_into().expect("four")));
            let what = u64::from_le_bytes(what.try_into().expect("eight"));
            // The identity is covered by a checksum: a region with another one is not opened at all.
            let at = 128 + at % (LENGTH - 128) / 8 * 8;
            self.region.word(Offset(at)).expect("within the region").store(what, SeqCst);
        }
    }

    /// The region's bytes.
    pub fn image(&self) -> Vec<u8> {
        let mut image = vec![0; LENGTH as usize];
        self.file.read_exact_at(&mut image, 0).expect("its bytes");
        image
    }

    /// A seat in a slot that is made free whatever is in it.
    pub fn seat(&self, index: u32) -> Option<Seat<'_>> {
        let slot = self.region.slot(SlotIndex(index))?;
        [&slot.undo, &slot.mini, &slot.intent.minute].iter().for_each(|word| word.store(0, SeqCst));
        slot.held_count.store(0, SeqCst);
        slot.reserve(Generation(2), 1);
        Seat::take(&self.region, owner(SlotIndex(index), Generation(2)))
    }
}

impl Default for Scene {
    fn default() -> Self {
        Self::new()
    }
}

/// Objects of every kind, a record, and somebody who died in the middle of changing them.
fn furnish(region: &Region, spool: &std::path::Path) -> Result<(), TxnError> {
    let seat_in = |owner: Owner| {
        region.slot(owner.slot).expect("a slot").reserve(owner.generation, 1);
        Seat::take(region, owner).expect("a free slot")
    };
    let mut seat = seat_in(owner(SlotIndex(30), Generation(1)));
    let mut txn = seat.begin()?;
    let folder = txn.create_folder("shop")?;
    let stock = txn.create_map(folder, "stock")?;
    let large = txn.create_map(folder, "large")?;
    let sold = txn.create_counter(folder, "sold")?;
    let back = txn.create_folder("shop/back")?;
    let jobs = txn.create_queue(back, "jobs", 40)?;
    let sign = txn.create_blob(back, "sign")?;
    let photo = txn.create_blob(folder, "photo")?;
    txn.counter(sold)?.add(7)?;
    for number in 0..30_u8 {
        txn.queue(jobs)?.push_back(&[number; 20])?;
    }
    txn.blob(sign)?.set(b"open from nine to five")?;
    txn.blob(photo)?.set(&[3; 9000])?;
    txn.commit()?;
    for number in 0..200_u64 {
        let mut txn = seat.begin()?;
        txn.map(stock)?.put(&number.to_le_bytes(), b"some")?;
        txn.commit()?;
    }
    let mut txn = seat.begin()?;
    txn.map(large)?.put(b"large", &[7; 5000])?;
    txn.add(Counter::Messages, 1)?;
    let mut writer = Writer::new(Spool::open_or_create(spool).expect("a spool"), Sync::Never);
    writer.append(&txn, "user", "a message").expect("a record");
    txn.commit()?;
    writer.settle(&seat.slot().intent).expect("settled");
    seat.leave();

    let mut victim = seat_in(VICTIM);
    let mut txn = victim.begin()?;
    txn.queue(jobs)?.take_front()?;
    txn.queue(jobs)?.take_back()?;
    txn.commit()?;
    let mut txn = victim.begin()?;
    txn.queue(jobs)?.pop_front()?;
    txn.queue(jobs)?.push_back(b"half done")?;
    txn.blob(sign)?.write_at(5, b"at")?;
    txn.map(stock)?.put(b"half", b"done")?;
    txn.map(stock)?.remove(&7_u64.to_le_bytes())?;
    txn.map(large)?.put(b"large", &[8; 6000])?;
    std::mem::forget(txn);
    std::mem::forget(victim);
    Ok(())
}

/// Reads whatever can be found.
pub fn read_everything(region: &Region) {
    for (_, folder) in Folder::all(region).into_iter().flatten() {
        for (name, _) in folder.list(region).into_iter().flatten() {
            if let Ok(map) = folder.open_map(region, &name) {
                let _ = map.entries(region);
                let _ = map.get(region, b"large");
            }
            let _ = folder.open_counter(region, &name).and_then(|counter| counter.get(region));
            if let Ok(queue) = folder.open_queue(region, &name) {
                let _ = (queue.len(region), queue.peek(region, End::Back), queue.items(region));
            }
            if let Ok(blob) = folder.open_blob(region, &name) {
                let _ = (blob.get(region), blob.read_at(region, 4090, &mut [0; 64]));
            }
        }
    }
    let _ = common::tally::totals(region);
}

/// Has no reader wait: locks and sequence words say that nobody changes anything.
pub fn calm(region: &Region) {
    (0..region.geometry().object_count).filter_map(|index| region.object(index)).for_each(|object| {
        object.seq.fetch_and(!1, SeqCst);
        object.lock.store(0, SeqCst);
    });
}

/// Changes what can be found.
pub fn write_something(scene: &Scene) {
    let Some(mut seat) = scene.seat(4) else { return };
    let found = Folder::open(&scene.region, "shop").and_then(|shop| shop.open_map(&scene.region, "stock"));
    if let Ok(stock) = found {
        for number in 0..20_u64 {
            let Ok(mut txn) = seat.begin() else { return };
            let put = txn.map(stock).and_then(|mut map| map.put(&(number << 50).to_le_bytes(), &[1; 40]));
            let _ = put.and_then(|_| txn.commit());
        }
    }
    if let Ok(jobs) =
        Folder::open(&scene.region, "shop/back").and_then(|back| back.open_queue(&scene.region, "jobs"))
    {
        for end in [End::Front, End::Back] {
            let Ok(mut txn) = seat.begin() else { return };
            let moved = txn.queue(jobs).and_then(|mut queue| {
                let item = queue.pop(end)?.unwrap_or_default();
                queue.push(end, &item)
            });
            let _ = moved.and_then(|_| txn.commit());
        }
    }
    if let Ok(sign) =
        Folder::open(&scene.region, "shop/back").and_then(|back| back.open_blob(&scene.region, "sign"))
    {
        let Ok(mut txn) = seat.begin() else { return };
        let changed = txn.blob(sign).and_then(|mut blob| blob.set(&[1; 5000]));
        let _ = changed.and_then(|()| txn.commit());
    }
    let Ok(mut txn) = seat.begin() else { return };
    let renamed = txn.rename_folder("shop/back", "shop/front").and_then(|()| txn.delete_folder("shop/front"));
    let _ = renamed.and_then(|_| txn.commit());
    let _ = seat.free_deleted();
    let _ = seat.give_back_empty_slabs();
    let _ = objects::all(&scene.region).count();
}
