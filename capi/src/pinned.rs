//! Content of a block as it lies in memory.

use std::ffi::c_void;

use client::block::Pinned;

use super::handles::{self, Handle, Table};
use super::outcome::{holdfast_code, outcome};

/// Content that stays as it is until it is unpinned. Any threads may use it together.
#[allow(non_camel_case_types, reason = "the name that C knows it by")]
pub struct holdfast_pinned(());

impl Handle for holdfast_pinned {
    type Object = Pinned;

    const WHAT: &'static str = "pinned content";

    fn table() -> &'static Table<Pinned> {
        static OPEN: Table<Pinned> = Table::new();
        &OPEN
    }
}

/// What is asked of pinned content; `none` where the handle is not good, which holdfast_last_error tells.
fn asked<T: Copy>(pinned: *const holdfast_pinned, none: T, ask: impl FnOnce(&Pinned) -> T) -> T {
    let mut answer = none;
    outcome(|| {
        answer = handles::with(pinned, |pinned| Ok(ask(pinned)))?;
        Ok(())
    });
    answer
}

/// Where pinned content is, until it is closed; NULL only for a handle that is not good.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_pinned_data(pinned: *const holdfast_pinned) -> *const c_void {
    asked(pinned, std::ptr::null(), |pinned| pinned.pointer().map_or(std::ptr::null(), <*const u8>::cast))
}

/// How many bytes it has; 0 only for a handle that is not good.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_pinned_length(pinned: *const holdfast_pinned) -> usize {
    asked(pinned, 0, Pinned::len)
}

/// Its version; 0 only for a handle that is not good.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_pinned_version(pinned: *const holdfast_pinned) -> u64 {
    asked(pinned, 0, Pinned::version)
}

/// Lets producers write there again.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_pinned_close(pinned: *mut holdfast_pinned) -> holdfast_code {
    outcome(|| handles::close(pinned))
}
