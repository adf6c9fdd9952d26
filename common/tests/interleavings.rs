//! Lock, sequence lock, gate and the waiting of queues under a model checker: over words that it schedules, in thousands of interleavings. Its
//! sleepers never look again by themselves, as real ones do after a while: a wake that is missing is a deadlock, which
//! the checker reports.

use std::time::Duration;

use common::bell::{self, Side};
use common::gate;
use common::ids::{Generation, Owner, SlotIndex};
use common::lock::{
    WAITERS, Word, acquire, begin_change, end_change, names, read_once, release, release_dead, tag,
};
use common::sys::futex::Waited;
use shuttle::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::thread;

/// Schedules that each test runs: drawn at random, and with few but well placed changes.
const SCHEDULES: usize = 1000;
const CHANGES: usize = 3;

/// Longer than any test lasts.
const PATIENCE: Duration = Duration::from_secs(3600);

/// A word, and those who sleep on it.
#[derive(Default)]
struct Modelled {
    value: Mutex<u64>,
    bed: Condvar,
    /// How many sleep for an item and for room; how many of them are to wake up.
    waiting: Mutex<[[u32; 2]; 2]>,
    beds: [Condvar; 2],
}

impl Modelled {
    fn with<T>(&self, work: impl FnOnce(&mut u64) -> T) -> T {
        work(&mut self.value.lock().unwrap())
    }
}

impl Word for Modelled {
    fn load(&self) -> u64 {
        self.with(|value| *value)
    }

    fn look(&self) -> u64 {
        self.load()
    }

    fn store(&self, value: u64) {
        self.with(|word| *word = value);
    }

    fn exchange(&self, from: u64, to: u64) -> bool {
        self.with(|word| {
            let same = *word == from;
            *word = if same { to } else { *word };
            same
        })
    }

    fn swap(&self, to: u64) -> u64 {
        self.with(|word| std::mem::replace(word, to))
    }

    /// As the kernel does it: it compares the lower half and falls asleep in one, and nothing but a wake ends that.
    fn wait(&self, seen: u64, _limit: Duration) -> Waited {
        let value = self.value.lock().unwrap();
        if *value as u32 == seen as u32 {
            drop(self.bed.wait(value).unwrap());
        }
        Waited::Woken
    }

    fn wake(&self) {
        self.bed.notify_one();
    }

    fn wake_all(&self) {
        self.bed.notify_all();
    }

    fn wait_for(&self, what: Side, seen: u64, _limit: Duration) -> Waited {
        // Nobody changes the word or wakes anybody between the look and the falling asleep.
        let mut waiting = self.waiting.lock().unwrap();
        if self.with(|value| *value as u32) == seen as u32 {
            waiting[what as usize][0] += 1;
            while waiting[what as usize][1] == 0 {
                waiting = self.beds[what as usize].wait(waiting).unwrap();
            }
            waiting[what as usize][0] -= 1;
            waiting[what as usize][1] -= 1;
        }
        Waited::Woken
    }

    fn wake_for(&self, what: Side, most: u32) -> u32 {
        let mut waiting = self.waiting.lock().unwrap();
        let [asleep, woken] = waiting[what as usize];
        let count = most.min(asleep - woken);
        waiting[what as usize][1] += count;
        (0..count).for_each(|_| self.beds[what as usize].notify_one());
        count
    }

    fn release_fence() {}

    fn acquire_fence() {}

    fn pause(_: Duration) {
        thread::yield_now();
    }
}

fn owner(slot: u32) -> u64 {
    tag(Owner { slot: SlotIndex(slot), generation: Generation(7) })
}

fn in_many_schedules(test: fn()) {
    shuttle::check_random(test, SCHEDULES);
    shuttle::check_pct(test, SCHEDULES, CHANGES);
}

/// A lock and whether somebody has it.
#[derive(Default)]
struct Room {
    lock: Modelled,
    inside: AtomicBool,
}

impl Room {
    fn enter(&self, tag: u64) {
        assert!(acquire(&self.lock, tag, PATIENCE));
        assert!(!self.inside.swap(true, SeqCst), "two have the lock");
        assert!(names(self.lock.load(), tag));
    }

