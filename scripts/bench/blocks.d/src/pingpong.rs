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
    let [block, ice, pipe] = &to_sleepers(effort);
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

/// Nanoseconds from one to the other, of each round.
fn rounds(effort: Effort, notice: Notice) -> Vec<Vec<f64>> {
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
        let pipes = Pipes::new();
        one_way(effort, &|first| Box::new(pipes.open(first)))
    };
    match notice {
        Notice::Sleeping => in_turn(effort.rounds, &mut [&mut block, &mut ice, &mut pipe]),
        Notice::Polling => in_turn(effort.rounds, &mut [&mut block, &mut ice]),
    }
}

/// One pipe there, one back.
struct Pipes([(OwnedFd, OwnedFd); 2]);

impl Pipes {
    fn new() -> Self {
        Self(std::array::from_fn(|_| {
            let (reader, writer) = std::io::pipe().expect("a pipe");
            (reader.into(), writer.into())
        }))
    }

    fn open(&self, first: bool) -> Pipe {
        let [to, fro] = &self.0;
        Pipe::open(if first { [&to.1, &fro.0] } else { [&fro.1, &to.0] })
    }
}

/// Nanoseconds from one process to another.
fn one_way(effort: Effort, open: &dyn Fn(bool) -> Box<dyn Channel>) -> f64 {
    beside(|| answer(&mut [open(false)]), || ask(effort, open(true))) / 2.0
}

/// What `here` gives in this process while another one, on another core, does `there` until it is ended.
fn beside<T>(there: impl FnOnce(), here: impl FnOnce() -> T) -> T {
    // The child is born on its core; were it born on the parent's, it would wait there for the parent to sleep.
    processes::pin(1);
    // SAFETY: this program has one thread; the child ends by _exit or a signal.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "cannot fork");
    if pid == 0 {
        there();
        // SAFETY: ends the child at once; nothing of the parent's is flushed or dropped twice.
        unsafe { libc::_exit(0) }
    }
    processes::pin(0);
    let outcome = here();
    // SAFETY: a child of this process, which nobody else waits for.
    unsafe {
        libc::kill(pid, libc::SIGTERM);
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
    outcome
}

/// Sends back what comes, by each channel in turn, and when it came, until nothing came for long.
fn answer(channels: &mut [Box<dyn Channel>]) {
    loop {
        for channel in &mut *channels {
            let Some(mut message) = channel.receive(LIMIT) else { return };
            message[..8].copy_from_slice(&monotonic_ns().to_le_bytes());
            channel.send(&message);
        }
    }
}

fn ask(effort: Effort, mut channel: Box<dyn Channel>) -> f64 {
    let message = begin(&mut *channel);
    ns_per_operation(effort, || {
        channel.send(&message);
        assert!(channel.receive(LIMIT).is_some(), "no answer");
    })
}

/// Nanoseconds until the other, which has slept for [`REST`], has it, of each round: by a block, iceoryx2, a pipe. By all
/// three in turn between the same two processes: what it takes to wake a core that is idle differs from one pair to the next
/// by a quarter, and from one minute to the next.
fn to_sleepers(effort: Effort) -> [Vec<f64>; 3] {
    let mut rounds = [const { Vec::new() }; 3];
    for number in 0..effort.rounds {
        let (directory, pipes) = (directory(), Pipes::new());
        let id = u64::from(std::process::id()) << 16 | 1 << 14 | number as u64;
        let open = |first| -> [Box<dyn Channel>; 3] {
            [
                Box::new(Block::open(directory.path(), first, Notice::Sleeping)),
                Box::new(Iceoryx::open(id, first, Notice::Sleeping)),
                Box::new(pipes.open(first)),
            ]
        };
        let medians = beside(|| answer(&mut open(false)), || to_a_sleeper(effort, open(true)));
        rounds.iter_mut().zip(medians).for_each(|(rounds, median)| rounds.push(median));
    }
    rounds
}

fn to_a_sleeper(effort: Effort, mut channels: [Box<dyn Channel>; 3]) -> [f64; 3] {
    let message = [2; 64];
    let mut taken = [const { Vec::new() }; 3];
    for channel in &mut channels {
        begin(&mut **channel);
    }
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(3 * effort.slice_ms) {
        for (channel, taken) in channels.iter_mut().zip(&mut taken) {
            let rest = Instant::now();
            while rest.elapsed() < REST {
                std::hint::spin_loop();
            }
            let sent = monotonic_ns();
            channel.send(&message);
            let answer = channel.receive(LIMIT).expect("an answer");
            let came = u64::from_le_bytes(answer[..8].try_into().expect("8 bytes"));
            taken.push(came.saturating_sub(sent) as f64);
        }
    }
    taken.map(|taken| table::median(&taken))
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
