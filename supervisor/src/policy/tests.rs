use proptest::prelude::*;

use super::pace::{FIRST_DELAY, LONGEST_DELAY};
use super::shrink::PATIENCE;
use super::*;

const fn ms(ms: u64) -> Clock {
    Duration::from_millis(ms)
}

const fn counts(starting: u32, ready: u32, outdated: u32) -> Counts {
    let demand = Demand { busy: 0, lowest_spare: 0, waiting: 0 };
    Counts { starting, ready, outdated, free_slots: 1000, demand }
}

/// Of a dynamic pool: so many starting, spare, busy, and connections waiting.
const fn asked(starting: u32, spare: u32, busy: u32, waiting: u32) -> Counts {
    let demand = Demand { busy, lowest_spare: spare, waiting };
    Counts { demand, ..counts(starting, spare + busy, 0) }
}

/// A policy whose template has shown that its workers live.
fn proven(shape: Shape) -> Policy {
    let mut policy = Policy::new(shape);
    policy.worker_ready();
    policy
}

fn fixed(workers: u32) -> Policy {
    proven(Shape::Fixed(workers))
}

const BOUNDS: Bounds = Bounds { min_workers: 5, max_workers: 1000, min_spare: 5, max_spare: 20 };

fn dynamic() -> Policy {
    proven(Shape::Dynamic(BOUNDS))
}

// ---- Fixed pools ----------------------------------------------------------------------------------------------------------

#[test]
fn what_a_fixed_pool_does() {
    // (target, counts) → (start, retire outdated, retire surplus)
    let table = [
        (10, counts(0, 0, 0), (10, 0, 0)),
        (10, counts(4, 6, 0), (0, 0, 0)),
        (10, counts(0, 9, 0), (1, 0, 0)),
        (10, counts(0, 12, 0), (0, 0, 2)),
        (0, counts(0, 3, 0), (0, 0, 3)),
        // A reload: new ones beside the old, the old leave as the new are ready.
        (10, counts(0, 0, 10), (10, 0, 0)),
        (10, counts(7, 3, 10), (0, 3, 0)),
        (10, counts(0, 10, 4), (0, 4, 0)),
        (1000, counts(0, 0, 1000), (32, 0, 0)),
        (1000, counts(32, 100, 900), (0, 0, 0)),
        (1000, counts(20, 112, 900), (12, 12, 0)),
    ];
    for (target, counts, (start, outdated, surplus)) in table {
        let plan = fixed(target).plan(ms(0), counts);
        let seen = (plan.start, plan.retire_outdated, plan.retire_surplus);
        assert_eq!(seen, (start, outdated, surplus), "{target} {counts:?}");
        assert_eq!(plan.watch_spare, None, "a fixed pool does not care who is busy");
    }
}

#[test]
fn without_a_free_slot_nothing_starts() {
    let counts = Counts { free_slots: 3, ..counts(0, 0, 0) };
    assert_eq!(fixed(10).plan(ms(0), counts).start, 3);
}

#[test]
fn ready_workers_are_replaced_at_once_up_to_a_rate() {
    let mut policy = fixed(1000);
    for _ in 0..250 {
        policy.worker_died(ms(1000));
    }
    let plan = policy.plan(ms(1000), counts(0, 750, 0));
    assert_eq!(plan.start, 100);
    assert_eq!(plan.ask_again, Some(ms(1010)));
    assert_eq!(policy.plan(ms(1500), counts(0, 850, 0)).start, 50);
    assert_eq!(policy.plan(ms(3000), counts(0, 900, 0)).start, 100);
}

#[test]
fn draining_starts_nothing_and_retires_everything() {
    for mut policy in [fixed(10), dynamic()] {
        policy.drain();
        let plan = policy.plan(ms(0), counts(2, 5, 3));
        assert_eq!((plan.start, plan.retire_outdated, plan.retire_surplus), (0, 3, 5));
    }
}

// ---- Dynamic pools --------------------------------------------------------------------------------------------------------

