//! The kernel's locks on ranges of a file (open file description locks). Such a lock belongs to whoever opened the file:
//! the kernel takes it off when the last descriptor of that opening is closed, however its process ends. The bytes need not
//! exist: a range beyond the file's end is a name for a lock and nothing else.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use super::file::Lock;

/// Pauses between two attempts: so long at first, doubling up to the longest.
const FIRST_PAUSE: Duration = Duration::from_micros(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(1);

/// Takes a lock on these bytes without waiting. False where another has one that excludes it. Shared locks need a file
/// that is open for reading, exclusive ones one that is open for writing.
///
/// # Errors
/// What fcntl reports besides "another has it".
pub fn try_lock(file: &impl AsFd, bytes: &Range<u64>, lock: Lock) -> io::Result<bool> {
    let kind = match lock {
        Lock::Shared => libc::F_RDLCK,
        Lock::Exclusive => libc::F_WRLCK,
    };
    match set(file, bytes, kind) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes a lock on these bytes, waiting for at most `limit`. False where another still has one that excludes it.
///
/// # Errors
/// As [`try_lock`].
pub fn lock(file: &impl AsFd, bytes: &Range<u64>, lock: Lock, limit: Duration) -> io::Result<bool> {
    let (began, mut pause) = (Instant::now(), FIRST_PAUSE);
    loop {
        if try_lock(file, bytes, lock)? {
            return Ok(true);
        }
        let left = limit.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Ok(false);
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether nobody else has a lock on these bytes, at this moment. Nothing is taken.
///
/// # Errors
/// What fcntl reports.
pub fn is_free(file: &impl AsFd, bytes: &Range<u64>) -> io::Result<bool> {
    let mut what = describe(bytes, libc::F_WRLCK)?;
    // SAFETY: the kernel reads and writes the structure; the descriptor is open as long as the borrow.
    let returned = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_OFD_GETLK, &raw mut what) };
    super::cerr(returned.into())?;
    Ok(libc::c_int::from(what.l_type) == libc::F_UNLCK)
}

/// Gives the lock on these bytes back.
///
/// # Errors
/// What fcntl reports.
pub fn unlock(file: &impl AsFd, bytes: &Range<u64>) -> io::Result<()> {
    set(file, bytes, libc::F_UNLCK)
}

fn describe(bytes: &Range<u64>, kind: libc::c_int) -> io::Result<libc::flock> {
    let signed = |value: u64| libc::off_t::try_from(value).map_err(|_| io::ErrorKind::InvalidInput);
    Ok(libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: signed(bytes.start)?,
        l_len: signed(bytes.end.saturating_sub(bytes.start))?,
        l_pid: 0,
    })
}

fn set(file: &impl AsFd, bytes: &Range<u64>, kind: libc::c_int) -> io::Result<()> {
    let what = describe(bytes, kind)?;
    // SAFETY: the kernel reads the structure; the descriptor is open as long as the borrow.
    let returned = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_OFD_SETLK, &raw const what) };
    super::cerr(returned.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(5);

    #[test]
    fn shared_locks_keep_an_exclusive_one_out_until_the_file_is_closed() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().read(true).write(true).open(path.path()).unwrap();
        let (one, other, writer) = (open(), File::open(path.path()).unwrap(), open());
        let byte = 1 << 40..(1 << 40) + 1;
        assert!(try_lock(&one, &byte, Lock::Shared).unwrap());
        assert!(try_lock(&other, &byte, Lock::Shared).unwrap());
        assert!(!lock(&writer, &byte, Lock::Exclusive, LIMIT).unwrap());
        assert!(!is_free(&writer, &byte).unwrap() && is_free(&writer, &(byte.end..byte.end + 1)).unwrap());
        assert!(
            try_lock(&writer, &(byte.end..byte.end + 1), Lock::Exclusive).unwrap(),
            "the next byte is free"
        );
        unlock(&one, &byte).unwrap();
        assert!(!try_lock(&writer, &byte, Lock::Exclusive).unwrap());
        drop(other);
        assert!(lock(&writer, &byte, Lock::Exclusive, LIMIT).unwrap());
        assert!(!try_lock(&one, &byte, Lock::Shared).unwrap());
    }
}
