//! Two processes on two cores: half of the time that 64 bytes need to go to the other and to come back at once, and what
//! they need to one that has slept for a while.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use common::sys::process::monotonic_ns;

use crate::channels::{Block, Channel, Iceoryx, Message, Notice, Pipe};
use crate::processes::{self, ns_per_operation};
use crate::table::{self, Side, Table, Target, in_turn, ratios};
use crate::{Effort, directory};

/// Nothing that works takes this long.
const LIMIT: Duration = Duration::from_secs(5);

/// So long the other sleeps before something is sent to it.
const REST: Duration = Duration::from_micros(300);

pub fn run(table: &mut Table, effort: Effort) {
    let sleeping = rounds(effort, Notice::Sleeping);
    let side = |name, rounds| Side { name, rounds };
    let [block, ice, pipe] = &sleeping[..] else { unreachable!("three contenders") };
    let ours = || side("block", block);
    table.compare(
        "to a waiting one: pipe",
        &ours(),
        &side("pipe", pipe),
        &ratios(block, pipe),
        Target::AtMost(1.0),
    );
    table.compare(
        "to a waiting one: iceoryx2",
        &ours(),
        &side("event", ice),
        &ratios(block, ice),
        Target::AtMost(1.0),
    );
    let asleep = rounds_of(effort, Notice::Sleeping, to_a_sleeper);
    let [block, ice, pipe] = &asleep[..] else { unreachable!("three contenders") };
    for (name, theirs) in [("pipe", pipe), ("iceoryx2", ice)] {
        let (ours, theirs) = (side("block", block), side(name, theirs));
        let ratios = ratios(ours.rounds, theirs.rounds);
        table.compare(&format!("to one asleep: {name}"), &ours, &theirs, &ratios, Target::AtMost(1.0));
    }
    let polling = rounds(effort, Notice::Polling);
    let (block, ice) = (&polling[0], &polling[1]);
    let (ours, theirs) = (side("block", block), side("pub-sub", ice));
    table.compare("to a polling one: iceoryx2", &ours, &theirs, &ratios(block, ice), Target::AtMost(2.0));
}

fn rounds(effort: Effort, notice: Notice) -> Vec<Vec<f64>> {
    rounds_of(effort, notice, ask)
}

/// `ask` gives the nanoseconds there and back.
fn rounds_of(
    effort: Effort,
    notice: Notice,
    ask: impl Copy + Fn(Effort, Box<dyn Channel>) -> f64,
) -> Vec<Vec<f64>> {
    let one_way = |effort, open: &dyn Fn(bool) -> Box<dyn Channel>| one_way(effort, open, ask);
    let mut id = u64::from(std::process::id()) << 16 | u64::from(notice == Notice::Polling) << 15;
    let mut block = || {
        let directory = directory();
        let open = |first| -> Box<dyn Channel> { Box::new(Block::open(directory.path(), first, notice)) };
        one_way(effort, &open)
    };
    let mut ice = || {
        id += 1;
        let open = |first| -> Box<dyn Channel> { Box::new(Iceoryx::open(id, first, notice)) };
        one_way(effort, &open)
    };
    let mut pipe = || {
        let [to, fro] = [pipe_ends(), pipe_ends()];
        let open = |first: bool| -> Box<dyn Channel> {
            Box::new(Pipe::open(if first { [&to.1, &fro.0] } else { [&fro.1, &to.0] }))
        };
        one_way(effort, &open)
    };
    match notice {
        Notice::Sleeping => in_turn(effort.rounds, &mut [&mut block, &mut ice, &mut pipe]),
        Notice::Polling => in_turn(effort.rounds, &mut [&mut block, &mut ice]),
    }
}

fn pipe_ends() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    (reader.into(), writer.into())
}

/// Nanoseconds from one process to another.
fn one_way(
    effort: Effort,
    open: &dyn Fn(bool) -> Box<dyn Channel>,
    ask: impl Fn(Effort, Box<dyn Channel>) -> f64,
) -> f64 {
    // The child is born on its core; were it born on the parent's, it would wait there for the parent to sleep.
    processes::pin(1);
    // SAFETY: this program has one thread; the child ends by _exit or a signal.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "cannot fork");
    if pid == 0 {
        answer(open(false));
    }
    processes::pin(0);
    let ns = ask(effort, open(true));
    // SAFETY: a child of this process, which nobody else waits for.
    unsafe {
        libc::kill(pid, libc::SIGTERM);
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
    clean();
    ns / 2.0
}

/// Sends back what comes, and when it came, until it is ended, or nothing came for long.
fn answer(mut channel: Box<dyn Channel>) -> ! {
    while let Some(mut message) = channel.receive(LIMIT) {
        message[..8].copy_from_slice(&monotonic_ns().to_le_bytes());
        channel.send(&message);
    }
    drop(channel);
    // SAFETY: ends the child at once; nothing of the parent's is flushed or dropped twice.
    unsafe { libc::_exit(0) }
}

fn ask(effort: Effort, mut channel: Box<dyn Channel>) -> f64 {
    let message = begin(&mut *channel);
    ns_per_operation(effort, || {
        channel.send(&message);
        assert!(channel.receive(LIMIT).is_some(), "no answer");
    })
}

/// Twice the time from sending until the other, which has slept for [`REST`], has it: the median of many.
fn to_a_sleeper(effort: Effort, mut channel: Box<dyn Channel>) -> f64 {
    let mut message = begin(&mut *channel);
    let began = Instant::now();
    let mut taken = Vec::new();
    while began.elapsed() < Duration::from_millis(effort.slice_ms) {
        let rest = Instant::now();
        while rest.elapsed() < REST {
            std::hint::spin_loop();
        }
        let sent = monotonic_ns();
        channel.send(&message);
        message = channel.receive(LIMIT).expect("an answer");
        let came = u64::from_le_bytes(message[..8].try_into().expect("8 bytes"));
        taken.push(came.saturating_sub(sent) as f64);
    }
    2.0 * table::median(&taken)
}

/// Until the other has opened its end, what is sent may reach nobody.
fn begin(channel: &mut dyn Channel) -> Message {
    let message: Message = [2; 64];
    loop {
        channel.send(&message);
        if channel.receive(Duration::from_millis(50)).is_some() {
            return message;
        }
    }
}

/// What a child that was ended has left of iceoryx2's.
fn clean() {
    use iceoryx2::prelude::*;
    let node = NodeBuilder::new().create::<ipc::Service>().expect("a node");
    let _ = node.try_cleanup_dead_nodes();
}