    fn visit(&self, tag: u64) {
        self.enter(tag);
        self.inside.store(false, SeqCst);
        release(&self.lock);
    }
}

/// Starts visitors, who each want the lock more than once.
fn visitors(room: &Arc<Room>, count: u32) -> Vec<thread::JoinHandle<()>> {
    let visitor = |slot| {
        let room = Arc::clone(room);
        thread::spawn(move || (0..2).for_each(|_| room.visit(owner(slot))))
    };
    (1..=count).map(visitor).collect()
}

fn all_leave(visitors: Vec<thread::JoinHandle<()>>, room: &Room) {
    visitors.into_iter().for_each(|visitor| visitor.join().unwrap());
    assert_eq!(room.lock.load(), 0);
}

#[test]
fn one_at_a_time_and_each_in_the_end() {
    in_many_schedules(|| {
        let room = Arc::new(Room::default());
        all_leave(visitors(&room, 3), &room);
    });
}

#[test]
fn those_who_wait_for_a_dead_owner_get_the_lock() {
    in_many_schedules(|| {
        let room = Arc::new(Room::default());
        room.enter(owner(9));
        let visitors = visitors(&room, 3);
        room.inside.store(false, SeqCst);
        // It died with the lock, whoever waits by now.
        release_dead(&room.lock, owner(9));
        all_leave(visitors, &room);
    });
}

#[test]
fn an_owner_that_died_before_it_woke_anybody_is_made_up_for() {
    in_many_schedules(|| {
        let room = Arc::new(Room::default());
        room.enter(owner(9));
        let visitors = visitors(&room, 3);
        thread::yield_now();
        room.inside.store(false, SeqCst);
        let _not_woken = room.lock.swap(0) & WAITERS;
        release_dead(&room.lock, owner(9));
        all_leave(visitors, &room);
    });
}

#[test]
fn a_waiter_that_dies_after_it_was_woken_is_made_up_for() {
    in_many_schedules(|| {
        let room = Arc::new(Room::default());
        room.enter(owner(9));
        let visitors = visitors(&room, 2);
        let dying = {
            let room = Arc::clone(&room);
            // It sleeps once, and dies when it is woken: it takes the wake along. Its held list names the lock.
            thread::spawn(move || {
                let seen = room.lock.load();
                if seen != 0 && (seen & WAITERS != 0 || room.lock.exchange(seen, seen | WAITERS)) {
                    room.lock.wait(seen | WAITERS, PATIENCE);
                }
                release_dead(&room.lock, owner(8));
            })
        };
        room.inside.store(false, SeqCst);
        release(&room.lock);
        all_leave(visitors, &room);
        // Whoever slept last may have slept with nobody left to wake it; only the dying one does not take the lock.
        room.lock.wake();
        dying.join().unwrap();
    });
}

/// Two words that are always the same, but while they are changed.
#[derive(Default)]
struct Pair {
    seq: Modelled,
    words: [AtomicU64; 2],
}

impl Pair {
    fn change(&self) {
        begin_change(&self.seq);
        self.words.iter().for_each(|word| word.store(word.load(SeqCst) + 1, SeqCst));
        end_change(&self.seq);
    }

    fn read(&self) -> Option<[u64; 2]> {
        read_once(&self.seq, || [0, 1].map(|index| self.words[index].load(SeqCst)))
    }
}

#[test]
fn readers_never_see_a_mixture() {
    in_many_schedules(|| {
        let pair = Arc::new(Pair::default());
        let reader = {
            let pair = Arc::clone(&pair);
            thread::spawn(move || {
                for [one, other] in (0..8).filter_map(|_| pair.read()) {
                    assert_eq!(one, other);
                }
            })
        };
        (0..4).for_each(|_| pair.change());
        reader.join().unwrap();
        assert_eq!(pair.read(), Some([4, 4]));
    });
}

