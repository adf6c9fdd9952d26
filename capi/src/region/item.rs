//! Items in flight: taken from a queue by a session, which works on them for longer than a transaction.

use std::ffi::c_void;
use std::time::Instant;

use client::Transaction;
use client::objects::queue::End;
use client::objects::{Queue, Taken};

use super::objects::Outlet;
use super::queue::{holdfast_queue, not_ready};
use super::session::holdfast_session;
use super::shares::{self, Share};
use crate::border::{limit, store};
use crate::outcome::{Problem, holdfast_code, outcome};

/// An item that a session has taken from a queue, until it is finished or put back. If the program is killed, or closes the
/// session, it is put back to where it was.
#[allow(non_camel_case_types, reason = "the name that C knows it by")]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct holdfast_item {
    /// The how manieth it is.
    pub serial: u64,
}

/// Takes the first item, to be worked on and then finished: `length` bytes at `data`, which stay there until the session's
/// next call. Waits as holdfast_queue_pop_front does. A session has at most 12 items (HOLDFAST_FULL).
///
/// # Safety
/// Places for an item, a pointer and a length.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_queue_take_front(
    session: *mut holdfast_session,
    queue: holdfast_queue,
    timeout_ms: u64,
    item: *mut holdfast_item,
    data: *mut *const c_void,
    length: *mut usize,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe { take(session, queue, End::Front, timeout_ms, item, Outlet { data, length }) })
}

/// Takes the last item, likewise.
///
/// # Safety
/// As holdfast_queue_take_front.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_queue_take_back(
    session: *mut holdfast_session,
    queue: holdfast_queue,
    timeout_ms: u64,
    item: *mut holdfast_item,
    data: *mut *const c_void,
    length: *mut usize,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe { take(session, queue, End::Back, timeout_ms, item, Outlet { data, length }) })
}

/// What was to be done with an item is done: it is gone, with the transaction if one is open. HOLDFAST_UNKNOWN where this
/// session does not have it (any more).
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_item_finish(session: *mut holdfast_session, item: holdfast_item) -> holdfast_code {
    outcome(|| settle(session, item, true))
}

/// Puts an item back to the end of its queue that it was taken from, also where the queue is full by now. HOLDFAST_UNKNOWN
/// where this session does not have it (any more), or its queue was deleted: it can be finished then.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_item_put_back(
    session: *mut holdfast_session,
    item: holdfast_item,
) -> holdfast_code {
    outcome(|| settle(session, item, false))
}

/// # Safety
/// Places for an item, a pointer and a length, or NULL.
unsafe fn take(
    session: *mut holdfast_session,
    queue: holdfast_queue,
    end: End,
    timeout_ms: u64,
    item: *mut holdfast_item,
    outlet: Outlet,
) -> Result<(), Problem> {
    // SAFETY: the caller's.
    unsafe {
        store(item, holdfast_item { serial: 0 })?;
        outlet.clear()?;
    }
    let (queue, deadline) = (Queue::from(queue), Instant::now() + limit(timeout_ms));
    shares::with(session, |share| {
        let (taken, content) =
            taken(share, queue, end, deadline)?.ok_or_else(|| not_ready("the queue is empty"))?;
        // SAFETY: the caller's.
        unsafe {
            store(item, holdfast_item { serial: taken.serial })?;
            outlet.give(share, content)
        }
    })
}

fn taken(
    share: &mut Share,
    queue: Queue,
    end: End,
    deadline: Instant,
) -> Result<Option<(Taken, Vec<u8>)>, Problem> {
    let take = |txn: &mut Transaction<'_, 'static>| {
        let mut queue = txn.queue(queue)?;
        if end == End::Front { queue.take_front() } else { queue.take_back() }
    };
    if let Some(transaction) = share.seated()?.transaction() {
        return Ok(take(transaction)?);
    }
    let mut transaction = share.seated()?.session()?.begin_with_item(queue, deadline)?;
    let taken = take(&mut transaction)?;
    transaction.commit()?;
    Ok(taken)
}

/// What becomes of an item: its work is `done`, or it goes back.
fn settle(session: *mut holdfast_session, item: holdfast_item, done: bool) -> Result<(), Problem> {
    let settled = shares::with(session, |share| {
        share.change(|txn| {
            let taken = txn.taken(item.serial)?;
            if done { txn.finish(&taken) } else { txn.put_back(&taken) }
        })
    });
    settled.map_err(|problem| match problem.code {
        holdfast_code::HOLDFAST_UNKNOWN => {
            let sentence = "the session does not have this item, or its queue was deleted".to_owned();
            Problem { sentence, ..problem }
        }
        _ => problem,
    })
}
