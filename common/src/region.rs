//! The region: one file, mapped whole, reached by checked offsets. An [`UnverifiedRegion`] is a file that says it is a
//! region of this format; only verification or repair makes it a [`Region`].

use std::fs::File;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};
use std::time::Duration;

use crate::error::{Context, Error, Result};
use crate::hash::Hashing;
use crate::ids::{Offset, SlotIndex};
use crate::layout::{
    ENDIAN_MARK, FORMAT_VERSION, GIVES_WAY, Geometry, HEADER_SIZE, Header, Identity, MAGIC, Object,
    SLOT_SIZE, Slab, Slot, Tally,
};
use crate::limits::{HUGE_PAGES_FROM, MINI_LOG_SIZE, PAGE_SIZE, UNDO_LOG_SIZE, WORDS_OF_PAGE};
use crate::planted::{self, Bug};
use crate::slots::Totals;
use crate::sys::map::Mapping;
use crate::sys::{file, futex, process};

/// A mapped region. Its geometry was computed when it was opened and is never read from the file again.
#[derive(Debug)]
pub struct Region {
    mapping: Mapping,
    geometry: Geometry,
    hashing: Hashing,
}

/// Reserves disk space for every byte of a region's file.
///
/// # Errors
/// No space for it.
pub fn reserve_all(file: &File, length: u64) -> Result<()> {
    file::allocate(file, 0, length).context(|| reserving(length))
}

fn reserving(length: u64) -> String {
    format!("cannot reserve {length} bytes for the region; free some space or choose a smaller --region-size")
}

/// A region that nobody has looked at yet: its identity is right, its contents are allegations.
#[derive(Debug)]
pub struct UnverifiedRegion(Region);

impl Region {
    /// Makes an empty region of `length` bytes in an empty file. Every byte has its disk space: a full file system
    /// fails here, not as SIGBUS later.
    ///
    /// # Errors
    /// A length out of bounds (usage); no space for it.
    pub fn create(file: &File, length: u64) -> Result<Self> {
        Self::create_seeded(file, length, None)
    }

    /// The same for a region whose maps will be those of a former one, which had this seed.
    ///
    /// # Errors
    /// As [`Region::create`].
    pub fn create_seeded(file: &File, length: u64, seed: Option<u64>) -> Result<Self> {
        let region = Self::lay_out(file, length, seed)?;
        reserve_all(file, length)?;
        region.write_identity()?;
        Ok(region)
    }

    /// Makes an empty region as [`Region::create`] does, but what only transactions use, nearly all of it, may have no disk
    /// space yet: it is incomplete then, and nobody may begin a transaction before [`Region::complete`].
    ///
    /// # Errors
    /// As [`Region::create`], unless space goes short only later.
    pub fn begin(file: &File, length: u64) -> Result<Self> {
        if length >= HUGE_PAGES_FROM {
            return Self::create(file, length);
        }
        let region = Self::lay_out(file, length, None)?;
        if file::free_space(file).is_ok_and(|(free, _)| free < length) {
            // The kernel says best why.
            reserve_all(file, length)?;
        }
        let Geometry { logs, objects, heap, .. } = region.geometry;
        for (start, end) in [(0, logs), (objects, heap)] {
            file::allocate(file, start, end - start).context(|| reserving(length))?;
        }
        region.header().supervision.incomplete.store(1, SeqCst);
        region.write_identity()?;
        Ok(region)
    }

    fn lay_out(file: &File, length: u64, seed: Option<u64>) -> Result<Self> {
        let geometry = Geometry::of(length).ok_or_else(|| {
            Error::usage(format!(
                "a region cannot have {length} bytes: choose a multiple of 4KiB between 1MiB and 4TiB"
            ))
        })?;
        file.set_len(length).context(|| reserving(length))?;
        let mapping = Mapping::writable(file).context(|| "cannot map the region".to_owned())?;
        if length >= HUGE_PAGES_FROM {
            mapping.back_with_huge_pages(file);
        }
        let seed = match seed {
            Some(seed) => seed,
            None => process::random_word().context(|| "cannot draw a random seed".to_owned())?,
        };
        Ok(Self { mapping, geometry, hashing: Hashing::keyed_by(seed) })
    }

