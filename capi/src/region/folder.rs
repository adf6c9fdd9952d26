//! Folders: the names of objects, and of other folders.

use std::ffi::{CString, c_char, c_int, c_void};

use client::objects::{Folder, Kind, ReadError};
use client::{Region, Transaction, TxnError};

use super::objects::nothing;
use super::session::holdfast_session;
use super::shares::{self, Share};
use crate::border::{missing, text, text_if_any};
use crate::outcome::{Problem, holdfast_code, outcome};

/// What a name in a folder stands for.
#[allow(non_camel_case_types, reason = "the name that C knows it by")]
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum holdfast_kind {
    /// A folder.
    HOLDFAST_FOLDER = 1,
    /// A map.
    HOLDFAST_MAP = 2,
    /// A counter.
    HOLDFAST_COUNTER = 3,
    /// A queue.
    HOLDFAST_QUEUE = 4,
    /// A blob.
    HOLDFAST_BLOB = 5,
}

/// What C is told; `None` for what has no name.
fn kind(kind: Kind) -> Option<holdfast_kind> {
    use holdfast_kind::*;
    match kind {
        Kind::Folder => Some(HOLDFAST_FOLDER),
        Kind::Map => Some(HOLDFAST_MAP),
        Kind::Counter => Some(HOLDFAST_COUNTER),
        Kind::Queue => Some(HOLDFAST_QUEUE),
        Kind::Blob => Some(HOLDFAST_BLOB),
        _ => None,
    }
}

/// Makes the folder at the path `folder`, and those that lead to it, where they are not there.
///
/// # Safety
/// A text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_folder_make(
    session: *mut holdfast_session,
    folder: *const c_char,
) -> holdfast_code {
    outcome(|| {
        // SAFETY: the caller's.
        let folder = unsafe { text(folder) }?;
        change(session, |txn| txn.open_or_create_folder(folder).map(drop))
    })
}

/// Calls `each` with every name in a folder, in order, and with `context`, until it gives something other than 0. Without a
/// folder (NULL) they are those of the folders at the top. Not within a transaction. HOLDFAST_UNKNOWN where there is no such
/// folder.
///
/// # Safety
/// A text or NULL; a function that takes these.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_folder_each(
    session: *mut holdfast_session,
    folder: *const c_char,
    each: Option<
        unsafe extern "C" fn(name: *const c_char, kind: holdfast_kind, context: *mut c_void) -> c_int,
    >,
    context: *mut c_void,
) -> holdfast_code {
    outcome(|| {
        // SAFETY: the caller's.
        let folder = unsafe { text_if_any(folder) }?;
        let each = each.ok_or_else(|| missing("function"))?;
        // The function may use the session: it is called with nothing held.
        let region = shares::with(session, Share::region)?;
        for (name, kind) in names(region, folder)? {
            // A name has no zeros.
            let name = CString::new(name).unwrap_or_default();
            // SAFETY: the caller's.
            if unsafe { each(name.as_ptr(), kind, context) } != 0 {
                break;
            }
        }
        Ok(())
    })
}

fn names(region: &Region, folder: Option<&str>) -> Result<Vec<(String, holdfast_kind)>, Problem> {
    let Some(folder) = folder else {
        let top = Folder::top(region)?.into_iter();
        return Ok(top.map(|(name, _)| (name, holdfast_kind::HOLDFAST_FOLDER)).collect());
    };
    let listed = Folder::open(region, folder).and_then(|folder| folder.list(region));
    let entries = listed.map_err(|error| match error {
        ReadError::NotFound => no_folder(folder),
        error => error.into(),
    })?;
    Ok(entries.into_iter().filter_map(|(name, entry)| Some((name, kind(entry.kind)?))).collect())
}

/// Deletes the folder at the path `folder`: HOLDFAST_UNKNOWN where there is none, HOLDFAST_NOT_EMPTY where it holds something.
///
/// # Safety
/// A text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_folder_delete(
    session: *mut holdfast_session,
    folder: *const c_char,
) -> holdfast_code {
    outcome(|| {
        // SAFETY: the caller's.
        let folder = unsafe { text(folder) }?;
        let deleted = shares::with(session, |share| share.change(|txn| txn.delete_folder(folder)))?;
        if deleted { Ok(()) } else { Err(no_folder(folder)) }
    })
}

/// Moves the folder at the path `folder`, with all that is in it, to the path `to`, where nothing is (HOLDFAST_EXISTS) in a
/// folder that is there.
///
/// # Safety
/// Texts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_folder_rename(
    session: *mut holdfast_session,
    folder: *const c_char,
    to: *const c_char,
) -> holdfast_code {
    outcome(|| {
        // SAFETY: the caller's.
        let (folder, to) = unsafe { (text(folder)?, text(to)?) };
        change(session, |txn| txn.rename_folder(folder, to))
    })
}

/// Deletes the object of this name from a folder; HOLDFAST_UNKNOWN where there is none. A queue's waiters are told. Folders
/// are deleted by holdfast_folder_delete.
///
/// # Safety
/// Texts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_delete(
    session: *mut holdfast_session,
    folder: *const c_char,
    name: *const c_char,
) -> holdfast_code {
    outcome(|| {
        // SAFETY: the caller's.
        let (folder, name) = unsafe { (text(folder)?, text(name)?) };
        let deleted = shares::with(session, |share| {
            share.change(|txn| match txn.find_folder(folder)? {
                Some(folder) => txn.delete(folder, name),
                None => Ok(false),
            })
        })?;
        if deleted { Ok(()) } else { Err(nothing(folder, name)) }
    })
}

/// Gives the object of this name another one, in the same folder or in another, which is made if it is not there. What refers
/// to the object goes on as before. HOLDFAST_UNKNOWN where there is none, HOLDFAST_EXISTS where the other name is taken.
///
/// # Safety
/// Texts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_rename(
    session: *mut holdfast_session,
    folder: *const c_char,
    name: *const c_char,
    to_folder: *const c_char,
    to_name: *const c_char,
) -> holdfast_code {
    outcome(|| {
        // SAFETY: the caller's.
        let [folder, name, to_folder, to_name] =
            unsafe { [text(folder)?, text(name)?, text(to_folder)?, text(to_name)?] };
        let renamed = change(session, |txn| {
            let from = txn.open_folder(folder)?;
            let to = txn.open_or_create_folder(to_folder)?;
            txn.rename(from, name, to, to_name)
        });
        renamed.map_err(|problem| match problem.code {
            holdfast_code::HOLDFAST_UNKNOWN => nothing(folder, name),
            _ => problem,
        })
    })
}

fn change(
    session: *mut holdfast_session,
    changes: impl FnOnce(&mut Transaction<'_, 'static>) -> Result<(), TxnError>,
) -> Result<(), Problem> {
    shares::with(session, |share| share.change(changes))
}

fn no_folder(folder: &str) -> Problem {
    Problem {
        code: holdfast_code::HOLDFAST_UNKNOWN,
        sentence: format!("there is no such folder as {folder}"),
    }
}
