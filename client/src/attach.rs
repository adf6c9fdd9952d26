//! Attaching to a running instance over its control socket.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use common::address::Address;
use common::error::{Context, Error, Result};
use common::heap::Usage;
use common::ids::SlotIndex;
use common::layout::Slot;
use common::places;
use common::region::Region;
use common::slots::{Activity, State, Totals};
use common::sys::channel::{Channel, Received};
use common::sys::file;
use common::sys::transport::{Stream, Transport, receive_within};
use common::tally::{self, UserTotals};
use common::wire::control::{self, DaemonStatus, Listening, Request, Response, Summary};

/// The file in the run directory whose exclusive kernel lock (flock) an instance holds while it ends by itself.
pub use common::places::START_LOCK;

/// How long a connection over the network may take to be made, and an instance to answer: a reload takes as long as its
/// template does.
const CONNECTING: Duration = Duration::from_secs(10);
const ANSWERING: Duration = Duration::from_secs(60);

/// A connection to an instance, to ask for something: over the socket of its run directory, or over the network.
#[derive(Debug)]
pub struct Attachment {
    transport: Box<dyn Transport>,
    patience: Duration,
    /// Whether the region's descriptor can come over it.
    carries_region: bool,
}

/// What an instance is doing: the daemon's own words, and the region to read the rest from.
#[derive(Debug)]
pub struct StatusView {
    /// What the daemon alone knows.
    pub daemon: DaemonStatus,
    rest: Rest,
}

/// What is not the daemon's alone.
#[derive(Debug)]
enum Rest {
    /// To be read here.
    Region(Arc<Region>),
    /// As the daemon has read it.
    Summary(Box<Summary>),
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
    /// Whether it is an attached program's, and no worker's.
    pub attached: bool,
}

impl Attachment {
    /// Connects to the instance that owns `run_dir`.
    ///
    /// # Errors
    /// No instance is running there (exit 1).
    pub fn connect(run_dir: &Path) -> Result<Self> {
        let transport = Box::new(connect(run_dir)?);
        Ok(Self { transport, patience: Duration::MAX, carries_region: true })
    }

    /// Connects to an instance that lets itself be asked there (`--control-listen`): for status and control. A
    /// `unix:` address is that of a control socket.
    ///
    /// # Errors
    /// An address that cannot be reached, or is of another kind (exit 2).
    pub fn connect_to(address: &Address) -> Result<Self> {
        let doing = || format!("cannot reach an instance at {address}");
        match address {
            Address::Unix(path) => {
                let transport = Box::new(Channel::connect(path).context(doing)?);
                Ok(Self { transport, patience: Duration::MAX, carries_region: true })
            }
            Address::Tcp { .. } => {
                let stream = Stream::connect(&address.resolve()?, CONNECTING).context(doing)?;
                Ok(Self { transport: Box::new(stream), patience: ANSWERING, carries_region: false })
            }
            Address::Fd(_) => {
                Err(Error::usage(format!("{address}: name the instance by tcp:HOST:PORT or unix:PATH")))
            }
        }
    }

    /// Asks for something and waits for the answer.
    ///
    /// # Errors
    /// An instance that goes away or answers what cannot be read.
    pub fn request(&self, request: Request) -> Result<Response> {
        Ok(self.exchange(request)?.0)
    }

    fn exchange(&self, request: Request) -> Result<(Response, Vec<OwnedFd>)> {
        ask(&*self.transport, &request, self.patience)
    }

