//! The spool directory: which minute files there are, and who may still write one.
//!
//! `M.dat.lock` is a hard link to `.writers`, on which the supervisor and all its children hold one shared kernel lock:
//! the name exists, and the inode is locked, exactly while someone may write `M.dat`.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use crate::error::{Context, Error, Result};
use crate::ids::Minute;
use crate::sys::file::{self, Lock};

const WRITERS: &str = ".writers";
const SEALED: &str = "sealed";
const SEALED_NEXT: &str = ".sealed.next";

/// How long the children of a dead instance may take to be gone.
const CHILDREN_GONE: Duration = Duration::from_secs(10);

/// An open spool directory.
#[derive(Debug)]
pub struct Spool {
    directory: File,
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

impl Spool {
    /// Opens the spool, creating the directory if need be.
    ///
    /// # Errors
    /// A path that is not a directory or may not be used (exit 2).
    pub fn open_or_create(path: &Path) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let unusable = |error: io::Error| {
            Error::usage(format!(
                "cannot use {} as the spool: {error}; choose another --spool-dir",
                path.display()
            ))
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
        Ok(Self { directory: File::open(path).map_err(unusable)? })
    }

    /// The spool behind an open directory.
    pub fn from_directory(directory: File) -> Self {
        Self { directory }
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
        let writers = self
            .open(WRITERS, OFlag::O_RDWR | OFlag::O_CREAT)
            .context(|| "cannot create SPOOL/.writers".to_owned())?;
        let mine = file::wait_for(CHILDREN_GONE, || file::try_lock(&writers, Lock::Exclusive))
            .context(|| "cannot lock SPOOL/.writers".to_owned())?;
        let shared = mine
            && file::try_lock(&writers, Lock::Shared).context(|| "cannot lock SPOOL/.writers".to_owned())?;
        if !shared {
            return Err(Error::already_running(
                "another instance writes to this spool; choose another --spool-dir",
            ));
        }
        Ok(writers)
    }

