//! One process alone: what reading and writing cost.

use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::time::Duration;

use client::block::{Blocks, Options};

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

/// 1 MiB, published, and the same copied by memcpy to where it was before, and to two places in turn as a block does.
pub fn write(table: &mut Table, effort: Effort) {
    processes::pin(0);
    let directory = directory();
    let blocks = Blocks::create(directory.path()).expect("a directory");
    let content = vec![7_u8; 1 << 20];
    let producer = |name: &str| {
        let mut producer = blocks.producer(name, Options::default()).expect("a name");
        for _ in 0..4 {
            producer.publish(&content, LIMIT).expect("a block");
        }
        producer
    };
    let (mut once, mut held) = (producer("once"), producer("held"));
    held.hold(LIMIT).expect("the lock");
    let mut copies = [vec![0_u8; 1 << 20], vec![0_u8; 1 << 20]];
    let mut copy = vec![0_u8; 1 << 20];
    let mut turn = 0;
    let rounds = in_turn(
        effort.rounds,
        &mut [
            &mut || {
                per_megabyte(effort, || {
                    held.publish(&content, LIMIT).expect("a version");
                })
            },
            &mut || {
                per_megabyte(effort, || {
                    once.publish(&content, LIMIT).expect("a version");
                })
            },
            &mut || {
                per_megabyte(effort, || {
                    turn ^= 1;
                    copies[turn].copy_from_slice(black_box(&content));
                    black_box(&copies);
                })
            },
            &mut || {
                per_megabyte(effort, || {
                    copy.copy_from_slice(black_box(&content));
                    black_box(&copy);
                })
            },
        ],
    );
    let side = |name, number: usize| Side { name, rounds: &rounds[number] };
    let rate = |mine: usize, theirs: usize| ratios(&rounds[theirs], &rounds[mine]);
    let memcpy = side("memcpy", 3);
    table.compare("write 1 MiB, lock kept", &side("block", 0), &memcpy, &rate(0, 3), Target::AtLeast(0.8));
    table.compare("write 1 MiB, lock for each", &side("block", 1), &memcpy, &rate(1, 3), Target::None);
    table.compare("the same, two places", &side("block", 0), &side("memcpy", 2), &rate(0, 2), Target::None);
}

/// As [`ns_per_operation`], which looks at the clock too rarely for what takes this long.
fn per_megabyte(effort: Effort, mut operation: impl FnMut()) -> f64 {
    (0..20).for_each(|_| operation());
    let (began, count) = (std::time::Instant::now(), effort.slice_ms * 10);
    (0..count).for_each(|_| operation());
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
                per_megabyte(Effort { slice_ms: effort.slice_ms / 4, ..effort }, || {
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