#[test]
fn what_a_dead_writer_left_is_read_after_its_repair_only() {
    in_many_schedules(|| {
        let pair = Arc::new(Pair::default());
        let reader = {
            let pair = Arc::clone(&pair);
            thread::spawn(move || {
                for [one, other] in (0..8).filter_map(|_| pair.read()) {
                    assert_eq!([one, other], [0, 0]);
                }
            })
        };
        // It dies between its two words. Repair undoes the first, and lets the sequence word go forward.
        begin_change(&pair.seq);
        pair.words[0].store(1, SeqCst);
        pair.words[0].store(0, SeqCst);
        end_change(&pair.seq);
        reader.join().unwrap();
    });
}

/// A queue, as far as waiting goes: how many items it has, and how many it takes.
#[derive(Default)]
struct Shelf {
    lock: Modelled,
    seq: Modelled,
    sleepers: Modelled,
    count: Modelled,
    gone: Modelled,
}

const CAPACITY: u64 = 1;

impl Shelf {
    fn is_ready(&self, side: Side) -> bool {
        match side {
            Side::Item => self.count.load() > 0,
            Side::Room => self.count.load() < CAPACITY,
        }
    }

    /// Waits until there is an item or room, and takes it if `takes`, as `Seat::begin_with_item` and the transaction that
    /// it begins do; false where the queue is gone.
    fn serve(&self, tag: u64, side: Side, takes: bool) -> bool {
        loop {
            assert!(acquire(&self.lock, tag, PATIENCE));
            if self.gone.load() == 1 {
                self.give_back();
                return false;
            }
            if self.is_ready(side) {
                if takes {
                    self.change(side);
                }
                self.give_back();
                return true;
            }
            let seen = bell::announce(&self.sleepers, &self.seq, side);
            self.give_back();
            bell::sleep(&self.seq, seen, side, PATIENCE);
        }
    }

    fn change(&self, side: Side) {
        begin_change(&self.seq);
        let count = self.count.load();
        self.count.store(if side == Side::Item { count - 1 } else { count + 1 });
    }

    /// As a seat gives the lock of a queue back.
    fn give_back(&self) {
        let seen = self.sleepers.load();
        let ready = Side::ALL.map(|side| bell::is_waited_for(seen, side) && self.is_ready(side));
        let gone = self.gone.load() == 1;
        end_change(&self.seq);
        release(&self.lock);
        if gone {
            bell::ring_all(&self.seq);
        } else {
            let ready = Side::ALL.into_iter().zip(ready).filter(|(_, ready)| *ready);
            ready.for_each(|(side, _)| bell::ring(&self.seq, &self.sleepers, seen, side));
        }
    }
}

fn serve(shelf: &Arc<Shelf>, slot: u32, side: Side, takes: bool) -> thread::JoinHandle<bool> {
    let shelf = Arc::clone(shelf);
    thread::spawn(move || shelf.serve(owner(slot), side, takes))
}

#[test]
fn who_waits_for_an_item_or_for_room_gets_it() {
    in_many_schedules(|| {
        let shelf = Arc::new(Shelf::default());
        let sides = [Side::Item, Side::Room, Side::Item, Side::Room];
        let servers: Vec<_> = (1..).zip(sides).map(|(slot, side)| serve(&shelf, slot, side, true)).collect();
        assert!(servers.into_iter().all(|server| server.join().unwrap()));
        assert_eq!(shelf.count.load(), 0);
    });
}

#[test]
fn who_was_woken_and_takes_nothing_wakes_the_next() {
    in_many_schedules(|| {
        let shelf = Arc::new(Shelf::default());
        let lookers: Vec<_> = [1, 2].map(|slot| serve(&shelf, slot, Side::Item, false)).into();
        let taker = serve(&shelf, 3, Side::Item, false);
        assert!(shelf.serve(owner(4), Side::Room, true));
        assert!(taker.join().unwrap() && lookers.into_iter().all(|looker| looker.join().unwrap()));
    });
}

