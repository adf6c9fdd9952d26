//! USR2: a program is asked whether it could take over, and does so. See [`crate::upgrade`].
//!
//! It is asked at once, and takes over once the instance serves and no reload is under way: a reload is finished first.
//! Everything else goes on in the successor where it stood: clones, repairs, checkpoints, workers that leave, and whoever
//! waits for an answer.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use common::error::{Context, Error, Result};
use common::ids::Pid;
use common::sys::process::{self, Ending, HANDOVER_VARIABLE};
use common::sys::{exec, file, scheduling, signal};
use common::wire::control::Response;
use nix::sys::signal::Signal;

use crate::children;
use crate::control::ConnectionId;
use crate::policy::Clock;
use crate::service_manager;
use crate::upgrade::handover::{Errand, Summons};
use crate::upgrade::luggage::Luggage;
use crate::upgrade::program::{Identity, Program};
use crate::upgrade::{anew, check, handover};

use super::handing_over::{State, signals_in};
use super::{LEAVE_DEADLINE, Phase, Supervisor, unblock_signals};

/// How long a program may take to say whether it could take over. Nobody waits for it, and the machine may be busy.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// Why no program takes over at the end.
const STOPPING: &str = "the instance is stopping: no other program takes over";

/// A file that is another one each time it has answered is asked so often.
const ATTEMPTS: u32 = 3;

/// Which program would take over, and how far that is.
pub(super) struct Upgrade {
    pub(super) program: Program,
    /// Where this one was started, if it is elsewhere now.
    started_in: Option<PathBuf>,
    asked: Option<Asked>,
    /// The file that has said that it could.
    willing: Option<Identity>,
    attempts: u32,
    /// Who wants to know what comes of it.
    pub(super) waiters: Vec<ConnectionId>,
    /// Whether children may be of the programs that there were before this one.
    others_outdated: bool,
    /// Whether they are to be replaced.
    others_wanted: bool,
}

/// A child that is asked.
struct Asked {
    pid: Pid,
    said: File,
    identity: Identity,
    deadline: Clock,
    overdue: bool,
}

impl Upgrade {
    pub(super) fn new(program: Program, started_in: Option<PathBuf>) -> Self {
        let (asked, willing, waiters) = (None, None, Vec::new());
        let (others_outdated, others_wanted) = (false, false);
        Self { program, started_in, asked, willing, attempts: 0, waiters, others_outdated, others_wanted }
    }

    /// In a program that has just taken over.
    pub(super) fn after_one(
        program: Program,
        started_in: Option<PathBuf>,
        waiters: Vec<ConnectionId>,
    ) -> Self {
        Self { waiters, others_outdated: true, ..Self::new(program, started_in) }
    }

    /// Whether this process is the one that is asked.
    pub(super) fn is(&self, pid: Pid) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.pid == pid)
    }

    /// By when it must have answered.
    pub(super) fn due(&self) -> Option<Clock> {
        self.asked.as_ref().filter(|asked| !asked.overdue).map(|asked| asked.deadline)
    }
}

/// Goes on in a process whose former program has executed this one, with the state behind this number. Where that cannot be
/// done, everything is started anew.
///
/// # Errors
/// As [`super::run`].
pub fn go_on(summons: &Summons, state: RawFd) -> Result<()> {
    common::logging::init("supervisor");
    if let Some(nice) = summons.nice {
        scheduling::inherit_former_priority(nice);
    }
    let sockets = anew::listening_sockets();
    match Supervisor::take_over(summons, state) {
        Ok(supervisor) => {
            drop(sockets);
            supervisor.live()
        }
        Err(error) => {
            log::error!(
                "cannot go on where the former program left off, and starts everything anew: {error}"
            );
            anew::start(summons, &sockets)
        }
    }
}

