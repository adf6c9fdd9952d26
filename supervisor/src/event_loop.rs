//! The supervisor's one loop: wait, take what has come, do what is due. Nothing in here waits for a peer.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::fence;
use std::time::{Duration, Instant};

use common::address::Address;
use common::error::{Context, Error, Result};
use common::ids::Pid;
use common::journal::spool::Spool;
use common::limits::JOURNAL_RING;
use common::log_limit::LogLimit;
use common::region::Region;
use common::sys::file;
use common::sys::process::{self, Ending};
use common::sys::scheduling;
use common::sys::signal::{self, SignalPipe};
use common::tidings::Tidings;
use common::wire::control::Access;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};

use crate::access::AccessPolicy;
use crate::children::{Child, Kept};
use crate::cli::Options;
use crate::clients::{Clients, Heritage};
use crate::config::{Configuration, Sources};
use crate::control::{ConnectionId, ControlSocket};
use crate::crash_reports::CrashReports;
use crate::listen::{Inheritance, Listeners};
use crate::pid_file::PidFile;
use crate::policy::{Clock, Policy, Shape};
use crate::pool::Pool;
use crate::prepared::Prepared;
use crate::recoverer::Recoverer;
use crate::repairs::Repairs;
use crate::reservation::Reservation;
use crate::rundir::RunDir;
use crate::service_manager::{self, Giver, Passed};
use crate::shipping::{Errand, Shipping};
use crate::showing::Showing;
use crate::starter::Starter;
use crate::upgrade::handover::Summons;
use crate::upgrade::program::Program;
use crate::voices::Voices;

mod upkeep;

mod deaths;

mod reports;

mod serving;

mod demand;

mod overdue;

mod commands;

mod requests;

mod clients;

mod ending;

mod checkpoints;

mod restoring;

mod idleness;

mod handing_over;
pub(crate) use handing_over::State;

mod upgrading;
pub use upgrading::go_on;

/// How long a child may take to load.
const LOAD_DEADLINE: Duration = Duration::from_secs(30);
/// How long a template may take for one clone.
const CLONE_DEADLINE: Duration = Duration::from_secs(10);
/// How long the journal's keeper may take to seal everything.
const SEAL_DEADLINE: Duration = Duration::from_secs(30);
/// How long repairs may take once every worker has been killed.
const REPAIRS_DEADLINE: Duration = Duration::from_secs(30);
/// How long a queue may be locked by an attached program while items are to go back to it, before that is left to the next
/// instance: as long as anybody waits for a lock.
const QUEUES_DEADLINE: Duration = Duration::from_secs(1);
/// How long children without work may take to leave.
const LEAVE_DEADLINE: Duration = Duration::from_secs(5);
/// What counts as the grace of the collector where there is no limit.
const LONGEST_DRAIN: Duration = Duration::from_secs(120);
/// How long a worker may take to leave once its request has taken too long.
const REQUEST_GRACE: Duration = Duration::from_secs(1);
/// How often the total is looked at.
const TICK: Duration = Duration::from_secs(1);
/// A child that has failed so often before anything was ever served will not do better.
const START_ATTEMPTS: u32 = 3;
/// Descriptors that the supervisor needs besides those of its listening sockets.
const DESCRIPTORS_NEEDED: u64 = 64;

