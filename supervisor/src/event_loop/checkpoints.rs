//! Checkpoints: when one is due a process is started that takes it, in a slot that it borrows, and leaves.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use common::gate;
use common::ids::{Owner, Pid};
use common::lock;
use common::slots::Activity;
use common::sys::process::Ending;
use common::wire::control::{Checkpointed, Order, Report, Response};
use serde::{Deserialize, Serialize};

use crate::children::{Child, PackedChild};
use crate::control::ConnectionId;
use crate::policy::{Backoff, Clock};
use crate::upgrade::luggage::{Arrived, Luggage};

use super::{LOAD_DEADLINE, Phase, REPAIRS_DEADLINE, Source, Supervisor, TICK};

/// How long a checkpoint may take: so long, and a millisecond for so many bytes of the region.
const AT_LEAST: Duration = Duration::from_secs(120);
const WRITTEN_PER_MS: u64 = 4 * 1024;

/// After a failure it is tried again so soon, where the next one would be due later.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// After so many failures in a row status says that something is wrong.
const FAILURES_TOLD: u32 = 3;

/// Who takes checkpoints, and when.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    at_work: Option<AtWork>,
    /// When the next one is to be taken, in the course of things.
    due: Clock,
    /// Who wants one; and who gets the one that is being taken.
    wanted: Vec<ConnectionId>,
    awaited: Vec<ConnectionId>,
    failures: Backoff,
    /// Why the last one was not taken.
    failing: Option<String>,
    /// The gate as it was at the last tick: who had closed it, for the how manieth time.
    closure: (u64, u64),
    /// Whether the last one of this instance was begun.
    last_begun: bool,
}

/// What became of a checkpoint, or why there is none.
type Outcome = Result<Checkpointed, String>;

/// A process that takes a checkpoint.
#[derive(Debug)]
struct AtWork {
    child: Child,
    owner: Owner,
    outcome: Option<Outcome>,
}

/// The same as it is handed to a successor in this process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PackedCheckpoints {
    at_work: Option<(PackedChild, Owner, Option<Outcome>)>,
    due: Clock,
    wanted: Vec<ConnectionId>,
    awaited: Vec<ConnectionId>,
    failures: Backoff,
    failing: Option<String>,
    closure: (u64, u64),
}

impl PackedCheckpoints {
    /// Who takes checkpoints, and when.
    ///
    /// # Errors
    /// A channel that has not come along.
    pub(super) fn unpack(self, arrived: &mut Arrived) -> common::error::Result<Checkpoints> {
        let Self { at_work, due, wanted, awaited, failures, failing, closure } = self;
        let at_work = match at_work {
            Some((child, owner, outcome)) => Some(AtWork { child: child.unpack(arrived)?, owner, outcome }),
            None => None,
        };
        Ok(Checkpoints { at_work, due, wanted, awaited, failures, failing, closure, last_begun: false })
    }
}

impl Checkpoints {
    /// For a successor, who takes the last one.
    pub(super) fn pack<'a>(&'a self, luggage: &mut Luggage<'a>) -> PackedCheckpoints {
        let Self { at_work, due, wanted, awaited, failures, failing, closure, .. } = self;
        let at_work = at_work.as_ref();
        PackedCheckpoints {
            at_work: at_work.map(|at| (at.child.pack(luggage), at.owner, at.outcome.clone())),
            due: *due,
            wanted: wanted.clone(),
            awaited: awaited.clone(),
            failures: *failures,
            failing: failing.clone(),
            closure: *closure,
        }
    }

    /// The process that takes one, while there is one.
    pub(super) fn child(&self) -> Option<&Child> {
        self.at_work.as_ref().map(|at_work| &at_work.child)
    }

    pub(super) fn child_mut(&mut self) -> Option<&mut Child> {
        self.at_work.as_mut().map(|at_work| &mut at_work.child)
    }

    /// Why the last one was not taken, if it was not.
    pub(super) fn failing(&self) -> Option<&str> {
        self.failing.as_deref()
    }

    /// Whether none has been taken for several tries: what the last one has is older and older.
    pub(super) fn keeps_failing(&self) -> bool {
        self.failures.failures() >= FAILURES_TOLD
    }

    pub(super) fn is(&self, pid: Pid) -> bool {
        self.child().is_some_and(|child| child.pid == pid)
    }

    /// The process is of no use any more; its slot goes with the region.
    /// Whoever waits for it gets the next one.
    pub(super) fn forget(&mut self) -> Option<Child> {
        self.wanted.append(&mut self.awaited);
        self.at_work.take().map(|at_work| at_work.child)
    }
}

