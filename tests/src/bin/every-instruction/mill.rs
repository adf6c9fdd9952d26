//! Queues, blobs and folders in folders: what is proved on them, beside the shop.

use std::time::{Duration, Instant};

use common::objects::{Blob, Folder, Queue, ReadError};
use common::region::Region;
use common::txn::{Seat, Transaction, TxnError};

use crate::arena::{Arena, FORMER, FURNISHER, SURVIVOR};
use crate::model::{Content, Model};
use crate::operations::{Act, Actor, CHANGE, Operation, insert};
use crate::shop::{SHORT, Shop};
use crate::tracee::mark;

/// Handles of the objects.
#[derive(Clone, Copy, Debug)]
pub struct Mill {
    pub folder: Folder,
    pub attic: Folder,
    /// Three items.
    pub jobs: Queue,
    /// One item, and no room for another.
    pub narrow: Queue,
    pub empty: Queue,
    /// More than is written in place.
    pub text: Blob,
}

/// Bytes of the text.
const TEXT: usize = 600;

impl Mill {
    /// Finds them; `None` where there is no mill.
    pub fn open(region: &Region) -> Result<Option<Self>, ReadError> {
        let folder = match Folder::open(region, "mill") {
            Err(ReadError::NotFound) => return Ok(None),
            folder => folder?,
        };
        let queue = |name| folder.open_queue(region, name);
        let (jobs, narrow, empty) = (queue("jobs")?, queue("narrow")?, queue("empty")?);
        let (attic, text) = (Folder::open(region, "mill/attic")?, folder.open_blob(region, "text")?);
        Ok(Some(Self { folder, attic, jobs, narrow, empty, text }))
    }
}

/// Makes them, and all that is needed for the actor's slot to have blocks of these sizes.
pub fn furnish(arena: &Arena) -> Result<(), String> {
    let fail = |error: TxnError| format!("furnishing the mill: {error}");
    let (mut furnisher, mut actor) = (arena.seat(FURNISHER)?, arena.seat(FORMER)?);
    build(&mut furnisher).map_err(fail)?;
    let mut other = arena.seat(SURVIVOR)?;
    let found = Mill::open(&arena.region).map_err(|error| error.to_string())?;
    let mill = found.ok_or("there is no mill")?;
    push(&mut other, mill.jobs, &[0xc; SHORT]).map_err(fail)?;
    push(&mut actor, mill.jobs, &[0xd; 300]).map_err(fail)?;
    [furnisher, actor, other].into_iter().for_each(Seat::leave);
    Ok(())
}

fn build(seat: &mut Seat<'_>) -> Result<(), TxnError> {
    let mut txn = seat.begin()?;
    let folder = txn.create_folder("mill")?;
    let attic = txn.create_folder("mill/attic")?;
    let dust = txn.create_counter(attic, "dust")?;
    txn.counter(dust)?.set(9)?;
    let jobs = txn.create_queue(folder, "jobs", 0)?;
    let narrow = txn.create_queue(folder, "narrow", 1)?;
    txn.create_queue(folder, "empty", 0)?;
    let text = txn.create_blob(folder, "text")?;
    txn.blob(text)?.set(&[0xe; TEXT])?;
    txn.queue(jobs)?.push_back(&[0xb; SHORT])?;
    txn.queue(narrow)?.push_back(&[0xb; SHORT])?;
    txn.commit()
}

/// Pushes one item in a transaction of its own.
pub fn push(seat: &mut Seat<'_>, queue: Queue, item: &[u8]) -> Result<(), TxnError> {
    let mut txn = seat.begin()?;
    txn.queue(queue)?.push_back(item)?;
    txn.commit()
}

/// Somebody who comes after the repair takes the first item and pushes another at each end.
pub fn change_queue(seat: &mut Seat<'_>, queue: Queue, items: &mut Vec<Vec<u8>>) -> Result<(), TxnError> {
    let slot = seat.owner().slot.0 as u8;
    let mut txn = seat.begin()?;
    let popped = txn.queue(queue)?.pop_front()?;
    txn.commit()?;
    if popped.as_ref() != items.first() {
        return Err(TxnError::Damaged);
    }
    items.drain(..usize::from(popped.is_some()));
    for front in [false, true] {
        let mut txn = seat.begin()?;
        let mut locked = txn.queue(queue)?;
        let item = vec![slot; SHORT];
        let pushed = if front { locked.push_front(&item) } else { locked.push_back(&item) };
        match pushed {
            Ok(true) => txn.commit()?,
            Ok(false) | Err(TxnError::Full) => continue,
            Err(error) => return Err(error),
        }
        items.insert(if front { 0 } else { items.len() }, item);
    }
    Ok(())
}

