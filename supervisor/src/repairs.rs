//! Which slots wait for repair, what recovery has been told, and when to stop believing that it will succeed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use common::ids::Owner;
use common::limits::MAX_REPAIRS_PER_FRAME;
use common::sys::process::Ending;
use common::wire::control::{Attached, Awaited, Microseconds, Order};
use hdrhistogram::Histogram;
use nix::libc;
use serde::{Deserialize, Serialize};

use crate::policy::Clock;

/// The region is damaged once repairing the same slot has failed so often by repair's own fault.
const FAILURES_ALLOWED: u32 = 3;

/// Programs leave with documented codes up to this one; what is beyond is no orderly end.
const LAST_DOCUMENTED_CODE: i32 = 4;

/// A repair takes microseconds. One that takes this long hangs.
pub const REPAIR_DEADLINE: Duration = Duration::from_secs(5);

/// What is to be repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Task {
    /// Every slot, before anything else.
    TakeOver,
    /// Every slot once more, after everybody has gone.
    Sweep,
    /// One slot.
    Slot(Owner),
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Case {
    crashed: bool,
    known: Clock,
    failures: u32,
}

/// The open repairs.
#[derive(Debug)]
pub struct Repairs {
    cases: BTreeMap<Task, Case>,
    /// What the present recovery has been told and has not said to be delayed, in order: it works on the first, unless
    /// it has said that it tries another again.
    told: VecDeque<Task>,
    /// What it has said to be delayed, in the order in which it will try again.
    delayed: Vec<(Task, Awaited)>,
    /// Which of these it has said to be trying again.
    again: Option<Task>,
    untold: VecDeque<Task>,
    durations: Histogram<u64>,
    last_us: u64,
}

/// The open repairs as they are handed to a successor in this process.
#[derive(Debug, Serialize, Deserialize)]
pub struct PackedRepairs {
    cases: Vec<(Task, Case)>,
    told: VecDeque<Task>,
    delayed: Vec<(Task, Awaited)>,
    again: Option<Task>,
    untold: VecDeque<Task>,
    /// How many took about so long.
    durations: Vec<(u64, u64)>,
    last_us: u64,
}

impl PackedRepairs {
    /// The open repairs.
    pub fn unpack(self) -> Repairs {
        let Self { cases, told, delayed, again, untold, durations: counts, last_us } = self;
        let Repairs { mut durations, .. } = Repairs::starting_with_takeover(Duration::ZERO);
        counts.into_iter().for_each(|(us, count)| durations.saturating_record_n(us, count));
        let cases = cases.into_iter().collect();
        Repairs { cases, told, delayed, again, untold, durations, last_us }
    }
}

impl Repairs {
    /// For a successor.
    pub fn pack(&self) -> PackedRepairs {
        // Without a rest: what is added to it shall not be forgotten here.
        let Self { cases, told, delayed, again, untold, durations, last_us } = self;
        let durations = durations.iter_recorded();
        PackedRepairs {
            cases: cases.iter().map(|(task, case)| (*task, *case)).collect(),
            told: told.clone(),
            delayed: delayed.clone(),
            again: *again,
            untold: untold.clone(),
            durations: durations.map(|step| (step.value_iterated_to(), step.count_at_value())).collect(),
            last_us: *last_us,
        }
    }

    /// The first task of every life: look at all slots.
    pub fn starting_with_takeover(now: Clock) -> Self {
        let case = Case { crashed: false, known: now, failures: 0 };
        Self {
            cases: BTreeMap::from([(Task::TakeOver, case)]),
            told: VecDeque::new(),
            delayed: Vec::new(),
            again: None,
            untold: VecDeque::from([Task::TakeOver]),
            durations: Histogram::new_with_bounds(1, 60_000_000, 3).expect("constant bounds are valid"),
            last_us: 0,
        }
    }

    /// A slot's owner is dead.
    pub fn add(&mut self, owner: Owner, crashed: bool, known: Clock) {
        let task = Task::Slot(owner);
        if self.cases.insert(task, Case { crashed, known, failures: 0 }).is_none() {
            self.untold.push_back(task);
        }
    }

    /// Whether not every slot has been looked at yet.
    pub fn is_taking_over(&self) -> bool {
        self.cases.contains_key(&Task::TakeOver)
    }