impl Supervisor {
    fn take_over(summons: &Summons, state: RawFd) -> Result<Self> {
        let descriptor = file::adopt(state).context(|| "nothing is handed over".to_owned())?;
        let state: State = handover::read(&mut File::from(descriptor))?;
        let (version, packed_ns) = (state.version.clone(), state.packed_ns);
        let pending = signals_in(&state.signals)?;
        let mut this = Self::unpack(state, summons.started_in.clone())?;
        let took_us = process::monotonic_ns().saturating_sub(packed_ns) / 1000;
        let line = format!(
            "version {} goes on where version {version} left off, {took_us} µs ago, with {} workers",
            env!("CARGO_PKG_VERSION"),
            this.pool.counts().ready
        );
        log::info!("{line}");
        service_manager::serves(&line);
        unblock_signals()?;
        // Who died in the meantime is there still.
        this.reap_others()?;
        this.note_ready_workers();
        for signal in pending {
            this.take_signal(signal)?;
        }
        this.answer_upgrade(&Response::Done);
        Ok(this)
    }

    /// Another program is to take over.
    pub(super) fn want_upgrade(&mut self, waiter: Option<ConnectionId>) {
        self.upgrade.waiters.extend(waiter);
        if !matches!(self.phase, Phase::TakingOver | Phase::Serving | Phase::Restoring { .. }) {
            log::warn!("{STOPPING}");
            self.answer_upgrade(&Response::Refused(STOPPING.to_owned()));
        } else if self.upgrade.asked.is_some() {
            log::warn!("a program is being asked already whether it can take over");
        } else {
            self.upgrade.attempts = 0;
            self.ask();
        }
    }

    fn answer_upgrade(&mut self, response: &Response) {
        for waiter in std::mem::take(&mut self.upgrade.waiters) {
            self.control.reply(waiter, response, &[]);
        }
    }

    fn ask(&mut self) {
        self.upgrade.attempts += 1;
        self.upgrade.willing = None;
        match self.start_asking() {
            Ok(asked) => {
                let path = self.upgrade.program.path().display();
                log::info!("asks {path} (process {}) whether it can take over", asked.pid);
                self.upgrade.asked = Some(asked);
            }
            Err(error) => self.refused(&error),
        }
    }

    fn start_asking(&self) -> Result<Asked> {
        let program = &self.upgrade.program;
        let identity = program.identity()?;
        let mut luggage = Luggage::default();
        let state = handover::write(&self.pack(&[], &mut luggage))?;
        let started_in = self.upgrade.started_in.as_deref();
        let summons = self.summons(Errand::Answer(state.as_raw_fd())).written();
        let mut arguments = vec![OsString::from("--check-config")];
        arguments.extend(std::env::args_os().skip(1));
        let (pid, said) = process::start_asking(
            program.path(),
            &arguments,
            (HANDOVER_VARIABLE, summons.as_os_str()),
            started_in,
            &[state.as_fd(), self.region_to_show.as_fd()],
        )
        .context(|| format!("cannot run {}", program.path().display()))?;
        Ok(Asked { pid, said, identity, deadline: self.now() + ANSWER_DEADLINE, overdue: false })
    }

    fn summons(&self, errand: Errand) -> Summons {
        Summons::new(errand, scheduling::former_priority(), self.upgrade.started_in.clone())
    }

    fn refused(&mut self, error: &Error) {
        let path = self.upgrade.program.path().display();
        let line = format!("{path} cannot take over, and this program goes on: {error}");
        log::error!("{line}");
        if self.announced && self.phase == Phase::Serving {
            service_manager::says(&line);
        }
        self.answer_upgrade(&Response::Refused(line));
    }

    pub(super) fn end_overdue_question(&mut self, now: Clock) {
        if let Some(asked) =
            self.upgrade.asked.as_mut().filter(|asked| !asked.overdue && asked.deadline <= now)
        {
            asked.overdue = true;
            children::kill(asked.pid);
        }
    }

    /// The program that was asked has ended, which is an answer.
    pub(super) fn asked_died(&mut self, ending: Ending) {
        let Some(Asked { mut said, identity, overdue, .. }) = self.upgrade.asked.take() else { return };
        let said = process::what_was_said(&mut said).unwrap_or_default();
        let answer = if overdue {
            Err(Error::failure(format!(
                "it did not say whether it can within {} s",
                ANSWER_DEADLINE.as_secs()
            )))
        } else {
            check::judge(ending, &said)
        };
        match answer {
            Ok(()) => self.upgrade.willing = Some(identity),
            Err(error) => self.refused(&error),
        }
    }