    /// Asks what the instance is doing.
    ///
    /// # Errors
    /// As [`Attachment::request`]; a region that cannot be read.
    pub fn status(&self) -> Result<StatusView> {
        let request = if self.carries_region { Request::Status } else { Request::Summary };
        match self.exchange(request)? {
            (Response::Status(daemon), descriptors) => {
                let Some(region) = descriptors.into_iter().next() else {
                    return Err(Error::failure("the instance sent no region with its status"));
                };
                let region = Region::attach_read_only(&File::from(region))?;
                Ok(StatusView::of(*daemon, Arc::new(region)))
            }
            (Response::Summary(summary), _) => {
                Ok(StatusView { daemon: summary.daemon.clone(), rest: Rest::Summary(summary) })
            }
            (Response::Refused(why), _) => Err(Error::failure(why)),
            _ => Err(answered_something_else()),
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
        let doing = || "cannot wait for the instance".to_owned();
        while !matches!(receive_within(&*self.transport, Duration::MAX).context(doing)?, Received::Closed) {}
        Ok(())
    }
}

/// Asks for something and waits for the answer.
pub(crate) fn ask(
    transport: &dyn Transport,
    request: &Request,
    patience: Duration,
) -> Result<(Response, Vec<OwnedFd>)> {
    let doing = || "cannot talk to the instance".to_owned();
    match converse(transport, request, patience).context(doing)? {
        Received::Frame(frame, descriptors) => Ok((control::decode(&frame).context(doing)?, descriptors)),
        Received::Closed => Err(Error::failure("the instance went away before it answered")),
        Received::Nothing => Err(Error::failure(format!(
            "the instance has not answered for {} s; is it stopped?",
            patience.as_secs()
        ))),
    }
}

/// Asks for something and waits for whatever comes; nothing, if the patience is over before.
pub(crate) fn converse(
    transport: &dyn Transport,
    request: &Request,
    patience: Duration,
) -> std::io::Result<Received> {
    let frame = control::encode(request)?;
    // Who is turned away is told why, and has no use for asking.
    let asked = transport.try_send(&frame, &[]);
    let mut received = receive_within(transport, patience);
    if matches!(received, Ok(Received::Closed)) {
        // What was said before the end may stand behind the news of it.
        received = receive_within(transport, Duration::ZERO);
    }
    if matches!(received, Ok(Received::Closed)) {
        asked?;
    }
    received
}

/// Connects to the control socket of a run directory.
pub(crate) fn connect(run_dir: &Path) -> Result<Channel> {
    let doing = || format!("no instance is running in {}", run_dir.display());
    let (_directory, path) = control_socket(run_dir).context(doing)?;
    Channel::connect(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => Error::failure(format!(
            "cannot reach the instance in {}: {error}; without a --policy that says otherwise it lets in its own user alone",
            run_dir.display()
        )),
        _ => Error::failure(format!("{}: {error}", doing())),
    })
}

/// Where an instance's control socket is: through the directory's descriptor, because a socket's address is short and a
/// path may not be, and because others may only pass through that directory.
pub(crate) fn control_socket(run_dir: &Path) -> std::io::Result<(File, PathBuf)> {
    let directory = file::open_to_pass_through(run_dir)?;
    let path = format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), places::CONTROL_SOCKET);
    Ok((directory, path.into()))
}

pub(crate) fn answered_something_else() -> Error {
    Error::failure("the instance answered something else; is it of this version?")
}

impl StatusView {
    /// What the daemon says, and the region that it speaks of.
    pub(crate) fn of(daemon: DaemonStatus, region: Arc<Region>) -> Self {
        Self { daemon, rest: Rest::Region(region) }
    }

    /// The totals over all slots.
    pub fn totals(&self) -> Totals {
        match &self.rest {
            Rest::Region(region) => region.totals(),
            Rest::Summary(summary) => summary.totals,
        }
    }

    /// What each user has sent.
    ///
    /// # Errors
    /// A table of users that is damaged, or was being changed for too long.
    pub fn users(&self) -> Result<UserTotals> {
        match &self.rest {
            Rest::Region(region) => tally::totals(region)
                .map_err(|error| Error::failure(format!("cannot read the users: {error}"))),
            // They stand in maps, which the daemon does not read.
            Rest::Summary(_) => Ok(UserTotals { complete: false, ..UserTotals::default() }),
        }
    }

    /// How much of the region's heap is taken, where that can be read.
    pub fn heap(&self) -> Option<Usage> {
        match &self.rest {
            Rest::Region(region) => Some(Usage::of(region)),
            Rest::Summary(_) => None,
        }
    }

