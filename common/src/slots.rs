//! The slot table: who is attached, and what each has counted.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU64, compiler_fence};

use serde::{Deserialize, Serialize};

use crate::gate;
use crate::ids::{Generation, Owner, Pid, SlotIndex};
use crate::layout::{Counters, Slot};
use crate::limits::{DOING_SIZE, MAX_HELD};
use crate::sys::process;

/// The states of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// Nobody's.
    Free = 0,
    /// Promised to a process that is being made.
    Reserved = 1,
    /// A process's.
    Live = 2,
    /// Its process detached and left.
    Left = 3,
    /// Its process died; it waits for repair.
    Dead = 4,
}

/// Stands in a slot's `template` where its owner is an attached program. For display only.
pub const NO_TEMPLATE: u32 = u32::MAX;

/// What a live owner is at. For display only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Activity {
    /// Waiting for a connection.
    Idle = 0,
    /// Serving one.
    Busy = 1,
    /// Asked to leave.
    Retiring = 2,
    /// No worker, but the process that takes a checkpoint.
    Checkpoint = 3,
}

/// The counters of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Connections accepted.
    Connections = 0,
    /// Messages recorded.
    Messages = 1,
    /// Bytes of those messages.
    Bytes = 2,
    /// Requests answered by an error.
    Errors = 3,
    /// Requests that were worked on, however they were answered.
    Requests = 4,
    /// Nanoseconds of work on them.
    WorkNs = 5,
}

/// The owner word: generation above, state below.
pub const fn owner_word(generation: Generation, state: State) -> u64 {
    (generation.0 as u64) << 32 | state as u64
}

/// The generation and the state in an owner word; `None` for a state that does not exist.
pub fn read_owner_word(word: u64) -> (Generation, Option<State>) {
    let state = match word as u32 {
        0 => Some(State::Free),
        1 => Some(State::Reserved),
        2 => Some(State::Live),
        3 => Some(State::Left),
        4 => Some(State::Dead),
        _ => None,
    };
    (Generation((word >> 32) as u32), state)
}

impl Slot {
    /// The current generation and state, as the slot says.
    pub fn standing(&self) -> (Generation, Option<State>) {
        read_owner_word(self.owner.load(Acquire))
    }

    /// Whether the slot is in this generation and state.
    pub fn is(&self, generation: Generation, state: State) -> bool {
        self.owner.load(Acquire) == owner_word(generation, state)
    }

    /// Moves the owner word from one state to another within a generation; false where it was not in the first.
    pub fn shift(&self, generation: Generation, from: State, to: State) -> bool {
        let (from, to) = (owner_word(generation, from), owner_word(generation, to));
        self.owner.compare_exchange(from, to, SeqCst, SeqCst).is_ok()
    }

    /// Supervisor: promises the slot to a process to be made. Stores, since its own bookkeeping says that nobody owns
    /// it, whatever the word says.
    pub fn reserve(&self, generation: Generation, template: u32) {
        self.reserve_as(generation, template, Activity::Idle);
    }

    /// The same for a process that is at something else than a worker.
    pub fn reserve_as(&self, generation: Generation, template: u32, activity: Activity) {
        self.pid.store(0, Relaxed);
        self.activity.store(activity as u32, Relaxed);
        self.live_since_ns.store(0, Relaxed);
        self.since_ms.store(0, Relaxed);
        self.template.store(template, Relaxed);
        self.knell.take_down();
        self.owner.store(owner_word(generation, State::Reserved), SeqCst);
    }

    /// Supervisor: the same for a process that exists already, and is none of its own.
    pub fn reserve_for(&self, generation: Generation, pid: Pid) {
        self.reserve(generation, NO_TEMPLATE);
        self.pid.store(pid.0.cast_unsigned(), Relaxed);
    }

    /// Whether the slot says that its owner is an attached program.
    pub fn is_a_clients(&self) -> bool {
        self.template.load(Relaxed) == NO_TEMPLATE
    }

    /// Owner: takes the slot promised to it. False where the supervisor has thought better of it: leave.
    pub fn go_live(&self, generation: Generation) -> bool {
        if !self.is(generation, State::Reserved) {
            return false;
        }
        for (base, counter) in self.base.words.iter().zip(&self.counters.words) {
            base.store(counter.load(Relaxed), Relaxed);
        }
        self.doing[0].store(0, Relaxed);
        self.live_since_ns.store(process::now_ns(), Relaxed);
        self.shift(generation, State::Reserved, State::Live)
    }

    /// Whether nothing half-done is in the slot: no transaction, no log, no lock, no intent, no item of a queue.
    pub fn holds_nothing(&self) -> bool {
        !gate::is_open(&self.open)
            && self.undo.load(Acquire) == 0
            && self.mini.load(Acquire) == 0
            && self.held_count.load(Acquire) == 0
            && self.intent.minute.load(Acquire) == 0
            && self.in_flight.iter().all(|taken| taken.item.load(Acquire) == 0)
    }

    /// Whether the owner detached and left nothing half-done: then there is nothing to repair.
    pub fn left_cleanly(&self, generation: Generation) -> bool {
        self.is(generation, State::Left) && self.holds_nothing()
    }

