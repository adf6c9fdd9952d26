//! What every run of chaos must leave.

use std::fs::File;

use common::region::Region;
use holdfast_tests::journal::{self, Record};
use holdfast_tests::load::Ledger;
use holdfast_tests::place::{Starting, program};
use holdfast_tests::{Instance, Place, outcome};

/// The region, to read from.
#[track_caller]
pub fn region(place: &Place) -> Region {
    let file = File::open(place.region()).expect("there is a region");
    Region::attach_read_only(&file).expect("it can be read")
}

/// While the instance is at rest: what was acknowledged is recorded, once, and counted, for each user too; and the
/// region is sound. Gives the records.
#[track_caller]
pub fn check(place: &Place, instance: &Instance, ledger: &Ledger) -> Vec<Record> {
    let records = instance.books_agree();
    ledger.check(&records);
    for record in &records {
        assert!(ledger.sent.contains(&record.message), "{record:?} was never sent");
    }
    // A lock that could not be had in time is the one thing that may be wrong.
    for error in &ledger.errors {
        assert!(error.starts_with("error busy: "), "{error}");
    }
    verify(place);
    let (acknowledged, busy) = (ledger.acknowledged.len(), ledger.errors.len());
    eprintln!(
        "{} records, {acknowledged} acknowledged, {busy} busy, {} connections broken",
        records.len(),
        ledger.broken
    );
    records
}

#[track_caller]
fn verify(place: &Place) {
    outcome::run(program("recovery").arg("verify").arg(place.region())).assert_succeeded();
}

/// After the instance has stopped: the journal is as it was, everything is sealed, and nobody and nothing is left that
/// the next start does not need.
#[track_caller]
pub fn check_what_is_left(place: &Place, records: &[Record]) {
    place.no_process_left();
    verify(place);
    assert!(place.journal() == records, "the journal has changed");
    let spool = journal::names(&place.spool_dir());
    assert!(!spool.iter().any(|name| name.ends_with(".lock")), "everything is sealed: {spool:?}");
    let mut left = journal::names(&place.run_dir());
    left.retain(|name| !["region", "supervisor.pid", "alive", "clients", "stderr"].contains(&name.as_str()));
    assert!(left.is_empty(), "{left:?}");
    assert!(!place.file("socket").exists());
}

/// What the last checkpoint and the journal give after the machine went down: nothing acknowledged is missing, in the totals and
/// for each user, and objects are whole.
#[track_caller]
pub fn check_after_loss_of_memory(place: &Place, starting: Starting, records: &[Record]) {
    std::fs::remove_file(place.region()).expect("there is a region");
    let instance = starting.start();
    assert!(instance.status()["restored"].is_object(), "{}", instance.status());
    assert!(instance.books_agree() == records, "the journal has changed");
    instance.stop();
    check_what_is_left(place, records);
}
