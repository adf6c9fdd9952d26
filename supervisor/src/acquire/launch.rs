//! What the instance is started with, and how it is heard what becomes of it.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::error::{Context, Error, Exit, Result};
use common::places;
use common::units::Span;

use super::Arguments;
use super::patience::{Patience, within};
use crate::children::find_program;
use crate::config::{self, given::Given};
use crate::rundir::is_owned;

/// Where it listens and what its pool is, unless options after `--` say otherwise.
const LISTEN: [&str; 2] = ["--listen", "tcp:127.0.0.1:0"];
const POOL: [&str; 8] =
    ["--min-workers", "5", "--max-workers", "1000", "--min-spare", "5", "--max-spare", "20"];

/// An instance that could be started.
#[derive(Debug)]
pub struct Launch<'a> {
    run_dir: PathBuf,
    log: PathBuf,
    /// The options that were given, as they were.
    given: &'a [OsString],
    /// Those that they leave to this program.
    own: Vec<OsString>,
}

impl<'a> Launch<'a> {
    /// The options of an instance for these arguments.
    ///
    /// # Errors
    /// Options after `--` that no supervisor takes, or that contradict this program's (exit 2).
    pub fn of(arguments: &'a Arguments) -> Result<Self> {
        let given = Given::read(&arguments.options)?;
        if given.value("daemon").is_some_and(|value| value != "true") {
            return Err(Error::usage(
                "--daemon=false after --: what is started on demand is a daemon; leave it out",
            ));
        }
        let run_dir = run_dir(arguments, &given)?;
        let log = match given.path("log") {
            Some(log) => log.to_owned(),
            None => absolute(&arguments.log)?,
        };
        let own = own_options(&given, arguments, &run_dir, &log);
        Ok(Self { run_dir, log, given: &arguments.options, own })
    }

    /// Where it lives.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// Starts it and waits until it serves. Another that owns the run directory by now is as good.
    ///
    /// # Errors
    /// What it says of itself, with its exit code; one that does not come to serve in time (exit 1).
    pub fn start(&self, patience: &Patience, directory: &File) -> Result<()> {
        let program = find_program("supervisor")?;
        let starting = || format!("cannot start {}", program.display());
        let mut command = Command::new(&program);
        command.args(&self.own).args(self.given);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut starter = command.spawn().context(starting)?;
        let mut words = starter.stderr.take();
        // Its end is the starter's: the daemon lets go of it before it does anything else.
        let said = within(patience.left(), move || {
            let mut said = Vec::new();
            if let Some(words) = &mut words {
                let _ = words.read_to_end(&mut said);
            }
            said
        });
        let Some(said) = said else {
            // Only the one that waits: the instance itself goes on, and may serve later.
            let _ = starter.kill();
            let _ = starter.wait();
            return Err(Error::failure(format!(
                "the instance that was started in {} does not come to serve within {}; its log {} may say why",
                self.run_dir.display(),
                Span(patience.whole()),
                self.log.display()
            )));
        };
        let code = starter.wait().context(starting)?.code();
        let why = || last_words(&String::from_utf8_lossy(&said), &program);
        match code {
            Some(0) => Ok(()),
            Some(code) if code == Exit::AlreadyRunning as i32 => match is_owned(directory)? {
                true => Ok(()),
                // Somebody else has what it needs besides, such as the spool.
                false => Err(Error::already_running(why())),
            },
            Some(code) if code == Exit::Usage as i32 => Err(Error::usage(why())),
            Some(code) if code == Exit::Region as i32 => Err(Error::region(why())),
            _ => Err(Error::failure(why())),
        }
    }
}

/// What the starter has said last, as this program's own words.
fn last_words(said: &str, program: &Path) -> String {
    let last = said.lines().rfind(|line| !line.trim().is_empty());
    match last {
        Some(line) => line.strip_prefix("supervisor: ").unwrap_or(line).to_owned(),
        None => format!("{} ended without a word", program.display()),
    }
}

