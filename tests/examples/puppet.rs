//! A child of the supervisor that misbehaves at a chosen moment, and is the real program otherwise.
//!
//! The environment says what is played: `PUPPET_PLAY` how it misbehaves, `PUPPET_CUE` at which order (or `start`),
//! `PUPPET_REAL` which program it stands in for, `PUPPET_TALLY` the file in which every misbehaviour leaves one byte,
//! `PUPPET_TIMES` after how many of those it behaves, and `PUPPET_WHEN` a file without which it behaves, too.
#![forbid(unsafe_code)]

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicU32;

use common::ids::{Generation, Owner, Pid};
use common::sys::channel::{Channel, Received};
use common::sys::clone::{Cloned, Cloner};
use common::sys::file;
use common::sys::process::{self, CHANNEL_FD};
use common::wire::control::{self, Order, Report};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};

fn main() {
    let role = std::env::args().nth(1).unwrap_or_default();
    let script = Script::read();
    let plays_here = match script.cue.as_str() {
        "start" => role == script.role,
        "spawn" => role == "template",
        "seal" => role == "journal",
        _ => role == "standby" || role == "once",
    };
    if !plays_here || script.is_over() {
        let error = Command::new(&script.real).args(std::env::args_os().skip(1)).exec();
        panic!("cannot become {}: {error}", script.real.display());
    }
    let supervisor = Channel::from_descriptor(file::adopt(CHANNEL_FD).expect("the supervisor's channel"));
    match script.cue.as_str() {
        "start" => {
            // As the real one does: who leaves without having read resets the channel.
            let _ = supervisor.receive();
            script.play(&supervisor, None);
        }
        "spawn" => act_as_template(&script, &supervisor),
        _ => stand_between(&script, &supervisor, &role),
    }
}

struct Script {
    play: String,
    cue: String,
    role: String,
    real: PathBuf,
    tally: PathBuf,
    times: u64,
    when: Option<PathBuf>,
}

impl Script {
    fn read() -> Self {
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        Self {
            play: variable("PUPPET_PLAY"),
            cue: variable("PUPPET_CUE"),
            role: variable("PUPPET_ROLE"),
            real: variable("PUPPET_REAL").into(),
            tally: variable("PUPPET_TALLY").into(),
            times: variable("PUPPET_TIMES").parse().unwrap_or(u64::MAX),
            when: std::env::var_os("PUPPET_WHEN").map(PathBuf::from),
        }
    }

    fn is_over(&self) -> bool {
        std::fs::metadata(&self.tally).map_or(0, |tally| tally.len()) >= self.times
    }

    fn is_on(&self) -> bool {
        !self.is_over() && self.when.as_ref().is_none_or(|file| file.exists())
    }

    fn count(&self) {
        let mut tally = OpenOptions::new().append(true).create(true).open(&self.tally).expect("the tally");
        tally.write_all(b"x").expect("the tally");
    }

    /// Misbehaves once.
    fn play(&self, supervisor: &Channel, about: Option<Owner>) {
        self.count();
        match self.play.as_str() {
            "segv" => die_of(Signal::SIGSEGV),
            "kill" => die_of(Signal::SIGKILL),
            "panic" => std::process::exit(101),
            "give up" => std::process::exit(1),
            "leave" => std::process::exit(0),
            "hang" => loop {
                nix::unistd::pause();
            },
            "fail" => {
                tell(supervisor, &Report::Failed("the puppet does not want to".to_owned()));
                std::process::exit(2);
            }
            "refuse" => tell(supervisor, &Report::Refused(about.expect("an owner"), "it is odd".to_owned())),
            "garbage" => supervisor.send(&[0xff; 100], &[]).expect("the supervisor listens"),
            "lie" => {
                let Owner { slot, generation } = about.expect("an owner");
                let other = Owner { slot, generation: Generation(generation.0.wrapping_add(1)) };
                tell(supervisor, &Report::Repaired(other));
                tell(supervisor, &Report::Spawned(other, Pid(1)));
                tell(supervisor, &Report::TakenOver(7));
                tell(supervisor, &Report::Sealed);
            }
            other => panic!("there is no play {other:?}"),
        }
    }
}

/// More than once, because the runtime's own handler gives the first SIGSEGV back.
fn die_of(signal: Signal) -> ! {
    loop {
        let _ = raise(signal);
    }
}

fn tell(to: &Channel, report: &Report) {
    to.send(&control::encode(report).expect("a report fits"), &[]).expect("the supervisor listens");
}

