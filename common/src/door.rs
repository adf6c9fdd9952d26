//! Which workers wait for connections. The kernel gives a connection to the worker that has waited longest, so that a thousand
//! of them serve in turn where thirty would do, and each finds that what it touches has left the caches. So only as many
//! are at work as are likely to be needed: at the door, where connections come in, or busy with one. The others rest. Who is
//! done with a connection while enough others are at work rests too, and whoever takes a connection and leaves few at the
//! door, or nobody, calls two: always those in the lowest slots, so that the same ones serve again and again. Who is called stands
//! back for those at work (`scheduling::come_last`): where these only wait for something it is there at once, and where the
//! processors have no time for it, neither would they have for what it brings.
//!
//! What a worker is at are two bits of one word; they are changed in one step, by itself, by whoever calls it, and by the
//! supervisor once it is dead, which then calls others where few are left. Recovery has nothing to do with them. Who takes a
//! connection leaves the door first and looks whether few are left then. What somebody forgets who dies or is stopped
//! in between, the next one does, or the supervisor, or, at the latest, one of those who rest: each looks at the door from time
//! to time, and where connections go on waiting, who is said to stand there all the while (it is stopped, or was never woken)
//! counts as busy from then on.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use crate::ids::SlotIndex;
use crate::region::Region;
use crate::sys::{futex, scheduling};

/// So many for each processor are enough at work. Measured with 64 and with 1000 connections and 1000 workers: half as many
/// requests again as when all stand at the door on an Intel Xeon, as many on an AMD EPYC.
const ENOUGH_PER_PROCESSOR: u32 = 16;

/// So many are few at the door: others are called once nobody is left there. Where there are more connections than workers at
/// work, the door is bare most of the time, and those who are done with one are there sooner than who is called: with two for
/// each processor, 1000 connections got a sixth less on an EPYC.
const FEW: u32 = 1;

/// How many are called at once at most: one more than have left, so that the door fills up.
const CALLED: usize = 2;

/// Who rests looks at the door himself after so long, whatever became of the calls.
const REST: Duration = Duration::from_secs(15);

/// Who finds connections waiting then looks again after so long.
const DOUBT: Duration = Duration::from_millis(100);

/// Slots of one word, two bits for each; the lower and the upper ones of all.
const SLOTS: u32 = 32;
const LOWER: u64 = 0x5555_5555_5555_5555;
const UPPER: u64 = LOWER << 1;

/// What a worker is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum Post {
    /// There is none, or it has yet to come.
    Absent = 0b00,
    Resting = 0b01,
    Standing = 0b10,
    Busy = 0b11,
}

/// Where a slot's post is.
struct Place<'a> {
    word: &'a AtomicU64,
    shift: u32,
}

impl Region {
    /// A worker's: waits for connections from now on. False where it has rested instead: it has come back for a signal or
    /// because the time was over, and is to try again; `urgent`, if [`Region::doubt_door`] says so.
    pub fn stand_at_door(&self, slot: SlotIndex, urgent: bool) -> bool {
        let Some(place) = self.place_at_door(slot) else { return true };
        let Some(calls) = self.slot(slot).map(|slot| &slot.calls) else { return true };
        if urgent || !self.has_enough_besides(&place) {
            place.take(Post::Standing);
            return true;
        }
        let seen = calls.load(SeqCst);
        place.take(Post::Resting);
        // Whoever left the door before that did not know of us.
        if self.has_enough_besides(&place) {
            scheduling::come_last(|| futex::rest(calls, seen, REST));
        }
        place.is(Post::Standing)
    }

