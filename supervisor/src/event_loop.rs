//! The supervisor's one loop: wait, take what has come, do what is due. Nothing in here waits for a peer.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::PathBuf;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::fence;
use std::time::{Duration, Instant};

use common::error::{Context, Error, Result};
use common::ids::{Owner, Pid};
use common::journal::spool::Spool;
use common::log_limit::LogLimit;
use common::region::Region;
use common::sys::file;
use common::sys::process::{self, Ending};
use common::sys::signal::SignalPipe;
use common::wire::control::{DaemonState, DaemonStatus, Order, Report, Request, Response, Settings, Start};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::Signal;

use crate::children::{self, Child, Kept};
use crate::cli::{Options, Recovery};
use crate::control::{ConnectionId, ControlSocket};
use crate::listen::Listeners;
use crate::policy::{Cause, Clock, Policy};
use crate::pool::{Death, Pool};
use crate::repairs::{REPAIR_DEADLINE, Repairs};
use crate::rundir::RunDir;

/// How long a child may take to load.
const LOAD_DEADLINE: Duration = Duration::from_secs(30);
/// How long a template may take for one clone.
const CLONE_DEADLINE: Duration = Duration::from_secs(10);
/// How long the journal's keeper may take to seal everything.
const SEAL_DEADLINE: Duration = Duration::from_secs(30);
/// How long repairs may take once every worker has been killed.
const REPAIRS_DEADLINE: Duration = Duration::from_secs(30);
/// How long children without work may take to leave.
const LEAVE_DEADLINE: Duration = Duration::from_secs(5);
/// How often the total is looked at.
const TICK: Duration = Duration::from_secs(1);
/// A child that has failed so often before anything was ever served will not do better.
const START_ATTEMPTS: u32 = 3;
/// Descriptors that the supervisor needs besides those of its listening sockets.
const DESCRIPTORS_NEEDED: u64 = 64;

/// Runs the supervisor until it is stopped.
///
/// # Errors
/// Why it could not serve, or why it stopped serving.
pub fn run(options: Options) -> Result<()> {
    common::logging::init("supervisor");
    common::logging::set_level(options.log_level);
    let mut supervisor = Supervisor::set_up(options)?;
    while supervisor.phase != Phase::Gone {
        supervisor.turn()?;
    }
    supervisor.finish()
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
    Bell,
    Control,
    Template,
    NextTemplate,
    Recovery,
    Keeper,
}

struct Programs {
    worker: PathBuf,
    recovery: PathBuf,
}

struct Supervisor {
    options: Options,
    programs: Programs,
    spool_dir: PathBuf,
    began: Instant,

    rundir: RunDir,
    region: Region,
    region_file: File,
    region_to_show: File,
    spool: Spool,
    writers: File,
    listeners: Listeners,
    control: ControlSocket,
    signals: SignalPipe,
    bell: EventFd,

    template: Kept,
    template_number: u32,
    templates_started: u32,
    next_template: Option<(Child, u32)>,
    reload_waiters: Vec<ConnectionId>,
    recovery: Kept,
    recovery_overdue: bool,
    keeper: Kept,
    /// Children that have been let go and not been reaped yet.
    leaving: Vec<(Pid, Clock)>,

    pool: Pool,
    policy: Policy,
    repairs: Repairs,
    phase: Phase,
    announced: bool,
    reload_wanted: bool,
    swept: bool,
    attentive: bool,
    verdict: Option<Error>,
    start_failures: u32,
    failure_said: Option<String>,
    crash_log: LogLimit,
    failure_log: LogLimit,
    total_logged: u64,
    next_tick: Clock,
    /// When the policy wants to be asked again.
    ask_again: Option<Clock>,
}

