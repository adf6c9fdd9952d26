//! A block's file, opened, verified and mapped. What its words say is an allegation: every one is held against the
//! file's geometry before it is used.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::atomic::fence;
use std::sync::{Mutex, PoisonError};

use common::ids::Offset;
use common::planted::{self, Bug};
use common::sys::file::Lock;
use common::sys::map::Mapping;
use common::sys::{copy, process, range_lock};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::directory::Blocks;
use super::failure::{Doing, Failure, Result};
use super::home::Home;
use super::layout::{
    AT_BOOT, AT_BUFFERS, AT_CAPACITY, AT_FORMAT, AT_GROUP, AT_GROUP_LENGTH, AT_HEAD, AT_IDENTITY, AT_MAGIC,
    BUFFERS, FORMAT, Geometry, HEADER, Head, MAGIC, length_of, pin_lock, stamp_of,
};
use super::name;

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing can be written through it.
    Read,
    /// Reading and writing.
    Write,
}

/// A file and its mapping.
#[derive(Debug)]
pub struct Block {
    file: File,
    mapping: Mapping,
    geometry: Geometry,
    identity: u64,
    group: Option<String>,
    stale: bool,
    place: (u64, u64),
    home: Home,
    /// How often each buffer is pinned through this opening: the kernel does not count.
    pins: Mutex<[u32; BUFFERS as usize]>,
}

/// Where the current content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its version.
    pub version: u64,
    /// The buffer that it is in.
    pub buffer: u64,
    /// Its bytes.
    pub length: u64,
}

