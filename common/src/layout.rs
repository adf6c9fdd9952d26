//! The format of the region file, byte for byte. LAYOUT.md beside this crate says what each word is for and what
//! recovery sees if a process dies between any two stores.
//!
//! Every field is an atomic: other processes write here at any moment, so nobody may ever hold a plain reference.

use std::mem::{offset_of, size_of};
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use crate::limits::{DOING_SIZE, JOURNAL_RING, MAX_HELD, MAX_IN_FLIGHT, USER_ROWS};

/// The first eight bytes of a region, read as a little-endian word.
pub const MAGIC: u64 = u64::from_le_bytes(*b"HOLDFAST");

/// The version of this format. Another one is refused.
pub const FORMAT_VERSION: u32 = 4;

/// Reads back as itself only on a machine of the same byte order.
pub const ENDIAN_MARK: u32 = 0x0102_0304;

/// Bytes of the header; the slot table follows.
pub const HEADER_SIZE: u64 = 4096;

/// Bytes of a slot.
pub const SLOT_SIZE: u64 = 1024;

/// The header of a region: one page.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Header {
    /// What the region is: written once, covered by its checksum.
    pub identity: Identity,
    /// What the supervisor alone writes.
    pub supervision: Supervision,
    /// Where the journal stands.
    pub journal: JournalState,
    /// How many workers wait for connections.
    pub demand: Demand,
    /// Who keeps transactions from beginning, see `gate`; nothing else lives on this line, since every `begin` reads it.
    pub gate: Gate,
    /// What is known of checkpoints.
    pub history: History,
    /// Which workers wait for connections, and which wait to be needed.
    pub door: Door,
}

/// What the region is. Never changes after creation.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Identity {
    /// [`MAGIC`].
    pub magic: AtomicU64,
    /// [`FORMAT_VERSION`].
    pub version: AtomicU32,
    /// [`ENDIAN_MARK`].
    pub endian: AtomicU32,
    /// Bytes of the whole file.
    pub length: AtomicU64,
    /// Slots in the table.
    pub slot_count: AtomicU32,
    /// [`SLOT_SIZE`].
    pub slot_size: AtomicU32,
    /// Offset of the undo logs, one per slot.
    pub logs: AtomicU64,
    /// Offset of the heap's pages.
    pub heap: AtomicU64,
    /// Random, new for every region file; part of every journal record's id.
    pub epoch: AtomicU64,
    /// When the region was created, in nanoseconds since the epoch.
    pub created_ns: AtomicU64,
    /// Offset of the users' cells, a table per slot.
    pub tallies: AtomicU64,
    /// Offset of the object table.
    pub objects: AtomicU64,
    /// Offset of the slab table.
    pub slabs: AtomicU64,
    /// Entries of the object table.
    pub object_count: AtomicU32,
    /// Pages of the heap, and entries of the slab table.
    pub page_count: AtomicU32,
    /// Random, the key of the maps' hashes. A region that is restored from a checkpoint has another epoch and the same seed.
    pub seed: AtomicU64,
    /// Zero.
    pub reserved: [AtomicU32; 5],
    /// CRC-32C of the bytes of `Identity` before this word.
    pub checksum: AtomicU32,
}

/// What `damaged` says of a sound region whose place another one takes: whoever reads it is to attach anew. Should nothing
/// come of that it is served again, and says 0 from then on.
pub const GIVES_WAY: u32 = 2;

/// The words that the supervisor alone writes.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Supervision {
    /// How many supervisors have owned this region.
    pub life: AtomicU64,
    /// The kernel's boot id when the region was last taken into use. Stored before `clean` becomes 0: a region of
    /// another boot that is not clean was not stopped, it lost power.
    pub boot_id: [AtomicU64; 2],
    /// 1 while nobody is attached and everything is repaired and sealed.
    pub clean: AtomicU32,
    /// 1 once a slot could not be repaired: nobody serves from this region. [`GIVES_WAY`] while another is about to take its
    /// place, and from then on.
    pub damaged: AtomicU32,
    /// Changes when log files are to be opened again.
    pub log_epoch: AtomicU32,
    /// 1 while the instance drains.
    pub draining: AtomicU32,
    /// 1 while the supervisor looks at the slots anyway: nobody need ring its bell.
    pub attentive: AtomicU32,
    /// Zero.
    pub pad: AtomicU32,
    /// 1 while not all of a new region's disk space is reserved: nobody begins a transaction then. Who waits sleeps here.
    pub incomplete: AtomicU64,
    /// Zero.
    pub reserved: AtomicU64,
}

