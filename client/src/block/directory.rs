//! The directory in which blocks are found by name, and what may be in it.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::AcqRel;
use std::time::Duration;

use common::places;
use common::sys::file::{self, Lock};
use common::sys::{futex, range_lock};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::Mode;
use nix::unistd::UnlinkatFlags;

use super::consumer::Consumer;
use super::failure::{Doing, Failure, Result};
use super::file::{Access, Block};
use super::group::Group;
use super::layout::{AT_HEAD, REMOVAL_LOCK, RETIRED};
use super::name;
use super::producer::{Options, Producer};

/// Where blocks are without `--dir`: `blocks` in the run directory.
pub fn default_directory() -> PathBuf {
    places::default_run_dir().join(places::BLOCKS)
}

/// A directory of blocks. It belongs to this process's user, and nobody else may write to it or to what is in it: so no
/// one else can make a file smaller than it says, or lead a name elsewhere.
#[derive(Clone, Debug)]
pub struct Blocks {
    opened: Arc<Opened>,
}

#[derive(Debug)]
struct Opened {
    path: PathBuf,
    directory: File,
}

/// What is under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The name.
    pub name: String,
    /// Bytes of content.
    pub length: u64,
    /// Bytes of content that fit without another file.
    pub capacity: u64,
    /// How many contents there have been.
    pub version: u64,
    /// The group that it belongs to.
    pub group: Option<String>,
}

impl Blocks {
    /// A directory that is there.
    ///
    /// # Errors
    /// It is not there; a link, somebody else's, or one that others may write to.
    pub fn open(path: &Path) -> Result<Self> {
        // Without a slash at its end, behind which a link would be followed.
        let path: PathBuf = path.components().collect();
        let unusable = |why: &dyn std::fmt::Display| {
            Failure::Directory(format!(
                "cannot use {} as directory of blocks: {why}; choose another directory",
                path.display()
            ))
        };
        let directory = file::open_directory(&path).map_err(|error| {
            match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
                Errno::ELOOP | Errno::ENOTDIR => unusable(&"it is a symbolic link or not a directory"),
                Errno::ENOENT => {
                    Failure::Unknown(format!("at all in {}, which does not exist", path.display()))
                }
                _ => unusable(&error),
            }
        })?;
        let metadata = directory.metadata().map_err(|error| unusable(&error))?;
        if metadata.uid() != nix::unistd::geteuid().as_raw() {
            return Err(unusable(&format!("it belongs to uid {}", metadata.uid())));
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(unusable(&"others may write to it"));
        }
        Ok(Self { opened: Arc::new(Opened { path, directory }) })
    }

    /// The same, made if it is not there, so that nobody else can look into it.
    ///
    /// # Errors
    /// As [`Blocks::open`]; what mkdir reports.
    pub fn create(path: &Path) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .or_else(|error| {
                // A link that leads nowhere is for open() to refuse.
                if path.is_symlink() { Ok(()) } else { Err(error) }
            })
            .map_err(|error| {
                Failure::Directory(format!(
                    "cannot create {}: {error}; choose another directory",
                    path.display()
                ))
            })?;
        Self::open(path)
    }

    /// A consumer of the block of this name.
    ///
    /// # Errors
    /// There is none; a file that is not to be used.
    pub fn consumer(&self, name: &str) -> Result<Consumer> {
        Consumer::open(self.clone(), name::checked(name)?)
    }

    /// A producer of the block of this name. The block is there from the first content on.
    ///
    /// # Errors
    /// What is not a name; a size that is too large.
    pub fn producer(&self, name: &str, options: Options) -> Result<Producer> {
        Producer::of(self.clone(), name::checked(name)?, options)
    }

    /// The group of this name. A group need not be made.
    ///
    /// # Errors
    /// What is not a name; what opening the file of groups reports.
    pub fn group(&self, name: &str) -> Result<Group> {
        Group::open(self, name::checked(name)?, Access::Write)
    }

    /// Takes the name away. Whoever uses the block finds out: consumers are told that it was removed, and producers begin
    /// another one. The memory is free when the last of them has let go of it. Waits for at most `limit` for a growth
    /// that is going on.
    ///
    /// # Errors
    /// There is no such block; it was being replaced for too long.
    pub fn remove(&self, name: &str, limit: Duration) -> Result<()> {
        let name = name::checked(name)?;
        loop {
            let Some(block) = Block::open(self, name, Access::Write)? else {
                return Err(Failure::Unknown(name.to_owned()));
            };
            let locked = range_lock::lock(block.file(), &REMOVAL_LOCK, Lock::Exclusive, limit);
            if !locked.doing(|| format!("cannot lock block {name}"))? {
                return Err(Failure::Busy(format!("block {name} is being replaced or removed")));
            }
            if !self.leads_to(name, &block)? {
                continue;
            }
            block.word(AT_HEAD).fetch_or(RETIRED, AcqRel);
            self.unlink(name)?;
            futex::wake_all(block.word(AT_HEAD));
            return Ok(());
        }
    }

    /// Every name in it, in order.
    ///
    /// # Errors
    /// What reading a directory reports.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = self.entries()?;
        names.retain(|name| name::is_name(name));
        names.sort();
        Ok(names)
    }

    /// What is under a name; `None` where nothing is.
    ///
    /// # Errors
    /// A file that is not to be used.
    pub fn look_at(&self, name: &str) -> Result<Option<Listed>> {
        let Some(block) = Block::open(self, name::checked(name)?, Access::Read)? else { return Ok(None) };
        let (version, length) = block.standing()?;
        let (capacity, group) = (block.geometry().capacity, block.group().map(ToOwned::to_owned));
        Ok(Some(Listed { name: name.to_owned(), length, capacity, version, group }))
    }

    /// Every entry but those that are in every directory.
    pub(super) fn entries(&self) -> Result<Vec<String>> {
        let doing = || format!("cannot read {}", self.opened.path.display());
        // Opened anew: the position in a directory belongs to the opening.
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut listing = Dir::openat(self.directory(), ".", flags, Mode::empty()).doing(doing)?;
        let mut entries = Vec::new();
        for entry in listing.iter() {
            if let Ok(name) = entry.doing(doing)?.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                entries.push(name.to_owned());
            }
        }
        Ok(entries)
    }

    /// Whether a name leads to this block now.
    pub(super) fn leads_to(&self, name: &str, block: &Block) -> Result<bool> {
        match nix::sys::stat::fstatat(self.directory(), name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(block.is_file(stat.st_dev, stat.st_ino)),
            Err(Errno::ENOENT) => Ok(false),
            Err(error) => Err(error).doing(|| format!("cannot look at block {name}")),
        }
    }

    /// Removes a file, if it is there.
    pub(super) fn unlink(&self, name: &str) -> Result<()> {
        match nix::unistd::unlinkat(self.directory(), name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error).doing(|| format!("cannot remove {}", self.path_of(name))),
        }
    }

    pub(super) fn directory(&self) -> &File {
        &self.opened.directory
    }

    pub(super) fn path_of(&self, name: &str) -> String {
        self.opened.path.join(name).display().to_string()
    }
}
