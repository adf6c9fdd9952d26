//! Reading a block.

use std::ffi::{c_char, c_void};

use client::block::{Consumer, Failure, Pinned};

use super::blocks::holdfast_blocks;
use super::border::{give, handle, limit, store, store_if_asked, take, text};
use super::outcome::{Problem, holdfast_code, outcome};

/// A consumer of a block.
#[allow(non_camel_case_types, reason = "the name that C knows it by")]
pub struct holdfast_consumer {
    consumer: Consumer,
    content: Vec<u8>,
}

/// Content that stays as it is until it is unpinned.
#[allow(non_camel_case_types, reason = "the name that C knows it by")]
pub struct holdfast_pinned(Pinned);

/// Opens a consumer of the block `name`; HOLDFAST_UNKNOWN where there is none.
///
/// # Safety
/// A handle; a text; a place for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_consumer_open(
    blocks: *mut holdfast_blocks,
    name: *const c_char,
    consumer: *mut *mut holdfast_consumer,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe {
        let opened = handle(blocks)?.0.consumer(text(name)?)?;
        give(consumer, holdfast_consumer { consumer: opened, content: Vec::new() })
    })
}

/// Waits for something newer than what this consumer has read or pinned last: HOLDFAST_OK if there is, HOLDFAST_TIMED_OUT
/// if not.
///
/// # Safety
/// A handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_consumer_wait(
    consumer: *mut holdfast_consumer,
    timeout_ms: u64,
) -> holdfast_code {
    outcome(|| {
        // SAFETY: the caller's.
        let consumer = unsafe { handle(consumer) }?;
        if consumer.consumer.wait(limit(timeout_ms))? {
            return Ok(());
        }
        Err(Failure::Busy(format!("nothing newer in block {}", consumer.consumer.name())).into())
    })
}

/// Copies the newest content to `data`, where `capacity` bytes fit. How many there are goes to `length`, also with
/// HOLDFAST_TOO_LARGE, which says that they do not fit. The version goes to `version`, unless that is NULL.
///
/// # Safety
/// A handle; so many bytes; a place for a length, and for a version or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_consumer_read(
    consumer: *mut holdfast_consumer,
    data: *mut c_void,
    capacity: usize,
    length: *mut usize,
    version: *mut u64,
) -> holdfast_code {
    // SAFETY: the caller's; what is copied to has room for as much, as was looked at.
    outcome(|| unsafe {
        let holdfast_consumer { consumer, content } = handle(consumer)?;
        let read = consumer.read(content)?;
        store(length, content.len())?;
        if content.len() > capacity || data.is_null() {
            return Err(Problem {
                code: holdfast_code::HOLDFAST_TOO_LARGE,
                sentence: format!("{} bytes of content do not fit into {capacity}; give more", content.len()),
            });
        }
        data.cast::<u8>().copy_from_nonoverlapping(content.as_ptr(), content.len());
        store_if_asked(version, read);
        Ok(())
    })
}

/// The newest content as it lies in memory: no producer writes to it until it is unpinned, and consumer and block may be
/// closed or removed meanwhile.
///
/// # Safety
/// A handle; a place for one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_consumer_pin(
    consumer: *mut holdfast_consumer,
    pinned: *mut *mut holdfast_pinned,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe { give(pinned, holdfast_pinned(handle(consumer)?.consumer.pin()?)) })
}

/// Where pinned content is; NULL only for NULL.
///
/// # Safety
/// A handle or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_pinned_data(pinned: *const holdfast_pinned) -> *const c_void {
    // SAFETY: the caller's.
    unsafe { pinned.as_ref() }
        .and_then(|pinned| pinned.0.pointer().ok())
        .map_or(std::ptr::null(), <*const u8>::cast)
}

/// How many bytes it has; 0 only for NULL.
///
/// # Safety
/// A handle or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_pinned_length(pinned: *const holdfast_pinned) -> usize {
    // SAFETY: the caller's.
    unsafe { pinned.as_ref() }.map_or(0, |pinned| pinned.0.len())
}

/// Its version; 0 only for NULL.
///
/// # Safety
/// A handle or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_pinned_version(pinned: *const holdfast_pinned) -> u64 {
    // SAFETY: the caller's.
    unsafe { pinned.as_ref() }.map_or(0, |pinned| pinned.0.version())
}

/// Lets producers write there again.
///
/// # Safety
/// A handle or NULL, which is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_pinned_close(pinned: *mut holdfast_pinned) {
    // SAFETY: the caller's.
    unsafe { take(pinned) };
}

/// Keeps every producer of the block, and of its group, waiting.
///
/// # Safety
/// A handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_consumer_lock(
    consumer: *mut holdfast_consumer,
    timeout_ms: u64,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| Ok(unsafe { handle(consumer) }?.consumer.lock(limit(timeout_ms))?))
}

/// Lets them go on.
///
/// # Safety
/// A handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_consumer_unlock(consumer: *mut holdfast_consumer) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe {
        handle(consumer)?.consumer.unlock();
        Ok(())
    })
}

/// Closes the consumer. What it has pinned stays pinned.
///
/// # Safety
/// A handle or NULL, which is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_consumer_close(consumer: *mut holdfast_consumer) {
    // SAFETY: the caller's.
    unsafe { take(consumer) };
}