/// Where the journal stands.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct JournalState {
    /// The minute being written, and whether it is closed; see `journal::OpenMinute`.
    pub open: AtomicU64,
    /// Every minute up to this one is sealed. Copy of the durable `SPOOL/sealed`.
    pub sealed: AtomicU64,
    /// Bytes of the spool's files that nobody writes any more.
    pub closed_bytes: AtomicU64,
    /// The oldest minute file in the spool; 0 = none.
    pub oldest: AtomicU64,
    /// `--spool-limit` in bytes; 0 = by the free space of the file system.
    pub limit: AtomicU64,
    /// Zero.
    pub reserved: [AtomicU64; 3],
    /// The unsealed minutes, each at its number modulo the ring's length.
    pub ring: [MinuteState; JOURNAL_RING],
}

/// How many workers wait for connections, and whether the supervisor wants to be told; see `demand`. Workers of a dynamic
/// pool write here once or twice a connection, so nothing else lives on this line; those of a fixed pool only read it.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Demand {
    /// 1 while workers count themselves.
    pub counted: AtomicU32,
    /// Workers that wait for a connection. A hint, put right by the supervisor.
    pub idle: AtomicI32,
    /// The least that `idle` has been since the supervisor looked.
    pub lowest: AtomicI32,
    /// Whoever makes `idle` less than this rings the supervisor's bell, once; 0 = nobody does.
    pub alarm: AtomicI32,
    /// Zero.
    pub reserved: [AtomicU32; 12],
}

/// The gate before every transaction.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Gate {
    /// The lock tag of the checkpoint process that has closed it; 0 = open.
    pub word: AtomicU64,
    /// How often it has been closed: whoever sees the same closure for long knows that its closer hangs.
    pub closures: AtomicU64,
    /// Zero.
    pub reserved: [AtomicU64; 6],
}

/// Checkpoints of this region, and the one that it was restored from.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct History {
    /// Number of the newest durable checkpoint; 0 = none was taken of this region.
    pub number: AtomicU64,
    /// When it was taken, in nanoseconds since the epoch.
    pub taken_ns: AtomicU64,
    /// Bytes of its file.
    pub bytes: AtomicU64,
    /// For how long it kept transactions from beginning, in nanoseconds.
    pub pause_ns: AtomicU64,
    /// When this region was restored from a checkpoint; 0 = it never was.
    pub restored_ns: AtomicU64,
    /// When that checkpoint had been taken.
    pub restored_from_ns: AtomicU64,
    /// Records of the journal that were counted on top of it.
    pub replayed: AtomicU64,
    /// Zero.
    pub reserved: AtomicU64,
}

/// Words of `Door::posts`, each for 32 slots: workers in slots beyond these always stand at the door.
pub const DOOR_WORDS: usize = 432;

/// Which workers wait for connections, and which wait to be needed; see `door`.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Door {
    /// So many workers are enough at the door and busy together; 0 = nobody rests.
    pub enough: AtomicU32,
    /// Whoever leaves fewer than so many at the door calls others.
    pub few: AtomicU32,
    /// Zero.
    pub reserved: [AtomicU64; 7],
    /// Two bits for each slot: what its worker is at.
    pub posts: [AtomicU64; DOOR_WORDS],
}

/// One unsealed minute. Both words carry the low bits of the minute's number above the offset, so that one
/// compare-and-swap both claims a range and proves that the entry is still this minute's.
#[derive(Debug)]
#[repr(C)]
pub struct MinuteState {
    /// Next free offset of the file.
    pub tail: AtomicU64,
    /// Disk space is reserved up to here.
    pub reserved: AtomicU64,
}

