//! The objects that operations are proved on, and who has made them.

use std::sync::atomic::Ordering::Relaxed;

use common::gate;
use common::lock;
use common::objects::{Counter, Folder, Map};
use common::region::Region;
use common::tally;
use common::txn::{Seat, TxnError};

use crate::arena::{Arena, FORMER, FURNISHER, HOLDER, SURVIVOR};
use crate::mill::{self, Mill};
use crate::model::Model;

/// A value that fits into the same blocks as most.
pub const SHORT: usize = 24;

/// A user with a row.
pub const USER: &str = "anna";

/// Handles of the objects.
#[derive(Clone, Copy, Debug)]
pub struct Shop {
    pub folder: Folder,
    pub stock: Map,
    pub other: Map,
    pub sold: Counter,
    /// Queues and blobs, where there are some.
    pub mill: Option<Mill>,
}

impl Shop {
    /// Finds them.
    pub fn open(region: &Region) -> Result<Self, String> {
        let find = || {
            let folder = Folder::open(region, "shop")?;
            let (stock, other) = (folder.open_map(region, "stock")?, folder.open_map(region, "other")?);
            let sold = folder.open_counter(region, "sold")?;
            Ok(Self { folder, stock, other, sold, mill: Mill::open(region)? })
        };
        find().map_err(|error: common::objects::ReadError| format!("the shop: {error}"))
    }
}

/// Puts one entry in a transaction of its own.
pub fn put(seat: &mut Seat<'_>, map: Map, key: &str, value: &[u8]) -> Result<(), TxnError> {
    let mut txn = seat.begin()?;
    txn.map(map)?.put(key.as_bytes(), value)?;
    txn.commit()
}

/// Removes one entry likewise.
pub fn remove(seat: &mut Seat<'_>, map: Map, key: &str) -> Result<(), TxnError> {
    let mut txn = seat.begin()?;
    txn.map(map)?.remove(key.as_bytes())?;
    txn.commit()
}

/// Sends a message as a worker does.
pub fn send(arena: &Arena, seat: &mut Seat<'_>, user: &str, message: &str) -> Result<(), String> {
    let fail = |error: TxnError| error.to_string();
    let account = tally::account(seat, user).map_err(fail)?;
    let mut writer = arena.writer()?;
    let intent = &seat.slot().intent;
    let mut txn = seat.begin().map_err(fail)?;
    txn.count_message(account, user, message.len() as u64).map_err(fail)?;
    writer.append(&txn, user, message).map_err(|error| error.to_string())?;
    txn.commit().map_err(fail)?;
    writer.settle(intent).map_err(|error| error.to_string())
}

/// Makes the objects, so that each slot has slabs with room, and the actor's map has a block of the survivor's.
pub fn furnish(arena: &Arena) -> Result<(), String> {
    arena.open_journal()?;
    let mut furnisher = arena.seat(FURNISHER)?;
    build(&mut furnisher).map_err(|error| format!("furnishing: {error}"))?;
    send(arena, &mut furnisher, USER, "the first message")?;
    let (mut survivor, mut actor) = (arena.seat(SURVIVOR)?, arena.seat(FORMER)?);
    settle(&arena.region, &mut survivor, &mut actor).map_err(|error| format!("furnishing: {error}"))?;
    [furnisher, survivor, actor].into_iter().for_each(Seat::leave);
    Ok(())
}

fn build(seat: &mut Seat<'_>) -> Result<(), TxnError> {
    let mut txn = seat.begin()?;
    let shop = txn.create_folder("shop")?;
    txn.create_folder("void")?;
    let (stock, other) = (txn.create_map(shop, "stock")?, txn.create_map(shop, "other")?);
    let sold = txn.create_counter(shop, "sold")?;
    txn.counter(sold)?.set(5)?;
    let far = txn.create_folder("far")?;
    txn.create_map(far, "away")?;
    txn.commit()?;
    put(seat, stock, "apples", &[1; SHORT])?;
    put(seat, stock, "wide", &[2; 200])?;
    put(seat, stock, "long", &[3; 300])?;
    for key in ["this", "that"] {
        put(seat, other, key, &[4; SHORT])?;
    }
    // Blocks that were used before.
    for number in 0..4 {
        put(seat, other, &format!("gone {number}"), &[0x55; SHORT])?;
    }
    (0..4).try_for_each(|number| remove(seat, other, &format!("gone {number}")))
}

fn settle(region: &Region, survivor: &mut Seat<'_>, actor: &mut Seat<'_>) -> Result<(), TxnError> {
    let shop = Folder::open(region, "shop")?.open_map(region, "stock")?;
    let away = Folder::open(region, "far")?.open_map(region, "away")?;
    // The first block of the survivor's slab is in the actor's map: freed, it is the next that the survivor takes.
    put(survivor, shop, "theirs", &[5; SHORT])?;
    for number in 0..5 {
        put(survivor, away, &format!("away {number}"), &[6; SHORT])?;
    }
    put(actor, shop, "mine", &[7; SHORT])?;
    put(actor, shop, "brief", &[8; SHORT])?;
    remove(actor, shop, "brief")
}

