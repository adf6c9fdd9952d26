//! Blobs: bytes.

use std::ffi::{c_char, c_void};

use client::TxnError;
use client::objects::{Blob, Folder};

use super::objects::{Outlet, open, packed, unpacked};
use super::session::holdfast_session;
use super::shares::{self, Share};
use crate::border::{bytes, missing, store};
use crate::outcome::{Problem, holdfast_code, outcome};

/// A blob in a folder, as holdfast_map.
#[allow(non_camel_case_types, reason = "the name that C knows it by")]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct holdfast_blob {
    /// Which it is.
    pub object: u64,
}

impl From<holdfast_blob> for Blob {
    fn from(blob: holdfast_blob) -> Self {
        unpacked(blob.object).into()
    }
}

/// The blob `name` in a folder, as holdfast_map_open; it is made empty.
///
/// # Safety
/// Texts; a place for a blob.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_blob_open(
    session: *mut holdfast_session,
    folder: *const c_char,
    name: *const c_char,
    blob: *mut holdfast_blob,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe {
        let opened = open(session, (folder, name), Folder::open_blob, |txn, folder, name| {
            txn.open_or_create_blob(folder, name)
        })?;
        store(blob, holdfast_blob { object: packed(opened.handle()) })
    })
}

/// All of it, as it was at one moment: `length` bytes at `data`, which stay there until the session's next call.
///
/// # Safety
/// Places for a pointer and a length.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_blob_get(
    session: *mut holdfast_session,
    blob: holdfast_blob,
    data: *mut *const c_void,
    length: *mut usize,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe {
        let outlet = Outlet { data, length };
        outlet.clear()?;
        shares::with(session, |share| {
            let blob = Blob::from(blob);
            let content = share.read(|txn| txn.blob(blob)?.get(), |region| blob.get(region))?;
            outlet.give(share, content)
        })
    })
}

/// Replaces all of it.
///
/// # Safety
/// So many bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_blob_set(
    session: *mut holdfast_session,
    blob: holdfast_blob,
    data: *const c_void,
    length: usize,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe {
        let content = bytes(data.cast(), length)?;
        shares::with(session, |share| share.change(|txn| txn.blob(blob.into())?.set(content)))
    })
}

/// How many bytes it has.
///
/// # Safety
/// A place for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_blob_length(
    session: *mut holdfast_session,
    blob: holdfast_blob,
    length: *mut u64,
) -> holdfast_code {
    outcome(|| {
        let blob = Blob::from(blob);
        let count = shares::with(session, |share| {
            share.read(|txn| Ok(txn.blob(blob)?.len()), |region| blob.len(region))
        })?;
        // SAFETY: the caller's.
        unsafe { store(length, count) }
    })
}

/// Copies the `length` bytes from `offset` on to `data`, as they were at one moment; HOLDFAST_INVALID where it does not reach
/// so far.
///
/// # Safety
/// Room for so many bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_blob_read(
    session: *mut holdfast_session,
    blob: holdfast_blob,
    offset: u64,
    data: *mut c_void,
    length: usize,
) -> holdfast_code {
    outcome(|| {
        if data.is_null() && length > 0 {
            return Err(missing("place for the data"));
        }
        let blob = Blob::from(blob);
        shares::with(session, |share| {
            let mut content = std::mem::take(&mut share.content);
            let read = read_range(share, blob, offset, length, &mut content);
            if read.is_ok() && length > 0 {
                // SAFETY: the caller's; as many were read.
                unsafe { data.cast::<u8>().copy_from_nonoverlapping(content.as_ptr(), length) };
            }
            share.content = content;
            read
        })
    })
}

fn read_range(
    share: &mut Share,
    blob: Blob,
    offset: u64,
    length: usize,
    content: &mut Vec<u8>,
) -> Result<(), Problem> {
    let has = share.read(|txn| Ok(txn.blob(blob)?.len()), |region| blob.len(region))?;
    // To be refused, a range beyond its end needs no memory.
    let fits = offset.checked_add(length as u64).is_some_and(|end| end <= has);
    let (offset, length) = if fits { (offset, length) } else { (u64::MAX, 0) };
    content.resize(length, 0);
    let read = if let Some(transaction) = share.transaction() {
        transaction.blob(blob)?.read_at(offset, content).map(|()| true)?
    } else {
        blob.read_at(share.region()?, offset, content)?
    };
    // It may have become shorter meanwhile.
    if read { Ok(()) } else { Err(TxnError::OutOfRange.into()) }
}

/// Replaces the bytes from `offset` on by the `length` bytes at `data`; its length stays. HOLDFAST_INVALID where it does not
/// reach so far.
///
/// # Safety
/// So many bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_blob_write(
    session: *mut holdfast_session,
    blob: holdfast_blob,
    offset: u64,
    data: *const c_void,
    length: usize,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe {
        let content = bytes(data.cast(), length)?;
        shares::with(session, |share| share.change(|txn| txn.blob(blob.into())?.write_at(offset, content)))
    })
}
