//! Control frames: what the supervisor and its children, and the control socket and its clients, say to each other.
//! The only place that knows bincode; every decode is bounded.

use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ids::{Owner, Pid};
use crate::limits::MAX_FRAME;
use crate::slots::Totals;

/// The version of what stands below, as the bytes that it becomes. Children outlive the program that started them: one that
/// takes over from it speaks with them in the same version, or lets it be.
pub const FRAMES_VERSION: u32 = 1;

/// What a child is told first. With it come the descriptors of [`Endowment`], in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// The supervisor: a child whose parent is another process leaves.
    pub supervisor: Pid,
    /// Which template this is, counted from 1; 0 for other children.
    pub template: u32,
    /// The journal's directory.
    pub spool_dir: PathBuf,
    /// How the service is to behave.
    pub settings: Settings,
    /// How many listening sockets come along.
    pub listeners: u32,
}

/// The descriptors that come with [`Start`], in this order; listening sockets follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Endowment {
    /// The region's file.
    Region,
    /// The spool's directory.
    Spool,
    /// `SPOOL/.writers` under its shared lock.
    Writers,
    /// `RUN/alive` under its shared lock.
    Alive,
    /// An eventfd: written to when the supervisor should look at the slots.
    Bell,
    /// A pipe, both ways: who waits for a dead one's lock tells recovery, see `tidings`.
    Tidings,
}

/// Descriptors before the listening sockets.
pub const ENDOWMENTS: usize = 6;

/// What the supervisor's options say of the service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// `--users`.
    pub users: Option<PathBuf>,
    /// `--latency`.
    pub latency: Duration,
    /// `--access-log`.
    pub access_log: Option<PathBuf>,
    /// `--read-timeout`.
    pub read_timeout: Duration,
    /// `--sync`.
    pub sync: Sync,
    /// `--log`.
    pub log: Option<PathBuf>,
    /// `--log-level`; empty = as it is.
    pub log_level: String,
    /// `--request-timeout`; 0 = never.
    pub request_timeout: Duration,
    /// `--max-requests`; 0 = no bound.
    pub max_requests: u64,
    /// How often minutes of the journal are sealed, where that is more often than they are over.
    pub seal_interval: Option<Duration>,
}

/// When the journal goes to the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sync {
    /// Only when a minute is sealed.
    Never,
    /// Once a second.
    #[default]
    Interval,
    /// Before every reply.
    Always,
}

/// Frames from the supervisor to a child.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Order {
    /// The first frame to every child.
    Start(Box<Start>),
    /// To the template: clone a worker for this owner.
    Spawn(Owner),
    /// To recovery: repair these. The flag: the owner crashed (and was not lost with its supervisor).
    Repair(Vec<(Owner, bool)>),
    /// To recovery, before anything else runs: repair every slot that is not free, but for those of attached programs
    /// that live, and prepare the journal.
    TakeOver(Vec<Attached>),
    /// To recovery, when no child runs any more: repair every slot that is not free or holds something, with the same
    /// exceptions.
    Sweep(Vec<Attached>),
    /// To the journal keeper: close and seal every minute.
    SealAll,
    /// To the checkpoint process: take one, as the owner of this slot.
    Checkpoint(Owner),
}

/// An attached program's slot, as the supervisor knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Slot and generation.
    pub owner: Owner,
    /// Whether its process lives, and the slot is not to be touched. If not, it has crashed.
    pub lives: bool,
}

/// Frames from a child to the supervisor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Report {
    /// Loaded; orders may come.
    Ready,
    /// The child cannot do its work and leaves; why.
    Failed(String),
    /// From the template: the owner's process.
    Spawned(Owner, Pid),
    /// From the template: the kernel refused; errno.
    SpawnFailed(Owner, i32),
    /// From recovery: the slot is free again.
    Repaired(Owner),
    /// From recovery: what the slot holds cannot be repaired; why.
    Refused(Owner, String),
    /// From recovery, in a takeover or a sweep: an attached program that lives has the lock of a queue that this owner's items are to go
    /// back to. Nothing else is left to be done for the slot; its repair is to be ordered like that of any dead owner.
    LeftForLater(Owner),
    /// From recovery, to a takeover or a sweep: so many slots were repaired, and every slot that was not left for later is
    /// free.
    TakenOver(u32),
    /// From the journal keeper: every minute is sealed.
    Sealed,
    /// From recovery: what it was ordered to repair cannot be repaired now. It tries again, and says so each time. No fault
    /// of the region's or of recovery's: only the deadline begins anew.
    Delayed(Delay),
    /// From the checkpoint process: a checkpoint is on the disk.
    Checkpointed(Checkpointed),
    /// From recovery: it now tries again what it has said before to be delayed; of which slot, or of all.
    TriesAgain(Option<Owner>),
}