/// Likewise a blob.
pub fn change_blob(seat: &mut Seat<'_>, blob: Blob, bytes: &mut [u8]) -> Result<(), TxnError> {
    let mut txn = seat.begin()?;
    let mut locked = txn.blob(blob)?;
    if !bytes.is_empty() {
        locked.write_at(bytes.len() as u64 / 2, &[seat_byte(bytes.len())])?;
        let middle = bytes.len() / 2;
        bytes[middle] = seat_byte(bytes.len());
    }
    txn.commit()
}

fn seat_byte(length: usize) -> u8 {
    length as u8 ^ 0x5a
}

fn mill(shop: &Shop) -> Result<Mill, TxnError> {
    shop.mill.ok_or(TxnError::NotFound)
}

const AT_THE_MILL: Operation = Operation { prepare: furnish, ..CHANGE };

/// Every operation on them.
pub fn operations() -> Vec<Operation> {
    [pushes(), flights(), blobs(), names(), ends()].concat()
}

fn pushes() -> Vec<Operation> {
    vec![
        Operation {
            name: "push an item",
            act: Act::Change(|txn, shop| txn.queue(mill(shop)?.jobs)?.push_back(&[1; SHORT]).map(drop)),
            effect: |model| model.queue("mill", "jobs").push(vec![1; SHORT]),
            telling: true,
            ..AT_THE_MILL
        },
        Operation {
            name: "push the first item",
            act: Act::Change(|txn, shop| txn.queue(mill(shop)?.empty)?.push_front(&[1; SHORT]).map(drop)),
            effect: |model| model.queue("mill", "empty").push(vec![1; SHORT]),
            ..AT_THE_MILL
        },
        Operation {
            name: "pop an item",
            act: Act::Change(|txn, shop| txn.queue(mill(shop)?.jobs)?.pop_front().map(drop)),
            effect: |model| drop(model.queue("mill", "jobs").remove(0)),
            ..AT_THE_MILL
        },
        Operation {
            name: "pop the last item",
            act: Act::Change(|txn, shop| txn.queue(mill(shop)?.narrow)?.pop_back().map(drop)),
            effect: |model| model.queue("mill", "narrow").clear(),
            ..AT_THE_MILL
        },
        Operation {
            name: "push and pop at both ends",
            act: Act::Change(|txn, shop| {
                let mut jobs = txn.queue(mill(shop)?.jobs)?;
                jobs.pop_back()?;
                jobs.push_front(&[2; SHORT])?;
                jobs.pop_back()?;
                jobs.push_back(&[3; 300]).map(drop)
            }),
            effect: |model| {
                let jobs = model.queue("mill", "jobs");
                *jobs = vec![vec![2; SHORT], jobs[0].clone(), vec![3; 300]];
            },
            ..AT_THE_MILL
        },
        Operation {
            name: "wait for an item in vain",
            act: Act::Deed(|actor| {
                let empty = mill(&actor.shop)?.empty;
                mark();
                let deadline = Instant::now() + Duration::from_millis(20);
                actor.seat.begin_with_item(empty, deadline).map(drop)
            }),
            error: Some(TxnError::TimedOut),
            ..AT_THE_MILL
        },
    ]
}

/// Takes the first job, and then does something, from a mark on.
fn with_job(
    actor: &mut Actor<'_>,
    then: fn(&mut Transaction<'_, '_>, &Shop, &common::objects::Taken) -> Result<(), TxnError>,
) -> Result<(), TxnError> {
    let shop = actor.shop;
    let mut txn = actor.seat.begin()?;
    let (taken, _) = txn.queue(mill(&shop)?.jobs)?.take_front()?.ok_or(TxnError::NotFound)?;
    txn.commit()?;
    mark();
    let mut txn = actor.seat.begin()?;
    then(&mut txn, &shop, &taken)?;
    txn.commit()
}

fn flights() -> Vec<Operation> {
    vec![
        Operation {
            // Whoever dies with it has not taken it.
            name: "take an item",
            act: Act::Change(|txn, shop| {
                let mut jobs = txn.queue(mill(shop)?.jobs)?;
                jobs.take_front()?;
                jobs.take_back().map(drop)
            }),
            telling: true,
            ..AT_THE_MILL
        },
        Operation {
            name: "finish an item",
            act: Act::Deed(|actor| with_job(actor, |txn, _, taken| txn.finish(taken))),
            effect: |model| drop(model.queue("mill", "jobs").remove(0)),
            ..AT_THE_MILL
        },
        Operation {
            name: "put an item back",
            act: Act::Deed(|actor| with_job(actor, |txn, _, taken| txn.put_back(taken))),
            ..AT_THE_MILL
        },
        Operation {
            name: "delete a queue with an item in flight",
            act: Act::Deed(|actor| {
                with_job(actor, |txn, shop, _| txn.delete(mill(shop)?.folder, "jobs").map(drop))
            }),
            effect: |model| drop(at_the_mill(model).remove("jobs")),
            goes_on: true,
            ..AT_THE_MILL
        },
    ]
}

