//! Making a file: under a name that no block can have, until it holds its first content.
//!
//! Whoever makes one holds the lock of such files, and whoever makes the next one removes those whose lock is free:
//! their makers are dead.

use std::fs::File;
use std::sync::atomic::Ordering::Relaxed;

use common::ids::Offset;
use common::sys::file::{self, Lock};
use common::sys::{process, range_lock};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::directory::Blocks;
use super::failure::{Doing, Failure, Result};
use super::file::{Access, Block, boot_word};
use super::home::Home;
use super::layout::{
    AT_BACKED, AT_BOOT, AT_BUFFERS, AT_CAPACITY, AT_FORMAT, AT_MAGIC, AT_PRODUCER, FIRST_BUFFERS, FORMAT,
    Geometry, HEADER, MAGIC, MAKER_LOCK, WRITER_LOCK,
};

/// What the names of such files begin with.
const PREFIX: &str = ".new-";

/// A file that is no block yet. Dropped as such, it is gone.
#[derive(Debug)]
pub struct Fresh {
    blocks: Blocks,
    name: Option<String>,
    block: Option<Block>,
    home: Home,
}

impl Fresh {
    /// Makes one, with its writer's lock taken. Which block it is of is said by [`Fresh::follow`].
    pub fn make(blocks: &Blocks, geometry: Geometry) -> Result<Self> {
        reclaim(blocks)?;
        let (name, file) = create(blocks)?;
        let mut this = Self { blocks: blocks.clone(), name: Some(name), block: None, home: Home::here() };
        let doing = || format!("cannot reserve {} bytes for a block", geometry.buffer(FIRST_BUFFERS));
        file.set_len(geometry.file_length()).doing(doing)?;
        let first = if geometry.is_large() { FIRST_BUFFERS } else { geometry.buffers };
        file::reserve(&file, 0, geometry.buffer(first)).doing(doing)?;
        range_lock::try_lock(&file, &WRITER_LOCK, Lock::Exclusive)
            .doing(|| "cannot lock a block".to_owned())?;
        this.block = Some(filled(file, geometry, first).doing(doing)?);
        Ok(this)
    }

    /// The block that it will be.
    pub fn block(&self) -> Result<&Block> {
        self.block.as_ref().ok_or(Failure::Order("making"))
    }

    /// Makes it one that can follow another, or begin a new block: of this identity and group. As long as it has no name.
    pub fn follow(&mut self, identity: u64, group: Option<&str>) -> Result<()> {
        let block = self.block.as_mut().ok_or(Failure::Order("making"))?;
        block.become_of(identity, group).doing(|| "cannot make a block follow another".to_owned())
    }

    /// Gives it its name. False where the name is taken and is not to be replaced.
    pub fn take_name(&mut self, name: &str, replace: bool) -> Result<bool> {
        let Some(made) = &self.name else { return Ok(true) };
        match file::rename_in(self.blocks.directory(), made, name, replace) {
            Ok(()) => self.name = None,
            Err(error) if error.raw_os_error() == Some(Errno::EEXIST as i32) => return Ok(false),
            Err(error) => return Err(error).doing(|| format!("cannot name block {name}")),
        }
        Ok(true)
    }

    /// The block that it has become.
    pub fn into_block(mut self) -> Result<Block> {
        let block = self.block.take().ok_or(Failure::Order("making"))?;
        range_lock::unlock(block.file(), &MAKER_LOCK).doing(|| "cannot unlock a block".to_owned())?;
        Ok(block)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // In a child that was forked it is the parent's, who goes on with it.
        if let Some(name) = self.name.as_ref().filter(|_| self.home.is_here()) {
            // Whoever makes the next one will see to it.
            let _ = self.blocks.unlink(name);
        }
    }
}

/// An empty file under a name of its own, with the lock of those who make one.
fn create(blocks: &Blocks) -> Result<(String, File)> {
    let doing = || format!("cannot create a file in {}", blocks.path_of(""));
    loop {
        let name = format!("{PREFIX}{:016x}", process::random_word().doing(doing)?);
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let file = match nix::fcntl::openat(
            blocks.directory(),
            name.as_str(),
            flags,
            Mode::from_bits_truncate(0o600),
        ) {
            Ok(file) => File::from(file),
            Err(Errno::EEXIST) => continue,
            Err(error) => return Err(error).doing(doing),
        };
        // Between the two another may have taken it for a dead one's.
        if range_lock::try_lock(&file, &MAKER_LOCK, Lock::Exclusive).doing(doing)?
            && std::os::unix::fs::MetadataExt::nlink(&file.metadata().doing(doing)?) > 0
        {
            return Ok((name, file));
        }
    }
}

fn filled(file: File, geometry: Geometry, backed: u64) -> std::io::Result<Block> {
    let words = [
        (AT_MAGIC, MAGIC),
        (AT_FORMAT, FORMAT),
        (AT_CAPACITY, geometry.capacity),
        (AT_BUFFERS, geometry.buffers),
        (AT_BOOT, boot_word()?),
        (AT_PRODUCER, u64::from(std::process::id())),
        (AT_BACKED, backed),
    ];
    let header = common::sys::map::Mapping::writable(&file)?;
    for (offset, value) in words {
        if let Some(word) = header.at::<std::sync::atomic::AtomicU64>(Offset(offset)) {
            word.store(value, Relaxed);
        }
    }
    debug_assert!(header.length() >= HEADER);
    drop(header);
    Ok(Block::map(file, Access::Write)?.ok_or(std::io::ErrorKind::InvalidData)?)
}

/// Removes the files whose makers are dead.
fn reclaim(blocks: &Blocks) -> Result<()> {
    for name in blocks.entries()?.iter().filter(|name| name.starts_with(PREFIX)) {
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        // It may have become a block, or have been removed by another, in between.
        let Ok(file) = nix::fcntl::openat(blocks.directory(), name.as_str(), flags, Mode::empty()) else {
            continue;
        };
        if range_lock::try_lock(&file, &MAKER_LOCK, Lock::Exclusive).unwrap_or(false) {
            blocks.unlink(name)?;
        }
    }
    Ok(())
}