/// A repair that has to wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delay {
    /// Whose slot; `None` = all of them.
    pub about: Option<Owner>,
    /// What it waits for.
    pub awaits: Awaited,
    /// A sentence.
    pub why: String,
}

/// What a repair waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Awaited {
    /// The file system, which does not let it be decided.
    FileSystem,
    /// The lock of a queue that items are to go back to, which an attached program has. Nothing else is left to be done.
    Queue,
}

/// A checkpoint that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpointed {
    /// Its number.
    pub number: u64,
    /// Bytes of its file.
    pub bytes: u64,
    /// For how long nobody could begin a transaction.
    pub pause_us: u64,
    /// Bytes copied meanwhile.
    pub copied: u64,
    /// How often that was tried in vain, because transactions took too long.
    pub in_vain: u32,
}

/// Requests on the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// What the daemon alone knows, and the region's descriptor, read-only.
    Status,
    /// Drain and stop, or stop at once. The connection closes when every child is gone.
    Stop {
        /// Without draining.
        fast: bool,
    },
    /// A template with what the files now say, and every worker replaced.
    Reload,
    /// Another number of workers.
    Scale(u32),
    /// A checkpoint that has all that was acknowledged before; answered once it is on the disk.
    Checkpoint,
    /// Somebody is about to connect: the idle clock of `--idle-exit` starts again, and the answer is where it listens, once
    /// it serves.
    Touch,
    /// A share in the region for the process that connected: to read, or with a slot of its own to write. The answer
    /// comes once the instance serves.
    Attach(Access),
    /// The process that connected had this slot before its connection was lost, and has it still.
    Rejoin(Membership),
    /// The slot has been left: nothing in it is half-done.
    Detach(Owner),
    /// As [`Request::Status`], for who cannot be sent a descriptor: in numbers, as far as the daemon knows them.
    Summary,
    /// The program that lies where the instance's was started from takes over in its process. Answered once it has, by
    /// itself.
    Upgrade,
}

/// What a program that attaches may do with the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Read. It has no slot, and nothing of it needs repair.
    Read,
    /// Read and write.
    Write,
}

/// A slot in one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Slot and generation.
    pub owner: Owner,
    /// The region's epoch.
    pub epoch: u64,
}

/// Replies on the control socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<DaemonStatus>),
    /// To [`Request::Summary`].
    Summary(Box<Summary>),
    /// It has been done, or for a stop: it has begun.
    Done,
    /// It will not be done; why.
    Refused(String),
    /// To [`Request::Touch`].
    Listening(Listening),
    /// To [`Request::Attach`] to read. With it comes the region, read-only.
    Shown,
    /// To [`Request::Attach`] to write, and to [`Request::Rejoin`]. With it come, to the former, the region and a file
    /// that is to be kept open as long as the slot is kept.
    Joined(Membership),
}

/// Which instance serves, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// The instance's version.
    pub version: String,
    /// Where it listens, as `--listen` takes it.
    pub addresses: Vec<String>,
}

/// What the daemon alone knows of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// What the instance is doing.
    pub state: DaemonState,
    /// Its pid.
    pub supervisor: Pid,
    /// The serving template's pid; 0 = none now.
    pub template: Pid,
    /// Recovery's pid; 0 = none now.
    pub recovery: Pid,
    /// The serving template's generation.
    pub generation: u32,
    /// Where it listens, as `--listen` takes it.
    pub listen: Vec<String>,
    /// Workers wanted; of a dynamic pool, at most.
    pub configured: u32,
    /// Workers wanted at least; the same in a fixed pool.
    pub at_least: u32,
    /// How long repairs took.
    pub recovery_us: Microseconds,
    /// What became of the region of this instance, where it was damaged and a checkpoint was gone back to; until a
    /// reload.
    pub restored: Option<String>,
    /// Why the last attempt at a checkpoint failed, if it did.
    pub checkpoint_failing: Option<String>,
    /// Where it shows itself over HTTP, as `--metrics-listen` takes it.
    pub metrics: Vec<String>,
    /// The latest crashes of workers and attached programs, the newest first.
    pub crashes: Vec<CrashReport>,
}

