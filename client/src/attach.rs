//! Attaching to a running instance over its control socket.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use common::error::{Context, Error, Result};
use common::heap::Usage;
use common::ids::SlotIndex;
use common::layout::Slot;
use common::region::Region;
use common::slots::{Activity, State, Totals};
use common::sys::channel::{Channel, Received};
use common::tally::{self, UserTotals};
use common::wire::control::{self, DaemonStatus, Listening, Request, Response};

/// The file in the run directory whose exclusive kernel lock (flock) an instance holds while it ends by itself.
pub use common::places::START_LOCK;

/// A connection to the supervisor of a run directory.
#[derive(Debug)]
pub struct Attachment {
    channel: Channel,
}

/// What an instance is doing: the daemon's own words, and the region to read the rest from.
#[derive(Debug)]
pub struct StatusView {
    /// What the daemon alone knows.
    pub daemon: DaemonStatus,
    region: Region,
}

/// Workers by what they are at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerCounts {
    /// Waiting for a connection.
    pub idle: u32,
    /// Serving one, or asked to leave.
    pub busy: u32,
}

/// The spool as the region's header has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolView {
    /// Bytes in it.
    pub bytes: u64,
    /// The bound, if it is one in bytes.
    pub limit: Option<u64>,
    /// The oldest minute file.
    pub oldest_minute: Option<u64>,
}

/// Checkpoints as the region's header has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointView {
    /// The newest one's number, if there is one.
    pub number: Option<u64>,
    /// When it was taken, in nanoseconds since the epoch.
    pub taken_ns: u64,
    /// Bytes of its file.
    pub bytes: u64,
    /// For how long nobody could begin a transaction.
    pub pause_us: u64,
    /// When the region was restored from a checkpoint, if it was.
    pub restored_ns: Option<u64>,
    /// When that one had been taken.
    pub restored_from_ns: u64,
    /// Messages of the journal that were counted on top of it.
    pub replayed: u64,
}

/// A slot in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotView {
    /// Its index.
    pub slot: u32,
    /// How many owners it has had.
    pub generation: u32,
    /// The owner's process.
    pub pid: i32,
    /// starting, idle, busy, retiring or dead.
    pub state: &'static str,
    /// Messages of this generation.
    pub messages: u64,
    /// What the owner says it is doing.
    pub doing: String,
}

impl Attachment {
    /// Connects to the instance that owns `run_dir`.
    ///
    /// # Errors
    /// No instance is running there (exit 1).
    pub fn connect(run_dir: &Path) -> Result<Self> {
        let doing = || format!("no instance is running in {}", run_dir.display());
        // Through the directory's descriptor, because a socket's address is short and a path may not be.
        let directory = File::open(run_dir).context(doing)?;
        let path = format!("/proc/self/fd/{}/control.sock", std::os::fd::AsRawFd::as_raw_fd(&directory));
        let channel = Channel::connect(Path::new(&path)).context(doing)?;
        Ok(Self { channel })
    }

    /// Asks for something and waits for the answer.
    ///
    /// # Errors
    /// An instance that goes away or answers what cannot be read.
    pub fn request(&self, request: Request) -> Result<Response> {
        Ok(self.exchange(request)?.0)
    }

    fn exchange(&self, request: Request) -> Result<(Response, Vec<std::os::fd::OwnedFd>)> {
        let doing = || "cannot talk to the instance".to_owned();
        let frame = control::encode(&request).context(doing)?;
        self.channel.send(&frame, &[]).context(doing)?;
        match self.channel.receive().context(doing)? {
            Received::Frame(frame, descriptors) => Ok((control::decode(&frame).context(doing)?, descriptors)),
            Received::Closed | Received::Nothing => {
                Err(Error::failure("the instance went away before it answered"))
            }
        }
    }

    /// Asks what the instance is doing.
    ///
    /// # Errors
    /// As [`Attachment::request`]; a region that cannot be read.
    pub fn status(&self) -> Result<StatusView> {
        match self.exchange(Request::Status)? {
            (Response::Status(daemon), descriptors) => {
                let Some(region) = descriptors.into_iter().next() else {
                    return Err(Error::failure("the instance sent no region with its status"));
                };
                Ok(StatusView { daemon: *daemon, region: Region::attach_read_only(&File::from(region))? })
            }
            (Response::Refused(why), _) => Err(Error::failure(why)),
            (Response::Done | Response::Listening(_), _) => Err(answered_something_else()),
        }
    }