/// The map that the survivor works at: it knows it from before.
pub fn away(region: &Region) -> Result<Map, String> {
    let folder = Folder::open(region, "far").map_err(|error| error.to_string())?;
    folder.open_map(region, "away").map_err(|error| error.to_string())
}

/// What a survivor does before the actor is repaired: it allocates, frees and commits, at objects of its own, and needs
/// no lock that the actor may have.
pub fn survive(seat: &mut Seat<'_>, away: Map) -> Result<(), TxnError> {
    put(seat, away, "more 0", &[0xa0; SHORT])?;
    put(seat, away, "more 1", &[0xa1; SHORT])?;
    remove(seat, away, "away 0")?;
    put(seat, away, "away 1", &[0xa2; SHORT])
}

/// What that changes.
pub fn survived(mut model: Model) -> Model {
    let entries = model.map("far", "away");
    entries.insert(b"more 0".into(), vec![0xa0; SHORT]);
    entries.insert(b"more 1".into(), vec![0xa1; SHORT]);
    entries.remove(b"away 0".as_slice());
    entries.insert(b"away 1".into(), vec![0xa2; SHORT]);
    model.recount()
}

/// Somebody who comes after the repair changes every object there is. With a full heap a put may be refused.
pub fn follow(seat: &mut Seat<'_>, model: &mut Model) -> Result<(), String> {
    let region = seat.region();
    let owner = seat.owner();
    let fail = |error: &dyn std::fmt::Display| format!("{owner} afterwards: {error}");
    let folders = Folder::all(region).map_err(|error| fail(&error))?;
    for (folder_name, folder) in folders.into_iter().filter(|(name, _)| name != "users") {
        for (name, _) in folder.list(region).map_err(|error| fail(&error))? {
            if let Ok(counter) = folder.open_counter(region, &name) {
                let mut txn = seat.begin().map_err(|error| error.to_string())?;
                txn.counter(counter)
                    .and_then(|mut counter| counter.add(3))
                    .map_err(|error| error.to_string())?;
                txn.commit().map_err(|error| error.to_string())?;
                *model.counter(&folder_name, &name) += 3;
            } else if let Ok(map) = folder.open_map(region, &name) {
                change_map(seat, map, model.map(&folder_name, &name))
                    .map_err(|error| format!("{folder_name}/{name} afterwards: {error}"))?;
            } else if let Ok(queue) = folder.open_queue(region, &name) {
                mill::change_queue(seat, queue, model.queue(&folder_name, &name))
                    .map_err(|error| format!("{folder_name}/{name} afterwards: {error}"))?;
            } else if let Ok(blob) = folder.open_blob(region, &name) {
                mill::change_blob(seat, blob, model.blob(&folder_name, &name))
                    .map_err(|error| format!("{folder_name}/{name} afterwards: {error}"))?;
            }
        }
    }
    seat.free_deleted().map_err(|error| format!("freeing what was deleted: {error}"))
}

fn change_map(
    seat: &mut Seat<'_>,
    map: Map,
    entries: &mut std::collections::BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<(), TxnError> {
    let slot = seat.owner().slot.0 as u8;
    if let Some(key) = entries.keys().nth(entries.len() / 2).cloned() {
        let mut txn = seat.begin()?;
        txn.map(map)?.remove(&key)?;
        txn.commit()?;
        entries.remove(&key);
    }
    let first = entries.keys().next().cloned();
    let fresh = (0..3).map(|number| format!("slot {slot} {number}").into_bytes());
    for key in fresh.chain(first) {
        let value = vec![slot; SHORT];
        let mut txn = seat.begin()?;
        match txn.map(map)?.put(&key, &value) {
            Ok(_) => txn.commit()?,
            Err(TxnError::Full) => continue,
            Err(error) => return Err(error),
        }
        entries.insert(key, value);
    }
    Ok(())
}

/// The rival keeps transactions from beginning.
pub fn close_gate(arena: &Arena) {
    gate::close(&arena.region.header().gate.word, lock::tag(HOLDER));
}

/// It does not any more, if it does.
pub fn open_gate(arena: &Arena) {
    gate::reopen(&arena.region.header().gate.word, lock::tag(HOLDER));
}

/// The rival takes the lock of the shop's stock, and has not changed anything yet.
pub fn hold(arena: &Arena) -> Result<(), String> {
    let index = Shop::open(&arena.region)?.stock.handle().index;
    let seat = arena.seat(HOLDER)?;
    seat.slot().held[0].store(index, Relaxed);
    seat.slot().held_count.store(1, Relaxed);
    let object = arena.region.object(index).ok_or("no such object")?;
    object.lock.store(lock::tag(HOLDER), Relaxed);
    Ok(())
}

/// It gives the lock back, if it still has it. An error where the lock is not its own any more.
pub fn let_go(arena: &Arena) -> Result<(), String> {
    let Some(slot) = arena.region.slot(HOLDER.slot).filter(|slot| slot.held_count.load(Relaxed) == 1) else {
        return Ok(());
    };
    let object = arena.region.object(slot.held[0].load(Relaxed)).ok_or("no such object")?;
    if !lock::names(object.lock.load(Relaxed), lock::tag(HOLDER)) {
        return Err("a living process has lost its lock".to_owned());
    }
    lock::release(&object.lock);
    slot.held_count.store(0, Relaxed);
    Ok(())
}