    /// The pid that the slot names.
    pub fn pid(&self) -> Pid {
        Pid(self.pid.load(Acquire) as i32)
    }

    /// Owner: one more of something that belongs to no transaction. A single store, so it is there or not.
    pub fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Owner: so many more, likewise.
    pub fn add(&self, counter: Counter, amount: u64) {
        let (own, shown) = (self.counters.word(counter), self.published.word(counter));
        own.store(own.load(Relaxed).wrapping_add(amount), Relaxed);
        shown.store(own.load(Relaxed), Relaxed);
    }

    /// Owner after commit, or repair: shows the counters to the readers of status.
    pub fn publish(&self) {
        for (shown, counter) in self.published.words.iter().zip(&self.counters.words) {
            shown.store(counter.load(Relaxed), Relaxed);
        }
    }

    /// Owner: says what it is doing. Kept to whole words and a bound; for display and crash reports.
    pub fn set_doing(&self, text: &[u8]) {
        let text = &text[..text.len().min(DOING_SIZE - 1)];
        for (place, byte) in self.doing.iter().zip(text) {
            place.store(*byte, Relaxed);
        }
        self.doing[text.len()].store(0, Release);
    }

    /// What the owner says it is doing; control characters and what is not UTF-8 are replaced.
    pub fn doing(&self) -> String {
        let bytes: Vec<u8> =
            self.doing.iter().map(|byte| byte.load(Relaxed)).take_while(|&byte| byte != 0).collect();
        String::from_utf8_lossy(&bytes).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }

    /// Repair: counts a death or a repair of this generation, once however often it is called.
    pub fn tally(word: &AtomicU64, generation: Generation) {
        let before = word.load(SeqCst);
        if (before >> 32) as u32 != generation.0 || before as u32 == 0 {
            let count = u64::from((before as u32).wrapping_add(1));
            word.store(u64::from(generation.0) << 32 | count, SeqCst);
        }
    }
}

impl Counters {
    /// The word of one counter.
    pub fn word(&self, counter: Counter) -> &AtomicU64 {
        &self.words[counter as usize]
    }
}

/// Owner: detaches cleanly.
pub fn detach(slot: &Slot, live_word: u64) {
    compiler_fence(SeqCst);
    let left = (live_word & !0xffff_ffff) | State::Left as u64;
    let _ = slot.owner.compare_exchange(live_word, left, SeqCst, SeqCst);
}

/// Sums over all slots, used or free. Wrapping, since the words are allegations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Connections accepted.
    pub connections: u64,
    /// Messages recorded.
    pub messages: u64,
    /// Bytes of those messages.
    pub bytes: u64,
    /// Requests answered by an error.
    pub errors: u64,
    /// Deaths without a clean detach.
    pub crashes: u64,
    /// Repairs.
    pub recoveries: u64,
    /// Requests that were worked on, however they were answered.
    pub requests: u64,
    /// Nanoseconds of work on them.
    pub work_ns: u64,
}

impl Totals {
    /// The sums of what the slots have published.
    pub fn of<'a>(slots: impl Iterator<Item = &'a Slot>) -> Self {
        slots.fold(Self::default(), |sum, slot| {
            let shown = |counter| slot.published.word(counter).load(Relaxed);
            Self {
                connections: sum.connections.wrapping_add(shown(Counter::Connections)),
                messages: sum.messages.wrapping_add(shown(Counter::Messages)),
                bytes: sum.bytes.wrapping_add(shown(Counter::Bytes)),
                errors: sum.errors.wrapping_add(shown(Counter::Errors)),
                crashes: sum.crashes.wrapping_add(slot.crashes.load(Relaxed) & 0xffff_ffff),
                recoveries: sum.recoveries.wrapping_add(slot.recoveries.load(Relaxed) & 0xffff_ffff),
                requests: sum.requests.wrapping_add(shown(Counter::Requests)),
                work_ns: sum.work_ns.wrapping_add(shown(Counter::WorkNs)),
            }
        })
    }

    /// Puts totals of a former region into a slot of a fresh one, so that nothing counted is forgotten.
    pub fn carry_into(&self, slot: &Slot) {
        let carried = [
            (Counter::Connections, self.connections),
            (Counter::Messages, self.messages),
            (Counter::Bytes, self.bytes),
            (Counter::Errors, self.errors),
            (Counter::Requests, self.requests),
            (Counter::WorkNs, self.work_ns),
        ];
        for (counter, total) in carried {
            slot.counters.word(counter).store(total, Relaxed);
        }
        slot.publish();
        slot.crashes.store(self.crashes & 0xffff_ffff, Relaxed);
        slot.recoveries.store(self.recoveries & 0xffff_ffff, Relaxed);
    }
}

/// The entries of a slot's held list: indices of locks that the owner holds or was about to take.
pub fn held(slot: &Slot) -> impl Iterator<Item = u32> + '_ {
    let count = (slot.held_count.load(Acquire) as usize).min(MAX_HELD);
    slot.held[..count].iter().map(|entry| entry.load(Acquire))
}

/// An owner from its parts.
pub const fn owner(slot: SlotIndex, generation: Generation) -> Owner {
    Owner { slot, generation }
}
