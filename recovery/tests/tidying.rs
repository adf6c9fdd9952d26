//! The real program, killed while it tidies up a region: whoever comes next finishes it.

mod support;

use std::time::{Duration, Instant};

use common::heap::{self, Usage};
use common::ids::SlotIndex;
use common::objects::{self, Folder, Kind, Map};
use common::slots::State;
use common::txn::Seat;
use common::undo::UndoLog;
use common::wire::control::Order;
use nix::sys::signal::Signal;
use support::Instance;

const ROUNDS: u64 = 40;

fn put(seat: &mut Seat<'_>, map: Map, key: u64) {
    let mut txn = seat.begin().unwrap();
    txn.map(map).unwrap().put(&key.to_le_bytes(), &[7; 100]).unwrap();
    txn.commit().unwrap();
}

/// A map that two slots have filled, deleted by one who died before he freed what it holds.
fn leave_untidy(instance: &Instance, generation: u32) {
    let region = &instance.region;
    let owners = [3, 4].map(|slot| instance.reserve(slot, generation));
    let [mut one, mut other] = owners.map(|owner| Seat::take(region, owner).unwrap());
    let mut txn = one.begin().unwrap();
    let folder = txn.open_or_create_folder("shop").unwrap();
    let map = txn.create_map(folder, "stock").unwrap();
    txn.commit().unwrap();
    for key in 0..600 {
        put(if key % 2 == 0 { &mut one } else { &mut other }, map, key);
    }
    other.leave();
    let mut txn = one.begin().unwrap();
    assert!(txn.delete(folder, "stock").unwrap());
    UndoLog::of(region, SlotIndex(3)).unwrap().commit_freeing(region, SlotIndex(3));
    std::mem::forget(txn);
}

#[test]
fn recovery_killed_at_tidying_is_followed_by_another() {
    let instance = Instance::new();
    let region = &instance.region;
    let dropping = || objects::all(region).filter(|(_, kind, _)| *kind == Kind::Dropping).count();
    let (mut midway, mut in_a_slot) = (0, 0);
    for round in 1..=ROUNDS {
        leave_untidy(&instance, round as u32);
        let filled = Usage::of(region).used;
        let standby = instance.start("standby");
        standby.order(&Order::TakeOver(Vec::new()));
        // From before it begins to after it has ended, a little later in each round.
        let moment = Instant::now() + Duration::from_micros(round * 100);
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        standby.signal(Signal::SIGKILL);
        standby.wait();
        let used = Usage::of(region).used;
        midway += u32::from(dropping() == 1 || used > 4096 && used < filled);
        in_a_slot += u32::from(region.slots().any(|(_, slot)| slot.standing().1 != Some(State::Free)));
        assert_eq!(recovery::verify::check(region), [], "round {round}, half tidied");

        let standby = instance.start("standby");
        instance.take_over(&standby);
        standby.dismiss();
        assert_eq!(dropping(), 0, "round {round}");
        assert_eq!(recovery::verify::check(region), [], "round {round}");
        assert!(region.slots().all(|(_, slot)| slot.standing().1 == Some(State::Free)));
        // What the folders are made of is all that is left.
        assert!(!heap::has_slabs(region.slot(SlotIndex(4)).unwrap()), "round {round}");
        assert!(Usage::of(region).used <= 8 * 4096, "round {round}: {:?}", Usage::of(region));
        assert!(Folder::open(region, "shop").unwrap().list(region).unwrap().is_empty());
    }
    println!("killed midway {midway} times of {ROUNDS}, with a slot in use {in_a_slot} times");
}