    fn write_identity(&self) -> Result<()> {
        let identity = &self.header().identity;
        identity.version.store(FORMAT_VERSION, Relaxed);
        identity.endian.store(ENDIAN_MARK, Relaxed);
        identity.length.store(self.geometry.length, Relaxed);
        identity.slot_count.store(self.geometry.slot_count, Relaxed);
        identity.slot_size.store(SLOT_SIZE as u32, Relaxed);
        identity.logs.store(self.geometry.logs, Relaxed);
        identity.heap.store(self.geometry.heap, Relaxed);
        identity.tallies.store(self.geometry.tallies, Relaxed);
        identity.objects.store(self.geometry.objects, Relaxed);
        identity.slabs.store(self.geometry.slabs, Relaxed);
        identity.object_count.store(self.geometry.object_count, Relaxed);
        identity.page_count.store(self.geometry.page_count, Relaxed);
        crate::objects::found(self);
        let epoch = process::random_word().context(|| "cannot draw a random epoch".to_owned())?;
        identity.epoch.store(epoch, Relaxed);
        identity.seed.store(self.hashing.seed(), Relaxed);
        identity.created_ns.store(process::now_ns(), Relaxed);
        identity.magic.store(MAGIC, Relaxed);
        identity.checksum.store(checksum(identity), Relaxed);
        self.header().supervision.clean.store(1, SeqCst);
        Ok(())
    }

    /// Whether not all of its disk space is reserved yet.
    pub fn is_incomplete(&self) -> bool {
        self.header().supervision.incomplete.load(SeqCst) != 0
    }

    /// The supervisor's, after [`reserve_all`]: transactions may begin.
    pub fn complete(&self) {
        let incomplete = &self.header().supervision.incomplete;
        incomplete.store(0, SeqCst);
        futex::wake_all(incomplete);
    }

    /// Sleeps while the region is incomplete, for so long at most; less where a signal comes.
    pub fn await_completion(&self, limit: Duration) {
        let incomplete = &self.header().supervision.incomplete;
        let seen = incomplete.load(SeqCst);
        if seen != 0 {
            futex::rest(incomplete, seen, limit);
        }
    }

    /// Maps a region that the supervisor has vetted and handed over.
    ///
    /// # Errors
    /// A file that is not a region of this format (exit 4).
    pub fn attach(file: &File) -> Result<Self> {
        Ok(UnverifiedRegion::open(file)?.0)
    }

    /// Maps a vetted region for reading only.
    ///
    /// # Errors
    /// As [`Region::attach`].
    pub fn attach_read_only(file: &File) -> Result<Self> {
        Ok(UnverifiedRegion::open_read_only(file)?.0)
    }