impl Supervisor {
    fn set_up(options: Options) -> Result<Self> {
        let length = options.region_length()?;
        check_descriptors()?;
        process::keep_descriptors_from_children();
        let find = |named: &Option<PathBuf>, name| match named {
            Some(path) => children::check_program(path).map(|()| path.clone()),
            None => children::find_program(name),
        };
        let programs = Programs {
            worker: find(&options.worker_program, "worker")?,
            recovery: find(&options.recovery_program, "recovery")?,
        };
        let signals = catch_signals()?;
        let rundir = RunDir::take(&options.run_dir())?;
        if let Some(log) = &options.log {
            file::redirect_stderr(log).context(|| format!("cannot log to {}", log.display()))?;
        }
        let spool_dir =
            std::path::absolute(options.spool_dir()?).context(|| "cannot find the spool".to_owned())?;
        let spool = Spool::open_or_create(&spool_dir)?;
        let writers = spool.take()?;
        spool.check_reserving(&spool_dir)?;
        let region = rundir.region(length)?;
        options.check_room(region.unverified.contents().geometry())?;
        let listeners = Listeners::open(&options.listen()?, options.read_timeout.limit().unwrap_or(NEVER))?;
        rundir.remove("control.sock")?;
        let control = ControlSocket::open(&rundir.short_path("control.sock"))?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let bell = EventFd::from_value_and_flags(0, flags).context(|| "cannot make an eventfd".to_owned())?;
        let region_to_show =
            file::reopen_read_only(&region.file).context(|| "cannot open the region".to_owned())?;
        // The first thing that recovery does is to look at every slot; until then nobody gets one.
        let region_file = region.file;
        let region = region.unverified.once(Region::mark_in_use)?;
        region.header().journal.limit.store(options.spool_limit(), SeqCst);
        process::raise_priority();
        Ok(Self {
            policy: Policy::fixed(options.workers),
            pool: Pool::of(&region),
            repairs: Repairs::starting_with_takeover(Duration::ZERO),
            options,
            programs,
            spool_dir,
            began: Instant::now(),
            rundir,
            region,
            region_file,
            region_to_show,
            spool,
            writers,
            listeners,
            control,
            signals,
            bell,
            template: Kept::default(),
            template_number: 0,
            templates_started: 0,
            next_template: None,
            reload_waiters: Vec::new(),
            recovery: Kept::default(),
            recovery_overdue: false,
            keeper: Kept::default(),
            leaving: Vec::new(),
            phase: Phase::TakingOver,
            announced: false,
            reload_wanted: false,
            swept: false,
            attentive: false,
            verdict: None,
            start_failures: 0,
            failure_said: None,
            crash_log: LogLimit::default(),
            failure_log: LogLimit::default(),
            total_logged: 0,
            next_tick: Duration::ZERO,
            ask_again: None,
        })
    }

    fn now(&self) -> Clock {
        self.began.elapsed()
    }

    /// One turn of the loop.
    fn turn(&mut self) -> Result<()> {
        self.advance();
        if self.phase == Phase::Gone {
            return Ok(());
        }
        for source in self.wait()? {
            match source {
                Source::Signals => self.take_signals()?,
                Source::Bell => self.look_at_workers(),
                Source::Control => self.take_requests(),
                Source::Template => self.take_template_reports(),
                Source::NextTemplate => self.take_next_template_reports(),
                Source::Recovery => self.take_recovery_reports(),
                Source::Keeper => self.take_keeper_reports(),
            }
        }
        Ok(())
    }

