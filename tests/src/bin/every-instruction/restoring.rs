//! Going back to a checkpoint: who does it may die at any instruction, and so may who does it then. Whatever they leave, the
//! next start serves from what there was, where that is sound, or from what the checkpoint and the journal say; and never
//! from anything in between.
//!
//! The restored region is made under a name that no start looks at, so its stores are nobody's until it has the region's
//! name; from then on none may follow. Hence the images: one after each system call, one after each store into whatever has
//! the region's name, and among the stores before that samples, which must not matter.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use common::layout::GIVES_WAY;
use common::region::{Region, UnverifiedRegion};
use common::slots::Counter;
use common::txn::TxnError;
use recovery::checkpoint;
use recovery::checkpoint::store::{DIRECTORY, name_of};
use recovery::restore;

use crate::arena::{ACTOR, Arena, FOLLOWER, HOLDER, SUCCESSOR, WAITER};
use crate::mill;
use crate::model::Model;
use crate::shop::{self, SHORT, Shop, USER, put, send};
use crate::tracee::{Next, Tracee, mark};
use crate::tree::Tree;
use crate::trial::{Verdict, sound};
use crate::watch::differs;

const REGION: &str = "region";
/// Where the restored region is made.
const NEXT: &str = "region.next";

/// Every proof.
pub const ALL: [(&str, Proof); 3] = [
    ("a damaged region is gone back from", |place, depth| {
        Scene::new(place, Lost::Damaged)?.prove(place, depth)
    }),
    ("an operator goes back from a sound one", |place, depth| {
        Scene::new(place, Lost::Nothing)?.prove(place, depth)
    }),
    ("the newest checkpoint is bad", |place, depth| Scene::new(place, Lost::Checkpoint)?.prove(place, depth)),
];

/// A proof; gives how many instructions were executed one by one.
pub type Proof = fn(&Path, Depth) -> Result<u64, String>;

/// How thoroughly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Up to the moment when the restored region has its name, after system calls alone.
    Calls,
    /// And after each so many instructions.
    Samples(u64),
}

impl Depth {
    fn is_sample(self, steps: u64) -> bool {
        matches!(self, Self::Samples(every) if steps.is_multiple_of(every))
    }
}

/// What is lost, beside what no checkpoint has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    /// The region says that it is damaged.
    Damaged,
    Nothing,
    /// The region says so, and the last checkpoint is scribbled over.
    Checkpoint,
}

/// A run directory that is also the spool, and what a start must find there.
struct Scene {
    begun: Tree,
    /// `None` where what was before must not be served from.
    before: Option<Model>,
    after: Model,
}

impl Scene {
    fn new(place: &Path, lost: Lost) -> Result<Self, String> {
        let directory = tempfile::tempdir_in(place).map_err(said)?;
        let arena = Arena::new(directory.path(), "former")?;
        shop::furnish(&arena)?;
        mill::furnish(&arena)?;
        let mut seat = arena.seat(FOLLOWER)?;
        let stock = Shop::open(&arena.region)?.stock;
        let older = take_checkpoint(&arena, 1)?;
        put(&mut seat, stock, "plums", &[9; SHORT]).map_err(said)?;
        send(&arena, &mut seat, USER, "between")?;
        take_a_job(&arena)?;
        let newer = take_checkpoint(&arena, 2)?;
        put(&mut seat, stock, "apples", &[8; SHORT]).map_err(said)?;
        send(&arena, &mut seat, USER, "after both")?;
        seat.leave();
        let last = with_the_job(Model::read(&arena)?);
        let damaged = lost != Lost::Nothing;
        arena.region.header().supervision.damaged.store(damaged.into(), SeqCst);
        let path = directory.path().join("former");
        drop(arena);
        let checkpoint = if lost == Lost::Checkpoint { older } else { with_the_job(newer) };
        if lost == Lost::Checkpoint {
            scribble(&path.join(DIRECTORY).join(name_of(2))).map_err(said)?;
        }
        let after = counted_on_top(checkpoint, &last);
        let begun = Tree::of(&path).map_err(said)?;
        Ok(Self { begun, before: (!damaged).then_some(last), after })
    }

