//! Every proof, as the rows of the table that the program prints.

use std::path::{Path, PathBuf};

use crate::operations::{self, Act, Operation};
use crate::pairs::{self, Pair};
use crate::proof::{Course, Depth, Tally, prove};
use crate::{blocks, restoring};

/// How much of everything is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Samples.
    Short,
    Whole,
}

/// One proof.
#[derive(Clone, Copy)]
pub enum Row {
    Operation(Operation, Course),
    Pair(&'static str, Pair),
    Block(&'static str, blocks::Proof),
    Restoring(&'static str, restoring::Proof),
}

/// The table's head.
pub const HEAD: &str = "\
Of each operation: instructions executed one by one, and distinct images. Of repairs of these: how many were taken apart,
instructions executed one by one, stores seen one by one, and distinct images beside the operation's.
operation                               course            steps  images   repairs    steps    stores   images";

/// All of them.
pub fn all(extent: Extent) -> Vec<Row> {
    let operations =
        operations::all().into_iter().filter(|operation| extent == Extent::Whole || !operation.long);
    let operations = operations.flat_map(|operation| {
        courses(&operation, extent).into_iter().map(move |course| Row::Operation(operation, course))
    });
    let pairs = pairs::ALL.into_iter().map(|(name, pair)| Row::Pair(name, pair));
    let blocks = blocks::ALL.into_iter().map(|(name, proof)| Row::Block(name, proof));
    let restoring = restoring::ALL.into_iter().map(|(name, proof)| Row::Restoring(name, proof));
    operations.chain(pairs).chain(blocks).chain(restoring).collect()
}

impl Row {
    /// Its name: with the course, if it has one.
    pub fn name(&self) -> String {
        match self {
            Self::Operation(operation, course) => format!("{} ({course})", operation.name),
            Self::Pair(name, _) | Self::Block(name, _) | Self::Restoring(name, _) => (*name).to_owned(),
        }
    }

    /// Does it. In the tally of one that is no operation there are instructions alone.
    pub fn prove(&self, extent: Extent) -> Result<Tally, String> {
        let place = place();
        let steps = match self {
            Self::Operation(operation, course) => return prove(&place, operation, *course, depth(extent)),
            Self::Pair(_, pair) => pair(&place, stops(extent)),
            Self::Block(_, proof) => proof(&place, deaths(extent)),
            Self::Restoring(_, proof) => proof(&place, samples(extent)),
        };
        steps.map(|steps| Tally { steps, ..Tally::default() })
    }

    /// What is printed of it.
    pub fn line(&self, outcome: &Result<Tally, String>) -> String {
        let tally = match outcome {
            Ok(tally) => tally,
            Err(error) => return format!("{:<54} FAILED: {error}", self.name()),
        };
        let end = match self {
            Self::Operation(operation, course) => return columns(operation.name, &course.to_string(), tally),
            Self::Pair(..) => "as it should be",
            Self::Block(..) => "old or new, and whole",
            Self::Restoring(..) => "what was before, or what was gone back to",
        };
        format!("{:<54}{:>9}  {end}", self.name(), tally.steps)
    }
}

/// A line of figures.
pub fn columns(name: &str, course: &str, tally: &Tally) -> String {
    let Tally { steps, images, repairs, repair_steps, stores, repair_images } = tally;
    format!(
        "{name:<40}{course:<14}{steps:>9}{images:>8}{repairs:>10}{repair_steps:>9}{stores:>10}{repair_images:>9}  all repaired"
    )
}

/// Where regions are in memory.
fn place() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

fn courses(operation: &Operation, extent: Extent) -> Vec<Course> {
    let (whole, mut courses) = (extent == Extent::Whole, vec![Course::Commit]);
    if whole || operation.contended || operation.records || operation.telling {
        courses.push(Course::Anticipated);
    }
    if let Act::Change(_) = operation.act
        && operation.error.is_none()
    {
        courses.push(Course::RollBack);
        if whole || operation.contended {
            courses.extend([Course::Awaited, Course::Held, Course::Gated]);
        } else if operation.telling {
            courses.push(Course::Awaited);
        }
        if operation.name == "put in place" {
            courses.push(Course::HeldTooLong);
        }
    }
    courses
}

fn depth(extent: Extent) -> Depth {
    match extent {
        Extent::Short => Depth { nested: 6, every_prefix: false },
        Extent::Whole => Depth { nested: 400, every_prefix: true },
    }
}

/// After how many of its instructions one of two processes is stopped.
fn stops(extent: Extent) -> usize {
    if extent == Extent::Short { 100 } else { usize::MAX }
}

/// After how many of its instructions a producer of blocks is killed, or a reader stopped.
fn deaths(extent: Extent) -> usize {
    if extent == Extent::Short { 12 } else { 4000 }
}

/// How thoroughly going back to a checkpoint is proved.
fn samples(extent: Extent) -> restoring::Depth {
    if extent == Extent::Short { restoring::Depth::Calls } else { restoring::Depth::Samples(500) }
}
