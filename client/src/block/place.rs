//! Where new content goes: a buffer that nobody reads, or a file that nobody knows yet.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;
use std::time::{Duration, Instant};

use common::planted::{self, Bug};
use common::sys::file;
use common::sys::{futex, range_lock};

use super::failure::{Doing, Failure, Result};
use super::file::{Block, damaged};
use super::layout::{AT_BACKED, AT_HEAD, FIRST_BUFFERS, Head, RETIRED, length_of, pin_lock, stamp_of};
use super::making::Fresh;

/// Pause between two looks for a buffer that nobody has pinned.
const PAUSE: Duration = Duration::from_micros(200);

/// A place that is being written.
#[derive(Debug)]
pub enum Place {
    /// A buffer of the current file.
    Buffer(u64),
    /// The first buffer of another one.
    Fresh(Fresh),
}

/// Chooses a buffer for the next content and empties it. Its writer's lock is held.
#[inline]
pub fn choose(block: &Block, limit: Duration) -> Result<u64> {
    let geometry = block.geometry();
    let current = block.head().buffer();
    if current >= geometry.buffers {
        return Err(damaged());
    }
    let buffer = if geometry.is_large() {
        unpinned(block, current, limit)?
    } else {
        let next = (current + 1) % geometry.buffers;
        empty(block, next);
        next
    };
    if planted::has(Bug::ShownBeforeWritten) {
        let version = block.head().version() + 1;
        block.word(stamp_of(buffer)).store(version, Relaxed);
        show(block, buffer, version);
    }
    Ok(buffer)
}

/// Says that what a buffer held is not there any more. It is not current: nobody looks for it there, but for who has looked at
/// the head a while ago.
#[inline]
fn empty(block: &Block, buffer: u64) {
    if !planted::has(Bug::StampKept) {
        block.word(stamp_of(buffer)).store(0, Relaxed);
        fence(Release);
    }
}

/// A buffer that nobody has pinned, emptied. One more gets memory where all that have are pinned.
fn unpinned(block: &Block, current: u64, limit: Duration) -> Result<u64> {
    let geometry = block.geometry();
    let began = Instant::now();
    loop {
        let backed = block.word(AT_BACKED).load(Acquire).clamp(FIRST_BUFFERS, geometry.buffers);
        for buffer in (1..backed).map(|step| (current + step) % backed).filter(|buffer| *buffer != current) {
            if empty_unless_pinned(block, buffer)? {
                return Ok(buffer);
            }
        }
        let more = if backed < geometry.buffers { back(block, backed) } else { Ok(()) };
        if began.elapsed() >= limit {
            more?;
            return Err(Failure::Busy("consumers have pinned every buffer of the block".to_owned()));
        }
        if more.is_err() || backed == geometry.buffers {
            std::thread::sleep(PAUSE);
        }
    }
}

/// Empties a buffer and then looks whether it is pinned; who pins it looks for its content after that. So either this one
/// sees the pin, or that one sees that there is nothing any more: both write first and read then, with a full fence between.
/// That costs a producer one call of the kernel for each content; a lock of its own would have to be given back too.
fn empty_unless_pinned(block: &Block, buffer: u64) -> Result<bool> {
    empty(block, buffer);
    fence(SeqCst);
    range_lock::is_free(block.file(), &pin_lock(buffer))
        .doing(|| "cannot see whether a buffer of the block is pinned".to_owned())
}

fn back(block: &Block, buffer: u64) -> Result<()> {
    let geometry = block.geometry();
    let reserved = file::reserve(block.file(), geometry.buffer(buffer), geometry.stride());
    reserved.doing(|| format!("cannot reserve another {} bytes for the block", geometry.stride()))?;
    block.word(AT_BACKED).store(buffer + 1, Release);
    Ok(())
}

/// Says that a buffer holds this version now. It is not current yet.
#[inline]
pub fn seal(block: &Block, buffer: u64, version: u64, length: u64) {
    block.word(length_of(buffer)).store(length, Relaxed);
    block.word(stamp_of(buffer)).store(version, Release);
}

/// Makes it current and wakes who waits; whether the file may have lost its name.
#[inline]
pub fn show(block: &Block, buffer: u64, version: u64) -> bool {
    let next = Head::new(version, buffer).0;
    let word = block.word(AT_HEAD);
    let mut seen = word.load(Relaxed);
    // Another may mark it as retired at any moment.
    while let Err(now) = word.compare_exchange_weak(seen, next | seen & RETIRED, AcqRel, Relaxed) {
        seen = now;
    }
    futex::wake_all(word);
    block.expect_to_write((buffer + 1) % block.geometry().buffers);
    seen & RETIRED != 0
}