    /// How much waits for repair.
    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// Whether nothing waits for repair.
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty()
    }

    /// Whether there is something that recovery has not been told.
    pub fn has_untold(&self) -> bool {
        !self.untold.is_empty()
    }

    /// Whether recovery has been told something that it has not done yet.
    pub fn has_told(&self) -> bool {
        self.is_at_work() || !self.delayed.is_empty()
    }

    /// Whether some of that is not delayed.
    pub fn is_at_work(&self) -> bool {
        !self.told.is_empty()
    }

    /// Whether nothing is left but items that go back to queues whose locks attached programs have.
    pub fn only_await_queues(&self) -> bool {
        !self.is_empty() && self.await_queues().count() == self.len()
    }

    /// The former owners of these items.
    pub fn await_queues(&self) -> impl Iterator<Item = Owner> + '_ {
        self.delayed.iter().filter_map(|delayed| match delayed {
            (Task::Slot(owner), Awaited::Queue) => Some(*owner),
            _ => None,
        })
    }

    /// The next order for recovery. It counts as told once [`Repairs::told`] says so. An order about every slot names
    /// those of attached programs.
    pub fn next_order(&self, attached: impl FnOnce() -> Vec<Attached>) -> Option<Order> {
        match self.untold.front()? {
            Task::TakeOver => Some(Order::TakeOver(attached())),
            Task::Sweep => Some(Order::Sweep(attached())),
            Task::Slot(_) => Some(Order::Repair(self.next_slots().collect())),
        }
    }

    fn next_slots(&self) -> impl Iterator<Item = (Owner, bool)> + '_ {
        self.untold.iter().take(MAX_REPAIRS_PER_FRAME).map_while(|task| match task {
            Task::TakeOver | Task::Sweep => None,
            Task::Slot(owner) => Some((*owner, self.cases.get(task).is_some_and(|case| case.crashed))),
        })
    }

    /// The order that [`Repairs::next_order`] gave has been sent.
    pub fn told(&mut self) {
        let count = match self.untold.front() {
            Some(Task::TakeOver | Task::Sweep) => 1,
            _ => self.next_slots().count(),
        };
        self.told.extend(self.untold.drain(..count));
    }

    /// Has every slot looked at once more.
    pub fn add_sweep(&mut self, now: Clock) {
        self.cases.insert(Task::Sweep, Case { crashed: false, known: now, failures: 0 });
        self.untold.push_back(Task::Sweep);
    }

    /// Recovery has looked at every slot.
    pub fn taken_over(&mut self) {
        self.finish(self.whole());
    }

    /// What a report about all slots is about.
    fn whole(&self) -> Task {
        if self.is_taking_over() { Task::TakeOver } else { Task::Sweep }
    }

    /// Whether recovery is looking at every slot.
    pub fn is_at_the_whole(&self) -> bool {
        self.cases.contains_key(&self.whole())
    }

    /// A slot is repaired; notes how long it took since the death was known. False where it was not open.
    pub fn repaired(&mut self, owner: Owner, now: Clock) -> bool {
        let Some(case) = self.finish(Task::Slot(owner)) else { return false };
        let took = u64::try_from(now.saturating_sub(case.known).as_micros()).unwrap_or(u64::MAX);
        self.last_us = took;
        self.durations.saturating_record(took);
        true
    }

    fn finish(&mut self, task: Task) -> Option<Case> {
        self.is_not_told(task);
        self.cases.remove(&task)
    }

    fn is_not_told(&mut self, task: Task) {
        self.told.retain(|told| *told != task);
        self.delayed.retain(|(delayed, _)| *delayed != task);
        self.again.take_if(|again| *again == task);
    }

    fn task(&self, about: Option<Owner>) -> Task {
        about.map_or_else(|| self.whole(), Task::Slot)
    }

    /// Recovery cannot do now what it was told, and will try again.
    pub fn is_delayed(&mut self, about: Option<Owner>, awaits: Awaited) {
        let task = self.task(about);
        if self.told.contains(&task) || self.delayed.iter().any(|(delayed, _)| *delayed == task) {
            self.is_not_told(task);
            self.delayed.push((task, awaits));
        }
    }

    /// Recovery tries this again.
    pub fn tries_again(&mut self, about: Option<Owner>) {
        let task = self.task(about);
        self.again = self.delayed.iter().any(|(delayed, _)| *delayed == task).then_some(task);
    }

    /// Recovery refuses a slot's log. True once that was the last attempt.
    pub fn refused(&mut self, owner: Owner) -> bool {
        self.failed(Task::Slot(owner))
    }

    /// Recovery refuses the region as a whole.
    pub fn refused_whole(&mut self) -> bool {
        self.failed(self.whole())
    }

    fn failed(&mut self, task: Task) -> bool {
        let Some(case) = self.cases.get_mut(&task) else { return false };
        case.failures += 1;
        let damaged = case.failures >= FAILURES_ALLOWED;
        self.is_not_told(task);
        if !self.untold.contains(&task) {
            self.untold.push_back(task);
        }
        damaged
    }

    /// Recovery is dead. What it was told is told again to the next one. Gives what it was at if that has now failed
    /// too often by repair's own fault: a SIGKILL that did not come from the deadline is nobody's fault.
    pub fn recovery_died(&mut self, ending: Ending, by_deadline: bool) -> Option<String> {
        let at = self.again.take().or(self.told.front().copied());
        let own_fault = by_deadline
            || match ending {
                Ending::Killed(signal) => matches!(
                    signal,
                    libc::SIGSEGV | libc::SIGBUS | libc::SIGABRT | libc::SIGILL | libc::SIGFPE
                ),
                // A panic's code where panics unwind. An error that recovery has a sentence for is not a failed repair.
                Ending::Exited(code) => code > LAST_DOCUMENTED_CODE,
            };
        let delayed = self.delayed.drain(..).map(|(task, _)| task);
        let told: Vec<_> = delayed.chain(self.told.drain(..)).collect();
        told.into_iter().rev().for_each(|task| self.untold.push_front(task));
        let task = at.filter(|_| own_fault)?;
        self.untold.retain(|untold| *untold != task);
        self.failed(task).then(|| match task {
            Task::TakeOver | Task::Sweep => "the region as a whole".to_owned(),
            Task::Slot(owner) => owner.to_string(),
        })
    }

    /// How long the last repair took, in microseconds.
    pub fn last_us(&self) -> u64 {
        self.last_us
    }

    /// How long repairs took.
    pub fn durations(&self) -> Microseconds {
        Microseconds {
            last: self.last_us,
            p50: self.durations.value_at_quantile(0.5),
            p99: self.durations.value_at_quantile(0.99),
            max: self.durations.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use common::ids::{Generation, SlotIndex};

    use super::*;

    const NOW: Clock = Duration::ZERO;
    const SEGV: Ending = Ending::Killed(libc::SIGSEGV);
    const KILL: Ending = Ending::Killed(libc::SIGKILL);

    fn owner(slot: u32) -> Owner {
        Owner { slot: SlotIndex(slot), generation: Generation(1) }
    }

    fn after_takeover() -> Repairs {
        let mut repairs = Repairs::starting_with_takeover(NOW);
        assert_eq!(repairs.next_order(Vec::new), Some(Order::TakeOver(Vec::new())));
        repairs.told();
        repairs.taken_over();
        repairs
    }

    #[test]
    fn many_deaths_are_one_order() {
        let mut repairs = after_takeover();
        for slot in 0..200 {
            repairs.add(owner(slot), true, NOW);
        }
        let Some(Order::Repair(orders)) = repairs.next_order(Vec::new) else { panic!() };
        assert_eq!(orders.len(), 200);
        repairs.told();
        assert!(!repairs.has_untold());
        for slot in 0..200 {
            assert!(repairs.repaired(owner(slot), Duration::from_micros(60)));
        }
        assert!(repairs.is_empty());
        assert_eq!(repairs.durations().p50, 60);
    }

    #[test]
    fn what_a_dead_recovery_was_told_is_told_again() {
        let mut repairs = after_takeover();
        repairs.add(owner(1), true, NOW);
        repairs.add(owner(2), false, NOW);
        repairs.told();
        repairs.repaired(owner(1), NOW);
        for _ in 0..10 {
            assert_eq!(repairs.recovery_died(KILL, false), None, "a SIGKILL is nobody's fault");
            assert_eq!(repairs.next_order(Vec::new), Some(Order::Repair(vec![(owner(2), false)])));
            repairs.told();
        }
    }

    #[test]
    fn three_failures_at_the_same_slot_are_damage() {
        let mut repairs = after_takeover();
        repairs.add(owner(1), true, NOW);
        repairs.add(owner(2), true, NOW);
        // The one that fails goes last, so that it does not keep the others from being repaired.
        repairs.told();
        assert_eq!(repairs.recovery_died(SEGV, false), None);
        assert_eq!(
            repairs.next_order(Vec::new),
            Some(Order::Repair(vec![(owner(2), true), (owner(1), true)]))
        );
        repairs.told();
        repairs.repaired(owner(2), NOW);
        assert_eq!(repairs.recovery_died(KILL, true), None, "by the deadline");
        repairs.told();
        assert_eq!(repairs.recovery_died(SEGV, false), Some(owner(1).to_string()));
    }

    #[test]
    fn who_is_worked_on_is_to_blame_and_nobody_who_waits() {
        let mut repairs = after_takeover();
        repairs.add(owner(1), true, NOW);
        repairs.told();
        repairs.is_delayed(Some(owner(1)), Awaited::Queue);
        assert!(repairs.has_told() && !repairs.is_at_work() && !repairs.has_untold());
        repairs.add(owner(2), true, NOW);
        assert!(!repairs.only_await_queues());
        for failed in [None, None, Some(owner(2).to_string())] {
            repairs.told();
            repairs.is_delayed(Some(owner(1)), Awaited::Queue);
            assert!(repairs.is_at_work());
            assert_eq!(repairs.recovery_died(SEGV, false), failed);
            assert!(!repairs.has_told());
        }
        // The one that waited, while it was tried again, though the other one was told already.
        let mut repairs = after_takeover();
        repairs.add(owner(1), true, NOW);
        repairs.add(owner(2), true, NOW);
        for failed in [None, None, Some(owner(1).to_string())] {
            repairs.told();
            repairs.is_delayed(Some(owner(1)), Awaited::FileSystem);
            repairs.tries_again(Some(owner(1)));
            assert_eq!(repairs.recovery_died(SEGV, false), failed);
        }
    }

    #[test]
    fn what_is_delayed_is_done_at_last() {
        let mut repairs = after_takeover();
        repairs.add(owner(1), true, NOW);
        repairs.add(owner(2), true, NOW);
        repairs.told();
        for owner in [owner(1), owner(2)] {
            repairs.is_delayed(Some(owner), Awaited::Queue);
        }
        assert!(repairs.only_await_queues());
        assert_eq!(repairs.await_queues().collect::<Vec<_>>(), [owner(1), owner(2)]);
        repairs.tries_again(Some(owner(1)));
        repairs.is_delayed(Some(owner(1)), Awaited::FileSystem);
        assert!(!repairs.only_await_queues());
        assert_eq!(repairs.await_queues().collect::<Vec<_>>(), [owner(2)]);
        // What nobody was told of is not believed.
        repairs.is_delayed(Some(owner(7)), Awaited::Queue);
        repairs.is_delayed(None, Awaited::Queue);
        repairs.tries_again(Some(owner(7)));
        assert_eq!(repairs.recovery_died(SEGV, false), None, "nobody is known to be at fault");
        assert_eq!(
            repairs.next_order(Vec::new),
            Some(Order::Repair(vec![(owner(2), true), (owner(1), true)]))
        );
        repairs.told();
        for number in [1, 2] {
            assert!(repairs.repaired(owner(number), NOW));
        }
        assert!(repairs.is_empty() && !repairs.has_told());
    }

    #[test]
    fn a_refused_log_is_tried_three_times() {
        let mut repairs = after_takeover();
        repairs.add(owner(1), true, NOW);
        for last in [false, false, true] {
            repairs.told();
            assert_eq!(repairs.refused(owner(1)), last);
        }
    }

    #[test]
    fn a_successor_goes_on_with_the_same_repairs() {
        let mut repairs = after_takeover();
        (1..=9).for_each(|slot| repairs.add(owner(slot), slot < 5, NOW));
        repairs.told();
        assert!(!repairs.refused(owner(9)));
        for slot in 1..=4 {
            assert!(repairs.repaired(owner(slot), Duration::from_micros(50 * u64::from(slot))));
        }
        repairs.is_delayed(Some(owner(5)), Awaited::Queue);
        repairs.tries_again(Some(owner(5)));
        let text = serde_json::to_string(&repairs.pack()).unwrap();
        let mut next = serde_json::from_str::<PackedRepairs>(&text).unwrap().unpack();
        assert_eq!((next.durations(), next.len()), (repairs.durations(), 5));
        assert!(next.has_told() && !next.is_taking_over());
        // What had been told is told again only if recovery dies, and failures are remembered.
        assert_eq!(next.next_order(Vec::new), Some(Order::Repair(vec![(owner(9), false)])));
        next.told();
        assert!(!next.refused(owner(9)));
        assert_eq!(next.recovery_died(KILL, false), None);
        let Some(Order::Repair(again)) = next.next_order(Vec::new) else { panic!() };
        let slots: Vec<u32> = again.iter().map(|(owner, _)| owner.slot.0).collect();
        assert_eq!(slots, [5, 6, 7, 8, 9], "the one that was delayed too");
        next.told();
        assert!(next.refused(owner(9)));
    }

    #[test]
    fn a_takeover_that_fails_is_damage_too() {
        let mut repairs = Repairs::starting_with_takeover(NOW);
        for failed in [None, None, Some("the region as a whole".to_owned())] {
            repairs.told();
            assert_eq!(repairs.recovery_died(SEGV, false), failed);
        }
    }
}
