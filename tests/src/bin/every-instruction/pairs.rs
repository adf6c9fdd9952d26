//! Two living processes: one is stopped at each of its instructions, or asleep, while the other does its work.

use std::path::Path;

use common::objects::Map;
use common::region::Region;
use common::txn::{Seat, Transaction, TxnError};

use crate::arena::{ACTOR, Arena, FOLLOWER};
use crate::shop::{self, Shop, put};
use crate::tracee::{Next, Tracee, mark};

/// Every pair.
pub const ALL: [(&str, Pair); 3] = [
    ("a reader, and a writer in place", |place, stops| read_beside(place, stops, "wide", |_| 200)),
    ("a reader, and a writer out of place", |place, stops| {
        read_beside(place, stops, "long", |turn| 300 + turn % 2 * 10)
    }),
    ("a writer waits, the map is deleted", |place, _| wait_for_deleted(place)),
];

/// A pair, and after how many of its instructions at most one is stopped; gives how many were executed.
pub type Pair = fn(&Path, usize) -> Result<u64, String>;

/// A reader is stopped after some number of instructions, and the value is replaced, twice, so that the block that it
/// was in is used again. What it reads must be one of the values.
fn read_beside(place: &Path, stops: usize, key: &str, length: fn(usize) -> usize) -> Result<u64, String> {
    let directory = tempfile::tempdir_in(place).map_err(|error| error.to_string())?;
    let arena = Arena::new(directory.path(), "pair")?;
    shop::furnish(&arena)?;
    let stock = Shop::open(&arena.region)?.stock;
    let mut writer = arena.seat(FOLLOWER)?;
    let reader = Tracee::fork(|| read_for_ever(&arena.region, stock, key))?;
    let undisturbed = advance(&reader, usize::MAX)?;
    let mut steps = undisturbed as u64;
    reader.go_on()?;
    for stop in (0..=undisturbed).step_by((undisturbed / stops).max(1)) {
        steps += advance(&reader, stop)? as u64;
        for turn in [stop * 2, stop * 2 + 1] {
            put(&mut writer, stock, key, &vec![turn as u8; length(turn)])
                .map_err(|error| error.to_string())?;
        }
        let read = reader.go_on();
        read.map_err(|error| format!("a reader stopped after {stop} instructions: {error}"))?;
    }
    Ok(steps)
}

fn read_for_ever(region: &Region, map: Map, key: &str) {
    loop {
        mark();
        let value = map.get(region, key.as_bytes()).ok().flatten().unwrap_or_default();
        if value.is_empty() || value.iter().any(|byte| *byte != value[0]) {
            return;
        }
    }
}

/// Executes so many instructions, or as many as there are up to the next mark: how many.
fn advance(tracee: &Tracee, count: usize) -> Result<usize, String> {
    for done in 0..count {
        let next = tracee.next()?;
        if next == Next::Mark {
            return Ok(done);
        }
        tracee.step(&next, &mut || ())?;
    }
    Ok(count)
}

/// A process sleeps until it gets the lock of a map. When it does, the map is not there any more.
fn wait_for_deleted(place: &Path) -> Result<u64, String> {
    let directory = tempfile::tempdir_in(place).map_err(|error| error.to_string())?;
    let arena = Arena::new(directory.path(), "pair")?;
    shop::furnish(&arena)?;
    let shop = Shop::open(&arena.region)?;
    let fail = |error: TxnError| error.to_string();
    let mut deleter = arena.seat(FOLLOWER)?;
    let mut txn = deleter.begin().map_err(fail)?;
    txn.delete(shop.folder, "stock").map_err(fail)?;
    let mut deletion = Some(txn);
    let waiter = Tracee::fork(|| {
        mark();
        if let Ok(seat) = arena.seat(ACTOR) {
            expect_not_found(seat, &shop);
        }
    })?;
    let mut steps = 0;
    loop {
        let next = waiter.next()?;
        if next == Next::Mark {
            break;
        }
        let mut commit = || {
            deletion.take().map(Transaction::commit);
        };
        waiter.step(&next, &mut commit).map_err(|error| format!("it changed a deleted map: {error}"))?;
        steps += 1;
    }
    if deletion.is_some() { Err("it has not waited".to_owned()) } else { Ok(steps) }
}

fn expect_not_found(mut seat: Seat<'_>, shop: &Shop) {
    if put(&mut seat, shop.stock, "plums", b"9") == Err(TxnError::NotFound) {
        mark();
    }
}
