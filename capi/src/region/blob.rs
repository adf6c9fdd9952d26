//! Blobs: bytes.

use std::ffi::{c_char, c_void};

use client::objects::{Blob, Folder};

use super::objects::{Outlet, open, packed, unpacked};
use super::session::holdfast_session;
use super::shares;
use crate::border::{bytes, store};
use crate::outcome::{holdfast_code, outcome};

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
