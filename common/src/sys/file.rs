//! Files: kernel locks, reserved space, whole writes at an offset.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, RenameFlags};
use nix::sys::stat::Mode;

/// How a kernel lock is taken. It belongs to the open file description: everyone who inherited it holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Together with others.
    Shared,
    /// Alone.
    Exclusive,
}

impl Lock {
    fn operation(self) -> libc::c_int {
        match self {
            Self::Shared => libc::LOCK_SH,
            Self::Exclusive => libc::LOCK_EX,
        }
    }
}

/// Takes the kernel's lock (flock) on an open file, without waiting. False where another holds it.
///
/// # Errors
/// What flock reports besides "another holds it".
pub fn try_lock(file: &impl AsFd, lock: Lock) -> io::Result<bool> {
    match flock(file, lock.operation() | libc::LOCK_NB) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EWOULDBLOCK) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes the kernel's lock (flock) on an open file, waiting for it in the kernel for as long as it takes.
///
/// # Errors
/// What flock reports.
pub fn wait_for_lock(file: &impl AsFd, lock: Lock) -> io::Result<()> {
    loop {
        match flock(file, lock.operation()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// Gives the kernel's lock on an open file back.
///
/// # Errors
/// What flock reports.
pub fn unlock(file: &impl AsFd) -> io::Result<()> {
    flock(file, libc::LOCK_UN)
}

fn flock(file: &impl AsFd, operation: libc::c_int) -> io::Result<()> {
    // SAFETY: flock takes a descriptor and flags; the descriptor is open as long as the borrow.
    let returned = unsafe { libc::flock(file.as_fd().as_raw_fd(), operation) };
    super::cerr(returned.into()).map(drop)
}

/// Takes a lock on one byte of a file, together with others, without waiting. It belongs to the open file description
/// (OFD): it is given back when the last descriptor of it is closed, in whichever process, and by nothing else.
///
/// # Errors
/// `EAGAIN` where another has the byte alone; what fcntl reports besides.
pub fn lock_byte(file: &File, byte: u64) -> io::Result<()> {
    nix::fcntl::fcntl(file, FcntlArg::F_OFD_SETLK(&byte_lock(libc::F_RDLCK, byte)?))?;
    Ok(())
}

/// Whether a byte of a file is locked through another open file description than this one.
///
/// # Errors
/// What fcntl reports.
pub fn is_byte_locked(file: &File, byte: u64) -> io::Result<bool> {
    is_locked(file, byte_lock(libc::F_WRLCK, byte)?)
}

/// Whether any byte of a file is locked through another open file description than this one.
///
/// # Errors
/// What fcntl reports.
pub fn is_any_byte_locked(file: &File) -> io::Result<bool> {
    // From the first byte to the last that there can be.
    is_locked(file, libc::flock { l_len: 0, ..byte_lock(libc::F_WRLCK, 0)? })
}

fn is_locked(file: &File, mut asked: libc::flock) -> io::Result<bool> {
    nix::fcntl::fcntl(file, FcntlArg::F_OFD_GETLK(&mut asked))?;
    Ok(libc::c_int::from(asked.l_type) != libc::F_UNLCK)
}

fn byte_lock(kind: libc::c_int, byte: u64) -> io::Result<libc::flock> {
    let start = i64::try_from(byte).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    Ok(libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: 1,
        l_pid: 0,
    })
}

/// Opens a file of this name in a directory, creating it if need be; nobody else may read it. A link is refused.
///
/// # Errors
/// What open reports; ELOOP for a link.
pub fn open_in(directory: &File, name: &str) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

/// Gives a file of a directory another name in it. With `replace` it takes the place of a file that has that name;
/// otherwise there must be none.
///
/// # Errors
/// What renameat2 reports; EEXIST where there is such a file and it is not to be replaced.
pub fn rename_in(directory: &File, from: &str, to: &str, replace: bool) -> io::Result<()> {
    let flags = if replace { RenameFlags::empty() } else { RenameFlags::RENAME_NOREPLACE };
    Ok(nix::fcntl::renameat2(directory, from, directory, to, flags)?)
}

/// Reserves disk space for a range without changing the file's size, so that a later write cannot meet a full disk.
///
/// # Errors
/// ENOSPC, EDQUOT, EFBIG; EOPNOTSUPP where the file system cannot reserve.
pub fn reserve(file: &File, offset: u64, length: u64) -> io::Result<()> {
    fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, length)
}

/// Gives a part of a file its disk space; the file becomes as long as that takes.
///
/// # Errors
/// As [`reserve`].
pub fn allocate(file: &File, offset: u64, length: u64) -> io::Result<()> {
    fallocate(file, FallocateFlags::empty(), offset, length)
}

fn fallocate(file: &File, flags: FallocateFlags, offset: u64, length: u64) -> io::Result<()> {
    let signed = |value: u64| i64::try_from(value).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG));
    let (offset, length) = (signed(offset)?, signed(length)?);
    if cfg!(miri) {
        // It has no such call.
        let (has, end) = (file.metadata()?.len(), (offset + length).cast_unsigned());
        return if flags.is_empty() && has < end { file.set_len(end) } else { Ok(()) };
    }
    loop {
        match nix::fcntl::fallocate(file, flags, offset, length) {
            Err(nix::errno::Errno::EINTR) => {}
            outcome => return outcome.map_err(Into::into),
        }
    }
}

