//! A region, a spool and the real program with a channel to it: what a supervisor has.

#![allow(dead_code, missing_docs)] // Each test program uses its part.

pub mod disk;
#[cfg(target_arch = "x86_64")]
pub mod tracer;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::ids::{Generation, Owner, Pid, SlotIndex};
use common::journal::spool::Spool;
use common::layout::Slot;
use common::region::Region;
use common::slots::State;
use common::sys::channel::{Channel, Received};
use common::sys::process;
use common::tidings::Tidings;
use common::wire::control::{self, Order, Report, Settings, Start, Sync};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};

/// Far more than anything here takes.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub struct Instance {
    pub directory: tempfile::TempDir,
    pub region_file: File,
    pub region: Region,
    pub spool: Spool,
    writers: File,
    alive: File,
    tidings: Tidings,
}

impl Instance {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let create = |name| {
            let path = directory.path().join(name);
            File::options().read(true).write(true).create_new(true).open(path).unwrap()
        };
        let (region_file, alive) = (create("region"), create("alive"));
        let region = Region::create(&region_file, 1 << 20).unwrap();
        region.mark_in_use().unwrap();
        let spool = Spool::open_or_create(&directory.path().join("spool")).unwrap();
        let writers = spool.take().unwrap();
        assert!(common::sys::file::try_lock(&alive, common::sys::file::Lock::Shared).unwrap());
        Self { directory, region_file, region, spool, writers, alive, tidings: Tidings::new().unwrap() }
    }

    /// Nobody runs any more; the files stay.
    pub fn end(self) -> tempfile::TempDir {
        self.directory
    }

    pub fn region_path(&self) -> PathBuf {
        self.directory.path().join("region")
    }

    pub fn spool_path(&self) -> PathBuf {
        self.directory.path().join("spool")
    }

    pub fn slot(&self, owner: Owner) -> &Slot {
        self.region.slot(owner.slot).unwrap()
    }

    pub fn reserve(&self, slot: u32, generation: u32) -> Owner {
        let owner = common::slots::owner(SlotIndex(slot), Generation(generation));
        self.slot(owner).reserve(owner.generation, 1);
        owner
    }

    /// Starts the program in a role, says who the supervisor is, and hands everything over.
    pub fn start_as_child_of(&self, supervisor: Pid, role: &str) -> Child {
        let (here, there) = Channel::pair().unwrap();
        let there = there.into_descriptor();
        let program = Path::new(env!("CARGO_BIN_EXE_recovery"));
        let pid = process::start(program, &[OsStr::new(role)], &there).unwrap();
        let start = Start {
            supervisor,
            template: 0,
            spool_dir: self.spool_path(),
            settings: Settings { sync: Sync::Interval, ..Settings::default() },
            listeners: 0,
        };
        let child = Child { channel: here, pid, reaped: false };
        let bell = &self.alive;
        let own = [&self.region_file, self.spool.directory(), &self.writers, &self.alive, bell];
        let own = own.into_iter().map(AsFd::as_fd).chain([self.tidings.as_fd()]);
        let descriptors: Vec<_> = own.map(|descriptor| descriptor.as_raw_fd()).collect();
        let frame = control::encode(&Order::Start(Box::new(start))).unwrap();
        child.channel.send(&frame, &descriptors).unwrap();
        child
    }

    /// Starts the program in a role and waits until it is ready.
    pub fn start(&self, role: &str) -> Child {
        let child = self.start_as_child_of(Pid::current(), role);
        assert_eq!(child.report(), Report::Ready);
        child
    }

    /// What a supervisor does first.
    pub fn take_over(&self, standby: &Child) -> u32 {
        standby.order(&Order::TakeOver(Vec::new()));
        match standby.report() {
            Report::TakenOver(repaired) => repaired,
            other => panic!("{other:?}"),
        }
    }

    /// What a supervisor does when it has reaped an owner.
    pub fn declare_dead(&self, owner: Owner) {
        self.slot(owner).shift(owner.generation, State::Live, State::Dead);
    }

    /// The whole records in the spool; whatever else stands there must be blank.
    pub fn records(&self) -> u64 {
        let mut ids = BTreeSet::new();
        for file in self.spool.minutes().unwrap() {
            let path = common::journal::spool::data_path(&self.spool_path(), file.minute);
            for line in std::fs::read(path).unwrap_or_default().split(|byte| *byte == b'\n') {
                let blank = |byte: &u8| *byte == b' ' || *byte == 0;
                let Some(begin) = line.iter().position(|byte| !blank(byte)) else { continue };
                let value: serde_json::Value = serde_json::from_slice(&line[begin..])
                    .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(line)));
                assert!(ids.insert(value["id"].to_string()), "twice: {value}");
            }
        }
        ids.len() as u64
    }
}

pub struct Child {
    channel: Channel,
    pub pid: Pid,
    reaped: bool,
}

impl Child {
    pub fn order(&self, order: &Order) {
        self.channel.send(&control::encode(order).unwrap(), &[]).unwrap();
    }

    pub fn repair(&self, owner: Owner) {
        self.order(&Order::Repair(vec![(owner, true)]));
    }

    /// The next report; `None` where the child has closed the channel.
    pub fn next(&self) -> Option<Report> {
        let timeout = PollTimeout::try_from(DEADLINE).unwrap();
        let count = poll(&mut [PollFd::new(self.channel.as_fd(), PollFlags::POLLIN)], timeout).unwrap();
        assert!(count > 0, "no report within {DEADLINE:?}");
        match self.channel.try_receive().unwrap() {
            Received::Frame(frame, _) => Some(control::decode(&frame).unwrap()),
            Received::Closed => None,
            Received::Nothing => panic!("readable, but empty"),
        }
    }

    pub fn report(&self) -> Report {
        self.next().expect("the child is there")
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid.raw(), signal).unwrap();
    }

    /// Waits for the end; the exit code, or `None` after a signal.
    pub fn wait(mut self) -> Option<i32> {
        self.reaped = true;
        match waitpid(self.pid.raw(), None).unwrap() {
            WaitStatus::Exited(_, code) => Some(code),
            _ => None,
        }
    }

    /// Closes the channel and waits for the end.
    pub fn dismiss(mut self) -> Option<i32> {
        let (other, _) = Channel::pair().unwrap();
        drop(std::mem::replace(&mut self.channel, other));
        self.wait()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = kill(self.pid.raw(), Signal::SIGKILL);
            let _ = waitpid(self.pid.raw(), None);
        }
    }
}

/// Waits for a condition; fails the test when it does not come.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {DEADLINE:?} until {what}");
        std::thread::yield_now();
    }
}
