//! Going back to a checkpoint: a new region with a new epoch, in which everything is as it was at that moment, and on top of
//! it the messages that the journal has and the checkpoint has not. Nobody else is at work. Whenever this is killed, the new
//! region is thrown away, and what there was is as it was.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use common::error::{Context as _, Error, Result};
use common::ids::{Offset, SlotIndex};
use common::journal::spool::Spool;
use common::layout::{Geometry, HEADER_SIZE, Slot};
use common::output::print;
use common::planted::{self, Bug};
use common::region::{Region, UnverifiedRegion};
use common::slots::{self, State, owner_word};
use common::sys::{file, process};

use crate::checkpoint::format::{self, Head, Moment, Unfit};
use crate::checkpoint::store::{DIRECTORY, Store, name_of};
use crate::offline::{lock_run_directory, open_spool};
use crate::repair::{self, Fate, Setback};
use crate::verify;

mod replay;

/// What was gone back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The checkpoint's number.
    pub number: u64,
    /// When it had been taken, in nanoseconds since the epoch.
    pub taken_ns: u64,
    /// Records that were counted on top of it.
    pub replayed: u64,
}

impl std::fmt::Display for Restored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let taken = jiff::Timestamp::from_nanosecond(self.taken_ns.into()).unwrap_or_default();
        write!(
            f,
            "restored from checkpoint {} of {taken:.0}, with {} messages of the journal counted on top of it; \
             maps and other objects are as they were then",
            self.number, self.replayed
        )
    }
}

/// `recovery rebuild`, which the supervisor calls: an empty file becomes the restored region. `spool_dir` is what the
/// spool is called.
///
/// # Errors
/// No checkpoint that can be used (exit 4); no space.
pub fn run_for_supervisor(new: &File, spool: File, spool_dir: &Path) -> Result<()> {
    common::logging::init("recovery");
    let restored = rebuild_in(new, &Spool::from_directory(spool), spool_dir)?;
    print(&format!("{restored}\n"))
}

/// `recovery restore`: an operator goes back to the newest good checkpoint. The region that there is, if there is one, is kept
/// under another name.
///
/// # Errors
/// A running instance (exit 3), wrong paths (exit 2), no checkpoint that can be used (exit 4).
pub fn run(path: &Path, spool_dir: &Path) -> Result<()> {
    let (restored, aside) = go_back(path, spool_dir)?;
    let kept =
        aside.map_or_else(String::new, |aside| format!("the former region is kept as {}\n", aside.display()));
    print(&format!("{restored}\n{kept}"))
}

/// What [`run`] does, without a word. Gives under which name the former region is kept, if there was one.
///
/// # Errors
/// As [`run`].
pub fn go_back(path: &Path, spool_dir: &Path) -> Result<(Restored, Option<PathBuf>)> {
    let _nobody_else = lock_run_directory(path)?;
    let spool = open_spool(spool_dir)?;
    let _writers = spool.take()?;
    let next = path.with_extension("next");
    let moving = || format!("cannot put a restored region in the place of {}", path.display());
    remove(&next).context(moving)?;
    if planted::has(Bug::RestoredInPlace) {
        let aside = file::set_aside(path).context(moving)?;
        return rebuild(path, &spool, spool_dir).map(|restored| (restored, aside));
    }
    let restored = rebuild(&next, &spool, spool_dir).inspect_err(|_| drop(remove(&next)))?;
    give_way(path);
    let aside = file::set_aside(path).context(moving)?;
    std::fs::rename(&next, path).context(moving)?;
    Ok((restored, aside))
}

/// Whoever reads the former region is told, if it is one.
fn give_way(path: &Path) {
    if let Ok(file) = File::options().read(true).write(true).open(path)
        && let Ok(region) = UnverifiedRegion::open(&file)
    {
        region.contents().give_way();
    }
}

