//! Starting an instance on demand: whoever asks is given the port of the one that runs, or of one that is started for it.
//!
//! Any number may ask at once. One of them takes the lock on `RUN/start.lock` and holds it until the instance serves;
//! the others ask again and again meanwhile, and are answered as soon as it does. Nothing of this outlives a kill -9:
//! the lock goes with its process, and the instance has a lock of its own on the run directory.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use client::attach::{Attachment, START_LOCK};
use common::address::Address;
use common::error::{Context, Error, Exit, Result};
use common::places;
use common::sys::file::{self, Lock};
use common::units::Span;

use crate::children::find_program;
use crate::rundir::open_own_directory;

/// An instance is there long before this, or will not be.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pauses between two questions.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// How the instance is started, unless options after `--` say otherwise.
const LISTEN: [&str; 2] = ["--listen", "tcp:127.0.0.1:0"];
const POOL: [&str; 8] =
    ["--min-workers", "5", "--max-workers", "1000", "--min-spare", "5", "--max-spare", "20"];

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
    /// Where the daemon lives [default: /run/holdfast as root, else $XDG_RUNTIME_DIR/holdfast or /dev/shm/holdfast-UID]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Options for the supervisor, if it is started
    #[arg(last = true, value_name = "SUPERVISOR OPTIONS")]
    options: Vec<String>,
}

const AFTER_HELP: &str = "\
The daemon is: supervisor --daemon --listen tcp:127.0.0.1:0 --min-workers 5 --max-workers 1000 --min-spare 5 --max-spare 20.
Options after -- come before these. Any number of acquired may be started at once: there is one daemon, and each prints its port.";

/// Gives the port of the instance in the run directory.
///
/// # Errors
/// An instance that cannot be started (its own exit code), is of another version, or listens on no port (exit 1).
pub fn run(arguments: &Arguments) -> Result<u16> {
    let run_dir = arguments.run_dir.clone().unwrap_or_else(places::default_run_dir);
    if let Some(port) = ask(&run_dir)? {
        return Ok(port);
    }
    let directory = open_own_directory(&run_dir)?;
    let lock = file::open_in(&directory, START_LOCK)
        .context(|| format!("cannot open {}", run_dir.join(START_LOCK).display()))?;
    let (deadline, mut pause) = (Instant::now() + PATIENCE, FIRST_PAUSE);
    loop {
        let locked =
            file::try_lock(&lock, Lock::Exclusive).context(|| format!("cannot lock {START_LOCK}"))?;
        // Once more with the lock: the instance may have come to serve just before.
        if let Some(port) = ask(&run_dir)? {
            return Ok(port);
        }
        if locked {
            start(arguments, &run_dir)?;
            // Started, or there was another that was being started by hand: it answers in a moment.
            unlock(&lock)?;
        }
        if Instant::now() > deadline {
            let run_dir = run_dir.display();
            return Err(Error::failure(format!("the instance in {run_dir} does not answer within a minute")));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn unlock(lock: &File) -> Result<()> {
    file::unlock(lock).context(|| format!("cannot unlock {START_LOCK}"))
}

/// The port of the instance that serves; `None` where there is none, or none for much longer.
fn ask(run_dir: &Path) -> Result<Option<u16>> {
    let Ok(attachment) = Attachment::connect(run_dir) else { return Ok(None) };
    let Ok(listening) = attachment.touch() else { return Ok(None) };
    let ours = env!("CARGO_PKG_VERSION");
    if listening.version != ours {
        return Err(Error::failure(format!(
            "the instance in {} is of version {}, and this program of {ours}; stop it, or name another --run-dir",
            run_dir.display(),
            listening.version
        )));
    }
    let port = |address: &String| match address.parse() {
        Ok(Address::Tcp { port, .. }) => Some(port),
        _ => None,
    };
    let found = listening.addresses.iter().find_map(port);
    found.map(Some).ok_or_else(|| {
        Error::failure(format!(
            "the instance in {} listens on no port, only on {}",
            run_dir.display(),
            listening.addresses.join(", ")
        ))
    })
}

/// Starts the instance as a daemon and waits until it serves. Another that owns the run directory already is as good.
fn start(arguments: &Arguments, run_dir: &Path) -> Result<()> {
    let program = find_program("supervisor")?;
    let log = std::path::absolute(&arguments.log).context(|| "cannot find the log".to_owned())?;
    let status = Command::new(&program)
        .args(["--daemon", "--idle-exit", &arguments.idle.to_string()])
        .arg("--log")
        .arg(log)
        .arg("--run-dir")
        .arg(run_dir)
        .args(defaults_beside(&arguments.options))
        .args(&arguments.options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context(|| format!("cannot start {}", program.display()))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) if code == Exit::AlreadyRunning as i32 => Ok(()),
        // It has said why.
        Some(code) if code == Exit::Usage as i32 => Err(Error::usage("").told()),
        Some(code) if code == Exit::Region as i32 => Err(Error::region("").told()),
        _ => Err(Error::failure("").told()),
    }
}

/// The defaults that the given options leave in force: a pool or an address of one's own replaces them.
fn defaults_beside(given: &[String]) -> Vec<&'static str> {
    let names = |word: &String, short: &str, long: &[&str]| {
        let name = word.split('=').next().unwrap_or_default();
        long.contains(&name) || word.starts_with(short) && !word.starts_with("--")
    };
    let fixed = given.iter().any(|word| names(word, "-w", &["--workers"]));
    let listens = given.iter().any(|word| names(word, "-l", &["--listen"]));
    let mut defaults = if listens { Vec::new() } else { LISTEN.to_vec() };
    if !fixed {
        let is_given = |option: &str| given.iter().any(|word| names(word, "-w", &[option]));
        let left = POOL.as_chunks::<2>().0.iter().filter(|[option, _]| !is_given(option));
        defaults.extend(left.flatten());
    }
    defaults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beside(given: &[&str]) -> String {
        defaults_beside(&given.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).join(" ")
    }

    #[test]
    fn what_is_given_replaces_the_defaults() {
        let pool = POOL.join(" ");
        assert_eq!(beside(&[]), format!("--listen tcp:127.0.0.1:0 {pool}"));
        assert_eq!(beside(&["--listen", "tcp:127.0.0.1:7"]), pool);
        assert_eq!(beside(&["-ltcp:127.0.0.1:7", "-w4"]), "");
        assert_eq!(beside(&["--workers=4"]), "--listen tcp:127.0.0.1:0");
        assert_eq!(
            beside(&["--max-workers", "7", "--log-level", "debug"]),
            "--listen tcp:127.0.0.1:0 --min-workers 5 --min-spare 5 --max-spare 20"
        );
    }

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
