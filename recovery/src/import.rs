//! `recovery import`: a fresh region with everything that `recovery dump --json` printed of another one, whatever its format
//! or its size: folders and what is in them, what users have sent, the totals. Slots, journal and locks are of the other
//! region's life and end with it. An object that this program cannot rebuild whole is an error, never left out.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use common::error::{Context as _, Error, Result};
use common::ids::SlotIndex;
use common::objects::{Folder, Map};
use common::region::Region;
use common::slots::Totals;
use common::tally::{self, Sent};
use common::txn::{Seat, TxnError};
use common::units::Size;
use serde::Deserialize;

use crate::offline::print;
use crate::tidy::with_seat;
use crate::verify;

/// Entries put in one transaction, if its log takes them.
const BATCH: usize = 8;

/// What is read of a dump; whatever else stands there was of the other region's life.
#[derive(Debug, Deserialize)]
struct Dump {
    header: Header,
    totals: TotalsDump,
    users: BTreeMap<String, SentDump>,
    folders: Vec<FolderDump>,
}

#[derive(Debug, Deserialize)]
struct Header {
    length: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TotalsDump {
    connections: u64,
    messages: u64,
    bytes: u64,
    errors: u64,
    crashes: u64,
    recoveries: u64,
}

#[derive(Debug, Deserialize)]
struct SentDump {
    messages: u64,
    bytes: u64,
}

#[derive(Debug, Deserialize)]
struct FolderDump {
    name: String,
    objects: Vec<ObjectDump>,
}

#[derive(Debug, Deserialize)]
struct ObjectDump {
    name: String,
    kind: String,
    value: Option<u64>,
    entries: Option<Vec<EntryDump>>,
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct EntryDump {
    key: Bytes,
    value: Bytes,
}

/// As the dump writes them: text, or the digits of what is none.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Bytes {
    Text(String),
    Hex { hex: String },
}

/// Why an object could not be rebuilt.
enum Fault {
    /// What the region says.
    Txn(TxnError),
    /// What is wrong with the dump.
    Dump(String),
}

impl From<TxnError> for Fault {
    fn from(error: TxnError) -> Self {
        Self::Txn(error)
    }
}

/// Makes the region at `path`, which does not exist yet, of a dump in a file or on stdin.
///
/// # Errors
/// A region that is there already, a dump that cannot be read, a size that is too small (exit 2); no space.
pub fn run(path: &Path, from: Option<&Path>, size: Option<Size>) -> Result<()> {
    if path.exists() {
        return Err(Error::usage(format!(
            "{} exists; move it away: a dump becomes a region of its own",
            path.display()
        )));
    }
    let dump = read(from)?;
    let length = size.map_or(dump.header.length, |Size(bytes)| bytes);
    // Under another name first: one that is not complete is never found.
    let next = path.with_extension("next");
    let creating = || format!("cannot create {}", next.display());
    let file = File::options().read(true).write(true).create_new(true).open(&next).context(creating)?;
    let made = build(&file, length, &dump).and_then(|summary| {
        std::fs::rename(&next, path).context(|| format!("cannot create {}", path.display()))?;
        Ok(summary)
    });
    let summary = made.inspect_err(|_| drop(std::fs::remove_file(&next)))?;
    print(&format!("{summary}\n"))
}

fn read(from: Option<&Path>) -> Result<Dump> {
    let mut text = String::new();
    let name = from.map_or_else(|| "stdin".to_owned(), |path| path.display().to_string());
    let read = match from {
        Some(path) => File::open(path).and_then(|mut file| file.read_to_string(&mut text)),
        None => io::stdin().lock().read_to_string(&mut text),
    };
    read.map_err(|error| {
        Error::usage(format!("cannot read {name}: {error}; give what recovery dump --json printed"))
    })?;
    serde_json::from_str(&text).map_err(|error| {
        Error::usage(format!(
            "{name} is not what recovery dump --json prints: {error}; dump the region again"
        ))
    })
}

fn build(file: &File, length: u64, dump: &Dump) -> Result<String> {
    let region = Region::create(file, length)?;
    let filled = with_seat(&region, SlotIndex(0), |seat| fill(seat, dump));
    filled.unwrap_or(Err(Fault::Txn(TxnError::Disturbed))).map_err(|fault| explain(&fault, length))?;
    if let Some(slot) = region.slot(SlotIndex(0)) {
        dump.totals.to_totals().carry_into(slot);
    }
    match verify::check_with(&region, &[]) {
        findings if findings.is_empty() => Ok(verify::summary(&region)),
        findings => Err(verify::damaged(&findings)),
    }
}

fn explain(fault: &Fault, length: u64) -> Error {
    match fault {
        Fault::Dump(why) => Error::usage(format!("the dump cannot be imported: {why}")),
        Fault::Txn(error @ (TxnError::Full | TxnError::TooManyObjects)) => Error::usage(format!(
            "a region of {length} bytes has no room for what was dumped ({error}); choose a larger --size"
        )),
        Fault::Txn(error @ (TxnError::BadName | TxnError::TooLong | TxnError::Exists)) => {
            Error::usage(format!("the dump cannot be imported: {error}"))
        }
        Fault::Txn(error) => Error::failure(format!("the dump cannot be imported: {error}")),
    }
}

fn fill(seat: &mut Seat<'_>, dump: &Dump) -> std::result::Result<(), Fault> {
    for folder in &dump.folders {
        let mut txn = seat.begin()?;
        let made = txn.open_or_create_folder(&folder.name)?;
        txn.commit()?;
        for object in folder.objects.iter().filter(|object| !tally::is_kept_in(&folder.name, &object.name)) {
            rebuild(seat, made, object, &format!("{}/{}", folder.name, object.name))?;
        }
    }
    for (user, sent) in &dump.users {
        tally::enroll_with(seat, user, Sent { messages: sent.messages, bytes: sent.bytes })?;
    }
    Ok(())
}

fn rebuild(
    seat: &mut Seat<'_>,
    folder: Folder,
    object: &ObjectDump,
    path: &str,
) -> std::result::Result<(), Fault> {
    let missing = |what: &str| Fault::Dump(format!("{path} has no {what}; dump the region again"));
    if let Some(error) = &object.error {
        return Err(Fault::Dump(format!("not all of {path} was dumped: {error}; dump the region at rest")));
    }
    match object.kind.as_str() {
        "counter" => {
            let value = object.value.ok_or_else(|| missing("value"))?;
            let mut txn = seat.begin()?;
            let counter = txn.create_counter(folder, &object.name)?;
            txn.counter(counter)?.set(value)?;
            Ok(txn.commit()?)
        }
        "map" => {
            let entries = object.entries.as_ref().ok_or_else(|| missing("entries"))?;
            let mut txn = seat.begin()?;
            let map = txn.create_map(folder, &object.name)?;
            txn.commit()?;
            let pairs: Option<Vec<_>> =
                entries.iter().map(|entry| Some((entry.key.bytes()?, entry.value.bytes()?))).collect();
            let pairs = pairs.ok_or_else(|| missing("digits where it should have some"))?;
            Ok(pairs.chunks(BATCH).try_for_each(|pairs| put_all(seat, map, pairs))?)
        }
        kind => Err(Fault::Dump(format!(
            "{path} is a {kind}, which this program cannot rebuild; import with the program of a later version"
        ))),
    }
}

/// In one transaction if its log takes it, else in smaller ones.
fn put_all(seat: &mut Seat<'_>, map: Map, pairs: &[(Vec<u8>, Vec<u8>)]) -> std::result::Result<(), TxnError> {
    let mut put = |pairs: &[(Vec<u8>, Vec<u8>)]| {
        let mut txn = seat.begin()?;
        for (key, value) in pairs {
            txn.map(map)?.put(key, value)?;
        }
        txn.commit()
    };
    match put(pairs) {
        Err(TxnError::TooLarge) if pairs.len() > 1 => {
            let (first, rest) = pairs.split_at(pairs.len() / 2);
            put_all(seat, map, first)?;
            put_all(seat, map, rest)
        }
        outcome => outcome,
    }
}

impl TotalsDump {
    fn to_totals(&self) -> Totals {
        let Self { connections, messages, bytes, errors, crashes, recoveries } = *self;
        Totals { connections, messages, bytes, errors, crashes, recoveries }
    }
}

impl Bytes {
    /// `None` where the digits are none.
    fn bytes(&self) -> Option<Vec<u8>> {
        let digits = match self {
            Self::Text(text) => return Some(text.as_bytes().to_vec()),
            Self::Hex { hex } => hex.as_bytes(),
        };
        if !digits.len().is_multiple_of(2) {
            return None;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let pairs = digits.as_chunks::<2>().0.iter();
        pairs.map(|[high, low]| Some((digit(*high)? << 4 | digit(*low)?) as u8)).collect()
    }
}

#[cfg(test)]
mod tests;