/// Removes a file, if it is there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes `new`, which does not exist yet, the region of the newest checkpoint that can be used. Those that cannot are kept
/// under other names then.
///
/// # Errors
/// None can be used (exit 4); the new region cannot be written.
pub fn rebuild(new: &Path, spool: &Spool, spool_dir: &Path) -> Result<Restored> {
    // Nobody else may read it, wherever it is made.
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(new);
    rebuild_in(&file.context(|| format!("cannot create {}", new.display()))?, spool, spool_dir)
}

fn rebuild_in(file: &File, spool: &Spool, spool_dir: &Path) -> Result<Restored> {
    let directory = spool_dir.join(DIRECTORY);
    let reading = || format!("cannot read {}", directory.display());
    let store = Store::open(spool).context(reading)?;
    let numbers = store.as_ref().map(Store::numbers).transpose().context(reading)?.unwrap_or_default().0;
    let mut unfit = Vec::new();
    for number in numbers.into_iter().rev() {
        let Some(store) = &store else { continue };
        match develop(file, store, number, spool) {
            Ok(restored) => {
                for (number, why) in unfit {
                    log::error!("{} cannot be used and is set aside: {why}", name_of(number));
                    store.set_aside(number).context(reading)?;
                }
                return Ok(restored);
            }
            Err(Unfit::Io(error)) => {
                return Err(error).context(|| "cannot restore the region from a checkpoint".to_owned());
            }
            Err(Unfit::Bad(why)) => unfit.push((number, why)),
        }
    }
    Err(none_is_good(&directory, &unfit))
}

fn none_is_good(directory: &Path, unfit: &[(u64, String)]) -> Error {
    let found: String = match unfit {
        [] => "there is no checkpoint".to_owned(),
        _ => {
            let each: Vec<_> =
                unfit.iter().map(|(number, why)| format!("{}: {why}", name_of(*number))).collect();
            format!("no checkpoint can be used ({})", each.join("; "))
        }
    };
    Error::region(format!(
        "{found} in {}; move the region and that directory away to start with an empty region (the journal has every \
         acknowledged message that the disk has)",
        directory.display()
    ))
}

/// Makes an empty file the region that a checkpoint shows, and counts what the journal has beyond it.
fn develop(file: &File, store: &Store, number: u64, spool: &Spool) -> std::result::Result<Restored, Unfit> {
    file.set_len(0)?;
    let checkpoint = store.read(number)?;
    let mut from = format::reader(&checkpoint);
    let head = Head::read(&mut from)?;
    let region = Region::create_seeded(file, head.length, Some(head.seed))
        .map_err(|error| if Geometry::of(head.length).is_none() { bad(error) } else { failed(&error) })?;
    let moment = format::read_pieces(&mut from, |offset, bytes| place(&region, offset, bytes))?;
    let seen = replay::Seen::of(&region, &head, &moment);
    come_to_rest(&region)?;
    if let Some(finding) = verify::check_with(&region, &[]).into_iter().next() {
        return Err(bad(finding));
    }
    let replayed = replay::count(&region, spool, &seen)?;
    if let Some(finding) = verify::check_with(&region, &[]).into_iter().next() {
        return Err(bad(finding));
    }
    note(&region, number, &head, &moment, replayed);
    Ok(Restored { number, taken_ns: moment.taken_ns, replayed })
}

fn bad(why: impl std::fmt::Display) -> Unfit {
    Unfit::Bad(why.to_string())
}

fn failed(why: &impl std::fmt::Display) -> Unfit {
    Unfit::Io(io::Error::other(why.to_string()))
}

