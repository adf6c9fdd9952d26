//! Processes that work at the same time, each on a core of its own.

use std::sync::atomic::Ordering::{Acquire, Release, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use crate::Effort;

/// Operations between two looks at the clock.
const BATCH: u64 = 256;

/// What the processes of one round share besides what they work on.
#[repr(C)]
struct Gate {
    ready: AtomicU32,
    open: AtomicU32,
    /// Operations per second of each, as its bits.
    rates: [AtomicU64; 2],
}

/// What else runs on the machine must wait while a slice is measured, where that is permitted; it runs in the pauses.
pub fn prefer() {
    let first = libc::sched_param { sched_priority: 1 };
    // SAFETY: the kernel reads the parameter; where it refuses nothing has changed.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const first) };
}

/// Keeps the calling process on one core.
pub fn pin(core: usize) {
    // SAFETY: a plain set of bits, zero is a valid one; the kernel reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &raw const set), 0, "core {core} is needed");
    }
}

/// Lets the calling process, and those that it starts, run on every core again.
pub fn unpin() {
    // SAFETY: all bits of the set are set; the kernel reads it, and takes those that stand for cores.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        (0..libc::CPU_SETSIZE as usize).for_each(|core| libc::CPU_SET(core, &mut set));
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}

/// Repeats an operation for a slice of time; nanoseconds that one took. The caches are warmed first, and whoever else
/// wants the core has it for as long afterwards.
pub fn ns_per_operation(effort: Effort, mut operation: impl FnMut()) -> f64 {
    let slice = Duration::from_millis(effort.slice_ms);
    repeat(slice / 4, &mut operation);
    let ns = repeat(slice, &mut operation);
    std::thread::sleep(slice);
    ns
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

/// Runs `work` in so many processes at once, each on its own core; nanoseconds per operation of all together. `work`
/// is called in each process with its number; it opens what it needs, calls what it is given when it is ready, and
/// gives what that gave.
pub fn at_once(count: usize, work: impl Fn(usize, &dyn Fn()) -> f64) -> f64 {
    let gate = shared::<Gate>();
    let children: Vec<_> = (0..count)
        .map(|number| {
            // SAFETY: this program has one thread; the child ends by _exit.
            match unsafe { libc::fork() } {
                -1 => panic!("cannot fork"),
                0 => {
                    pin(number);
                    let ns = work(number, &|| gate.wait());
                    gate.rates[number].store((1.0 / ns).to_bits(), SeqCst);
                    // SAFETY: ends the child at once; nothing of the parent's is flushed or dropped twice.
                    unsafe { libc::_exit(0) }
                }
                pid => pid,
            }
        })
        .collect();
    while gate.ready.load(Acquire) < count as u32 {
        std::thread::sleep(Duration::from_micros(100));
    }
    gate.open.store(1, Release);
    for pid in children {
        let mut status = 0;
        // SAFETY: a child of this process; the status is this function's.
        let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
        assert!(waited == pid && status == 0, "a process failed: {status:#x}");
    }
    let rate: f64 = gate.rates[..count].iter().map(|rate| f64::from_bits(rate.load(SeqCst))).sum();
    // SAFETY: mapped by shared() with this length; the children have their own.
    unsafe { libc::munmap(std::ptr::from_ref(gate).cast_mut().cast(), 4096) };
    1.0 / rate
}

impl Gate {
    fn wait(&self) {
        self.ready.fetch_add(1, Release);
        while self.open.load(Acquire) == 0 {
            // The parent may be waiting for this very core.
            std::thread::yield_now();
        }
    }
}

/// A `T` of zeros on a page that children share. It stays until it is unmapped.
///
/// `T` is made of atomics, or of what libc itself keeps for processes to share.
pub fn shared<T>() -> &'static T {
    assert!(size_of::<T>() <= 4096);
    // SAFETY: a new mapping at a place of the kernel's choice, large enough and aligned to a page.
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
        &*page.cast::<T>()
    }
}
