//! As many items as two processes pass on, beside a ring in C.

use std::cell::Cell;
use std::process::Command;

use crate::ours::{self, Ours, some_day};
use crate::processes::{beside, ns_per_operation};
use crate::table::{Side, Table, Target, in_turn, ratios};
use crate::{Effort, ITEM};

/// What the ring has.
const CAPACITY: u64 = 1024;

pub fn run(table: &mut Table, effort: Effort) {
    let ours = Ours::new(64 << 20);
    let generation = Cell::new(1000);
    let ring = std::env::current_exe().expect("a process has a program").with_file_name("ring");
    let measured = in_turn(
        effort.rounds,
        &mut [
            &mut || {
                generation.set(generation.get() + 1);
                let queue = ours.queue(&format!("ring {}", generation.get()), CAPACITY);
                beside(
                    |stop| ours::produce(&ours, queue, 1, generation.get(), &[7; ITEM], stop),
                    || {
                        let (mut seat, mut item, deadline) = (ours.seat(2), Vec::new(), some_day());
                        let pop = || ours::pop(&mut seat, queue, deadline, &mut item).expect("pop");
                        let ns = ns_per_operation(effort, pop);
                        seat.leave();
                        ns
                    },
                )
            },
            &mut || {
                let output = Command::new(&ring).arg(effort.slice_ms.to_string()).output().expect("the ring");
                String::from_utf8_lossy(&output.stdout).trim().parse().expect("nanoseconds")
            },
        ],
    );
    let [mine, theirs] = &measured[..] else { unreachable!("two contenders") };
    let (one, other) = (Side { name: "queue", rounds: mine }, Side { name: "ring", rounds: theirs });
    table.compare("push and pop, two processes", &one, &other, &ratios(mine, theirs), Target::AtMost(3.0));
}
