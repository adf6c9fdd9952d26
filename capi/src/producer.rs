//! Writing a block.

use std::ffi::{c_char, c_void};

use client::block::{Options, Producer};

use super::blocks::holdfast_blocks;
use super::border::{bytes, give, handle, limit, store, store_if_asked, take, text, text_if_any};
use super::outcome::{holdfast_code, outcome};

/// A producer of a block.
#[allow(non_camel_case_types, reason = "the name that C knows it by")]
pub struct holdfast_producer(pub(super) Producer);

/// Opens a producer of the block `name`, which is there from the first content on. `size` bytes are reserved, and no more
/// accepted; with 0 the block grows as needed. `group` is the group whose lock it shares, or NULL.
///
/// # Safety
/// A handle; texts; a place for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_producer_open(
    blocks: *mut holdfast_blocks,
    name: *const c_char,
    size: u64,
    group: *const c_char,
    producer: *mut *mut holdfast_producer,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe {
        let options =
            Options { size: (size > 0).then_some(size), group: text_if_any(group)?.map(ToOwned::to_owned) };
        give(producer, holdfast_producer(handle(blocks)?.0.producer(text(name)?, options)?))
    })
}

/// Makes `length` bytes at `data` the block's content; its version goes to `version`, unless that is NULL.
///
/// # Safety
/// A handle; so many bytes; a place for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_producer_publish(
    producer: *mut holdfast_producer,
    data: *const c_void,
    length: usize,
    timeout_ms: u64,
    version: *mut u64,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe {
        let published = handle(producer)?.0.publish(bytes(data.cast(), length)?, limit(timeout_ms))?;
        store_if_asked(version, published);
        Ok(())
    })
}

/// Begins content of `length` bytes, to be written at `memory`, where anything is before. HOLDFAST_OK gives memory that is
/// the caller's until any other call with this producer.
///
/// # Safety
/// A handle; a place for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_producer_begin(
    producer: *mut holdfast_producer,
    length: usize,
    timeout_ms: u64,
    memory: *mut *mut c_void,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe {
        let producer = handle(producer)?;
        producer.0.begin(length as u64, limit(timeout_ms))?;
        store(memory, producer.0.memory()?.0.cast()).inspect_err(|_| producer.0.abandon())
    })
}

/// Makes the content that was begun the block's. HOLDFAST_REMOVED says that the block was removed meanwhile: begin again.
///
/// # Safety
/// A handle; a place for a number, or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_producer_commit(
    producer: *mut holdfast_producer,
    timeout_ms: u64,
    version: *mut u64,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe {
        let committed = handle(producer)?.0.commit(limit(timeout_ms))?;
        store_if_asked(version, committed);
        Ok(())
    })
}

/// Forgets the content that was begun, if any.
///
/// # Safety
/// A handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_producer_abandon(producer: *mut holdfast_producer) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe {
        handle(producer)?.0.abandon();
        Ok(())
    })
}

/// Takes the block's lock and keeps it: no other producer writes, and none that follows pays for locks.
///
/// # Safety
/// A handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_producer_hold(
    producer: *mut holdfast_producer,
    timeout_ms: u64,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| Ok(unsafe { handle(producer) }?.0.hold(limit(timeout_ms))?))
}

/// Gives the lock back.
///
/// # Safety
/// A handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_producer_release(producer: *mut holdfast_producer) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe {
        handle(producer)?.0.release();
        Ok(())
    })
}

/// Closes the producer. The block stays.
///
/// # Safety
/// A handle or NULL, which is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_producer_close(producer: *mut holdfast_producer) {
    // SAFETY: the caller's.
    unsafe { take(producer) };
}