    /// Starts the idle clock of an instance with `--idle-exit` again, and gives where it listens, as `--listen` takes it,
    /// once it serves. Whoever holds the lock of [`START_LOCK`] meanwhile can rely on the addresses for as long as the
    /// option says: the instance ends by itself only while it holds that lock.
    ///
    /// # Errors
    /// As [`Attachment::request`]; an instance that is stopping.
    pub fn touch(&self) -> Result<Listening> {
        match self.request(Request::Touch)? {
            Response::Listening(listening) => Ok(listening),
            Response::Refused(why) => Err(Error::failure(why)),
            _ => Err(answered_something_else()),
        }
    }

    /// Waits until the instance is gone.
    ///
    /// # Errors
    /// What receiving reports.
    pub fn wait_until_gone(&self) -> Result<()> {
        while let Received::Frame(..) =
            self.channel.receive().context(|| "cannot wait for the instance".to_owned())?
        {}
        Ok(())
    }
}

fn answered_something_else() -> Error {
    Error::failure("the instance answered something else; is it of this version?")
}

impl StatusView {
    /// The totals over all slots.
    pub fn totals(&self) -> Totals {
        self.region.totals()
    }

    /// What each user has sent.
    ///
    /// # Errors
    /// A table of users that is damaged, or was being changed for too long.
    pub fn users(&self) -> Result<UserTotals> {
        tally::totals(&self.region).map_err(|error| Error::failure(format!("cannot read the users: {error}")))
    }

    /// How much of the region's heap is taken.
    pub fn heap(&self) -> Usage {
        Usage::of(&self.region)
    }

    /// All slots but the one of a checkpoint process.
    fn workers_slots(&self) -> impl Iterator<Item = (SlotIndex, &Slot)> {
        let worker = |(_, slot): &(_, &Slot)| slot.activity.load(Relaxed) != Activity::Checkpoint as u32;
        self.region.slots().filter(worker)
    }

    /// The checkpoints of the region, and the one that it was restored from.
    pub fn checkpoints(&self) -> CheckpointView {
        let history = &self.region.header().history;
        let some = |word: &AtomicU64| Some(word.load(Relaxed)).filter(|word| *word != 0);
        CheckpointView {
            number: some(&history.number),
            taken_ns: history.taken_ns.load(Relaxed),
            bytes: history.bytes.load(Relaxed),
            pause_us: history.pause_ns.load(Relaxed) / 1000,
            restored_ns: some(&history.restored_ns),
            restored_from_ns: history.restored_from_ns.load(Relaxed),
            replayed: history.replayed.load(Relaxed),
        }
    }

    /// The workers by what they are at.
    pub fn workers(&self) -> WorkerCounts {
        self.workers_slots().filter(|(_, slot)| slot.standing().1 == Some(State::Live)).fold(
            WorkerCounts::default(),
            |mut counts, (_, slot)| {
                let idle = slot.activity.load(Relaxed) == Activity::Idle as u32;
                *(if idle { &mut counts.idle } else { &mut counts.busy }) += 1;
                counts
            },
        )
    }

    /// The spool.
    pub fn spool(&self) -> SpoolView {
        let journal = &self.region.header().journal;
        let some = |word: u64| (word != 0).then_some(word);
        SpoolView {
            bytes: journal.spool_bytes(),
            limit: some(journal.limit.load(Relaxed)),
            oldest_minute: some(journal.oldest.load(Relaxed)),
        }
    }

    /// The slots in use.
    pub fn slots(&self) -> Vec<SlotView> {
        let mut views = Vec::new();
        for (index, slot) in self.workers_slots() {
            let (generation, state) = slot.standing();
            let state = match state {
                Some(State::Free) => continue,
                Some(State::Reserved) => "starting",
                Some(State::Live) => live_state(slot.activity.load(Relaxed)),
                Some(State::Left) => "retiring",
                Some(State::Dead) | None => "dead",
            };
            let messages = |counters: &common::layout::Counters| {
                counters.word(common::slots::Counter::Messages).load(Relaxed)
            };
            views.push(SlotView {
                slot: index.0,
                generation: generation.0,
                pid: slot.pid().0,
                state,
                messages: messages(&slot.published).wrapping_sub(messages(&slot.base)),
                doing: slot.doing(),
            });
        }
        views
    }
}

fn live_state(activity: u32) -> &'static str {
    match activity {
        0 => "idle",
        1 => "busy",
        _ => "retiring",
    }
}