/// A death without a farewell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashReport {
    /// When it was noticed, in nanoseconds since the epoch.
    pub at_ns: u64,
    /// Whose it was.
    pub owner: Owner,
    /// The process.
    pub pid: Pid,
    /// How a worker ended. How an attached program did, only its own parent is told.
    pub ending: Option<String>,
    /// What it had said that it was doing; empty where it said nothing.
    pub doing: String,
    /// How long it took from then until its slot was repaired, in microseconds; nothing where it is not yet.
    pub repaired_us: Option<u64>,
}

/// What an instance is doing, without the region to read the rest from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// What the daemon alone knows.
    pub daemon: DaemonStatus,
    /// What all slots have counted.
    pub totals: Totals,
    /// Workers that wait for a connection.
    pub idle: u32,
    /// Workers that serve one, or were asked to leave.
    pub busy: u32,
    /// Slots of attached programs.
    pub attached: u32,
    /// Bytes in the spool.
    pub spool_bytes: u64,
    /// The bound of the spool; 0 = by free space.
    pub spool_limit: u64,
    /// The oldest minute file; 0 = none.
    pub oldest_minute: u64,
}

/// A summary of durations in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Microseconds {
    /// The last one.
    pub last: u64,
    /// The median.
    pub p50: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

/// What an instance is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DaemonState {
    /// Not every worker has been ready yet.
    Starting,
    /// Serving as configured.
    Running,
    /// Serving with less than configured, and why is in the log.
    Degraded,
    /// Finishing what was begun; nothing is accepted.
    Draining,
}

/// A frame that cannot be encoded or decoded.
#[derive(Debug)]
pub struct BadFrame(String);

impl std::fmt::Display for BadFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "bad control frame: {}", self.0)
    }
}

impl std::error::Error for BadFrame {}

impl From<BadFrame> for std::io::Error {
    fn from(bad: BadFrame) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, bad)
    }
}

fn bounded() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MAX_FRAME>()
}

/// The bytes of a frame.
///
/// # Errors
/// A frame beyond [`MAX_FRAME`].
pub fn encode<T: Serialize>(frame: &T) -> Result<Vec<u8>, BadFrame> {
    let bytes =
        bincode::serde::encode_to_vec(frame, bounded()).map_err(|error| BadFrame(error.to_string()))?;
    if bytes.len() > MAX_FRAME {
        return Err(BadFrame(format!("{} bytes are more than {MAX_FRAME}", bytes.len())));
    }
    Ok(bytes)
}

/// The same in `buffer`, without another byte of memory.
///
/// # Errors
/// A frame that is longer.
pub fn encode_in<'a, T: Serialize>(frame: &T, buffer: &'a mut [u8]) -> Result<&'a [u8], BadFrame> {
    let length = bincode::serde::encode_into_slice(frame, &mut *buffer, bounded())
        .map_err(|error| BadFrame(error.to_string()))?;
    Ok(&buffer[..length])
}

