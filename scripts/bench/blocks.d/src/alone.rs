//! One process alone: what reading and writing cost.

use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::time::Duration;

use client::block::{Blocks, Options, Producer};

use crate::processes::{self, ns_per_operation};
use crate::table::{Side, Table, Target, in_turn, ratios};
use crate::{Effort, directory};

const LIMIT: Duration = Duration::from_secs(1);

/// 64 bytes by the path without locks, and the same bytes under fcntl's lock.
pub fn read(table: &mut Table, effort: Effort) {
    processes::pin(0);
    let directory = directory();
    let blocks = Blocks::create(directory.path()).expect("a directory");
    blocks.producer("b", Options::default()).expect("a name").publish(&[1; 64], LIMIT).expect("a block");
    let mut consumer = blocks.consumer("b").expect("a block");
    let mut content = Vec::new();
    let locked = tempfile::tempfile_in(directory.path()).expect("a file");
    let (source, mut copy) = ([1_u8; 64], [0_u8; 64]);
    let rounds = in_turn(
        effort.rounds,
        &mut [
            &mut || {
                ns_per_operation(effort, || {
                    consumer.read(&mut content).expect("content");
                    black_box(&content);
                })
            },
            &mut || {
                ns_per_operation(effort, || {
                    lock(&locked, libc::F_RDLCK);
                    copy.copy_from_slice(black_box(&source));
                    black_box(&copy);
                    lock(&locked, libc::F_UNLCK);
                })
            },
        ],
    );
    let (ours, theirs) =
        (Side { name: "block", rounds: &rounds[0] }, Side { name: "fcntl", rounds: &rounds[1] });
    table.compare("read 64 bytes", &ours, &theirs, &ratios(&rounds[1], &rounds[0]), Target::AtLeast(50.0));
}

fn lock(file: &std::fs::File, kind: libc::c_int) {
    // SAFETY: a plain structure, zero is a valid one; the kernel reads it.
    let taken = unsafe {
        let mut what: libc::flock = std::mem::zeroed();
        what.l_type = kind as libc::c_short;
        what.l_len = 1;
        libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const what)
    };
    assert_eq!(taken, 0, "nobody else wants it");
}

/// So many contents of 1 MiB that none is in the second-level cache when its turn comes again.
const CONTENTS: usize = 16;

/// 1 MiB of new content, published, and the same copied by memcpy. A block has two places, because what was published
/// before must stand until the new content is whole, so memcpy goes to two places in turn; how much slower that alone
/// is than to one, which stays in the second-level cache, is shown beside it.
pub fn write(table: &mut Table, effort: Effort) {
    processes::pin(0);
    let directory = directory();
    let blocks = Blocks::create(directory.path()).expect("a directory");
    let contents: Vec<_> = (0..CONTENTS).map(|number| vec![number as u8; 1 << 20]).collect();
    let producer = |name: &str| {
        let mut producer = blocks.producer(name, Options::default()).expect("a name");
        for _ in 0..4 {
            producer.publish(&contents[0], LIMIT).expect("a block");
        }
        producer
    };
    let (mut once, mut held) = (producer("once"), producer("held"));
    held.hold(LIMIT).expect("the lock");
    let mut places = [vec![0_u8; 1 << 20], vec![0_u8; 1 << 20]];
    let mut copy = |place: usize, content: &[u8]| {
        places[place].copy_from_slice(black_box(content));
        black_box(&places);
    };
    let publish = |producer: &mut Producer, content: &[u8]| {
        producer.publish(content, LIMIT).expect("a version");
    };
    let new = |turn: usize| &contents[turn % CONTENTS][..];
    let mut rounds = vec![Vec::new(); 6];
    for _ in 0..effort.rounds {
        let taken = [
            per_megabyte(effort, |turn| publish(&mut held, new(turn))),
            per_megabyte(effort, |turn| publish(&mut once, new(turn))),
            per_megabyte(effort, |turn| copy(turn % 2, new(turn))),
            per_megabyte(effort, |turn| copy(0, new(turn))),
            per_megabyte(effort, |_| publish(&mut held, new(0))),
            per_megabyte(effort, |_| copy(0, new(0))),
        ];
        rounds.iter_mut().zip(taken).for_each(|(rounds, ns)| rounds.push(ns));
    }
    let mut row = |what: &str, mine: (&'static str, usize), theirs: (&'static str, usize), target: Target| {
        let side = |(name, number): (&'static str, usize)| Side { name, rounds: &rounds[number] };
        let rate = ratios(&rounds[theirs.1], &rounds[mine.1]);
        table.compare(what, &side(mine), &side(theirs), &rate, target);
    };
    let memcpy = ("memcpy", 2);
    row("write 1 MiB, lock kept", ("block", 0), memcpy, Target::AtLeast(0.8));
    row("write 1 MiB, lock for each", ("block", 1), memcpy, Target::None);
    row("memcpy: two places, one", ("two", 2), ("one", 3), Target::None);
    row("write 1 MiB: memcpy to one", ("block", 0), ("one", 3), Target::None);
    row("the same 1 MiB again and again", ("block", 4), ("one", 5), Target::None);
}

/// As [`ns_per_operation`], which looks at the clock too rarely for what takes this long.
fn per_megabyte(effort: Effort, mut operation: impl FnMut(usize)) -> f64 {
    (0..20).for_each(&mut operation);
    let (began, count) = (std::time::Instant::now(), effort.slice_ms as usize * 10);
    (0..count).for_each(operation);
    began.elapsed().as_secs_f64() * 1e9 / count as f64
}

/// 4 MiB, used where they lie, and copied.
pub fn large(table: &mut Table, effort: Effort) {
    processes::pin(0);
    let directory = directory();
    let blocks = Blocks::create(directory.path()).expect("a directory");
    let content = vec![7_u8; 4 << 20];
    blocks.producer("b", Options::default()).expect("a name").publish(&content, LIMIT).expect("a block");
    let mut consumer = blocks.consumer("b").expect("a block");
    let mut copy = vec![0_u8; 4 << 20];
    let rounds = in_turn(
        effort.rounds,
        &mut [
            &mut || {
                ns_per_operation(effort, || {
                    black_box(consumer.pin().expect("a pin").pointer().expect("its place"));
                })
            },
            &mut || {
                per_megabyte(Effort { slice_ms: effort.slice_ms / 4, ..effort }, |_| {
                    copy.copy_from_slice(black_box(&content));
                    black_box(&copy);
                })
            },
        ],
    );
    let (ours, theirs) =
        (Side { name: "pin", rounds: &rounds[0] }, Side { name: "memcpy", rounds: &rounds[1] });
    table.compare("get at 4 MiB", &ours, &theirs, &ratios(&rounds[0], &rounds[1]), Target::AtMost(0.05));
}
