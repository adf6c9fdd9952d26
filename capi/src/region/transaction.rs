//! Transactions.

use std::time::Instant;

use client::Session;

use super::queue::holdfast_queue;
use super::session::holdfast_session;
use super::shares;
use crate::border::limit;
use crate::outcome::{holdfast_code, outcome};

/// Begins a transaction. What is changed until holdfast_commit is there wholly or not at all, whoever is killed. What it uses
/// is locked until then, and others wait: keep it short. Without a transaction each call is one of its own.
///
/// A call that fails rolls the transaction back at once, and all that follow give HOLDFAST_ORDER until it is ended; except
/// that HOLDFAST_NO_KEY, HOLDFAST_TIMED_OUT for a queue that is empty or full, and HOLDFAST_UNKNOWN for what is to be deleted
/// leave it as it is.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_begin(session: *mut holdfast_session) -> holdfast_code {
    outcome(|| shares::with(session, |share| share.seated()?.begin(Session::begin)))
}

/// Begins one once a queue has an item, which is there to be popped. Who dies before the commit leaves it to the next.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_begin_with_item(
    session: *mut holdfast_session,
    queue: holdfast_queue,
    timeout_ms: u64,
) -> holdfast_code {
    outcome(|| {
        let deadline = Instant::now() + limit(timeout_ms);
        shares::with(session, |share| {
            share.seated()?.begin(|session| session.begin_with_item(queue.into(), deadline))
        })
    })
}

/// Begins one once a queue has room for an item.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_begin_with_room(
    session: *mut holdfast_session,
    queue: holdfast_queue,
    timeout_ms: u64,
) -> holdfast_code {
    outcome(|| {
        let deadline = Instant::now() + limit(timeout_ms);
        shares::with(session, |share| {
            share.seated()?.begin(|session| session.begin_with_room(queue.into(), deadline))
        })
    })
}

/// Makes all changes of the transaction valid, and ends it. If this fails there is none of them.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_commit(session: *mut holdfast_session) -> holdfast_code {
    outcome(|| shares::with(session, |share| share.seated()?.finish(true)))
}

/// Undoes all changes of the transaction, and ends it.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_rollback(session: *mut holdfast_session) -> holdfast_code {
    outcome(|| shares::with(session, |share| share.seated()?.finish(false)))
}