    fn prove(&self, place: &Path, depth: Depth) -> Result<u64, String> {
        let (mut number, mut last) = (0, None);
        // Of all images that look the same to whoever goes back next, one.
        let mut kinds = BTreeMap::new();
        let steps = each_image(place, &self.begun, depth, |image| {
            let say = |error| format!("image {number}: {error}");
            let verdict = self.judge(place, &image).map_err(say)?;
            if last > Some(verdict) {
                return Err(say("what was gone back to is not any more".to_owned()));
            }
            (number, last) = (number + 1, Some(verdict));
            kinds.entry(image.fingerprint(Path::new(NEXT))).or_insert((number, image));
            Ok(())
        })?;
        if last != Some(Verdict::After) {
            return Err("it does not end with what was gone back to".to_owned());
        }
        // And whoever does it next dies as well.
        kinds.into_values().try_fold(steps, |steps, (number, image)| {
            let inner = each_image(place, &image, Depth::Calls, |inner| self.judge(place, &inner).map(drop));
            inner.map(|inner| steps + inner).map_err(|error| format!("from image {number}, again: {error}"))
        })
    }

    /// Starts on an image, looks what is there, and goes on with it.
    fn judge(&self, place: &Path, image: &Tree) -> Result<Verdict, String> {
        let directory = tempfile::tempdir_in(place).map_err(said)?;
        image.make(directory.path()).map_err(said)?;
        let arena = start(directory.path())?;
        sound(&arena.region)?;
        let mut model = Model::read(&arena)?;
        let verdict = if model == self.after {
            Verdict::After
        } else if self.before.as_ref() == Some(&model) {
            Verdict::Before
        } else {
            return Err(format!("it is not what it should be: {}", model.difference(&self.after)));
        };
        for owner in [SUCCESSOR, WAITER] {
            let mut seat = arena.seat(owner)?;
            shop::follow(&mut seat, &mut model)?;
            send(&arena, &mut seat, USER, "afterwards")?;
            seat.leave();
            count(&mut model, owner.slot.0 as usize, "afterwards");
            model.records.push((USER.to_owned(), "afterwards".to_owned()));
        }
        let (now, expected) = (Model::read(&arena)?, model.recount());
        if now != expected {
            return Err(format!("afterwards: {}", now.difference(&expected)));
        }
        sound(&arena.region).map_err(|error| format!("afterwards: {error}"))?;
        Ok(verdict)
    }
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Takes a checkpoint, and gives what it should be gone back to.
fn take_checkpoint(arena: &Arena, number: u64) -> Result<Model, String> {
    let seat = arena.seat(common::slots::owner(HOLDER.slot, common::ids::Generation(number as u32)))?;
    let taken = checkpoint::take(&arena.region, &arena.spool, seat.owner())?;
    seat.leave();
    if taken.number == number {
        Model::read(arena)
    } else {
        Err(format!("it is checkpoint {}", taken.number))
    }
}

/// The first job is in flight, and whoever has it is never heard of again.
fn take_a_job(arena: &Arena) -> Result<(), String> {
    let mill = Shop::open(&arena.region)?.mill.ok_or("there is no mill")?;
    let mut seat = arena.seat(ACTOR)?;
    let mut take = || {
        let mut txn = seat.begin()?;
        txn.queue(mill.jobs)?.take_front()?.ok_or(TxnError::NotFound)?;
        txn.commit()
    };
    take().map_err(said)?;
    std::mem::forget(seat);
    Ok(())
}

/// It is in its queue again once nobody is at work.
fn with_the_job(mut model: Model) -> Model {
    model.queue("mill", "jobs").insert(0, vec![0xb; SHORT]);
    model.recount()
}

/// What a checkpoint is gone back to is counted in the first slot, as far as it is not in it.
fn counted_on_top(mut model: Model, last: &Model) -> Model {
    for (_, message) in &last.records[model.records.len()..] {
        count(&mut model, 0, message);
    }
    model.records.clone_from(&last.records);
    model
}

fn count(model: &mut Model, slot: usize, message: &str) {
    let sent = model.users.entry(USER.to_owned()).or_default();
    sent.messages += 1;
    sent.bytes += message.len() as u64;
    let counters = &mut model.counters[slot];
    counters[Counter::Messages as usize] += 1;
    counters[Counter::Bytes as usize] += message.len() as u64;
}

fn scribble(path: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    let middle = file.metadata()?.len() / 2;
    file.read_exact_at(&mut byte, middle)?;
    file.write_all_at(&[byte[0] ^ 1], middle)
}

/// What a supervisor's start does, as far as region and spool go.
fn start(directory: &Path) -> Result<Arena, String> {
    let path = directory.join(REGION);
    if !may_be_served(&path)? {
        restore::go_back(&path, directory).map_err(said)?;
    }
    Arena::taken_over(directory)
}

fn may_be_served(path: &Path) -> Result<bool, String> {
    let file = match File::options().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file.map_err(said)?,
    };
    let region = UnverifiedRegion::open(&file).map_err(said)?;
    Ok(matches!(region.contents().header().supervision.damaged.load(SeqCst), 0 | GIVES_WAY)
        && !region.lost_power().map_err(said)?)
}

