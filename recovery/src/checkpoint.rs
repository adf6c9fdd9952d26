//! The role `checkpoint`: takes one checkpoint of the region into the spool, and leaves. A process with a slot of its own,
//! since what it closes while it copies must be opened again if it dies. The standby does not do this: copying would delay
//! repairs.
//!
//! In reading order: how a region is taken while others work in it ([`capture`]), what the file looks like ([`format`]), the
//! directory of the last two ([`store`]). What is done with them afterwards is [`crate::restore`].

use std::fs::File;
use std::io::{self, BufWriter};
use std::sync::atomic::Ordering::SeqCst;

use common::error::{Error, Result};
use common::ids::{Minute, Owner, Pid};
use common::journal::spool::Spool;
use common::region::Region;
use common::sys::{file, scheduling};
use common::txn::Seat;
use common::wire::control::{Checkpointed, Order, Report};

use crate::attachment::{Attachment, Word};

pub mod capture;

pub mod format;

pub mod store;

use capture::{Capture, Missed, Taken};
use format::{Head, Writer};
use store::Store;

/// Takes a checkpoint when it is told in which slot, and leaves.
///
/// # Errors
/// Where the channel or the region cannot be used.
pub fn run() -> Result<()> {
    common::logging::init("checkpoint");
    let Some(attachment) = Attachment::receive()? else { return Ok(()) };
    scheduling::raise_priority();
    common::sys::process::shed_privileges();
    if !attachment.report(&Report::Ready)? {
        return Ok(());
    }
    let owner = match attachment.listen(None)? {
        Word::Order(Order::Checkpoint(owner)) => owner,
        Word::Order(other) => return Err(Error::failure(format!("an order not for it: {other:?}"))),
        Word::Tidings(_) | Word::Silence | Word::Farewell => return Ok(()),
    };
    let region = attachment.region();
    let Some(seat) = Seat::take(region, owner) else { return Ok(()) };
    seat.slot().pid.store(std::process::id(), SeqCst);
    seat.slot().set_doing(b"taking a checkpoint");
    let report = match take(region, attachment.spool(), owner) {
        Ok(checkpointed) => Report::Checkpointed(checkpointed),
        Err(why) => Report::Failed(why),
    };
    seat.leave();
    attachment.report(&report).map(drop)
}

/// Takes a checkpoint of `region` into the spool for the owner of a slot. On an error those that there are stay.
///
/// # Errors
/// A sentence.
pub fn take(region: &Region, spool: &Spool, owner: Owner) -> std::result::Result<Checkpointed, String> {
    let store = Store::open_or_create(spool).map_err(|error| explain("open SPOOL/checkpoint", &error))?;
    let written = write(region, spool, &store, owner);
    written.inspect_err(|_| store.abandon())
}

fn write(
    region: &Region,
    spool: &Spool,
    store: &Store,
    owner: Owner,
) -> std::result::Result<Checkpointed, String> {
    let writing = |error: io::Error| explain("write", &error);
    let (numbers, highest) = store.numbers().map_err(writing)?;
    let file = store.begin().map_err(writing)?;
    reserve(&file, region, store, &numbers).map_err(writing)?;
    let (taken, bytes) = fill(region, &file, owner)?;
    file.set_len(bytes).map_err(writing)?;
    sync_journal(region, spool).map_err(|error| explain("sync the journal for", &error))?;
    let number = highest + 1;
    store.publish(&file, number).map_err(writing)?;
    // It is on the disk, and would be gone back to: what is left to do the next one does.
    if let Err(error) = store.settle().and_then(|covered| remove_shipped(spool, covered)) {
        log::warn!(
            "checkpoint {number} is on the disk, but what it makes superfluous cannot be removed: {error}"
        );
    }
    let Taken { moment, pause, copied, in_vain } = taken;
    let pause_ns = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
    let history = &region.header().history;
    history.taken_ns.store(moment.taken_ns, SeqCst);
    history.bytes.store(bytes, SeqCst);
    history.pause_ns.store(pause_ns, SeqCst);
    history.number.store(number, SeqCst);
    Ok(Checkpointed { number, bytes, pause_us: pause_ns / 1000, copied: copied as u64, in_vain })
}

fn explain(doing: &str, error: &io::Error) -> String {
    let (what, kept) = ("the checkpoint", "those taken before stay, and it is tried again");
    match error.raw_os_error() {
        Some(nix::libc::ENOSPC | nix::libc::EDQUOT) => {
            format!("there is no space in the spool for {what} ({error}): {kept}; free some")
        }
        _ => format!("cannot {doing} {what}: {error}: {kept}"),
    }
}

/// A full disk is met before anything is written to it: the journal may need what is left. The next checkpoint is hardly
/// larger than the last one.
fn reserve(file: &File, region: &Region, store: &Store, numbers: &[u64]) -> io::Result<()> {
    let last = match numbers.last() {
        Some(number) => store.read(*number)?.metadata()?.len(),
        None => common::heap::Usage::of(region).used,
    };
    if last == 0 { Ok(()) } else { file::reserve(file, 0, last) }
}

fn fill(region: &Region, file: &File, owner: Owner) -> std::result::Result<(Taken, u64), String> {
    let writing = |error: io::Error| explain("write", &error);
    let head = Head {
        length: region.geometry().length,
        epoch: region.epoch(),
        seed: region.seed(),
        life: region.header().supervision.life.load(SeqCst),
    };
    let mut writer = Writer::new(BufWriter::with_capacity(1 << 20, file), &head).map_err(writing)?;
    let taken = Capture::new(region, owner).take(&mut writer).map_err(|missed| match missed {
        Missed::Busy(owners) => still_at_work(region, &owners),
        Missed::Io(error) => writing(error),
    })?;
    let (_, bytes) = writer.finish(&taken.moment).map_err(writing)?;
    Ok((taken, bytes))
}

/// So many are named who keep a checkpoint from being taken.
const NAMED: usize = 3;

/// A stopped process, or a slow disk, or a debugger: whoever looks for the cause is told where.
fn still_at_work(region: &Region, owners: &[Owner]) -> String {
    let name = |owner: &Owner| {
        let slot = region.slot(owner.slot);
        let (pid, doing) = slot.map_or((Pid(0), String::new()), |slot| (slot.pid(), slot.doing()));
        let at = if doing.is_empty() { String::new() } else { format!(", at: {doing}") };
        format!("process {pid} ({owner}{at})")
    };
    let named: Vec<_> = owners.iter().take(NAMED).map(name).collect();
    let more = owners.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "at no time was nobody inside a transaction; inside one for too long: {}{more}; it is tried again",
        if named.is_empty() { "nobody in particular".to_owned() } else { named.join(", ") }
    )
}

/// Every record that the checkpoint counts is on the disk before it: those of sealed minutes are already.
fn sync_journal(region: &Region, spool: &Spool) -> io::Result<()> {
    for claims in region.header().journal.ring_claims().into_iter().flatten() {
        match spool.open_minute(claims.minute) {
            // Sealed and shipped, or somebody took it away.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            file => file?.sync_data()?,
        }
    }
    // The names of the minutes' files, and of the directory that the checkpoint stands in.
    spool.sync()
}

/// Shipped minutes that both checkpoints cover are not needed any more.
fn remove_shipped(spool: &Spool, covered: Minute) -> io::Result<()> {
    for (minute, _) in spool.shipped()?.into_iter().filter(|(minute, _)| *minute < covered) {
        spool.remove_shipped(minute)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
