//! Attaching to an instance.

use std::ffi::c_char;
use std::path::{Path, PathBuf};

use client::{Session, View};
use common::places::default_run_dir;

use super::shares::{self, Share};
use crate::border::{store, text, text_if_any};
use crate::outcome::{holdfast_code, outcome};

/// A share in the region of a running instance, for the thread that attached: to change things in transactions, or to view
/// them only. Another thread attaches for itself; a child that was forked has none of its parent's. What is wrong with a
/// handle is told: HOLDFAST_INVALID if it was closed, HOLDFAST_ELSEWHERE if it is another thread's or the parent's.
///
/// A process that is killed is repaired: what it had half done is undone, what it had locked is free. A thread that ends
/// closes its sessions.
#[allow(non_camel_case_types, reason = "the name that C knows it by")]
pub struct holdfast_session(());

fn directory(run_dir: Option<&str>) -> PathBuf {
    run_dir.map_or_else(default_run_dir, |run_dir| Path::new(run_dir).to_owned())
}

/// Attaches to the instance that owns this run directory; NULL is the usual one. HOLDFAST_AWAY where there is none, or it
/// does not let this user in.
///
/// # Safety
/// A text or NULL; a place for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_session_attach(
    run_dir: *const c_char,
    session: *mut *mut holdfast_session,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe {
        store(session, std::ptr::null_mut())?;
        let attached = Session::attach(&directory(text_if_any(run_dir)?))?;
        store(session, shares::keep(Share::of_session(attached))?)
    })
}

/// The same to read only: it takes no slot, and can change nothing (HOLDFAST_ORDER).
///
/// # Safety
/// As holdfast_session_attach.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_session_view(
    run_dir: *const c_char,
    session: *mut *mut holdfast_session,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe {
        store(session, std::ptr::null_mut())?;
        let view = View::attach(&directory(text_if_any(run_dir)?))?;
        store(session, shares::keep(Share::of_view(view))?)
    })
}

/// Says what this program is doing, for the status and for the report of a crash. Not within a transaction.
///
/// # Safety
/// A text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn holdfast_session_doing(
    session: *mut holdfast_session,
    doing: *const c_char,
) -> holdfast_code {
    // SAFETY: the caller's.
    outcome(|| unsafe {
        let doing = text(doing)?;
        shares::with(session, |share| Ok(share.seated()?.session()?.doing(doing)?))
    })
}

/// Rolls back what is open, and gives the slot back. The handle is closed also where this fails.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_session_close(session: *mut holdfast_session) -> holdfast_code {
    outcome(|| shares::take(session)?.map_or(Ok(()), Share::end))
}
