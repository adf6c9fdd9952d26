//! The spool directory: which minute files there are, and who may still write one.
//!
//! `M.dat.lock` is a hard link to `.writers`, on which the supervisor and all its children hold one shared kernel lock:
//! the name exists, and the inode is locked, exactly while someone may write `M.dat`. A device that writes alone has
//! `.device` in its place, and locks it for itself.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use crate::error::{Context, Error, Result};
use crate::ids::Minute;
use crate::journal::names::Kind;
pub use crate::journal::names::{data_name, lock_name, shipped_name};
use crate::journal::single::seal_leftovers;
use crate::sys::file::{self, Lock};

mod listing;

mod sealed;

/// How long the children of a dead instance may take to be gone.
const CHILDREN_GONE: Duration = Duration::from_secs(10);

/// Whose minutes a spool's locks speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// A supervisor and its children.
    Instance,
    /// A device, alone.
    Device,
}

impl Writers {
    /// The file that their locks are links to.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Instance => ".writers",
            Self::Device => ".device",
        }
    }
}

/// An open spool directory.
#[derive(Debug)]
pub struct Spool {
    directory: File,
    writers: Writers,
}

/// A minute file in the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MinuteFile {
    /// Which.
    pub minute: Minute,
    /// Bytes.
    pub size: u64,
    /// Whether its lock file exists.
    pub locked: bool,
}

/// Something in the spool under a name of ours.
#[derive(Debug)]
pub struct Entry {
    /// Of which minute.
    pub minute: Minute,
    /// What it is.
    pub kind: Kind,
    /// Where it stands.
    pub entry: std::fs::DirEntry,
}

impl Spool {
    /// Opens the spool, creating the directory if need be.
    ///
    /// # Errors
    /// A path that is not a directory or may not be used (exit 2).
    pub fn open_or_create(path: &Path) -> Result<Self> {
        Self::create_for(path, "--spool-dir")
    }

    /// The same where the path was given by another option.
    ///
    /// # Errors
    /// As [`Spool::open_or_create`].
    pub fn create_for(path: &Path, option: &str) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let unusable = |error: io::Error| {
            Error::usage(format!(
                "cannot use {} as the spool: {error}; choose another {option}",
                path.display()
            ))
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
        let directory = File::open(path).map_err(unusable)?;
        // Also what is a file and no directory can be opened.
        if !directory.metadata().map_err(unusable)?.is_dir() {
            return Err(unusable(io::ErrorKind::NotADirectory.into()));
        }
        Ok(Self::from_directory(directory))
    }

    /// The spool behind an open directory.
    pub fn from_directory(directory: File) -> Self {
        Self { directory, writers: Writers::Instance }
    }

    /// The same spool, seen as these writers'.
    #[must_use]
    pub fn of(self, writers: Writers) -> Self {
        Self { writers, ..self }
    }

    /// The same spool once more, seen as these writers'.
    ///
    /// # Errors
    /// What dup reports.
    pub fn seen_as(&self, writers: Writers) -> io::Result<Self> {
        Ok(Self { directory: self.directory.try_clone()?, writers })
    }

    /// The directory.
    pub fn directory(&self) -> &File {
        &self.directory
    }

    /// Takes the spool for one instance and gives the lock that its children inherit.
    ///
    /// # Errors
    /// Another instance writes here (exit 3); a file system that cannot reserve space (exit 2).
    pub fn take(&self) -> Result<File> {
        self.refuse_device()?;
        let writers = self.take_alone("another instance writes to this spool; choose another --spool-dir")?;
        match file::try_lock(&writers, Lock::Shared).context(|| self.cannot_lock())? {
            true => Ok(writers),
            false => Err(Error::failure(self.cannot_lock())),
        }
    }

    /// Two kinds of writers would not know of each other's minutes.
    fn refuse_device(&self) -> Result<()> {
        let doing = || "cannot examine the spool".to_owned();
        let device = self.seen_as(Writers::Device).context(doing)?;
        if !device.has_writers().context(doing)? {
            return Ok(());
        }
        let Some(_lock) = device.take_over().context(doing)? else {
            return Err(Error::already_running("a device writes to this spool; choose another --spool-dir"));
        };
        // Before a later minute of the supervisor's is counted: no earlier one is after that.
        seal_leftovers(&device).context(|| "cannot seal what the device before left".to_owned())?;
        Ok(())
    }

    /// Takes the spool for this process alone and gives the lock; `taken` says what it means if it cannot be had.
    ///
    /// # Errors
    /// Another writes here (exit 3).
    pub fn take_alone(&self, taken: &str) -> Result<File> {
        let name = self.writers.file_name();
        let writers = self
            .open(name, OFlag::O_RDWR | OFlag::O_CREAT)
            .context(|| format!("cannot create SPOOL/{name}"))?;
        let mine = file::wait_for(CHILDREN_GONE, || file::try_lock(&writers, Lock::Exclusive))
            .context(|| self.cannot_lock())?;
        if !mine {
            return Err(Error::already_running(taken));
        }
        Ok(writers)
    }