/// Runs the supervisor until it is stopped. `summons`: in a process where a former one was, which it is to replace.
///
/// # Errors
/// Why it could not serve, or why it stopped serving.
pub fn run(configuration: Configuration, summons: Option<&Summons>) -> Result<()> {
    let program = Program::of_this_process()?;
    let summons = summons.filter(|summons| summons.starts_anew());
    let starter = match summons {
        Some(_) => Some(Starter::of_a_successor(configuration.options.daemon)),
        None => Starter::part_from(&configuration.options)?,
    };
    let Some(starter) = starter else { return Ok(()) };
    common::logging::init("supervisor");
    common::logging::set_level(configuration.options.log_level);
    let left = summons.map(Summons::sockets).transpose()?;
    if let Some(nice) = summons.and_then(|summons| summons.nice) {
        scheduling::inherit_former_priority(nice);
    }
    let supervisor = Supervisor::set_up(configuration, starter.clone(), program, left);
    let outcome = supervisor.and_then(Supervisor::live);
    if let Err(error) = &outcome {
        starter.failed(error);
    }
    outcome
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Recovery looks at every slot before anybody gets one.
    TakingOver,
    Serving,
    /// Workers finish what they began.
    Draining {
        kill_at: Clock,
    },
    /// Every worker is gone and repaired; the journal is sealed.
    Sealing {
        ordered: bool,
        until: Clock,
    },
    /// A last checkpoint is taken.
    LastCheckpoint {
        until: Clock,
    },
    /// The region is damaged: everybody goes, and it is restored.
    Restoring {
        until: Clock,
    },
    /// The other children leave.
    Closing {
        until: Clock,
    },
    Gone,
}

/// What a wait was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Signals,
    Clients,
    Bell,
    Control,
    Template,
    NextTemplate,
    Recovery,
    Keeper,
    Checkpoint,
    Voices,
}

struct Supervisor {
    options: Options,
    sources: Sources,
    prepared: Prepared,
    starter: Starter,
    began: Instant,

    rundir: RunDir,
    pid_file: Option<PidFile>,
    region: Region,
    region_file: File,
    region_to_show: File,
    reservation: Option<Reservation>,
    spool: Spool,
    writers: File,
    listeners: Listeners,
    control: ControlSocket,
    clients: Clients,
    /// Who wants to attach, once every slot has been looked at.
    attach_waiters: Vec<(ConnectionId, Access)>,
    signals: SignalPipe,
    bell: File,
    /// Between workers and recovery; kept here so that a new recovery finds it.
    tidings: Tidings,
    voices: Voices,

    template: Kept,
    template_number: u32,
    templates_started: u32,
    next_template: Option<commands::Successor>,
    /// Who wants to know where this listens, once it serves.
    touch_waiters: Vec<ConnectionId>,
    /// When the serving template began to.
    template_since: Clock,
    reload_waiters: Vec<ConnectionId>,
    recovery: Kept,
    recovery_overdue: bool,
    keeper: Kept,
    checkpoints: checkpoints::Checkpoints,
    restoring: restoring::Restoring,
    shipping: Shipping,
    showing: Showing,
    /// Children that have been let go and not been reaped yet.
    leaving: Vec<(Pid, Clock)>,

    pool: Pool,
    policy: Policy,
    repairs: Repairs,
    phase: Phase,
    announced: bool,
    reload_wanted: bool,
    swept: bool,
    /// The end is wanted at once.
    hurried: bool,
    attentive: bool,
    verdict: Option<Error>,
    start_failures: u32,
    failure_said: Option<String>,
    /// When the last SIGCHLD was taken, and when those that it did not name are looked for.
    noticed_ns: u64,
    others_due: Option<Clock>,
    /// Since when there has always been something to repair.
    repairing_since: Option<Clock>,
    crashes: Vec<deaths::Crash>,
    crash_reports: CrashReports,
    crash_log: LogLimit,
    failure_log: LogLimit,
    overdue_log: LogLimit,
    total_logged: u64,
    /// Not before.
    total_due: Clock,
    /// How far the journal's minutes were written at the last look, and whether that had changed.
    written: [u64; JOURNAL_RING],
    written_lately: bool,
    next_tick: Clock,
    /// When the policy wants to be asked again.
    ask_again: Option<Clock>,
    /// When the next request may have taken too long.
    next_request_due: Clock,
    idleness: idleness::Idleness,
    upgrade: upgrading::Upgrade,
}