/// One owner's place. Whatever a process can leave half-done is described here.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Slot {
    /// `generation << 32 | state`, so that no transition is made in another's generation.
    pub owner: AtomicU64,
    /// The owner's pid, stored by the kernel while it clones; 0 before.
    pub pid: AtomicU32,
    /// What the owner is at, see `slots::Activity`. For display.
    pub activity: AtomicU32,
    /// When this generation went live, in nanoseconds since the epoch.
    pub live_since_ns: AtomicU64,
    /// `template generation`: which template this owner was cloned from. For display.
    pub template: AtomicU32,
    /// Zero.
    pub pad0: AtomicU32,
    /// When the owner turned to the request that it is at, by `process::coarse_ms`; 0 = to none.
    pub since_ms: AtomicU64,
    /// How often the owner was called from the reserve, see `door`; it sleeps there on the low half of this word.
    pub calls: AtomicU64,
    /// Zero.
    pub pad1: [AtomicU64; 2],
    /// Cumulative over all generations; changed in transactions.
    pub counters: Counters,
    /// The counters as last committed: what readers of status see.
    pub published: Counters,
    /// The counters when this generation began.
    pub base: Counters,
    /// Where this owner's journal record is to stand.
    pub intent: Intent,
    /// The undo log's state and length, see `undo`.
    pub undo: AtomicU64,
    /// The same for the small log of a mini-transaction.
    pub mini: AtomicU64,
    /// `generation << 32 | count`: deaths without a clean detach. Written by repair.
    pub crashes: AtomicU64,
    /// `generation << 32 | count`: repairs. Written by repair.
    pub recoveries: AtomicU64,
    /// Whether a transaction is under way, or has been since the last checkpoint; see `gate`.
    pub open: AtomicU64,
    /// Zero.
    pub pad2: [AtomicU64; 3],
    /// How many entries of `held` count.
    pub held_count: AtomicU32,
    /// Indices of the locks that this owner holds or is about to take.
    pub held: [AtomicU32; MAX_HELD],
    /// What the owner is doing, as text ended by NUL. For display and crash reports.
    pub doing: [AtomicU8; DOING_SIZE],
    /// For each class of blocks the first slab that belongs to this slot: its index and 1; 0 = none.
    pub slabs: [AtomicU32; SLAB_LISTS],
    /// How many items were ever taken through this slot: the serial of the last one.
    pub takes: AtomicU64,
    /// Zero.
    pub pad3: [AtomicU64; 3],
    /// What the kernel says when the owner's thread ends.
    pub knell: Knell,
    /// Items of queues that this owner has taken and not finished.
    pub in_flight: [InFlight; MAX_IN_FLIGHT],
}

/// An item that was taken from a queue and belongs to the slot until it is finished or put back.
#[derive(Debug)]
#[repr(C)]
pub struct InFlight {
    /// The queue: its generation above, its index in the object table below.
    pub queue: AtomicU64,
    /// Where the item's block begins, with 1 in the lowest bit if it was taken from the back; 0 = none.
    pub item: AtomicU64,
}

/// A word that the kernel marks when a thread ends, and the links by which it finds the word; see `sys::knell`.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Knell {
    /// The id of the owner's thread, and the bits of a robust futex; 0 = the kernel was not asked.
    pub word: AtomicU32,
    /// Zero.
    pub pad: [AtomicU32; 5],
    /// The owner's own addresses of the entries before and after in its thread's robust list. Nobody else reads them.
    pub links: [AtomicU64; 2],
    /// Zero.
    pub reserved: [AtomicU64; 3],
}

/// Lists of slabs per slot: one for each class of blocks, the last one for blocks of whole pages.
pub const SLAB_LISTS: usize = 24;

/// What a slot has counted for each user with a row.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Tally {
    /// One cell for each row.
    pub cells: [Cell; USER_ROWS],
}

/// What one slot has counted for one user.
#[derive(Debug)]
#[repr(C)]
pub struct Cell {
    /// Messages and bytes: cumulative over all generations; changed in transactions.
    pub counted: [AtomicU64; 2],
    /// The same as last committed: what readers of status see.
    pub published: [AtomicU64; 2],
}

/// An entry of the object table. Lock, sequence word and identity never move and never become something else.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Object {
    /// Who holds it, see `lock`.
    pub lock: AtomicU64,
    /// Odd while the object is being changed, see `objects::reading`.
    pub seq: AtomicU64,
    /// `generation << 32 | kind`, see `objects::Kind`.
    pub identity: AtomicU64,
    /// What the object has besides its blocks; by kind.
    pub body: [AtomicU64; 5],
}

/// An entry of the slab table: whose the page is, and what it is cut into.
#[derive(Debug)]
#[repr(C, align(16))]
pub struct Slab {
    /// The owning slot's index and 1; 0 = nobody's.
    pub owner: AtomicU32,
    /// The class of its blocks, see `heap`.
    pub class: AtomicU32,
    /// The next slab of the same slot and class: its index and 1; 0 = the last one.
    pub next: AtomicU32,
    /// State of a block of whole pages.
    pub state: AtomicU16,
    /// Its pages.
    pub pages: AtomicU16,
}

/// A set of counters: one cache line.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Counters {
    /// The counters, at the positions that `slots::Counter` names.
    pub words: [AtomicU64; 8],
}