    /// Creates a minute's file and, before it, its lock. What exists already is left as it is. False where the lock is
    /// another program's: then nothing is created.
    ///
    /// # Errors
    /// What link and open report.
    pub fn create_minute(&self, minute: Minute) -> io::Result<bool> {
        match linkat(self.fd(), WRITERS, self.fd(), lock_name(minute).as_str(), AtFlags::empty()) {
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
        match (stat(WRITERS), stat(&lock_name(minute))) {
            (Ok(writers), Ok(lock)) => Ok((writers.st_dev, writers.st_ino) == (lock.st_dev, lock.st_ino)),
            (Err(Errno::ENOENT), _) | (_, Err(Errno::ENOENT)) => Ok(false),
            (Err(error), _) | (_, Err(error)) => Err(error.into()),
        }
    }

    /// The minute files and the minutes with a lock alone, in ascending order.
    ///
    /// # Errors
    /// What reading the directory reports.
    pub fn minutes(&self) -> io::Result<Vec<MinuteFile>> {
        let mut found = std::collections::BTreeMap::<Minute, MinuteFile>::new();
        let directory = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.directory));
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let Some((minute, is_lock)) = entry.file_name().to_str().and_then(read_name) else {
                continue;
            };
            let known = found.entry(minute).or_insert(MinuteFile { minute, size: 0, locked: false });
            if is_lock {
                known.locked = true;
            } else {
                // A file may be gone again: the shipper removes what it delivered.
                known.size = entry.metadata().map_or(0, |metadata| metadata.size());
            }
        }
        Ok(found.into_values().collect())
    }

    /// The minutes that were shipped and are kept until checkpoints cover them, `M.sent`, in ascending order, and their bytes.
    ///
    /// # Errors
    /// What reading the directory reports.
    pub fn shipped(&self) -> io::Result<Vec<(Minute, u64)>> {
        let mut found = Vec::new();
        let directory = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.directory));
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let stem = name.to_str().and_then(|name| name.strip_suffix(".sent"));
            if let Some(minute) = stem.and_then(minute_named) {
                found.push((minute, entry.metadata().map_or(0, |metadata| metadata.size())));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Opens a shipped minute for reading.
    ///
    /// # Errors
    /// What open reports.
    pub fn open_shipped(&self, minute: Minute) -> io::Result<File> {
        self.open(&shipped_name(minute), OFlag::O_RDONLY)
    }

    /// Removes a shipped minute.
    ///
    /// # Errors
    /// What unlink reports, besides that it is gone.
    pub fn remove_shipped(&self, minute: Minute) -> io::Result<()> {
        self.unlink(&shipped_name(minute))
    }

    /// The durable record of what is sealed; minute 0 where nothing is.
    ///
    /// # Errors
    /// What reading reports; a file that holds no number.
    pub fn read_sealed(&self) -> io::Result<Minute> {
        let mut text = String::new();
        match self.open(SEALED, OFlag::O_RDONLY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Minute(0)),
            file => file?.take(64).read_to_string(&mut text)?,
        };
        match text.trim().parse().map(Minute) {
            Ok(minute) if minute.is_possible() => Ok(minute),
            _ => {
                let text = "SPOOL/sealed does not hold the number of a minute";
                Err(io::Error::new(io::ErrorKind::InvalidData, text))
            }
        }
    }

    /// Makes it durable that every minute up to `minute` is sealed.
    ///
    /// # Errors
    /// What writing, fsync and rename report; then what was there before stands.
    pub fn write_sealed(&self, minute: Minute) -> io::Result<()> {
        let mut next = self.open(SEALED_NEXT, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_TRUNC)?;
        writeln!(next, "{minute}")?;
        next.sync_all()?;
        renameat(self.fd(), SEALED_NEXT, self.fd(), SEALED)?;
        self.sync()
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
        self.open(WRITERS, OFlag::O_RDWR).map(drop)
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

/// The file's name: `M.dat`.
pub fn data_name(minute: Minute) -> String {
    format!("{minute}.dat")
}

/// The lock's name: `M.dat.lock`.
pub fn lock_name(minute: Minute) -> String {
    format!("{minute}.dat.lock")
}

/// What the file is called once it is shipped, for as long as it is kept: `M.sent`.
pub fn shipped_name(minute: Minute) -> String {
    format!("{minute}.sent")
}

/// Reads `M.dat` and `M.dat.lock`; the flag says which. Names that are written otherwise are not ours.
fn read_name(name: &str) -> Option<(Minute, bool)> {
    let (stem, is_lock) = match name.strip_suffix(".dat.lock") {
        Some(stem) => (stem, true),
        None => (name.strip_suffix(".dat")?, false),
    };
    Some((minute_named(stem)?, is_lock))
}

/// The minute of this number: no sign, no leading zero, nothing so large that arithmetic on it could overflow.
fn minute_named(stem: &str) -> Option<Minute> {
    let minute = Minute(stem.parse().ok()?);
    (minute.to_string() == stem && minute.is_possible()).then_some(minute)
}

/// The path of a minute's file in a spool at `path`.
pub fn data_path(path: &Path, minute: Minute) -> PathBuf {
    path.join(data_name(minute))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(read_name("26593136.dat"), Some((Minute(26_593_136), false)));
        assert_eq!(read_name("26593136.dat.lock"), Some((Minute(26_593_136), true)));
        for foreign in
            ["x.dat", ".dat", "007.dat", "+7.dat", "7.dat.sent", "7.data", "99999999999999999999.dat"]
        {
            assert_eq!(read_name(foreign), None, "{foreign}");
        }
    }

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
    fn what_is_sealed_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open_or_create(directory.path()).unwrap();
        assert_eq!(spool.read_sealed().unwrap(), Minute(0));
        spool.write_sealed(Minute(42)).unwrap();
        assert_eq!(spool.read_sealed().unwrap(), Minute(42));
        for garbage in ["garbage", "", "-1", "100000000000000000", "18446744073709551615"] {
            std::fs::write(directory.path().join("sealed"), garbage).unwrap();
            assert!(spool.read_sealed().is_err(), "{garbage}");
        }
    }
}
