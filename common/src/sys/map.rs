//! A shared mapping of a file, reached only through atomics.

use std::fs::File;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use crate::ids::Offset;

#[cfg_attr(not(miri), path = "map/by_kernel.rs")]
#[cfg_attr(miri, path = "map/on_heap.rs")]
mod pages;

use pages::{Advice, Pages};

/// A shared mapping. Other processes write to it at any moment, so it hands out atomics and nothing else, each
/// checked against the mapping's bounds.
#[derive(Debug)]
pub struct Mapping {
    pages: Pages,
    writable: bool,
}

/// Bytes of a huge page. A mapping can have such pages where address and offset in the file agree in what is below it.
const HUGE_PAGE: usize = 2 << 20;

/// A type made of nothing but atomic integers, valid for every pattern of bytes.
///
/// # Safety
/// The type must be `repr(C)`, consist of atomic integers only, have no padding, and need an alignment of at most 64.
pub unsafe trait Shared {}

// SAFETY: an atomic integer.
unsafe impl Shared for AtomicU8 {}
// SAFETY: an atomic integer.
unsafe impl Shared for AtomicU16 {}
// SAFETY: an atomic integer.
unsafe impl Shared for AtomicU32 {}
// SAFETY: an atomic integer.
unsafe impl Shared for AtomicU64 {}
// SAFETY: repr(C), atomics only, no padding: the size assertions in layout.rs account for every byte.
unsafe impl Shared for crate::layout::Header {}
// SAFETY: as above.
unsafe impl Shared for crate::layout::Slot {}
// SAFETY: as above.
unsafe impl Shared for crate::layout::Tally {}
// SAFETY: as above.
unsafe impl Shared for crate::layout::Object {}
// SAFETY: as above.
unsafe impl Shared for crate::layout::Slab {}

impl Mapping {
    /// Maps the whole of `file`, writable.
    ///
    /// # Errors
    /// What mmap reports; a file that is not readable and writable.
    pub fn writable(file: &File) -> io::Result<Self> {
        Ok(Self { pages: Pages::of(file, true)?, writable: true })
    }

    /// Maps the whole of `file` so that no store through this mapping is possible.
    ///
    /// # Errors
    /// What mmap reports.
    pub fn read_only(file: &File) -> io::Result<Self> {
        Ok(Self { pages: Pages::of(file, false)?, writable: false })
    }

    /// Bytes of the mapping.
    pub fn length(&self) -> u64 {
        self.pages.length() as u64
    }

    /// Whether stores are possible. A store through a read-only mapping is a SIGSEGV.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// The `T` at `offset`; `None` where it would leave the mapping or is not aligned.
    #[inline]
    pub fn at<T: Shared>(&self, offset: Offset) -> Option<&T> {
        let place = self.place::<T>(offset, 1)?;
        // SAFETY: in bounds and aligned. T is made of atomics, so concurrent stores by other processes are allowed, and the
        // mapping lives as long as &self.
        Some(unsafe { place.as_ref() })
    }

    /// `count` of `T` from `offset` on; `None` where they would leave the mapping or are not aligned.
    #[inline]
    pub fn slice<T: Shared>(&self, offset: Offset, count: usize) -> Option<&[T]> {
        let place = self.place::<T>(offset, count)?;
        // SAFETY: as for `at`.
        Some(unsafe { std::slice::from_raw_parts(place.as_ptr(), count) })
    }

    /// Where `count` of `T` from `offset` on are; `None` where they would leave the mapping or are not aligned.
    #[inline(always)]
    fn place<T: Shared>(&self, offset: Offset, count: usize) -> Option<NonNull<T>> {
        let start = usize::try_from(offset.0).ok()?;
        let room = self.pages.length().checked_sub(start)?;
        if count > room / size_of::<T>() || !start.is_multiple_of(align_of::<T>()) {
            return None;
        }
        // SAFETY: a mapping is not at address 0, and its pages begin at a multiple of any alignment; the place is within it.
        unsafe { Some(NonNull::new_unchecked(self.pages.first().cast_mut()).add(start).cast()) }
    }