/// Header, undo logs and marks are the new region's own; whatever else a piece names is as it was.
fn place(region: &Region, offset: Offset, bytes: &[u8]) -> std::result::Result<(), Unfit> {
    let geometry = region.geometry();
    let end = offset.0.saturating_add(bytes.len() as u64);
    let within = |from: u64, to: u64| offset.0 >= from && end <= to;
    let possible = within(HEADER_SIZE, geometry.logs)
        || within(geometry.tallies, geometry.marks)
        || within(geometry.objects, geometry.length);
    let words = region.words(offset, bytes.len() / 8).filter(|_| possible && bytes.len().is_multiple_of(8));
    let Some(words) = words else { return Err(bad("a piece of it belongs nowhere")) };
    for (word, bytes) in words.iter().zip(bytes.as_chunks::<8>().0) {
        word.store(u64::from_le_bytes(*bytes), Relaxed);
    }
    Ok(())
}

/// Nobody is at work in the new region: every slot is free, no lock is held, what is counted is shown, and the items that
/// somebody had taken from queues are in them again.
fn come_to_rest(region: &Region) -> std::result::Result<(), Unfit> {
    for object in (0..region.geometry().object_count).filter_map(|index| region.object(index)) {
        object.lock.store(0, Relaxed);
        common::lock::end_change(&object.seq);
    }
    for (index, slot) in region.slots() {
        if slot.undo.load(Relaxed) != 0 || slot.mini.load(Relaxed) != 0 {
            return Err(bad(format!("a transaction was under way in slot {index}")));
        }
        free(slot);
        if let Some(tally) = region.tally(index) {
            tally.publish_all();
        }
    }
    region.slots().try_for_each(|(index, slot)| put_items_back(region, index, slot))
}

/// As repair does: whoever had them died with the former region.
fn put_items_back(region: &Region, index: SlotIndex, slot: &Slot) -> std::result::Result<(), Unfit> {
    repair::check_in_flight(region, slot).map_err(|why| bad(format!("slot {index}: {why}")))?;
    match repair::put_items_back(region, slots::owner(index, slot.standing().0), slot, Fate::None) {
        Ok(()) => {
            slot.open.store(0, Relaxed);
            Ok(())
        }
        Err(Setback::Damage(why)) => Err(bad(format!("slot {index}: {why}"))),
        Err(Setback::Io(error)) => Err(error.into()),
        Err(Setback::Later(_)) => {
            Err(bad(format!("slot {index}: a queue that its items go back to is locked")))
        }
    }
}

fn free(slot: &Slot) {
    slot.owner.store(owner_word(slot.standing().0, State::Free), Relaxed);
    for word in [&slot.since_ms, &slot.intent.minute, &slot.open] {
        word.store(0, Relaxed);
    }
    for half in [&slot.pid, &slot.activity, &slot.held_count] {
        half.store(0, Relaxed);
    }
    slot.doing[0].store(0, Relaxed);
    slot.publish();
}

fn note(region: &Region, number: u64, head: &Head, moment: &Moment, replayed: u64) {
    let header = region.header();
    header.supervision.life.store(head.life, SeqCst);
    header.history.restored_ns.store(process::now_ns(), SeqCst);
    header.history.restored_from_ns.store(moment.taken_ns, SeqCst);
    header.history.replayed.store(replayed, SeqCst);
    header.history.number.store(number, SeqCst);
    header.history.taken_ns.store(moment.taken_ns, SeqCst);
}

/// The slot that counts what the journal has beyond a checkpoint, as far as it has room for that.
const COUNTER: SlotIndex = SlotIndex(0);

/// For tests elsewhere: the region that the bytes of a checkpoint show, without the journal.
#[cfg(test)]
pub(crate) mod tests_support {
    use super::{Head, Region, come_to_rest, format, place};

    pub(crate) fn restored(mut checkpoint: &[u8]) -> Region {
        let head = Head::read(&mut checkpoint).unwrap();
        let file = tempfile::tempfile().unwrap();
        let region = Region::create_seeded(&file, head.length, Some(head.seed)).unwrap();
        format::read_pieces(&mut checkpoint, |offset, bytes| place(&region, offset, bytes)).unwrap();
        come_to_rest(&region).unwrap();
        region
    }
}

#[cfg(test)]
mod tests;
