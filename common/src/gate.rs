//! The gate: how a checkpoint finds a moment at which no transaction is under way, without a lock that every
//! transaction would have to take.
//!
//! Each slot says in its `open` word whether a transaction is under way. Whoever begins one says so first and then looks
//! at the gate; the checkpoint process closes the gate first and then looks at the slots. Each side writes its own word and
//! reads the other's, in the one order that all such writes and reads have (Dekker): at least one sees the other.
//!
//! The same word serves the copying beforehand. Marks are taken away, then every slot is seen without a transaction once,
//! and only then the pages are copied: what was marked before is in the copy, and what is changed after it is marked again.
//!
//! Everything here works on [`Word`]s, so that a model checker can run it over words of its own.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{compiler_fence, fence};
use std::time::{Duration, Instant};

use crate::lock::{Word, names};
use crate::planted::{self, Bug};

/// No transaction is under way, nor has one been since the last checkpoint.
pub const UNTOUCHED: u64 = 0;

/// A transaction is under way.
pub const OPEN: u64 = 1;

/// No transaction is under way; there was one since the last checkpoint.
pub const TOUCHED: u64 = 2;

/// A sleeper before the gate looks again after this time: whoever closed it may have died before it woke anybody.
const NAP: Duration = Duration::from_millis(50);

/// Says that a transaction begins, once the gate is open. False where it has not been for `patience`.
#[inline]
pub fn enter<W: Word>(open: &W, gate: &W, patience: Duration) -> bool {
    open.swap(OPEN);
    after_swap();
    if gate.look() == 0 || planted::has(Bug::GateIgnored) {
        return true;
    }
    enter_later(open, gate, patience)
}

#[cold]
fn enter_later<W: Word>(open: &W, gate: &W, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        leave(open);
        let seen = gate.look();
        let left = deadline.saturating_duration_since(Instant::now());
        if seen != 0 && left.is_zero() {
            return false;
        }
        if seen != 0 {
            gate.wait(seen, left.min(NAP));
        }
        open.swap(OPEN);
        after_swap();
        if gate.look() == 0 {
            return true;
        }
    }
}

/// Whatever the transaction changes it marks first, and it looks at the marks not before everybody can see that it is
/// under way. An exchange is such a barrier for x86-64's loads, and not everywhere else.
#[inline]
fn after_swap() {
    if cfg!(target_arch = "x86_64") {
        compiler_fence(SeqCst);
    } else {
        fence(SeqCst);
    }
}

/// The transaction has ended, and all of it can be seen.
#[inline]
pub fn leave<W: Word>(open: &W) {
    open.store(TOUCHED);
}

/// Closes the gate for the owner of `tag`. False where another has closed it.
pub fn close<W: Word>(gate: &W, tag: u64) -> bool {
    let closed = gate.exchange(0, tag);
    fence(SeqCst);
    closed
}

/// Opens the gate that this tag's owner has closed, also for a dead one. Wakes in any case: a dead one may have opened it and
/// not come to waking anybody.
pub fn reopen<W: Word>(gate: &W, tag: u64) {
    let seen = gate.look();
    if names(seen, tag) {
        gate.exchange(seen, 0);
    }
    gate.wake_all();
}

/// Opens the gate if it still holds `seen`, which is nobody's who lives: a dead one's tag, or no owner's at all.
pub fn throw_open<W: Word>(gate: &W, seen: u64) {
    gate.exchange(seen, 0);
    gate.wake_all();
}

/// Whether a transaction is under way in a slot. Where there is none, all that it has changed can be seen.
pub fn is_open<W: Word>(open: &W) -> bool {
    open.look() == OPEN
}

/// Takes note that a slot was touched, if no transaction is under way there: whether it was. What is copied of it after
/// the next look at the word has everything up to here.
pub fn take_touched<W: Word>(open: &W) -> bool {
    open.exchange(TOUCHED, UNTOUCHED)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    const CLOSER: u64 = 1 << 32 | 5;

    #[test]
    fn who_meets_a_closed_gate_does_not_begin() {
        let (open, gate) = (AtomicU64::new(0), AtomicU64::new(0));
        assert!(enter(&open, &gate, Duration::ZERO));
        assert!(is_open(&open));
        leave(&open);
        assert!(!is_open(&open) && take_touched(&open) && !take_touched(&open));
        assert!(close(&gate, CLOSER) && !close(&gate, CLOSER + 1), "another has closed it");
        assert!(!enter(&open, &gate, Duration::from_millis(1)));
        assert!(!is_open(&open));
        reopen(&gate, CLOSER + 1);
        assert!(!enter(&open, &gate, Duration::ZERO), "it is not that one's to open");
        reopen(&gate, CLOSER);
        assert!(enter(&open, &gate, Duration::ZERO));
        for scribble in [CLOSER, 1 << 31, u64::MAX] {
            gate.store(scribble, SeqCst);
            throw_open(&gate, CLOSER + 1);
            assert!(!enter(&open, &gate, Duration::ZERO), "{scribble:#x}");
            throw_open(&gate, scribble);
            assert!(enter(&open, &gate, Duration::ZERO), "{scribble:#x}");
        }
    }

    #[test]
    fn who_sleeps_before_the_gate_is_woken() {
        let (open, gate) = (AtomicU64::new(0), AtomicU64::new(CLOSER));
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| enter(&open, &gate, Duration::from_secs(60)));
            while open.load(SeqCst) != TOUCHED {
                std::thread::yield_now();
            }
            reopen(&gate, CLOSER);
            assert!(sleeper.join().unwrap());
        });
    }
}