#[test]
fn what_a_dynamic_pool_does_at_once() {
    // counts → (start, spare watched)
    let table = [
        (asked(0, 0, 0, 0), (5, None)),
        (asked(0, 5, 0, 0), (0, Some(5))),
        (asked(0, 4, 1, 0), (1, None)),
        (asked(1, 4, 1, 0), (0, Some(5))),
        // A burst: as many as wait, and the spare ones.
        (asked(0, 0, 5, 995), (995, None)),
        (asked(3, 0, 100, 200), (202, None)),
        (asked(0, 0, 990, 100), (10, None)),
        // At the limit there is nothing to be told about.
        (asked(0, 0, 1000, 100), (0, None)),
        (asked(0, 20, 500, 0), (0, Some(5))),
    ];
    for (counts, (start, watched)) in table {
        let plan = dynamic().plan(ms(0), counts);
        assert_eq!((plan.start, plan.watch_spare), (start, watched), "{counts:?}");
        assert_eq!((plan.retire_outdated, plan.retire_surplus), (0, 0), "{counts:?}");
    }
    let scarce = Counts { free_slots: 0, ..asked(0, 0, 5, 10) };
    let plan = dynamic().plan(ms(0), scarce);
    assert_eq!(
        (plan.start, plan.watch_spare),
        (0, None),
        "a slot that gets free wakes the supervisor anyway"
    );
}

#[test]
fn too_many_spare_ones_go_after_some_patience_and_not_before() {
    let mut policy = dynamic();
    let idle = asked(0, 1000, 0, 0);
    let plan = policy.plan(ms(0), idle);
    assert_eq!((plan.retire_surplus, plan.ask_again), (0, Some(PATIENCE)));
    assert_eq!(policy.plan(PATIENCE - ms(1), idle).retire_surplus, 0);
    assert_eq!(policy.plan(PATIENCE, idle).retire_surplus, 980);
    assert_eq!(policy.plan(PATIENCE, asked(0, 20, 0, 0)).ask_again, None, "that is what was wanted");
}

#[test]
fn a_load_that_comes_and_goes_retires_nobody() {
    let mut policy = dynamic();
    for second in 0..100 {
        // All are busy for a moment in each second, which only the lowest count shows.
        let seen = Counts { demand: Demand { lowest_spare: 3, ..Demand::default() }, ..asked(0, 200, 0, 0) };
        assert_eq!(policy.plan(ms(1000 * second), seen).retire_surplus, 0);
        assert_eq!(policy.plan(ms(1000 * second + 100), asked(0, 200, 0, 0)).retire_surplus, 0);
    }
    // Half of them come and go: the other half leaves.
    policy.plan(ms(199_000), asked(0, 0, 200, 0));
    let mut retired = 0;
    for second in 0..=PATIENCE.as_secs() {
        let demand = Demand { lowest_spare: 100, ..Demand::default() };
        retired +=
            policy.plan(ms(200_000 + 1000 * second), Counts { demand, ..asked(0, 200, 0, 0) }).retire_surplus;
    }
    assert_eq!(retired, 80);
}

#[test]
fn the_fewest_workers_stay_however_idle() {
    let mut policy = proven(Shape::Dynamic(Bounds { min_workers: 100, ..BOUNDS }));
    policy.plan(ms(0), asked(0, 130, 0, 0));
    assert_eq!(policy.plan(PATIENCE, asked(0, 130, 0, 0)).retire_surplus, 30);
    assert_eq!(policy.plan(PATIENCE, asked(0, 100, 0, 0)).ask_again, None);
}

#[test]
fn a_reload_replaces_as_many_as_are_needed() {
    let mut policy = dynamic();
    policy.template_changed();
    let with = |starting, ready, outdated, busy| Counts {
        demand: Demand { busy, lowest_spare: 0, waiting: 0 },
        ..counts(starting, ready, outdated)
    };
    let plan = policy.plan(ms(0), with(0, 0, 40, 10));
    assert_eq!((plan.start, plan.retire_outdated), (1, 25), "one is tried; the idle ones beyond need go");
    policy.worker_ready();
    let plan = policy.plan(ms(1), with(0, 1, 15, 10));
    assert_eq!((plan.start, plan.retire_outdated), (14, 1));
    let plan = policy.plan(ms(2), with(0, 15, 10, 10));
    assert_eq!((plan.start, plan.retire_outdated), (0, 10));
}

#[test]
fn scaling_a_dynamic_pool_is_about_the_most() {
    let mut policy = dynamic();
    policy.scale(3);
    assert_eq!(policy.plan(ms(0), asked(0, 2, 4, 0)).retire_surplus, 3);
    policy.scale(1000);
    assert_eq!(policy.shape(), Shape::Dynamic(BOUNDS), "the other bounds are what they were");
}

// ---- Failures -------------------------------------------------------------------------------------------------------------

