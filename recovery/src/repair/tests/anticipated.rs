//! What is repaired between the kernel's word that the owner is at its end and its reaping, and what is not.

use std::process::{Child, Command};

use common::sys::process;

use super::*;

/// The bit with which the kernel says so.
const TOLLED: u32 = 0x4000_0000;

/// A process that has ended and is not reaped.
struct Corpse(Child);

impl Corpse {
    fn new() -> Self {
        let child = Command::new("true").spawn().unwrap();
        let pid = Pid(child.id().cast_signed());
        // By its ending, not by its robust list: a program that has just begun has none either.
        while process::ending_of(pid).unwrap().is_none() {
            std::thread::yield_now();
        }
        assert!(knell::is_ending(pid).unwrap());
        Self(child)
    }
}

impl Drop for Corpse {
    fn drop(&mut self) {
        self.0.wait().unwrap();
    }
}

/// Says in the slot that this process had it, and whether the kernel has tolled.
fn belongs_to(scene: &Scene, pid: u32, tolled: bool) {
    let slot = scene.slot(SLOT);
    slot.pid.store(pid, SeqCst);
    slot.knell.word.store(pid | if tolled { TOLLED } else { 0 }, SeqCst);
}

#[test]
fn a_repair_that_was_anticipated_after_each_step() {
    let corpse = Corpse::new();
    for last in STEPS {
        let about = format!("{last:?}");
        let scene = Scene::new();
        with_open_minute(&scene);
        let owner = die_after(&scene, SLOT, 9, last);
        belongs_to(&scene, corpse.0.id(), true);
        let anticipated = repairer(&scene).anticipate(owner).unwrap();
        let slot = scene.slot(SLOT);
        // Before it lived nobody waited for it, and afterwards it holds nothing.
        let lived = !matches!(last, Step::Reserved | Step::Left);
        assert_eq!(anticipated, lived.then(|| fate(last)), "{about}");
        assert!(!lived || slot.holds_nothing(), "{about}");
        assert_ne!(slot.standing().1, Some(State::Free), "{about}");
        assert_eq!(scene.region.totals().crashes, 0, "{about}");

        let remains = repairer(&scene).repair(owner, true).unwrap().expect("something to repair");
        assert_eq!(remains.with(anticipated).transaction, fate(last), "{about}");
        check_repaired(&scene, last, &about);
    }
}

#[test]
fn nobody_is_at_its_end_by_what_the_slot_says_alone() {
    let scene = Scene::new();
    with_open_minute(&scene);
    let owner = die_after(&scene, SLOT, 9, Step::Changed);
    let undone = || scene.slot(SLOT).undo.load(SeqCst) & 0xffff_ffff == 0;
    // The kernel says that it lives; nobody has tolled; there is no such process.
    belongs_to(&scene, std::process::id(), true);
    assert_eq!(repairer(&scene).anticipate(owner).unwrap(), None);
    let corpse = Corpse::new();
    belongs_to(&scene, corpse.0.id(), false);
    assert_eq!(repairer(&scene).anticipate(owner).unwrap(), None);
    belongs_to(&scene, 0, true);
    assert_eq!(repairer(&scene).anticipate(owner).unwrap(), None);
    belongs_to(&scene, u32::MAX, true);
    assert_eq!(repairer(&scene).anticipate(owner).unwrap(), None);
    // Somebody else's generation, and no slot at all.
    belongs_to(&scene, corpse.0.id(), true);
    let other = slots::owner(owner.slot, Generation(8));
    assert_eq!(repairer(&scene).anticipate(other).unwrap(), None);
    let nowhere = slots::owner(SlotIndex(u32::MAX), owner.generation);
    assert!(repairer(&scene).anticipate(nowhere).is_err());
    assert!(!undone());
    assert_eq!(repairer(&scene).anticipate(owner).unwrap(), Some(Fate::RolledBack));
    assert!(undone());
}

/// The one that was told of leaves and ends, and the next one is at work in the slot, while the kernel is asked.
#[test]
fn nobody_is_at_its_end_whose_slot_is_anothers_by_the_kernels_answer() {
    let (scene, corpse) = (Scene::new(), Corpse::new());
    let owner = die_after(&scene, SLOT, 9, Step::Live);
    belongs_to(&scene, corpse.0.id(), true);
    let former = repairer(&scene).corpse(owner).unwrap().unwrap();
    assert!(former.is_ending());
    let succeeds = |slot: &Slot| {
        slots::detach(slot, owner_word(owner.generation, State::Live));
        assert!(!former.is_lived_in(), "it has left");
        scene.free(SLOT);
        die_after(&scene, SLOT, 10, Step::Changed);
        belongs_to(&scene, corpse.0.id(), true);
    };
    assert!(!former.is_ending_by(|slot, pid| {
        succeeds(slot);
        knell::is_ending(pid).unwrap()
    }));
}

#[test]
fn what_does_not_validate_is_left_alone() {
    let (scene, corpse) = (Scene::new(), Corpse::new());
    let owner = die_after(&scene, SLOT, 9, Step::Changed);
    belongs_to(&scene, corpse.0.id(), true);
    scene.slot(SLOT).held_count.store(u32::MAX, SeqCst);
    let before = scene.snapshot();
    assert!(matches!(repairer(&scene).anticipate(owner), Err(Setback::Damage(_))));
    assert!(before == scene.snapshot());
}
