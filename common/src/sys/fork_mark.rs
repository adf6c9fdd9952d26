//! A mark that only this process sees: a child that was forked or cloned finds it gone, so that nobody goes on with
//! what is its parent's.

use std::io;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use crate::ids::Pid;

/// The mark: one private page that the kernel wipes in every child (MADV_WIPEONFORK), or where it does not know that,
/// the pid, asked for each time.
#[derive(Debug)]
pub struct ForkMark {
    pid: Pid,
    page: Option<&'static AtomicU32>,
    asked: bool,
}

impl ForkMark {
    /// A mark of the calling process. Costs nothing until it is first looked at.
    pub fn new() -> Self {
        Self { pid: Pid::current(), page: None, asked: false }
    }

    /// Whether this is still the process that made the mark.
    #[inline]
    pub fn is_mine(&mut self) -> bool {
        match self.page {
            Some(page) => page.load(Relaxed) == 1,
            None => self.look(),
        }
    }

    #[cold]
    fn look(&mut self) -> bool {
        let mine = self.pid == Pid::current();
        if mine && !self.asked {
            self.asked = true;
            self.page = wiped_page().ok();
        }
        mine
    }
}

impl Default for ForkMark {
    fn default() -> Self {
        Self::new()
    }
}

/// A page with the mark on it. It stays for the life of the process, which has one slot or few.
fn wiped_page() -> io::Result<&'static AtomicU32> {
    if cfg!(miri) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let length = 4096;
    // SAFETY: a new private anonymous mapping, at a place that the kernel chooses.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping that was just made, whole.
    if unsafe { libc::madvise(page, length, libc::MADV_WIPEONFORK) } == -1 {
        let error = io::Error::last_os_error();
        // SAFETY: as above; nobody has seen it.
        unsafe { libc::munmap(page, length) };
        return Err(error);
    }
    // SAFETY: aligned to a page, never unmapped, reached only as this atomic.
    let mark = unsafe { &*page.cast::<AtomicU32>() };
    mark.store(1, Relaxed);
    Ok(mark)
}