impl Supervisor {
    /// `left`: listening sockets that a former supervisor left in this process.
    fn set_up(
        configuration: Configuration,
        starter: Starter,
        program: Program,
        left: Option<Vec<Passed>>,
    ) -> Result<Self> {
        let Configuration { options, sources } = configuration;
        let prepared = Prepared::of(&options)?;
        let shape = options.pool()?;
        check_descriptors()?;
        set_limits(&options)?;
        process::keep_descriptors_from_children();
        let signals = catch_signals()?;
        if left.is_some() {
            unblock_signals()?;
        }
        let rundir = RunDir::take(&options.run_dir())?;
        open_logs(&prepared, &options)?;
        rundir.look_where_it_is();
        let pid_file = options.pid_file.as_deref().map(PidFile::write).transpose()?;
        let (spool, writers) = prepared.spool()?;
        let region = rundir.region(prepared.length, &Recoverer::of(&prepared, &spool))?;
        options.check_room(region.unverified.contents().geometry())?;
        let mut inherited = inheritance(&options, &prepared, &starter, left)?;
        let listeners = listen(&options, &prepared, &mut inherited)?;
        let showing = Showing::open(prepared.exporter.as_deref(), &options.metrics_listen, &mut inherited)?;
        rundir.remove("control.sock")?;
        let access = AccessPolicy::read(options.policy.as_deref())?;
        let remote = Listeners::open_with(&options.control_listen, &mut inherited, NEVER)?;
        inherited.let_go();
        if !starter.is_detached() {
            service_manager::keep(&[listeners.opened(), showing.opened()].concat())?;
        }
        let control = ControlSocket::open(&rundir.short_path("control.sock"), access, remote)?;
        rundir.let_through(control.admits_others())?;
        let mut clients = Clients::new(rundir.clients()?)?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let bell = EventFd::from_value_and_flags(0, flags).context(|| "cannot make an eventfd".to_owned())?;
        let bell = File::from(OwnedFd::from(bell));
        let reservation = Reservation::begin(&region, &bell)?;
        let tidings = Tidings::new().context(|| "cannot make a pipe".to_owned())?;
        let voices = Voices::open(&rundir.short_path("stderr"), prepared.identity.as_ref())?;
        let region_to_show =
            file::reopen_read_only(&region.file).context(|| "cannot open the region".to_owned())?;
        // The first thing that recovery does is to look at every slot; until then nobody gets one.
        let region_file = region.file;
        let region = region.unverified.once(Region::mark_in_use)?;
        let mut pool = Pool::of(&region);
        let mut repairs = Repairs::starting_with_takeover(Duration::ZERO);
        for Heritage { owner, lives } in clients.inherit(&region) {
            pool.adopt(&region, owner, lives);
            if !lives {
                repairs.add(owner, true, Duration::ZERO);
            }
        }
        scheduling::raise_priority();
        let started_in = std::env::current_dir().ok().filter(|_| starter.is_detached());
        if starter.is_detached() {
            std::env::set_current_dir("/").context(|| "cannot leave the working directory".to_owned())?;
        }
        let this = Self {
            policy: Policy::new(shape),
            pool,
            repairs,
            shipping: Shipping::new(errand(&options, &prepared)),
            showing,
            options,
            sources,
            prepared,
            starter,
            began: Instant::now(),
            rundir,
            pid_file,
            region,
            region_file,
            region_to_show,
            reservation,
            spool,
            writers,
            listeners,
            control,
            clients,
            attach_waiters: Vec::new(),
            signals,
            bell,
            tidings,
            voices,
            template: Kept::default(),
            template_number: 0,
            templates_started: 0,
            next_template: None,
            template_since: Duration::ZERO,
            reload_waiters: Vec::new(),
            touch_waiters: Vec::new(),
            recovery: Kept::default(),
            recovery_overdue: false,
            keeper: Kept::default(),
            checkpoints: checkpoints::Checkpoints::default(),
            restoring: restoring::Restoring::default(),
            leaving: Vec::new(),
            phase: Phase::TakingOver,
            announced: false,
            reload_wanted: false,
            swept: false,
            hurried: false,
            attentive: false,
            verdict: None,
            start_failures: 0,
            failure_said: None,
            noticed_ns: 0,
            others_due: None,
            repairing_since: None,
            crashes: Vec::new(),
            crash_reports: CrashReports::default(),
            crash_log: LogLimit::default(),
            failure_log: LogLimit::default(),
            overdue_log: LogLimit::default(),
            total_logged: 0,
            total_due: Duration::ZERO,
            written: [0; JOURNAL_RING],
            written_lately: true,
            next_tick: Duration::ZERO,
            ask_again: None,
            next_request_due: Duration::ZERO,
            idleness: idleness::Idleness::default(),
            upgrade: upgrading::Upgrade::new(program, started_in),
        };
        this.equip(&this.region);
        Ok(this)
    }

