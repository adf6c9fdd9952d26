//! The roles under the supervisor: the real program over a real channel.

mod support;

use std::sync::atomic::Ordering::SeqCst;

use common::ids::Pid;
use common::journal::spool::Spool;
use common::journal::spool::{data_path, lock_name};
use common::journal::writer::Writer;
use common::layout::NO_OFFSET;
use common::slots::{Counter, State};
use common::txn::Seat;
use common::wire::control::{Awaited, Delay, Order, Report, Sync};
use nix::sys::signal::Signal;
use support::{Instance, until};

fn message(instance: &Instance, seat: &mut Seat<'_>) {
    let spool = Spool::open_or_create(&instance.spool_path()).unwrap();
    let mut writer = Writer::new(spool, Sync::Never);
    let mut transaction = seat.begin().unwrap();
    transaction.add(Counter::Messages, 1).unwrap();
    writer.append(&transaction, "user", "text").unwrap();
    transaction.commit().unwrap();
    writer.settle(&seat.slot().intent).unwrap();
}

/// Leaves a transaction half-done.
fn die_in_transaction(seat: &mut Seat<'_>) {
    let mut transaction = seat.begin().unwrap();
    transaction.add(Counter::Messages, 1).unwrap();
    std::mem::forget(transaction);
}

#[test]
fn a_standby_takes_over_and_repairs_until_the_channel_closes() {
    let instance = Instance::new();
    let former = instance.reserve(9, 4);
    let mut seat = Seat::take(&instance.region, former).unwrap();
    die_in_transaction(&mut seat);
    let standby = instance.start("standby");
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", standby.pid)).unwrap();
    assert_eq!(comm, "recovery\n");
    assert_eq!(instance.take_over(&standby), 1);
    let owners: Vec<_> = (0..20).map(|slot| instance.reserve(slot, 7)).collect();
    for owner in &owners {
        let mut seat = Seat::take(&instance.region, *owner).unwrap();
        message(&instance, &mut seat);
        die_in_transaction(&mut seat);
        instance.declare_dead(*owner);
    }
    standby.order(&Order::Repair(owners.iter().map(|owner| (*owner, true)).collect()));
    for owner in &owners {
        assert_eq!(standby.report(), Report::Repaired(*owner), "in order");
        assert!(instance.slot(*owner).is(owner.generation, State::Free));
    }
    let totals = instance.region.totals();
    assert_eq!((totals.messages, totals.crashes, totals.recoveries), (20, 20, 21));
    assert_eq!(instance.records(), 20);
    assert_eq!(standby.dismiss(), Some(0));
}

#[test]
fn signals_of_the_terminal_and_the_operator_do_not_end_a_role() {
    let instance = Instance::new();
    let (standby, keeper) = (instance.start("standby"), instance.start("journal"));
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGUSR1] {
        standby.signal(signal);
        keeper.signal(signal);
    }
    assert_eq!(instance.take_over(&standby), 0);
    keeper.order(&Order::SealAll);
    assert_eq!(keeper.report(), Report::Sealed);
    assert_eq!((standby.dismiss(), keeper.dismiss()), (Some(0), Some(0)));
}

#[test]
fn one_started_for_one_crash_leaves_when_it_is_repaired() {
    let instance = Instance::new();
    let once = instance.start("once");
    assert_eq!(instance.take_over(&once), 0);
    assert_eq!(once.next(), None);
    assert_eq!(once.wait(), Some(0));
    let owner = instance.reserve(1, 1);
    die_in_transaction(&mut Seat::take(&instance.region, owner).unwrap());
    let once = instance.start("once");
    once.repair(owner);
    assert_eq!(once.report(), Report::Repaired(owner));
    assert_eq!(once.wait(), Some(0));
}

#[test]
fn damage_is_refused_each_time_it_is_ordered_and_the_others_are_repaired() {
    let instance = Instance::new();
    let standby = instance.start("standby");
    instance.take_over(&standby);
    let (damaged, sound) = (instance.reserve(1, 1), instance.reserve(2, 1));
    for owner in [damaged, sound] {
        die_in_transaction(&mut Seat::take(&instance.region, owner).unwrap());
    }
    instance.slot(damaged).undo.store(u64::MAX, SeqCst);
    for _ in 0..3 {
        standby.order(&Order::Repair(vec![(damaged, true), (sound, true)]));
        assert!(
            matches!(standby.report(), Report::Refused(owner, why) if owner == damaged && why.contains("undo log"))
        );
        assert_eq!(standby.report(), Report::Repaired(sound));
    }
    standby.order(&Order::TakeOver(Vec::new()));
    assert!(matches!(standby.report(), Report::Refused(owner, _) if owner == damaged));
}