    /// Keeps the mapping from children that this process forks: what is in it belongs to this one.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn keep_from_children(&self) -> Result<()> {
        self.mapping.keep_from_children().context(|| "cannot keep the region from children".to_owned())
    }

    /// The header.
    ///
    /// # Panics
    /// Never: a region is longer than its header.
    #[inline]
    pub fn header(&self) -> &Header {
        self.mapping.at(Offset(0)).expect("a region is longer than its header")
    }

    /// The slot at `index`, if the region has it.
    #[inline]
    pub fn slot(&self, index: SlotIndex) -> Option<&Slot> {
        if index.0 >= self.geometry.slot_count {
            return None;
        }
        self.mapping.at(Offset(HEADER_SIZE + u64::from(index.0) * SLOT_SIZE))
    }

    /// Every slot with its index.
    pub fn slots(&self) -> impl Iterator<Item = (SlotIndex, &Slot)> {
        (0..self.geometry.slot_count).map(SlotIndex).filter_map(|index| Some((index, self.slot(index)?)))
    }

    /// The words of a slot's undo log.
    pub fn undo_area(&self, index: SlotIndex) -> Option<&[AtomicU64]> {
        self.log_area(index, 0, UNDO_LOG_SIZE - MINI_LOG_SIZE)
    }

    /// The words of a slot's small log, which follow those of its undo log.
    pub fn mini_area(&self, index: SlotIndex) -> Option<&[AtomicU64]> {
        self.log_area(index, UNDO_LOG_SIZE - MINI_LOG_SIZE, MINI_LOG_SIZE)
    }

    fn log_area(&self, index: SlotIndex, from: u64, bytes: u64) -> Option<&[AtomicU64]> {
        if index.0 >= self.geometry.slot_count {
            return None;
        }
        let offset = self.geometry.logs + u64::from(index.0) * UNDO_LOG_SIZE + from;
        self.mapping.slice(Offset(offset), bytes as usize / size_of::<AtomicU64>())
    }

    /// What the slot at `index` has counted for each user with a row.
    pub fn tally(&self, index: SlotIndex) -> Option<&Tally> {
        if index.0 >= self.geometry.slot_count {
            return None;
        }
        self.mapping.at(self.tally_offset(index))
    }

    /// Where a slot's tally lies.
    pub fn tally_offset(&self, index: SlotIndex) -> Offset {
        Offset(self.geometry.tallies + u64::from(index.0) * size_of::<Tally>() as u64)
    }

    /// The entry of the object table at `index`, if there is one.
    #[inline]
    pub fn object(&self, index: u32) -> Option<&Object> {
        if index >= self.geometry.object_count {
            return None;
        }
        self.mapping.at(self.object_offset(index))
    }

    /// Where an entry of the object table lies.
    #[inline]
    pub fn object_offset(&self, index: u32) -> Offset {
        Offset(self.geometry.objects + u64::from(index) * size_of::<Object>() as u64)
    }

    /// The slab table's entry for the heap's page at `index`, if there is one.
    #[inline]
    pub fn slab(&self, index: u32) -> Option<&Slab> {
        if index >= self.geometry.page_count {
            return None;
        }
        self.mapping.at(self.slab_offset(index))
    }

    /// Where an entry of the slab table lies.
    #[inline]
    pub fn slab_offset(&self, index: u32) -> Offset {
        Offset(self.geometry.slabs + u64::from(index) * size_of::<Slab>() as u64)
    }

    /// Where the heap's page at `index` lies.
    #[inline]
    pub fn page_offset(&self, index: u32) -> Offset {
        Offset(self.geometry.heap + u64::from(index) * PAGE_SIZE)
    }

    /// The heap's page that `offset` lies in, and how far within it.
    #[inline]
    pub fn page_of(&self, offset: Offset) -> Option<(u32, u64)> {
        let within = offset.0.checked_sub(self.geometry.heap)?;
        let page = within / PAGE_SIZE;
        (page < u64::from(self.geometry.page_count)).then_some((page as u32, within % PAGE_SIZE))
    }

    /// `count` words of the heap from `offset` on; `None` where they would leave it or are not aligned.
    #[inline]
    pub fn heap_words(&self, offset: Offset, count: usize) -> Option<&[AtomicU64]> {
        if offset.0 < self.geometry.heap {
            return None;
        }
        self.mapping.slice(offset, count)
    }

    /// The words of the heap's page at `offset`; `None` where there is none.
    #[inline]
    pub fn heap_page(&self, offset: Offset) -> Option<&[AtomicU64; WORDS_OF_PAGE]> {
        if !offset.0.is_multiple_of(PAGE_SIZE) {
            return None;
        }
        self.heap_words(offset, WORDS_OF_PAGE)?.try_into().ok()
    }

    /// Has the processor fetch what lies at `offset`, ahead of its use.
    #[inline]
    pub fn prefetch(&self, offset: Offset) {
        self.mapping.prefetch(offset);
    }

    /// The same ahead of a store.
    #[inline]
    pub fn prefetch_to_write(&self, offset: Offset) {
        self.mapping.prefetch_to_write(offset);
    }

    /// The word at `offset`; `None` where it would leave the region or is not aligned.
    #[inline]
    pub fn word(&self, offset: Offset) -> Option<&AtomicU64> {
        self.mapping.at(offset)
    }

    /// The half word at `offset`; `None` where it would leave the region or is not aligned.
    #[inline]
    pub fn half(&self, offset: Offset) -> Option<&AtomicU32> {
        self.mapping.at(offset)
    }

    /// The quarter word at `offset`; `None` where it would leave the region or is not aligned.
    #[inline]
    pub fn quarter(&self, offset: Offset) -> Option<&AtomicU16> {
        self.mapping.at(offset)
    }

    /// `count` quarter words from `offset` on; `None` where they would leave the region or are not aligned.
    pub fn quarters(&self, offset: Offset, count: usize) -> Option<&[AtomicU16]> {
        self.mapping.slice(offset, count)
    }

    /// `count` words from `offset` on; `None` where they would leave the region or are not aligned.
    #[inline]
    pub fn words(&self, offset: Offset, count: usize) -> Option<&[AtomicU64]> {
        self.mapping.slice(offset, count)
    }

    /// Where a slot lies.
    #[inline]
    pub fn slot_offset(&self, index: SlotIndex) -> Offset {
        Offset(HEADER_SIZE + u64::from(index.0) * SLOT_SIZE)
    }

    /// Where the parts lie.
    #[inline]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Random, and different for every region file.
    pub fn epoch(&self) -> u64 {
        self.header().identity.epoch.load(Relaxed)
    }

    /// What the maps' hashes are keyed by.
    pub fn seed(&self) -> u64 {
        self.hashing.seed()
    }

    /// The hash of a key, which says in which bucket of a map it is.
    #[inline]
    pub(crate) fn hash_of(&self, key: &[u8]) -> u64 {
        self.hashing.of(key)
    }

    /// Marks the pages of these bytes as changed, before they are: a checkpoint copies what is marked. Whoever marks has
    /// begun its transaction already, so that no mark is taken away before what it announces can be seen; see `gate`. Only
    /// objects, slab table and heap are marked: everything before them belongs to a slot, which says itself whether it
    /// has changed.
    #[inline]
    pub fn mark(&self, offset: Offset, bytes: usize) {
        if offset.0 < self.geometry.objects || planted::has(Bug::MarkForgotten) {
            return;
        }
        let last = (offset.0 + (bytes as u64).saturating_sub(1)) / PAGE_SIZE;
        let mut page = offset.0 / PAGE_SIZE;
        loop {
            if let Some(mark) = self.mapping.at::<AtomicU8>(Offset(self.geometry.marks + page))
                && mark.load(Relaxed) == 0
            {
                mark.store(1, Relaxed);
            }
            // What is no longer than a word is aligned, and lies on one page.
            if bytes <= size_of::<u64>() || page >= last {
                return;
            }
            page += 1;
        }
    }

    /// The marks, one for each page of the file.
    pub fn marks(&self) -> &[AtomicU8] {
        self.mapping
            .slice(Offset(self.geometry.marks), (self.geometry.length / PAGE_SIZE) as usize)
            .unwrap_or_default()
    }

    /// The totals over all slots, as published.
    pub fn totals(&self) -> Totals {
        Totals::of(self.slots().map(|(_, slot)| slot))
    }

    /// Takes the region into use: from here on it is not clean until [`Region::mark_clean`].
    ///
    /// # Errors
    /// Where the kernel does not tell its boot id.
    pub fn mark_in_use(&self) -> Result<()> {
        let boot = process::boot_id().context(|| "cannot read this boot's id".to_owned())?;
        let supervision = &self.header().supervision;
        supervision.boot_id[0].store(boot as u64, SeqCst);
        supervision.boot_id[1].store((boot >> 64) as u64, SeqCst);
        supervision.clean.store(0, SeqCst);
        supervision.draining.store(0, SeqCst);
        // Whatever was to take its place has not.
        let _ = supervision.damaged.compare_exchange(GIVES_WAY, 0, SeqCst, SeqCst);
        supervision.life.store(supervision.life.load(SeqCst).wrapping_add(1), SeqCst);
        Ok(())
    }

    /// Another region is about to take this one's place: whoever has it mapped is told so by what he reads next. A damaged
    /// one says so already.
    pub fn give_way(&self) {
        let _ = self.header().supervision.damaged.compare_exchange(0, GIVES_WAY, SeqCst, SeqCst);
    }

    /// Nobody is attached any more, and everything is repaired and sealed.
    ///
    /// # Errors
    /// Where the file cannot be written back.
    pub fn mark_clean(&self) -> Result<()> {
        self.header().supervision.clean.store(1, SeqCst);
        self.mapping.flush().context(|| "cannot write the region back".to_owned())
    }

    /// Whether the last owner stopped cleanly.
    pub fn is_clean(&self) -> bool {
        self.header().supervision.clean.load(SeqCst) == 1
    }
}