/// Writes all of `bytes` at `offset`.
///
/// # Errors
/// What pwrite reports; a write that makes no progress.
pub fn write_whole_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

/// Bytes of a file system that an unprivileged process may still use, and bytes in all.
///
/// # Errors
/// What fstatvfs reports.
pub fn free_space(file: &impl AsFd) -> io::Result<(u64, u64)> {
    let stat = nix::sys::statvfs::fstatvfs(file)?;
    let unit = stat.fragment_size();
    Ok((unit.saturating_mul(stat.blocks_available()), unit.saturating_mul(stat.blocks())))
}

/// Opens a directory, refusing a symbolic link in the last place of its name.
///
/// # Errors
/// What open reports; ELOOP or ENOTDIR for a link.
pub fn open_directory(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(File::from(nix::fcntl::open(path, flags, Mode::empty())?))
}

/// Opens a directory only to reach what is in it: for that one need not be allowed to read it.
///
/// # Errors
/// What open reports.
pub fn open_to_pass_through(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC;
    Ok(File::from(nix::fcntl::open(path, flags, Mode::empty())?))
}

/// Whether a directory lies in memory (tmpfs or ramfs) and not on a disk.
///
/// # Errors
/// What fstatfs reports.
pub fn is_in_memory(directory: &File) -> io::Result<bool> {
    let kind = nix::sys::statfs::fstatfs(directory)?.filesystem_type();
    Ok(kind == nix::sys::statfs::TMPFS_MAGIC || kind.0 == 0x8584_58f6)
}

/// Opens the same file once more, read-only, as a description of its own.
///
/// # Errors
/// What open reports.
pub fn reopen_read_only(file: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Moves a region that is not to be used any more out of the way, for inspection. Gives its name, if there was one.
///
/// # Errors
/// What rename reports.
pub fn set_aside(path: &Path) -> io::Result<Option<PathBuf>> {
    let seconds = super::process::now_ns() / 1_000_000_000;
    let names = (seconds..).map(|number| path.with_extension(format!("damaged-{number}")));
    let Some(aside) = names.into_iter().find(|name| !name.exists()) else { return Ok(None) };
    match std::fs::rename(path, &aside) {
        Ok(()) => Ok(Some(aside)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives a file another name, unless there is something of that name. False where there is.
///
/// # Errors
/// What rename reports besides.
pub fn rename_unless_taken(from: &Path, to: &Path) -> io::Result<bool> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST) => Ok(false),
        // Some file systems cannot look and rename at once.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if to.symlink_metadata().is_ok() => {
            Ok(false)
        }
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => std::fs::rename(from, to).map(|()| true),
        Err(error) => Err(error.into()),
    }
}

/// Opens the pipe that a descriptor is an end of once more: without waiting, for reading and writing.
///
/// # Errors
/// What open reports.
pub fn reopen_both_ways(pipe: &impl AsFd) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", pipe.as_fd().as_raw_fd());
    File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Makes stderr append to a file from now on, creating it if need be.
///
/// # Errors
/// What open reports; then stderr is what it was.
pub fn redirect_stderr(path: &Path) -> io::Result<()> {
    let file = File::options().append(true).create(true).open(path)?;
    Ok(nix::unistd::dup2_stderr(&file)?)
}

/// Takes over a descriptor that another program left open for this one, by its number.
///
/// # Errors
/// EBADF where nothing is open under that number.
pub fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl on a number only asks; nothing is touched where it is not open.
    super::cerr(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    // SAFETY: the number is open (checked above) and, by the programs' agreement, nobody else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A second descriptor of what is open under a number, whoever that is.
///
/// # Errors
/// EBADF where nothing is; EMFILE.
pub fn copy_of(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl on a number only asks; nothing is touched where it is not open.
    let copy = super::cerr(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) }.into())?;
    // SAFETY: the kernel has just opened this descriptor for this process, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(copy as RawFd) })
}

/// Waits until `attempt` gives true or the time is over; false then. For locks whose holders are about to die.
///
/// # Errors
/// What `attempt` reports.
pub fn wait_for(limit: Duration, mut attempt: impl FnMut() -> io::Result<bool>) -> io::Result<bool> {
    let deadline = std::time::Instant::now() + limit;
    loop {
        if attempt()? {
            return Ok(true);
        }
        if std::time::Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_locked_until_the_last_descriptor_of_its_description_is_closed() {
        let place = tempfile::tempdir().unwrap();
        let directory = open_directory(place.path()).unwrap();
        let file = open_in(&directory, "bytes").unwrap();
        let reader = reopen_read_only(&file).unwrap();
        lock_byte(&reader, 7).unwrap();
        let locked = |byte| is_byte_locked(&file, byte).unwrap();
        assert!(locked(7) && !locked(6) && !locked(8) && is_any_byte_locked(&file).unwrap());
        let copy = reader.try_clone().unwrap();
        drop(reader);
        assert!(locked(7), "the copy holds it");
        drop(copy);
        assert!(!locked(7) && !is_any_byte_locked(&file).unwrap());
    }
}
