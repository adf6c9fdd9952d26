//! Whether the spool may grow.

use std::io;
use std::os::fd::AsFd;

use crate::journal::writer::{AppendError, failed};
use crate::sys::file;

/// Without a limit, messages stop with so many bytes of the file system free, or a twentieth of it.
const KEEP_FREE: u64 = 1 << 30;

/// Whether the spool, which takes up `used`, may grow by `more` bytes: within its limit, or where that is 0 leaving
/// the file system enough. What is used is asked for only where it matters.
///
/// # Errors
/// It may not; or it cannot be found out.
pub fn check(
    limit: u64,
    used: impl FnOnce() -> io::Result<u64>,
    on: &impl AsFd,
    more: u64,
) -> Result<(), AppendError> {
    if limit != 0 {
        let used = used().map_err(|error| failed("add up the files of", &error))?;
        if used.saturating_add(more) > limit {
            return Err(AppendError::Full(format!("the spool has reached its limit of {limit} bytes")));
        }
        return Ok(());
    }
    let (free, keep) = free_and_kept(on).map_err(|error| failed("examine the file system of", &error))?;
    if free.saturating_sub(more) < keep {
        return Err(AppendError::Full(format!("the spool's file system has only {free} bytes free")));
    }
    Ok(())
}

/// Bytes free on the spool's file system, and those of them that are left to others where there is no `--spool-limit`.
///
/// # Errors
/// What fstatvfs reports.
pub fn free_and_kept(on: &impl AsFd) -> io::Result<(u64, u64)> {
    let (free, whole) = file::free_space(on)?;
    Ok((free, KEEP_FREE.min(whole / 20)))
}