    /// Writes down in a region what others read there of this supervisor's options.
    fn equip(&self, region: &Region) {
        region.header().journal.limit.store(self.options.spool_limit(), SeqCst);
        region.header().demand.count(matches!(self.policy.shape(), Shape::Dynamic(_)));
        region.open_door();
    }

    /// Until it is stopped.
    fn live(mut self) -> Result<()> {
        while self.phase != Phase::Gone {
            self.turn()?;
        }
        self.finish()
    }

    fn now(&self) -> Clock {
        self.began.elapsed()
    }

    /// One turn of the loop.
    fn turn(&mut self) -> Result<()> {
        if self.others_due.is_some_and(|due| due <= self.now()) {
            self.reap_others()?;
        }
        self.advance();
        if self.phase == Phase::Gone {
            return Ok(());
        }
        self.let_take_over()?;
        for source in self.wait()? {
            match source {
                Source::Signals => self.take_signals()?,
                Source::Clients => self.take_client_deaths(),
                Source::Bell => self.look_at_workers(),
                Source::Control => self.take_requests(),
                Source::Template => self.take_template_reports(),
                Source::NextTemplate => self.take_next_template_reports(),
                Source::Recovery => self.take_recovery_reports(),
                Source::Keeper => self.take_keeper_reports(),
                Source::Checkpoint => self.take_checkpoint_reports(),
                Source::Voices => {
                    self.voices.hear(self.now());
                }
            }
        }
        Ok(())
    }

    fn wait(&self) -> Result<Vec<Source>> {
        let mut sources = vec![Source::Signals, Source::Clients, Source::Bell];
        let mut fds =
            vec![polled(self.signals.descriptor()), polled(self.clients.as_fd()), polled(self.bell.as_fd())];
        let children = [
            (Source::Recovery, self.recovery.child.as_ref()),
            (Source::Template, self.template.child.as_ref()),
            (Source::NextTemplate, self.next_template.as_ref().map(|next| &next.child)),
            (Source::Keeper, self.keeper.child.as_ref()),
            self.checkpoint_source(),
        ];
        for (source, child) in children {
            if let Some(descriptor) = child.and_then(Child::descriptor) {
                sources.push(source);
                fds.push(polled(descriptor));
            }
        }
        if let Some(descriptor) = self.voices.descriptor() {
            sources.push(Source::Voices);
            fds.push(polled(descriptor));
        }
        for descriptor in self.control.descriptors() {
            sources.push(Source::Control);
            fds.push(polled(descriptor));
        }
        match poll(&mut fds, self.timeout()) {
            Ok(_) => {}
            // Poll need not be asked again what has come: it ended for a signal.
            Err(nix::errno::Errno::EINTR) => return Ok(vec![Source::Signals]),
            Err(error) => return Err(error).context(|| "cannot wait for events".to_owned()),
        }
        let came = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        let mut ready: Vec<_> =
            sources.into_iter().zip(&fds).filter(|(_, fd)| came(fd)).map(|(source, _)| source).collect();
        // However many control connections are ready, they are taken together.
        ready.dedup();
        Ok(ready)
    }

