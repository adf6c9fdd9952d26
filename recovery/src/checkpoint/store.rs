//! The directory `SPOOL/checkpoint`: the last two checkpoints, and up to which minute both cover the journal. A checkpoint is
//! complete and on the disk before it gets its name.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use common::ids::Minute;
use common::journal::spool::Spool;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::format;

/// The directory's name in the spool.
pub const DIRECTORY: &str = "checkpoint";

const NEXT: &str = ".next";
const COVERED: &str = "covered";
const COVERED_NEXT: &str = ".covered.next";
const SUFFIX: &str = ".checkpoint";
const DAMAGED: &str = ".damaged";

/// How many are kept.
const KEPT: usize = 2;

/// The checkpoints of a spool.
#[derive(Debug)]
pub struct Store {
    directory: File,
}

impl Store {
    /// Opens the directory; `None` where there is none.
    ///
    /// # Errors
    /// What open reports besides.
    pub fn open(spool: &Spool) -> io::Result<Option<Self>> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(spool.directory(), DIRECTORY, flags, Mode::empty()) {
            Ok(directory) => Ok(Some(Self { directory: directory.into() })),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The same, and makes it where there is none. Its name is on the disk with the next sync of the spool's directory.
    ///
    /// # Errors
    /// What mkdir and open report.
    pub fn open_or_create(spool: &Spool) -> io::Result<Self> {
        match mkdirat(spool.directory(), DIRECTORY, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        Self::open(spool)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// The numbers of the checkpoints, the newest last; and the highest that there ever was.
    ///
    /// # Errors
    /// What reading the directory reports.
    pub fn numbers(&self) -> io::Result<(Vec<u64>, u64)> {
        let (mut good, mut highest) = (Vec::new(), 0);
        for entry in std::fs::read_dir(format!("/proc/self/fd/{}", self.directory.as_raw_fd()))? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            let (name, damaged) = match name.strip_suffix(DAMAGED) {
                Some(name) => (name, true),
                None => (name, false),
            };
            let Some(number) = name.strip_suffix(SUFFIX).and_then(|number| number.parse().ok()) else {
                continue;
            };
            highest = highest.max(number);
            if !damaged && name_of(number) == name {
                good.push(number);
            }
        }
        good.sort_unstable();
        Ok((good, highest))
    }

    /// Opens a checkpoint.
    ///
    /// # Errors
    /// What open reports.
    pub fn read(&self, number: u64) -> io::Result<File> {
        self.open_file(&name_of(number), OFlag::O_RDONLY)
    }

    /// The file of a checkpoint that is being written, empty.
    ///
    /// # Errors
    /// What open reports.
    pub fn begin(&self) -> io::Result<File> {
        self.open_file(NEXT, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_TRUNC)
    }

    /// It will not be one.
    pub fn abandon(&self) {
        let _ = unlinkat(self.fd(), NEXT, UnlinkatFlags::NoRemoveDir);
    }

    /// What was written is a checkpoint: on the disk, then under its name, which is then on the disk.
    ///
    /// # Errors
    /// What fsync and rename report.
    pub fn publish(&self, file: &File, number: u64) -> io::Result<()> {
        file.sync_all()?;
        renameat(self.fd(), NEXT, self.fd(), name_of(number).as_str())?;
        self.directory.sync_all()
    }

    /// Writes down up to which minute every record is in both checkpoints, removes those beyond two, and gives the minute.
    ///
    /// # Errors
    /// What writing, fsync, rename and unlink report.
    pub fn settle(&self) -> io::Result<Minute> {
        let (numbers, _) = self.numbers()?;
        let kept = &numbers[numbers.len().saturating_sub(KEPT)..];
        let moments = kept.iter().map(|number| Ok(format::read_moment(&self.read(*number)?).ok()));
        let moments: Vec<_> = moments.collect::<io::Result<_>>()?;
        let oldest = moments.iter().map(|moment| moment.map_or(0, |moment| moment.open.minute.0)).min();
        let covered = Minute(if kept.len() == KEPT { oldest.unwrap_or(0) } else { 0 });
        let mut next = self.open_file(COVERED_NEXT, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_TRUNC)?;
        writeln!(next, "{covered}")?;
        next.sync_all()?;
        // Should the machine forget this, what was there before is true as well.
        renameat(self.fd(), COVERED_NEXT, self.fd(), COVERED)?;
        for number in &numbers[..numbers.len() - kept.len()] {
            unlinkat(self.fd(), name_of(*number).as_str(), UnlinkatFlags::NoRemoveDir)?;
        }
        Ok(covered)
    }

    /// A checkpoint that cannot be used is kept for inspection under another name.
    ///
    /// # Errors
    /// What rename reports.
    pub fn set_aside(&self, number: u64) -> io::Result<()> {
        let name = name_of(number);
        renameat(self.fd(), name.as_str(), self.fd(), format!("{name}{DAMAGED}").as_str())?;
        self.directory.sync_all()
    }

    fn open_file(&self, name: &str, flags: OFlag) -> io::Result<File> {
        let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        Ok(File::from(openat(self.fd(), name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?))
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// The name of a checkpoint's file.
pub fn name_of(number: u64) -> String {
    format!("{number}{SUFFIX}")
}