fn run_dir(arguments: &Arguments, given: &Given) -> Result<PathBuf> {
    let own = arguments.run_dir.as_deref().map(absolute).transpose()?;
    match (own, given.path("run-dir")) {
        (Some(own), Some(given)) if own != given => Err(Error::usage(format!(
            "--run-dir is {} here and {} after --; name it once",
            own.display(),
            given.display()
        ))),
        (_, Some(given)) => Ok(given.to_owned()),
        (Some(own), None) => Ok(own),
        (None, None) => match config::variable("run-dir") {
            Some(said) => absolute(Path::new(&said)),
            None => Ok(places::default_run_dir()),
        },
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).context(|| format!("cannot find {}", path.display()))
}

/// What the given options leave open: each of them replaces this program's own.
fn own_options(given: &Given, arguments: &Arguments, run_dir: &Path, log: &Path) -> Vec<OsString> {
    let idle = arguments.idle.to_string();
    let mut own = Vec::new();
    if !given.has("daemon") {
        own.push("--daemon".into());
    }
    let mut unless_given = |option: &str, words: [OsString; 2]| {
        if !given.has(option) {
            own.extend(words);
        }
    };
    unless_given("idle-exit", ["--idle-exit".into(), idle.into()]);
    unless_given("log", ["--log".into(), log.into()]);
    unless_given("run-dir", ["--run-dir".into(), run_dir.into()]);
    unless_given("listen", LISTEN.map(OsString::from));
    // The supervisor has the same bounds of its own, and fits them to those that are given.
    if !given.has_pool() {
        own.extend(POOL.map(OsString::from));
    }
    own
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use common::error::Exit;

    use super::*;

    fn arguments(words: &[&str]) -> Arguments {
        Arguments::try_parse_from(["acquired"].iter().chain(words)).unwrap()
    }

    fn own(words: &[&str]) -> String {
        let arguments = arguments(&[&["-l", "/log", "--run-dir", "/run-dir", "--"][..], words].concat());
        let words = Launch::of(&arguments).unwrap().own;
        words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_is_given_replaces_the_defaults() {
        let (pool, rest) = (POOL.join(" "), "--daemon --idle-exit 10s --log /log --run-dir /run-dir");
        let listen = LISTEN.join(" ");
        assert_eq!(own(&[]), format!("{rest} {listen} {pool}"));
        assert_eq!(own(&["--listen", "tcp:127.0.0.1:7"]), format!("{rest} {pool}"));
        assert_eq!(own(&["-ltcp:127.0.0.1:7", "-w4"]), rest);
        assert_eq!(own(&["--workers=4"]), format!("{rest} {listen}"));
        assert_eq!(own(&["--max-workers", "7", "--log-level", "debug"]), format!("{rest} {listen}"));
        let all = ["--daemon", "--idle-exit=3s", "--log", "other", "--run-dir", "/run-dir"];
        assert_eq!(own(&all), format!("{listen} {pool}"));
        // What only looks like an option is the value of one.
        assert_eq!(own(&["--users=--log"]), format!("{rest} {listen} {pool}"));
    }

    #[test]
    fn the_run_directory_is_the_one_that_is_named() {
        let run_dir = |words: &[&str]| Launch::of(&arguments(words)).map(|launch| launch.run_dir);
        assert_eq!(run_dir(&["--run-dir", "/a"]).unwrap(), Path::new("/a"));
        assert_eq!(run_dir(&["--", "--run-dir", "/a"]).unwrap(), Path::new("/a"));
        assert_eq!(run_dir(&["--run-dir", "/a", "--", "--run-dir=/a"]).unwrap(), Path::new("/a"));
        let error = run_dir(&["--run-dir", "/a", "--", "--run-dir=/b"]).unwrap_err();
        assert!(error.exit() == Exit::Usage && error.to_string().contains("/b"), "{error}");
    }

    #[test]
    fn what_is_no_option_of_a_running_supervisor_is_refused() {
        for words in [
            &["stop"][..],
            &["--check-config"],
            &["--help"],
            &["--no-such"],
            &["--daemon=false"],
            &["-w", "0"],
        ] {
            let error = Launch::of(&arguments(&[&["--"][..], words].concat())).unwrap_err();
            assert_eq!(error.exit(), Exit::Usage, "{words:?}: {error}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}
