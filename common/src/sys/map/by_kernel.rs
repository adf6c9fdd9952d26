//! The pages of a file, as the kernel maps them.

use std::fs::File;
use std::io;

use memmap2::{MmapOptions, MmapRaw};

use super::HUGE_PAGE;

/// A file's bytes in memory, shared with everyone who maps it.
#[derive(Debug)]
pub(super) struct Pages(MmapRaw);

impl Pages {
    /// Maps the whole of `file`.
    pub(super) fn of(file: &File, writable: bool) -> io::Result<Self> {
        let options = MmapOptions::new();
        aligned(|| if writable { options.map_raw(file) } else { options.map_raw_read_only(file) }).map(Self)
    }

    pub(super) fn length(&self) -> usize {
        self.0.len()
    }

    pub(super) fn first(&self) -> *const u8 {
        self.0.as_ptr()
    }

    /// Tells the kernel how `length` bytes from `start` on are used; their contents stay what they are.
    pub(super) fn advise(&self, start: usize, length: usize, advice: Advice) -> io::Result<()> {
        let advice = match advice {
            Advice::HugePage => libc::MADV_COLLAPSE,
            Advice::NotForChildren => libc::MADV_DONTFORK,
        };
        let first = self.0.as_mut_ptr().wrapping_add(start);
        // SAFETY: no advice that is given here changes what this process reads; the kernel refuses what is not mapped.
        let outcome = unsafe { libc::madvise(first.cast(), length, advice) };
        crate::sys::cerr(outcome.into()).map(drop)
    }

    pub(super) fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
}

/// What is said of pages.
#[derive(Clone, Copy, Debug)]
pub(super) enum Advice {
    /// They become one huge page.
    HugePage,
    /// A child that is forked does not have them.
    NotForChildren,
}

/// Maps at a multiple of [`HUGE_PAGE`], if the kernel puts a mapping below the one before it, as it does: what the address
/// is too high by is filled up meanwhile. Elsewhere the mapping is slower and nothing else.
fn aligned(map: impl Fn() -> io::Result<MmapRaw>) -> io::Result<MmapRaw> {
    let first = map()?;
    let over = first.as_ptr() as usize % HUGE_PAGE;
    if over == 0 || first.len() < HUGE_PAGE {
        return Ok(first);
    }
    drop(first);
    let _filler = MmapOptions::new().len(over).map_anon()?;
    map()
}
