//! Starting an instance on demand: whoever asks is given the port of the one that runs, or of one that is started for it.
//!
//! Any number may ask at once. One of them takes the lock on `RUN/start.lock` and holds it until the instance serves;
//! the others wait in the kernel until it is free, and ask again. Only who has that lock starts an instance, and only
//! where none owns the run directory. Nothing of this outlives a kill -9: the lock goes with its process, and the instance
//! has a lock of its own on the run directory.

use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use client::attach::START_LOCK;
use common::error::{Context, Result};
use common::sys::file::{self, Lock};
use common::units::Span;

use crate::rundir::{is_owned, open_own_directory};

mod question;
use question::{Heard, Question};

mod launch;
use launch::Launch;

mod patience;
use patience::{Patience, within};

/// The pauses between two questions.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// An instance that has served so often, and each time was gone before it was asked, is not started once more.
const STARTS: u32 = 3;

/// Prints the port of the daemon, and starts it first if it does not run
#[derive(Debug, Parser)]
#[command(name = "acquired", version, max_term_width = 110, after_help = AFTER_HELP)]
pub struct Arguments {
    /// Where the daemon logs, if it is started
    #[arg(short, value_name = "LOG_FILE", default_value = ".acquired.log")]
    log: PathBuf,
    /// The daemon ends after this time without a connection; being asked for its port counts as one
    #[arg(long, value_name = "D", default_value = "10s")]
    idle: Span,
    /// Where the daemon lives [default: $HOLDFAST_RUN_DIR, else /run/holdfast as root, else $XDG_RUNTIME_DIR/holdfast or
    /// /dev/shm/holdfast-UID]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Give up when the daemon has not come to serve, or has not answered, after so long
    #[arg(long, value_name = "D", default_value = "60s")]
    timeout: Span,
    /// Options for the supervisor, if it is started; they replace what stands below and -l, --idle and --run-dir
    #[arg(last = true, value_name = "SUPERVISOR OPTIONS")]
    options: Vec<OsString>,
}

const AFTER_HELP: &str = "\
The daemon is: supervisor --daemon --listen tcp:127.0.0.1:0 --min-workers 5 --max-workers 1000 --min-spare 5 --max-spare 20.
Options after -- come before these; one about the pool replaces all of them. Any number of acquired may be started at once:
there is one daemon, and each prints its port.

Exit codes: 0 success, 1 the daemon does not come to serve, or does not answer, 2 usage or configuration, 3 another version's
instance owns the run directory, or another instance the spool, 4 the region is damaged or refused.";

/// Gives the port of the instance in the run directory.
///
/// # Errors
/// An instance that cannot be started (its own exit code), is of another version (exit 3), does not answer or listens on no
/// port (exit 1).
pub fn run(arguments: &Arguments) -> Result<u16> {
    let launch = Launch::of(arguments)?;
    let patience = Patience::of(arguments.timeout.0);
    let question = Question::of(launch.run_dir(), patience);
    // Whoever answers in somebody else's directory may be anybody.
    let directory = open_own_directory(launch.run_dir())?;
    if let Heard::Port(port) = question.ask()? {
        return Ok(port);
    }
    let lock = file::open_in(&directory, START_LOCK).context(|| format!("cannot open {START_LOCK}"))?;
    let mut pause = FIRST_PAUSE;
    loop {
        if file::try_lock(&lock, Lock::Exclusive).context(cannot_lock)? {
            return bring_about(&question, &launch, &directory);
        }
        wait_until_free(&lock, &question)?;
        if let Heard::Port(port) = question.ask()? {
            return Ok(port);
        }
        rest(&mut pause);
    }
}

/// With the start lock: asks until somebody answers, and starts an instance whenever there is none.
fn bring_about(question: &Question<'_>, launch: &Launch<'_>, directory: &File) -> Result<u16> {
    let (mut pause, mut starts) = (FIRST_PAUSE, 0);
    loop {
        let said = match question.ask()? {
            Heard::Port(port) => return Ok(port),
            Heard::Refused(why, refusal) => {
                // It is about to end, or is asked by too many.
                refusal.wait_until_gone(question.patience.left());
                Some(why)
            }
            Heard::Nobody | Heard::HungUp => None,
        };
        let owned = is_owned(directory)?;
        if owned && question.is_never_answered() {
            return Err(question.another_version("ends every connection without an answer"));
        }
        if question.patience.is_over() || starts == STARTS {
            return Err(question.not_served(said));
        }
        if owned {
            rest(&mut pause);
        } else {
            launch.start(&question.patience, directory)?;
            starts += 1;
        }
    }
}

/// Waits, in the kernel, until nobody has the start lock alone.
fn wait_until_free(lock: &File, question: &Question<'_>) -> Result<()> {
    let waiting = lock.try_clone().context(cannot_lock)?;
    let waited = within(question.patience.left(), move || {
        file::wait_for_lock(&waiting, Lock::Shared).and_then(|()| file::unlock(&waiting))
    });
    match waited {
        Some(waited) => waited.context(cannot_lock),
        None => Err(question.not_served(Some(format!("another process has had {START_LOCK} all the time")))),
    }
}

fn cannot_lock() -> String {
    format!("cannot lock {START_LOCK}")
}

fn rest(pause: &mut Duration) {
    std::thread::sleep(*pause);
    *pause = (*pause * 2).min(LONGEST_PAUSE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