    /// The instance ends, and no other program is wanted any more.
    pub(super) fn forget_upgrade(&mut self) {
        if self.upgrade.willing.take().is_some() {
            log::warn!("{STOPPING}");
        }
        self.answer_upgrade(&Response::Refused(STOPPING.to_owned()));
        if let Some(asked) = self.upgrade.asked.take() {
            children::kill(asked.pid);
            self.leaving.push((asked.pid, self.now() + LEAVE_DEADLINE));
        }
    }

    /// Lets a program take over that has said that it can. Returns where none is there yet, or it cannot be executed.
    pub(super) fn let_take_over(&mut self) -> Result<()> {
        if self.phase != Phase::Serving || !self.announced || self.next_template.is_some() {
            return Ok(());
        }
        let Some(willing) = self.upgrade.willing.take() else { return Ok(()) };
        match self.upgrade.program.identity() {
            Ok(identity) if identity == willing => {}
            Ok(_) if self.upgrade.attempts < ATTEMPTS => {
                self.ask();
                return Ok(());
            }
            Ok(_) => {
                self.refused(&Error::failure("it is another file each time that it has been asked"));
                return Ok(());
            }
            Err(error) => {
                self.refused(&error);
                return Ok(());
            }
        }
        log::info!("{} takes over", self.upgrade.program.path().display());
        // Whoever has died by now is in the book, and told of in the log.
        self.reap_others()?;
        if self.phase != Phase::Serving {
            self.upgrade.willing = Some(willing);
            return Ok(());
        }
        service_manager::reloads();
        let Err(error) = self.become_it();
        self.refused(&error);
        service_manager::serves("goes on after it could not execute another program");
        Ok(())
    }

    /// A reload has been done, by which everything comes to be of the programs that are installed now: so do the other children,
    /// if there were others when they were started.
    pub(super) fn want_other_children(&mut self) {
        self.upgrade.others_wanted |= self.upgrade.others_outdated;
    }

    /// Replaces them, once recovery has nothing to do. Recovery and keeper are killed: the next one is to begin when there is
    /// no former one any more, and what they leave then is what it is used to.
    pub(super) fn replace_other_children(&mut self) {
        if !self.upgrade.others_wanted || self.repairs.is_at_work() {
            return;
        }
        (self.upgrade.others_wanted, self.upgrade.others_outdated) = (false, false);
        for child in [&self.recovery, &self.keeper].into_iter().filter_map(|kept| kept.child.as_ref()) {
            log::info!(
                "process {} is killed, to make room for one of the program that is installed now",
                child.pid
            );
            children::kill(child.pid);
        }
        self.shipping.renew();
        self.showing.renew();
    }

    /// Signals wait until the next program can take them. Should there be none, this one does.
    fn become_it(&mut self) -> Result<Infallible> {
        let doing = || "cannot block signals".to_owned();
        let before = signal::block_all().context(doing)?;
        let pending = self.signals.take();
        let outcome = self.execute(&pending);
        signal::set_blocked(&before).context(doing)?;
        for signal in pending {
            self.take_signal(signal)?;
        }
        outcome
    }

    fn execute(&self, pending: &[Signal]) -> Result<Infallible> {
        let mut luggage = Luggage::default();
        let state = handover::write(&self.pack(pending, &mut luggage))?;
        let summons = self.summons(Errand::GoOn(state.as_raw_fd()));
        let program = self.upgrade.program.path();
        let arguments: Vec<OsString> = std::env::args_os().collect();
        let kept: Vec<_> = luggage.descriptors().iter().copied().chain([state.as_fd()]).collect();
        exec::become_program(program, &arguments, &anew::environment(&summons), &kept)
            .context(|| format!("cannot execute {}", program.display()))
    }
}