    /// Where `length` bytes at `offset` are in this process; `None` where they would leave the mapping. For whoever knows
    /// that nobody writes to them, or that only he does.
    pub fn pointer(&self, offset: Offset, length: usize) -> Option<*const u8> {
        let start = usize::try_from(offset.0).ok()?;
        let end = start.checked_add(length)?;
        (end <= self.pages.length()).then(|| self.pages.first().wrapping_add(start))
    }

    /// Has the kernel back `file`, which this maps and which has nothing but a length yet, with huge pages, as far as it can:
    /// then a random access costs one miss of the caches and none of the address translation, and a thousand processes do
    /// without a thousand page tables. The rest of the file is as it was.
    pub fn back_with_huge_pages(&self, file: &File) {
        for start in (0..self.pages.length()).step_by(HUGE_PAGE) {
            // One small page is enough to make a huge one of; if all were there, all would be copied.
            if self.pages.length() - start < HUGE_PAGE || super::file::reserve(file, start as u64, 1).is_err()
            {
                return;
            }
            match self.pages.advise(start, HUGE_PAGE, Advice::HugePage) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
                _ => {}
            }
        }
    }

    /// Keeps the mapping from children: one that is forked does not have it (`MADV_DONTFORK`).
    ///
    /// # Errors
    /// What madvise reports.
    pub fn keep_from_children(&self) -> io::Result<()> {
        self.pages.advise(0, self.pages.length(), Advice::NotForChildren)
    }

    /// Has the processor fetch the cache line at `offset`, ahead of its use. A hint: nothing happens outside the mapping.
    #[inline]
    pub fn prefetch(&self, offset: Offset) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let line = self.pages.first().wrapping_add(offset.0 as usize);
            // SAFETY: an address that cannot be read is ignored by the processor.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
        }
        #[cfg(any(not(target_arch = "x86_64"), miri))]
        let _ = offset;
    }

    /// The same ahead of a store: the line is taken from the caches of others, too.
    #[inline]
    pub fn prefetch_to_write(&self, offset: Offset) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            let line = self.pages.first().wrapping_add(offset.0 as usize);
            // SAFETY: as above; a processor that does not know it does nothing.
            unsafe {
                std::arch::asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags, readonly));
            };
        }
        #[cfg(any(not(target_arch = "x86_64"), miri))]
        let _ = offset;
    }

    /// Writes the mapping back to its file and waits for it.
    ///
    /// # Errors
    /// What msync reports.
    pub fn flush(&self) -> io::Result<()> {
        self.pages.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    fn mapped(length: u64) -> Mapping {
        let file = tempfile::tempfile().unwrap();
        file.set_len(length).unwrap();
        Mapping::writable(&file).unwrap()
    }

    #[test]
    fn refuses_what_leaves_the_mapping() {
        let mapping = mapped(4096);
        assert!(mapping.at::<AtomicU64>(Offset(4088)).is_some());
        for offset in [4089, 4092, 4096, u64::MAX, u64::MAX - 7] {
            assert!(mapping.at::<AtomicU64>(Offset(offset)).is_none(), "{offset}");
        }
        assert!(mapping.slice::<AtomicU64>(Offset(0), usize::MAX).is_none());
        assert!(mapping.at::<AtomicU64>(Offset(4)).is_none(), "misaligned");
    }

    #[test]
    fn stores_are_seen_by_another_mapping_of_the_file() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let (one, other) = (Mapping::writable(&file).unwrap(), Mapping::read_only(&file).unwrap());
        one.at::<AtomicU64>(Offset(8)).unwrap().store(7, Relaxed);
        assert_eq!(other.at::<AtomicU64>(Offset(8)).unwrap().load(Relaxed), 7);
        assert!(!other.is_writable());
    }
}