impl Block {
    /// Opens the file of this name; `None` where there is none.
    pub fn open(blocks: &Blocks, name: &str, access: Access) -> Result<Option<Self>> {
        let refused = |why: &dyn std::fmt::Display| {
            Failure::Refused(format!("{} is not to be used: {why}; remove it", blocks.path_of(name)))
        };
        let Some(file) = open_file(blocks, name, access)? else { return Ok(None) };
        let metadata = file.metadata().doing(|| format!("cannot look at block {name}"))?;
        if !metadata.is_file() {
            return Err(refused(&"it is not a file"));
        }
        if metadata.uid() != nix::unistd::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(refused(&"it belongs to another user, or others may write to it"));
        }
        if metadata.len() < HEADER {
            return Err(refused(&"it is not a block"));
        }
        let block = Self::map(file, access).doing(|| format!("cannot map block {name}"))?;
        block
            .ok_or_else(|| refused(&"it is not a block, or one of another version of this program"))
            .map(Some)
    }

    /// Maps a file that has a header; `None` where that is not a block's.
    pub fn map(file: File, access: Access) -> std::io::Result<Option<Self>> {
        let mapping = match access {
            Access::Read => Mapping::read_only(&file)?,
            Access::Write => Mapping::writable(&file)?,
        };
        let metadata = file.metadata()?;
        let word = |offset: u64| mapping.at(Offset(offset)).map_or(0, |word: &AtomicU64| word.load(Acquire));
        let geometry = Geometry::said(word(AT_CAPACITY), word(AT_BUFFERS));
        let Some(geometry) = geometry.filter(|said| {
            word(AT_MAGIC) == MAGIC && word(AT_FORMAT) == FORMAT && said.file_length() <= mapping.length()
        }) else {
            return Ok(None);
        };
        let mut group = vec![0; word(AT_GROUP_LENGTH).min(name::MAX_NAME as u64) as usize];
        let copied = copy::out_of(&mapping, Offset(AT_GROUP), &mut group);
        let group = String::from_utf8(group).ok().filter(|group| copied && name::is_name(group));
        Ok(Some(Self {
            identity: word(AT_IDENTITY),
            stale: word(AT_BOOT) != boot_word()?,
            place: (metadata.dev(), metadata.ino()),
            home: Home::here(),
            pins: Mutex::default(),
            file,
            mapping,
            geometry,
            group,
        }))
    }

    /// A word of the header or of a buffer's description.
    #[inline]
    pub fn word(&self, offset: u64) -> &AtomicU64 {
        self.mapping.at(Offset(offset)).expect("the header is mapped, and the offset is one of the layout's")
    }

    /// What is current.
    #[inline]
    pub fn head(&self) -> Head {
        Head(self.word(AT_HEAD).load(Acquire))
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether this process has opened it, and not one that it was forked from. Its locks are the opener's.
    pub fn is_own(&self) -> bool {
        self.home.is_here()
    }

    /// Takes a lock of this process off.
    pub fn unlock(&self, bytes: &Range<u64>) {
        if self.is_own() {
            // It fails for nothing that an open file with a lock can have.
            let _ = range_lock::unlock(&self.file, bytes);
        }
    }

    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The same for all the files that one block has had.
    pub fn identity(&self) -> u64 {
        self.identity
    }

    /// The group whose lock is this block's.
    pub fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }

    /// Writes into a file that has no name yet whose identity and group it has.
    pub fn become_of(&mut self, identity: u64, group: Option<&str>) -> std::io::Result<()> {
        let name = group.unwrap_or_default().as_bytes();
        if name.len() > name::MAX_NAME || !copy::into(&self.mapping, Offset(AT_GROUP), name) {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        self.word(AT_GROUP_LENGTH).store(name.len() as u64, Relaxed);
        self.word(AT_IDENTITY).store(identity, Relaxed);
        (self.identity, self.group) = (identity, group.map(ToOwned::to_owned));
        Ok(())
    }

    /// Whether it is from before the machine was started: nobody knows then what of it reached the disk.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// Whether it is this file.
    pub fn is_file(&self, device: u64, inode: u64) -> bool {
        self.place == (device, inode)
    }

    /// Has the processor fetch what the version after `head` will most likely be in, while it still looks at what is current.
    pub fn foresee_next(&self, head: Head) {
        let next = (head.buffer() + 1) % self.geometry.buffers;
        self.mapping.prefetch(Offset(stamp_of(next)));
        self.mapping.prefetch(Offset(self.geometry.buffer(next)));
    }

    /// Has the processor fetch a buffer that is written next, ahead of that: consumers have it in their caches.
    #[inline]
    pub fn expect_to_write(&self, buffer: u64) {
        for offset in [self.geometry.buffer(buffer), stamp_of(buffer)] {
            self.mapping.prefetch_to_write(Offset(offset));
        }
    }

    /// Finds the content that `head` tells of; `None` where it is not there any more.
    #[inline]
    pub fn find(&self, head: Head) -> Result<Option<Found>> {
        let (version, buffer) = (head.version(), head.buffer());
        if buffer >= self.geometry.buffers || version == 0 {
            return Err(damaged());
        }
        if self.word(stamp_of(buffer)).load(Acquire) != version {
            return Ok(None);
        }
        let length = self.word(length_of(buffer)).load(Relaxed);
        if (1..=self.geometry.capacity).contains(&length) {
            return Ok(Some(Found { version, buffer, length }));
        }
        if self.still_holds(buffer, version) { Err(damaged()) } else { Ok(None) }
    }

    /// Whether what was copied from a buffer is this version, wholly.
    #[inline]
    pub fn still_holds(&self, buffer: u64, version: u64) -> bool {
        fence(Acquire);
        self.word(stamp_of(buffer)).load(Relaxed) == version
    }

    /// Copies what is current; `None` where it was overwritten meanwhile.
    #[inline]
    pub fn copy(&self, head: Head, into: &mut Vec<u8>) -> Result<Option<u64>> {
        let Some(found) = self.find(head)? else { return Ok(None) };
        into.resize(found.length as usize, 0);
        if !copy::out_of(&self.mapping, Offset(self.geometry.buffer(found.buffer)), into) {
            return Err(damaged());
        }
        let holds = planted::has(Bug::CopyTrusted) || self.still_holds(found.buffer, found.version);
        Ok(holds.then_some(found.version))
    }

    /// Version and length of what is current.
    pub fn standing(&self) -> Result<(u64, u64)> {
        for _ in 0..1000 {
            if let Some(found) = self.find(self.head())? {
                return Ok((found.version, found.length));
            }
        }
        Err(Failure::Busy("the block is being overwritten all the time".to_owned()))
    }

    /// Keeps writers from a buffer, if it still holds then what is looked for. False where one of another version of this
    /// library is at it.
    pub fn pin(&self, buffer: u64) -> Result<bool> {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        let pinned = &mut pins[buffer as usize];
        let taken = *pinned > 0 || {
            let locked = range_lock::try_lock(&self.file, &pin_lock(buffer), Lock::Shared);
            locked.doing(|| "cannot pin a block".to_owned())?
        };
        *pinned += u32::from(taken);
        // Whoever pins looks then whether the content is still there, see `place::choose`.
        fence(SeqCst);
        Ok(taken)
    }

    /// Lets writers have it again.
    pub fn unpin(&self, buffer: u64) {
        if !self.is_own() {
            return;
        }
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        let pinned = &mut pins[buffer as usize];
        *pinned = pinned.saturating_sub(1);
        if *pinned == 0 {
            self.unlock(&pin_lock(buffer));
        }
    }
}

/// This boot, in a word.
pub fn boot_word() -> std::io::Result<u64> {
    Ok(process::boot_id()? as u64)
}

/// What no writer writes.
pub fn damaged() -> Failure {
    Failure::Refused("the block is damaged: something else has written to its file; remove it".to_owned())
}

fn open_file(blocks: &Blocks, name: &str, access: Access) -> Result<Option<File>> {
    let mode = if access == Access::Read { OFlag::O_RDONLY } else { OFlag::O_RDWR };
    // Something that is no file must not keep the opener waiting.
    let flags = mode | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    match nix::fcntl::openat(blocks.directory(), name, flags, Mode::empty()) {
        Ok(file) => Ok(Some(File::from(file))),
        Err(Errno::ENOENT) => Ok(None),
        Err(Errno::ELOOP) => {
            Err(Failure::Refused(format!("{} is a symbolic link; remove it", blocks.path_of(name))))
        }
        Err(error) => Err(error).doing(|| format!("cannot open block {name}")),
    }
}