fn blobs() -> Vec<Operation> {
    vec![
        Operation {
            name: "a blob's range in place",
            act: Act::Change(|txn, shop| txn.blob(mill(shop)?.text)?.write_at(101, &[4; 21])),
            effect: |model| model.blob("mill", "text")[101..122].fill(4),
            ..AT_THE_MILL
        },
        Operation {
            name: "a blob's range out of place",
            act: Act::Change(|txn, shop| txn.blob(mill(shop)?.text)?.write_at(99, &[4; 270])),
            effect: |model| model.blob("mill", "text")[99..369].fill(4),
            telling: true,
            ..AT_THE_MILL
        },
        Operation {
            name: "a blob replaced",
            act: Act::Change(|txn, shop| txn.blob(mill(shop)?.text)?.set(&[4; 40])),
            effect: |model| *model.blob("mill", "text") = vec![4; 40],
            ..AT_THE_MILL
        },
        Operation {
            name: "a blob of two chunks",
            act: Act::Change(|txn, shop| txn.blob(mill(shop)?.text)?.set(&[4; (256 << 10) + 10])),
            effect: |model| *model.blob("mill", "text") = vec![4; (256 << 10) + 10],
            long: true,
            nested: 10,
            ..AT_THE_MILL
        },
    ]
}

fn names() -> Vec<Operation> {
    vec![
        Operation {
            name: "rename a queue into another folder",
            act: Act::Change(|txn, shop| {
                let mill = mill(shop)?;
                txn.rename(mill.folder, "jobs", mill.attic, "tasks")
            }),
            effect: |model| {
                let jobs = at_the_mill(model).remove("jobs");
                let attic = model.folders.entry("mill/attic".to_owned()).or_default();
                attic.extend(jobs.map(|jobs| ("tasks".to_owned(), jobs)));
            },
            telling: true,
            ..AT_THE_MILL
        },
        Operation {
            name: "rename a blob",
            act: Act::Change(|txn, shop| {
                let folder = mill(shop)?.folder;
                txn.rename(folder, "text", folder, "book")
            }),
            effect: |model| {
                let objects = at_the_mill(model);
                let text = objects.remove("text");
                objects.extend(text.map(|text| ("book".to_owned(), text)));
            },
            ..AT_THE_MILL
        },
        Operation {
            name: "move a folder",
            act: Act::Change(|txn, _| txn.rename_folder("mill/attic", "void/loft")),
            effect: |model| {
                let attic = model.folders.remove("mill/attic");
                model.folders.extend(attic.map(|attic| ("void/loft".to_owned(), attic)));
            },
            ..AT_THE_MILL
        },
        Operation {
            name: "create a queue in folders of its own",
            act: Act::Change(|txn, _| {
                let folder = txn.open_or_create_folder("mill/attic/trunk")?;
                let queue = txn.create_queue(folder, "fresh", 3)?;
                txn.queue(queue)?.push_back(&[1; SHORT]).map(drop)
            }),
            effect: |model| model.queue("mill/attic/trunk", "fresh").push(vec![1; SHORT]),
            ..AT_THE_MILL
        },
        Operation {
            name: "every kind of object at once",
            act: Act::Change(|txn, shop| {
                let mill = mill(shop)?;
                txn.map(shop.stock)?.put(b"plums", &[9; SHORT])?;
                txn.counter(shop.sold)?.add(1)?;
                let item = txn.queue(mill.jobs)?.pop_front()?.ok_or(TxnError::NotFound)?;
                txn.queue(mill.empty)?.push_back(&item)?;
                txn.blob(mill.text)?.write_at(8, &item)?;
                let made = txn.create_blob(shop.folder, "made")?;
                txn.blob(made)?.set(&item)
            }),
            effect: |model| {
                insert(model, "plums", &[9; SHORT]);
                *model.counter("shop", "sold") += 1;
                let item = model.queue("mill", "jobs").remove(0);
                model.queue("mill", "empty").push(item.clone());
                model.blob("mill", "text")[8..8 + SHORT].copy_from_slice(&item);
                *model.blob("shop", "made") = item;
            },
            ..AT_THE_MILL
        },
    ]
}

fn ends() -> Vec<Operation> {
    vec![
        Operation {
            name: "delete a queue",
            act: Act::Change(|txn, shop| txn.delete(mill(shop)?.folder, "jobs").map(drop)),
            effect: |model| drop(at_the_mill(model).remove("jobs")),
            goes_on: true,
            ..AT_THE_MILL
        },
        Operation {
            name: "delete a blob",
            act: Act::Change(|txn, shop| txn.delete(mill(shop)?.folder, "text").map(drop)),
            effect: |model| drop(at_the_mill(model).remove("text")),
            goes_on: true,
            ..AT_THE_MILL
        },
    ]
}

fn at_the_mill(model: &mut Model) -> &mut std::collections::BTreeMap<String, Content> {
    model.folders.entry("mill".to_owned()).or_default()
}