#[test]
fn failures_back_off_by_doubling_and_one_success_ends_it() {
    let mut policy = Policy::new(Shape::Fixed(10));
    let (mut now, mut tries) = (ms(0), Vec::new());
    while now < Duration::from_secs(60) {
        let plan = policy.plan(now, counts(0, 0, 0));
        if plan.start > 0 {
            assert_eq!(plan.start, 1, "nobody knows yet whether one lives");
            tries.push(now);
            policy.worker_failed(now, Cause::DiedYoung);
        }
        now = plan.ask_again.unwrap_or(now + ms(1));
    }
    assert!(policy.is_backing_off());
    assert!(tries[1] - tries[0] == FIRST_DELAY && tries.len() < 22, "{tries:?}");
    let last = tries.len() - 1;
    assert_eq!(tries[last] - tries[last - 1], LONGEST_DELAY);
    policy.worker_ready();
    assert_eq!(policy.plan(now, counts(0, 1, 0)).start, 9);
}

#[test]
fn failures_of_one_attempt_count_once() {
    let mut policy = fixed(100);
    (0..30).for_each(|_| policy.worker_failed(ms(0), Cause::DiedYoung));
    assert_eq!(policy.plan(ms(0), counts(0, 0, 0)).ask_again, Some(FIRST_DELAY));
}

#[test]
fn one_is_tried_after_a_failure_before_the_rest_follow() {
    let mut policy = fixed(10);
    policy.worker_failed(ms(0), Cause::Refused);
    assert_eq!(policy.plan(ms(10), counts(0, 5, 0)).start, 0);
    assert_eq!(policy.plan(ms(60), counts(0, 5, 0)).start, 1);
    assert_eq!(policy.plan(ms(60), counts(1, 5, 0)).start, 0);
}

#[test]
fn what_failed_is_forgotten_with_the_demand_for_it() {
    let mut policy = dynamic();
    policy.worker_failed(ms(0), Cause::Refused);
    let plan = policy.plan(ms(1), asked(0, 0, 10, 0));
    assert_eq!((plan.start, plan.ask_again, plan.watch_spare), (0, Some(FIRST_DELAY), None));
    policy.plan(ms(10), asked(0, 10, 0, 0));
    assert!(policy.is_backing_off(), "not before the next try would be due");
    policy.plan(ms(60), asked(1, 10, 0, 0));
    assert!(policy.is_backing_off(), "nor while one is on the way");
    policy.plan(ms(60), asked(0, 10, 0, 0));
    assert!(!policy.is_backing_off());
}

// ---- Whatever happens -----------------------------------------------------------------------------------------------------

/// A pool that does what it is told at once, under a load.
struct Scene {
    policy: Policy,
    bounds: Bounds,
    now: Clock,
    spare: u32,
    busy: u32,
    waiting: u32,
    started: u32,
    retired: u32,
}

impl Scene {
    fn new(bounds: Bounds) -> Self {
        let policy = proven(Shape::Dynamic(bounds));
        Self { policy, bounds, now: ms(0), spare: 0, busy: 0, waiting: 0, started: 0, retired: 0 }
    }

    /// So many connections are there; then the policy is asked until it wants nothing more at this moment.
    fn load(&mut self, connections: u32) {
        let lowest = self.assign(connections);
        let mut lowest_spare = lowest.min(self.spare);
        loop {
            let demand = Demand { busy: self.busy, lowest_spare, waiting: self.waiting };
            let counts = Counts { demand, ..counts(0, self.spare + self.busy, 0) };
            let plan = self.policy.plan(self.now, counts);
            self.check(counts, plan);
            self.started += plan.start;
            self.retired += plan.retire_surplus;
            self.spare = self.spare + plan.start - plan.retire_surplus;
            if plan.start == 0 {
                break;
            }
            self.assign(connections);
            lowest_spare = self.spare;
        }
    }

    /// Connections go to whoever is there.
    fn assign(&mut self, connections: u32) -> u32 {
        let all = self.spare + self.busy;
        self.busy = connections.min(all);
        self.spare = all - self.busy;
        self.waiting = connections - self.busy;
        self.spare
    }

    fn check(&self, counts: Counts, plan: Plan) {
        let Bounds { min_workers, max_workers, min_spare, max_spare } = self.bounds;
        let after = counts.ready + plan.start - plan.retire_surplus;
        assert!(plan.start == 0 || plan.retire_surplus == 0, "{plan:?}");
        assert!(after <= max_workers.max(counts.ready), "{counts:?} {plan:?}");
        assert!(after >= min_workers.min(max_workers), "{counts:?} {plan:?}");
        let needed = (counts.demand.busy + min_spare).min(max_workers);
        assert!(after >= needed, "busy and spare ones stay: {counts:?} {plan:?}");
        assert!(plan.retire_surplus == 0 || after - counts.demand.busy >= max_spare, "{counts:?} {plan:?}");
        let waits = counts.demand.waiting.min(max_workers - counts.ready.min(max_workers));
        assert!(plan.start >= waits, "as many as wait are started at once: {counts:?} {plan:?}");
    }
}

