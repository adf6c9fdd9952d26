//! The operations that are proved: for each what has been before, what it does, and what then should be.

use common::ids::Offset;
use common::objects::Folder;
use common::slots::Counter;
use common::tally;
use common::txn::{Seat, Transaction, TxnError};

use recovery::checkpoint::capture::{Capture, Sheet};

use crate::arena::{Arena, FORMER, FURNISHER};
use crate::mill;
use crate::model::{Content, Model};
use crate::shop::{SHORT, Shop, USER, put, remove, send};
use crate::tracee::mark;

/// Who does an operation.
pub struct Actor<'r> {
    pub arena: &'r Arena,
    pub seat: Seat<'r>,
    pub shop: Shop,
}

/// What a transaction does.
pub type Change = fn(&mut Transaction<'_, '_>, &Shop) -> Result<(), TxnError>;

/// What an actor does, from a mark that it sets on.
pub type Deed = fn(&mut Actor<'_>) -> Result<(), TxnError>;

/// The part that is executed instruction by instruction.
#[derive(Clone, Copy)]
pub enum Act {
    /// In a transaction, which is committed or rolled back.
    Change(Change),
    /// Something that begins and ends its transactions itself.
    Deed(Deed),
}

/// One operation.
#[derive(Clone, Copy)]
pub struct Operation {
    pub name: &'static str,
    /// Furnishes what it needs besides the shop.
    pub prepare: fn(&Arena) -> Result<(), String>,
    pub act: Act,
    /// What it changes, once it is committed.
    pub effect: fn(&mut Model),
    /// The error that it should end with.
    pub error: Option<TxnError>,
    /// Whether rivals are of interest also in the short form.
    pub contended: bool,
    /// Whether it finds a planted mistake that nothing else does; with those who wait at its queue, if it has one.
    pub telling: bool,
    /// Whether further transactions follow the one that decides: they free what was deleted.
    pub goes_on: bool,
    /// Whether it has a record in the journal.
    pub records: bool,
    /// Whether it takes a checkpoint: it takes marks away, and changes nothing.
    pub captures: bool,
    /// So long that the short form leaves it out.
    pub long: bool,
    /// Of how many images at most the repair is stepped through: some have a log that takes long.
    pub nested: usize,
}

pub const CHANGE: Operation = Operation {
    name: "",
    prepare: |_| Ok(()),
    act: Act::Change(|_, _| Ok(())),
    effect: |_| {},
    error: None,
    contended: false,
    telling: false,
    goes_on: false,
    records: false,
    captures: false,
    long: false,
    nested: usize::MAX,
};

/// Every operation.
pub fn all() -> Vec<Operation> {
    let of_the_shop = [
        puts(),
        removals(),
        counters(),
        creations(),
        deletions(),
        failures(),
        slabs(),
        messages(),
        checkpoints(),
    ];
    [of_the_shop.concat(), mill::operations()].concat()
}

/// Keys enough for buckets to be split that have entries.
const PLUMS: [&str; 4] = ["plums", "damsons", "greengages", "mirabelles"];

fn puts() -> Vec<Operation> {
    vec![
        Operation {
            name: "put a new key",
            act: Act::Change(|txn, shop| txn.map(shop.stock)?.put(b"plums", &[9; SHORT]).map(drop)),
            effect: |model| insert(model, "plums", &[9; SHORT]),
            contended: true,
            ..CHANGE
        },
        Operation {
            name: "put in place",
            act: Act::Change(|txn, shop| txn.map(shop.stock)?.put(b"apples", &[9; SHORT]).map(drop)),
            effect: |model| insert(model, "apples", &[9; SHORT]),
            contended: true,
            ..CHANGE
        },
        Operation {
            name: "put in place, another length",
            act: Act::Change(|txn, shop| txn.map(shop.stock)?.put(b"apples", &[9; 10]).map(drop)),
            effect: |model| insert(model, "apples", &[9; 10]),
            ..CHANGE
        },
        Operation {
            name: "put out of place",
            act: Act::Change(|txn, shop| txn.map(shop.stock)?.put(b"long", &[9; 310]).map(drop)),
            effect: |model| insert(model, "long", &[9; 310]),
            ..CHANGE
        },
        Operation {
            name: "puts that split buckets",
            prepare: |arena| fill_stock_to(arena, 12),
            act: Act::Change(|txn, shop| {
                let mut stock = txn.map(shop.stock)?;
                PLUMS.iter().try_for_each(|key| stock.put(key.as_bytes(), &[9; SHORT]).map(drop))
            }),
            effect: |model| PLUMS.iter().for_each(|key| insert(model, key, &[9; SHORT])),
            ..CHANGE
        },
        Operation {
            name: "put that grows a directory level",
            // With one entry more it needs more buckets than one page has.
            prepare: |arena| fill_stock_to(arena, 256),
            act: Act::Change(|txn, shop| txn.map(shop.stock)?.put(b"plums", &[9; SHORT]).map(drop)),
            effect: |model| insert(model, "plums", &[9; SHORT]),
            ..CHANGE
        },
        Operation {
            name: "put that takes a slab",
            act: Act::Change(|txn, shop| txn.map(shop.stock)?.put(b"plums", &[9; 100]).map(drop)),
            effect: |model| insert(model, "plums", &[9; 100]),
            contended: true,
            ..CHANGE
        },
        Operation {
            // Two of these share a page: the second slab is put behind the first.
            name: "puts that take two slabs",
            act: Act::Change(|txn, shop| {
                let mut stock = txn.map(shop.stock)?;
                PLUMS[..3].iter().try_for_each(|key| stock.put(key.as_bytes(), &[9; 1900]).map(drop))
            }),
            effect: |model| PLUMS[..3].iter().for_each(|key| insert(model, key, &[9; 1900])),
            contended: true,
            ..CHANGE
        },
        Operation {
            name: "put of whole pages",
            act: Act::Change(|txn, shop| txn.map(shop.stock)?.put(b"plums", &[9; 9000]).map(drop)),
            effect: |model| insert(model, "plums", &[9; 9000]),
            long: true,
            ..CHANGE
        },
    ]
}

fn removals() -> Vec<Operation> {
    vec![
        Operation {
            name: "remove",
            act: Act::Change(|txn, shop| txn.map(shop.stock)?.remove(b"mine").map(drop)),
            effect: |model| drop(model.map("shop", "stock").remove(b"mine".as_slice())),
            ..CHANGE
        },
        Operation {
            name: "remove another slot's block",
            act: Act::Change(|txn, shop| txn.map(shop.stock)?.remove(b"theirs").map(drop)),
            effect: |model| drop(model.map("shop", "stock").remove(b"theirs".as_slice())),
            contended: true,
            ..CHANGE
        },
    ]
}

fn counters() -> Vec<Operation> {
    vec![
        Operation {
            name: "counter add",
            act: Act::Change(|txn, shop| txn.counter(shop.sold)?.add(2).map(drop)),
            effect: |model| *model.counter("shop", "sold") += 2,
            ..CHANGE
        },
        Operation {
            name: "counter set",
            act: Act::Change(|txn, shop| txn.counter(shop.sold)?.set(77)),
            effect: |model| *model.counter("shop", "sold") = 77,
            ..CHANGE
        },
        Operation {
            name: "two maps and two counters",
            act: Act::Change(across),
            effect: |model| {
                insert(model, "plums", &[9; SHORT]);
                model.map("shop", "other").remove(b"this".as_slice());
                *model.counter("shop", "sold") += 1;
                model.counters[FORMER.slot.0 as usize][Counter::Errors as usize] += 1;
            },
            contended: true,
            ..CHANGE
        },
    ]
}

fn across(txn: &mut Transaction<'_, '_>, shop: &Shop) -> Result<(), TxnError> {
    txn.map(shop.stock)?.put(b"plums", &[9; SHORT])?;
    txn.map(shop.other)?.remove(b"this")?;
    txn.counter(shop.sold)?.add(1)?;
    txn.add(Counter::Errors, 1)
}

fn creations() -> Vec<Operation> {
    vec![
        Operation {
            name: "create a map and put",
            act: Act::Change(|txn, shop| {
                let map = txn.create_map(shop.folder, "fresh")?;
                txn.map(map)?.put(b"plums", &[9; SHORT]).map(drop)
            }),
            effect: |model| drop(model.map("shop", "fresh").insert(b"plums".into(), vec![9; SHORT])),
            ..CHANGE
        },
        Operation {
            name: "create a counter",
            act: Act::Change(|txn, shop| txn.create_counter(shop.folder, "fresh").map(drop)),
            effect: |model| *model.counter("shop", "fresh") = 0,
            ..CHANGE
        },
        Operation {
            name: "create a folder",
            act: Act::Change(|txn, _| txn.create_folder("fresh").map(drop)),
            effect: |model| drop(model.folders.insert("fresh".to_owned(), Default::default())),
            ..CHANGE
        },
    ]
}

fn deletions() -> Vec<Operation> {
    vec![
        Operation {
            name: "delete a map with entries",
            act: Act::Change(|txn, shop| txn.delete(shop.folder, "stock").map(drop)),
            effect: |model| drop(shop_of(model).remove("stock")),
            goes_on: true,
            contended: true,
            ..CHANGE
        },
        Operation {
            name: "delete a map of two levels",
            prepare: |arena| fill_stock_to(arena, 270),
            act: Act::Change(|txn, shop| txn.delete(shop.folder, "stock").map(drop)),
            effect: |model| drop(shop_of(model).remove("stock")),
            goes_on: true,
            long: true,
            nested: 40,
            ..CHANGE
        },
        Operation {
            name: "delete a counter",
            act: Act::Change(|txn, shop| txn.delete(shop.folder, "sold").map(drop)),
            effect: |model| drop(shop_of(model).remove("sold")),
            ..CHANGE
        },
        Operation {
            name: "delete a folder",
            act: Act::Change(|txn, _| txn.delete_folder("void").map(drop)),
            effect: |model| drop(model.folders.remove("void")),
            goes_on: true,
            ..CHANGE
        },
    ]
}

fn failures() -> Vec<Operation> {
    vec![
        Operation {
            name: "a heap that is full",
            prepare: fill_heap,
            act: Act::Change(|txn, shop| {
                txn.map(shop.other)?.remove(b"this")?;
                txn.map(shop.other)?.put(b"large", &[9; 20_000]).map(drop)
            }),
            error: Some(TxnError::Full),
            ..CHANGE
        },
        Operation {
            name: "a log that is full",
            act: Act::Deed(overflow),
            nested: 40,
            error: Some(TxnError::TooLarge),
            ..CHANGE
        },
    ]
}

/// Most of the log is filled before the mark, by what changes nothing.
fn overflow(actor: &mut Actor<'_>) -> Result<(), TxnError> {
    let shop = actor.shop;
    let mut txn = actor.seat.begin()?;
    for _ in 0..870 {
        let mut sold = txn.counter(shop.sold)?;
        let same = sold.get();
        sold.set(same)?;
    }
    mark();
    for number in 0..100_u8 {
        txn.map(shop.stock)?.put(&[number], &[9; SHORT])?;
    }
    txn.commit()
}

fn slabs() -> Vec<Operation> {
    vec![
        Operation {
            name: "give a slab back",
            prepare: |arena| {
                // Slabs go back once half of the heap is taken.
                through_former(arena, |seat, shop| {
                    put(seat, shop.other, "ballast", &[9; 128 << 10])?;
                    put(seat, shop.other, "more ballast", &[9; 40 << 10])
                })?;
                through_former(arena, |seat, shop| {
                    let keys = || (0..70).map(|number| format!("brief {number}"));
                    keys().try_for_each(|key| put(seat, shop.stock, &key, &[9; 100]))?;
                    keys().try_for_each(|key| remove(seat, shop.stock, &key))
                })
            },
            act: Act::Change(|txn, shop| txn.map(shop.stock)?.put(b"plums", &[9; 100]).map(drop)),
            effect: |model| insert(model, "plums", &[9; 100]),
            contended: true,
            ..CHANGE
        },
        Operation {
            name: "give whole pages back",
            prepare: |arena| {
                through_former(arena, |seat, shop| {
                    put(seat, shop.stock, "brief", &[9; 20_000])?;
                    remove(seat, shop.stock, "brief")
                })
            },
            act: Act::Change(|txn, shop| txn.map(shop.stock)?.put(b"plums", &[9; 4080]).map(drop)),
            effect: |model| insert(model, "plums", &[9; 4080]),
            long: true,
            ..CHANGE
        },
    ]
}

fn messages() -> Vec<Operation> {
    vec![
        Operation {
            name: "a message of a user with a row",
            act: Act::Deed(|actor| message(actor, USER, |_, _| Ok(()))),
            effect: |model| record(model, USER),
            records: true,
            ..CHANGE
        },
        Operation {
            name: "a message of a user without",
            prepare: |arena| {
                let mut seat = arena.seat(FURNISHER)?;
                for number in 0..64 {
                    let enrolled = tally::account(&mut seat, &format!("user {number}"));
                    enrolled.map_err(|error| error.to_string())?;
                }
                send(arena, &mut seat, "zoe", "one")?;
                seat.leave();
                Ok(())
            },
            act: Act::Deed(|actor| message(actor, "zoe", |_, _| Ok(()))),
            effect: |model| {
                let sent = model.users["zoe"];
                let name = stripe_of_zoe(model);
                let bytes = (u128::from(sent.messages + 1) | u128::from(sent.bytes + 4) << 64).to_le_bytes();
                model.map("users", &name).insert(b"zoe".into(), bytes.into());
                record(model, "zoe");
            },
            records: true,
            ..CHANGE
        },
        Operation {
            name: "a message with changes",
            act: Act::Deed(|actor| {
                message(actor, USER, |txn, shop| {
                    txn.map(shop.stock)?.remove(b"theirs")?;
                    txn.map(shop.stock)?.put(b"plums", &[9; SHORT]).map(drop)
                })
            }),
            effect: |model| {
                insert(model, "plums", &[9; SHORT]);
                model.map("shop", "stock").remove(b"theirs".as_slice());
                record(model, USER);
            },
            records: true,
            ..CHANGE
        },
        Operation {
            name: "a user is enrolled",
            act: Act::Deed(|actor| {
                mark();
                tally::account(&mut actor.seat, "bert").map(drop)
            }),
            effect: |model| {
                model.map("users", "rows").insert(b"bert".into(), 1_u16.to_le_bytes().into());
                model.users.insert("bert".to_owned(), Default::default());
            },
            ..CHANGE
        },
    ]
}

fn checkpoints() -> Vec<Operation> {
    vec![Operation {
        name: "a checkpoint",
        act: Act::Deed(|actor| {
            let capture = Capture::new(&actor.arena.region, actor.seat.owner()).at_once();
            mark();
            capture.take(&mut Nowhere).map(drop).map_err(|_| TxnError::Disturbed)
        }),
        captures: true,
        ..CHANGE
    }]
}

/// What is taken is looked at elsewhere: here it is what the region looks like meanwhile.
struct Nowhere;

impl Sheet for Nowhere {
    fn put(&mut self, _offset: Offset, _bytes: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
}

/// The text of the messages.
const TEXT: &str = "text";

/// As the worker does it.
fn message(actor: &mut Actor<'_>, user: &str, change: Change) -> Result<(), TxnError> {
    let shop = actor.shop;
    let account = tally::account(&mut actor.seat, user)?;
    let mut writer = actor.arena.writer().map_err(|_| TxnError::Disturbed)?;
    let intent = &actor.seat.slot().intent;
    mark();
    let mut txn = actor.seat.begin()?;
    change(&mut txn, &shop)?;
    txn.count_message(account, user, TEXT.len() as u64)?;
    writer.append(&txn, user, TEXT).map_err(|_| TxnError::Disturbed)?;
    txn.commit()?;
    writer.settle(intent).map_err(|_| TxnError::Disturbed)
}

fn record(model: &mut Model, user: &str) {
    model.records.push((user.to_owned(), TEXT.to_owned()));
    let sent = model.users.entry(user.to_owned()).or_default();
    sent.messages += 1;
    sent.bytes += TEXT.len() as u64;
    let counters = &mut model.counters[FORMER.slot.0 as usize];
    counters[Counter::Messages as usize] += 1;
    counters[Counter::Bytes as usize] += TEXT.len() as u64;
}

fn stripe_of_zoe(model: &Model) -> String {
    let has_zoe =
        |content: &Content| matches!(content, Content::Map(entries, _) if entries.contains_key(&b"zoe"[..]));
    let users = &model.folders["users"];
    users.iter().find(|(_, content)| has_zoe(content)).map(|(name, _)| name.clone()).unwrap_or_default()
}

pub fn insert(model: &mut Model, key: &str, value: &[u8]) {
    model.map("shop", "stock").insert(key.into(), value.into());
}

fn shop_of(model: &mut Model) -> &mut std::collections::BTreeMap<String, Content> {
    model.folders.entry("shop".to_owned()).or_default()
}

fn fill_stock_to(arena: &Arena, count: u64) -> Result<(), String> {
    let mut seat = arena.seat(FURNISHER)?;
    let stock = Shop::open(&arena.region)?.stock;
    for number in 0.. {
        if stock.len(&arena.region) == Ok(count) {
            break;
        }
        put(&mut seat, stock, &format!("{number}"), &[6; 8]).map_err(|error| error.to_string())?;
    }
    seat.leave();
    Ok(())
}

fn fill_heap(arena: &Arena) -> Result<(), String> {
    let mut seat = arena.seat(FURNISHER)?;
    let far = Folder::open(&arena.region, "shop").map_err(|error| error.to_string())?;
    let mut txn = seat.begin().map_err(|error| error.to_string())?;
    let ballast = txn.create_map(far, "ballast").map_err(|error| error.to_string())?;
    txn.commit().map_err(|error| error.to_string())?;
    for size in [100_000, 10_000, 3_000] {
        for number in 0..1000 {
            if put(&mut seat, ballast, &format!("{size} {number}"), &vec![6; size]).is_err() {
                break;
            }
        }
    }
    seat.leave();
    Ok(())
}

fn through_former(
    arena: &Arena,
    prepare: impl FnOnce(&mut Seat<'_>, &Shop) -> Result<(), TxnError>,
) -> Result<(), String> {
    let shop = Shop::open(&arena.region)?;
    let mut seat = arena.seat(FORMER)?;
    prepare(&mut seat, &shop).map_err(|error| error.to_string())?;
    seat.leave();
    Ok(())
}