/// Goes back from what is in a tree, and gives what is there meanwhile, in the order in which it is. Gives how many
/// instructions were executed one by one.
fn each_image(
    place: &Path,
    begun: &Tree,
    depth: Depth,
    mut visit: impl FnMut(Tree) -> Result<(), String>,
) -> Result<u64, String> {
    let directory = tempfile::tempdir_in(place).map_err(said)?;
    let root = directory.path();
    begun.make(root).map_err(said)?;
    let path = root.join(REGION);
    let tracee = Tracee::fork(|| {
        mark();
        match restore::go_back(&path, root) {
            Ok(_) => mark(),
            Err(error) => eprintln!("going back fails: {error}"),
        }
    })?;
    visit(Tree::of(root).map_err(said)?)?;
    let former = Served::look_at(&path, None)?.map(|served| served.inode);
    let (mut served, mut steps) = (None, 0_u64);
    loop {
        let called = if depth == Depth::Calls && served.is_none() {
            if !tracee.make_next_call()? {
                return Ok(steps);
            }
            true
        } else {
            let next = tracee.next()?;
            if next == Next::Mark {
                return Ok(steps);
            }
            tracee.step_by_halves(&next)?;
            steps += 1;
            matches!(next, Next::Call | Next::Write { .. })
        };
        if called {
            // What was there before is nobody's to store into.
            served = Served::look_at(&path, served)?.filter(|served| Some(served.inode) != former);
        }
        let stored = served.as_mut().is_some_and(Served::has_changed);
        if called || stored || depth.is_sample(steps) {
            visit(Tree::of(root).map_err(said)?)?;
        }
    }
}

/// What has the region's name: the next start may serve from it.
struct Served {
    inode: u64,
    region: Region,
    seen: Vec<u64>,
}

impl Served {
    /// Looks whether another file has the name by now.
    fn look_at(path: &Path, before: Option<Self>) -> Result<Option<Self>, String> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(said)?,
        };
        let inode = file.metadata().map_err(said)?.ino();
        if before.as_ref().is_some_and(|before| before.inode == inode) {
            return Ok(before);
        }
        // One that is not a region yet is seen after each system call alone.
        let Ok(region) = Region::attach_read_only(&file) else { return Ok(None) };
        let seen = words(&region).iter().map(|word| word.load(Relaxed)).collect();
        Ok(Some(Self { inode, region, seen }))
    }

    fn has_changed(&mut self) -> bool {
        let words = words(&self.region);
        if !differs(words, &self.seen) {
            return false;
        }
        self.seen = words.iter().map(|word| word.load(Relaxed)).collect();
        true
    }
}

fn words(region: &Region) -> &[std::sync::atomic::AtomicU64] {
    region.words(common::ids::Offset(0), region.geometry().length as usize / 8).unwrap_or_default()
}
