//! Directories of blocks.

use std::ffi::{CString, c_char, c_void};
use std::path::{Path, PathBuf};

use client::block::{Blocks, default_directory};

use super::border::{limit, missing, text, text_if_any};
use super::handles::{self, Handle, Table, give};
use super::outcome::{holdfast_code, outcome};

/// A directory of blocks. Any threads may use it together. A child that was forked may use it too, and what was opened in it: it
/// has files and locks of its own then, and begins with nothing held and nothing begun; what its parent has stays the parent's.
#[allow(non_camel_case_types, reason = "the name that C knows it by")]
pub struct holdfast_blocks(());

impl Handle for holdfast_blocks {
    type Object = Blocks;

    const WHAT: &'static str = "directory of blocks";

    fn table() -> &'static Table<Blocks> {
        static OPEN: Table<Blocks> = Table::new();
        &OPEN
    }
}

fn path(directory: Option<&str>) -> PathBuf {
    directory.map_or_else(default_directory, |directory| Path::new(directory).to_owned())
}

/// Opens a directory of blocks; NULL is `blocks` in the run directory. HOLDFAST_UNKNOWN where there is none.
///
/// # Safety
/// A text or NULL; a place for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_blocks_open(
    directory: *const c_char,
    blocks: *mut *mut holdfast_blocks,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe { give(blocks, Blocks::open(&path(text_if_any(directory)?))?) })
}

/// The same, made if it is not there.
///
/// # Safety
/// As holdfast_blocks_open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_blocks_create(
    directory: *const c_char,
    blocks: *mut *mut holdfast_blocks,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe { give(blocks, Blocks::create(&path(text_if_any(directory)?))?) })
}

/// Calls `each` with the name of each block and with `context`.
///
/// # Safety
/// A function that takes these.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_blocks_names(
    blocks: *mut holdfast_blocks,
    each: Option<unsafe extern "C" fn(name: *const c_char, context: *mut c_void)>,
    context: *mut c_void,
) -> holdfast_code {
    outcome(|| {
        let each = each.ok_or_else(|| missing("function"))?;
        for name in handles::with(blocks, |blocks| Ok(blocks.names()?))? {
            // A name has no zeros.
            let name = CString::new(name).unwrap_or_default();
            // SAFETY: the caller's.
            unsafe { each(name.as_ptr(), context) };
        }
        Ok(())
    })
}

/// Takes a block's name away. Consumers are told, producers begin another block.
///
/// # Safety
/// A text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_blocks_remove(
    blocks: *mut holdfast_blocks,
    name: *const c_char,
    timeout_ms: u64,
) -> holdfast_code {
    outcome(|| {
        // SAFETY: the caller's.
        let name = unsafe { text(name) }?;
        handles::with(blocks, |blocks| Ok(blocks.remove(name, limit(timeout_ms))?))
    })
}

/// Closes the directory. What was opened in it stays open.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_blocks_close(blocks: *mut holdfast_blocks) -> holdfast_code {
    outcome(|| handles::close(blocks))
}
