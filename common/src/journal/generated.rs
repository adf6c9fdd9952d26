//! How many records the spool's own writers have ever made, counted where they are sealed: each minute once, whatever
//! becomes of its file later. What was delivered and what is still there can be held against it.

use std::fs::File;
use std::io;

use crate::ids::Minute;
use crate::journal::names::{Kind, name};
use crate::journal::spool::{Entry, Spool};
use crate::journal::tally;
use crate::journal::twofold::Twofold;

const FILE: &str = ".generated";
const LENGTH: usize = 128;

/// The count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generated {
    /// The last minute that is in it; every minute of ours up to it is.
    pub up_to: Minute,
    /// Records.
    pub records: u64,
}

/// What is counted; `None` where nothing has been yet.
///
/// # Errors
/// What reading reports; a text that is no count.
pub fn read(spool: &Spool) -> io::Result<Option<Generated>> {
    match spool.open_file(FILE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        file => Twofold::read(&file?, LENGTH)?.as_deref().map(parse).transpose(),
    }
}

/// Counts a minute that is about to be said to be sealed, if it is not counted yet. Can be repeated.
///
/// # Errors
/// What the file system reports.
pub fn count(spool: &Spool, minute: Minute, sealed: &File) -> io::Result<()> {
    let (mut file, text) = Twofold::open(spool.open_or_create_file(FILE)?, LENGTH)?;
    let before = match text.as_deref().map(parse).transpose()? {
        Some(generated) => generated,
        None => begin(spool)?,
    };
    if minute > before.up_to {
        let records = before.records + tally::count(sealed, |_| {})?.own;
        file.write(&format!("{minute} {records}"))?;
    }
    Ok(())
}

/// Makes the file while there is room for it.
///
/// # Errors
/// What the file system reports.
pub fn prepare(spool: &Spool) -> io::Result<()> {
    let (mut file, text) = Twofold::open(spool.open_or_create_file(FILE)?, LENGTH)?;
    match text {
        Some(_) => Ok(()),
        None => {
            let Generated { up_to, records } = begin(spool)?;
            file.write(&format!("{up_to} {records}"))
        }
    }
}

/// Where sealing began before counting did: what is sealed and still there.
fn begin(spool: &Spool) -> io::Result<Generated> {
    let up_to = spool.read_sealed()?;
    let mut records = 0;
    for entry in spool.entries()? {
        let Entry { minute, kind, .. } = entry?;
        if minute <= up_to
            && matches!(kind, Kind::Data | Kind::Refused)
            && let Some(file) = spool.open_plain_file(&name(minute, kind))?
        {
            records += tally::count(&file, |_| {})?.own;
        }
    }
    Ok(Generated { up_to, records })
}

fn parse(text: &str) -> io::Result<Generated> {
    let numbers = text.split_once(' ').and_then(|(minute, records)| {
        Some(Generated { up_to: Minute(minute.parse().ok()?), records: records.parse().ok()? })
    });
    numbers.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "SPOOL/.generated holds no count"))
}
