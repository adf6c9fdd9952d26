//! Sleeping until a word in shared memory changes.

use std::io;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use rustix::thread::futex;
use rustix::time::{ClockId, clock_gettime};

use super::scheduling;

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// Somebody woke this process, or the word was not what it was thought to be, or a signal came.
    Woken,
    /// The time was over.
    TimedOut,
}

/// Sleeps while the low half of `word` is that of `seen`, for at most `limit`.
pub fn wait(word: &AtomicU64, seen: u64, limit: Duration) -> Waited {
    match scheduling::wake_at_once(|| sleep(word, seen, limit)) {
        Err(error) if io::Error::from(error).kind() == io::ErrorKind::TimedOut => Waited::TimedOut,
        _ => Waited::Woken,
    }
}

/// Sleeps as [`wait`] does, without precedence once it is woken: for who waits for nobody in particular.
pub fn rest(word: &AtomicU64, seen: u64, limit: Duration) {
    let _ = sleep(word, seen, limit);
}

fn sleep(word: &AtomicU64, seen: u64, limit: Duration) -> rustix::io::Result<()> {
    let limit =
        futex::Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: limit.subsec_nanos().into() };
    futex::wait(low_half(word), futex::Flags::empty(), seen as u32, Some(&limit))
}

/// Sleeps as [`wait`] does, but is woken only by a wake that names one of `bits`.
pub fn wait_as(word: &AtomicU64, bits: NonZeroU32, seen: u64, limit: Duration) -> Waited {
    // This way of waiting takes the moment at which it ends.
    let now = clock_gettime(ClockId::Monotonic);
    let nanoseconds = now.tv_nsec + i64::from(limit.subsec_nanos());
    let end = futex::Timespec {
        tv_sec: now.tv_sec + limit.as_secs().cast_signed() + nanoseconds / 1_000_000_000,
        tv_nsec: nanoseconds % 1_000_000_000,
    };
    let wait = || futex::wait_bitset(low_half(word), futex::Flags::empty(), seen as u32, Some(&end), bits);
    match scheduling::wake_at_once(wait) {
        Err(error) if io::Error::from(error).kind() == io::ErrorKind::TimedOut => Waited::TimedOut,
        _ => Waited::Woken,
    }
}

/// Wakes up to `most` processes that sleep on the low half of `word` with one of `bits`; says how many.
pub fn wake_as(word: &AtomicU64, bits: NonZeroU32, most: u32) -> u32 {
    let woken = futex::wake_bitset(low_half(word), futex::Flags::empty(), most, bits);
    woken.map_or(0, |count| count as u32)
}

/// Wakes one process that sleeps on the low half of `word`.
pub fn wake_one(word: &AtomicU64) {
    let _ = futex::wake(low_half(word), futex::Flags::empty(), 1);
}

/// Wakes every process that sleeps on the low half of `word`.
pub fn wake_all(word: &AtomicU64) {
    let _ = futex::wake(low_half(word), futex::Flags::empty(), i32::MAX as u32);
}

/// The kernel compares 32 bits: the half of the word in which its lowest bits are.
pub(super) fn low_half(word: &AtomicU64) -> &AtomicU32 {
    let half = word.as_ptr().cast::<AtomicU32>().wrapping_add(usize::from(cfg!(target_endian = "big")));
    // SAFETY: within the word, aligned for a half of it, and as long-lived. Nobody but the kernel accesses it by halves.
    unsafe { &*half }
}
