//! `recovery import`: a fresh region with everything that `recovery dump --json` printed of another one, whatever its format
//! or its size: the tree of folders and what is in it, what users have sent, the totals. Items that were in flight are in their queues again. Slots, journal and locks are of the other
//! region's life and end with it. An object that this program cannot rebuild whole is an error, never left out.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use common::error::{Context as _, Error, Result};
use common::ids::SlotIndex;
use common::objects::queue::End;
use common::objects::{Folder, Map, Queue};
use common::output::print;
use common::region::Region;
use common::sys::file::{Lock, rename_unless_taken, try_lock};
use common::tally::{self, Sent};
use common::txn::{Seat, TxnError};
use common::units::Size;

use crate::offline::{directory_of, lock_run_directory};
use crate::restore::remove;
use crate::tidy::with_seat;
use crate::verify;

mod dumped;

use dumped::{Bytes, Dump, ObjectDump};

/// Entries put in one transaction, if its log takes them.
const BATCH: usize = 8;

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
/// A region that is there already, a dump that cannot be read, a size that is too small (exit 2); an instance, or another
/// import, at work there (exit 3); no space.
pub fn run(path: &Path, from: Option<&Path>, size: Option<Size>) -> Result<()> {
    if path.exists() {
        return Err(is_there(path));
    }
    let dump = read(from)?;
    let length = size.map_or(dump.header.length, |Size(bytes)| bytes);
    let _no_instance = lock_run_directory(path)?;
    let _no_other = lock_directory(path)?;
    // Under another name first: one that is not complete is never found. Whoever has left one is gone.
    let next = path.with_extension("next");
    let creating = || format!("cannot create {}", next.display());
    remove(&next).context(creating)?;
    let file =
        File::options().read(true).write(true).create_new(true).mode(0o600).open(&next).context(creating)?;
    let made = build(&file, length, &dump).and_then(|summary| {
        let named =
            rename_unless_taken(&next, path).context(|| format!("cannot create {}", path.display()))?;
        if named { Ok(summary) } else { Err(is_there(path)) }
    });
    let summary = made.inspect_err(|_| drop(remove(&next)))?;
    print(&format!("{summary}\n"))
}

fn is_there(path: &Path) -> Error {
    Error::usage(format!("{} exists; move it away: a dump becomes a region of its own", path.display()))
}

/// For as long as the file that comes back is open, no other import is at work there. A death lets go of it.
fn lock_directory(region: &Path) -> Result<File> {
    let directory = directory_of(region);
    let doing = || format!("cannot lock {}", directory.display());
    let file = File::open(directory).context(doing)?;
    match try_lock(&file, Lock::Exclusive).context(doing)? {
        true => Ok(file),
        false => Err(Error::already_running(format!(
            "another import is at work in {}; wait until it has ended",
            directory.display()
        ))),
    }
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
    // Sorted by their paths: those that lead to others come first.
    for folder in &dump.folders {
        refuse_gaps(&folder.name, folder.error.as_ref())?;
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

fn refuse_gaps(path: &str, error: Option<&String>) -> std::result::Result<(), Fault> {
    match error {
        None => Ok(()),
        Some(error) => {
            Err(Fault::Dump(format!("not all of {path} was dumped: {error}; dump the region at rest")))
        }
    }
}

fn rebuild(
    seat: &mut Seat<'_>,
    folder: Folder,
    object: &ObjectDump,
    path: &str,
) -> std::result::Result<(), Fault> {
    refuse_gaps(path, object.error.as_ref())?;
    let missing = |what: &str| Fault::Dump(format!("{path} has no {what}; dump the region again"));
    let bytes_of = |bytes: &Bytes| bytes.bytes().ok_or_else(|| missing("digits where it should have some"));
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
            let pairs = entries.iter().map(|entry| Ok((bytes_of(&entry.key)?, bytes_of(&entry.value)?)));
            let pairs = pairs.collect::<std::result::Result<Vec<_>, Fault>>()?;
            Ok(pairs.chunks(BATCH).try_for_each(|pairs| put_all(seat, map, pairs))?)
        }
        "queue" => {
            let capacity = object.capacity.ok_or_else(|| missing("capacity"))?;
            let items = object.items.as_ref().ok_or_else(|| missing("items"))?;
            let mut txn = seat.begin()?;
            let queue = txn.create_queue(folder, &object.name, 0)?;
            txn.commit()?;
            let items = items.iter().map(|item| Ok((End::Back, bytes_of(item)?)));
            // Whoever had taken an item is gone; the last one taken goes back first, as repair does it.
            let taken = object.in_flight.iter().flatten().rev();
            let taken = taken.map(|taken| Ok((taken.end.into(), bytes_of(&taken.item)?)));
            let items = items.chain(taken).collect::<std::result::Result<Vec<_>, Fault>>()?;
            Ok(fill_queue(seat, queue, &items, capacity)?)
        }
        "blob" => {
            let content = bytes_of(object.content.as_ref().ok_or_else(|| missing("content"))?)?;
            let mut txn = seat.begin()?;
            let blob = txn.create_blob(folder, &object.name)?;
            txn.blob(blob)?.set(&content)?;
            Ok(txn.commit()?)
        }
        kind => Err(Fault::Dump(format!(
            "{path} is a {kind}, which this program cannot rebuild; import with the program of a later version"
        ))),
    }
}

/// The capacity comes last: items that were put back may be more than it.
fn fill_queue(
    seat: &mut Seat<'_>,
    queue: Queue,
    items: &[(End, Vec<u8>)],
    capacity: u64,
) -> std::result::Result<(), TxnError> {
    for items in items.chunks(BATCH) {
        let mut txn = seat.begin()?;
        for (end, item) in items {
            txn.queue(queue)?.push(*end, item)?;
        }
        txn.commit()?;
    }
    let mut txn = seat.begin()?;
    txn.queue(queue)?.set_capacity(capacity)?;
    txn.commit()
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

#[cfg(test)]
mod tests;
