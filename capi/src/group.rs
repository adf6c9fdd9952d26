//! Several blocks under one lock.

use std::ffi::{c_char, c_void};
use std::sync::Mutex;

use client::block::Group;

use super::blocks::holdfast_blocks;
use super::border::{bytes, limit, store_if_asked, text};
use super::handles::{self, Handle, Table, alone, give};
use super::outcome::{holdfast_code, outcome};
use super::producer::holdfast_producer;

/// A group of blocks.
#[allow(non_camel_case_types, reason = "the name that C knows it by")]
pub struct holdfast_group(());

impl Handle for holdfast_group {
    type Object = Mutex<Group>;

    const WHAT: &'static str = "group";

    fn table() -> &'static Table<Mutex<Group>> {
        static OPEN: Table<Mutex<Group>> = Table::new();
        &OPEN
    }
}

/// Opens the group `name`, which need not be made.
///
/// # Safety
/// A text; a place for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_group_open(
    blocks: *mut holdfast_blocks,
    name: *const c_char,
    group: *mut *mut holdfast_group,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe {
        let name = text(name)?;
        let opened = handles::with(blocks, |blocks| Ok(blocks.group(name)?))?;
        give(group, Mutex::new(opened))
    })
}

/// Keeps every producer of the group waiting: what is read from its blocks meanwhile was there together.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_group_hold_for_reading(
    group: *mut holdfast_group,
    timeout_ms: u64,
) -> holdfast_code {
    outcome(|| alone(group, |group| Ok(group.hold_for_reading(limit(timeout_ms))?)))
}

/// Keeps every other producer of the group waiting, and every consumer that wants its lock.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_group_hold_for_writing(
    group: *mut holdfast_group,
    timeout_ms: u64,
) -> holdfast_code {
    outcome(|| alone(group, |group| Ok(group.hold_for_writing(limit(timeout_ms))?)))
}

/// As holdfast_producer_publish, for a block of the group, which is held for writing.
///
/// # Safety
/// So many bytes; a place for a number, or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_group_publish(
    group: *mut holdfast_group,
    producer: *mut holdfast_producer,
    data: *const c_void,
    length: usize,
    timeout_ms: u64,
    version: *mut u64,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe {
        let content = bytes(data.cast(), length)?;
        let published = alone(group, |group| {
            alone(producer, |producer| Ok(group.publish(producer, content, limit(timeout_ms))?))
        })?;
        store_if_asked(version, published);
        Ok(())
    })
}

/// Gives the lock back.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_group_release(group: *mut holdfast_group) -> holdfast_code {
    outcome(|| {
        alone(group, |group| {
            group.release();
            Ok(())
        })
    })
}

/// Closes the group. Its lock is free then.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_group_close(group: *mut holdfast_group) -> holdfast_code {
    outcome(|| handles::close(group))
}