    /// A worker's that has come back from its rest: whether connections wait in vain, as far as `waiting` tells. Whoever has
    /// been said to stand at the door while they did counts as busy from then on, so that others are called.
    pub fn doubt_door(&self, slot: SlotIndex, waiting: impl Fn() -> bool) -> bool {
        let Some(place) = self.place_at_door(slot) else { return true };
        let Some(calls) = self.slot(slot).map(|slot| &slot.calls) else { return true };
        let seen = calls.load(SeqCst);
        let stood: Vec<u64> = self.posts().iter().map(|word| standing(word.load(SeqCst))).collect();
        if !waiting() || place.is(Post::Standing) {
            return false;
        }
        futex::rest(calls, seen, DOUBT);
        if !waiting() || place.is(Post::Standing) {
            return false;
        }
        for (word, stood) in self.posts().iter().zip(stood) {
            let idle = |now| stood & standing(now);
            let _ = word.fetch_update(SeqCst, SeqCst, |now| (idle(now) != 0).then_some(now | idle(now) >> 1));
        }
        true
    }

    /// A worker's: has taken a connection from the door. Where that leaves few there, others are called.
    pub fn take_from_door(&self, slot: SlotIndex) {
        let Some(place) = self.place_at_door(slot) else { return };
        place.word.fetch_or((Post::Busy as u64) << place.shift, SeqCst);
        self.fill_door();
    }

    /// The worker in this slot leaves, or is dead.
    pub fn leave_door(&self, slot: SlotIndex) {
        let Some(place) = self.place_at_door(slot) else { return };
        place.take(Post::Absent);
        self.fill_door();
    }

    /// The supervisor's, before it has workers: nobody waits yet.
    pub fn open_door(&self) {
        for word in self.posts() {
            word.store(0, SeqCst);
        }
        self.measure_door();
    }

    /// The supervisor's: says how many are enough on this machine.
    pub fn measure_door(&self) {
        let processors = std::thread::available_parallelism().map_or(1, usize::from) as u32;
        let door = &self.header().door;
        door.few.store(FEW, SeqCst);
        door.enough.store(processors.saturating_mul(ENOUGH_PER_PROCESSOR), SeqCst);
    }

    /// Whether enough others are at work, and not few at the door.
    fn has_enough_besides(&self, place: &Place<'_>) -> bool {
        let door = &self.header().door;
        let (enough, few) = (door.enough.load(Relaxed), door.few.load(Relaxed));
        let others = || self.has_more(enough - 1 + u32::from(place.is_at_work()), |word| word & UPPER);
        enough > 0 && others() && !self.is_bare(few)
    }

    fn is_bare(&self, few: u32) -> bool {
        few > 0 && !self.has_more(few - 1, standing)
    }

    fn has_more(&self, than: u32, which: impl Fn(u64) -> u64) -> bool {
        let mut count = 0;
        self.posts().iter().any(|word| {
            count += which(word.load(SeqCst)).count_ones();
            count > than
        })
    }

    fn fill_door(&self) {
        if !self.is_bare(self.header().door.few.load(Relaxed)) {
            return;
        }
        for called in std::iter::from_fn(|| self.choose()).take(CALLED) {
            if let Some(slot) = self.slot(called) {
                slot.calls.fetch_add(1, SeqCst);
                futex::wake_one(&slot.calls);
            }
        }
    }

    /// Has the one in the lowest slot of those that rest stand at the door.
    fn choose(&self) -> Option<SlotIndex> {
        for (index, word) in self.posts().iter().enumerate() {
            let mut seen = word.load(SeqCst);
            loop {
                let resting = seen & !(seen >> 1) & LOWER;
                if resting == 0 {
                    break;
                }
                let place = Place { word, shift: resting.trailing_zeros() };
                match place.exchange(seen, Post::Standing) {
                    Ok(_) => return Some(SlotIndex(index as u32 * SLOTS + place.shift / 2)),
                    Err(now) => seen = now,
                }
            }
        }
        None
    }

    /// The words that this region's slots have.
    fn posts(&self) -> &[AtomicU64] {
        self.posts_and_unused().0
    }

    /// Words that no slot of this region has.
    pub fn unused_posts(&self) -> &[AtomicU64] {
        self.posts_and_unused().1
    }

