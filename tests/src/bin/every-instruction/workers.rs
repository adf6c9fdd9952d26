//! The work is shared out to processes, one for each processor: each does one row at a time, in a process that nothing else
//! goes on in, since it forks.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Sender, channel};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::proof::Tally;

/// What a worker makes of one row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// For people.
    pub line: String,
    pub failed: bool,
    pub tally: Tally,
}

/// Has `jobs` other processes of this program do the rows 0 to `count`, and prints what they say, in order; gives all that
/// they say. `arguments` make them do what this one was told to do, and they call [`serve`].
pub fn share_out(count: usize, jobs: usize, arguments: &[String]) -> Result<Vec<Answer>, String> {
    let next = AtomicUsize::new(0);
    let (tell, told) = channel();
    std::thread::scope(|scope| {
        for number in 0..jobs.clamp(1, count.max(1)) {
            let (tell, next) = (tell.clone(), &next);
            scope.spawn(move || {
                let ended = work_off(number, arguments, next, count, &tell);
                // Whoever listens has gone only after a failure.
                let _ = ended.map_or_else(|error| tell.send(Err(error)), |()| Ok(()));
            });
        }
        drop(tell);
        let (mut early, mut answers) = (BTreeMap::new(), Vec::new());
        for told in told {
            let (number, answer) = told.inspect_err(|_| next.store(count, Relaxed))?;
            early.insert(number, answer);
            while let Some(answer) = early.remove(&answers.len()) {
                println!("{}", answer.line);
                answers.push(answer);
            }
        }
        Ok(answers)
    })
}

type Told = Result<(usize, Answer), String>;

fn work_off(
    worker: usize,
    arguments: &[String],
    next: &AtomicUsize,
    count: usize,
    tell: &Sender<Told>,
) -> Result<(), String> {
    let fail = |error: std::io::Error| format!("worker {worker}: {error}");
    let program = std::env::current_exe().map_err(fail)?;
    let mut command = Command::new(program);
    command.args(arguments).arg(format!("--worker={worker}")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(fail)?;
    let (Some(mut orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("a worker without pipes".to_owned());
    };
    let mut answers = BufReader::new(answers).lines();
    let outcome = loop {
        let number = next.fetch_add(1, Relaxed);
        if number >= count {
            break Ok(());
        }
        let asked = writeln!(orders, "{number}");
        let answer = asked.map_or_else(|error| Some(Err(error)), |()| answers.next());
        let Some(answer) = answer.transpose().map_err(fail)? else {
            break Err(format!("worker {worker} has ended at row {number}"));
        };
        let answer = serde_json::from_str(&answer).map_err(|error| format!("worker {worker}: {error}"))?;
        if tell.send(Ok((number, answer))).is_err() {
            break Ok(());
        }
    };
    drop(orders);
    child.wait().map_err(fail)?;
    outcome
}

/// The other side: does whatever row is asked for, until nothing is asked any more.
pub fn serve(worker: usize, mut work: impl FnMut(usize) -> Answer) -> Result<(), String> {
    let fail = |error: std::io::Error| error.to_string();
    pin(worker)?;
    for line in std::io::stdin().lines() {
        let number = line.map_err(fail)?.trim().parse().map_err(|_| "asked for no number".to_owned())?;
        let answer = serde_json::to_string(&work(number)).map_err(|error| error.to_string())?;
        writeln!(std::io::stdout(), "{answer}").map_err(fail)?;
    }
    Ok(())
}

/// Keeps this process and its children on one processor, another one for each worker as far as there are: a step is two
/// changes between them, which are faster there.
fn pin(worker: usize) -> Result<(), String> {
    let this = Pid::from_raw(0);
    let pinned = || -> nix::Result<()> {
        let allowed = sched_getaffinity(this)?;
        let processors: Vec<_> =
            (0..CpuSet::count()).filter(|&number| allowed.is_set(number) == Ok(true)).collect();
        let mut one = CpuSet::new();
        one.set(processors[worker % processors.len().max(1)])?;
        sched_setaffinity(this, &one)
    };
    pinned().map_err(|error| format!("cannot stay on one processor: {error}"))
}
