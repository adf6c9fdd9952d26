//! All that a supervisor knows, for the next program in this process: packed here, unpacked there. Moments are those of
//! one clock, which goes on.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::error::{Context, Result};
use common::ids::Pid;
use common::journal::spool::Spool;
use common::limits::JOURNAL_RING;
use common::log_limit::LogLimit;
use common::region::Region;
use common::sys::{process, scheduling};
use common::tidings::Tidings;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::children::PackedKept;
use crate::cli::Options;
use crate::clients::PackedClients;
use crate::companion::Companion;
use crate::config::Sources;
use crate::control::{ConnectionId, PackedControl};
use crate::crash_reports::CrashReports;
use crate::listen::PackedListeners;
use crate::pid_file::PidFile;
use crate::policy::{Clock, Policy};
use crate::pool::PackedPool;
use crate::prepared::Prepared;
use crate::repairs::PackedRepairs;
use crate::rundir::PackedRunDir;
use crate::shipping::Shipping;
use crate::showing::PackedShowing;
use crate::starter::Starter;
use crate::upgrade::luggage::{Arrived, Luggage, Packed};
use crate::upgrade::program::Program;
use crate::voices::Voices;

use super::checkpoints::PackedCheckpoints;
use super::idleness::Idleness;
use super::restoring::Restoring;
use super::upgrading::Upgrade;
use super::{Phase, Supervisor, catch_signals, errand};

/// What a supervisor that serves, and is not at a reload, knows. What is not here is found out again, or begins anew.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// The version of the program that it is from.
    pub(super) version: String,
    program: OsString,
    /// When this was packed, by the clock that all processes share, and when the instance's clock began.
    pub(super) packed_ns: u64,
    began_ns: u64,
    detached: bool,
    sources: Sources,

    rundir: PackedRunDir,
    region: Packed,
    region_to_show: Packed,
    spool: Packed,
    writers: Packed,
    bell: Packed,
    tidings: Packed,
    listeners: PackedListeners,
    control: PackedControl,
    clients: PackedClients,
    showing: PackedShowing,
    shipping: Companion,

    template: PackedKept,
    template_number: u32,
    templates_started: u32,
    template_since: Clock,
    recovery: PackedKept,
    recovery_overdue: bool,
    keeper: PackedKept,
    checkpoints: PackedCheckpoints,
    leaving: Vec<(Pid, Clock)>,

    pool: PackedPool,
    policy: Policy,
    repairs: PackedRepairs,
    restoring: (String, Option<Clock>, Option<String>),
    attentive: bool,
    failure_said: Option<String>,
    crash_reports: CrashReports,
    total_logged: u64,
    next_tick: Clock,
    ask_again: Option<Clock>,
    next_request_due: Clock,
    idleness: (Clock, Clock, u64),
    /// Who waits to hear that another program has taken over.
    waiters: Vec<ConnectionId>,
    /// Signals that have come and nobody has taken.
    pub(super) signals: Vec<i32>,
}

impl State {
    /// The options in force.
    ///
    /// # Errors
    /// Those that this program does not have.
    pub(crate) fn options(&self) -> Result<Options> {
        self.sources.options()
    }

    /// The region, to be looked at.
    pub(crate) fn region_to_show(&self) -> RawFd {
        self.region_to_show.number()
    }
}

