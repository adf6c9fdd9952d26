//! A supervisor for tests: it starts the real program over a real channel, has it clone workers, and is their parent.
//! What dies with the supervisor dies with the thread that made a stage, so each test makes its own.

#![allow(dead_code, reason = "every test program uses its part")]

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::ids::{Generation, Minute, Owner, Pid, SlotIndex};
use common::journal::OpenMinute;
use common::journal::spool::{Spool, data_name};
use common::layout::Slot;
use common::region::Region;
use common::slots::{self, State};
use common::sys::channel::{Channel, Received};
use common::sys::file::{self, Lock};
use common::sys::process::{self, Ending};
use common::sys::socket::{self, Listener};
use common::tidings::Tidings;
use common::wire::control::{self, Order, Report, Settings, Start};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// How long anything in a test may take before the test fails.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The program under test.
pub const WORKER: &str = env!("CARGO_BIN_EXE_worker");

/// A running template and its workers.
pub struct Stage {
    pub directory: tempfile::TempDir,
    pub region: Region,
    pub listeners: Vec<Listener>,
    pub template: Pid,
    pub bell: EventFd,
    pub channel: Option<Channel>,
    /// The workers in the order of their slots: slot i is the i-th.
    pub workers: Vec<Pid>,
    locks: Vec<File>,
    ended: Vec<Pid>,
}

/// What a stage is to be like.
pub struct Script {
    pub program: PathBuf,
    pub settings: Settings,
    pub workers: u32,
    pub unix: bool,
    pub listeners: usize,
    pub spool_limit: u64,
    pub region: u64,
    /// The region's file is garbage when the template gets it.
    pub break_region: bool,
    /// So many listening sockets are announced, whatever comes.
    pub announced_listeners: Option<u32>,
    /// Who is said to be the supervisor.
    pub supervisor: Option<Pid>,
}

impl Default for Script {
    fn default() -> Self {
        let settings = Settings { read_timeout: Duration::from_secs(15), ..Settings::default() };
        Self {
            program: PathBuf::from(WORKER),
            settings,
            workers: 1,
            unix: false,
            listeners: 1,
            spool_limit: 0,
            region: 4 << 20,
            break_region: false,
            announced_listeners: None,
            supervisor: None,
        }
    }
}

impl Script {
    pub fn stage(self) -> Stage {
        let count = self.workers;
        let mut stage = Stage::prepare(self);
        assert_eq!(stage.report(), Report::Ready);
        for index in 0..count {
            let pid = stage.spawn(index, 1);
            stage.workers.push(pid);
        }
        stage
    }
}

/// One worker with the defaults.
pub fn stage() -> Stage {
    Script::default().stage()
}