impl UnverifiedRegion {
    /// Maps a file that should be a region.
    ///
    /// # Errors
    /// A file that is not a region of this format: a sentence that says what to do (exit 4).
    pub fn open(file: &File) -> Result<Self> {
        Self::vet(file, Mapping::writable)
    }

    /// The same for reading only.
    ///
    /// # Errors
    /// As [`UnverifiedRegion::open`].
    pub fn open_read_only(file: &File) -> Result<Self> {
        Self::vet(file, Mapping::read_only)
    }

    fn vet(file: &File, map: impl Fn(&File) -> std::io::Result<Mapping>) -> Result<Self> {
        let length = file.metadata().context(|| "cannot examine the region".to_owned())?.len();
        let Some(geometry) = Geometry::of(length) else {
            return Err(refused(&format!("its length of {length} bytes is none that a region has")));
        };
        let mapping = map(file).context(|| "cannot map the region".to_owned())?;
        // The seed is there once the identity is, which is looked at first.
        let mut region = Self(Region { mapping, geometry, hashing: Hashing::keyed_by(0) });
        region.check_identity()?;
        region.0.hashing = Hashing::keyed_by(region.0.header().identity.seed.load(Relaxed));
        Ok(region)
    }

    fn check_identity(&self) -> Result<()> {
        let identity = &self.0.header().identity;
        let geometry = self.0.geometry;
        if identity.magic.load(Relaxed) != MAGIC {
            return Err(refused("it does not begin as a region does"));
        }
        let version = identity.version.load(Relaxed);
        if version != FORMAT_VERSION {
            return Err(refused(&format!(
                "its format version is {version}, this program's is {FORMAT_VERSION}"
            )));
        }
        if identity.endian.load(Relaxed) != ENDIAN_MARK {
            return Err(refused("it was written by a machine of another byte order"));
        }
        if identity.checksum.load(Relaxed) != checksum(identity) {
            return Err(refused("the checksum of its header does not match"));
        }
        let said = (identity.length.load(Relaxed), identity.slot_count.load(Relaxed));
        if said != (geometry.length, geometry.slot_count) {
            let (length, said) = (geometry.length, said.0);
            return Err(refused(&format!("it has {length} bytes and was made with {said}")));
        }
        if u64::from(identity.slot_size.load(Relaxed)) != SLOT_SIZE
            || identity.logs.load(Relaxed) != geometry.logs
            || identity.heap.load(Relaxed) != geometry.heap
            || identity.tallies.load(Relaxed) != geometry.tallies
            || identity.objects.load(Relaxed) != geometry.objects
            || identity.slabs.load(Relaxed) != geometry.slabs
            || identity.object_count.load(Relaxed) != geometry.object_count
            || identity.page_count.load(Relaxed) != geometry.page_count
        {
            return Err(refused("its parts do not lie where this format has them"));
        }
        Ok(())
    }

