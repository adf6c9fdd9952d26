//! Waiting until a queue has an item, or room for one: before the transaction that takes it, holding nothing. And waking those
//! who wait.

use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::{Duration, Instant};

use crate::bell::{self, Side};
use crate::layout::Object;
use crate::lock::{self, Word};
use crate::objects::Kind;
use crate::objects::items::{CAPACITY, COUNT, SLEEPERS};
use crate::objects::queue::Queue;
use crate::planted::{self, Bug};
use crate::sys::futex::Waited;
use crate::sys::scheduling;
use crate::txn::{Seat, Transaction, TxnError};

/// How often a queue that is not ready is looked at before the process sleeps, and the pauses between, doubling.
const LOOKS: u32 = 200;
const FIRST_PAUSE: Duration = Duration::from_nanos(40);
const LONGEST_PAUSE: Duration = Duration::from_nanos(400);

/// What a look at a queue under its lock gave.
enum Look<T> {
    /// There is what is waited for. The lock is held still.
    Ready,
    /// There is not; what was done about it. Nothing is held.
    NotYet(T),
}

impl<'r> Seat<'r> {
    /// Begins a transaction once a queue has an item, with its lock: what is popped first is there. Sleeps until then,
    /// holding nothing.
    ///
    /// ```
    /// # use common::{ids::*, region::Region, slots, txn::Seat};
    /// # let file = tempfile::tempfile().unwrap();
    /// # let region = Region::create(&file, 1 << 20).unwrap();
    /// # region.slot(SlotIndex(0)).unwrap().reserve(Generation(1), 1);
    /// # let mut seat = Seat::take(&region, slots::owner(SlotIndex(0), Generation(1))).unwrap();
    /// # let mut txn = seat.begin()?;
    /// # let folder = txn.create_folder("mill")?;
    /// # let jobs = txn.create_queue(folder, "jobs", 0)?;
    /// # txn.queue(jobs)?.push_back(b"a job")?;
    /// # txn.commit()?;
    /// use std::time::{Duration, Instant};
    ///
    /// let mut txn = seat.begin_with_item(jobs, Instant::now() + Duration::from_secs(5))?;
    /// let (taken, job) = txn.queue(jobs)?.take_front()?.expect("there is one");
    /// txn.commit()?;
    /// // Work at it for as long as it takes. Should this process die, another one gets the job.
    /// # let _ = job;
    /// let mut txn = seat.begin()?;
    /// txn.finish(&taken)?;
    /// txn.commit()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`TxnError::TimedOut`] at the deadline, [`TxnError::NotFound`] once the queue is deleted, and those of
    /// [`Seat::begin`] and of taking a lock.
    pub fn begin_with_item(
        &mut self,
        queue: Queue,
        deadline: Instant,
    ) -> Result<Transaction<'_, 'r>, TxnError> {
        self.begin_with(queue, Side::Item, deadline)
    }

    /// Begins a transaction once a queue has room for an item, likewise.
    ///
    /// # Errors
    /// As [`Seat::begin_with_item`].
    pub fn begin_with_room(
        &mut self,
        queue: Queue,
        deadline: Instant,
    ) -> Result<Transaction<'_, 'r>, TxnError> {
        self.begin_with(queue, Side::Room, deadline)
    }

    #[inline]
    fn begin_with(
        &mut self,
        queue: Queue,
        side: Side,
        deadline: Instant,
    ) -> Result<Transaction<'_, 'r>, TxnError> {
        // Mostly it is there already: so no look without the lock, which would take the object from whoever changes it.
        if !matches!(self.look(queue, side, deadline, |_| ())?, Look::Ready) {
            self.wait_for(queue, side, deadline)?;
        }
        Ok(Transaction::on(self))
    }

    #[cold]
    fn wait_for(&mut self, queue: Queue, side: Side, deadline: Instant) -> Result<(), TxnError> {
        let mut woken = false;
        let outcome = self.wait_until_ready(queue, side, deadline, &mut woken);
        // A child that was forked must not touch its parent's slot, not even to say that nothing came.
        if outcome.is_err() && self.is_mine() {
            self.stay_awake();
            // What it was woken for is for the next one.
            if let (true, Some(object)) = (woken, self.region.object(queue.0.index)) {
                object.seq.wake_for(side, 1);
            }
        }
        outcome
    }

    fn wait_until_ready(
        &mut self,
        queue: Queue,
        side: Side,
        deadline: Instant,
        woken: &mut bool,
    ) -> Result<(), TxnError> {
        self.look_often(queue, side)?;
        loop {
            let announce = |object: &Object| bell::announce(&object.body[SLEEPERS], &object.seq, side);
            let seen = match self.look(queue, side, deadline, announce)? {
                Look::Ready => return Ok(()),
                Look::NotYet(seen) => seen,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(TxnError::TimedOut);
            }
            // Nobody serves from this region any more, and nobody will ring.
            if self.region.header().supervision.damaged.load(Relaxed) != 0 {
                return Err(TxnError::Damaged);
            }
            let object = self.region.object(queue.0.index).ok_or(TxnError::NotFound)?;
            let sleep = || bell::sleep(&object.seq, seen, side, left.min(lock::NAP));
            *woken |= self.sleep_at(queue.0.index, sleep) == Waited::Woken;
        }
    }

