//! The proof of one operation: it is stepped through, and every image that it leaves is tried.

use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use common::bell::{self, Side};
use common::lock::{self, WAITERS};
use common::objects::Kind;
use common::txn::TxnError;
use serde::{Deserialize, Serialize};

use crate::anticipation::Corpse;
use crate::arena::{ACTOR, Arena};
use crate::difference::Picture;
use crate::images::{Disturbance, Image, Journal, Reel, record};
use crate::marks;
use crate::model::Model;
use crate::operations::{Act, Actor, Operation};
use crate::repairs::try_repairs;
use crate::shop::{self, Shop};
use crate::sleepers::SLEEPERS;
use crate::tracee::{Tracee, mark};
use crate::trial::{Company, Court, Verdict};

/// How an operation goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// It is committed.
    Commit,
    /// Its transaction is dropped.
    RollBack,
    /// Another holds a lock that it wants, and gives it back while it sleeps.
    Held,
    /// Another holds that lock for longer than it waits.
    HeldTooLong,
    /// Others wait for what it holds.
    Awaited,
    /// A checkpoint keeps it from beginning, and opens the gate while it sleeps.
    Gated,
    /// It is committed, and where it dies its repair is anticipated.
    Anticipated,
}

impl std::fmt::Display for Course {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Commit => "commit",
            Self::RollBack => "roll back",
            Self::Held => "lock held",
            Self::HeldTooLong => "held too long",
            Self::Awaited => "lock awaited",
            Self::Gated => "gate closed",
            Self::Anticipated => "anticipated",
        })
    }
}

/// How thoroughly.
#[derive(Clone, Copy, Debug)]
pub struct Depth {
    /// Of how many images the repair is taken apart as well.
    pub nested: usize,
    /// Whether every beginning of what is written into the journal is tried.
    pub every_prefix: bool,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Instructions of the operation.
    pub steps: u64,
    /// Distinct images.
    pub images: usize,
    /// Repairs that were taken apart: how many of their instructions were executed one by one, and how many of their stores
    /// were seen one by one.
    pub repairs: usize,
    pub repair_steps: u64,
    pub stores: u64,
    /// Distinct images of those, beside the operation's own.
    pub repair_images: usize,
}

impl Tally {
    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.images += other.images;
        self.repairs += other.repairs;
        self.repair_steps += other.repair_steps;
        self.stores += other.stores;
        self.repair_images += other.repair_images;
    }
}

/// Proves one operation in one course.
pub fn prove(place: &Path, operation: &Operation, course: Course, depth: Depth) -> Result<Tally, String> {
    let directory = tempfile::tempdir_in(place).map_err(|error| error.to_string())?;
    let traced = Arena::new(directory.path(), "traced")?;
    let checked = traced.for_copies_of(directory.path(), "checked")?;
    shop::furnish(&traced)?;
    (operation.prepare)(&traced)?;
    let (before, away, shop) =
        (Model::read(&traced)?, shop::away(&traced.region)?, Shop::open(&traced.region)?);
    let mut after = before.clone();
    if course != Course::RollBack && course != Course::HeldTooLong && operation.error.is_none() {
        (operation.effect)(&mut after);
    }
    if matches!(course, Course::Held | Course::HeldTooLong) {
        shop::hold(&traced)?;
    }
    if course == Course::Gated {
        shop::close_gate(&traced);
    }
    let depth = Depth { nested: depth.nested.min(operation.nested), ..depth };
    let tracee = Tracee::fork(|| live(&traced, operation, course))?;
    if !operation.captures {
        marks::take_away(&traced.region);
    }
    let corpse = if course == Course::Anticipated { Some(Corpse::new()?) } else { None };
    corpse.as_ref().map_or(Ok(()), |corpse| corpse.was_the_actor(&traced.region))?;
    let base = traced.copy();
    checked.copy_from(&traced)?;
    let begun = Image { region: Picture::default(), journal: Journal::new(traced.journal()) };
    let waited = Cell::new(false);
    let let_go = |arena: &Arena| {
        waited.set(true);
        drop(shop::let_go(arena));
        shop::open_gate(arena);
    };
    let disturbance = Disturbance {
        after_change: (course == Course::Awaited).then_some(&await_locks),
        while_waiting: matches!(course, Course::Held | Course::Gated).then_some(&let_go),
    };
    let reel = record(&tracee, &traced, &base, &begun, depth.every_prefix, &disturbance)?;
    drop(tracee);
    if course == Course::Gated && !waited.get() {
        return Err("it has not waited before the closed gate".to_owned());
    }
    let (after, goes_on) = (after.recount(), operation.goes_on);
    let (captures, anticipated) = (operation.captures, corpse.is_some());
    let court =
        Court { arena: &checked, base: &base, before, after, away, shop, goes_on, captures, anticipated };
    let verdicts = try_all(&court, &reel, course)?;
    if !operation.captures {
        reel.images.iter().try_for_each(|image| marks::check(&traced.region, &base, image))?;
    }
    try_repairs(&court, &traced, &reel, &verdicts, depth, operation.records)
}

