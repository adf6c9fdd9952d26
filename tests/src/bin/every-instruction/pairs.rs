//! Two living processes: one is stopped at each of its instructions, or asleep, while the other does its work.

use std::path::Path;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering::SeqCst;

use common::bell::Side;
use common::objects::queue::End;
use common::objects::{Map, ReadError};
use common::region::Region;
use common::txn::{Seat, Transaction, TxnError};
use recovery::verify;

use crate::arena::{ACTOR, Arena, FOLLOWER, SURVIVOR_AGAIN};
use crate::mill::{self, Mill, push};
use crate::shop::{self, Shop, put};
use crate::sleepers::rung_by;
use crate::tracee::{Next, Tracee, is_asleep, mark};

/// Every pair.
pub const ALL: [(&str, Pair); 9] = [
    ("those who wait at a queue, and who changes it", |place, _| ring(place)),
    ("a reader of a blob, and a writer", |place, stops| {
        at_the_mill_beside(place, stops, read_blob_for_ever, |seat, mill, turn| {
            let mut txn = seat.begin()?;
            txn.blob(mill.text)?.set(&vec![turn as u8; 300 + turn % 2 * 10])?;
            txn.commit()
        })
    }),
    ("a reader of a queue, and who pushes and pops", |place, stops| {
        at_the_mill_beside(place, stops, peek_for_ever, |seat, mill, turn| {
            let mut txn = seat.begin()?;
            let mut jobs = txn.queue(mill.jobs)?;
            jobs.pop_front()?;
            jobs.push_front(&vec![turn as u8; 30 + turn % 2])?;
            txn.commit()
        })
    }),
    ("who pushes, and who renames the queue", |place, stops| {
        at_the_mill_beside(place, stops, push_for_ever, |seat, mill, turn| {
            let mut txn = seat.begin()?;
            let (names, folders) = (["jobs", "tasks"], [mill.folder, mill.attic]);
            let (now, then) = (turn % 2, (turn + 1) % 2);
            txn.rename(folders[now], names[now], folders[then], names[then])?;
            txn.commit()
        })
    }),
    ("who reads a blob, and who deletes it and makes another", |place, stops| {
        at_the_mill_beside(place, stops, find_and_read_for_ever, |seat, mill, turn| {
            let mut txn = seat.begin()?;
            txn.delete(mill.folder, "text")?;
            let text = txn.create_blob(mill.folder, "text")?;
            txn.blob(text)?.set(&vec![turn as u8; 300 + turn % 2 * 10])?;
            txn.commit()
        })
    }),
    ("who pushes, and who deletes the queue and makes another", |place, stops| {
        at_the_mill_beside(place, stops, find_and_push_for_ever, |seat, mill, turn| {
            let mut txn = seat.begin()?;
            txn.delete(mill.folder, "jobs")?;
            let jobs = txn.create_queue(mill.folder, "jobs", 0)?;
            txn.queue(jobs)?.push_back(&[turn as u8; 30])?;
            txn.commit()
        })
    }),
    ("a reader, and a writer in place", |place, stops| read_beside(place, stops, "wide", |_| 200)),
    ("a reader, and a writer out of place", |place, stops| {
        read_beside(place, stops, "long", |turn| 300 + turn % 2 * 10)
    }),
    ("a writer waits, the map is deleted", |place, _| wait_for_deleted(place)),
];

/// Pairs at the mill, which share the samples of the short form.
pub const OF_THE_MILL: usize = 6;

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

/// One is stopped after some number of instructions of what it does over and over, and another changes something, twice.
fn at_the_mill_beside(
    place: &Path,
    stops: usize,
    live: fn(&Arena, Mill),
    change: fn(&mut Seat<'_>, Mill, usize) -> Result<(), TxnError>,
) -> Result<u64, String> {
    let directory = tempfile::tempdir_in(place).map_err(|error| error.to_string())?;
    let arena = Arena::new(directory.path(), "pair")?;
    shop::furnish(&arena)?;
    mill::furnish(&arena)?;
    let mill = Shop::open(&arena.region)?.mill.ok_or("there is no mill")?;
    change_twice(&arena, mill, 0, change)?;
    let one = Tracee::fork(|| live(&arena, mill))?;
    let undisturbed = advance(&one, usize::MAX)?;
    let mut steps = undisturbed as u64;
    one.go_on()?;
    for stop in (0..=undisturbed).step_by((undisturbed / stops.div_ceil(OF_THE_MILL)).max(1)) {
        steps += advance(&one, stop)? as u64;
        let say = |error| format!("stopped after {stop} instructions: {error}");
        let went_on = go_on_beside(&one, || change_twice(&arena, mill, stop, change));
        went_on.and_then(|changed| changed).map_err(say)?;
    }
    verify::check(&arena.region).first().map_or(Ok(steps), |finding| Err(finding.to_string()))
}

/// Lets one go on once the other has done its work, or has to wait for it.
fn go_on_beside<T: Send>(one: &Tracee, work: impl FnOnce() -> T + Send) -> Result<T, String> {
    let thread = AtomicI32::new(0);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            thread.store(nix::unistd::gettid().as_raw(), SeqCst);
            work()
        });
        let own = std::process::id().cast_signed();
        let waits = || matches!(thread.load(SeqCst), known if known != 0 && is_asleep(own, known));
        while !other.is_finished() && !waits() {
            std::thread::yield_now();
        }
        let went_on = one.go_on();
        let done = other.join().map_err(|_| "the other has panicked".to_owned());
        went_on.and(done)
    })
}

