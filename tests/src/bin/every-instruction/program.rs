//! The program: its options, and its table.

use std::process::ExitCode;

use crate::planted;
use crate::proof::Tally;
use crate::rows::{self, Extent, HEAD, Row};
use crate::workers::{self, Answer};

const USAGE: &str = "every-instruction [--short] [--planted] [--jobs N] [--from N] [--rows N] [FILTER]
Proves that a process may die at any instruction of any operation whose name contains FILTER.
  --short     samples: less than three minutes on two processors
  --planted   plants the mistakes whose name contains FILTER, and proves that the proof finds each: with --short by the
              row that is known to find it; needs a build with the feature `planted`
  --jobs N    so many rows at a time; as many as there are processors otherwise
  --from N    begins with this row of the table, counted from 0
  --rows N    ends after so many";

/// What is asked for.
#[derive(Debug, Default)]
struct Options {
    short: bool,
    planted: bool,
    jobs: Option<usize>,
    from: usize,
    rows: Option<usize>,
    /// Which of the workers this is, if it is one.
    worker: Option<usize>,
    filter: String,
}

impl Options {
    fn read(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let (name, value) = argument
                .split_once('=')
                .map_or((argument.as_str(), None), |(name, value)| (name, Some(value)));
            let mut number = || {
                value
                    .or_else(|| arguments.next().map(String::as_str))
                    .and_then(|value| value.parse().ok())
                    .ok_or(USAGE)
            };
            match name {
                "--short" => options.short = true,
                "--planted" => options.planted = true,
                "--jobs" => options.jobs = Some(number()?),
                "--from" => options.from = number()?,
                "--rows" => options.rows = Some(number()?),
                "--worker" => options.worker = Some(number()?),
                _ if argument.starts_with('-') => return Err(USAGE.to_owned()),
                _ => options.filter.clone_from(argument),
            }
        }
        Ok(options)
    }

    fn extent(&self) -> Extent {
        if self.short { Extent::Short } else { Extent::Whole }
    }

    fn jobs(&self) -> usize {
        self.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// The rows that are to be proved.
    fn chosen(&self) -> Vec<Row> {
        let named = rows::all(self.extent()).into_iter().filter(|row| row.name().contains(&self.filter));
        named.skip(self.from).take(self.rows.unwrap_or(usize::MAX)).collect()
    }
}

/// Does what is asked for.
pub fn run() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = Options::read(&arguments).and_then(|options| match options.worker {
        Some(worker) => work(worker, &options),
        None if options.planted => find_planted(&options, &arguments),
        None => prove_all(&options, &arguments),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("every-instruction: {error}");
            ExitCode::FAILURE
        }
    }
}

fn work(worker: usize, options: &Options) -> Result<(), String> {
    if options.planted {
        return workers::serve(worker, |number| planted::find(number, &options.filter, options.extent()));
    }
    let rows = options.chosen();
    workers::serve(worker, |number| {
        let outcome = rows[number].prove(options.extent());
        let line = rows[number].line(&outcome);
        Answer { line, failed: outcome.is_err(), tally: outcome.unwrap_or_default() }
    })
}

fn prove_all(options: &Options, arguments: &[String]) -> Result<(), String> {
    let rows = options.chosen();
    println!("{HEAD}");
    let answers = workers::share_out(rows.len(), options.jobs(), arguments)?;
    let mut sum = Tally::default();
    let operations = rows.iter().zip(&answers).filter(|(row, _)| matches!(row, Row::Operation(..)));
    operations.for_each(|(_, answer)| sum.add(&answer.tally));
    println!("{}", rows::columns("all operations", "", &sum));
    match answers.iter().filter(|answer| answer.failed).count() {
        0 => Ok(()),
        failures => Err(format!("{failures} proofs have failed")),
    }
}

fn find_planted(options: &Options, arguments: &[String]) -> Result<(), String> {
    let count = planted::count(&options.filter);
    if count == 0 {
        return Err("--planted needs a build with the feature `planted`; see scripts/test".to_owned());
    }
    let answers = workers::share_out(count, options.jobs(), arguments)?;
    match answers.iter().filter(|answer| answer.failed).count() {
        0 => Ok(()),
        failures => Err(format!(
            "{failures} planted mistakes were not found, or something was though nothing was planted"
        )),
    }
}