    /// The contents, to be looked at and not to be believed.
    pub fn contents(&self) -> &Region {
        &self.0
    }

    /// Whether the region was in use when another boot ended: its last stores may be lost.
    ///
    /// # Errors
    /// Where the kernel does not tell its boot id.
    pub fn lost_power(&self) -> Result<bool> {
        let boot = process::boot_id().context(|| "cannot read this boot's id".to_owned())?;
        let said = &self.0.header().supervision.boot_id;
        let said = u128::from(said[0].load(SeqCst)) | u128::from(said[1].load(SeqCst)) << 64;
        Ok(!self.0.is_clean() && said != boot)
    }

    /// A region once `check` (a verification or a repair) has passed.
    ///
    /// # Errors
    /// What `check` finds.
    pub fn once<E>(
        self,
        check: impl FnOnce(&Region) -> std::result::Result<(), E>,
    ) -> std::result::Result<Region, E> {
        check(&self.0)?;
        Ok(self.0)
    }
}

fn refused(why: &str) -> Error {
    Error::region(format!(
        "the region is refused: {why}; move the file away, and the next start goes back to the newest checkpoint, or \
         begins with an empty region where there is none"
    ))
}

/// CRC-32C of the identity's bytes before the checksum.
fn checksum(identity: &Identity) -> u32 {
    let mut bytes = Vec::with_capacity(128);
    let wide = |word: &AtomicU64| word.load(Relaxed).to_le_bytes();
    let narrow = |word: &AtomicU32| word.load(Relaxed).to_le_bytes();
    bytes.extend(wide(&identity.magic));
    bytes.extend(narrow(&identity.version));
    bytes.extend(narrow(&identity.endian));
    bytes.extend(wide(&identity.length));
    bytes.extend(narrow(&identity.slot_count));
    bytes.extend(narrow(&identity.slot_size));
    bytes.extend(wide(&identity.logs));
    bytes.extend(wide(&identity.heap));
    bytes.extend(wide(&identity.epoch));
    bytes.extend(wide(&identity.created_ns));
    bytes.extend(wide(&identity.tallies));
    bytes.extend(wide(&identity.objects));
    bytes.extend(wide(&identity.slabs));
    bytes.extend(narrow(&identity.object_count));
    bytes.extend(narrow(&identity.page_count));
    bytes.extend(wide(&identity.seed));
    identity.reserved.iter().for_each(|word| bytes.extend(narrow(word)));
    crc32c::crc32c(&bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::error::Exit;

    fn fresh() -> File {
        let file = tempfile::tempfile().unwrap();
        Region::create(&file, 1 << 20).unwrap();
        file
    }

    fn refusal(file: &File) -> Error {
        let error = UnverifiedRegion::open(file).expect_err("refused");
        assert_eq!(error.exit(), Exit::Region);
        error
    }

    #[test]
    fn a_region_comes_back() {
        let file = fresh();
        let region = UnverifiedRegion::open(&file).unwrap();
        assert!(region.contents().is_clean());
        assert!(!region.lost_power().unwrap());
        assert_eq!(region.contents().geometry().slot_count, 32);
    }

    #[test]
    fn every_broken_identity_byte_is_refused() {
        let file = fresh();
        for offset in 0..128 {
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset).unwrap();
            file.write_all_at(&[byte[0] ^ 0x40], offset).unwrap();
            refusal(&file);
            file.write_all_at(&byte, offset).unwrap();
        }
        UnverifiedRegion::open(&file).unwrap();
    }

    #[test]
    fn another_version_is_named() {
        let file = fresh();
        file.write_all_at(&77_u32.to_le_bytes(), 8).unwrap();
        assert!(refusal(&file).to_string().contains("version is 77"));
    }

    #[test]
    fn other_lengths_are_refused() {
        let file = fresh();
        for length in [0, 100, 4096, (1 << 20) - 1, 2 << 20] {
            file.set_len(length).unwrap();
            refusal(&file);
        }
    }

    #[test]
    fn a_region_in_use_on_another_boot_lost_power() {
        let file = fresh();
        let region = UnverifiedRegion::open(&file).unwrap();
        region.contents().mark_in_use().unwrap();
        assert!(!region.lost_power().unwrap());
        region.contents().header().supervision.boot_id[0].fetch_add(1, SeqCst);
        assert!(region.lost_power().unwrap());
        region.contents().mark_clean().unwrap();
        assert!(!region.lost_power().unwrap());
    }

    #[test]
    fn what_the_region_does_not_have_is_none() {
        let file = fresh();
        let region = Region::attach(&file).unwrap();
        assert!(region.slot(SlotIndex(31)).is_some() && region.undo_area(SlotIndex(31)).is_some());
        assert!(region.slot(SlotIndex(32)).is_none() && region.undo_area(SlotIndex(u32::MAX)).is_none());
        assert!(region.word(Offset(1 << 20)).is_none());
    }
}
