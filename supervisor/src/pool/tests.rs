use super::*;

const SECOND: Clock = Clock::from_secs(1);
const LATE: Clock = Clock::from_secs(1000);
const LEAVE: Leave = Leave { press_at: Clock::MAX, kill_at: SECOND };
const SEGV: Ending = Ending::Killed(11);
const LEFT: Ending = Ending::Exited(0);

struct Scene {
    region: Region,
    pool: Pool,
}

impl Scene {
    fn new() -> Self {
        let region = Region::create(&tempfile::tempfile().unwrap(), 1 << 20).unwrap();
        Self { pool: Pool::of(&region), region }
    }

    fn starting(&mut self, pid: i32) -> Owner {
        let owner = self.pool.reserve(&self.region, 1).unwrap();
        assert_eq!(self.pool.spawned(owner, Pid(pid), LATE), None);
        owner
    }

    fn ready(&mut self, pid: i32) -> Owner {
        let owner = self.starting(pid);
        assert!(self.region.slot(owner.slot).unwrap().go_live(owner.generation));
        assert_eq!(self.pool.note_ready(&self.region), 1);
        owner
    }

    fn retire(&mut self, outdated: u32, surplus: u32) -> Vec<Pid> {
        self.pool.retire(&self.region, outdated, surplus, LEAVE)
    }

    fn leaves(&self, owner: Owner) {
        let live = slots::owner_word(owner.generation, State::Live);
        slots::detach(self.region.slot(owner.slot).unwrap(), live);
    }

    fn died(&mut self, pid: i32, ending: Ending) -> Death {
        self.pool.died(&self.region, Pid(pid), ending)
    }
}

#[test]
fn a_worker_is_promised_started_ready_and_gone() {
    let mut scene = Scene::new();
    let owner = scene.starting(100);
    assert_eq!((scene.pool.counts().starting, scene.pool.counts().ready), (1, 0));
    assert_eq!(scene.pool.note_ready(&scene.region), 0, "not before the slot says so");
    assert!(scene.region.slot(owner.slot).unwrap().go_live(owner.generation));
    assert_eq!(scene.pool.note_ready(&scene.region), 1);
    assert_eq!((scene.pool.counts().starting, scene.pool.counts().ready), (0, 1));
    scene.leaves(owner);
    assert_eq!(scene.died(100, LEFT), Death::LeftUnasked);
    assert!(scene.pool.is_empty());
    let owner = scene.ready(101);
    scene.retire(0, 1);
    scene.leaves(owner);
    assert_eq!(scene.died(101, LEFT), Death::Left);
}

#[test]
fn a_slot_stays_dead_until_it_is_repaired() {
    let mut scene = Scene::new();
    let owner = scene.ready(100);
    assert_eq!(scene.died(100, SEGV), Death::Crashed(owner));
    assert!(scene.region.slot(owner.slot).unwrap().is(owner.generation, State::Dead));
    assert!(!scene.pool.is_empty() && scene.pool.has_no_process());
    scene.pool.repaired(slots::owner(owner.slot, Generation(owner.generation.0 + 1)));
    assert!(!scene.pool.is_empty(), "another generation's repair is not this one's");
    scene.pool.repaired(owner);
    assert!(scene.pool.is_empty());
    let next = scene.pool.reserve(&scene.region, 1).unwrap();
    assert!(next.slot != owner.slot || next.generation > owner.generation);
}

#[test]
fn an_exit_without_a_clean_detach_is_a_crash_whatever_the_code() {
    let mut scene = Scene::new();
    let owner = scene.ready(100);
    assert_eq!(scene.died(100, LEFT), Death::Crashed(owner));
    let owner = scene.ready(101);
    scene.region.slot(owner.slot).unwrap().intent.minute.store(5, SeqCst);
    scene.leaves(owner);
    assert_eq!(scene.died(101, LEFT), Death::Crashed(owner), "it left something half-done");
}

#[test]
fn a_death_before_the_slot_was_taken_needs_no_repair() {
    let mut scene = Scene::new();
    scene.starting(100);
    assert_eq!(scene.died(100, SEGV), Death::Young(None));
    assert!(scene.pool.is_empty());
    // Unless the slot holds what it cannot have from this worker: given out again, it would fail again.
    let owner = scene.starting(101);
    scene.region.slot(owner.slot).unwrap().undo.store(77, SeqCst);
    assert_eq!(scene.died(101, LEFT), Death::Young(Some(owner)));
    assert!(scene.pool.awaits_repair(owner));
}

