//! Programs that are attached, under chaos: they move money between accounts of their own, and none is made or lost.

use std::path::Path;

use common::objects::Folder;
use common::region::Region;
use holdfast_tests::Visitor;

const VISITORS: u64 = 4;
const ACCOUNTS: u64 = 8;
/// What each account begins with.
const MONEY: i64 = 1000;

/// Opens the accounts, and starts the first visitors.
#[track_caller]
pub fn first(run_dir: &Path) -> Vec<Visitor> {
    let mut opener = Visitor::attached(run_dir);
    opener.must(&format!("open {ACCOUNTS}"), "opened");
    opener.must("detach", "detached");
    (0..VISITORS).map(|seed| next(run_dir, seed)).collect()
}

/// One more. It attaches as soon as somebody lets it.
#[track_caller]
pub fn next(run_dir: &Path, seed: u64) -> Visitor {
    let mut visitor = Visitor::start(run_dir);
    visitor.tell(&format!("reside {ACCOUNTS} {seed}"));
    visitor
}

/// With nobody at it: the money is all there.
#[track_caller]
pub fn check(region: &Region) {
    let accounts = Folder::open(region, "visitors").and_then(|bank| bank.open_map(region, "accounts"));
    let entries = accounts.and_then(|accounts| accounts.entries(region)).expect("the accounts can be read");
    let balances: Vec<i64> = entries
        .into_iter()
        .filter_map(|(_, balance)| String::from_utf8(balance).ok()?.parse().ok())
        .collect();
    assert_eq!(balances.len() as u64, ACCOUNTS);
    assert_eq!(balances.iter().sum::<i64>(), MONEY * ACCOUNTS as i64, "{balances:?}");
    assert!(balances.iter().any(|balance| *balance != MONEY), "money was moved: {balances:?}");
}
