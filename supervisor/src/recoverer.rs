//! The recovery program as it is run on regions that nobody is at work in: it carries one into another, and makes one of
//! a checkpoint. Others have written what it reads there, so it runs as they do, from its first instruction on. What it
//! works on it is handed open: in the run directory it may open nothing.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use common::error::{Context, Error, Exit, Result};
use common::ids::Pid;
use common::journal::spool::Spool;
use common::sys::file;
use common::sys::process::{self, Ending, Terms};

use crate::prepared::{CHECKPOINTS, Prepared};

/// How long a region may take to be carried into another: so long, and a millisecond for so many bytes.
const CARRY_AT_LEAST: Duration = Duration::from_secs(60);
const CARRIED_PER_MS: u64 = 16 * 1024;

/// The program, and what it works on besides.
#[derive(Debug)]
pub struct Recoverer<'a> {
    program: &'a Path,
    terms: Terms,
    spool: &'a Spool,
    spool_dir: &'a Path,
}

impl<'a> Recoverer<'a> {
    /// The one of an instance with this spool.
    pub fn of(prepared: &'a Prepared, spool: &'a Spool) -> Self {
        let terms = Terms { identity: prepared.identity.clone(), ..Terms::default() };
        Self { program: &prepared.recovery, terms, spool, spool_dir: &prepared.spool_dir }
    }

    /// Whether the spool has checkpoints, good or bad.
    ///
    /// # Errors
    /// What opening and reading their directory reports. To take that for "none" would be to begin anew, and to let go of
    /// them in time.
    pub fn has_checkpoints(&self) -> Result<bool> {
        let directory = self.spool_dir.join(CHECKPOINTS);
        let doing = || format!("cannot look for checkpoints in {}", directory.display());
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            entries => entries.context(doing)?,
        };
        for entry in entries {
            if entry.context(doing)?.file_name().to_string_lossy().contains(".checkpoint") {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Carries everything from the region in the file `old`, which is at `path`, into the fresh one in `new`.
    ///
    /// # Errors
    /// A new region that is too small (exit 2), an old one that is damaged (exit 4), or whatever the program says.
    pub fn carry(&self, old: &File, path: &Path, new: &File, bytes: u64) -> Result<()> {
        let old = file::reopen_read_only(old).context(|| format!("cannot open {}", path.display()))?;
        let arguments = ["carry".into(), handed(&old), handed(new)];
        let (ending, said) = self.run(&arguments, &[old.as_fd(), new.as_fd()], limit_for(bytes))?;
        let said = last_line(&said);
        match ending {
            Ending::Exited(0) => Ok(()),
            Ending::Exited(code) if code == Exit::Usage as i32 => Err(Error::usage(said)),
            Ending::Exited(code) if code == Exit::Region as i32 => {
                Err(Error::region(format!("{}: {said}", path.display())))
            }
            ending => {
                let said = if said.is_empty() { String::new() } else { format!(": {said}") };
                Err(Error::failure(format!(
                    "the region cannot be carried to another --region-size: {} carry {ending}{said}; with the former \
                     size it is used as it is",
                    self.program.display()
                )))
            }
        }
    }

    /// Makes the empty file `new` the region of the newest checkpoint.
    ///
    /// # Errors
    /// No checkpoint that can be used (exit 4), or whatever the program says.
    pub fn rebuild(&self, new: &File, length: u64) -> Result<()> {
        let (ending, said) = self.run(
            &self.rebuilding(new),
            &[new.as_fd(), self.spool.directory().as_fd()],
            limit_for(length),
        )?;
        self.rebuilt(ending, &said)
    }

    /// Begins to do so, without waiting for it. Gives what will be said, too.
    ///
    /// # Errors
    /// What fork and exec report.
    pub fn begin_rebuilding(&self, new: &File) -> Result<(Pid, File)> {
        let handed = [new.as_fd(), self.spool.directory().as_fd()];
        process::start_saying(&self.terms, self.program, &self.rebuilding(new), &handed)
            .context(|| self.cannot_run())
    }

    /// What it means how the program ended that was to do so.
    ///
    /// # Errors
    /// As [`Recoverer::rebuild`].
    pub fn rebuilt(&self, ending: Ending, said: &str) -> Result<()> {
        let mut lines: Vec<_> = said.lines().collect();
        let last = lines.pop();
        lines.iter().for_each(|line| log::warn!("recovery says: {line}"));
        let said = last_line(last.unwrap_or_default());
        match ending {
            Ending::Exited(0) => {
                last.iter().for_each(|line| log::warn!("recovery says: {line}"));
                Ok(())
            }
            Ending::Exited(code) if code == Exit::Region as i32 => Err(Error::region(said)),
            ending => Err(Error::failure(format!(
                "the region cannot be restored from a checkpoint: {} {ending}: {said}",
                self.program.display()
            ))),
        }
    }

    fn rebuilding(&self, new: &File) -> [OsString; 4] {
        ["rebuild".into(), handed(new), handed(self.spool.directory()), self.spool_dir.into()]
    }

    fn run(
        &self,
        arguments: &[OsString],
        handed: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<(Ending, String)> {
        process::run_to_end(&self.terms, self.program, arguments, handed, limit).context(|| self.cannot_run())
    }

    fn cannot_run(&self) -> String {
        format!("cannot run {}", self.program.display())
    }
}

/// How the program is told which descriptor a file is.
fn handed(file: &File) -> OsString {
    format!("fd:{}", file.as_raw_fd()).into()
}

fn limit_for(bytes: u64) -> Duration {
    CARRY_AT_LEAST + Duration::from_millis(bytes / CARRIED_PER_MS)
}

/// What a program that failed has said.
fn last_line(said: &str) -> &str {
    said.lines().last().map(|line| line.strip_prefix("recovery: ").unwrap_or(line)).unwrap_or_default()
}
