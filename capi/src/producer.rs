//! Writing a block.

use std::ffi::{c_char, c_void};
use std::sync::Mutex;

use client::block::{Options, Producer};

use super::blocks::holdfast_blocks;
use super::border::{bytes, limit, store, store_if_asked, text, text_if_any};
use super::handles::{self, Handle, Table, alone, give};
use super::outcome::{holdfast_code, outcome};

/// A producer of a block.
#[allow(non_camel_case_types, reason = "the name that C knows it by")]
pub struct holdfast_producer(());

impl Handle for holdfast_producer {
    type Object = Mutex<Producer>;

    const WHAT: &'static str = "producer";

    fn table() -> &'static Table<Mutex<Producer>> {
        static OPEN: Table<Mutex<Producer>> = Table::new();
        &OPEN
    }
}

/// Opens a producer of the block `name`, which is there from the first content on. `size` bytes are reserved, and no more
/// accepted; with 0 the block grows as needed. `group` is the group whose lock it shares, or NULL.
///
/// # Safety
/// Texts; a place for a handle.
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
        let (name, group) = (text(name)?, text_if_any(group)?);
        let options = Options { size: (size > 0).then_some(size), group: group.map(ToOwned::to_owned) };
        let opened = handles::with(blocks, |blocks| Ok(blocks.producer(name, options)?))?;
        give(producer, Mutex::new(opened))
    })
}

/// Makes `length` bytes at `data` the block's content; its version goes to `version`, unless that is NULL.
///
/// # Safety
/// So many bytes; a place for a number, or NULL.
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
        let content = bytes(data.cast(), length)?;
        let published = alone(producer, |producer| Ok(producer.publish(content, limit(timeout_ms))?))?;
        store_if_asked(version, published);
        Ok(())
    })
}

/// Begins content of `length` bytes, to be written at `memory`, where anything is before. HOLDFAST_OK gives memory that is
/// the caller's until any other call with this producer.
///
/// # Safety
/// A place for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_producer_begin(
    producer: *mut holdfast_producer,
    length: usize,
    timeout_ms: u64,
    memory: *mut *mut c_void,
) -> holdfast_code {
    outcome(|| {
        alone(producer, |producer| {
            producer.begin(length as u64, limit(timeout_ms))?;
            let begun = producer.memory()?.0;
            // SAFETY: the caller's.
            unsafe { store(memory, begun.cast()) }.inspect_err(|_| producer.abandon())
        })
    })
}

/// Makes the content that was begun the block's. HOLDFAST_REMOVED says that the block was removed meanwhile: begin again.
///
/// # Safety
/// A place for a number, or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_producer_commit(
    producer: *mut holdfast_producer,
    timeout_ms: u64,
    version: *mut u64,
) -> holdfast_code {
    outcome(|| {
        let committed = alone(producer, |producer| Ok(producer.commit(limit(timeout_ms))?))?;
        // SAFETY: the caller's.
        unsafe { store_if_asked(version, committed) };
        Ok(())
    })
}

/// Forgets the content that was begun, if any.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_producer_abandon(producer: *mut holdfast_producer) -> holdfast_code {
    outcome(|| {
        alone(producer, |producer| {
            producer.abandon();
            Ok(())
        })
    })
}

/// Takes the block's lock and keeps it: no other producer writes, and none that follows pays for locks. Content that was
/// begun is forgotten. Before the first content there is nothing to hold, unless the block has a group: whoever publishes first
/// has the lock then, and the others' content waits for it.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_producer_hold(producer: *mut holdfast_producer, timeout_ms: u64) -> holdfast_code {
    outcome(|| alone(producer, |producer| Ok(producer.hold(limit(timeout_ms))?)))
}

/// Gives the lock back.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_producer_release(producer: *mut holdfast_producer) -> holdfast_code {
    outcome(|| {
        alone(producer, |producer| {
            producer.release();
            Ok(())
        })
    })
}

/// Closes the producer. The block stays.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_producer_close(producer: *mut holdfast_producer) -> holdfast_code {
    outcome(|| handles::close(producer))
}