    fn timeout(&self) -> PollTimeout {
        let now = self.now();
        let deadline = |child: &Kept| child.child.as_ref().and_then(|child| child.deadline);
        let phase = match self.phase {
            // Once it has passed, deaths and repairs are what is waited for.
            Phase::Draining { kill_at } if kill_at <= now => {
                let deadlines = [QUEUES_DEADLINE, REPAIRS_DEADLINE].map(|deadline| kill_at + deadline);
                deadlines.into_iter().find(|deadline| *deadline > now).or(Some(kill_at + REPAIRS_DEADLINE))
            }
            Phase::Draining { kill_at } => Some(kill_at),
            Phase::LastCheckpoint { until } | Phase::Restoring { until } if until <= now => {
                Some(until + REPAIRS_DEADLINE)
            }
            Phase::Sealing { until, .. }
            | Phase::LastCheckpoint { until }
            | Phase::Restoring { until }
            | Phase::Closing { until } => Some(until),
            Phase::TakingOver | Phase::Serving | Phase::Gone => None,
        };
        let missing = |kept: &Kept| kept.due().filter(|due| *due > now);
        let moments = [
            Some(self.next_tick),
            phase,
            self.pool.next_deadline(),
            missing(&self.template),
            missing(&self.recovery),
            missing(&self.keeper),
            self.shipping.due().filter(|due| *due > now),
            self.showing.due().filter(|due| *due > now),
            deadline(&self.template),
            deadline(&self.recovery),
            deadline(&self.keeper),
            self.next_template.as_ref().and_then(|next| next.child.deadline),
            self.leaving
                .iter()
                .map(|(_, deadline)| *deadline)
                .filter(|deadline| *deadline != Clock::MAX)
                .min(),
            self.ask_again,
            self.others_due,
            self.checkpoint_due(),
            self.checkpoints.child().and_then(|child| child.deadline),
            self.request_due(),
            self.idle_exit_due(),
            self.voices.due(),
            self.upgrade.due(),
        ];
        let next = moments.into_iter().flatten().min().unwrap_or(now + TICK);
        // Rounded up, so that the wait is not repeated just before its moment.
        let wait = next.saturating_sub(now) + Duration::from_micros(999);
        PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
    }

    /// Does what is due.
    fn advance(&mut self) {
        let now = self.now();
        // This is the turn that was asked for.
        self.ask_again.take_if(|then| *then <= now);
        if now >= self.next_tick {
            self.tick(now);
        }
        self.voices.attend(now);
        self.look_at_reservation();
        self.end_long_requests(now);
        self.kill_the_overdue(now);
        self.end_overdue_question(now);
        self.start_children(now);
        self.tell_recovery(now);
        self.take_due_checkpoint(now);
        loop {
            let before = self.phase;
            self.proceed(now);
            // What a phase ends with is not waited for: the next one may have something to do at once.
            if self.phase == before {
                break;
            }
        }
        self.say_whether_attentive();
    }

    fn proceed(&mut self, now: Clock) {
        match self.phase {
            Phase::TakingOver | Phase::Gone => {}
            Phase::Serving => self.serve(now),
            Phase::LastCheckpoint { until } => self.take_last_checkpoint(now, until),
            Phase::Restoring { until } => self.restore(now, until),
            Phase::Draining { kill_at } => self.drain(now, kill_at),
            Phase::Sealing { ordered, until } => self.seal(now, ordered, until),
            Phase::Closing { until } => self.close(now, until),
        }
    }

    /// While a clone is outstanding the template's reply will wake this loop, and the slots are looked at then, the
    /// oldest first: a thousand workers that start together need not each wake it too.
    fn say_whether_attentive(&mut self) {
        let attentive = self.pool.reserved().is_some();
        if attentive != self.attentive {
            self.attentive = attentive;
            self.region.header().supervision.attentive.store(attentive.into(), SeqCst);
            // Against the worker, who goes live and then looks whether to ring: one of the two sees the other.
            fence(SeqCst);
        }
        if !attentive && self.pool.counts().starting > 0 && self.note_ready_workers() {
            self.ask_again = Some(self.now());
        }
    }
}