/// The frame in `bytes`, which must hold nothing else.
///
/// # Errors
/// Anything that is not exactly one frame.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadFrame> {
    let (frame, used) =
        bincode::serde::decode_from_slice(bytes, bounded()).map_err(|error| BadFrame(error.to_string()))?;
    if used != bytes.len() {
        return Err(BadFrame(format!("{} bytes follow it", bytes.len() - used)));
    }
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{Generation, SlotIndex};
    use crate::limits::MAX_REPAIRS_PER_FRAME;

    #[test]
    fn frames_come_back() {
        let start = Start {
            supervisor: Pid(7),
            template: 2,
            spool_dir: "/spool".into(),
            settings: Settings { users: Some("/users".into()), ..Settings::default() },
            listeners: 2,
        };
        let order = Order::Start(Box::new(start));
        assert_eq!(decode::<Order>(&encode(&order).unwrap()).unwrap(), order);
    }

    /// A frame of every kind that children exchange with their supervisor, as it is on the way. If this fails, count
    /// [`FRAMES_VERSION`] up, and write down what is the case now.
    #[test]
    fn frames_of_this_version_have_these_bytes() {
        let owner = Owner { slot: SlotIndex(7), generation: Generation(300) };
        let settings = Settings {
            users: Some("/u".into()),
            access_log: Some("/a".into()),
            sync: Sync::Always,
            log: Some("/l".into()),
            log_level: "info".to_owned(),
            request_timeout: Duration::from_millis(1),
            max_requests: 9,
            seal_interval: Some(Duration::from_secs(2)),
            ..Settings::default()
        };
        let start = Start { supervisor: Pid(7), template: 2, spool_dir: "/s".into(), settings, listeners: 3 };
        let orders = [
            Order::Start(Box::new(start)),
            Order::Spawn(owner),
            Order::Repair(vec![(owner, true)]),
            Order::TakeOver(vec![Attached { owner, lives: true }]),
            Order::Sweep(Vec::new()),
            Order::SealAll,
            Order::Checkpoint(owner),
        ];
        let checkpointed = Checkpointed { number: 1, bytes: 2, pause_us: 3, copied: 4, in_vain: 5 };
        let reports = [
            Report::Ready,
            Report::Failed("f".to_owned()),
            Report::Spawned(owner, Pid(9)),
            Report::SpawnFailed(owner, 11),
            Report::Repaired(owner),
            Report::Refused(owner, "r".to_owned()),
            Report::LeftForLater(owner),
            Report::TakenOver(3),
            Report::Sealed,
            Report::Delayed(Delay { about: Some(owner), awaits: Awaited::FileSystem, why: "d".to_owned() }),
            Report::Checkpointed(checkpointed),
        ];
        let orders = orders.iter().map(|order| encode(order).unwrap());
        let frames: Vec<u8> =
            orders.chain(reports.iter().map(|report| encode(report).unwrap())).flatten().collect();
        assert_eq!((FRAMES_VERSION, crc32c::crc32c(&frames)), (1, 474_964_682), "{frames:?}");
    }

    #[test]
    fn what_a_template_hears_and_says_is_short() {
        let owner = Owner { slot: SlotIndex(u32::MAX), generation: Generation(u32::MAX) };
        let mut short = [0; 64];
        let order = encode_in(&Order::Spawn(owner), &mut short).unwrap();
        assert_eq!(order, encode(&Order::Spawn(owner)).unwrap());
        for report in [
            Report::Ready,
            Report::Spawned(owner, Pid(i32::MIN)),
            Report::Spawned(owner, Pid(i32::MAX)),
            Report::SpawnFailed(owner, i32::MIN),
        ] {
            assert_eq!(encode_in(&report, &mut short).unwrap(), encode(&report).unwrap());
        }
        assert!(encode_in(&Report::Failed("x".repeat(64)), &mut short).is_err());
    }

    #[test]
    fn the_longest_repair_order_fits() {
        let owner = Owner { slot: SlotIndex(u32::MAX), generation: Generation(u32::MAX) };
        let order = Order::Repair(vec![(owner, true); MAX_REPAIRS_PER_FRAME]);
        assert!(encode(&order).unwrap().len() < MAX_FRAME);
    }

    #[test]
    fn as_many_programs_as_may_be_attached_fit() {
        let owner = Owner { slot: SlotIndex(u32::MAX), generation: Generation(u32::MAX) };
        let order = Order::TakeOver(vec![Attached { owner, lives: true }; crate::limits::MAX_CLIENTS]);
        assert!(encode(&order).unwrap().len() < MAX_FRAME);
    }

    #[test]
    fn more_than_one_frame_is_refused() {
        let mut bytes = encode(&Request::Status).unwrap();
        bytes.push(0);
        assert!(decode::<Request>(&bytes).is_err());
        assert!(encode(&Report::Failed("x".repeat(MAX_FRAME))).is_err());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<Order>(&bytes);
            let _ = decode::<Report>(&bytes);
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Response>(&bytes);
        }
    }
}
