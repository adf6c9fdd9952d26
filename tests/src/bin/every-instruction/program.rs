//! The program: its options, and its table.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use common::planted::Bug;

use crate::blocks;
use crate::operations::{self, Act, Operation};
use crate::pairs;
use crate::planted;
use crate::proof::{Course, Depth, Tally, prove};
use crate::restoring;

const USAGE: &str = "every-instruction [--short] [--planted] [FILTER]
Proves that a process may die at any instruction of any operation whose name contains FILTER.
  --short     samples: less than two minutes
  --planted   plants the mistakes whose name contains FILTER, and proves that the proof finds each; needs a build
              with the feature `planted`";

/// What is asked for.
#[derive(Debug, Default)]
pub struct Options {
    short: bool,
    planted: bool,
    filter: String,
}

impl Options {
    fn read() -> Result<Self, String> {
        let mut options = Self::default();
        for argument in std::env::args().skip(1) {
            match argument.as_str() {
                "--short" => options.short = true,
                "--planted" => options.planted = true,
                _ if argument.starts_with('-') => return Err(USAGE.to_owned()),
                _ => options.filter = argument,
            }
        }
        Ok(options)
    }
}

/// Where regions are in memory.
fn place() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

/// Does what is asked for.
pub fn run() -> ExitCode {
    let outcome = Options::read().and_then(|options| {
        pin()?;
        if options.planted { planted::find_all(&options.filter, first_failure) } else { prove_all(&options) }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("every-instruction: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Keeps this process and its children on one processor: a step is two changes between them, which are faster there.
fn pin() -> Result<(), String> {
    let mut set = nix::sched::CpuSet::new();
    let here = nix::sched::sched_getcpu().unwrap_or(0);
    set.set(here)
        .and_then(|()| nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set))
        .map_err(|error| format!("cannot stay on one processor: {error}"))
}

fn prove_all(options: &Options) -> Result<(), String> {
    let mut failures = 0;
    let mut sum = Tally::default();
    println!(
        "{:<40}{:<14}{:>9}{:>8}{:>9}{:>12}{:>9}",
        "operation", "course", "steps", "images", "repairs", "steps", "images"
    );
    for operation in operations::all() {
        if !operation.name.contains(&options.filter) || options.short && operation.long {
            continue;
        }
        for course in courses(&operation, options.short) {
            let outcome = prove(&place(), &operation, course, depth(options.short));
            failures += u32::from(outcome.is_err());
            print_row(&operation, course, &outcome);
            sum.add(&outcome.unwrap_or_default());
        }
    }
    println!("{}", columns("all", "", &sum));
    for (name, pair) in pairs::ALL.iter().filter(|(name, _)| name.contains(&options.filter)) {
        match pair(&place(), stops(options.short)) {
            Ok(steps) => println!("{name:<54}{steps:>9}  as it should be"),
            Err(error) => {
                failures += 1;
                println!("{name:<54} FAILED: {error}");
            }
        }
    }
    for (name, proof) in blocks::ALL.iter().filter(|(name, _)| name.contains(&options.filter)) {
        match proof(&place(), deaths(options.short)) {
            Ok(steps) => println!("{name:<48}{steps:>9}  old or new, and whole"),
            Err(error) => {
                failures += 1;
                println!("{name:<48} FAILED: {error}");
            }
        }
    }
    for (name, proof) in restoring::ALL.iter().filter(|(name, _)| name.contains(&options.filter)) {
        match proof(&place(), samples(options.short)) {
            Ok(steps) => println!("{name:<48}{steps:>9}  what was before, or what was gone back to"),
            Err(error) => {
                failures += 1;
                println!("{name:<48} FAILED: {error}");
            }
        }
    }
    if failures == 0 { Ok(()) } else { Err(format!("{failures} proofs have failed")) }
}

/// The first proof that fails, and how: of blocks if the mistake is one of theirs; else of two processes, then of what
/// contains every kind of step, at the mill if it is one of what is there.
fn first_failure(bug: Option<Bug>) -> Option<String> {
    if bug.is_none_or(Bug::is_of_blocks) {
        for (name, proof) in blocks::ALL {
            if let Err(error) = proof(&place(), deaths(true)) {
                return Some(format!("{name}: {error}"));
            }
        }
        if bug.is_some() {
            return None;
        }
    }
    if bug.is_none_or(Bug::is_of_restoring) {
        for (name, proof) in restoring::ALL {
            if let Err(error) = proof(&place(), samples(true)) {
                return Some(format!("{name}: {error}"));
            }
        }
        if bug.is_some() {
            return None;
        }
    }
    let wanted = |at_the_mill: bool| bug.is_none_or(|bug| bug.is_at_the_mill() == at_the_mill);
    for (number, (name, pair)) in pairs::ALL.into_iter().enumerate() {
        if !wanted(number < pairs::OF_THE_MILL) {
            continue;
        }
        if let Err(error) = pair(&place(), stops(true)) {
            return Some(format!("{name}: {error}"));
        }
    }
    let is_rich = |operation: &Operation| {
        operation.contended || operation.records || operation.telling || operation.captures
    };
    let rich = operations::all().into_iter().filter(is_rich);
    let rich = rich.filter(|operation| wanted(operation.telling));
    for (number, operation) in rich.enumerate() {
        let awaited = number == 0 || operation.telling && matches!(operation.act, Act::Change(_));
        let courses = match (number, awaited) {
            (0, _) => &[Course::Commit, Course::Awaited, Course::Gated][..],
            (_, true) => &[Course::Commit, Course::Awaited],
            _ => &[Course::Commit],
        };
        for course in courses {
            if let Err(error) = prove(&place(), &operation, *course, depth(true)) {
                return Some(format!("{} ({course}): {error}", operation.name));
            }
        }
    }
    None
}

fn depth(short: bool) -> Depth {
    if short { Depth { nested: 6, every_prefix: false } } else { Depth { nested: 400, every_prefix: true } }
}

/// After how many of its instructions one of two processes is stopped.
fn stops(short: bool) -> usize {
    if short { 100 } else { usize::MAX }
}

/// After how many of its instructions a producer of blocks is killed, or a reader stopped.
fn deaths(short: bool) -> usize {
    if short { 12 } else { 4000 }
}

/// How thoroughly going back to a checkpoint is proved.
fn samples(short: bool) -> restoring::Depth {
    if short { restoring::Depth::Calls } else { restoring::Depth::Samples(500) }
}

fn courses(operation: &Operation, short: bool) -> Vec<Course> {
    let mut courses = vec![Course::Commit];
    if let Act::Change(_) = operation.act
        && operation.error.is_none()
    {
        courses.push(Course::RollBack);
        if operation.contended || !short {
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

fn print_row(operation: &Operation, course: Course, outcome: &Result<Tally, String>) {
    match outcome {
        Ok(tally) => println!("{}", columns(operation.name, &course.to_string(), tally)),
        Err(error) => println!("{:<40}{course:<14} FAILED: {error}", operation.name),
    }
}

fn columns(name: &str, course: &str, tally: &Tally) -> String {
    let Tally { steps, images, repairs, repair_steps, repair_images } = tally;
    format!(
        "{name:<40}{course:<14}{steps:>9}{images:>8}{repairs:>9}{repair_steps:>12}{repair_images:>9}  all repaired"
    )
}
