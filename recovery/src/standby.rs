//! The standby: mapped and warm, it waits for orders to repair. Started for a single crash (`once`), it leaves when
//! its first order is answered.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use common::error::{Error, Result};
use common::ids::Owner;
use common::journal::spool::Spool;
use common::log_limit::LogLimit;
use common::region::Region;
use common::sys::{process, scheduling};
use common::wire::control::{Attached, Awaited, Delay, Order, Report};

use crate::attachment::{Attachment, Word};
use crate::complaints::Complaints;
use crate::repair::{Fate, Remains, Repairer, Setback};
use crate::takeover::{Obstacle, TakenOver, sweep, take_over};

/// How long to wait before the file system is asked again, doubling. Each try is reported, so that the supervisor's
/// deadline, which is longer than the last delay, begins anew.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(2);

const DECIDE: &str = "look into the journal for a dead process's record";
const PUT_BACK: &str = "put what a dead process had taken back to its queue";

/// How long it stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// Until the supervisor closes the channel.
    Always,
    /// For one order.
    Once,
}

/// Serves the supervisor's orders until there will be no more.
///
/// # Errors
/// Where the channel or the region cannot be used.
pub fn run(stay: Stay) -> Result<()> {
    common::logging::init("recovery");
    let Some(attachment) = Attachment::receive()? else { return Ok(()) };
    scheduling::preempt_others();
    process::shed_privileges();
    attachment.warm();
    if !attachment.report(&Report::Ready)? {
        return Ok(());
    }
    Standby::new(&attachment).serve(stay)
}

#[derive(Clone, Debug)]
enum Task {
    TakeOver(Vec<Attached>),
    Sweep(Vec<Attached>),
    Repair { owner: Owner, crashed: bool },
}

impl Task {
    /// Whose slot; `None` = all of them.
    fn about(&self) -> Option<Owner> {
        match self {
            Self::TakeOver(_) | Self::Sweep(_) => None,
            Self::Repair { owner, .. } => Some(*owner),
        }
    }
}

struct Standby<'a> {
    attachment: &'a Attachment,
    repairer: Repairer<'a>,
    /// What the file system has kept from being done; when it is tried again, and after how long once more.
    delayed: VecDeque<Task>,
    /// Whether what is worked on was delayed before.
    again: bool,
    retry: Option<(Instant, Duration)>,
    /// Told after the reports: whoever waits for the slot does not wait for the log.
    obituaries: Vec<Remains>,
    obituary_log: LogLimit,
    /// What became of the transactions of those whose repair has begun: they were at their end when their locks were waited for,
    /// or a queue is waited for to put back what they had taken.
    settled: BTreeMap<Owner, Fate>,
    began: Instant,
    complaints: Complaints,
}