impl Supervisor {
    /// When the next checkpoint is to be begun, if nobody takes one.
    pub(super) fn checkpoint_due(&self) -> Option<Clock> {
        let wanted = !self.checkpoints.wanted.is_empty();
        let regular = self.options.checkpoint_interval.limit().is_some();
        let serving = self.phase == Phase::Serving && self.announced;
        let idle = serving && self.checkpoints.at_work.is_none();
        let due = if wanted { self.checkpoints.failures.due() } else { self.checkpoints.due };
        (idle && (wanted || regular)).then_some(due)
    }

    pub(super) fn take_due_checkpoint(&mut self, now: Clock) {
        if self.checkpoint_due().is_some_and(|due| due <= now) && !self.begin_checkpoint(now) {
            self.checkpoints.due = now + TICK;
            self.checkpoints.failures.failed(now);
        }
    }

    /// Starts the process. False where there is no slot for it, or it cannot be started.
    fn begin_checkpoint(&mut self, now: Clock) -> bool {
        let Some(owner) = self.pool.lend(&self.region, Activity::Checkpoint) else { return false };
        match self.start_child(&self.prepared.recovery, "checkpoint", 0) {
            Ok(mut child) => {
                child.deadline = Some(now + LOAD_DEADLINE);
                self.checkpoints.awaited.append(&mut self.checkpoints.wanted);
                self.checkpoints.at_work = Some(AtWork { child, owner, outcome: None });
                true
            }
            Err(error) => {
                self.give_slot_back(owner);
                self.log_failure(now, &error.to_string());
                false
            }
        }
    }

    fn give_slot_back(&mut self, owner: Owner) {
        let to_repair = self.pool.given_back(&self.region, owner);
        self.repair_if(to_repair);
    }

    pub(super) fn take_checkpoint_reports(&mut self) {
        let deadline = self.now() + AT_LEAST;
        let deadline = deadline + Duration::from_millis(self.region.geometry().length / WRITTEN_PER_MS);
        let Some(at_work) = &mut self.checkpoints.at_work else { return };
        while let Some(report) = at_work.child.report() {
            match report {
                Report::Ready => {
                    at_work.child.ready = true;
                    at_work.child.deadline = Some(deadline);
                    if !at_work.child.order(&Order::Checkpoint(at_work.owner)) {
                        at_work.child.give_up();
                    }
                }
                Report::Checkpointed(taken) => at_work.outcome = Some(Ok(taken)),
                Report::Failed(why) => at_work.outcome = Some(Err(why)),
                other => log::warn!("the checkpoint process reports {other:?}"),
            }
        }
    }

    pub(super) fn checkpoint_died(&mut self, now: Clock, pid: Pid, ending: Ending) {
        self.take_checkpoint_reports();
        let Some(AtWork { owner, outcome, .. }) = self.checkpoints.at_work.take() else { return };
        self.give_slot_back(owner);
        let outcome = outcome.unwrap_or_else(|| Err(format!("the checkpoint process {pid} {ending}")));
        let interval = self.options.checkpoint_interval.limit().unwrap_or_default();
        let response = match outcome {
            Ok(taken) => {
                let Checkpointed { number, bytes, pause_us, copied, in_vain } = taken;
                log::info!(
                    "checkpoint {number}: {bytes} bytes; nobody could begin a transaction for {pause_us} µs, in which \
                     {copied} bytes were copied{}",
                    if in_vain > 0 { format!(", after {in_vain} tries") } else { String::new() }
                );
                self.checkpoints.failures.reset();
                self.checkpoints.failing = None;
                self.checkpoints.due = now + interval;
                Response::Done
            }
            Err(why) => {
                self.log_failure(now, &format!("no checkpoint was taken: {why}"));
                self.checkpoints.failures.failed(now);
                self.checkpoints.failing = Some(why.clone());
                self.checkpoints.due = now + interval.min(TRY_AGAIN).max(TICK);
                Response::Refused(why)
            }
        };
        for waiter in std::mem::take(&mut self.checkpoints.awaited) {
            self.control.reply(waiter, &response, &[]);
        }
    }

