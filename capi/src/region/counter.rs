//! Counters: numbers.

use std::ffi::c_char;

use client::objects::{Counter, Folder};

use super::objects::{open, packed, unpacked};
use super::session::holdfast_session;
use super::shares;
use crate::border::{store, store_if_asked};
use crate::outcome::{holdfast_code, outcome};

/// A counter in a folder, as holdfast_map.
#[allow(non_camel_case_types, reason = "the name that C knows it by")]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct holdfast_counter {
    /// Which it is.
    pub object: u64,
}

impl From<holdfast_counter> for Counter {
    fn from(counter: holdfast_counter) -> Self {
        unpacked(counter.object).into()
    }
}

/// The counter `name` in a folder, as holdfast_map_open.
///
/// # Safety
/// Texts; a place for a counter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_counter_open(
    session: *mut holdfast_session,
    folder: *const c_char,
    name: *const c_char,
    counter: *mut holdfast_counter,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe {
        let opened = open(session, (folder, name), Folder::open_counter, |txn, folder, name| {
            txn.open_or_create_counter(folder, name)
        })?;
        store(counter, holdfast_counter { object: packed(opened.handle()) })
    })
}

/// Its value.
///
/// # Safety
/// A place for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_counter_get(
    session: *mut holdfast_session,
    counter: holdfast_counter,
    value: *mut u64,
) -> holdfast_code {
    outcome(|| {
        let counter = Counter::from(counter);
        let read = shares::with(session, |share| {
            share.read(|txn| Ok(txn.counter(counter)?.get()), |region| counter.get(region))
        })?;
        // SAFETY: the caller's.
        unsafe { store(value, read) }
    })
}

/// Adds to it; the sum, which wraps around at 2^64, goes to `sum`, unless that is NULL.
///
/// # Safety
/// A place for a number, or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_counter_add(
    session: *mut holdfast_session,
    counter: holdfast_counter,
    amount: u64,
    sum: *mut u64,
) -> holdfast_code {
    outcome(|| {
        let added =
            shares::with(session, |share| share.change(|txn| txn.counter(counter.into())?.add(amount)))?;
        // SAFETY: the caller's.
        unsafe { store_if_asked(sum, added) };
        Ok(())
    })
}

/// Gives it another value.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_counter_set(
    session: *mut holdfast_session,
    counter: holdfast_counter,
    value: u64,
) -> holdfast_code {
    outcome(|| shares::with(session, |share| share.change(|txn| txn.counter(counter.into())?.set(value))))
}
