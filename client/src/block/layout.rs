//! What a block's file holds, byte for byte. All words are 64 bits in the machine's order.
//!
//! ```text
//!    0  magic, format, capacity of a buffer, buffers, identity, boot, producer's pid, buffers that have memory
//!   64  head: version << 8 | retired << 4 | buffer           the only word that says what is current
//!  256  length of the group's name, and the name
//! 1024  for each buffer, 64 bytes apart: stamp (the version of what is in it; 0 while it is written), length
//! 4096  the buffers
//! ```
//!
//! Everything before the head never changes once the file has its name, but the last two. A file is never made smaller
//! while anybody may have it open, so that no access to a mapping of it can fail.
//!
//! A writer holds the block's lock (or its group's). It takes a buffer that is not current, sets its stamp to 0, looks whether
//! somebody has pinned it (then it takes another), writes content and length, sets the stamp to the new version, and then
//! the head. Whoever dies before the last of these
//! stores has changed nothing that a reader takes for current. A reader takes version and buffer from the head, and
//! what it copies is that version if the buffer's stamp is, before and afterwards.
//!
//! Content that does not fit goes to another file that takes the name. The old one's head is marked as retired first:
//! whoever sees that looks at the name. The same mark precedes a removal.

use std::ops::Range;

/// Most bytes of content.
pub const MAX_CONTENT: u64 = 1 << 30;

/// What a file begins with.
pub const MAGIC: u64 = u64::from_le_bytes(*b"HFblock\n");

/// The format's version.
pub const FORMAT: u64 = 1;

/// Buffers of a file. Those of a small block are all there from the beginning, so that a reader must be overtaken by so
/// many versions before it has to read again; those of a large one get memory when they are needed.
pub const BUFFERS: u64 = 8;

/// Buffers that have memory from the beginning.
pub const FIRST_BUFFERS: u64 = 2;

/// From this capacity on a block is large: its buffers can be pinned, and begin at a page.
pub const LARGE: u64 = 16 * 1024;

pub const AT_MAGIC: u64 = 0;
pub const AT_FORMAT: u64 = 8;
pub const AT_CAPACITY: u64 = 16;
pub const AT_BUFFERS: u64 = 24;
pub const AT_IDENTITY: u64 = 32;
pub const AT_BOOT: u64 = 40;
pub const AT_PRODUCER: u64 = 48;
pub const AT_BACKED: u64 = 56;
pub const AT_HEAD: u64 = 64;
pub const AT_GROUP_LENGTH: u64 = 256;
pub const AT_GROUP: u64 = 264;
const AT_BUFFER_WORDS: u64 = 1024;

/// Bytes before the first buffer.
pub const HEADER: u64 = 4096;

/// The bytes whose kernel locks mean something. None of them is in the file.
pub const WRITER_LOCK: Range<u64> = byte(0);
/// Held while the file loses its name.
pub const REMOVAL_LOCK: Range<u64> = byte(1);
/// Held while the file has no name of a block yet.
pub const MAKER_LOCK: Range<u64> = byte(2);

/// Held, shared, by those who use a buffer's content in place. Who is about to write to it looks whether somebody has it.
pub const fn pin_lock(buffer: u64) -> Range<u64> {
    byte(16 + buffer)
}

const fn byte(number: u64) -> Range<u64> {
    (1 << 40) + number..(1 << 40) + number + 1
}

/// How a file is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of content that fit into a buffer.
    pub capacity: u64,
    /// How many buffers there are.
    pub buffers: u64,
}

impl Geometry {
    /// For content of so many bytes.
    pub fn for_content(bytes: u64) -> Self {
        let unit = if bytes <= LARGE { 64 } else { HEADER };
        Self { capacity: bytes.clamp(1, MAX_CONTENT).next_multiple_of(unit), buffers: BUFFERS }
    }

    /// As a file says; `None` where it cannot be.
    pub fn said(capacity: u64, buffers: u64) -> Option<Self> {
        let sensible = (64..=MAX_CONTENT).contains(&capacity)
            && capacity.is_multiple_of(64)
            && (FIRST_BUFFERS..=BUFFERS).contains(&buffers);
        sensible.then_some(Self { capacity, buffers })
    }

    /// Whether buffers can be pinned.
    pub fn is_large(self) -> bool {
        self.capacity > LARGE
    }

    /// Bytes from one buffer to the next.
    pub fn stride(self) -> u64 {
        if self.is_large() { self.capacity.next_multiple_of(HEADER) } else { self.capacity }
    }

    /// Where a buffer begins.
    pub fn buffer(self, index: u64) -> u64 {
        HEADER + index * self.stride()
    }

    /// Bytes of the file.
    pub fn file_length(self) -> u64 {
        self.buffer(self.buffers)
    }
}

/// Where a buffer's stamp is.
pub const fn stamp_of(buffer: u64) -> u64 {
    AT_BUFFER_WORDS + buffer * 64
}

/// Where the length of a buffer's content is.
pub const fn length_of(buffer: u64) -> u64 {
    stamp_of(buffer) + 8
}

/// The word that says what is current.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head(pub u64);

/// In a head: look at the name.
pub const RETIRED: u64 = 1 << 4;

impl Head {
    /// This version is in this buffer.
    pub const fn new(version: u64, buffer: u64) -> Self {
        Self(version << 8 | buffer)
    }

    /// The version.
    pub const fn version(self) -> u64 {
        self.0 >> 8
    }

    /// The buffer that it is in.
    pub const fn buffer(self) -> u64 {
        self.0 & 0xf
    }

    /// Whether the name may lead elsewhere.
    pub const fn is_retired(self) -> bool {
        self.0 & RETIRED != 0
    }
}

const _: () =
    assert!(stamp_of(BUFFERS) <= HEADER && AT_GROUP + super::name::MAX_NAME as u64 <= AT_BUFFER_WORDS);
const _: () = assert!(BUFFERS <= 16 && LARGE.is_multiple_of(64));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_what_is_said() {
        for bytes in [1, 63, 64, 65, LARGE, LARGE + 1, 1 << 20, MAX_CONTENT - 1, MAX_CONTENT] {
            let made = Geometry::for_content(bytes);
            assert!(made.capacity >= bytes);
            assert_eq!(Geometry::said(made.capacity, made.buffers), Some(made));
        }
        for (capacity, buffers) in
            [(0, 2), (65, 2), (MAX_CONTENT + 64, 2), (64, 1), (64, 9), (u64::MAX, u64::MAX)]
        {
            assert_eq!(Geometry::said(capacity, buffers), None);
        }
    }

    #[test]
    fn a_head_holds_what_it_was_made_of() {
        let head = Head::new(1 << 40, 7);
        assert_eq!((head.version(), head.buffer(), head.is_retired()), (1 << 40, 7, false));
        assert!(Head(head.0 | RETIRED).is_retired());
        assert_eq!(Head(head.0 | RETIRED).version(), 1 << 40);
    }
}