    /// The checkpoints of the region, and the one that it was restored from, where that can be read.
    pub fn checkpoints(&self) -> Option<CheckpointView> {
        let Rest::Region(region) = &self.rest else { return None };
        let history = &region.header().history;
        let some = |word: &AtomicU64| Some(word.load(Relaxed)).filter(|word| *word != 0);
        Some(CheckpointView {
            number: some(&history.number),
            taken_ns: history.taken_ns.load(Relaxed),
            bytes: history.bytes.load(Relaxed),
            pause_us: history.pause_ns.load(Relaxed) / 1000,
            restored_ns: some(&history.restored_ns),
            restored_from_ns: history.restored_from_ns.load(Relaxed),
            replayed: history.replayed.load(Relaxed),
        })
    }

    /// The workers by what they are at.
    pub fn workers(&self) -> WorkerCounts {
        match &self.rest {
            Rest::Region(region) => workers(region),
            Rest::Summary(summary) => WorkerCounts { idle: summary.idle, busy: summary.busy },
        }
    }

    /// How many slots attached programs have.
    pub fn attached(&self) -> u32 {
        match &self.rest {
            Rest::Region(region) => attached(region),
            Rest::Summary(summary) => summary.attached,
        }
    }

    /// The spool.
    pub fn spool(&self) -> SpoolView {
        let (bytes, limit, oldest) = match &self.rest {
            Rest::Region(region) => spool(region),
            Rest::Summary(summary) => (summary.spool_bytes, summary.spool_limit, summary.oldest_minute),
        };
        let some = |word: u64| (word != 0).then_some(word);
        SpoolView { bytes, limit: some(limit), oldest_minute: some(oldest) }
    }

    /// The slots in use.
    pub fn slots(&self) -> Vec<SlotView> {
        let mut views = Vec::new();
        let Rest::Region(region) = &self.rest else { return views };
        for (index, slot) in worker_slots(region) {
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
                attached: slot.is_a_clients(),
            });
        }
        views
    }
}

/// What a region says of its instance, in numbers.
pub fn summarize(daemon: DaemonStatus, region: &Region) -> Summary {
    let WorkerCounts { idle, busy } = workers(region);
    let (spool_bytes, spool_limit, oldest_minute) = spool(region);
    let (totals, attached) = (region.totals(), attached(region));
    Summary { daemon, totals, idle, busy, attached, spool_bytes, spool_limit, oldest_minute }
}

fn live(region: &Region) -> impl Iterator<Item = &Slot> {
    worker_slots(region).map(|(_, slot)| slot).filter(|slot| slot.standing().1 == Some(State::Live))
}

fn workers(region: &Region) -> WorkerCounts {
    live(region).filter(|slot| !slot.is_a_clients()).fold(WorkerCounts::default(), |mut counts, slot| {
        let idle = slot.activity.load(Relaxed) == Activity::Idle as u32;
        *(if idle { &mut counts.idle } else { &mut counts.busy }) += 1;
        counts
    })
}

fn attached(region: &Region) -> u32 {
    live(region).filter(|slot| slot.is_a_clients()).count() as u32
}

/// Bytes, bound and oldest minute; 0 = none.
fn spool(region: &Region) -> (u64, u64, u64) {
    let journal = &region.header().journal;
    (journal.spool_bytes(), journal.limit.load(Relaxed), journal.oldest.load(Relaxed))
}

/// All slots but the one of a checkpoint process.
fn worker_slots(region: &Region) -> impl Iterator<Item = (SlotIndex, &Slot)> {
    region.slots().filter(|(_, slot)| slot.activity.load(Relaxed) != Activity::Checkpoint as u32)
}

fn live_state(activity: u32) -> &'static str {
    match activity {
        0 => "idle",
        1 => "busy",
        _ => "retiring",
    }
}

#[cfg(test)]
mod tests {
    use common::ids::Generation;

    use super::*;

    #[test]
    fn who_takes_a_checkpoint_is_no_worker() {
        let region = Region::create(&tempfile::tempfile().unwrap(), 1 << 20).unwrap();
        for (index, activity) in [(1, Activity::Idle), (2, Activity::Busy), (3, Activity::Checkpoint)] {
            let slot = region.slot(SlotIndex(index)).unwrap();
            slot.reserve_as(Generation(1), 1, activity);
            assert!(slot.go_live(Generation(1)));
        }
        assert_eq!(workers(&region), WorkerCounts { idle: 1, busy: 1 });
        assert_eq!(attached(&region), 0);
    }
}