    fn wait(&self) -> Result<Vec<Source>> {
        let mut sources = vec![Source::Signals, Source::Bell];
        let mut fds = vec![polled(self.signals.descriptor()), polled(self.bell.as_fd())];
        let children = [
            (Source::Recovery, self.recovery.child.as_ref()),
            (Source::Template, self.template.child.as_ref()),
            (Source::NextTemplate, self.next_template.as_ref().map(|(child, _)| child)),
            (Source::Keeper, self.keeper.child.as_ref()),
        ];
        for (source, child) in children {
            if let Some(descriptor) = child.and_then(Child::descriptor) {
                sources.push(source);
                fds.push(polled(descriptor));
            }
        }
        for descriptor in self.control.descriptors() {
            sources.push(Source::Control);
            fds.push(polled(descriptor));
        }
        match poll(&mut fds, self.timeout()) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
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
            Phase::Draining { kill_at } if kill_at <= now => Some(kill_at + REPAIRS_DEADLINE),
            Phase::Draining { kill_at } => Some(kill_at),
            Phase::Sealing { until, .. } | Phase::Closing { until } => Some(until),
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
            deadline(&self.template),
            deadline(&self.recovery),
            deadline(&self.keeper),
            self.next_template.as_ref().and_then(|(child, _)| child.deadline),
            self.leaving
                .iter()
                .map(|(_, deadline)| *deadline)
                .filter(|deadline| *deadline != Clock::MAX)
                .min(),
            self.ask_again,
        ];
        let next = moments.into_iter().flatten().min().unwrap_or(now + TICK);
        // Rounded up, so that the wait is not repeated just before its moment.
        let wait = next.saturating_sub(now) + Duration::from_micros(999);
        PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
    }

    /// Does what is due.
    fn advance(&mut self) {
        let now = self.now();
        if now >= self.next_tick {
            self.tick(now);
        }
        self.kill_the_overdue(now);
        self.start_children(now);
        self.tell_recovery(now);
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
            Phase::Draining { kill_at } => self.drain(now, kill_at),
            Phase::Sealing { ordered, until } => self.seal(now, ordered, until),
            Phase::Closing { until } => self.close(now, until),
        }
    }

    /// While a clone is outstanding the template's reply will wake this loop, and the slots are looked at then: a
    /// thousand workers that start together need not each wake it too.
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

    // ---- Children -------------------------------------------------------------------------------------------------

    fn start_children(&mut self, now: Clock) {
        let serving = matches!(self.phase, Phase::TakingOver | Phase::Serving);
        let closing = matches!(self.phase, Phase::Closing { .. } | Phase::Gone);
        let wants_recovery = match self.options.recovery {
            Recovery::Standby => !closing,
            Recovery::Spawn => !closing && self.repairs.has_untold(),
        };
        if wants_recovery && self.recovery.is_due(now) {
            let role = if self.options.recovery == Recovery::Standby { "standby" } else { "once" };
            let started = self.start_child(&self.programs.recovery, role, 0);
            self.recovery_overdue = false;
            self.keep(now, started, |this| &mut this.recovery);
        }
        if serving && self.template.is_due(now) {
            self.templates_started += 1;
            let number = self.templates_started;
            let started = self.start_child(&self.programs.worker, "template", number);
            if started.is_ok() {
                self.template_number = number;
            }
            self.keep(now, started, |this| &mut this.template);
        }
        // Takeover prepares what the keeper keeps: one after the other.
        if !closing && !self.repairs.is_taking_over() && self.keeper.is_due(now) {
            let started = self.start_child(&self.programs.recovery, "journal", 0);
            self.keep(now, started, |this| &mut this.keeper);
        }
    }

    fn keep(&mut self, now: Clock, started: Result<Child>, place: fn(&mut Self) -> &mut Kept) {
        match started {
            Ok(mut child) => {
                child.deadline = Some(now + LOAD_DEADLINE);
                place(self).child = Some(child);
            }
            Err(error) => {
                place(self).lost(now);
                self.child_failed(now, &error.to_string());
            }
        }
    }

    fn start_child(&self, program: &std::path::Path, role: &str, template: u32) -> Result<Child> {
        let absolute = |path: &Option<PathBuf>| path.as_ref().and_then(|path| std::path::absolute(path).ok());
        let start = Start {
            supervisor: Pid::current(),
            template,
            spool_dir: self.spool_dir.clone(),
            settings: Settings {
                users: absolute(&self.options.users),
                latency: self.options.latency.0,
                access_log: absolute(&self.options.access_log),
                read_timeout: self.options.read_timeout.limit().unwrap_or(NEVER),
                sync: self.options.sync(),
                log: absolute(&self.options.log),
                log_level: self.options.log_level.to_string(),
            },
            listeners: self.listeners.descriptors().count() as u32,
        };
        let own = [
            self.region_file.as_raw_fd(),
            self.spool.directory().as_raw_fd(),
            self.writers.as_raw_fd(),
            self.rundir.alive.as_raw_fd(),
            self.bell.as_raw_fd(),
        ];
        let endowment: Vec<RawFd> =
            own.into_iter().chain(self.listeners.descriptors().map(AsRawFd::as_raw_fd)).collect();
        Child::start(program, &[role], start, &endowment)
    }

    /// A child could not be started, or failed before it was ready. Fatal only while nothing has ever been served.
    fn child_failed(&mut self, now: Clock, why: &str) {
        self.log_failure(now, why);
        if self.announced {
            return;
        }
        self.start_failures += 1;
        if self.start_failures >= START_ATTEMPTS {
            self.stop_with(Error::failure(why));
        }
    }

    fn log_failure(&mut self, now: Clock, why: &str) {
        self.failure_log.warn(now, || why.to_owned());
    }

    fn kill_the_overdue(&mut self, now: Clock) {
        let overdue = |child: &mut Child| child.deadline.take_if(|deadline| *deadline <= now).is_some();
        let mut never_loaded = Vec::new();
        for (kept, what) in [
            (&mut self.template, "the template"),
            (&mut self.recovery, "recovery"),
            (&mut self.keeper, "the journal's keeper"),
        ] {
            let Some(child) = &mut kept.child else { continue };
            child.expect_its_end(now + LEAVE_DEADLINE);
            if overdue(child) {
                let why = format!("{what} (process {}) does not answer and is replaced", child.pid);
                log::error!("{why}");
                if !child.ready {
                    never_loaded.push(why);
                }
                self.recovery_overdue |= what == "recovery" && child.ready;
                child.give_up();
            }
        }
        if let Some((child, _)) = &mut self.next_template
            && overdue(child)
        {
            child.give_up();
        }
        for why in never_loaded {
            self.child_failed(now, &why);
        }
        for (pid, deadline) in &mut self.leaving {
            if std::mem::replace(deadline, if *deadline <= now { Clock::MAX } else { *deadline }) <= now {
                children::kill(*pid);
            }
        }
        for pid in self.pool.fell_overdue(now) {
            log::warn!("worker {pid} did not leave in time and is killed");
            children::kill(pid);
        }
    }

    // ---- Deaths ---------------------------------------------------------------------------------------------------

    fn take_signals(&mut self) -> Result<()> {
        for signal in self.signals.take() {
            match signal {
                Signal::SIGCHLD => self.reap()?,
                Signal::SIGTERM | Signal::SIGINT => self.begin_drain(),
                Signal::SIGQUIT => self.stop_now(),
                Signal::SIGHUP => self.reload(None),
                Signal::SIGUSR1 => self.reopen_logs(),
                Signal::SIGTTIN => drop(self.scale_within_bounds(self.policy.target().saturating_add(1))),
                Signal::SIGTTOU => drop(self.scale_within_bounds(self.policy.target().saturating_sub(1))),
                other => log::warn!("{other} is not used"),
            }
        }
        Ok(())
    }

    /// One SIGCHLD may stand for many deaths: reap until nobody is left, then have all of them repaired together.
    fn reap(&mut self) -> Result<()> {
        while let Some((pid, ending)) = process::reap().context(|| "cannot reap".to_owned())? {
            self.died(pid, ending);
        }
        self.tell_recovery(self.now());
        Ok(())
    }

    fn died(&mut self, pid: Pid, ending: Ending) {
        let now = self.now();
        if self.recovery.is(pid) {
            self.recovery_died(now, pid, ending);
        } else if self.template.is(pid) {
            self.template_died(now, pid, ending);
        } else if self.next_template.as_ref().is_some_and(|(child, _)| child.pid == pid) {
            self.next_template_died(ending);
        } else if self.keeper.is(pid) {
            self.keeper_died(now, pid, ending);
        } else if let Some(place) = self.leaving.iter().position(|(leaving, _)| *leaving == pid) {
            self.leaving.swap_remove(place);
        } else {
            let death = self.pool.died(&self.region, pid, ending);
            self.worker_died(now, pid, ending, death);
        }
    }

    fn worker_died(&mut self, now: Clock, pid: Pid, ending: Ending, death: Death) {
        match death {
            Death::Unknown | Death::Left => {}
            // However it leaves, one that comes and goes is not replaced faster than one that crashes.
            Death::LeftUnasked => self.policy.worker_died(now),
            Death::Young(to_repair) => {
                self.repair_if(to_repair);
                self.policy.worker_failed(now, Cause::DiedYoung);
                self.log_failure(now, &format!("worker {pid} {ending} before it was ready"));
            }
            Death::Felled(owner) => self.repairs.add(owner, false, now),
            Death::Crashed(owner) => {
                self.repairs.add(owner, true, now);
                self.policy.worker_died(now);
                self.crash_log.warn(now, || format!("worker {pid} in {owner} crashed: {ending}"));
            }
        }
    }

    fn recovery_died(&mut self, now: Clock, pid: Pid, ending: Ending) {
        // What it reported before it died still counts.
        self.take_recovery_reports();
        let was_ready = self.recovery.ready().is_some();
        // One started for a single crash leaves when it has done its work.
        let done = ending == Ending::Exited(0) && self.options.recovery == Recovery::Spawn;
        // One that leaves its work undone of its own accord will do so again.
        let useless = self.repairs.has_told() && !nobodys_fault(ending);
        self.recovery.lost_as(now, was_ready && !useless);
        if !done {
            self.log_failure(now, &format!("recovery (process {pid}) {ending}"));
        }
        let by_deadline = std::mem::take(&mut self.recovery_overdue);
        let said = self.failure_said.take();
        if let Some(what) = self.repairs.recovery_died(ending, by_deadline) {
            self.damaged(&format!("recovery failed three times to repair {what}"));
        } else if let Some(why) = said {
            self.recovery_gave_up(now, ending, why);
        } else if !was_ready && !nobodys_fault(ending) {
            self.child_failed(now, &format!("recovery {ending} before it was ready"));
        }
    }

    /// Recovery has left with a sentence: something outside the region is wrong, and trying again at once is no use.
    fn recovery_gave_up(&mut self, now: Clock, ending: Ending, why: String) {
        if self.announced {
            self.recovery.lost(now);
            self.log_failure(now, &why);
            return;
        }
        self.stop_with(match ending {
            Ending::Exited(2) => Error::usage(why),
            Ending::Exited(4) => Error::region(why),
            _ => Error::failure(why),
        });
    }

    fn template_died(&mut self, now: Clock, pid: Pid, ending: Ending) {
        let was_ready = self.template.ready().is_some();
        self.take_template_reports();
        self.template.lost(now);
        self.settle_outstanding_spawn();
        let said = self.failure_said.take();
        let why = said.unwrap_or_else(|| format!("template {pid} {ending}"));
        if was_ready {
            log::warn!("{why}");
        } else if nobodys_fault(ending) {
            self.log_failure(now, &why);
        } else if !self.announced {
            let usage = ending == Ending::Exited(2);
            self.stop_with(if usage { Error::usage(why) } else { Error::failure(why) });
        } else {
            self.child_failed(now, &why);
        }
    }

    fn repair_if(&mut self, owner: Option<Owner>) {
        if let Some(owner) = owner {
            self.repairs.add(owner, false, self.now());
        }
    }

    /// The template is gone with a clone outstanding. Either nobody has taken the slot, and now nobody can; or the
    /// clone has, and the kernel stored its pid there before it ran.
    fn settle_outstanding_spawn(&mut self) {
        let Some(owner) = self.pool.reserved() else { return };
        if !self.pool.withdraw(&self.region, owner) {
            let pid = self.region.slot(owner.slot).map_or(Pid(0), common::layout::Slot::pid);
            self.spawned(owner, pid);
        }
    }

    fn next_template_died(&mut self, ending: Ending) {
        self.take_next_template_reports();
        self.next_template = None;
        let said = self.failure_said.take();
        let why = said.unwrap_or_else(|| format!("the template {ending}"));
        log::error!("reload failed, the former template goes on: {why}");
        self.answer_reload(&Response::Refused(format!("reload failed, the former template goes on: {why}")));
    }

    fn keeper_died(&mut self, now: Clock, pid: Pid, ending: Ending) {
        self.take_keeper_reports();
        let was_ready = self.keeper.ready().is_some();
        self.keeper.lost(now);
        if let Phase::Sealing { ordered, .. } = &mut self.phase {
            *ordered = false;
        }
        let why = format!("the journal's keeper (process {pid}) {ending}");
        if was_ready || nobodys_fault(ending) { log::warn!("{why}") } else { self.child_failed(now, &why) }
    }

    // ---- Reports --------------------------------------------------------------------------------------------------

    fn take_template_reports(&mut self) {
        while let Some(report) = self.template.child.as_mut().and_then(Child::report) {
            match report {
                Report::Ready => self.template.now_ready(),
                Report::Failed(why) => self.failure_said = Some(why),
                Report::Spawned(owner, pid) => self.spawned(owner, pid),
                Report::SpawnFailed(owner, errno) => self.spawn_failed(owner, errno),
                other => log::warn!("the template reports {other:?}"),
            }
        }
    }

    fn spawned(&mut self, owner: Owner, pid: Pid) {
        if self.pool.reserved() != Some(owner) {
            // What it was asked is still to be answered, and the deadline runs.
            log::error!("the template names process {pid} for {owner}, and was not asked to");
            return;
        }
        if let Some(child) = &mut self.template.child {
            child.deadline = None;
        }
        if !self.may_be_a_worker(pid) {
            log::error!("process {pid} was named for {owner}, and cannot be it");
            let to_repair = self.pool.abandon(&self.region, owner);
            self.repair_if(to_repair);
            return;
        }
        if let Some(ending) = self.pool.spawned(owner, pid) {
            self.died(pid, ending);
        }
        self.note_ready_workers();
    }

    /// A pid from the template, or from the region, is an allegation: a worker is a child of this process, and none of
    /// those that are known.
    fn may_be_a_worker(&self, pid: Pid) -> bool {
        let others = [&self.template, &self.recovery, &self.keeper].into_iter().any(|kept| kept.is(pid))
            || self.next_template.as_ref().is_some_and(|(child, _)| child.pid == pid)
            || self.leaving.iter().any(|(leaving, _)| *leaving == pid);
        let exists = self.pool.has_seen_die(pid) || process::is_child(pid);
        pid.0 > 0 && exists && !others && !self.pool.knows(pid)
    }

    fn spawn_failed(&mut self, owner: Owner, errno: i32) {
        if self.pool.reserved() != Some(owner) {
            log::error!("the template gives up {owner}, and was not asked for it");
            return;
        }
        let now = self.now();
        if let Some(child) = &mut self.template.child {
            child.deadline = None;
        }
        let to_repair = self.pool.abandon(&self.region, owner);
        self.repair_if(to_repair);
        self.policy.worker_failed(now, Cause::Refused);
        let (have, want) = (self.pool.counts().ready, self.policy.target());
        let cause = std::io::Error::from_raw_os_error(errno);
        let why = format!(
            "cannot start more workers ({have} of {want} are running): {cause}; raise the limit of processes \
             (pids.max of the cgroup, ulimit -u) or the memory, or ask for fewer --workers"
        );
        self.log_failure(now, &why);
        if !self.announced {
            self.stop_with(Error::failure(why));
        }
    }

    fn take_next_template_reports(&mut self) {
        while let Some(report) = self.next_template.as_mut().and_then(|(child, _)| child.report()) {
            match report {
                Report::Ready => {
                    if let Some((child, _)) = &mut self.next_template {
                        child.ready = true;
                        child.deadline = None;
                    }
                }
                Report::Failed(why) => self.failure_said = Some(why),
                other => log::warn!("the next template reports {other:?}"),
            }
        }
    }

    fn take_recovery_reports(&mut self) {
        while let Some(report) = self.recovery.child.as_mut().and_then(Child::report) {
            match report {
                Report::Ready => {
                    self.recovery.now_loaded();
                    self.tell_recovery(self.now());
                }
                Report::TakenOver(repaired) => self.taken_over(repaired),
                Report::Repaired(owner) => self.repaired(owner),
                Report::Refused(owner, why) => self.repair_refused(owner, &why),
                Report::Delayed(why) => {
                    self.log_failure(self.now(), &format!("recovery waits and tries again: {why}"));
                    self.extend_repair_deadline();
                }
                Report::Failed(why) => self.failure_said = Some(format!("recovery: {why}")),
                other => log::warn!("recovery reports {other:?}"),
            }
        }
    }

    fn taken_over(&mut self, repaired: u32) {
        self.repairs.taken_over();
        self.extend_repair_deadline();
        if repaired > 0 {
            log::info!("{repaired} slots of a former life were repaired");
        }
        if self.phase == Phase::TakingOver {
            self.phase = Phase::Serving;
            if std::mem::take(&mut self.reload_wanted) {
                self.reload(None);
            }
        }
    }

    fn repaired(&mut self, owner: Owner) {
        let now = self.now();
        if self.repairs.repaired(owner, now) {
            self.pool.repaired(owner);
        }
        self.extend_repair_deadline();
    }

    fn repair_refused(&mut self, owner: Owner, why: &str) {
        let now = self.now();
        self.log_failure(now, &format!("{owner} cannot be repaired: {why}"));
        let last = if self.repairs.is_at_the_whole() {
            self.repairs.refused_whole()
        } else {
            self.repairs.refused(owner)
        };
        self.extend_repair_deadline();
        if last {
            self.damaged(&format!("{owner} cannot be repaired: {why}"));
        }
    }

    /// Recovery has just shown that it works: what is left of its orders gets a deadline of its own.
    fn extend_repair_deadline(&mut self) {
        self.recovery.does_well();
        let deadline = self.repairs.has_told().then(|| self.now() + REPAIR_DEADLINE);
        if let Some(child) = &mut self.recovery.child {
            child.deadline = deadline;
        }
    }

    fn tell_recovery(&mut self, now: Clock) {
        if self.is_damaged() {
            // Nobody serves from this region any more, and nobody shall repair it by guessing.
            return;
        }
        let Some(child) = self.recovery.child.as_mut().filter(|child| child.ready) else { return };
        // One started for a single crash takes one order.
        let takes_more = self.options.recovery == Recovery::Standby || !self.repairs.has_told();
        if !takes_more {
            return;
        }
        let Some(order) = self.repairs.next_order() else { return };
        if child.order(&order) {
            self.repairs.told();
            let whole = matches!(order, Order::TakeOver | Order::Sweep);
            let allowed = if whole { LOAD_DEADLINE } else { REPAIR_DEADLINE };
            child.deadline = Some(child.deadline.unwrap_or(now + allowed));
        }
    }

    fn take_keeper_reports(&mut self) {
        while let Some(report) = self.keeper.child.as_mut().and_then(Child::report) {
            match report {
                Report::Ready => self.keeper.now_ready(),
                Report::Sealed => self.sealed(),
                Report::Failed(why) => log::error!("the journal's keeper: {why}"),
                other => log::warn!("the journal's keeper reports {other:?}"),
            }
        }
    }

    // ---- Serving --------------------------------------------------------------------------------------------------

    fn look_at_workers(&mut self) {
        let _ = self.bell.read();
        self.note_ready_workers();
    }

    fn note_ready_workers(&mut self) -> bool {
        let some = self.pool.note_ready(&self.region) > 0;
        if some {
            self.policy.worker_ready();
        }
        some
    }

    fn serve(&mut self, now: Clock) {
        self.swap_templates();
        let counts = self.pool.counts();
        if !self.announced && counts.ready >= self.policy.target() {
            self.announce(counts.ready);
        }
        let plan = self.policy.plan(now, counts);
        self.ask_again = plan.ask_again;
        if plan.start > 0 {
            self.start_worker(now);
        }
        self.retire(plan.retire_outdated, plan.retire_surplus, now);
    }

    /// Asks the template for one worker; one at a time is outstanding.
    fn start_worker(&mut self, now: Clock) {
        if self.template.ready().is_none() || self.pool.reserved().is_some() {
            return;
        }
        let Some(owner) = self.pool.reserve(&self.region, self.template_number) else { return };
        let Some(child) = &mut self.template.child else { return };
        if child.order(&Order::Spawn(owner)) {
            child.deadline = Some(now + CLONE_DEADLINE);
        } else {
            let to_repair = self.pool.abandon(&self.region, owner);
            self.repair_if(to_repair);
        }
    }

    fn retire(&mut self, outdated: u32, surplus: u32, now: Clock) {
        if outdated + surplus == 0 {
            return;
        }
        let deadline = now + self.options.grace.limit().unwrap_or(NEVER);
        for pid in self.pool.retire(outdated, surplus, deadline) {
            children::signal(pid, Signal::SIGTERM);
        }
    }

    fn announce(&mut self, ready: u32) {
        use std::io::Write as _;
        self.announced = true;
        let line = format!("Running with {ready} workers on {}", self.listeners.names().join(", "));
        let mut out = std::io::stdout().lock();
        // A closed stdout is the starter's affair, not the service's.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        log::info!("{line}");
    }

    fn tick(&mut self, now: Clock) {
        self.next_tick = now + TICK;
        self.control.rested();
        let total = self.region.totals().messages;
        if total != self.total_logged {
            self.total_logged = total;
            log::info!("total requests {total}");
        }
    }

    // ---- Reload, scale, logs ------------------------------------------------------------------------------------------

    fn reload(&mut self, waiter: Option<ConnectionId>) {
        if self.phase == Phase::TakingOver {
            // The template that loads now may have read the files already.
            self.reload_wanted = true;
            self.reload_waiters.extend(waiter);
            return;
        }
        if self.phase != Phase::Serving {
            if let Some(id) = waiter {
                self.control.reply(id, &Response::Refused("the instance is not serving".to_owned()), &[]);
            }
            return;
        }
        self.reload_waiters.extend(waiter);
        if let Some((child, _)) = self.next_template.take() {
            // It may have read the files before they were changed again.
            self.let_go(child);
        }
        self.templates_started += 1;
        let number = self.templates_started;
        match self.start_child(&self.programs.worker, "template", number) {
            Ok(mut child) => {
                child.deadline = Some(self.now() + LOAD_DEADLINE);
                self.next_template = Some((child, number));
            }
            Err(error) => {
                log::error!("reload failed, the former template goes on: {error}");
                self.answer_reload(&Response::Refused(error.to_string()));
            }
        }
    }

    /// A loaded template takes over from the former one, once no clone of that is outstanding.
    fn swap_templates(&mut self) {
        let loaded = self.next_template.take_if(|(child, _)| child.ready);
        let Some((child, number)) = loaded else { return };
        if self.pool.reserved().is_some() {
            self.next_template = Some((child, number));
            return;
        }
        log::info!("template {} (generation {number}) serves from now on", child.pid);
        if let Some(former) = self.template.child.replace(child) {
            self.let_go(former);
        }
        self.template_number = number;
        self.template.now_ready();
        self.pool.outdate_before(number);
        self.answer_reload(&Response::Done);
    }

    fn answer_reload(&mut self, response: &Response) {
        for waiter in std::mem::take(&mut self.reload_waiters) {
            self.control.reply(waiter, response, &[]);
        }
    }

    /// Closes a child's channel: it leaves, and is reaped like any other.
    fn let_go(&mut self, child: Child) {
        self.leaving.push((child.pid, self.now() + LEAVE_DEADLINE));
        drop(child);
    }

    fn scale(&mut self, workers: u32) {
        if matches!(self.phase, Phase::TakingOver | Phase::Serving) {
            log::info!("{workers} workers are wanted");
            self.policy.scale(workers);
        }
    }

    fn reopen_logs(&mut self) {
        if let Some(path) = &self.options.log
            && let Err(error) = file::redirect_stderr(path)
        {
            log::error!("cannot log to {}: {error}", path.display());
        }
        self.region.header().supervision.log_epoch.fetch_add(1, SeqCst);
        log::info!("logs are opened again");
    }

    // ---- The control socket -------------------------------------------------------------------------------------------

    fn take_requests(&mut self) {
        for (id, request) in self.control.requests(self.now()) {
            match request {
                Request::Status => {
                    let status = Response::Status(Box::new(self.status()));
                    self.control.reply(id, &status, &[self.region_to_show.as_raw_fd()]);
                }
                Request::Stop { fast } => {
                    self.control.reply(id, &Response::Done, &[]);
                    if fast { self.stop_now() } else { self.begin_drain() }
                }
                Request::Reload => self.reload(Some(id)),
                Request::Scale(workers) => {
                    let response = self.scale_within_bounds(workers);
                    self.control.reply(id, &response, &[]);
                }
            }
        }
    }

    fn scale_within_bounds(&mut self, workers: u32) -> Response {
        let most = self.region.geometry().slot_count.saturating_sub(2);
        if workers == 0 || workers > most {
            return Response::Refused(format!(
                "{workers} workers are not possible here: choose between 1 and {most}"
            ));
        }
        if !matches!(self.phase, Phase::TakingOver | Phase::Serving) {
            return Response::Refused("the instance is stopping".to_owned());
        }
        self.scale(workers);
        Response::Done
    }

    fn status(&self) -> DaemonStatus {
        DaemonStatus {
            state: self.state(),
            supervisor: Pid::current(),
            template: self.template.pid(),
            recovery: self.recovery.pid(),
            generation: self.template_number,
            listen: self.listeners.names().to_vec(),
            configured: self.policy.target(),
            recovery_us: self.repairs.durations(),
        }
    }

    fn state(&self) -> DaemonState {
        let failing = self.policy.is_backing_off()
            || [&self.template, &self.recovery, &self.keeper].into_iter().any(Kept::is_backing_off);
        match self.phase {
            Phase::TakingOver => DaemonState::Starting,
            Phase::Serving if failing => DaemonState::Degraded,
            Phase::Serving if !self.announced => DaemonState::Starting,
            Phase::Serving => DaemonState::Running,
            _ => DaemonState::Draining,
        }
    }

    // ---- The end ------------------------------------------------------------------------------------------------------

    fn begin_drain(&mut self) {
        if !matches!(self.phase, Phase::TakingOver | Phase::Serving) {
            return;
        }
        log::info!("draining");
        self.phase = Phase::Draining { kill_at: self.now() + self.options.grace.limit().unwrap_or(NEVER) };
        self.region.header().supervision.draining.store(1, Relaxed);
        self.policy.drain();
        self.listeners.close();
        if let Some((child, _)) = self.next_template.take() {
            self.let_go(child);
        }
        self.answer_reload(&Response::Refused("the instance is stopping".to_owned()));
    }

    fn stop_now(&mut self) {
        self.begin_drain();
        let now = self.now();
        if let Phase::Draining { kill_at } = &mut self.phase
            && *kill_at > now
        {
            *kill_at = now;
        }
    }

    fn stop_with(&mut self, error: Error) {
        self.verdict.get_or_insert(error);
        self.stop_now();
    }

    fn damaged(&mut self, what: &str) {
        log::error!("the region is damaged: {what}");
        self.region.header().supervision.damaged.store(1, SeqCst);
        self.stop_with(Error::region(format!(
            "the region is damaged: {what}; `recovery verify` says more, and moving the file away starts with an empty one"
        )));
    }

    fn is_damaged(&self) -> bool {
        self.region.header().supervision.damaged.load(SeqCst) != 0
    }

    fn drain(&mut self, now: Clock, kill_at: Clock) {
        if self.pool.reserved().is_none()
            && let Some(template) = self.template.child.take()
        {
            self.let_go(template);
        }
        let counts = self.pool.counts();
        let plan = self.policy.plan(now, counts);
        self.ask_again = None;
        self.retire(plan.retire_outdated, plan.retire_surplus, now);
        if now >= kill_at {
            self.pool.fell_all().into_iter().for_each(children::kill);
        }
        if !self.swept && self.repairs.is_empty() && self.pool.is_empty() {
            self.swept = true;
            self.repairs.add_sweep(now);
            self.tell_recovery(now);
        }
        let repaired = self.repairs.is_empty() && self.pool.is_empty();
        // An instance that has never served and cannot has promised nothing to anybody.
        if now >= kill_at + REPAIRS_DEADLINE && self.pool.has_no_process() && !repaired {
            let left = self.repairs.len();
            self.verdict.get_or_insert(Error::failure(format!(
                "{left} slots could not be repaired in time, because the spool cannot be read or written; the next start does it"
            )));
            self.phase = self.closing(now);
            return;
        }
        let hopeless = self.is_damaged() || (!self.announced && self.verdict.is_some());
        if self.pool.has_no_process() && self.template.child.is_none() && (repaired || hopeless) {
            let until = now + SEAL_DEADLINE;
            self.phase = if repaired { Phase::Sealing { ordered: false, until } } else { self.closing(now) };
        }
    }

    fn seal(&mut self, now: Clock, ordered: bool, until: Clock) {
        if now >= until {
            self.verdict.get_or_insert(Error::failure(
                "the journal could not be sealed; its last minute is sealed when the next instance starts",
            ));
            self.phase = self.closing(now);
        } else if !ordered && self.keeper.ready().is_some_and(|keeper| keeper.order(&Order::SealAll)) {
            self.phase = Phase::Sealing { ordered: true, until };
        }
    }

    fn sealed(&mut self) {
        if matches!(self.phase, Phase::Sealing { ordered: true, .. }) {
            let clean = self.region.mark_clean();
            if let Err(error) = clean {
                self.verdict.get_or_insert(error);
            }
            self.phase = self.closing(self.now());
        }
    }

    fn closing(&mut self, now: Clock) -> Phase {
        let children = [self.template.child.take(), self.recovery.child.take(), self.keeper.child.take()];
        for child in children.into_iter().flatten() {
            self.let_go(child);
        }
        Phase::Closing { until: now + LEAVE_DEADLINE }
    }

    fn close(&mut self, now: Clock, until: Clock) {
        if now >= until {
            self.leaving.iter().for_each(|(pid, _)| children::kill(*pid));
            self.phase = Phase::Closing { until: now + LEAVE_DEADLINE };
        }
        if self.leaving.is_empty() && self.pool.has_no_process() {
            self.phase = Phase::Gone;
        }
    }

    fn finish(mut self) -> Result<()> {
        let _ = self.rundir.remove("control.sock");
        log::info!("stopped with {} messages in total", self.region.totals().messages);
        let verdict = self.verdict.take();
        // The lock goes before the connections: who waits for the end of a connection can start the next instance.
        let Self { rundir, writers, control, .. } = self;
        rundir.release();
        drop(writers);
        drop(control);
        verdict.map_or(Ok(()), Err)
    }
}

/// A duration for "never" that arithmetic on clocks survives.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

fn polled(descriptor: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::new(descriptor, PollFlags::POLLIN)
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

/// A SIGKILL comes from outside (or from this supervisor, who has said so): the child is just started again.
fn nobodys_fault(ending: Ending) -> bool {
    ending == Ending::Killed(nix::libc::SIGKILL)
}