/// The supervisor is gone, or an error for people.
enum Stop {
    Farewell,
    Error(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl<'a> Standby<'a> {
    fn new(attachment: &'a Attachment) -> Self {
        Self {
            attachment,
            repairer: Repairer::new(attachment.region(), attachment.spool()),
            delayed: VecDeque::new(),
            again: false,
            retry: None,
            obituaries: Vec::new(),
            obituary_log: LogLimit::default(),
            settled: BTreeMap::new(),
            began: Instant::now(),
            complaints: Complaints::default(),
        }
    }

    fn serve(mut self, stay: Stay) -> Result<()> {
        loop {
            match self.turn() {
                Ok(ordered) if stay == Stay::Once && ordered && self.delayed.is_empty() => return Ok(()),
                Ok(_) => {}
                Err(Stop::Farewell) => return Ok(()),
                Err(Stop::Error(error)) => return Err(error),
            }
        }
    }

    /// One order, or one more try of what is delayed. True where something was to be done.
    fn turn(&mut self) -> std::result::Result<bool, Stop> {
        let limit = self.retry.map(|(due, _)| due.saturating_duration_since(Instant::now()));
        let ordered = match self.attachment.listen_to_all(limit)? {
            Word::Order(order) => self.obey(order)?,
            Word::Tidings(owners) => self.anticipate(owners),
            Word::Silence => false,
            Word::Farewell => return Err(Stop::Farewell),
        };
        let retried = self.retry.is_some_and(|(due, _)| due <= Instant::now());
        if retried {
            let delayed = std::mem::take(&mut self.delayed);
            self.again = true;
            self.work(delayed)?;
            self.again = false;
        }
        Ok(ordered || retried)
    }

    fn obey(&mut self, order: Order) -> std::result::Result<bool, Stop> {
        let tasks: Vec<Task> = match order {
            Order::TakeOver(attached) => vec![Task::TakeOver(attached)],
            Order::Sweep(attached) => vec![Task::Sweep(attached)],
            Order::Repair(list) => {
                list.into_iter().map(|(owner, crashed)| Task::Repair { owner, crashed }).collect()
            }
            other => {
                log::error!("the supervisor gave recovery an order that is not for it: {other:?}");
                return Ok(false);
            }
        };
        self.work(tasks)?;
        Ok(true)
    }

    fn work(&mut self, tasks: impl IntoIterator<Item = Task>) -> std::result::Result<(), Stop> {
        for task in tasks {
            if self.again {
                // Else whoever the supervisor has named since would be blamed for what this is dying of.
                self.tell(&Report::TriesAgain(task.about()))?;
            }
            let done = match &task {
                Task::TakeOver(attached) => self.every_slot(take_over, attached)?,
                Task::Sweep(attached) => self.every_slot(sweep, attached)?,
                Task::Repair { owner, crashed } => self.repair(*owner, *crashed)?,
            };
            if let Err(error) = done {
                self.delay(task, &error)?;
            }
        }
        if self.delayed.is_empty() && self.retry.take().is_some() {
            for what in [DECIDE, PUT_BACK] {
                self.complaints.settle(what);
            }
        }
        let now = self.began.elapsed();
        for remains in self.obituaries.drain(..) {
            self.obituary_log.warn(now, || format!("repaired {remains}"));
        }
        Ok(())
    }

    /// Undoes and releases what owners hold who are at their end but not reaped yet: somebody waits for it. What cannot be
    /// done is left to the repair that the supervisor will order.
    fn anticipate(&mut self, owners: Vec<Owner>) -> bool {
        for owner in owners {
            match self.repairer.anticipate(owner) {
                Ok(Some(fate)) => {
                    log::debug!("released what {owner} held before it was reaped");
                    self.settled.entry(owner).or_insert(fate);
                }
                outcome => log::debug!("told of {owner}, which is left to be ordered: {outcome:?}"),
            }
        }
        false
    }

    fn repair(&mut self, owner: Owner, crashed: bool) -> std::result::Result<io::Result<()>, Stop> {
        match self.repairer.repair(owner, crashed) {
            Ok(remains) => {
                self.tell(&Report::Repaired(owner))?;
                let settled = self.settled.remove(&owner);
                let remains = remains.filter(|_| crashed).map(|remains| remains.with(settled));
                self.obituaries.extend(remains);
            }
            Err(Setback::Damage(why)) => self.tell(&Report::Refused(owner, why))?,
            Err(Setback::Io(error)) => return Ok(Err(error)),
            Err(Setback::Later(fate)) => {
                self.settled.entry(owner).or_insert(fate);
                return Ok(Err(later()));
            }
        }
        Ok(Ok(()))
    }

    fn every_slot(
        &mut self,
        work: fn(&Region, &Spool, &[Attached]) -> std::result::Result<TakenOver, Obstacle>,
        attached: &[Attached],
    ) -> std::result::Result<io::Result<()>, Stop> {
        match work(self.attachment.region(), self.attachment.spool(), attached) {
            Ok(TakenOver { repaired, later, .. }) => {
                for (owner, fate) in later {
                    self.tell(&Report::LeftForLater(owner))?;
                    self.settled.entry(owner).or_insert(fate);
                }
                self.tell(&Report::TakenOver(repaired))?;
            }
            Err(Obstacle::Refused(owner, why)) => self.tell(&Report::Refused(owner, why))?,
            Err(Obstacle::Io(error)) => return Ok(Err(error)),
            Err(Obstacle::Spool(why)) => {
                self.tell(&Report::Failed(why.clone()))?;
                return Err(Stop::Error(Error::usage(why).told()));
            }
        }
        Ok(Ok(()))
    }

    fn delay(&mut self, task: Task, error: &io::Error) -> std::result::Result<(), Stop> {
        let (what, awaits) = match error.kind() {
            io::ErrorKind::WouldBlock => (PUT_BACK, Awaited::Queue),
            _ => (DECIDE, Awaited::FileSystem),
        };
        self.complaints.raise(what, error);
        let about = task.about();
        self.delayed.push_back(task);
        let now = Instant::now();
        self.retry = match self.retry {
            Some((due, delay)) if due > now => Some((due, delay)),
            Some((_, delay)) => Some((now + delay, (delay * 2).min(LONGEST_DELAY))),
            None => Some((now + FIRST_DELAY, FIRST_DELAY * 2)),
        };
        self.tell(&Report::Delayed(Delay { about, awaits, why: format!("cannot {what}: {error}") }))
    }

    fn tell(&self, report: &Report) -> std::result::Result<(), Stop> {
        if self.attachment.report(report)? { Ok(()) } else { Err(Stop::Farewell) }
    }
}

fn later() -> io::Error {
    io::Error::new(io::ErrorKind::WouldBlock, "another process has its lock")
}
