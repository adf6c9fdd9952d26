//! Reading 64 bytes of a blob, beside what a reader under a bare sequence lock does.

use std::hint::black_box;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::atomic::{AtomicU64, fence};

use crate::ours::Ours;
use crate::processes::{ns_per_operation, pin, unpin};
use crate::table::{Side, Table, Target, in_turn, ratios};
use crate::{Effort, ITEM};

/// Reads in one step of the clock's loop: the loop itself is not what is measured.
const READS: usize = 64;

/// A sequence word and what it covers.
#[repr(C, align(64))]
struct Bare {
    seq: AtomicU64,
    words: [AtomicU64; ITEM / 8],
}

impl Bare {
    #[inline]
    fn read(&self, bytes: &mut [u8; ITEM]) {
        loop {
            let before = self.seq.load(Acquire);
            for (place, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(&self.words) {
                *place = word.load(Relaxed).to_le_bytes();
            }
            fence(Acquire);
            if before & 1 == 0 && self.seq.load(Relaxed) == before {
                return;
            }
        }
    }
}

pub fn run(table: &mut Table, effort: Effort) {
    pin(0);
    let ours = Ours::new(16 << 20);
    let blob = ours.blob("blob", &[7; ITEM]);
    let bare = Bare { seq: AtomicU64::new(4), words: [const { AtomicU64::new(7) }; ITEM / 8] };
    let (mut bytes, mut other) = ([0; ITEM], [0; ITEM]);
    let measured = in_turn(
        effort.rounds,
        &mut [
            &mut || {
                ns_per_operation(effort, || {
                    for _ in 0..READS {
                        assert_eq!(black_box(blob).read_at(&ours.region, black_box(0), &mut bytes), Ok(true));
                        black_box(&bytes);
                    }
                }) / READS as f64
            },
            &mut || {
                ns_per_operation(effort, || {
                    for _ in 0..READS {
                        black_box(&bare).read(&mut other);
                        black_box(&other);
                    }
                }) / READS as f64
            },
        ],
    );
    let [mine, theirs] = &measured[..] else { unreachable!("two contenders") };
    let (one, other) = (Side { name: "blob", rounds: mine }, Side { name: "bare", rounds: theirs });
    table.compare("read of 64 bytes", &one, &other, &ratios(mine, theirs), Target::AtMost(5.0));
    unpin();
}