#[test]
fn who_waits_at_a_queue_that_is_deleted_is_told() {
    in_many_schedules(|| {
        let shelf = Arc::new(Shelf::default());
        let waiting: Vec<_> = [1, 2].map(|slot| serve(&shelf, slot, Side::Item, true)).into();
        assert!(acquire(&shelf.lock, owner(3), PATIENCE));
        begin_change(&shelf.seq);
        shelf.gone.store(1);
        shelf.give_back();
        assert!(waiting.into_iter().all(|waiting| !waiting.join().unwrap()));
    });
}

#[test]
fn one_that_filled_a_queue_and_died_before_it_woke_anybody_is_made_up_for() {
    in_many_schedules(|| {
        let shelf = Arc::new(Shelf::default());
        let waiting = serve(&shelf, 1, Side::Item, true);
        assert!(acquire(&shelf.lock, owner(9), PATIENCE));
        shelf.change(Side::Room);
        // Its change is committed. Repair lets the sequence word go on, takes the lock off, and wakes.
        end_change(&shelf.seq);
        release_dead(&shelf.lock, owner(9));
        if bell::is_any_waited_for(shelf.sleepers.load()) {
            bell::ring_all(&shelf.seq);
        }
        assert!(waiting.join().unwrap());
    });
}

/// What transactions change and a checkpoint takes: two words on one page, always the same when nobody is at them.
#[derive(Default)]
struct Shelves {
    gate: Modelled,
    open: [Modelled; 2],
    /// Held by the transaction that changes the words.
    lock: Modelled,
    mark: Modelled,
    words: [Modelled; 2],
}

impl Shelves {
    fn transaction(&self, slot: usize) {
        assert!(gate::enter(&self.open[slot], &self.gate, PATIENCE));
        assert!(acquire(&self.lock, owner(slot as u32 + 1), PATIENCE));
        if self.mark.load() == 0 {
            self.mark.store(1);
        }
        self.words.iter().for_each(|word| word.store(word.load() + 1));
        release(&self.lock);
        gate::leave(&self.open[slot]);
    }

    fn copy(&self) -> [u64; 2] {
        [0, 1].map(|index| self.words[index].load())
    }

    /// As `recovery::checkpoint::capture` does it, on a page and two slots.
    fn checkpoint(&self, tag: u64) -> [u64; 2] {
        self.mark.store(0);
        for open in &self.open {
            while gate::is_open(open) {
                thread::yield_now();
            }
        }
        let mut copied = self.copy();
        loop {
            if gate::close(&self.gate, tag) {
                if self.open.iter().all(|open| !gate::is_open(open)) {
                    break;
                }
                gate::reopen(&self.gate, tag);
            }
            thread::yield_now();
        }
        if self.mark.load() != 0 {
            copied = self.copy();
        }
        assert_eq!(copied, self.copy(), "what is not marked has not changed");
        assert_eq!(copied[0], copied[1], "a transaction is under way");
        gate::reopen(&self.gate, tag);
        copied
    }
}

fn transactions(shelf: &Arc<Shelves>) -> [thread::JoinHandle<()>; 2] {
    [0, 1].map(|slot| {
        let shelf = Arc::clone(shelf);
        thread::spawn(move || (0..2).for_each(|_| shelf.transaction(slot)))
    })
}

#[test]
fn a_checkpoint_takes_what_is_there_between_transactions() {
    in_many_schedules(|| {
        let shelf = Arc::new(Shelves::default());
        let writers = transactions(&shelf);
        let first = shelf.checkpoint(owner(9))[0];
        assert!(shelf.checkpoint(owner(9))[0] >= first);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        assert_eq!(shelf.copy(), [4, 4]);
    });
}

#[test]
fn who_waits_before_a_gate_whose_closer_died_goes_on() {
    in_many_schedules(|| {
        let shelf = Arc::new(Shelves::default());
        assert!(gate::close(&shelf.gate, owner(9)));
        let writers = transactions(&shelf);
        thread::yield_now();
        // It opens the gate and dies before it wakes anybody, or before it opens it; repair does both.
        shelf.gate.exchange(owner(9), 0);
        gate::reopen(&shelf.gate, owner(9));
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        assert_eq!(shelf.copy(), [4, 4]);
    });
}