impl Stage {
    /// Everything up to the start order; the template's first report has not been read.
    pub fn prepare(script: Script) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let region_file = tempfile::tempfile().unwrap();
        let region = Region::create(&region_file, script.region).unwrap();
        let spool = Spool::open_or_create(&directory.path().join("spool")).unwrap();
        let writers = spool.take().unwrap();
        let alive = tempfile::tempfile().unwrap();
        assert!(file::try_lock(&alive, Lock::Shared).unwrap());
        let journal = &region.header().journal;
        journal.open.store(
            OpenMinute { minute: Minute(0), closed: true }.word(),
            std::sync::atomic::Ordering::SeqCst,
        );
        journal.limit.store(script.spool_limit, std::sync::atomic::Ordering::SeqCst);
        let listeners: Vec<_> =
            (0..script.listeners).map(|index| listen(&directory, script.unix, index)).collect();
        for listener in &listeners {
            listener.set_defaults(script.settings.read_timeout).unwrap();
        }
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).unwrap();
        if script.break_region {
            file::write_whole_at(&region_file, &[0x5a; 4096], 0).unwrap();
        }
        let (ours, theirs) = Channel::pair().unwrap();
        let template =
            process::start(&script.program, &[OsStr::new("template")], &theirs.into_descriptor()).unwrap();
        let start = Start {
            supervisor: script.supervisor.unwrap_or_else(Pid::current),
            template: 1,
            spool_dir: directory.path().join("spool"),
            settings: script.settings,
            listeners: script.announced_listeners.unwrap_or(listeners.len() as u32),
        };
        let tidings = Tidings::new().unwrap();
        let endowment = [
            region_file.as_fd(),
            spool.directory().as_fd(),
            writers.as_fd(),
            alive.as_fd(),
            bell.as_fd(),
            tidings.as_fd(),
        ];
        let mut descriptors: Vec<RawFd> = endowment.iter().map(AsRawFd::as_raw_fd).collect();
        descriptors.extend(listeners.iter().map(|listener| listener.socket.as_raw_fd()));
        ours.send(&control::encode(&Order::Start(Box::new(start))).unwrap(), &descriptors).unwrap();
        Self {
            directory,
            region,
            listeners,
            template,
            bell,
            channel: Some(ours),
            workers: Vec::new(),
            locks: vec![writers, alive],
            ended: Vec::new(),
        }
    }

    /// The next report of the template.
    pub fn report(&self) -> Report {
        let channel = self.channel.as_ref().unwrap();
        let mut ready = [PollFd::new(channel.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(DEADLINE).unwrap();
        assert_eq!(poll(&mut ready, timeout).unwrap(), 1, "the template says nothing");
        match channel.receive().unwrap() {
            Received::Frame(frame, _) => control::decode(&frame).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Sends the template any bytes.
    pub fn order(&self, frame: &[u8]) {
        self.channel.as_ref().unwrap().send(frame, &[]).unwrap();
    }

    /// Reserves a slot and orders a worker for it.
    pub fn order_spawn(&self, slot: u32, generation: u32) -> Owner {
        let owner = slots::owner(SlotIndex(slot), Generation(generation));
        self.slot(slot).reserve(owner.generation, 1);
        self.order(&control::encode(&Order::Spawn(owner)).unwrap());
        owner
    }

    /// A worker in that slot, live.
    pub fn spawn(&self, slot: u32, generation: u32) -> Pid {
        let owner = self.order_spawn(slot, generation);
        let pid = match self.report() {
            Report::Spawned(spawned, pid) if spawned == owner => pid,
            other => panic!("{other:?}"),
        };
        until("the worker is live", || self.slot(slot).is(owner.generation, State::Live));
        pid
    }

    pub fn slot(&self, index: u32) -> &Slot {
        self.region.slot(SlotIndex(index)).unwrap()
    }

    pub fn connect(&self) -> Client<TcpStream> {
        self.connect_to(0)
    }

    pub fn connect_to(&self, listener: usize) -> Client<TcpStream> {
        let stream = TcpStream::connect(self.listeners[listener].tcp_address().unwrap()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { reader: BufReader::new(stream.try_clone().unwrap()), stream }
    }

    pub fn connect_unix(&self) -> Client<UnixStream> {
        let stream = UnixStream::connect(socket_path(self.directory.path(), 0)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Client { reader: BufReader::new(stream.try_clone().unwrap()), stream }
    }

    pub fn signal(&self, pid: Pid, signal: Signal) {
        kill(pid.raw(), signal).unwrap();
    }

    /// Waits for the end of a child.
    pub fn wait(&mut self, pid: Pid) -> Ending {
        self.ended.push(pid);
        wait(pid)
    }

    /// The processor time that the worker in a slot has used.
    pub fn cpu_time(&self, slot: usize) -> Duration {
        let stat = proc(self.workers[slot], "stat");
        // The fields after the name, which ends with the last parenthesis; utime and stime are the 14th and 15th.
        let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Leaves the children to whatever becomes of them.
    pub fn disown(&mut self) {
        self.ended.push(self.template);
        self.ended.extend(&self.workers);
    }

    /// Every record in the spool, in the order of the files.
    pub fn records(&self) -> Vec<serde_json::Value> {
        self.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn lines(&self) -> Vec<String> {
        let path = self.directory.path().join("spool");
        let spool = Spool::open_or_create(&path).unwrap();
        let mut lines = Vec::new();
        for file in spool.minutes().unwrap() {
            let text = std::fs::read_to_string(path.join(data_name(file.minute))).unwrap();
            let trimmed = text.lines().map(|line| line.trim_matches(['\0', ' ']));
            lines.extend(trimmed.filter(|line| !line.is_empty()).map(str::to_owned));
        }
        lines
    }

    /// The messages in the spool.
    pub fn messages(&self) -> Vec<String> {
        self.records().iter().map(|record| record["message"].as_str().unwrap().to_owned()).collect()
    }
}

impl Stage {
    /// The messages of the records that are whole: after a death, and before its repair, one may not be.
    pub fn whole_messages(&self) -> Vec<String> {
        let records = self.lines();
        let whole = records.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        whole.map(|record| record["message"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        drop(self.channel.take());
        for &pid in self.workers.iter().chain([&self.template]) {
            if !self.ended.contains(&pid) {
                let _ = kill(pid.raw(), Signal::SIGKILL);
                let _ = waitpid(pid.raw(), None);
            }
        }
    }
}

/// A file of the kernel's about a process.
pub fn proc(pid: Pid, name: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap()
}

/// Waits for the end of a child of this process.
pub fn wait(pid: Pid) -> Ending {
    let mut ending = None;
    until("the child ends", || {
        ending = match waitpid(pid.raw(), Some(WaitPidFlag::WNOHANG)).unwrap() {
            WaitStatus::Exited(_, code) => Some(Ending::Exited(code)),
            WaitStatus::Signaled(_, signal, _) => Some(Ending::Killed(signal as i32)),
            _ => None,
        };
        ending.is_some()
    });
    ending.unwrap()
}

/// Looks until it is so.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn listen(directory: &tempfile::TempDir, unix: bool, index: usize) -> Listener {
    if unix {
        return socket::listen_unix(&socket_path(directory.path(), index)).unwrap();
    }
    socket::listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap()
}

fn socket_path(directory: &Path, index: usize) -> PathBuf {
    directory.join(format!("socket-{index}"))
}

/// A peer of a worker.
pub struct Client<S> {
    pub stream: S,
    reader: BufReader<S>,
}

impl<S: Read + Write> Client<S> {
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next line, without its newline; empty at the end of the connection.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        if !line.is_empty() {
            assert_eq!(line.pop(), Some('\n'), "a reply that was cut: {line:?}");
        }
        line
    }

    /// The next line, if it comes whole.
    pub fn try_line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line).ok()?;
        (line.pop() == Some('\n')).then_some(line)
    }

    /// Sends and gives the reply.
    pub fn ask(&mut self, bytes: &[u8]) -> String {
        self.send(bytes);
        self.line()
    }

    /// Whether the connection ends here.
    pub fn at_end(&mut self) -> bool {
        matches!(self.reader.read(&mut [0]), Ok(0))
    }
}

/// The reply to a recorded message.
pub fn receipt(worker: Pid, user: &str, message: &str) -> String {
    format!("server {worker} recvd message \"{message}\" from user {user}")
}