/// A journal intent. In force while `minute` is not 0.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Intent {
    /// Sequence number of the record; only grows, over all generations of the slot.
    pub seq: AtomicU64,
    /// The minute written to; 0 = no intent.
    pub minute: AtomicU64,
    /// Bytes of the record.
    pub len: AtomicU64,
    /// Where the record is to stand, or [`NO_OFFSET`].
    pub off: AtomicU64,
    /// Zero.
    pub reserved: [AtomicU64; 4],
}

/// `Intent::off` before a range of the file has been claimed.
pub const NO_OFFSET: u64 = u64::MAX;

// The format is what these lines say. A change here is a new FORMAT_VERSION.
const _: () = {
    assert!(size_of::<Identity>() == 128);
    assert!(offset_of!(Identity, magic) == 0);
    assert!(offset_of!(Identity, version) == 8);
    assert!(offset_of!(Identity, endian) == 12);
    assert!(offset_of!(Identity, length) == 16);
    assert!(offset_of!(Identity, slot_count) == 24);
    assert!(offset_of!(Identity, slot_size) == 28);
    assert!(offset_of!(Identity, logs) == 32);
    assert!(offset_of!(Identity, heap) == 40);
    assert!(offset_of!(Identity, epoch) == 48);
    assert!(offset_of!(Identity, created_ns) == 56);
    assert!(offset_of!(Identity, tallies) == 64);
    assert!(offset_of!(Identity, objects) == 72);
    assert!(offset_of!(Identity, slabs) == 80);
    assert!(offset_of!(Identity, object_count) == 88);
    assert!(offset_of!(Identity, page_count) == 92);
    assert!(offset_of!(Identity, seed) == 96);
    assert!(offset_of!(Identity, reserved) == 104);
    assert!(offset_of!(Identity, checksum) == 124);

    assert!(size_of::<Supervision>() == 64);
    assert!(size_of::<JournalState>() == 64 + 16 * JOURNAL_RING);
    assert!(size_of::<Demand>() == 64);
    assert!(size_of::<Gate>() == 64 && size_of::<History>() == 64);
    assert!(size_of::<Door>() == 64 + 8 * DOOR_WORDS && offset_of!(Door, posts) == 64);
    assert!(size_of::<Header>() == 4096 && size_of::<Header>() as u64 <= HEADER_SIZE);
    assert!(offset_of!(Header, supervision) == 128);
    assert!(offset_of!(Header, journal) == 192);
    assert!(offset_of!(Header, demand) == 384);
    assert!(offset_of!(Header, gate) == 448);
    assert!(offset_of!(Header, history) == 512);
    assert!(offset_of!(Header, door) == 576);
    assert!(offset_of!(JournalState, ring) == 64);

    assert!(size_of::<Slot>() as u64 == SLOT_SIZE);
    assert!(offset_of!(Slot, owner) == 0);
    assert!(offset_of!(Slot, pid) == 8);
    assert!(offset_of!(Slot, since_ms) == 32);
    assert!(offset_of!(Slot, calls) == 40);
    assert!(offset_of!(Slot, counters) == 64);
    assert!(offset_of!(Slot, published) == 128);
    assert!(offset_of!(Slot, base) == 192);
    assert!(offset_of!(Slot, intent) == 256);
    assert!(offset_of!(Slot, undo) == 320);
    assert!(offset_of!(Slot, mini) == 328);
    assert!(offset_of!(Slot, crashes) == 336);
    assert!(offset_of!(Slot, recoveries) == 344);
    assert!(offset_of!(Slot, open) == 352);
    assert!(offset_of!(Slot, held_count) == 384);
    assert!(offset_of!(Slot, doing) == 512);
    assert!(offset_of!(Slot, slabs) == 640);
    assert!(offset_of!(Slot, takes) == 736);
    assert!(offset_of!(Slot, pad3) == 744);
    assert!(offset_of!(Slot, knell) == 768);
    assert!(size_of::<Knell>() == 64);
    assert!(offset_of!(Knell, links) == 24);
    assert!(offset_of!(Slot, in_flight) == 832);
    assert!(size_of::<InFlight>() == 16 && offset_of!(InFlight, item) == 8);

    assert!(size_of::<Cell>() == 32 && size_of::<Tally>() == 32 * USER_ROWS);
    assert!(offset_of!(Cell, published) == 16);

    assert!(size_of::<Object>() == 64);
    assert!(offset_of!(Object, lock) == 0);
    assert!(offset_of!(Object, seq) == 8);
    assert!(offset_of!(Object, identity) == 16);
    assert!(offset_of!(Object, body) == 24);

    assert!(size_of::<Slab>() == 16);
    assert!(offset_of!(Slab, owner) == 0);
    assert!(offset_of!(Slab, class) == 4);
    assert!(offset_of!(Slab, next) == 8);
    assert!(offset_of!(Slab, state) == 12);
    assert!(offset_of!(Slab, pages) == 14);
    assert!(HEADER_SIZE.is_multiple_of(4096) && SLOT_SIZE.is_multiple_of(64));
};

