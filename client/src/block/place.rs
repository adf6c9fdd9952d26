//! Where new content goes: a buffer that nobody reads, or a file that nobody knows yet.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::fence;
use std::time::{Duration, Instant};

use common::planted::{self, Bug};
use common::sys::file::{self, Lock};
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
    let buffer =
        if geometry.is_large() { unpinned(block, current, limit)? } else { (current + 1) % geometry.buffers };
    if planted::has(Bug::StampKept) {
        return Ok(buffer);
    }
    block.word(stamp_of(buffer)).store(0, Relaxed);
    fence(Release);
    if planted::has(Bug::ShownBeforeWritten) {
        let version = block.head().version() + 1;
        block.word(stamp_of(buffer)).store(version, Relaxed);
        show(block, buffer, version);
    }
    Ok(buffer)
}

/// A buffer that nobody has pinned, locked against pins. One more gets memory where all that have are pinned.
fn unpinned(block: &Block, current: u64, limit: Duration) -> Result<u64> {
    let geometry = block.geometry();
    let began = Instant::now();
    loop {
        let backed = block.word(AT_BACKED).load(Acquire).clamp(FIRST_BUFFERS, geometry.buffers);
        for buffer in (1..backed).map(|step| (current + step) % backed).filter(|buffer| *buffer != current) {
            if lock(block, buffer)? {
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

fn lock(block: &Block, buffer: u64) -> Result<bool> {
    let locked = range_lock::try_lock(block.file(), &pin_lock(buffer), Lock::Exclusive);
    locked.doing(|| "cannot lock a buffer of the block".to_owned())
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
pub fn seal(block: &Block, buffer: u64, version: u64, length: u64) -> Result<()> {
    block.word(length_of(buffer)).store(length, Relaxed);
    block.word(stamp_of(buffer)).store(version, Release);
    abandon(block, buffer)
}

/// Lets consumers pin it again.
#[inline]
pub fn abandon(block: &Block, buffer: u64) -> Result<()> {
    if !block.geometry().is_large() {
        return Ok(());
    }
    range_lock::unlock(block.file(), &pin_lock(buffer))
        .doing(|| "cannot unlock a buffer of the block".to_owned())
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
    seen & RETIRED != 0
}
