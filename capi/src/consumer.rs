//! Reading a block.

use std::ffi::{c_char, c_void};
use std::sync::Mutex;

use client::block::{Consumer, Failure};

use super::blocks::holdfast_blocks;
use super::border::{limit, store, store_if_asked, text};
use super::handles::{self, Handle, Table, alone, give};
use super::outcome::{Problem, holdfast_code, outcome};
use super::pinned::holdfast_pinned;

/// A consumer of a block.
#[allow(non_camel_case_types, reason = "the name that C knows it by")]
pub struct holdfast_consumer(());

/// A consumer, and what it has copied last.
pub struct Reader {
    consumer: Consumer,
    content: Vec<u8>,
}

impl Handle for holdfast_consumer {
    type Object = Mutex<Reader>;

    const WHAT: &'static str = "consumer";

    fn table() -> &'static Table<Mutex<Reader>> {
        static OPEN: Table<Mutex<Reader>> = Table::new();
        &OPEN
    }
}

/// Opens a consumer of the block `name`; HOLDFAST_UNKNOWN where there is none.
///
/// # Safety
/// A text; a place for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_consumer_open(
    blocks: *mut holdfast_blocks,
    name: *const c_char,
    consumer: *mut *mut holdfast_consumer,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe {
        let name = text(name)?;
        let opened = handles::with(blocks, |blocks| Ok(blocks.consumer(name)?))?;
        give(consumer, Mutex::new(Reader { consumer: opened, content: Vec::new() }))
    })
}

/// Waits for something newer than what this consumer has read or pinned last: HOLDFAST_OK if there is, HOLDFAST_TIMED_OUT
/// if not.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_consumer_wait(consumer: *mut holdfast_consumer, timeout_ms: u64) -> holdfast_code {
    outcome(|| {
        alone(consumer, |Reader { consumer, .. }| {
            if consumer.wait(limit(timeout_ms))? {
                return Ok(());
            }
            Err(Failure::Busy(format!("nothing newer in block {}", consumer.name())).into())
        })
    })
}

/// Copies the newest content to `data`, where `capacity` bytes fit. How many there are goes to `length`, also with
/// HOLDFAST_TOO_LARGE, which says that they do not fit. The version goes to `version`, unless that is NULL.
///
/// # Safety
/// So many bytes; a place for a length, and for a version or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_consumer_read(
    consumer: *mut holdfast_consumer,
    data: *mut c_void,
    capacity: usize,
    length: *mut usize,
    version: *mut u64,
) -> holdfast_code {
    outcome(|| {
        alone(consumer, |Reader { consumer, content }| {
            let read = consumer.read(content)?;
            // SAFETY: the caller's; what is copied to has room for as much, as was looked at.
            unsafe {
                store(length, content.len())?;
                if content.len() > capacity || data.is_null() {
                    return Err(too_large(content.len(), capacity));
                }
                data.cast::<u8>().copy_from_nonoverlapping(content.as_ptr(), content.len());
                store_if_asked(version, read);
            }
            Ok(())
        })
    })
}

fn too_large(length: usize, capacity: usize) -> Problem {
    Problem {
        code: holdfast_code::HOLDFAST_TOO_LARGE,
        sentence: format!("{length} bytes of content do not fit into {capacity}; give more"),
    }
}

/// The newest content as it lies in memory: no producer writes to it until it is unpinned, and consumer and block may be
/// closed or removed meanwhile.
///
/// # Safety
/// A place for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_consumer_pin(
    consumer: *mut holdfast_consumer,
    pinned: *mut *mut holdfast_pinned,
) -> holdfast_code {
    outcome(|| {
        let content = alone(consumer, |Reader { consumer, .. }| Ok(consumer.pin()?))?;
        // SAFETY: the caller's.
        unsafe { give(pinned, content) }
    })
}

/// Keeps every producer of the block, and of its group, waiting.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_consumer_lock(consumer: *mut holdfast_consumer, timeout_ms: u64) -> holdfast_code {
    outcome(|| alone(consumer, |Reader { consumer, .. }| Ok(consumer.lock(limit(timeout_ms))?)))
}

/// Lets them go on.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_consumer_unlock(consumer: *mut holdfast_consumer) -> holdfast_code {
    outcome(|| {
        alone(consumer, |Reader { consumer, .. }| {
            consumer.unlock();
            Ok(())
        })
    })
}

/// Closes the consumer. What it has pinned stays pinned.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_consumer_close(consumer: *mut holdfast_consumer) -> holdfast_code {
    outcome(|| handles::close(consumer))
}
