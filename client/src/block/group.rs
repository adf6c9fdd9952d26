//! Several blocks under one lock.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use common::sys::file::Lock;
use common::sys::range_lock;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::directory::Blocks;
use super::failure::{Doing, Failure, Result};
use super::file::Access;
use super::home::Home;
use super::producer::Producer;

/// The file whose bytes are the groups' locks. It holds nothing.
const FILE: &str = ".groups";

/// A group: its producers exclude each other whatever block they write, and whoever locks it for reading keeps all of
/// them waiting: what is read from its blocks meanwhile was there together. A producer is of a group by its
/// [`Options`](super::Options). Dropped, a group's lock is free.
///
/// Each block is whole by itself: a writer that dies has written those that it had published.
#[derive(Debug)]
pub struct Group {
    blocks: Blocks,
    name: String,
    access: Access,
    file: File,
    /// Device and inode of the file: groups of one name are the same in one directory only.
    place: (u64, u64),
    byte: Range<u64>,
    writing: bool,
    home: Home,
}

impl Group {
    pub(super) fn open(blocks: &Blocks, name: &str, access: Access) -> Result<Self> {
        let mode = match access {
            Access::Read => OFlag::O_RDONLY,
            Access::Write => OFlag::O_RDWR | OFlag::O_CREAT,
        };
        let flags = mode | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let opened = nix::fcntl::openat(blocks.directory(), FILE, flags, Mode::from_bits_truncate(0o600));
        let file = match opened {
            Err(Errno::ELOOP) => {
                return Err(Failure::Refused(format!(
                    "{} is a symbolic link; remove it",
                    blocks.path_of(FILE)
                )));
            }
            opened => File::from(opened.doing(|| format!("cannot open {}", blocks.path_of(FILE)))?),
        };
        let metadata = file.metadata().doing(|| format!("cannot look at {}", blocks.path_of(FILE)))?;
        let byte = place_of(name);
        Ok(Self {
            blocks: blocks.clone(),
            name: name.to_owned(),
            access,
            file,
            place: (metadata.dev(), metadata.ino()),
            byte: byte..byte + 1,
            writing: false,
            home: Home::here(),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Keeps every producer of the group waiting until [`Group::release`].
    ///
    /// # Errors
    /// One has had the lock for longer than `limit`.
    pub fn hold_for_reading(&mut self, limit: Duration) -> Result<()> {
        self.hold(Lock::Shared, limit)
    }

    /// Keeps every other producer of the group waiting, and every consumer that wants its lock, until
    /// [`Group::release`]. Meanwhile [`Group::publish`] writes.
    ///
    /// # Errors
    /// Others have had the lock for longer than `limit`.
    pub fn hold_for_writing(&mut self, limit: Duration) -> Result<()> {
        self.hold(Lock::Exclusive, limit)
    }

    /// Gives the lock back.
    pub fn release(&mut self) {
        self.writing = false;
        self.unlock();
    }

    /// [`Producer::publish`] for a block of the group, which is held for writing.
    ///
    /// # Errors
    /// As there; a block of no group or of another one; a group that is not held.
    pub fn publish(&mut self, producer: &mut Producer, content: &[u8], limit: Duration) -> Result<u64> {
        if !self.writing || !self.home.is_here() {
            return Err(Failure::Order("holding the group for writing"));
        }
        producer.publish_for(self, content, limit)
    }

    fn hold(&mut self, lock: Lock, limit: Duration) -> Result<()> {
        self.release();
        if !self.home.is_here() {
            *self = Self::open(&self.blocks, &self.name, self.access)?;
        }
        if !self.lock(lock, limit)? {
            return Err(Failure::Busy(format!("others have the lock of group {}", self.name)));
        }
        self.writing = lock == Lock::Exclusive;
        Ok(())
    }

    pub(super) fn lock(&self, lock: Lock, limit: Duration) -> Result<bool> {
        range_lock::lock(&self.file, &self.byte, lock, limit)
            .doing(|| format!("cannot lock group {}", self.name))
    }

    pub(super) fn unlock(&self) {
        // In a child that was forked the lock is the parent's.
        if self.home.is_here() {
            // It fails for nothing that an open file with a lock can have.
            let _ = range_lock::unlock(&self.file, &self.byte);
        }
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        (self.place, &self.name) == (other.place, &other.name)
    }
}

impl Drop for Group {
    /// A child that was forked keeps the file open, and with it a lock that was not given back.
    fn drop(&mut self) {
        self.unlock();
    }
}

/// A group's byte. Two groups of one place would only wait for each other; among 2^62 places they do not meet.
fn place_of(name: &str) -> u64 {
    // FNV-1a: every process must find the same.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash >> 2
}