    pub(super) fn want_checkpoint(&mut self, waiter: ConnectionId) {
        if self.phase == Phase::Serving && self.announced {
            self.checkpoints.wanted.push(waiter);
        } else {
            self.control.reply(waiter, &Response::Refused("the instance is not serving".to_owned()), &[]);
        }
    }

    /// Nobody takes a checkpoint while the instance ends; there will be a last one.
    pub(super) fn stop_checkpoints(&mut self) {
        if let Some(child) = self.checkpoints.child_mut() {
            child.give_up();
        }
        for waiter in std::mem::take(&mut self.checkpoints.wanted) {
            self.control.reply(waiter, &Response::Refused("the instance is stopping".to_owned()), &[]);
        }
    }

    /// A gate that stays closed keeps everybody waiting: whoever has closed it hangs, or it was closed by nobody.
    pub(super) fn watch_gate(&mut self) {
        let word = &self.region.header().gate;
        let closure = (word.word.load(SeqCst), word.closures.load(SeqCst));
        let hangs = closure.0 != 0 && closure == self.checkpoints.closure;
        self.checkpoints.closure = closure;
        if !hangs {
            return;
        }
        let closer = self.checkpoints.at_work.as_ref().map(|at_work| lock::tag(at_work.owner));
        if closer == Some(closure.0)
            && let Some(child) = self.checkpoints.child_mut()
        {
            log::error!("the checkpoint process {} keeps the gate closed and is killed", child.pid);
            child.give_up();
        } else if self.repairs.is_empty() {
            log::error!("the gate is closed by {:#x}, which is nobody, and is opened", closure.0);
            gate::throw_open(&word.word, closure.0);
        }
    }

    /// The last one: nobody is at work any more, and everything is sealed.
    pub(super) fn take_last_checkpoint(&mut self, now: Clock, until: Clock) {
        if !self.checkpoints.last_begun {
            self.checkpoints.last_begun = true;
            if self.announced && self.verdict.is_none() {
                self.begin_checkpoint(now);
            }
        }
        if now >= until
            && let Some(child) = self.checkpoints.child_mut().filter(|child| !child.was_given_up())
        {
            child.give_up();
        }
        if self.checkpoints.at_work.is_none() && (self.repairs.is_empty() || self.repairs.only_await_queues())
        {
            self.leave_region();
            self.phase = self.closing(now);
        } else if now >= until + REPAIRS_DEADLINE {
            self.phase = self.closing(now);
        }
    }

    /// With programs attached the region is not clean: the next instance looks after them, and it stays what it is.
    fn leave_region(&mut self) {
        let attached = self.pool.attached();
        if attached > 0 || !self.repairs.is_empty() {
            log::warn!("{attached} programs stay attached, and are looked after again by the next instance");
        } else if let Err(error) = self.region.mark_clean() {
            self.verdict.get_or_insert(error);
        }
    }

    /// How long the last one may take.
    pub(super) fn last_checkpoint(&self, now: Clock) -> Phase {
        let more = Duration::from_millis(self.region.geometry().length / WRITTEN_PER_MS);
        Phase::LastCheckpoint { until: now + AT_LEAST + more }
    }

    pub(super) fn checkpoint_source(&self) -> (Source, Option<&Child>) {
        (Source::Checkpoint, self.checkpoints.child())
    }
}