#[test]
fn a_death_may_come_before_the_reply_that_names_it() {
    let mut scene = Scene::new();
    let owner = scene.pool.reserve(&scene.region, 1).unwrap();
    assert_eq!(scene.died(100, SEGV), Death::Unknown);
    assert_eq!(scene.pool.spawned(owner, Pid(100), LATE), Some(SEGV));
    assert_eq!(scene.died(100, SEGV), Death::Young(None));
    // Deaths while nobody is promised a slot are nobody's, and their pids may come back.
    assert_eq!(scene.died(101, SEGV), Death::Unknown);
    let owner = scene.pool.reserve(&scene.region, 1).unwrap();
    assert_eq!(scene.pool.spawned(owner, Pid(101), LATE), None);
}

#[test]
fn a_promise_is_taken_back_unless_somebody_took_it() {
    let mut scene = Scene::new();
    let owner = scene.pool.reserve(&scene.region, 1).unwrap();
    assert!(scene.pool.withdraw(&scene.region, owner));
    assert!(!scene.region.slot(owner.slot).unwrap().go_live(owner.generation), "the clone came too late");
    let owner = scene.pool.reserve(&scene.region, 1).unwrap();
    assert!(scene.region.slot(owner.slot).unwrap().go_live(owner.generation));
    assert!(!scene.pool.withdraw(&scene.region, owner));
    assert_eq!(scene.pool.reserved(), Some(owner));
    assert_eq!(scene.pool.abandon(&scene.region, owner), Some(owner), "nobody's, and not as it was promised");
    assert_eq!(scene.pool.reserved(), None);
    let owner = scene.pool.reserve(&scene.region, 1).unwrap();
    assert_eq!(scene.pool.abandon(&scene.region, owner), None);
    assert_eq!(scene.pool.abandon(&scene.region, owner), None, "once");
}

#[test]
fn what_the_supervisor_killed_is_no_crash() {
    let mut scene = Scene::new();
    let owner = scene.ready(100);
    assert_eq!(scene.retire(0, 1), [Pid(100)]);
    assert_eq!(scene.retire(0, 1), [], "asked once");
    assert_eq!(scene.pool.next_deadline(), Some(SECOND));
    assert_eq!(scene.pool.fell_overdue(SECOND / 2), []);
    assert_eq!(scene.pool.fell_overdue(SECOND), [(owner.slot, Pid(100))]);
    assert_eq!(scene.died(100, Ending::Killed(9)), Death::Felled(owner));
}

#[test]
fn workers_of_replaced_templates_are_outdated() {
    let mut scene = Scene::new();
    scene.ready(100);
    scene.pool.outdate_before(2);
    assert_eq!((scene.pool.counts().ready, scene.pool.counts().outdated), (0, 1));
    assert_eq!(scene.retire(0, 1), []);
    assert_eq!(scene.retire(1, 0), [Pid(100)]);
}

#[test]
fn a_scribbled_slot_changes_nothing_in_the_book() {
    let mut scene = Scene::new();
    let owner = scene.ready(100);
    let slot = scene.region.slot(owner.slot).unwrap();
    slot.owner.store(u64::MAX, SeqCst);
    slot.pid.store(1, SeqCst);
    assert_eq!(scene.died(100, SEGV), Death::Crashed(owner));
    let slot = scene.region.slot(owner.slot).unwrap();
    assert!(slot.is(owner.generation, State::Dead), "repair finds the generation that was asked for");
    scene.pool.repaired(owner);
    assert!(scene.pool.is_empty());
}

#[test]
fn the_idle_leave_first() {
    let mut scene = Scene::new();
    let owners: Vec<_> = (100..104).map(|pid| scene.ready(pid)).collect();
    let busy = |owner: &Owner| &scene.region.slot(owner.slot).unwrap().activity;
    busy(&owners[3]).store(1, SeqCst);
    busy(&owners[1]).store(1, SeqCst);
    assert_eq!(scene.pool.idle(&scene.region), 2);
    assert_eq!(scene.retire(0, 3), [Pid(102), Pid(100), Pid(103)]);
    assert_eq!(scene.pool.idle(&scene.region), 0, "only those that stay are counted");
}

#[test]
fn who_leaves_slowly_is_asked_once_more() {
    let mut scene = Scene::new();
    scene.ready(100);
    let leave = Leave { press_at: SECOND, kill_at: 2 * SECOND };
    assert_eq!(scene.pool.retire(&scene.region, 0, 1, leave), [Pid(100)]);
    assert_eq!(scene.pool.next_deadline(), Some(SECOND));
    assert_eq!(scene.pool.press(SECOND / 2), []);
    assert_eq!(scene.pool.press(SECOND), [Pid(100)]);
    assert_eq!(scene.pool.press(SECOND), [], "once");
    assert_eq!(scene.pool.next_deadline(), Some(2 * SECOND));
}

