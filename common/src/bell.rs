//! Waiting for a queue to have an item, or room for one: who waits says so, and whoever changes that wakes one.
//!
//! The sleepers' word has a half for each of the two that are waited for: a flag, whether somebody may sleep, below a
//! number that every announcement makes greater. Announcing happens under the queue's lock, and so does looking whether
//! there is somebody to be woken; the waking itself comes after the lock was given back. The flag is taken down by a
//! waker who found nobody asleep, if nobody has announced himself since: whoever had before and did not sleep yet finds
//! the sequence word changed, and does not fall asleep.
//!
//! Like `lock`, written over [`Word`] for the model checker.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::lock::Word;
use crate::sys::futex::Waited;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// An item.
    Item,
    /// Room for one.
    Room,
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Item, Self::Room];

    const fn shift(self) -> u32 {
        match self {
            Self::Item => 0,
            Self::Room => 32,
        }
    }

    const fn flag(self) -> u64 {
        1 << self.shift()
    }

    /// The kernel's mark of those who wait for this.
    pub(crate) const fn bits(self) -> NonZeroU32 {
        match self {
            Self::Item => NonZeroU32::MIN,
            Self::Room => NonZeroU32::MIN.saturating_add(1),
        }
    }
}

/// Whether somebody may sleep.
#[inline]
pub fn is_waited_for(sleepers: u64, side: Side) -> bool {
    sleepers & side.flag() != 0
}

/// Whether somebody may sleep for either.
#[inline]
pub fn is_any_waited_for(sleepers: u64) -> bool {
    sleepers & (Side::Item.flag() | Side::Room.flag()) != 0
}

/// Under the queue's lock, which is given back next: says that somebody is about to sleep. Gives what [`sleep`] is to
/// be told.
pub fn announce<W: Word>(sleepers: &W, seq: &W, side: Side) -> u64 {
    loop {
        let seen = sleepers.load();
        let half = (seen >> side.shift()) as u32;
        let next = u64::from(half.wrapping_add(2) | 1) << side.shift();
        let others = seen & !(u64::from(u32::MAX) << side.shift());
        if sleepers.exchange(seen, others | next) {
            return seq.load();
        }
    }
}

/// Sleeps until woken, for at most `limit`; not at all if the queue has changed since [`announce`] gave `seen`.
pub fn sleep<W: Word>(seq: &W, seen: u64, side: Side, limit: Duration) -> Waited {
    seq.wait_for(side, seen, limit)
}

/// Wakes one. `sleepers` was read as `seen` under the queue's lock, which was given back since.
pub fn ring<W: Word>(seq: &W, sleepers: &W, seen: u64, side: Side) {
    if seq.wake_for(side, 1) == 0 {
        let _ = sleepers.exchange(seen, seen & !side.flag());
    }
}

/// Wakes all, for whatever they wait: the queue is gone, or it is not known whom its owner would have woken.
pub fn ring_all<W: Word>(seq: &W) {
    for side in Side::ALL {
        seq.wake_for(side, i32::MAX as u32);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn a_flag_is_taken_down_only_if_nobody_has_announced_himself_since() {
        let (seq, sleepers) = (AtomicU64::new(4), AtomicU64::new(0));
        assert_eq!(announce(&sleepers, &seq, Side::Item), 4);
        let seen = sleepers.load(Relaxed);
        assert!(is_waited_for(seen, Side::Item) && !is_waited_for(seen, Side::Room));
        announce(&sleepers, &seq, Side::Item);
        ring(&seq, &sleepers, seen, Side::Item);
        assert!(is_waited_for(sleepers.load(Relaxed), Side::Item));
        announce(&sleepers, &seq, Side::Room);
        let seen = sleepers.load(Relaxed);
        ring(&seq, &sleepers, seen, Side::Item);
        assert!(!is_waited_for(sleepers.load(Relaxed), Side::Item));
        assert!(is_waited_for(sleepers.load(Relaxed), Side::Room));
    }

    #[test]
    fn who_waits_for_room_is_not_woken_for_an_item() {
        let (seq, sleepers) = (AtomicU64::new(4), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let (word, seen) = (&seq, announce(&sleepers, &seq, Side::Room));
            let sleeper = scope.spawn(move || sleep(word, seen, Side::Room, Duration::from_secs(60)));
            while seq.wake_for(Side::Room, 1) == 0 {
                assert_eq!(seq.wake_for(Side::Item, 1), 0);
                std::thread::yield_now();
            }
            assert_eq!(sleeper.join().unwrap(), Waited::Woken);
        });
        assert_eq!(sleep(&seq, 4, Side::Item, Duration::from_millis(1)), Waited::TimedOut);
        assert_eq!(sleep(&seq, 2, Side::Item, Duration::from_secs(60)), Waited::Woken, "it has changed");
    }
}