fn change_twice(
    arena: &Arena,
    mill: Mill,
    stop: usize,
    change: fn(&mut Seat<'_>, Mill, usize) -> Result<(), TxnError>,
) -> Result<(), String> {
    let mut seat = arena.seat(FOLLOWER)?;
    let mut turns = [stop * 2, stop * 2 + 1].into_iter();
    let changed = turns.try_for_each(|turn| change(&mut seat, mill, turn));
    let freed = changed.and_then(|()| seat.free_deleted());
    seat.leave();
    freed.map_err(|error| error.to_string())
}

fn read_blob_for_ever(arena: &Arena, mill: Mill) {
    loop {
        mark();
        let bytes = mill.text.get(&arena.region).unwrap_or_default();
        if bytes.len() < 300 || bytes.iter().any(|byte| *byte != bytes[0]) {
            return;
        }
    }
}

fn peek_for_ever(arena: &Arena, mill: Mill) {
    loop {
        mark();
        let item = mill.jobs.peek(&arena.region, End::Front).ok().flatten().unwrap_or_default();
        if item.len() < 30 || item.iter().any(|byte| *byte != item[0]) {
            return;
        }
    }
}

/// Finds a blob by its name and reads it. It may be deleted in between.
fn find_and_read_for_ever(arena: &Arena, mill: Mill) {
    loop {
        mark();
        let found = mill.folder.open_blob(&arena.region, "text");
        match found.and_then(|text| text.get(&arena.region)) {
            Ok(bytes) if bytes.len() >= 300 && bytes.iter().all(|byte| *byte == bytes[0]) => {}
            Err(ReadError::NotFound) => {}
            _ => return,
        }
    }
}

/// Finds a queue by its name, pushes an item and pops it again. It may be deleted in between.
fn find_and_push_for_ever(arena: &Arena, mill: Mill) {
    let Ok(mut seat) = arena.seat(ACTOR) else { return };
    let mut turn = || {
        let jobs = mill.folder.open_queue(&arena.region, "jobs").map_err(|_| TxnError::NotFound)?;
        let mut txn = seat.begin()?;
        let mut jobs = txn.queue(jobs)?;
        jobs.push_back(b"another")?;
        let popped = jobs.pop_back()?;
        txn.commit()?;
        Ok(popped)
    };
    loop {
        mark();
        match turn() {
            Ok(Some(item)) if item == b"another" => {}
            Err(TxnError::NotFound) => {}
            _ => return,
        }
    }
}

/// Pushes and pops an item in one transaction.
fn push_for_ever(arena: &Arena, mill: Mill) {
    let Ok(mut seat) = arena.seat(ACTOR) else { return };
    let mut turn = || {
        let mut txn = seat.begin()?;
        let mut jobs = txn.queue(mill.jobs)?;
        jobs.push_back(b"another")?;
        let popped = jobs.pop_back()?;
        txn.commit()?;
        Ok::<_, TxnError>(popped)
    };
    loop {
        mark();
        if turn() != Ok(Some(b"another".to_vec())) {
            return;
        }
    }
}

/// Somebody sleeps at a queue, and does not look again by himself. Whoever makes what he waits for, leaves it to him, or
/// deletes the queue wakes him.
fn ring(place: &Path) -> Result<u64, String> {
    let directory = tempfile::tempdir_in(place).map_err(|error| error.to_string())?;
    let arena = Arena::new(directory.path(), "pair")?;
    shop::furnish(&arena)?;
    mill::furnish(&arena)?;
    let mill = Shop::open(&arena.region)?.mill.ok_or("there is no mill")?;
    let mut seat = arena.seat(SURVIVOR_AGAIN)?;
    type Deed = fn(&mut Seat<'_>, Mill) -> Result<(), TxnError>;
    let pop: Deed = |seat, mill| {
        let mut txn = seat.begin()?;
        txn.queue(mill.narrow)?.pop_front()?;
        txn.commit()
    };
    let deeds: [(&str, Side, Deed); 6] = [
        ("pushes", Side::Item, |seat, mill| push(seat, mill.narrow, b"another")),
        ("leaves an item", Side::Item, |seat, mill| {
            let soon = std::time::Instant::now() + std::time::Duration::from_secs(5);
            seat.begin_with_item(mill.narrow, soon)?.commit()
        }),
        ("pops and rolls back", Side::Item, |seat, mill| {
            let mut txn = seat.begin()?;
            txn.queue(mill.narrow)?.pop_front().map(drop)
        }),
        ("puts back", Side::Item, |seat, mill| {
            let mut txn = seat.begin()?;
            let taken = txn.queue(mill.narrow)?.take_front()?;
            txn.commit()?;
            let mut txn = seat.begin()?;
            taken.map_or(Ok(()), |(taken, _)| txn.put_back(&taken))?;
            txn.commit()
        }),
        ("pops", Side::Room, pop),
        ("deletes the queue", Side::Item, |seat, mill| {
            let mut txn = seat.begin()?;
            txn.delete(mill.folder, "narrow")?;
            txn.commit()
        }),
    ];
    pop(&mut seat, mill).map_err(|error| error.to_string())?;
    let queue = arena.region.object(mill.narrow.handle().index).ok_or("there is no queue")?;
    for (what, side, deed) in deeds {
        let mut done = Ok(());
        if !rung_by(queue, side, || done = deed(&mut seat, mill)) {
            return Err(format!("who waits is not woken by one who {what}"));
        }
        done.map_err(|error| format!("one who {what}: {error}"))?;
    }
    Ok(0)
}
