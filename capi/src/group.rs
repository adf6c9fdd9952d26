//! Several blocks under one lock.

use std::ffi::{c_char, c_void};

use client::block::Group;

use super::blocks::holdfast_blocks;
use super::border::{bytes, give, handle, limit, store_if_asked, take, text};
use super::outcome::{holdfast_code, outcome};
use super::producer::holdfast_producer;

/// A group of blocks.
#[allow(non_camel_case_types, reason = "the name that C knows it by")]
pub struct holdfast_group(Group);

/// Opens the group `name`, which need not be made.
///
/// # Safety
/// A handle; a text; a place for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_group_open(
    blocks: *mut holdfast_blocks,
    name: *const c_char,
    group: *mut *mut holdfast_group,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe { give(group, holdfast_group(handle(blocks)?.0.group(text(name)?)?)) })
}

/// Keeps every producer of the group waiting: what is read from its blocks meanwhile was there together.
///
/// # Safety
/// A handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_group_hold_for_reading(
    group: *mut holdfast_group,
    timeout_ms: u64,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| Ok(unsafe { handle(group) }?.0.hold_for_reading(limit(timeout_ms))?))
}

/// Keeps every other producer of the group waiting, and every consumer that wants its lock.
///
/// # Safety
/// A handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_group_hold_for_writing(
    group: *mut holdfast_group,
    timeout_ms: u64,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| Ok(unsafe { handle(group) }?.0.hold_for_writing(limit(timeout_ms))?))
}

/// As holdfast_producer_publish, for a block of the group, which is held for writing.
///
/// # Safety
/// Handles; so many bytes; a place for a number, or NULL.
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
        let (group, producer) = (handle(group)?, handle(producer)?);
        let published = group.0.publish(&mut producer.0, bytes(data.cast(), length)?, limit(timeout_ms))?;
        store_if_asked(version, published);
        Ok(())
    })
}

/// Gives the lock back.
///
/// # Safety
/// A handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_group_release(group: *mut holdfast_group) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe {
        handle(group)?.0.release();
        Ok(())
    })
}

/// Closes the group. Its lock is free then.
///
/// # Safety
/// A handle or NULL, which is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_group_close(group: *mut holdfast_group) {
    // SAFETY: the caller's.
    unsafe { take(group) };
}