fn bounds() -> impl Strategy<Value = Bounds> {
    (1_u32..50, 0_u32..500, 1_u32..50, 0_u32..50).prop_map(|(min_workers, more, min_spare, hysteresis)| {
        Bounds {
            min_workers,
            max_workers: (min_workers + more).max(min_spare),
            min_spare,
            max_spare: min_spare + hysteresis,
        }
    })
}

proptest! {
    #[test]
    fn never_below_the_target_by_retiring_and_never_above_by_starting(
        target in 0_u32..2000, starting in 0_u32..100, ready in 0_u32..2000, outdated in 0_u32..2000, free in 0_u32..500,
    ) {
        let counts = Counts { free_slots: free, ..counts(starting, ready, outdated) };
        let plan = fixed(target).plan(ms(0), counts);
        let serving = ready + outdated;
        prop_assert!(plan.start <= free);
        prop_assert!(plan.start == 0 || ready + starting + plan.start <= target);
        prop_assert!(plan.retire_outdated <= outdated && plan.retire_surplus <= ready);
        let left = serving - plan.retire_outdated - plan.retire_surplus;
        prop_assert!(left >= target.min(serving));
    }

    #[test]
    fn a_dynamic_pool_keeps_its_bounds_under_any_load(
        bounds in bounds(), loads in proptest::collection::vec((0_u32..700, 1_u64..1500), 1..60),
    ) {
        let mut scene = Scene::new(bounds);
        for (connections, wait) in loads {
            scene.load(connections);
            let enough = (connections + bounds.min_spare).min(bounds.max_workers);
            prop_assert!(scene.spare + scene.busy >= enough, "at once, not on a tick");
            scene.now += ms(wait);
        }
    }

    #[test]
    fn after_the_load_it_gets_down_to_the_spare_limit_and_stays(bounds in bounds(), connections in 0_u32..700, left in 0_u32..20) {
        let mut scene = Scene::new(bounds);
        scene.load(connections);
        // The supervisor looks once a second, and when the policy wants it to.
        let ended = scene.now;
        while scene.now <= ended + Duration::from_secs(5) {
            scene.load(left);
            scene.now += ms(500);
        }
        let all = scene.spare + scene.busy;
        let limit = (left.min(all) + bounds.max_spare).max(bounds.min_workers).min(bounds.max_workers);
        prop_assert!(all <= limit, "{all} {limit}");
        let (started, retired) = (scene.started, scene.retired);
        for _ in 0..100 {
            scene.load(left);
            scene.now += ms(500);
        }
        prop_assert_eq!((scene.started, scene.retired), (started, retired), "nothing more is done");
    }

    #[test]
    fn a_load_that_oscillates_forks_only_at_first(bounds in bounds(), high in 0_u32..700, period in 10_u64..1900) {
        let mut scene = Scene::new(bounds);
        scene.load(high);
        let started = scene.started;
        for _ in 0..50 {
            scene.load(0);
            scene.now += ms(period / 2);
            scene.load(high);
            scene.now += ms(period - period / 2);
        }
        prop_assert_eq!(scene.started, started);
    }

    #[test]
    fn nothing_starts_while_it_is_blocked(
        bounds in bounds(), failures in proptest::collection::vec((any::<bool>(), 0_u64..8000), 1..40), connections in 0_u32..700,
    ) {
        let mut policy = proven(Shape::Dynamic(bounds));
        let mut now = ms(0);
        let all = bounds.min_workers;
        for (refused, wait) in failures {
            policy.worker_failed(now, if refused { Cause::Refused } else { Cause::DiedYoung });
            let blocked = policy.blocked_until(now).expect("a failure blocks");
            now += ms(wait);
            let busy = connections.min(all);
            let plan = policy.plan(now, asked(0, all - busy, busy, connections - busy));
            prop_assert!(plan.start == 0 || now >= blocked && plan.start == 1);
        }
    }

    #[test]
    fn no_counts_are_too_odd(
        bounds in bounds(), starting: u16, ready: u16, outdated: u16, free: u16, busy: u32, lowest_spare: u32, waiting: u32,
    ) {
        let demand = Demand { busy, lowest_spare, waiting };
        let (starting, ready, outdated, free_slots) = (starting.into(), ready.into(), outdated.into(), free.into());
        let mut policy = proven(Shape::Dynamic(bounds));
        for now in [ms(0), PATIENCE, PATIENCE * 2] {
            let plan = policy.plan(now, Counts { starting, ready, outdated, free_slots, demand });
            prop_assert!(plan.start <= free_slots && plan.retire_outdated <= outdated && plan.retire_surplus <= ready);
        }
    }
}
