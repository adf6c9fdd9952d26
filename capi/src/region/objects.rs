//! What all objects have in common: how they are found by name, and how content is handed out.

use std::ffi::{c_char, c_void};

use client::objects::{Folder, Handle, ReadError};
use client::{Region, Transaction, TxnError};

use super::session::holdfast_session;
use super::shares::{self, Share};
use crate::border::{store, text};
use crate::outcome::{Problem, holdfast_code};

/// An object's handle in one word.
pub fn packed(handle: Handle) -> u64 {
    u64::from(handle.generation) << 32 | u64::from(handle.index)
}

/// The handle in a word. Any word will do: what is no object, or of another kind, is not found.
pub fn unpacked(object: u64) -> Handle {
    Handle { index: object as u32, generation: (object >> 32) as u32 }
}

/// The object of this name, which is made if it is not there. A view makes none.
///
/// # Safety
/// Texts.
pub unsafe fn open<T>(
    session: *mut holdfast_session,
    (folder, name): (*const c_char, *const c_char),
    find: impl FnOnce(Folder, &Region, &str) -> Result<T, ReadError>,
    make: impl FnOnce(&mut Transaction<'_, 'static>, Folder, &str) -> Result<T, TxnError>,
) -> Result<T, Problem> {
    // SAFETY: the caller's.
    let (folder, name) = unsafe { (text(folder)?, text(name)?) };
    shares::with(session, |share| {
        if share.transaction().is_none() {
            let region = share.region()?;
            match Folder::open(region, folder).and_then(|folder| find(folder, region, name)) {
                Err(ReadError::NotFound) if share.only_reads() => return Err(nothing(folder, name)),
                Err(ReadError::NotFound) => {}
                found => return Ok(found?),
            }
        }
        share.change(|txn| {
            let folder = txn.open_or_create_folder(folder)?;
            make(txn, folder, name)
        })
    })
}

/// What is told where a name stands for nothing.
pub fn nothing(folder: &str, name: &str) -> Problem {
    Problem {
        code: holdfast_code::HOLDFAST_UNKNOWN,
        sentence: format!("there is no such object as {name} in folder {folder}"),
    }
}

/// Where content is to be handed out.
#[derive(Clone, Copy)]
pub struct Outlet {
    pub data: *mut *const c_void,
    pub length: *mut usize,
}

impl Outlet {
    /// Says that there is nothing yet: so nothing is taken out that could not be handed out.
    ///
    /// # Safety
    /// NULL, or places for a pointer and a length.
    pub unsafe fn clear(self) -> Result<(), Problem> {
        // SAFETY: the caller's.
        unsafe { store(self.data, std::ptr::null()).and_then(|()| store(self.length, 0)) }
    }

    /// Hands content out, which the share keeps.
    ///
    /// # Safety
    /// As [`Outlet::clear`].
    pub unsafe fn give(self, share: &mut Share, content: Vec<u8>) -> Result<(), Problem> {
        share.content = content;
        // SAFETY: the caller's.
        unsafe {
            store(self.data, share.content.as_ptr().cast())?;
            store(self.length, share.content.len())
        }
    }
}
