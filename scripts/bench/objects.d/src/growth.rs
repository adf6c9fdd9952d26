//! What an operation costs as the object grows, beside the standard library's.

use std::collections::VecDeque;
use std::hint::black_box;

use common::objects::{Blob, Queue};
use common::region::Region;
use common::txn::Seat;

use crate::ours::{self, Ours, some_day};
use crate::processes::{ns_per_operation, pin, unpin};
use crate::table::{Table, Target, median};
use crate::{Effort, ITEM};

const SMALLEST: u64 = 100;

/// Slices of which the least is a figure.
const TURNS: usize = 3;

/// Both at one size.
struct Pair<'r> {
    region: &'r Region,
    queue: Queue,
    deque: VecDeque<Box<[u8; ITEM]>>,
    blob: Blob,
    vector: Vec<u8>,
    effort: Effort,
}

/// Ours and the standard library's, in nanoseconds.
type Figures = [f64; 2];

pub fn run(table: &mut Table, effort: Effort) {
    pin(0);
    let ours = Ours::new(1 << 30);
    let sizes: Vec<u64> = std::iter::successors(Some(SMALLEST), |size| Some(size * 10))
        .take_while(|size| *size <= effort.entries)
        .collect();
    let mut pairs: Vec<Pair<'_>> =
        sizes.iter().map(|entries| Pair::filled(&ours, *entries, effort)).collect();
    let mut seat = ours.seat(0);
    let (mut queues, mut chained, mut apart) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..effort.rounds {
        queues.push(round(&mut pairs, number, |pair, turn| pair.push_and_pop(&mut seat, turn)));
        chained.push(round(&mut pairs, number, |pair, turn| pair.read::<true>(turn)));
        apart.push(round(&mut pairs, number, |pair, turn| pair.read::<false>(turn)));
    }
    // How many independent reads are under way at once depends on how short a read is, and Vec's is the shortest that there
    // can be: that row is shown, and has no target.
    for (what, theirs, rounds, counts) in [
        ("push and pop", "VecDeque", &queues, true),
        ("read", "Vec", &chained, true),
        ("reads at once", "Vec", &apart, false),
    ] {
        for (index, entries) in sizes.iter().enumerate() {
            let of = |side: usize| rounds.iter().map(|round| round[index][side]).collect::<Vec<_>>();
            let grown: Vec<f64> = rounds
                .iter()
                .map(|round| (round[index][0] / round[0][0]) / (round[index][1] / round[0][1]))
                .collect();
            // The target is about the whole way; the sizes between show where it is steep.
            let target = if counts && index + 1 == sizes.len() { Target::AtMost(1.3) } else { Target::None };
            let figures = format!("region {:.1} ns, {theirs} {:.1} ns", median(&of(0)), median(&of(1)));
            table.line(&format!("{what}, {entries} entries"), &figures, &grown, target);
        }
    }
    unpin();
}

/// All sizes in every round, so that each ratio is of figures of the same moment. Every figure is the least of several short
/// slices, between which all others have theirs: what disturbs the machine only ever adds, and it shall not add to the
/// smallest size alone. The sizes go up and down in turn, and so do the sides, so that nobody always follows the same one.
fn round<'r>(
    pairs: &mut [Pair<'r>],
    number: usize,
    mut measure: impl FnMut(&mut Pair<'r>, usize) -> Figures,
) -> Vec<Figures> {
    let mut least = vec![[f64::MAX; 2]; pairs.len()];
    for turn in 0..TURNS {
        for place in 0..pairs.len() {
            let index = if (number + turn).is_multiple_of(2) { place } else { pairs.len() - 1 - place };
            let measured = measure(&mut pairs[index], number + turn);
            least[index].iter_mut().zip(measured).for_each(|(least, now)| *least = least.min(now));
        }
    }
    least
}

/// Measures both sides for a slice each; which is first is another one each turn.
fn both(effort: Effort, turn: usize, mut ours: impl FnMut(), mut theirs: impl FnMut()) -> Figures {
    let mut figures = [0.0; 2];
    for side in [turn % 2, 1 - turn % 2] {
        figures[side] = match side {
            0 => ns_per_operation(effort, &mut ours),
            _ => ns_per_operation(effort, &mut theirs),
        };
    }
    figures
}

impl<'r> Pair<'r> {
    fn filled(ours: &'r Ours, entries: u64, effort: Effort) -> Self {
        let effort = Effort { slice_ms: effort.slice_ms / TURNS as u64, ..effort };
        let queue = ours.queue(&format!("queue {entries}"), 0);
        let mut seat = ours.seat(0);
        let mut deque = VecDeque::new();
        for number in 0..entries {
            ours::push(&mut seat, queue, some_day(), &[number as u8; ITEM]).expect("push");
            deque.push_back(Box::new([number as u8; ITEM]));
        }
        seat.leave();
        // The longest blob is a little shorter than a million entries are.
        let bytes = (entries * ITEM as u64).min(common::limits::MAX_BLOB) as usize;
        let vector: Vec<u8> = (0..bytes).map(|place| place as u8).collect();
        let blob = ours.blob(&format!("blob {entries}"), &vector);
        Self { region: &ours.region, queue, deque, blob, vector, effort }
    }

    /// A push behind the last and a pop of the first.
    fn push_and_pop(&mut self, seat: &mut Seat<'_>, turn: usize) -> Figures {
        let (queue, deque, mut item) = (self.queue, &mut self.deque, Vec::new());
        let deadline = some_day();
        both(
            self.effort,
            turn,
            || {
                ours::push(seat, queue, deadline, black_box(&[3; ITEM])).expect("push");
                ours::pop(seat, queue, deadline, &mut item).expect("pop");
            },
            || {
                deque.push_back(Box::new(black_box([3; ITEM])));
                black_box(deque.pop_front());
            },
        )
    }

    /// A read of 64 bytes anywhere. CHAINED: what is read says where the next one is, as where one looks things up;
    /// otherwise the processor has as many under way at once as its window takes.
    fn read<const CHAINED: bool>(&self, turn: usize) -> Figures {
        let places = (self.vector.len() / ITEM) as u64;
        let (mut one, mut other) = (Places(1, places), Places(1, places));
        let (mut bytes, mut copy) = ([0; ITEM], [0; ITEM]);
        both(
            self.effort,
            turn,
            || {
                let at = one.next(if CHAINED { bytes[0] } else { 0 });
                assert_eq!(self.blob.read_at(self.region, at, &mut bytes), Ok(true));
                black_box(&bytes);
            },
            || {
                let at = other.next(if CHAINED { copy[0] } else { 0 }) as usize;
                copy.copy_from_slice(&self.vector[at..at + ITEM]);
                black_box(&copy);
            },
        )
    }
}

/// The same places in every run (xorshift).
struct Places(u64, u64);

impl Places {
    #[inline]
    fn next(&mut self, read: u8) -> u64 {
        self.0 = self.0.wrapping_add(u64::from(read));
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % self.1 * ITEM as u64
    }
}