/// The actor's life, in a child.
fn live(arena: &Arena, operation: &Operation, course: Course) {
    let done = || -> Result<Result<(), TxnError>, String> {
        let shop = Shop::open(&arena.region)?;
        let mut actor = Actor { arena, seat: arena.seat(ACTOR)?, shop };
        Ok(match operation.act {
            Act::Deed(deed) => deed(&mut actor),
            Act::Change(change) => {
                mark();
                let begun = actor.seat.begin();
                begun.and_then(|mut txn| {
                    change(&mut txn, &shop)?;
                    if course == Course::RollBack {
                        drop(txn);
                        return Ok(());
                    }
                    txn.commit()
                })
            }
        })
    };
    let expected = if course == Course::HeldTooLong { Some(TxnError::Busy) } else { operation.error };
    match done() {
        Ok(outcome) if outcome.err() == expected => mark(),
        Ok(outcome) => eprintln!("{}: it gave {outcome:?}", operation.name),
        Err(error) => eprintln!("{}: {error}", operation.name),
    }
}

/// Whoever waits for a lock says so in its word; and whoever waits at a queue.
fn await_locks(arena: &Arena) {
    let objects = (0..arena.region.geometry().object_count).filter_map(|index| arena.region.object(index));
    for object in objects.filter(|object| lock::names(object.lock.load(Relaxed), lock::tag(ACTOR))) {
        object.lock.fetch_or(WAITERS, SeqCst);
        if Kind::of(object.identity.load(Relaxed)) == Some(Kind::Queue) {
            for side in Side::ALL {
                bell::announce(&object.body[SLEEPERS], &object.seq, side);
            }
        }
    }
}

fn try_all(court: &Court<'_>, reel: &Reel, course: Course) -> Result<Vec<Verdict>, String> {
    let mut verdicts = Vec::new();
    let company = if course == Course::Awaited { Company::Sleepers } else { Company::Alone };
    for (number, image) in reel.images.iter().enumerate() {
        let say = |error| format!("image {number} of {}: {error}", reel.images.len());
        let verdict = court.judge(image, company).map_err(say)?;
        let again =
            court.judge(image, Company::Survivor).map_err(|error| say(format!("survived: {error}")))?;
        if again != verdict {
            return Err(say("whether it is committed depends on others".to_owned()));
        }
        court
            .judge_among_removals(image, verdict)
            .map_err(|error| say(format!("its objects removed: {error}")))?;
        verdicts.push(verdict);
    }
    let ordered: Vec<_> = reel.sequence.iter().map(|number| verdicts[*number]).collect();
    if !ordered.is_sorted() {
        return Err("what was committed is not any more".to_owned());
    }
    let last = if court.before == court.after { Verdict::Before } else { Verdict::After };
    if ordered.first() != Some(&Verdict::Before) || ordered.last() != Some(&last) {
        return Err("it does not begin before and end after".to_owned());
    }
    Ok(verdicts)
}