impl Supervisor {
    /// For a successor, along with signals that it is to take.
    pub(super) fn pack<'a>(&'a self, signals: &[Signal], luggage: &mut Luggage<'a>) -> State {
        let packed_ns = process::monotonic_ns();
        State {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            program: self.upgrade.program.path().as_os_str().to_owned(),
            packed_ns,
            began_ns: packed_ns.saturating_sub(nanoseconds(self.now())),
            detached: self.starter.is_detached(),
            sources: self.sources.clone(),
            rundir: self.rundir.pack(luggage),
            region: luggage.pack(&self.region_file),
            region_to_show: luggage.pack(&self.region_to_show),
            spool: luggage.pack(self.spool.directory()),
            writers: luggage.pack(&self.writers),
            bell: luggage.pack(&self.bell),
            tidings: luggage.pack(&self.tidings),
            listeners: self.listeners.pack(luggage),
            control: self.control.pack(luggage),
            clients: self.clients.pack(luggage),
            showing: self.showing.pack(luggage),
            shipping: self.shipping.pack(),
            template: self.template.pack(luggage),
            template_number: self.template_number,
            templates_started: self.templates_started,
            template_since: self.template_since,
            recovery: self.recovery.pack(luggage),
            recovery_overdue: self.recovery_overdue,
            keeper: self.keeper.pack(luggage),
            checkpoints: self.checkpoints.pack(luggage),
            leaving: self.leaving.clone(),
            pool: self.pool.pack(),
            policy: self.policy.clone(),
            repairs: self.repairs.pack(),
            restoring: self.restoring.pack(),
            attentive: self.attentive,
            failure_said: self.failure_said.clone(),
            crash_reports: self.crash_reports.clone(),
            total_logged: self.total_logged,
            next_tick: self.next_tick,
            ask_again: self.ask_again,
            next_request_due: self.next_request_due,
            idleness: self.idleness.pack(),
            waiters: self.upgrade.waiters.clone(),
            signals: signals.iter().map(|signal| *signal as i32).collect(),
        }
    }

    /// The supervisor that goes on from there. Signals are caught, and stay blocked.
    ///
    /// # Errors
    /// What has not come along, or cannot be made again.
    pub(super) fn unpack(state: State, started_in: Option<PathBuf>) -> Result<Self> {
        let options = state.options()?;
        common::logging::set_level(options.log_level);
        let prepared = Prepared::of(&options)?;
        process::keep_descriptors_from_children();
        let mut arrived = Arrived::default();
        let arrived = &mut arrived;
        let rundir = state.rundir.unpack(arrived)?;
        let region_file = File::from(arrived.take(state.region)?);
        let region = Region::attach(&region_file)?;
        let clients = state.clients.unpack(rundir.clients()?, arrived)?;
        let control = state.control.unpack(rundir.short_path("control.sock"), arrived)?;
        let signals = catch_signals()?;
        let pid_file = options.pid_file.as_deref().map(PidFile::of_a_predecessor);
        scheduling::raise_priority();
        let this = Self {
            policy: state.policy,
            pool: state.pool.unpack(&region)?,
            repairs: state.repairs.unpack(),
            shipping: Shipping::resume(errand(&options, &prepared), state.shipping),
            showing: state.showing.unpack(prepared.exporter.as_deref(), arrived)?,
            sources: state.sources,
            starter: Starter::of_a_successor(state.detached),
            began: began(state.began_ns),
            pid_file,
            region,
            region_file,
            region_to_show: File::from(arrived.take(state.region_to_show)?),
            reservation: None,
            spool: Spool::from_directory(File::from(arrived.take(state.spool)?)),
            writers: File::from(arrived.take(state.writers)?),
            listeners: state.listeners.unpack(arrived)?,
            control,
            clients,
            attach_waiters: Vec::new(),
            signals,
            bell: File::from(arrived.take(state.bell)?),
            tidings: Tidings::from_descriptor(arrived.take(state.tidings)?),
            voices: Voices::open(&rundir.short_path("stderr"), prepared.identity.as_ref())?,
            template: state.template.unpack(arrived)?,
            template_number: state.template_number,
            templates_started: state.templates_started,
            next_template: None,
            template_since: state.template_since,
            reload_waiters: Vec::new(),
            touch_waiters: Vec::new(),
            recovery: state.recovery.unpack(arrived)?,
            recovery_overdue: state.recovery_overdue,
            keeper: state.keeper.unpack(arrived)?,
            checkpoints: state.checkpoints.unpack(arrived)?,
            restoring: Restoring::unpack(state.restoring),
            leaving: state.leaving,
            phase: Phase::Serving,
            announced: true,
            reload_wanted: false,
            swept: false,
            hurried: false,
            attentive: state.attentive,
            verdict: None,
            start_failures: 0,
            failure_said: state.failure_said,
            noticed_ns: 0,
            others_due: None,
            repairing_since: None,
            crashes: Vec::new(),
            crash_reports: state.crash_reports,
            crash_log: LogLimit::default(),
            failure_log: LogLimit::default(),
            overdue_log: LogLimit::default(),
            total_logged: state.total_logged,
            total_due: Duration::ZERO,
            written: [0; JOURNAL_RING],
            written_lately: true,
            next_tick: state.next_tick,
            ask_again: state.ask_again,
            next_request_due: state.next_request_due,
            idleness: Idleness::unpack(state.idleness),
            upgrade: Upgrade::after_one(Program::at(state.program), started_in, state.waiters),
            options,
            prepared,
            rundir,
        };
        // The predecessor's program may not have known of the door, and its predecessor's may have.
        this.region.measure_door();
        this.pool.without_worker().for_each(|slot| this.region.leave_door(slot));
        Ok(this)
    }
}

/// The signals that a predecessor had not taken.
///
/// # Errors
/// A number that is none's.
pub(super) fn signals_in(numbers: &[i32]) -> Result<Vec<Signal>> {
    let named = numbers.iter().map(|number| Signal::try_from(*number));
    named
        .collect::<std::result::Result<_, nix::errno::Errno>>()
        .context(|| "no signal has such a number".to_owned())
}

fn nanoseconds(clock: Clock) -> u64 {
    u64::try_from(clock.as_nanos()).unwrap_or(u64::MAX)
}

/// The moment at which an instance's clock began.
fn began(began_ns: u64) -> Instant {
    let since = Duration::from_nanos(process::monotonic_ns().saturating_sub(began_ns));
    let now = Instant::now();
    now.checked_sub(since).unwrap_or(now)
}
