//! Two processes, each on a core of its own, and slices of time.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::{Duration, Instant};

use crate::Effort;

/// Operations between two looks at the clock.
const BATCH: u64 = 64;

/// Keeps the calling process on one core.
pub fn pin(core: usize) {
    // SAFETY: a plain set of bits, zero is a valid one; the kernel reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &raw const set), 0, "core {core} is needed");
    }
}

/// Lets the calling process run anywhere again.
pub fn unpin() {
    // SAFETY: as above; all bits, of which the kernel takes those that there are.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        (0..2).for_each(|core| libc::CPU_SET(core, &mut set));
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}

/// Repeats an operation for a slice of time; nanoseconds that one took. The caches are warmed first.
pub fn ns_per_operation(effort: Effort, mut operation: impl FnMut()) -> f64 {
    let slice = Duration::from_millis(effort.slice_ms);
    repeat(slice / 4, &mut operation);
    repeat(slice, &mut operation)
}

#[inline]
fn repeat(limit: Duration, operation: &mut impl FnMut()) -> f64 {
    let (began, mut done) = (Instant::now(), 0);
    loop {
        (0..BATCH).for_each(|_| operation());
        done += BATCH;
        let elapsed = began.elapsed();
        if elapsed >= limit {
            return elapsed.as_secs_f64() * 1e9 / done as f64;
        }
    }
}

/// One process produces until it is told to stop, while this one consumes: what `consume` gives.
pub fn beside(produce: impl FnOnce(&AtomicU32), consume: impl FnOnce() -> f64) -> f64 {
    let stop = shared();
    // SAFETY: this program has one thread; the child ends by _exit.
    match unsafe { libc::fork() } {
        -1 => panic!("cannot fork"),
        0 => {
            pin(1);
            produce(stop);
            // SAFETY: ends the child at once; nothing of the parent's is flushed or dropped twice.
            unsafe { libc::_exit(0) }
        }
        pid => {
            pin(0);
            let consumed = consume();
            stop.store(1, Release);
            let mut status = 0;
            // SAFETY: a child of this process; the status is this function's.
            let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
            assert!(waited == pid && status == 0, "the producer failed: {status:#x}");
            unpin();
            consumed
        }
    }
}

/// Whether the producer is to stop.
pub fn is_told(stop: &AtomicU32) -> bool {
    stop.load(Acquire) != 0
}

/// A word of zero that children share. It stays until this program ends.
fn shared() -> &'static AtomicU32 {
    // SAFETY: a new mapping at a place of the kernel's choice, aligned to a page; reached as this atomic only.
    unsafe {
        let page = libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert_ne!(page, libc::MAP_FAILED, "a page");
        &*page.cast::<AtomicU32>()
    }
}