/// A duration for "never" that arithmetic on clocks survives.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

fn polled(descriptor: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::new(descriptor, PollFlags::POLLIN)
}

/// What the collector is to do, with `--collect`.
fn errand(options: &Options, prepared: &Prepared) -> Option<Errand> {
    Some(Errand {
        program: prepared.collector.clone()?,
        spool_dir: prepared.spool_dir.clone(),
        destination: options.collect.clone()?,
        interval: options.collect_interval.0,
        // The other half is for what is still being sent then.
        drain: options.grace.limit().unwrap_or(LONGEST_DRAIN) / 2,
    })
}

/// What has been passed to this process to be listened on, by whom ever.
fn inheritance(
    options: &Options,
    prepared: &Prepared,
    starter: &Starter,
    left: Option<Vec<Passed>>,
) -> Result<Inheritance> {
    let passed = match left {
        Some(left) => left,
        // A daemon has kept nothing of what its starter was passed.
        None if starter.is_detached() => Vec::new(),
        None => {
            let named = prepared.listen.iter().chain(&options.metrics_listen);
            service_manager::passed_sockets(&named.filter_map(Address::descriptor).collect::<Vec<_>>())?
        }
    };
    Inheritance::of(passed)
}

/// Listens where the options say, or on what the service manager passes; without either, where it is the custom.
fn listen(options: &Options, prepared: &Prepared, inherited: &mut Inheritance) -> Result<Listeners> {
    let timeout = options.read_timeout.limit().unwrap_or(NEVER);
    if !options.names_addresses() {
        // What a former program had of the manager cannot be told from the rest, unless that is all that there is.
        let only_these = options.metrics_listen.is_empty() && options.control_listen.is_empty();
        let givers = [(Giver::Manager, true), (Giver::ThisProcess, only_these)];
        if let Some((giver, _)) = givers.iter().find(|(giver, fit)| *fit && inherited.has(giver)) {
            return Listeners::inherit_from(giver, inherited, timeout);
        }
    }
    Listeners::open_with(&prepared.listen, inherited, timeout)
}

/// Makes stderr the log, and sees to it that the children can open their logs.
fn open_logs(prepared: &Prepared, options: &Options) -> Result<()> {
    if let Some(path) = &options.log {
        let log = prepared.open_log(path)?;
        nix::unistd::dup2_stderr(&log).context(|| format!("cannot log to {}", path.display()))?;
    }
    if let (Some(path), Some(_)) = (&options.access_log, &prepared.identity) {
        prepared.open_log(path)?;
    }
    Ok(())
}

fn check_descriptors() -> Result<()> {
    let limit =
        process::raise_descriptor_limit().context(|| "cannot raise the limit of open files".to_owned())?;
    if limit < DESCRIPTORS_NEEDED {
        return Err(Error::failure(format!(
            "only {limit} open files are allowed, {DESCRIPTORS_NEEDED} are needed; raise the limit (ulimit -n)"
        )));
    }
    Ok(())
}

/// What holds for this process and for all that it starts.
fn set_limits(options: &Options) -> Result<()> {
    process::limit_core_files(options.core_size())
        .context(|| "cannot limit the size of core files".to_owned())?;
    // A file that may not become larger is an error to whoever writes, as a full disk is, and no death.
    signal::ignore(&[Signal::SIGXFSZ]);
    Ok(())
}

fn catch_signals() -> Result<SignalPipe> {
    let signals = [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
    ];
    SignalPipe::catching(&signals).context(|| "cannot catch signals".to_owned())
}

/// Those that a former program in this process left blocked, so that none could be lost.
fn unblock_signals() -> Result<()> {
    signal::set_blocked(&SigSet::empty()).context(|| "cannot unblock signals".to_owned())
}

/// A SIGKILL comes from outside (or from this supervisor, who has said so): the child is just started again.
fn nobodys_fault(ending: Ending) -> bool {
    ending == Ending::Killed(nix::libc::SIGKILL)
}
