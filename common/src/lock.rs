//! Locks whose word names its owner, and sequence words, for those who only read.
//!
//! A lock word is `generation << 32 | waiters << 31 | slot + 1`, and 0 while nobody holds it: taking the lock and saying
//! who has it is one compare-and-swap. Whoever dies with it is found by its name, and repair takes it off.
//!
//! Everything here is written over [`Word`], so that a model checker can run it over words of its own
//! (`common/tests/interleavings.rs`).

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU64, compiler_fence, fence};
use std::time::{Duration, Instant};

use crate::bell::Side;
use crate::ids::{Generation, Owner, SlotIndex};
use crate::planted::{self, Bug};
use crate::sys::futex::{self, Waited};
use crate::sys::scheduling;

/// Set while somebody may sleep on the lock.
pub const WAITERS: u64 = 1 << 31;

/// Longest wait for a lock. Then the transaction is rolled back.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// A sleeper looks again after this time: whoever was woken may have died before it took the lock.
pub(crate) const NAP: Duration = Duration::from_millis(50);

/// How often a taken lock is looked at before the process sleeps, over some 80 microseconds: a change of an object takes less
/// than this, and to sleep and be woken half of it. Who changes an object all the time has its lock in many of the looks; so
/// many do not miss it all by chance. With six, two that did so took a third longer; by our reading, for waking each other.
const LOOKS: u32 = 16;

/// How often by whoever does not wait otherwise, over some 20 microseconds: others may be waiting for what it holds.
const LOOKS_AT_ONCE: u32 = 6;

/// The pauses between two looks double up to so many. Each look takes the lock's cache line from the holder, who needs
/// it for the sequence word and the object's body and to give the lock back: who looks all the time makes what he waits
/// for several times as long. And who waits a little longer finds that the other has done several changes meanwhile, with
/// all that they need in his own caches, and then does as many himself.
const FIRST_PAUSE: Duration = Duration::from_nanos(700);
const LONGEST_PAUSE: Duration = Duration::from_nanos(5600);

/// A word that processes share.
pub trait Word {
    /// What it holds.
    fn load(&self) -> u64;
    /// The same, in the one order that these looks have with every exchange and swap of any word.
    fn look(&self) -> u64;
    /// Stores, and lets nobody see the store before what was stored before it.
    fn store(&self, value: u64);
    /// Stores `to` if it holds `from`; whether it did.
    fn exchange(&self, from: u64, to: u64) -> bool;
    /// Stores, and gives what it held.
    fn swap(&self, to: u64) -> u64;
    /// Sleeps while it holds `seen`, for at most `limit`.
    fn wait(&self, seen: u64, limit: Duration) -> Waited;
    /// Wakes one that sleeps.
    fn wake(&self);
    /// Wakes all that sleep.
    fn wake_all(&self);
    /// Sleeps like [`Word::wait`], to be woken together with those who wait for the same only; see `bell`.
    fn wait_for(&self, what: Side, seen: u64, limit: Duration) -> Waited;
    /// Wakes up to so many of those; says how many.
    fn wake_for(&self, what: Side, most: u32) -> u32;
    /// What follows is not seen before what stands above.
    fn release_fence();
    /// What follows is not read before what stands above.
    fn acquire_fence();
    /// So long, while another works.
    fn pause(length: Duration);
}

impl Word for AtomicU64 {
    #[inline]
    fn load(&self) -> u64 {
        self.load(Acquire)
    }

    #[inline]
    fn look(&self) -> u64 {
        self.load(SeqCst)
    }

    #[inline]
    fn store(&self, value: u64) {
        self.store(value, Release);
    }

    #[inline]
    fn exchange(&self, from: u64, to: u64) -> bool {
        self.compare_exchange(from, to, SeqCst, Relaxed).is_ok()
    }

    #[inline]
    fn swap(&self, to: u64) -> u64 {
        self.swap(to, SeqCst)
    }

    fn wait(&self, seen: u64, limit: Duration) -> Waited {
        futex::wait(self, seen, limit)
    }

    fn wake(&self) {
        futex::wake_one(self);
    }

    fn wake_all(&self) {
        futex::wake_all(self);
    }

    fn wait_for(&self, what: Side, seen: u64, limit: Duration) -> Waited {
        futex::wait_as(self, what.bits(), seen, limit)
    }

    fn wake_for(&self, what: Side, most: u32) -> u32 {
        futex::wake_as(self, what.bits(), most)
    }

    #[inline]
    fn release_fence() {
        fence(Release);
    }

    #[inline]
    fn acquire_fence() {
        fence(Acquire);
    }

    #[inline]
    fn pause(length: Duration) {
        scheduling::pause(length);
    }
}

/// What a lock word holds while this owner has it.
pub const fn tag(owner: Owner) -> u64 {
    (owner.generation.0 as u64) << 32 | (owner.slot.0 as u64 + 1)
}

/// Whether a lock word names this tag's owner.
pub const fn names(word: u64, tag: u64) -> bool {
    word & !WAITERS == tag
}

/// Whom a lock word names; `None` where it names nobody.
pub fn owner_of(word: u64) -> Option<Owner> {
    let slot = (word as u32 & !(WAITERS as u32)).checked_sub(1)?;
    Some(Owner { slot: SlotIndex(slot), generation: Generation((word >> 32) as u32) })
}

/// Takes a lock for the owner of `tag`, waiting for at most `patience`. False where another still has it then.
#[inline]
pub fn acquire<W: Word>(word: &W, tag: u64, patience: Duration) -> bool {
    acquire_sleeping(word, tag, patience, |word, seen, limit| {
        word.wait(seen, limit);
    })
}

