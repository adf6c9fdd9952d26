//! The pages of a file as a piece of this process's heap: for Miri, which executes the region's code under the language's
//! own rules and has no shared mappings. Whoever maps the same file in this process gets the same piece; nothing is
//! written back.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The pieces that are in use, by device and number of their file.
static MAPPED: Mutex<BTreeMap<(u64, u64), Weak<Piece>>> = Mutex::new(BTreeMap::new());

const PAGE: usize = 4096;

/// A file's bytes in memory, shared with everyone in this process who maps it.
#[derive(Debug)]
pub(super) struct Pages(Arc<Piece>);

#[derive(Debug)]
struct Piece {
    first: NonNull<u8>,
    layout: Layout,
}

// SAFETY: memory that belongs to no thread; it is reached as atomics only (`Mapping`).
unsafe impl Send for Piece {}
// SAFETY: as above.
unsafe impl Sync for Piece {}

impl Pages {
    pub(super) fn of(file: &File, _writable: bool) -> io::Result<Self> {
        let about = file.metadata()?;
        let mut mapped = MAPPED.lock().unwrap_or_else(PoisonError::into_inner);
        let place = mapped.entry((about.dev(), about.ino())).or_default();
        if let Some(piece) = place.upgrade() {
            return Ok(Self(piece));
        }
        let piece = Arc::new(Piece::filled(file, about.len() as usize)?);
        *place = Arc::downgrade(&piece);
        Ok(Self(piece))
    }

    pub(super) fn length(&self) -> usize {
        self.0.layout.size()
    }

    pub(super) fn first(&self) -> *const u8 {
        self.0.first.as_ptr()
    }

    pub(super) fn advise(&self, _start: usize, _length: usize, _advice: Advice) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Piece {
    fn filled(file: &File, length: usize) -> io::Result<Self> {
        let layout = Layout::from_size_align(length.max(1), PAGE).map_err(io::Error::other)?;
        // SAFETY: the layout is not empty.
        let first = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(io::ErrorKind::OutOfMemory)?;
        let piece = Self { first, layout };
        // SAFETY: as many bytes as were just allocated, and nobody else has them yet.
        file.read_exact_at(unsafe { std::slice::from_raw_parts_mut(first.as_ptr(), length) }, 0)?;
        Ok(piece)
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and the last who had it is gone.
        unsafe { dealloc(self.first.as_ptr(), self.layout) };
    }
}

/// What is said of pages; heap has no use for it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Advice {
    HugePage,
    NotForChildren,
}