#[test]
fn a_request_that_takes_too_long_is_found() {
    let mut scene = Scene::new();
    let owners: Vec<_> = (100..103).map(|pid| scene.ready(pid)).collect();
    for (owner, since) in owners.iter().zip([0, 1_000, 4_500]) {
        scene.region.slot(owner.slot).unwrap().since_ms.store(since, SeqCst);
    }
    let (overdue, longest) = scene.pool.overdue(&scene.region, 5_000, 3_000, SECOND);
    assert_eq!(overdue, [Overdue { pid: Pid(101), slot: owners[1].slot, for_ms: 4_000 }]);
    assert_eq!(longest, 500);
    assert_eq!(scene.pool.overdue(&scene.region, 5_000, 3_000, SECOND).0, [], "asked once");
    assert_eq!(scene.pool.fell_overdue(SECOND), [(owners[1].slot, Pid(101))]);
    // A clock that nobody has, and one that has not come yet.
    scene.region.slot(owners[2].slot).unwrap().since_ms.store(u64::MAX, SeqCst);
    assert_eq!(scene.pool.overdue(&scene.region, 5_000, 3_000, SECOND).0, []);
    assert!(!scene.pool.is_at_rest(&scene.region), "one is dying");
}

#[test]
fn who_does_not_get_ready_is_killed() {
    let mut scene = Scene::new();
    let owner = scene.pool.reserve(&scene.region, 1).unwrap();
    assert_eq!(scene.pool.spawned(owner, Pid(100), SECOND), None);
    assert_eq!(scene.pool.next_deadline(), Some(SECOND));
    assert_eq!(scene.pool.fell_overdue(SECOND / 2), []);
    assert_eq!(scene.pool.fell_overdue(SECOND), [(owner.slot, Pid(100))]);
    assert_eq!(scene.died(100, Ending::Killed(9)), Death::Young(None));
    assert!(scene.pool.is_empty());
}

#[test]
fn the_oldest_are_looked_at_first_and_nobody_is_forgotten() {
    let mut scene = Scene::new();
    let [first, second, third, fourth] = [100, 101, 102, 103].map(|pid| scene.starting(pid));
    let goes_live = |owner: Owner| assert!(scene.region.slot(owner.slot).unwrap().go_live(owner.generation));
    let pool = &mut scene.pool;
    assert_eq!(pool.note_oldest_ready(&scene.region, SECOND), 0, "all have been looked at");
    goes_live(first);
    goes_live(third);
    assert_eq!(pool.note_oldest_ready(&scene.region, SECOND), 1, "the first, and no further than the second");
    assert_eq!(pool.note_oldest_ready(&scene.region, SECOND), 0);
    assert_eq!(pool.note_ready(&scene.region), 1, "the third, although the second is not");
    assert_eq!(pool.note_ready(&scene.region), 0);
    goes_live(fourth);
    assert_eq!(pool.note_oldest_ready(&scene.region, SECOND), 0);
    assert_eq!(
        pool.note_oldest_ready(&scene.region, SECOND * 2),
        1,
        "the fourth, once all are looked at again"
    );
    goes_live(second);
    assert_eq!(pool.note_oldest_ready(&scene.region, SECOND * 2), 1);
    assert_eq!((scene.pool.counts().starting, scene.pool.counts().ready), (0, 4));
}

#[test]
fn the_oldest_one_s_time_is_over_first() {
    let mut scene = Scene::new();
    let owners = [SECOND, SECOND * 2, SECOND * 3].map(|deadline| {
        let owner = scene.pool.reserve(&scene.region, 1).unwrap();
        assert_eq!(scene.pool.spawned(owner, Pid(100 + owner.slot.0 as i32), deadline), None);
        owner
    });
    assert_eq!(scene.pool.next_deadline(), Some(SECOND));
    assert!(scene.region.slot(owners[0].slot).unwrap().go_live(owners[0].generation));
    assert_eq!(scene.pool.note_ready(&scene.region), 1);
    assert_eq!(scene.pool.next_deadline(), Some(SECOND * 2));
    assert_eq!(scene.pool.fell_overdue(SECOND * 2), [(owners[1].slot, Pid(101))]);
    assert_eq!(scene.pool.next_deadline(), Some(SECOND * 3), "who was killed is not waited for");
}