/// The same with another way to sleep while the word holds what was seen, for at most so long.
#[inline]
pub fn acquire_sleeping<W: Word>(
    word: &W,
    tag: u64,
    patience: Duration,
    sleep: impl FnMut(&W, u64, Duration),
) -> bool {
    word.exchange(0, tag) || acquire_from_another(word, tag, patience, sleep)
}

#[cold]
fn acquire_from_another<W: Word>(
    word: &W,
    tag: u64,
    patience: Duration,
    mut sleep: impl FnMut(&W, u64, Duration),
) -> bool {
    let looks = if patience.is_zero() { LOOKS_AT_ONCE } else { LOOKS };
    for look in 0..looks {
        let seen = word.load();
        if seen == 0 && word.exchange(0, tag) {
            return true;
        }
        if seen & WAITERS != 0 {
            break;
        }
        W::pause(LONGEST_PAUSE.min(FIRST_PAUSE * (1 << look)));
    }
    if patience.is_zero() {
        return false;
    }
    let deadline = Instant::now() + patience;
    loop {
        let seen = word.load();
        if seen == 0 {
            // Whoever has slept takes the lock with the bit set, since others may sleep still.
            if word.exchange(0, tag | WAITERS) {
                return true;
            }
            continue;
        }
        if seen & WAITERS == 0 && !word.exchange(seen, seen | WAITERS) {
            continue;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        sleep(word, seen | WAITERS, left.min(NAP));
    }
}

/// Gives a lock back, and wakes one that waits for it.
#[inline]
pub fn release<W: Word>(word: &W) {
    if word.swap(0) & WAITERS != 0 {
        word.wake();
    }
}

/// Repair: takes a lock off a dead owner, if it has it. Wakes in any case: the dead one may have given the lock back and
/// not come to waking anybody. Wakes two: the first may be one that the kernel has woken already, to tell of the death
/// (see `sys::knell`), and that no core has had time for yet. It stands in the kernel's queue until it runs.
pub fn release_dead<W: Word>(word: &W, tag: u64) {
    let mut seen = word.load();
    while names(seen, tag) && !word.exchange(seen, 0) {
        seen = word.load();
    }
    if !planted::has(Bug::WakeForgotten) {
        word.wake();
        word.wake();
    }
}

/// Whoever holds the lock: what follows changes the object. Readers pass over what they read from here on.
#[inline]
pub fn begin_change<W: Word>(seq: &W) {
    let now = seq.load();
    if now & 1 == 0 {
        seq.store(now + 1);
        W::release_fence();
        compiler_fence(SeqCst);
    }
}

/// Whoever holds the lock, or repair for a dead one: the object is whole again. The word goes forward, never back.
#[inline]
pub fn end_change<W: Word>(seq: &W) {
    let now = seq.load();
    if now & 1 == 1 {
        seq.store(now.wrapping_add(1));
    }
}

/// Reads what the sequence word covers, once. `None` where it was being changed meanwhile: what `read` gave was no
/// state of the object then.
#[inline(always)]
pub fn read_once<W: Word, T>(seq: &W, read: impl FnOnce() -> T) -> Option<T> {
    let before = seq.load();
    if before & 1 == 1 {
        return None;
    }
    let copied = read();
    if planted::has(Bug::ReadOnce) {
        return Some(copied);
    }
    W::acquire_fence();
    (seq.load() == before).then_some(copied)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: u64 = tag(Owner { slot: SlotIndex(3), generation: Generation(9) });
    const OTHER: u64 = tag(Owner { slot: SlotIndex(3), generation: Generation(8) });

    #[test]
    fn a_lock_names_its_owner_until_it_is_given_back() {
        let word = AtomicU64::new(0);
        assert!(acquire(&word, ME, Duration::ZERO));
        assert!(names(word.load(Relaxed), ME) && !names(word.load(Relaxed), OTHER));
        assert!(!acquire(&word, OTHER, Duration::ZERO), "taken");
        assert!(!acquire(&word, OTHER, Duration::from_millis(1)), "still taken");
        release(&word);
        assert_eq!(word.load(Relaxed), 0);
    }

    #[test]
    fn a_dead_owner_loses_its_lock_and_no_other_does() {
        let word = AtomicU64::new(ME | WAITERS);
        release_dead(&word, OTHER);
        assert_eq!(word.load(Relaxed), ME | WAITERS, "another generation's");
        release_dead(&word, ME);
        assert_eq!(word.load(Relaxed), 0);
    }

    #[test]
    fn a_sleeper_gets_the_lock() {
        let word = AtomicU64::new(ME);
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| acquire(&word, OTHER, Duration::from_secs(60)));
            while word.load(Relaxed) & WAITERS == 0 {
                std::thread::yield_now();
            }
            release(&word);
            assert!(sleeper.join().unwrap());
        });
        assert!(names(word.load(Relaxed), OTHER));
    }

    #[test]
    fn what_is_read_during_a_change_does_not_count() {
        let seq = AtomicU64::new(4);
        assert_eq!(read_once(&seq, || 7), Some(7));
        assert_eq!(read_once(&seq, || begin_change(&seq)), None);
        assert_eq!(read_once(&seq, || ()), None, "odd");
        end_change(&seq);
        assert_eq!(seq.load(Relaxed), 6);
        end_change(&seq);
        assert_eq!(seq.load(Relaxed), 6, "repeated by repair");
    }
}
