//! Checking a spool and mending what can be mended without guessing.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::error::{Context, Error, Result};
use common::ids::Minute;
use common::journal::generated;
use common::journal::names::{Kind, name};
use common::journal::record;
use common::journal::single::seal_leftovers;
use common::journal::spool::{Entry, Spool, Writers};
use common::limits::MAX_RECORD;
use common::output;

use crate::ledger::Book;
use crate::locks::{self, Standing};
use crate::status::{self, Account};
use crate::{quarantine, run};

/// Checks the spool at `directory`, prints what is found and what is done about it.
///
/// # Errors
/// What cannot be mended (exit 4), or cannot be read or printed (exit 1).
pub fn check(directory: &Path) -> Result<()> {
    common::logging::init("data_collector");
    let spool = status::open(directory)?;
    let checked = Check { spool: &spool, findings: 0, files: 0, told: Ok(()) }.run();
    let check = checked.context(|| format!("cannot look through {}", directory.display()))?;
    check.told?;
    if check.findings > 0 {
        return Err(Error::region(format!(
            "{} things in {} are wrong and cannot be mended; what was found is on stdout",
            check.findings,
            directory.display()
        )));
    }
    output::print_line(&format!("{} files are sound", check.files))
}

/// Puts back what was refused in the spool at `directory`.
///
/// # Errors
/// What cannot be renamed or printed (exit 1).
pub fn replay(directory: &Path) -> Result<()> {
    common::logging::init("data_collector");
    let spool = status::open(directory)?;
    let count =
        quarantine::replay(&spool).context(|| format!("cannot put files back in {}", directory.display()))?;
    output::print_line(&format!("{count} files are put back"))
}

struct Check<'s> {
    spool: &'s Spool,
    findings: u64,
    files: u64,
    /// Whether everything could be said. The rest is checked and mended all the same.
    told: Result<()>,
}

impl Check<'_> {
    fn run(mut self) -> io::Result<Self> {
        self.mend_for(Writers::Device, "a device")?;
        self.mend_for(Writers::Instance, "a supervisor")?;
        for entry in self.spool.entries()? {
            let Entry { minute, kind, .. } = entry?;
            let looked = match kind {
                Kind::Lock => self.look_at_lock(minute),
                Kind::Reason => self.look_at_reason(minute),
                Kind::Data | Kind::Refused | Kind::Sent => self.read(minute, kind),
            };
            // Whatever it is, the others can be looked at.
            if let Err(error) = looked {
                self.finding(&format!("{} cannot be looked at: {error}", name(minute, kind)));
            }
        }
        self.look_at_books()?;
        Ok(self)
    }

    fn say(&mut self, line: &str) {
        if self.told.is_ok() {
            self.told = output::print_line(line);
        }
    }

    fn finding(&mut self, what: &str) {
        self.findings += 1;
        self.say(&format!("wrong: {what}"));
    }

    /// Seals what dead writers left.
    fn mend_for(&mut self, writers: Writers, who: &str) -> io::Result<()> {
        let spool = self.spool.seen_as(writers)?;
        match spool.take_over()? {
            Some(_lock) => {
                let sealed = seal_leftovers(&spool)?;
                if sealed > 0 {
                    self.say(&format!("mended: {sealed} minutes that {who} left open are sealed"));
                }
            }
            None if spool.has_writers()? => {
                self.say(&format!("{who} is at work here; its open minute is left to it"));
            }
            None => {}
        }
        Ok(())
    }

    fn look_at_lock(&mut self, minute: Minute) -> io::Result<()> {
        if locks::standing(self.spool, minute, SystemTime::now())? == Standing::Stale {
            self.spool.remove_lock(minute)?;
            self.say(&format!("mended: {} was forgotten and is removed", name(minute, Kind::Lock)));
        }
        Ok(())
    }

    /// A reason without its file: whoever was putting it aside died.
    fn look_at_reason(&mut self, minute: Minute) -> io::Result<()> {
        if !self.spool.exists(&name(minute, Kind::Refused))? && !self.is_shipped()? {
            self.spool.remove(&name(minute, Kind::Reason))?;
            self.say(&format!("mended: {} belonged to no file and is removed", name(minute, Kind::Reason)));
        }
        Ok(())
    }

    fn is_shipped(&self) -> io::Result<bool> {
        Ok(run::take_shipping(self.spool, Duration::ZERO)
            .map_err(|error| io::Error::other(error.to_string()))?
            .is_none())
    }

    fn read(&mut self, minute: Minute, kind: Kind) -> io::Result<()> {
        let name = name(minute, kind);
        if kind == Kind::Data && locks::standing(self.spool, minute, SystemTime::now())? != Standing::Finished
        {
            return Ok(());
        }
        let file = match self.spool.open_plain_file(&name) {
            // It was delivered meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                self.finding(&format!("{name} cannot be opened: {error}"));
                return Ok(());
            }
            Ok(None) => {
                self.finding(&format!("{name} is not a file"));
                return Ok(());
            }
            Ok(Some(file)) => file,
        };
        self.files += 1;
        match damaged_records(&file) {
            Ok(0) => {}
            Ok(damaged) => {
                self.finding(&format!("{name} has {damaged} records that are not what was written"));
            }
            Err(error) => self.finding(&format!("{name} cannot be read: {error}")),
        }
        Ok(())
    }

    fn look_at_books(&mut self) -> io::Result<()> {
        if let Err(error) = self.spool.read_sealed() {
            self.finding(&error.to_string());
        }
        let readable = match (generated::read(self.spool), Book::read(self.spool)) {
            (Ok(_), Ok(_)) => true,
            (generated, book) => {
                for error in [generated.err(), book.err()].into_iter().flatten() {
                    self.finding(&error.to_string());
                }
                false
            }
        };
        if readable {
            let missing = Account::of(self.spool)?.missing();
            if missing != 0 {
                self.finding(&format!(
                    "{missing} records were made and are neither delivered nor pending nor quarantined"
                ));
            }
        }
        Ok(())
    }
}

/// Records of the spool's own writers whose check says that they were altered. What others write carries none.
fn damaged_records(file: &File) -> io::Result<u64> {
    let mut reader = BufReader::with_capacity(256 * 1024, file);
    let mut line = Vec::new();
    let mut damaged = 0;
    loop {
        line.clear();
        // A longer line is no record of ours; it is looked at in pieces, none of which is one either.
        if reader.by_ref().take(MAX_RECORD as u64 + 1).read_until(b'\n', &mut line)? == 0 {
            return Ok(damaged);
        }
        let text = line.trim_ascii_start();
        if text.starts_with(br#"{"id":""#) && record::is_sound(text) == Some(false) {
            damaged += 1;
        }
    }
}
