//! Processes that sleep until a lock is free: a repair must wake them. They do not look again by themselves after a
//! while, as real ones do: a wake that is missing is seen.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicI32, AtomicU64};
use std::time::Duration;

use common::bell::{self, Side};
use common::layout::Object;
use common::lock::{self, WAITERS, Word};
use common::region::Region;
use common::slots;
use common::sys::futex::{self, Waited};

use crate::arena::{ACTOR, WAITER};
use crate::tracee::is_asleep;

/// Without a wake they look again after this time.
const OVERSLEPT: Duration = Duration::from_secs(4);

/// Longer than any of them sleeps.
const PATIENCE: Duration = Duration::from_secs(60);

/// The word of a queue's body that says who sleeps.
pub const SLEEPERS: usize = 4;

/// Does `repair` while somebody sleeps on each of the locks that the dead one has or may have. An error where one of
/// them was not woken.
pub fn woken_by<T>(region: &Region, repair: impl FnOnce() -> T) -> Result<T, String> {
    let words: Vec<&AtomicU64> = locks(region);
    let dead: Vec<u64> = words.iter().map(|word| word.load(Relaxed)).collect();
    // What they have seen when they went to sleep.
    words.iter().for_each(|word| word.store(lock::tag(ACTOR) | WAITERS, Relaxed));
    let beds: Vec<_> = words.iter().map(|word| Bed { word, sleeper: AtomicI32::new(0) }).collect();
    let benches: Vec<_> =
        queues(region).into_iter().flat_map(|queue| Side::ALL.map(|side| Bench::at(queue, side))).collect();
    std::thread::scope(|scope| {
        let waiters: Vec<_> = benches.iter().map(|bench| scope.spawn(|| bench.sleep())).collect();
        let sleepers: Vec<_> = beds.iter().map(|bed| scope.spawn(|| bed.sleep())).collect();
        beds.iter().for_each(|bed| wait_until_asleep(&bed.sleeper));
        benches.iter().for_each(|bench| wait_until_asleep(&bench.sleeper));
        for (word, dead) in words.iter().zip(dead) {
            let waited_for = lock::names(dead, lock::tag(ACTOR));
            word.store(if waited_for { dead | WAITERS } else { dead }, Relaxed);
        }
        let outcome = repair();
        if !waiters.into_iter().all(|waiter| waiter.join().unwrap_or(false)) {
            return Err("a process that waits at a queue was not woken".to_owned());
        }
        let woken = sleepers.into_iter().all(|sleeper| sleeper.join().unwrap_or(false));
        if woken { Ok(outcome) } else { Err("a process that waits for a lock was not woken".to_owned()) }
    })
}

fn locks(region: &Region) -> Vec<&AtomicU64> {
    let held: Vec<u32> = region.slot(ACTOR.slot).into_iter().flat_map(slots::held).collect();
    let objects =
        (0..region.geometry().object_count).filter_map(|index| Some((index, region.object(index)?)));
    let his = objects.filter(|(index, object)| {
        held.contains(index) || lock::names(object.lock.load(Relaxed), lock::tag(ACTOR))
    });
    his.map(|(_, object)| &object.lock).collect()
}

/// Where one sleeps.
struct Bed<'a> {
    word: &'a AtomicU64,
    sleeper: AtomicI32,
}

impl Bed<'_> {
    /// Sleeps until the lock is had, and gives it back; whether that took no more than a wake.
    fn sleep(&self) -> bool {
        let overslept = AtomicU64::new(0);
        let word = Deep { word: self.word, bed: self, overslept: &overslept };
        let had = lock::acquire(&word, lock::tag(WAITER), PATIENCE);
        if had {
            lock::release(self.word);
        }
        had && overslept.load(Relaxed) == 0
    }
}

fn wait_until_asleep(sleeper: &AtomicI32) {
    let own = std::process::id().cast_signed();
    loop {
        match sleeper.load(SeqCst) {
            thread if thread != 0 && is_asleep(own, thread) => return,
            _ => std::thread::yield_now(),
        }
    }
}

/// The queues that the dead one's list names and that somebody may wait at: it may have filled them, and not come to
/// waking anybody.
fn queues(region: &Region) -> Vec<&Object> {
    let held = region.slot(ACTOR.slot).into_iter().flat_map(slots::held);
    let objects = held.filter_map(|index| region.object(index));
    objects.filter(|object| bell::is_any_waited_for(object.body[SLEEPERS].load(Relaxed))).collect()
}

/// Where one sleeps at a queue.
struct Bench<'a> {
    queue: &'a Object,
    side: Side,
    sleeper: AtomicI32,
}

impl<'a> Bench<'a> {
    fn at(queue: &'a Object, side: Side) -> Self {
        Self { queue, side, sleeper: AtomicI32::new(0) }
    }

    /// Sleeps; whether it was woken.
    fn sleep(&self) -> bool {
        let seen = self.queue.seq.load(SeqCst);
        self.sleeper.store(nix::unistd::gettid().as_raw(), SeqCst);
        bell::sleep(&self.queue.seq, seen, self.side, OVERSLEPT) == Waited::Woken
    }
}

/// Does `work` while somebody sleeps at a queue for this; whether he is woken.
pub fn rung_by(queue: &Object, side: Side, work: impl FnOnce()) -> bool {
    let bench = Bench::at(queue, side);
    bell::announce(&queue.body[SLEEPERS], &queue.seq, side);
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| bench.sleep());
        wait_until_asleep(&bench.sleeper);
        work();
        sleeper.join().unwrap_or(false)
    })
}

/// A lock word whose sleepers sleep long.
struct Deep<'a> {
    word: &'a AtomicU64,
    bed: &'a Bed<'a>,
    overslept: &'a AtomicU64,
}

impl Word for Deep<'_> {
    fn load(&self) -> u64 {
        Word::load(self.word)
    }
    fn look(&self) -> u64 {
        self.word.look()
    }
    fn store(&self, value: u64) {
        Word::store(self.word, value);
    }
    fn exchange(&self, from: u64, to: u64) -> bool {
        self.word.exchange(from, to)
    }
    fn swap(&self, to: u64) -> u64 {
        Word::swap(self.word, to)
    }
    fn wait(&self, seen: u64, _limit: Duration) -> Waited {
        self.bed.sleeper.store(nix::unistd::gettid().as_raw(), SeqCst);
        let waited = futex::wait(self.word, seen, OVERSLEPT);
        self.overslept.fetch_add(u64::from(waited == Waited::TimedOut), Relaxed);
        waited
    }
    fn wake(&self) {
        self.word.wake();
    }
    fn wake_all(&self) {
        self.word.wake_all();
    }
    fn wait_for(&self, what: Side, seen: u64, limit: Duration) -> Waited {
        self.word.wait_for(what, seen, limit)
    }
    fn wake_for(&self, what: Side, most: u32) -> u32 {
        self.word.wake_for(what, most)
    }
    fn release_fence() {
        AtomicU64::release_fence();
    }
    fn acquire_fence() {
        AtomicU64::acquire_fence();
    }
    fn pause(length: Duration) {
        AtomicU64::pause(length);
    }
}
