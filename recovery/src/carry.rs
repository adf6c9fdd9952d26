//! `recovery carry`: everything that a region holds, object by object into another one of another size. Called by the
//! supervisor before anything else runs, with a region that was stopped cleanly and a fresh one that nobody uses yet:
//! whenever this is killed, the new one is thrown away and the old one is as it was.

use std::fs::File;

use common::error::{Error, Result};
use common::ids::SlotIndex;
use common::objects::map::Pair;
use common::objects::{Folder, Kind, Map, Queue};
use common::region::{Region, UnverifiedRegion};
use common::tally;
use common::txn::{Seat, TxnError};

use crate::tidy::with_seat;
use crate::verify;

/// Entries put in one transaction: far less than an undo log holds, unless buckets are very full.
const BATCH: usize = 8;

/// Carries the contents of one region's file into another's.
///
/// # Errors
/// Files that cannot be mapped, a new region that is too small (exit 2); an old one that is damaged (exit 4).
pub fn run(old: &File, new: &File) -> Result<()> {
    let (old, new) = (UnverifiedRegion::open_read_only(old)?, UnverifiedRegion::open(new)?);
    let (old, new) = (old.contents(), new.contents());
    if !old.is_clean() {
        return Err(Error::failure(
            "the region was not stopped cleanly, and cannot be carried to another size",
        ));
    }
    let sound = |region| match verify::check(region) {
        findings if findings.is_empty() => Ok(()),
        findings => Err(verify::damaged(&findings)),
    };
    sound(old)?;
    carry(old, new).map_err(|error| explain(error, old, new))?;
    sound(new)
}

fn explain(error: TxnError, old: &Region, new: &Region) -> Error {
    let (from, to) = (old.geometry().length, new.geometry().length);
    match error {
        TxnError::Full | TxnError::TooManyObjects => Error::usage(format!(
            "a region of {to} bytes has no room for what the one of {from} bytes holds ({error}); choose a larger \
             --region-size, or {from} to go on with the one there is"
        )),
        error => {
            Error::failure(format!("the region of {from} bytes cannot be carried into one of {to}: {error}"))
        }
    }
}

/// Carries everything: folders, maps, queues, blobs, counters, what users have sent, the totals.
///
/// # Errors
/// [`TxnError`]; the new region is to be thrown away then.
pub fn carry(old: &Region, new: &Region) -> std::result::Result<(), TxnError> {
    with_seat(new, SlotIndex(0), |seat| {
        for (name, folder) in Folder::all(old)? {
            carry_folder(old, seat, &name, folder)?;
        }
        tally::carry(old, seat)
    })
    .unwrap_or(Err(TxnError::Disturbed))?;
    if let Some(slot) = new.slot(SlotIndex(0)) {
        old.totals().carry_into(slot);
    }
    Ok(())
}

fn carry_folder(
    old: &Region,
    seat: &mut Seat<'_>,
    name: &str,
    folder: Folder,
) -> std::result::Result<(), TxnError> {
    let mut txn = seat.begin()?;
    let target = txn.open_or_create_folder(name)?;
    txn.commit()?;
    for (object, entry) in folder.list(old)? {
        match entry.kind {
            Kind::Counter => {
                let value = folder.open_counter(old, &object)?.get(old)?;
                let mut txn = seat.begin()?;
                let counter = txn.create_counter(target, &object)?;
                txn.counter(counter)?.set(value)?;
                txn.commit()?;
            }
            Kind::Map if !tally::is_kept_in(name, &object) => {
                let mut txn = seat.begin()?;
                let map = txn.create_map(target, &object)?;
                txn.commit()?;
                for pairs in folder.open_map(old, &object)?.entries(old)?.chunks(BATCH) {
                    put_all(seat, map, pairs)?;
                }
            }
            Kind::Map => {}
            Kind::Queue => carry_queue(old, seat, folder.open_queue(old, &object)?, target, &object)?,
            Kind::Blob => {
                let bytes = folder.open_blob(old, &object)?.get(old)?;
                let mut txn = seat.begin()?;
                let blob = txn.create_blob(target, &object)?;
                txn.blob(blob)?.set(&bytes)?;
                txn.commit()?;
            }
            // It has its turn itself.
            Kind::Folder => {}
            Kind::Free | Kind::Heap | Kind::Dropping | Kind::DroppingQueue | Kind::DroppingBlob => {
                return Err(TxnError::Damaged);
            }
        }
    }
    Ok(())
}

/// The capacity comes last: items that were put back may be more than it.
fn carry_queue(
    old: &Region,
    seat: &mut Seat<'_>,
    queue: Queue,
    target: Folder,
    name: &str,
) -> std::result::Result<(), TxnError> {
    let mut txn = seat.begin()?;
    let carried = txn.create_queue(target, name, 0)?;
    txn.commit()?;
    for items in queue.items(old)?.chunks(BATCH) {
        let mut txn = seat.begin()?;
        for item in items {
            txn.queue(carried)?.push_back(item)?;
        }
        txn.commit()?;
    }
    let mut txn = seat.begin()?;
    txn.queue(carried)?.set_capacity(queue.capacity(old)?.unwrap_or(0))?;
    txn.commit()
}

/// In one transaction if its log takes it, else in smaller ones.
fn put_all(seat: &mut Seat<'_>, map: Map, pairs: &[Pair]) -> std::result::Result<(), TxnError> {
    match try_to_put_all(seat, map, pairs) {
        Err(TxnError::TooLarge) if pairs.len() > 1 => {
            let (first, rest) = pairs.split_at(pairs.len() / 2);
            put_all(seat, map, first)?;
            put_all(seat, map, rest)
        }
        outcome => outcome,
    }
}

fn try_to_put_all(seat: &mut Seat<'_>, map: Map, pairs: &[Pair]) -> std::result::Result<(), TxnError> {
    let mut txn = seat.begin()?;
    for (key, value) in pairs {
        txn.map(map)?.put(key, value)?;
    }
    txn.commit()
}

#[cfg(test)]
mod tests;
