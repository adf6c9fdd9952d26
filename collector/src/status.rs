//! The account of a spool: what was generated is what was delivered, what is pending and what is quarantined.
//!
//! Its own writers' records are counted where they are sealed, deliveries where they are acknowledged, and the rest is
//! looked at: so the account does not agree by definition, but because nothing was lost. Other programs' records are
//! counted once they are seen.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use common::error::{Context, Error, Result};
use common::ids::Minute;
use common::journal::generated::{self, Generated};
use common::journal::names::{Kind, data_name, name};
use common::journal::spool::{Entry, Spool};
use common::journal::tally::{self, Tally};
use common::output;
use serde_json::json;

use crate::content::{self, Content};
use crate::ledger::Book;

/// How often an account is drawn up at most, because files moved meanwhile.
const ROUNDS: usize = 50;
/// One that comes out the same so often is not about files that move: some were taken away or put there by hand.
const ALIKE: usize = 3;
const ROUND_PAUSE: Duration = Duration::from_millis(20);

/// Files and what is in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
    /// Records.
    pub records: Tally,
}

impl Share {
    fn add(&mut self, bytes: u64, records: Tally) {
        *self =
            Self { files: self.files + 1, bytes: self.bytes + bytes, records: self.records.plus(records) };
    }
}

/// The account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Records that were ever made.
    pub generated: u64,
    /// What the server has.
    pub delivered: Share,
    /// What it does not have yet.
    pub pending: Share,
    /// What it does not want.
    pub quarantined: Share,
}

impl Account {
    /// Records that were made and are nowhere; fewer than none where more are there than were made.
    pub fn missing(&self) -> i128 {
        let found =
            [self.delivered, self.pending, self.quarantined].map(|share| i128::from(share.records.all()));
        i128::from(self.generated) - found.iter().sum::<i128>()
    }

    /// Draws the account up, also while others write, seal and deliver.
    ///
    /// # Errors
    /// What reading reports.
    pub fn of(spool: &Spool) -> io::Result<Self> {
        let counts = || Ok::<_, io::Error>((generated::read(spool)?, Book::read(spool)?));
        let mut before = counts()?;
        until_settled(|| {
            let account = Self::draw_up(spool, before.0, &before.1)?;
            let after = counts()?;
            let undisturbed = after == before;
            before = after;
            Ok((account, undisturbed))
        })
    }

    fn draw_up(spool: &Spool, sealed: Option<Generated>, book: &Book) -> io::Result<Self> {
        let delivered = Share { files: book.files, bytes: book.bytes, records: book.records() };
        let mut account = Self { delivered, ..Self::default() };
        let mut open = 0;
        for entry in spool.entries()? {
            let Entry { minute, kind, .. } = entry?;
            let share = match kind {
                Kind::Data if is_counted(spool, book, minute)? => continue,
                Kind::Data => &mut account.pending,
                Kind::Refused => &mut account.quarantined,
                Kind::Lock | Kind::Reason | Kind::Sent => continue,
            };
            // It may be gone by now: then the account is drawn up again. What is no file holds no records.
            let Ok(Some(file)) = spool.open_plain_file(&name(minute, kind)) else { continue };
            let mut records = tally::count(&file, |_| {})?;
            if kind == Kind::Data
                && sealed.is_none_or(|sealed| minute > sealed.up_to)
                && is_own(spool, minute)?
            {
                // What is not whole yet is nobody's.
                records.foreign = 0;
                open += records.own;
            }
            share.add(file.metadata()?.len(), records);
        }
        let shares = [account.delivered, account.pending, account.quarantined];
        let all = shares.iter().fold(Tally::default(), |sum, share| sum.plus(share.records));
        let own = sealed.map_or(all.own, |sealed| sealed.records + open);
        account.generated = own + all.foreign;
        Ok(account)
    }

