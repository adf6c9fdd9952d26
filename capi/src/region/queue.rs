//! Queues: items in order, put in and taken out at either end.

use std::ffi::{c_char, c_void};
use std::time::Instant;

use client::objects::queue::End;
use client::objects::{Folder, Queue};

use super::objects::{Outlet, open, packed, unpacked};
use super::session::holdfast_session;
use super::shares::{self, Share};
use crate::border::{bytes, limit, store};
use crate::outcome::{Problem, holdfast_code, outcome};

/// A queue in a folder, as holdfast_map.
#[allow(non_camel_case_types, reason = "the name that C knows it by")]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct holdfast_queue {
    /// Which it is.
    pub object: u64,
}

impl From<holdfast_queue> for Queue {
    fn from(queue: holdfast_queue) -> Self {
        unpacked(queue.object).into()
    }
}

/// The queue `name` in a folder, as holdfast_map_open. One that is made takes at most `capacity` items, or any number with 0.
///
/// # Safety
/// Texts; a place for a queue.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_queue_open(
    session: *mut holdfast_session,
    folder: *const c_char,
    name: *const c_char,
    capacity: u64,
    queue: *mut holdfast_queue,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe {
        let opened = open(session, (folder, name), Folder::open_queue, |txn, folder, name| {
            txn.open_or_create_queue(folder, name, capacity)
        })?;
        store(queue, holdfast_queue { object: packed(opened.handle()) })
    })
}

/// How many items it has.
///
/// # Safety
/// A place for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_queue_length(
    session: *mut holdfast_session,
    queue: holdfast_queue,
    length: *mut u64,
) -> holdfast_code {
    outcome(|| {
        let queue = Queue::from(queue);
        let count = shares::with(session, |share| {
            share.read(|txn| Ok(txn.queue(queue)?.len()), |region| queue.len(region))
        })?;
        // SAFETY: the caller's.
        unsafe { store(length, count) }
    })
}

/// Puts an item behind the last one. Waits for so long until there is room; HOLDFAST_TIMED_OUT if there is none. Within a
/// transaction nothing is waited for: see holdfast_begin_with_room.
///
/// # Safety
/// So many bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_queue_push_back(
    session: *mut holdfast_session,
    queue: holdfast_queue,
    item: *const c_void,
    length: usize,
    timeout_ms: u64,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe { push(session, queue, End::Back, bytes(item.cast(), length)?, timeout_ms) })
}

/// Puts an item before the first one, likewise.
///
/// # Safety
/// So many bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_queue_push_front(
    session: *mut holdfast_session,
    queue: holdfast_queue,
    item: *const c_void,
    length: usize,
    timeout_ms: u64,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe { push(session, queue, End::Front, bytes(item.cast(), length)?, timeout_ms) })
}

/// Takes the first item out: `length` bytes at `data`, which stay there until the session's next call. Waits for so long until
/// there is one; HOLDFAST_TIMED_OUT if there is none. Within a transaction nothing is waited for: see
/// holdfast_begin_with_item.
///
/// # Safety
/// Places for a pointer and a length.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_queue_pop_front(
    session: *mut holdfast_session,
    queue: holdfast_queue,
    timeout_ms: u64,
    data: *mut *const c_void,
    length: *mut usize,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe { pop(session, queue, End::Front, timeout_ms, Outlet { data, length }) })
}

/// Takes the last item out, likewise.
///
/// # Safety
/// Places for a pointer and a length.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_queue_pop_back(
    session: *mut holdfast_session,
    queue: holdfast_queue,
    timeout_ms: u64,
    data: *mut *const c_void,
    length: *mut usize,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe { pop(session, queue, End::Back, timeout_ms, Outlet { data, length }) })
}

fn push(
    session: *mut holdfast_session,
    queue: holdfast_queue,
    end: End,
    item: &[u8],
    timeout_ms: u64,
) -> Result<(), Problem> {
    let (queue, deadline) = (Queue::from(queue), Instant::now() + limit(timeout_ms));
    shares::with(session, |share| {
        let pushed = if let Some(transaction) = share.seated()?.transaction() {
            transaction.queue(queue)?.push(end, item)?
        } else {
            let session = share.seated()?.session()?;
            let mut transaction = session.begin_with_room(queue, deadline)?;
            let pushed = transaction.queue(queue)?.push(end, item)?;
            transaction.commit()?;
            pushed
        };
        if pushed { Ok(()) } else { Err(not_ready("the queue is full")) }
    })
}

/// # Safety
/// Places for a pointer and a length, or NULL.
unsafe fn pop(
    session: *mut holdfast_session,
    queue: holdfast_queue,
    end: End,
    timeout_ms: u64,
    outlet: Outlet,
) -> Result<(), Problem> {
    // SAFETY: the caller's.
    unsafe { outlet.clear()? };
    let (queue, deadline) = (Queue::from(queue), Instant::now() + limit(timeout_ms));
    shares::with(session, |share| {
        let item = popped(share, queue, end, deadline)?.ok_or_else(|| not_ready("the queue is empty"))?;
        // SAFETY: the caller's.
        unsafe { outlet.give(share, item) }
    })
}

fn popped(share: &mut Share, queue: Queue, end: End, deadline: Instant) -> Result<Option<Vec<u8>>, Problem> {
    if let Some(transaction) = share.seated()?.transaction() {
        return Ok(transaction.queue(queue)?.pop(end)?);
    }
    let session = share.seated()?.session()?;
    let mut transaction = session.begin_with_item(queue, deadline)?;
    let item = transaction.queue(queue)?.pop(end)?;
    transaction.commit()?;
    Ok(item)
}

/// What is told where there is no item, or no room.
pub fn not_ready(sentence: &str) -> Problem {
    Problem { code: holdfast_code::HOLDFAST_TIMED_OUT, sentence: sentence.to_owned() }
}
