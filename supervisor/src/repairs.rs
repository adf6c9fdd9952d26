//! Which slots wait for repair, what recovery has been told, and when to stop believing that it will succeed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use common::ids::Owner;
use common::limits::MAX_REPAIRS_PER_FRAME;
use common::sys::process::Ending;
use common::wire::control::{Attached, Microseconds, Order};
use hdrhistogram::Histogram;
use nix::libc;

use crate::policy::Clock;

/// The region is damaged once repairing the same slot has failed so often by repair's own fault.
const FAILURES_ALLOWED: u32 = 3;

/// Programs leave with documented codes up to this one; what is beyond is no orderly end.
const LAST_DOCUMENTED_CODE: i32 = 4;

/// A repair takes microseconds. One that takes this long hangs.
pub const REPAIR_DEADLINE: Duration = Duration::from_secs(5);

/// What is to be repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    /// Every slot, before anything else.
    TakeOver,
    /// Every slot once more, after everybody has gone.
    Sweep,
    /// One slot.
    Slot(Owner),
}

#[derive(Debug)]
struct Case {
    crashed: bool,
    known: Clock,
    failures: u32,
}

/// The open repairs.
#[derive(Debug)]
pub struct Repairs {
    cases: BTreeMap<Task, Case>,
    /// What the present recovery has been told, in order: it works on the first.
    told: VecDeque<Task>,
    untold: VecDeque<Task>,
    durations: Histogram<u64>,
    last_us: u64,
}

impl Repairs {
    /// The first task of every life: look at all slots.
    pub fn starting_with_takeover(now: Clock) -> Self {
        let case = Case { crashed: false, known: now, failures: 0 };
        Self {
            cases: BTreeMap::from([(Task::TakeOver, case)]),
            told: VecDeque::new(),
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

    /// Whether recovery is at something.
    pub fn has_told(&self) -> bool {
        !self.told.is_empty()
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
        self.told.retain(|told| *told != task);
        self.cases.remove(&task)
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
        self.told.retain(|told| *told != task);
        if !self.untold.contains(&task) {
            self.untold.push_back(task);
        }
        damaged
    }

    /// Recovery is dead. What it was told is told again to the next one. Gives what it was at if that has now failed
    /// too often by repair's own fault: a SIGKILL that did not come from the deadline is nobody's fault.
    pub fn recovery_died(&mut self, ending: Ending, by_deadline: bool) -> Option<String> {
        let at = self.told.front().copied();
        let own_fault = by_deadline
            || match ending {
                Ending::Killed(signal) => matches!(
                    signal,
                    libc::SIGSEGV | libc::SIGBUS | libc::SIGABRT | libc::SIGILL | libc::SIGFPE
                ),
                // A panic's code where panics unwind. An error that recovery has a sentence for is not a failed repair.
                Ending::Exited(code) => code > LAST_DOCUMENTED_CODE,
            };
        while let Some(task) = self.told.pop_back() {
            self.untold.push_front(task);
        }
        let task = at.filter(|_| own_fault)?;
        self.untold.retain(|untold| *untold != task);
        self.failed(task).then(|| match task {
            Task::TakeOver | Task::Sweep => "the region as a whole".to_owned(),
            Task::Slot(owner) => owner.to_string(),
        })
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
    fn a_refused_log_is_tried_three_times() {
        let mut repairs = after_takeover();
        repairs.add(owner(1), true, NOW);
        for last in [false, false, true] {
            repairs.told();
            assert_eq!(repairs.refused(owner(1)), last);
        }
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