    fn shares(&self) -> [(&'static str, Share); 3] {
        [("delivered", self.delivered), ("pending", self.pending), ("quarantined", self.quarantined)]
    }

    fn to_json(self) -> String {
        let missing = self.missing().clamp(-1 << 62, 1 << 62) as i64;
        let mut object = json!({ "generated": self.generated, "missing": missing });
        for (name, share) in self.shares() {
            object[name] = share.records.all().into();
            object["files"][name] = share.files.into();
            object["bytes"][name] = share.bytes.into();
        }
        format!("{object}\n")
    }

    fn to_text(self) -> String {
        let mut text = format!("{:<12}{:>14} records\n", "generated", self.generated);
        for (name, Share { files, bytes, records }) in self.shares() {
            let records = records.all();
            let _ = writeln!(text, "{name:<12}{records:>14} records in {files} files, {bytes} bytes");
        }
        let missing = self.missing();
        if missing != 0 {
            let why = "files have been taken away or put there by hand";
            let _ = writeln!(text, "{:<12}{missing:>14} records: {why}", "missing");
        }
        text
    }
}

/// Draws the account up until it agrees and nobody counted meanwhile, or it stays as it is without agreeing.
fn until_settled(mut draw_up: impl FnMut() -> io::Result<(Account, bool)>) -> io::Result<Account> {
    let (mut last, mut alike, mut rounds) = (None, 0, 0);
    loop {
        let (account, undisturbed) = draw_up()?;
        rounds += 1;
        alike = if last == Some(account) { alike + 1 } else { 1 };
        let agrees = undisturbed && account.missing() == 0;
        if agrees || alike == ALIKE || rounds == ROUNDS {
            return Ok(account);
        }
        last = Some(account);
        std::thread::sleep(ROUND_PAUSE);
    }
}

fn is_own(spool: &Spool, minute: Minute) -> io::Result<bool> {
    Ok(crate::locks::whose(spool, minute)?.is_some())
}

/// Whether a file that is still there is in the ledger already.
fn is_counted(spool: &Spool, book: &Book, minute: Minute) -> io::Result<bool> {
    if !book.settling().any(|settling| settling == minute) {
        return Ok(false);
    }
    let Ok(Some(file)) = spool.open_plain_file(&data_name(minute)) else { return Ok(false) };
    let id = content::spool_id(spool)?;
    Ok(Content::of(&file, &id, minute).is_ok_and(|content| book.has(minute, &content.key)))
}

/// Prints the account of the spool at `directory`.
///
/// # Errors
/// What cannot be read or printed (exit 1); no spool there (exit 2).
pub fn show(directory: &Path, as_json: bool) -> Result<()> {
    let spool = open(directory)?;
    let account = Account::of(&spool).context(|| format!("cannot look through {}", directory.display()))?;
    output::print(&if as_json { account.to_json() } else { account.to_text() })
}

/// Opens a spool that is there.
///
/// # Errors
/// It is not (exit 2).
pub fn open(directory: &Path) -> Result<Spool> {
    let unusable = |error: io::Error| {
        Error::usage(format!(
            "cannot look into {}: {error}; name a directory of minute files",
            directory.display()
        ))
    };
    let file = File::open(directory).map_err(unusable)?;
    if !file.metadata().map_err(unusable)?.is_dir() {
        return Err(unusable(io::ErrorKind::NotADirectory.into()));
    }
    Ok(Spool::from_directory(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often an account is drawn up that has these numbers of generated records, the last one again and again.
    fn rounds(generated: &[u64], undisturbed: bool) -> usize {
        let mut rounds = 0;
        let account = until_settled(|| {
            let generated = generated[rounds.min(generated.len() - 1)];
            rounds += 1;
            Ok((Account { generated, ..Account::default() }, undisturbed))
        });
        assert!(account.is_ok());
        rounds
    }

    #[test]
    fn an_account_is_drawn_up_until_it_agrees_or_stays_as_it_is() {
        assert_eq!(rounds(&[0], true), 1);
        assert_eq!(rounds(&[1, 2, 1, 0], true), 4, "files moved meanwhile");
        assert_eq!(rounds(&[7], true), ALIKE, "it is off for good");
        assert_eq!(rounds(&[1, 2, 3, 3, 4, 4, 4], true), 7);
        let moving: Vec<u64> = (1..1000).collect();
        assert_eq!(rounds(&moving, false), ROUNDS);
    }
}
