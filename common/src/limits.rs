//! Every bound in one place. What comes from outside is held against these before it is used.

/// Longest request, without its terminator, in bytes.
pub const MAX_REQUEST: usize = 64 * 1024;

/// Longest journal record in bytes: a request of control characters only, each escaped to six bytes, and the fields around it.
pub const MAX_RECORD: usize = 6 * MAX_REQUEST + 1024;

/// Longest control frame in bytes.
pub const MAX_FRAME: usize = 48 * 1024;

/// Most file descriptors that one control frame carries (the kernel's own bound is 253).
pub const MAX_FRAME_FDS: usize = 80;

/// Most owners named in one repair frame, so that the frame stays far below [`MAX_FRAME`].
pub const MAX_REPAIRS_PER_FRAME: usize = 2048;

/// Most programs that are attached to one instance, so that all of them can be named in one frame.
pub const MAX_CLIENTS: usize = 4096;

/// Most listening sockets.
pub const MAX_LISTENERS: usize = 64;

/// Most slots of a region: what a block's 16-bit state can name beside FREE and USED.
pub const MAX_SLOTS: u32 = 65_534;

/// Smallest and largest region in bytes.
pub const REGION_SIZES: std::ops::RangeInclusive<u64> = (1 << 20)..=(1 << 42);

/// A region of so many bytes is given huge pages when it is created: below, it is small enough for the processor's caches
/// of addresses, and nobody notices the rest. But one does notice the start: in a virtual machine huge pages are made of
/// memory that nobody has used for long, which its host has to provide first; small ones are at hand.
pub const HUGE_PAGES_FROM: u64 = 128 << 20;

/// Bytes of undo log per slot, the small log of mini-transactions included.
pub const UNDO_LOG_SIZE: u64 = 16 * 1024;

/// How many of them are the small log's.
pub const MINI_LOG_SIZE: u64 = 2 * 1024;

/// One slot for so many bytes of region: half of it goes to the slots' undo logs.
pub const REGION_PER_SLOT: u64 = 2 * UNDO_LOG_SIZE;

/// Most locks that one owner holds at a time. One of them is kept for the heap's.
pub const MAX_HELD: usize = 31;

/// One entry of the object table for so many bytes of region.
pub const REGION_PER_OBJECT: u64 = 16 * 1024;

/// Most objects of a region.
pub const MAX_OBJECTS: u32 = 65_536;

/// Bytes of a page of the heap.
pub const PAGE_SIZE: u64 = 4096;

/// How many words of 8 bytes that is.
pub const WORDS_OF_PAGE: usize = PAGE_SIZE as usize / size_of::<u64>();

/// Longest block of the heap, in pages.
pub const MAX_BLOCK_PAGES: u32 = 64;

/// Longest name of an object or a folder in bytes.
pub const MAX_NAME: usize = 64;

/// Longest key of a map in bytes.
pub const MAX_KEY: usize = 1024;

/// Longest value of a map in bytes.
pub const MAX_VALUE: usize = 128 * 1024;

/// A value up to this length is changed in place; what is longer is written to another block, and only the pointer to it
/// is logged.
pub const MAX_IN_PLACE: usize = 256;

/// Longest item of a queue in bytes.
pub const MAX_ITEM: usize = MAX_VALUE;

/// Longest blob in bytes.
pub const MAX_BLOB: u64 = 64 << 20;

/// Most folders in a path.
pub const MAX_DEPTH: usize = 8;

/// Most items of queues that one owner has taken and not finished.
pub const MAX_IN_FLIGHT: usize = 12;

/// Users with a row of their own: each slot counts for them in cells that nobody else writes.
pub const USER_ROWS: usize = 64;

/// Bytes of the text that says what a slot's owner is doing.
pub const DOING_SIZE: usize = 128;

/// Minute files that may be open or unsealed at a time.
pub const JOURNAL_RING: usize = 8;

/// Disk space is reserved in steps of so many bytes.
pub const RESERVE_STEP: u64 = 1 << 20;

/// Largest minute file in bytes: what the offset part of a tail word holds.
pub const MAX_MINUTE_FILE: u64 = 1 << 44;

/// Longest name of a user in bytes, as it stands in a users file.
pub const MAX_USER: usize = 255;