/// Passes on what the supervisor and the real program say, but for the cue.
fn stand_between(script: &Script, supervisor: &Channel, role: &str) {
    let Ok(Received::Frame(first, descriptors)) = supervisor.receive() else { return };
    let Ok(Order::Start(mut start)) = control::decode(&first) else { panic!("the first order is to start") };
    start.supervisor = Pid::current();
    let (real, theirs) = Channel::pair().expect("a channel");
    process::start(&script.real, &[role.as_ref()], &theirs.into_descriptor()).expect("the real program");
    let endowment: Vec<_> = descriptors.iter().map(std::os::fd::AsRawFd::as_raw_fd).collect();
    let first = control::encode(&Order::Start(start)).expect("an order fits");
    real.send(&first, &endowment).expect("the real program listens");
    let mut delayed = Delayed::default();
    loop {
        let mut both = [supervisor, &real].map(|channel| PollFd::new(channel.as_fd(), PollFlags::POLLIN));
        if poll(&mut both, PollTimeout::NONE) == Err(Errno::EINTR) {
            continue;
        }
        let [from_supervisor, from_real] = both.map(|channel| channel.any().unwrap_or(true));
        if from_supervisor {
            let Ok(Received::Frame(frame, _)) = supervisor.receive() else { return };
            let order = control::decode(&frame).expect("an order");
            match cue(script, &order) {
                Some(about) if script.is_on() => script.play(supervisor, about),
                _ if delayed.is_told(script, &order) => script.play(supervisor, None),
                _ => {
                    let frame = delayed.without_others(script, frame);
                    real.send(&frame, &[]).expect("the real program listens");
                }
            }
        }
        if from_real {
            let Ok(Received::Frame(frame, _)) = real.receive() else { return };
            // A supervisor that is gone will be noticed in the next round.
            let _ = supervisor.send(&frame, &[]);
            if delayed.hears(script, &frame) {
                script.play(supervisor, None);
            }
        }
    }
}

/// The cue `delayed`: at work on another than the first, which has to wait. That one the real program is told of.
#[derive(Default)]
struct Delayed {
    waits: bool,
    others: bool,
}

impl Delayed {
    fn is_played(script: &Script) -> bool {
        script.cue == "delayed" && script.is_on()
    }

    fn is_told(&self, script: &Script, order: &Order) -> bool {
        Self::is_played(script) && self.waits && matches!(order, Order::Repair(_))
    }

    fn without_others(&mut self, script: &Script, frame: Vec<u8>) -> Vec<u8> {
        match control::decode(&frame) {
            Ok(Order::Repair(mut owners)) if Self::is_played(script) && owners.len() > 1 => {
                owners.truncate(1);
                self.others = true;
                control::encode(&Order::Repair(owners)).expect("an order fits")
            }
            _ => frame,
        }
    }

    fn hears(&mut self, script: &Script, frame: &[u8]) -> bool {
        self.waits |= matches!(control::decode(frame), Ok(Report::Delayed(..)));
        Self::is_played(script) && self.waits && self.others
    }
}

/// Whether this order is the cue, and about whom it is.
fn cue(script: &Script, order: &Order) -> Option<Option<Owner>> {
    match (script.cue.as_str(), order) {
        ("repair", Order::Repair(owners)) => Some(owners.first().map(|(owner, _)| *owner)),
        ("takeover", Order::TakeOver(_)) => {
            Some(Some(Owner { slot: common::ids::SlotIndex(0), generation: Generation(0) }))
        }
        ("seal", Order::SealAll) => Some(None),
        _ => None,
    }
}

/// A template that is ready and then does with every order to clone what the play says.
fn act_as_template(script: &Script, supervisor: &Channel) {
    tell(supervisor, &Report::Ready);
    let mut cloner = Cloner::prepare();
    while let Ok(Received::Frame(frame, _)) = supervisor.receive() {
        let Ok(Order::Spawn(owner)) = control::decode(&frame) else { continue };
        match script.play.as_str() {
            "no-clone" => tell(supervisor, &Report::SpawnFailed(owner, Errno::EAGAIN as i32)),
            "stillborn" => {
                script.count();
                match cloner.clone_sibling(&AtomicU32::new(0)).expect("a clone") {
                    Cloned::Clone => std::process::exit(70),
                    Cloned::Caller(pid) => tell(supervisor, &Report::Spawned(owner, pid)),
                }
            }
            _ => script.play(supervisor, Some(owner)),
        }
    }
}