    fn posts_and_unused(&self) -> (&[AtomicU64], &[AtomicU64]) {
        let posts = &self.header().door.posts;
        posts.split_at(posts.len().min(self.geometry().slot_count.div_ceil(SLOTS) as usize))
    }

    fn place_at_door(&self, slot: SlotIndex) -> Option<Place<'_>> {
        let word = self.posts().get((slot.0 / SLOTS) as usize)?;
        Some(Place { word, shift: slot.0 % SLOTS * 2 })
    }
}

/// The upper bits of those that stand at the door.
fn standing(word: u64) -> u64 {
    word & UPPER & !(word << 1)
}

impl Place<'_> {
    fn is(&self, post: Post) -> bool {
        self.word.load(SeqCst) >> self.shift & Post::Busy as u64 == post as u64
    }

    fn is_at_work(&self) -> bool {
        self.is(Post::Standing) || self.is(Post::Busy)
    }

    fn exchange(&self, seen: u64, post: Post) -> Result<u64, u64> {
        let others = seen & !((Post::Busy as u64) << self.shift);
        self.word.compare_exchange(seen, others | (post as u64) << self.shift, SeqCst, SeqCst)
    }

    fn take(&self, post: Post) {
        let mut seen = self.word.load(SeqCst);
        while let Err(now) = self.exchange(seen, post) {
            seen = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32};

    use super::*;
    use crate::layout::DOOR_WORDS;

    /// Four others at work are enough, and one at the door is few.
    fn region() -> &'static Region {
        let region = Region::create(&tempfile::tempfile().unwrap(), 16 << 20).unwrap();
        region.open_door();
        set_bounds(&region, 4, 2);
        Box::leak(Box::new(region))
    }

    fn set_bounds(region: &Region, enough: u32, few: u32) {
        region.header().door.enough.store(enough, SeqCst);
        region.header().door.few.store(few, SeqCst);
    }

    fn busy(region: &Region, slots: impl IntoIterator<Item = u32>) {
        slots.into_iter().for_each(|slot| region.take_from_door(SlotIndex(slot)));
    }

    fn is(region: &Region, slot: u32, post: Post) -> bool {
        region.place_at_door(SlotIndex(slot)).unwrap().is(post)
    }

    fn stand(region: &Region, slots: impl IntoIterator<Item = u32>) {
        slots.into_iter().for_each(|slot| assert!(region.stand_at_door(SlotIndex(slot), false), "{slot}"));
    }

    fn until(what: &str, condition: impl Fn() -> bool) {
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(std::time::Instant::now() < end, "waited in vain: {what}");
            std::thread::yield_now();
        }
    }

    /// A worker that comes where there are enough; the thread ends once it stands at the door.
    fn comes(region: &'static Region, slot: u32) -> std::thread::JoinHandle<()> {
        let thread = std::thread::spawn(move || while !region.stand_at_door(SlotIndex(slot), false) {});
        until("it rests", || is(region, slot, Post::Resting));
        thread
    }

    #[test]
    fn who_comes_where_enough_are_at_work_rests_until_few_stand_at_the_door() {
        let region = region();
        stand(region, [10, 20, 30, 50]);
        let (late, later) = (comes(region, 40), comes(region, 39));
        busy(region, [10, 20]);
        assert!(is(region, 39, Post::Resting) && is(region, 40, Post::Resting), "two are not few");
        busy(region, [30]);
        later.join().unwrap();
        late.join().unwrap();
        assert!(is(region, 39, Post::Standing) && is(region, 40, Post::Standing));
    }

    #[test]
    fn who_is_done_rests_although_nobody_has_a_connection_less() {
        let region = region();
        stand(region, [1, 2, 3, 4]);
        assert!(region.stand_at_door(SlotIndex(5), true));
        busy(region, [1, 2]);
        let done = comes(region, 1);
        stand(region, [2]);
        busy(region, [2, 3, 4]);
        done.join().unwrap();
    }

    #[test]
    fn the_lowest_slot_is_called_first_and_no_more_than_two() {
        let region = region();
        stand(region, 1..=4);
        let [far, farthest, near, next] = [70, 100, 64, 65].map(|slot| comes(region, slot));
        busy(region, 1..=3);
        assert!([64, 65].iter().all(|slot| is(region, *slot, Post::Standing)));
        assert!([70, 100].iter().all(|slot| is(region, *slot, Post::Resting)));
        [near, next].into_iter().for_each(|thread| thread.join().unwrap());
        // The dead are taken from the door by somebody else.
        [4, 64].into_iter().for_each(|slot| region.leave_door(SlotIndex(slot)));
        [far, farthest].into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn everybody_stands_who_is_needed_urgently_and_without_bounds_and_beyond_the_table() {
        let region = region();
        stand(region, 0..4);
        assert!(region.stand_at_door(SlotIndex(DOOR_WORDS as u32 * SLOTS), false));
        assert!(region.stand_at_door(SlotIndex(9), true));
        set_bounds(region, 0, 0);
        stand(region, [8]);
    }

    #[test]
    fn who_was_chosen_by_somebody_who_died_then_stands_once_it_looks() {
        let region = region();
        stand(region, 0..4);
        let thread = comes(region, 9);
        assert_eq!(region.choose(), Some(SlotIndex(9)));
        // Instead of the call that never came: a signal, or the end of the time.
        futex::wake_one(&region.slot(SlotIndex(9)).unwrap().calls);
        thread.join().unwrap();
    }

    #[test]
    fn who_is_said_to_stand_there_and_takes_nothing_counts_as_busy() {
        let region = region();
        stand(region, 0..4);
        let thread = comes(region, 9);
        assert!(!region.doubt_door(SlotIndex(8), || false), "nobody waits");
        let doubts = std::cell::Cell::new(0);
        let waiting = || {
            // One of them takes a connection and is back.
            if doubts.replace(doubts.get() + 1) == 1 {
                busy(region, [2]);
                region.leave_door(SlotIndex(2));
            }
            true
        };
        assert!(region.doubt_door(SlotIndex(8), waiting));
        assert!([0, 1, 3].iter().all(|slot| is(region, *slot, Post::Busy)));
        assert!(region.stand_at_door(SlotIndex(8), true));
        busy(region, [8]);
        thread.join().unwrap();
    }

    /// Workers and connections at random, all of which are served: nobody rests for good while one waits.
    #[test]
    fn no_connection_waits_while_somebody_rests() {
        const CONNECTIONS: u32 = 20_000;
        let region = region();
        let waiting: &AtomicU32 = Box::leak(Box::default());
        let served: &AtomicU32 = Box::leak(Box::default());
        let over: &AtomicBool = Box::leak(Box::default());
        let take = move || waiting.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
        let work = move |slot| {
            while !over.load(SeqCst) {
                if !region.stand_at_door(slot, false) {
                    continue;
                }
                while !take() {
                    if over.load(SeqCst) {
                        return;
                    }
                    std::thread::yield_now();
                }
                region.take_from_door(slot);
                served.fetch_add(1, SeqCst);
            }
        };
        let workers: Vec<_> =
            (0..12).map(|slot| std::thread::spawn(move || work(SlotIndex(slot * 7)))).collect();
        for sent in 1..=CONNECTIONS {
            waiting.fetch_add(1, SeqCst);
            if sent % 16 == 0 {
                until("all are served", || served.load(SeqCst) == sent);
            }
        }
        over.store(true, SeqCst);
        until("all have ended", || {
            for (_, slot) in region.slots() {
                slot.calls.fetch_add(1, SeqCst);
                futex::wake_one(&slot.calls);
            }
            workers.iter().all(std::thread::JoinHandle::is_finished)
        });
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    }
}
