//! A region and its spool, for one operation to be proved in: its actor changes one, and what it may have left is put
//! into the other and repaired there.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

use common::ids::{Generation, Minute, Offset, Owner, SlotIndex};
use common::journal::spool::{Spool, data_path};
use common::journal::writer::Writer;
use common::region::{Region, UnverifiedRegion};
use common::slots;
use common::txn::Seat;
use common::wire::control::Sync;
use recovery::takeover::take_over;

use crate::images::Image;

/// Bytes of the regions: the smallest there is.
pub const LENGTH: u64 = 1 << 20;

/// The same in words.
pub const WORDS: usize = LENGTH as usize / size_of::<u64>();

/// The journal's minutes are ahead of the clock, so that none passes while an operation is stepped through.
const AHEAD: u64 = 600;

/// The owner who furnishes a region.
pub const FURNISHER: Owner = owner(1, 1);

/// The actor, who dies; before, and as whose successor.
pub const FORMER: Owner = owner(3, 1);
pub const ACTOR: Owner = owner(3, 2);
pub const SUCCESSOR: Owner = owner(3, 3);

/// Who goes on at other objects before the actor is repaired.
pub const SURVIVOR: Owner = owner(5, 1);
pub const SURVIVOR_AGAIN: Owner = owner(5, 2);

/// Who holds a lock that the actor wants, who waits for one that it holds, and who comes afterwards.
pub const HOLDER: Owner = owner(6, 1);
pub const WAITER: Owner = owner(8, 1);
pub const FOLLOWER: Owner = owner(7, 1);

const fn owner(slot: u32, generation: u32) -> Owner {
    slots::owner(SlotIndex(slot), Generation(generation))
}

/// A region in its file, and a spool.
pub struct Arena {
    pub region: Region,
    pub spool: Spool,
    path: PathBuf,
    _file: File,
    _writers: File,
}

impl Arena {
    /// An empty one, in a directory of this name below `place`.
    pub fn new(place: &Path, name: &str) -> Result<Self, String> {
        Self::seeded(&place.join(name), None)
    }

    /// The same, to become a copy of another: whoever has opened a region goes by the seed that it had then.
    pub fn for_copies_of(&self, place: &Path, name: &str) -> Result<Self, String> {
        Self::seeded(&place.join(name), Some(self.region.seed()))
    }

    fn seeded(path: &Path, seed: Option<u64>) -> Result<Self, String> {
        Self::try_new(path, seed).map_err(|error| format!("cannot make a region to play in: {error}"))
    }

    fn try_new(path: &Path, seed: Option<u64>) -> Result<Self, Box<dyn std::error::Error>> {
        let spool = Spool::open_or_create(path)?;
        let writers = spool.take()?;
        spool.write_sealed(Minute(Minute::now().0 + AHEAD))?;
        let file = File::options().read(true).write(true).create_new(true).open(path.join("region"))?;
        let region = Region::create_seeded(&file, LENGTH, seed)?;
        region.mark_in_use()?;
        Ok(Self { region, spool, path: path.to_owned(), _file: file, _writers: writers })
    }

    /// What is in such a directory already, taken over as a supervisor's start does it.
    pub fn taken_over(path: &Path) -> Result<Self, String> {
        let open = || -> Result<Self, Box<dyn std::error::Error>> {
            let spool = Spool::open_or_create(path)?;
            let writers = spool.take()?;
            let file = File::options().read(true).write(true).open(path.join("region"))?;
            let region = UnverifiedRegion::open(&file)?.once(Region::mark_in_use)?;
            Ok(Self { region, spool, path: path.to_owned(), _file: file, _writers: writers })
        };
        let this = open().map_err(|error| format!("cannot take a region over: {error}"))?;
        this.open_journal()?;
        Ok(this)
    }

    /// Prepares the journal as a supervisor's start does.
    pub fn open_journal(&self) -> Result<(), String> {
        take_over(&self.region, &self.spool, &[]).map(drop).map_err(|obstacle| format!("{obstacle:?}"))
    }

    /// Takes a slot.
    pub fn seat(&self, owner: Owner) -> Result<Seat<'_>, String> {
        let slot = self.region.slot(owner.slot).ok_or("no such slot")?;
        slot.reserve(owner.generation, 1);
        Seat::take(&self.region, owner).ok_or_else(|| format!("{owner} cannot be taken"))
    }

    /// A pen for a process of its own.
    pub fn writer(&self) -> Result<Writer, String> {
        let spool = Spool::open_or_create(&self.path).map_err(|error| error.to_string())?;
        Ok(Writer::new(spool, Sync::Never))
    }

    /// Becomes what another is.
    pub fn copy_from(&self, other: &Self) -> Result<(), String> {
        self.restore(&other.copy(), &[]);
        self.spool.create_minute(self.minute()).map_err(|error| error.to_string())?;
        self.set_journal(&other.journal())
    }

    fn minute(&self) -> Minute {
        self.region.header().journal.open_minute().minute
    }

    /// What the open minute's file holds.
    pub fn journal(&self) -> Vec<u8> {
        std::fs::read(data_path(&self.path, self.minute())).unwrap_or_default()
    }

    /// What the files of all minutes hold.
    pub fn whole_journal(&self) -> Result<Vec<u8>, String> {
        let mut whole = Vec::new();
        for file in self.spool.minutes().map_err(|error| error.to_string())? {
            whole.extend(std::fs::read(data_path(&self.path, file.minute)).unwrap_or_default());
        }
        Ok(whole)
    }

    /// Makes the open minute's file hold these bytes.
    pub fn set_journal(&self, bytes: &[u8]) -> Result<(), String> {
        std::fs::write(data_path(&self.path, self.minute()), bytes).map_err(|error| error.to_string())
    }

    /// Makes region and journal what an image says.
    pub fn show(&self, base: &[u64], image: &Image) -> Result<(), String> {
        self.restore(base, &image.region.delta());
        self.set_journal(&image.journal.bytes)
    }

    /// Every word of the region.
    pub fn words(&self) -> &[std::sync::atomic::AtomicU64] {
        self.region.words(Offset(0), WORDS).unwrap_or_default()
    }

    /// A copy of them.
    pub fn copy(&self) -> Vec<u64> {
        self.words().iter().map(|word| word.load(Relaxed)).collect()
    }

    /// Makes the region hold what `copy` gave, with `delta` laid over it.
    pub fn restore(&self, base: &[u64], delta: &[(u32, u64)]) {
        let words = self.words();
        for (word, value) in words.iter().zip(base) {
            word.store(*value, Relaxed);
        }
        for (index, value) in delta {
            words[*index as usize].store(*value, Relaxed);
        }
    }
}