    /// Looks at the queue for a moment, without its lock: what is waited for may come sooner than one falls asleep.
    fn look_often(&self, queue: Queue, side: Side) -> Result<(), TxnError> {
        let object = self.region.object(queue.0.index).ok_or(TxnError::NotFound)?;
        for look in 0..LOOKS {
            let same = object.identity.load(Relaxed) == queue.0.identity(Kind::Queue);
            if !same || is_ready(object, side) {
                break;
            }
            scheduling::pause(LONGEST_PAUSE.min(FIRST_PAUSE * (1 << look.min(10))));
        }
        Ok(())
    }

    /// Looks at the queue under its lock, and where it is not ready does `otherwise` before the lock is given back.
    #[inline]
    fn look<T>(
        &mut self,
        queue: Queue,
        side: Side,
        deadline: Instant,
        otherwise: impl FnOnce(&Object) -> T,
    ) -> Result<Look<T>, TxnError> {
        let mut txn = self.begin()?;
        txn.seat.progress.patience = Duration::ZERO;
        let object = match txn.lock(queue.0, Kind::Queue) {
            // The time is asked for only by who has to wait.
            Err(TxnError::Busy) => txn.lock_until(queue, deadline)?,
            locked => locked?,
        };
        if is_ready(object, side) {
            // Goes on in the transaction that the caller gets.
            std::mem::forget(txn);
            return Ok(Look::Ready);
        }
        let done = otherwise(object);
        debug_assert!(object.seq.load(Acquire).is_multiple_of(2), "nothing is changed");
        drop(txn);
        Ok(Look::NotYet(done))
    }
}

impl<'r> Transaction<'_, 'r> {
    /// Takes a queue's lock with a bound of its own, so that one that somebody keeps is not waited for beyond the deadline.
    #[cold]
    fn lock_until(&mut self, queue: Queue, deadline: Instant) -> Result<&'r Object, TxnError> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.seat.progress.patience = left.clamp(Duration::from_millis(1), lock::PATIENCE);
        self.lock(queue.0, Kind::Queue).map_err(|error| match error {
            // Whoever has the lock may have it for longer than there was time.
            TxnError::Busy if deadline <= Instant::now() => TxnError::TimedOut,
            other => other,
        })
    }
}

/// Whom the giving back of a queue's lock wakes.
#[derive(Debug)]
pub(crate) struct Bell {
    sleepers: u64,
    sides: [bool; 2],
    gone: bool,
}

/// Under a queue's lock: whom to wake once it is given back. Whoever is woken and leaves something for another wakes the
/// next: so one is enough, however many items there are.
#[inline]
pub(crate) fn bell(object: &Object) -> Option<Bell> {
    let sleepers = object.body[SLEEPERS].load(Acquire);
    if !bell::is_any_waited_for(sleepers) {
        return None;
    }
    if planted::has(Bug::BatonDropped) && object.seq.load(Relaxed).is_multiple_of(2) {
        return None;
    }
    let gone = Kind::of(object.identity.load(Relaxed)) != Some(Kind::Queue);
    let gone = gone && !planted::has(Bug::DeletedQuietly);
    let sides = Side::ALL.map(|side| bell::is_waited_for(sleepers, side) && is_ready(object, side));
    Some(Bell { sleepers, sides, gone })
}

impl Bell {
    /// Wakes them.
    #[cold]
    pub(crate) fn ring(&self, object: &Object) {
        if self.gone {
            return bell::ring_all(&object.seq);
        }
        for (side, ready) in Side::ALL.into_iter().zip(self.sides) {
            if ready {
                bell::ring(&object.seq, &object.body[SLEEPERS], self.sleepers, side);
            }
        }
    }
}

/// Whether there is what is waited for.
#[inline]
pub(crate) fn is_ready(object: &Object, side: Side) -> bool {
    let count = object.body[COUNT].load(Relaxed);
    match side {
        Side::Item => count > 0,
        Side::Room => {
            let capacity = object.body[CAPACITY].load(Relaxed);
            capacity == 0 || count < capacity
        }
    }
}

/// Repair: whoever sleeps at what a dead owner held is woken, since it is not known whom it would have woken.
pub fn wake_for_dead(object: &Object) {
    let sleepers = object.body[SLEEPERS].load(Acquire);
    if bell::is_any_waited_for(sleepers) && !planted::has(Bug::BellForgotten) {
        bell::ring_all(&object.seq);
    }
}