#[test]
fn what_the_disk_keeps_from_being_decided_is_delayed_and_done_later() {
    for role in ["standby", "once"] {
        let instance = Instance::new();
        let helper = instance.start("standby");
        instance.take_over(&helper);
        let (owner, other) = (instance.reserve(1, 1), instance.reserve(2, 1));
        let mut seat = Seat::take(&instance.region, owner).unwrap();
        message(&instance, &mut seat);
        die_in_transaction(&mut seat);
        let journal = &instance.region.header().journal;
        let minute = journal.open_minute().minute;
        let intent = &instance.slot(owner).intent;
        intent.announce(minute, 10);
        let end = journal.claimed(minute).expect("a minute is open");
        journal.entry(minute).tail.fetch_add(10, SeqCst);
        intent.place(end);
        let path = data_path(&instance.spool_path(), minute);
        let aside = instance.directory.path().join("aside");
        std::fs::rename(&path, &aside).unwrap();
        std::fs::create_dir(&path).unwrap();

        let child = instance.start(role);
        child.order(&Order::Repair(vec![(owner, true), (other, true)]));
        let delayed = |report: &Report| {
            let Report::Delayed(Delay { about, awaits, why }) = report else { return false };
            *about == Some(owner) && *awaits == Awaited::FileSystem && why.contains("journal")
        };
        assert!(delayed(&child.report()));
        assert_eq!(child.report(), Report::Repaired(other), "it does not keep others waiting");
        assert_eq!(child.report(), Report::TriesAgain(Some(owner)));
        assert!(delayed(&child.report()), "tried again");
        assert!(!instance.slot(owner).is(owner.generation, State::Free));

        std::fs::remove_dir(&path).unwrap();
        std::fs::rename(&aside, &path).unwrap();
        let still = |report: &Report| delayed(report) || *report == Report::TriesAgain(Some(owner));
        let last = std::iter::from_fn(|| child.next()).find(|report| !still(report));
        assert_eq!(last, Some(Report::Repaired(owner)));
        assert_eq!(instance.records(), 1);
        assert_eq!(child.dismiss(), Some(0));
    }
}

#[test]
fn the_keeper_seals_and_says_when_everything_is_sealed() {
    let instance = Instance::new();
    let (standby, keeper) = (instance.start("standby"), instance.start("journal"));
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", keeper.pid)).unwrap();
    assert_eq!(comm, "recovery\n");
    instance.take_over(&standby);
    let journal = &instance.region.header().journal;
    let owner = instance.reserve(1, 1);
    let mut seat = Seat::take(&instance.region, owner).unwrap();
    message(&instance, &mut seat);
    let first = journal.open_minute();
    assert!(journal.close(first) || journal.open_minute().closed);
    until("the closed minute is sealed", || journal.sealed_minute() >= first.minute);
    message(&instance, &mut seat);
    keeper.order(&Order::SealAll);
    assert_eq!(keeper.report(), Report::Sealed);
    assert!(instance.spool.minutes().unwrap().iter().all(|file| !file.locked));
    assert!(journal.open_minute().closed && journal.open_bytes() == (0, 0));
    assert_eq!(instance.records(), 2);
    message(&instance, &mut seat);
    assert_eq!(instance.records(), 3, "it goes on");
}

#[test]
fn a_writer_that_does_not_end_is_named_and_sealing_goes_on_without_it() {
    let instance = Instance::new();
    let (standby, keeper) = (instance.start("standby"), instance.start("journal"));
    instance.take_over(&standby);
    let owner = instance.reserve(1, 5);
    let mut seat = Seat::take(&instance.region, owner).unwrap();
    message(&instance, &mut seat);
    let minute = instance.region.header().journal.open_minute().minute;
    instance.slot(owner).intent.announce(minute, 10);
    assert_eq!(instance.slot(owner).intent.off.load(SeqCst), NO_OFFSET);
    keeper.order(&Order::SealAll);
    assert!(matches!(keeper.report(), Report::Failed(why) if why.contains("slot 1 generation 5")));
    assert!(instance.spool_path().join(lock_name(minute)).exists());
    instance.declare_dead(owner);
    standby.repair(owner);
    assert_eq!(standby.report(), Report::Repaired(owner));
    assert_eq!(keeper.report(), Report::Sealed);
}

#[test]
fn who_is_not_the_supervisors_child_leaves_silently() {
    let instance = Instance::new();
    for role in ["standby", "once", "journal"] {
        let child = instance.start_as_child_of(Pid(1), role);
        assert_eq!(child.next(), None);
        assert_eq!(child.wait(), Some(0));
    }
}

#[test]
fn a_region_that_is_refused_is_reported() {
    let instance = Instance::new();
    instance.region_file.set_len(100).unwrap();
    let child = instance.start_as_child_of(Pid::current(), "standby");
    assert!(matches!(child.report(), Report::Failed(why) if why.contains("the region is refused")));
    assert_eq!(child.wait(), Some(4));
}

#[test]
fn what_is_not_needed_is_given_up() {
    let instance = Instance::new();
    for role in ["standby", "once", "journal"] {
        let child = instance.start(role);
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.pid)).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            u64::from_str_radix(line.trim(), 16).unwrap()
        };
        assert_eq!(field("NoNewPrivs:"), 1, "{role}");
        // CAP_DAC_OVERRIDE, CAP_FOWNER and CAP_SYS_RESOURCE, where it had them.
        let kept = 1 << 1 | 1 << 3 | 1 << 24;
        assert_eq!(field("CapEff:") & !kept, 0, "{role}");
        assert_eq!(field("CapPrm:") & !kept, 0, "{role}");
    }
}