/// Where the parts of a region of a given length lie. Computed, never read from the file: the file's own words are
/// compared with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of the whole region.
    pub length: u64,
    /// Slots in the table.
    pub slot_count: u32,
    /// Offset of the undo logs.
    pub logs: u64,
    /// Offset of the users' cells.
    pub tallies: u64,
    /// Offset of the marks: a byte for each page of the file.
    pub marks: u64,
    /// Offset of the object table.
    pub objects: u64,
    /// Entries in it.
    pub object_count: u32,
    /// Offset of the slab table.
    pub slabs: u64,
    /// Offset of the heap's pages.
    pub heap: u64,
    /// How many there are.
    pub page_count: u32,
}

impl Geometry {
    /// The layout of a region of `length` bytes; `None` where the length is out of bounds.
    pub fn of(length: u64) -> Option<Self> {
        use crate::limits::{
            MAX_OBJECTS, MAX_SLOTS, PAGE_SIZE, REGION_PER_OBJECT, REGION_PER_SLOT, REGION_SIZES,
            UNDO_LOG_SIZE,
        };
        if !REGION_SIZES.contains(&length) || !length.is_multiple_of(PAGE_SIZE) {
            return None;
        }
        let after = |offset: u64, bytes: u64| (offset + bytes).next_multiple_of(PAGE_SIZE);
        let slot_count = (length / REGION_PER_SLOT).min(u64::from(MAX_SLOTS));
        let object_count = (length / REGION_PER_OBJECT).min(u64::from(MAX_OBJECTS));
        let logs = after(HEADER_SIZE, slot_count * SLOT_SIZE);
        let tallies = after(logs, slot_count * UNDO_LOG_SIZE);
        let marks = after(tallies, slot_count * size_of::<Tally>() as u64);
        let objects = after(marks, length / PAGE_SIZE);
        let slabs = after(objects, object_count * size_of::<Object>() as u64);
        // A page and its entry in the slab table, for as many pages as there is room for.
        let entry = size_of::<Slab>() as u64;
        let fit = (length - slabs) / (PAGE_SIZE + entry);
        let heap = after(slabs, fit * entry);
        let page_count = fit.min((length - heap) / PAGE_SIZE);
        Some(Self {
            length,
            slot_count: slot_count as u32,
            logs,
            tallies,
            marks,
            objects,
            object_count: object_count as u32,
            slabs,
            heap,
            page_count: page_count as u32,
        })
    }

    /// The smallest region with room for so many slots.
    pub fn length_for(slots: u32) -> u64 {
        (u64::from(slots) * crate::limits::REGION_PER_SLOT).next_power_of_two()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_overlap_and_fit() {
        for length in [1 << 20, 1 << 21, 64 << 20, (64 << 20) + 4096, 1 << 30, 1 << 42] {
            let geometry = Geometry::of(length).unwrap();
            assert!(geometry.logs >= HEADER_SIZE + u64::from(geometry.slot_count) * SLOT_SIZE);
            assert!(geometry.tallies >= geometry.logs + u64::from(geometry.slot_count) * 16 * 1024);
            assert!(geometry.objects >= geometry.marks + length / 4096);
            assert!(geometry.slabs >= geometry.objects + u64::from(geometry.object_count) * 64);
            assert!(geometry.heap >= geometry.slabs + u64::from(geometry.page_count) * 16);
            let end = geometry.heap + u64::from(geometry.page_count) * 4096;
            assert!(end <= length && end + 2 * 4096 > length, "{length}");
            assert!(geometry.page_count > 80, "{length}");
        }
        assert_eq!(Geometry::of(64 << 20).unwrap().slot_count, 2048);
        assert_eq!(Geometry::of(Geometry::length_for(4000)).unwrap().slot_count, 4096);
    }

    #[test]
    fn lengths_out_of_bounds_have_no_layout() {
        for length in [0, 1, 4096, (1 << 20) + 1, u64::MAX, 1 << 43] {
            assert_eq!(Geometry::of(length), None, "{length}");
        }
    }
}
