//! Maps: values under keys.

use std::ffi::{c_char, c_int, c_void};

use client::objects::{Folder, Map};

use super::objects::{Outlet, open, packed, unpacked};
use super::session::holdfast_session;
use super::shares::{self, Share};
use crate::border::{bytes, missing, store};
use crate::outcome::{Problem, holdfast_code, outcome};

/// A map in a folder. It need not be closed, and any session of the instance may use it.
#[allow(non_camel_case_types, reason = "the name that C knows it by")]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct holdfast_map {
    /// Which it is.
    pub object: u64,
}

impl From<holdfast_map> for Map {
    fn from(map: holdfast_map) -> Self {
        unpacked(map.object).into()
    }
}

fn no_such_key() -> Problem {
    Problem { code: holdfast_code::HOLDFAST_NO_KEY, sentence: "the map has no such key".to_owned() }
}

/// The map `name` in the folder at the path `folder` (names with `/` between them); what is not there is made. A view makes
/// nothing, and gives HOLDFAST_UNKNOWN.
///
/// # Safety
/// Texts; a place for a map.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_map_open(
    session: *mut holdfast_session,
    folder: *const c_char,
    name: *const c_char,
    map: *mut holdfast_map,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe {
        let opened = open(session, (folder, name), Folder::open_map, |txn, folder, name| {
            txn.open_or_create_map(folder, name)
        })?;
        store(map, holdfast_map { object: packed(opened.handle()) })
    })
}

/// The value under a key: `length` bytes at `data`, which stay there until the session's next call. HOLDFAST_NO_KEY where
/// there is no such key. Within a transaction the map is locked and read with its changes; without one nothing is locked.
///
/// # Safety
/// So many bytes; places for a pointer and a length.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_map_get(
    session: *mut holdfast_session,
    map: holdfast_map,
    key: *const c_void,
    key_length: usize,
    data: *mut *const c_void,
    length: *mut usize,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe {
        let (key, outlet) = (bytes(key.cast(), key_length)?, Outlet { data, length });
        outlet.clear()?;
        shares::with(session, |share| {
            let map = Map::from(map);
            let value = share.read(|txn| txn.map(map)?.get(key), |region| map.get(region, key))?;
            outlet.give(share, value.ok_or_else(no_such_key)?)
        })
    })
}

/// Puts a value under a key, in place of what was there.
///
/// # Safety
/// So many bytes each.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_map_put(
    session: *mut holdfast_session,
    map: holdfast_map,
    key: *const c_void,
    key_length: usize,
    value: *const c_void,
    value_length: usize,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe {
        let (key, value) = (bytes(key.cast(), key_length)?, bytes(value.cast(), value_length)?);
        shares::with(session, |share| share.change(|txn| txn.map(map.into())?.put(key, value).map(drop)))
    })
}

/// Removes what is under a key; HOLDFAST_NO_KEY where there is nothing.
///
/// # Safety
/// So many bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_map_remove(
    session: *mut holdfast_session,
    map: holdfast_map,
    key: *const c_void,
    key_length: usize,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe {
        let key = bytes(key.cast(), key_length)?;
        let removed = shares::with(session, |share| share.change(|txn| txn.map(map.into())?.remove(key)))?;
        if removed { Ok(()) } else { Err(no_such_key()) }
    })
}

/// How many entries it has.
///
/// # Safety
/// A place for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_map_length(
    session: *mut holdfast_session,
    map: holdfast_map,
    length: *mut u64,
) -> holdfast_code {
    outcome(|| {
        let map = Map::from(map);
        let count = shares::with(session, |share| {
            share.read(|txn| Ok(txn.map(map)?.len()), |region| map.len(region))
        })?;
        // SAFETY: the caller's.
        unsafe { store(length, count) }
    })
}

/// Calls `each` with every entry, in no order, and with `context`, until it gives something other than 0. Not within a
/// transaction. Others go on changing the map: an entry that is there all the while is given once, another at most once.
///
/// # Safety
/// A function that takes these; the bytes are there until it returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_map_each(
    session: *mut holdfast_session,
    map: holdfast_map,
    each: Option<
        unsafe extern "C" fn(
            key: *const c_void,
            key_length: usize,
            value: *const c_void,
            value_length: usize,
            context: *mut c_void,
        ) -> c_int,
    >,
    context: *mut c_void,
) -> holdfast_code {
    outcome(|| {
        let each = each.ok_or_else(|| missing("function"))?;
        // The function may use the session: it is called with nothing held.
        let region = shares::with(session, Share::region)?;
        for entry in Map::from(map).iter(region)? {
            let (key, value) = entry?;
            // SAFETY: the caller's.
            let enough =
                unsafe { each(key.as_ptr().cast(), key.len(), value.as_ptr().cast(), value.len(), context) };
            if enough != 0 {
                break;
            }
        }
        Ok(())
    })
}