    /// Takes the lock of writers that are dead; `None` where one lives, or there never was one. Nobody can begin to
    /// write as one of them while it is held.
    ///
    /// # Errors
    /// What open and flock report.
    pub fn take_over(&self) -> io::Result<Option<File>> {
        let writers = match self.open(self.writers.file_name(), OFlag::O_RDWR) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        Ok(file::try_lock(&writers, Lock::Exclusive)?.then_some(writers))
    }

    /// Whether writers of this kind were ever here.
    ///
    /// # Errors
    /// What stat reports.
    pub fn has_writers(&self) -> io::Result<bool> {
        self.exists(self.writers.file_name())
    }

    fn cannot_lock(&self) -> String {
        format!("cannot lock SPOOL/{}", self.writers.file_name())
    }

    /// Creates a minute's file and, before it, its lock. What exists already is left as it is. False where the lock is
    /// another program's: then nothing is created.
    ///
    /// # Errors
    /// What link and open report.
    pub fn create_minute(&self, minute: Minute) -> io::Result<bool> {
        match linkat(
            self.fd(),
            self.writers.file_name(),
            self.fd(),
            lock_name(minute).as_str(),
            AtFlags::empty(),
        ) {
            Ok(()) => {}
            Err(Errno::EEXIST) if self.lock_is_ours(minute)? => {}
            Err(Errno::EEXIST) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        self.open(&data_name(minute), OFlag::O_RDWR | OFlag::O_CREAT)?;
        Ok(true)
    }

    /// Bytes of a minute's file; `None` where there is none.
    ///
    /// # Errors
    /// What stat reports besides.
    pub fn size_of_minute(&self, minute: Minute) -> io::Result<Option<u64>> {
        match nix::sys::stat::fstatat(self.fd(), data_name(minute).as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat.st_size.unsigned_abs())),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a minute's file for reading and writing.
    ///
    /// # Errors
    /// What open reports.
    pub fn open_minute(&self, minute: Minute) -> io::Result<File> {
        self.open(&data_name(minute), OFlag::O_RDWR)
    }

    /// Removes a minute's file.
    ///
    /// # Errors
    /// What unlink reports, besides that it is gone.
    pub fn remove_minute(&self, minute: Minute) -> io::Result<()> {
        self.unlink(&data_name(minute))
    }

    /// Removes a minute's lock: nobody writes it any more.
    ///
    /// # Errors
    /// What unlink reports, besides that it is gone.
    pub fn remove_lock(&self, minute: Minute) -> io::Result<()> {
        self.unlink(&lock_name(minute))
    }

    /// Whether a minute's lock is the link that this spool's writers make, and no other program's file.
    ///
    /// # Errors
    /// What stat reports.
    pub fn lock_is_ours(&self, minute: Minute) -> io::Result<bool> {
        let stat = |name: &str| nix::sys::stat::fstatat(self.fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW);
        match (stat(self.writers.file_name()), stat(&lock_name(minute))) {
            (Ok(writers), Ok(lock)) => Ok((writers.st_dev, writers.st_ino) == (lock.st_dev, lock.st_ino)),
            (Err(Errno::ENOENT), _) | (_, Err(Errno::ENOENT)) => Ok(false),
            (Err(error), _) | (_, Err(error)) => Err(error.into()),
        }
    }

    /// Gives a file another name, unless there is one of that name. False where there is, or the file is gone.
    ///
    /// # Errors
    /// What rename reports.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<bool> {
        use rustix::fs::RenameFlags;
        use rustix::io::Errno;
        match rustix::fs::renameat_with(self.fd(), from, self.fd(), to, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST | Errno::NOENT) => Ok(false),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => self.look_and_rename(from, to),
            Err(error) => Err(error.into()),
        }
    }

    /// The same where the file system cannot look and rename at once. Nobody takes the name in between: `M.sent` and
    /// `M.dat.refused` are made by the one who ships alone, who holds its lock, and `M.dat` is put back of a minute whose
    /// writers are done with it.
    fn look_and_rename(&self, from: &str, to: &str) -> io::Result<bool> {
        if self.exists(to)? {
            return Ok(false);
        }
        match renameat(self.fd(), from, self.fd(), to) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether there is something of this name.
    ///
    /// # Errors
    /// What stat reports.
    pub fn exists(&self, name: &str) -> io::Result<bool> {
        match nix::sys::stat::fstatat(self.fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a file of this name for reading and writing, creating it if need be. A link is refused.
    ///
    /// # Errors
    /// What open reports.
    pub fn open_or_create_file(&self, name: &str) -> io::Result<File> {
        self.open(name, OFlag::O_RDWR | OFlag::O_CREAT)
    }

    /// Opens a file of this name for reading. A link is refused.
    ///
    /// # Errors
    /// What open reports.
    pub fn open_file(&self, name: &str) -> io::Result<File> {
        self.open(name, OFlag::O_RDONLY)
    }

    /// Opens a plain file of this name for reading. `None` where it is anything else: a directory, a pipe, which nobody
    /// is waited for at, a link, which is not followed.
    ///
    /// # Errors
    /// What open reports, also that there is nothing of this name.
    pub fn open_plain_file(&self, name: &str) -> io::Result<Option<File>> {
        let file = match self.open_file(name) {
            // A link, and a socket.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) => return Ok(None),
            opened => opened?,
        };
        Ok(file.metadata()?.is_file().then_some(file))
    }

    /// Removes a file of this name.
    ///
    /// # Errors
    /// What unlink reports, besides that it is gone.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.unlink(name)
    }

    /// Makes the directory's entries durable.
    ///
    /// # Errors
    /// What fsync reports.
    pub fn sync(&self) -> io::Result<()> {
        self.directory.sync_all()
    }

    /// Tries the one thing that the journal cannot do without.
    ///
    /// # Errors
    /// A file system that cannot reserve space (exit 2).
    pub fn check_reserving(&self, path: &Path) -> Result<()> {
        let trial = openat(
            self.fd(),
            ".",
            OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC,
            Mode::S_IRUSR | Mode::S_IWUSR,
        );
        // Without O_TMPFILE there is no trial; a full disk is a matter for each message.
        let Ok(trial) = trial.map(File::from) else { return Ok(()) };
        match file::reserve(&trial, 0, 4096) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Err(Error::usage(format!(
                "the file system of {} cannot reserve space (fallocate); choose a --spool-dir on another one",
                path.display()
            ))),
            _ => Ok(()),
        }
    }

    /// Whether this process may make locks of minutes: hard links to the file of writers, which the kernel refuses to
    /// whoever could not write to it.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn check_writers(&self) -> io::Result<()> {
        self.open(self.writers.file_name(), OFlag::O_RDWR).map(drop)
    }

    fn open(&self, name: &str, flags: OFlag) -> io::Result<File> {
        let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        Ok(File::from(openat(self.fd(), name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?))
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        match unlinkat(self.fd(), name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// The path of a minute's file in a spool at `path`.
pub fn data_path(path: &Path, minute: Minute) -> PathBuf {
    path.join(data_name(minute))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_is_created_behind_its_lock() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open_or_create(&directory.path().join("deep/spool")).unwrap();
        let _writers = spool.take().unwrap();
        assert!(spool.create_minute(Minute(5)).unwrap());
        assert!(spool.create_minute(Minute(5)).unwrap());
        std::fs::write(directory.path().join("deep/spool/6.dat.lock"), "").unwrap();
        assert!(!spool.create_minute(Minute(6)).unwrap(), "another program's");
        assert_eq!(spool.size_of_minute(Minute(6)).unwrap(), None);
        spool.remove_lock(Minute(6)).unwrap();
        assert_eq!(spool.minutes().unwrap(), [MinuteFile { minute: Minute(5), size: 0, locked: true }]);
        assert!(spool.lock_is_ours(Minute(5)).unwrap());
        assert!(!spool.lock_is_ours(Minute(6)).unwrap());
        spool.remove_lock(Minute(5)).unwrap();
        spool.remove_minute(Minute(5)).unwrap();
        assert_eq!(spool.minutes().unwrap(), []);
    }

    #[test]
    fn only_plain_files_are_opened_and_nobody_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let spool = Spool::open_or_create(directory.path()).unwrap();
        std::fs::write(at("1.dat"), "x").unwrap();
        std::fs::create_dir(at("2.dat")).unwrap();
        nix::unistd::mkfifo(&at("3.dat"), Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("4.dat")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("5.dat")).unwrap();
        let opened = |minute| spool.open_plain_file(&data_name(Minute(minute))).map(|file| file.is_some());
        assert!(opened(1).unwrap());
        for minute in 2..=5 {
            assert!(!opened(minute).unwrap(), "{minute}");
        }
        assert_eq!(opened(6).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_rename_takes_no_name_that_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let spool = Spool::open_or_create(directory.path()).unwrap();
        // At once, and where the file system cannot do that.
        for rename in [Spool::rename, Spool::look_and_rename] {
            std::fs::write(at("5.dat"), "this").unwrap();
            std::fs::write(at("5.sent"), "that").unwrap();
            assert!(!rename(&spool, "5.dat", "5.sent").unwrap(), "it is taken");
            assert_eq!(std::fs::read_to_string(at("5.sent")).unwrap(), "that");
            std::fs::remove_file(at("5.sent")).unwrap();
            assert!(rename(&spool, "5.dat", "5.sent").unwrap());
            assert_eq!(std::fs::read_to_string(at("5.sent")).unwrap(), "this");
            assert!(!rename(&spool, "5.dat", "6.sent").unwrap(), "it is gone");
        }
    }
}
