//! `recovery repair`: the takeover of a region without a supervisor, for an operator. And what the operator's commands
//! share.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use common::error::{Context as _, Error, Result};
use common::journal::spool::{Spool, data_name};
use common::output::print;
use common::places;
use common::region::{Region, UnverifiedRegion};
use common::sys::file::{Lock, is_any_byte_locked, try_lock};

use crate::takeover::{Obstacle, TakenOver, take_over};
use crate::verify;

/// Opens a region's file, for reading or also for repair.
///
/// # Errors
/// A file that cannot be opened (exit 2).
pub fn open_region(path: &Path, writable: bool) -> Result<File> {
    // A FIFO must not be waited for.
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    let opened = File::options().read(true).write(writable).custom_flags(flags).open(path);
    opened.map_err(|error| {
        Error::usage(format!("cannot open {}: {error}; give the path of a region's file", path.display()))
    })
}

/// `recovery repair`: repairs every slot and says whether the region is sound now.
///
/// # Errors
/// A running instance (exit 3), wrong paths (exit 2), a region that cannot be repaired (exit 4).
pub fn run(path: &Path, spool_dir: &Path) -> Result<()> {
    let file = open_region(path, true)?;
    let _nobody_else = lock_run_directory(path)?;
    let region = UnverifiedRegion::open(&file)?;
    if region.lost_power()? {
        return Err(Error::region(
            "the region was in use when the machine went down, and its last changes may be lost; `recovery restore` goes back \
             to the newest checkpoint, as the next start does",
        ));
    }
    let spool = open_spool(spool_dir)?;
    let _writers = spool.take()?;
    let region = region.contents();
    check_spool(region, &spool, spool_dir)?;
    let TakenOver { repaired, dead, .. } = take_over(region, &spool, &[]).map_err(explain)?;
    let obituaries: String = dead.iter().map(|remains| format!("{remains}\n")).collect();
    let findings = verify::check(region);
    let lines: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
    print(&format!("repaired {repaired} slots\n{obituaries}{lines}"))?;
    if findings.is_empty() {
        print(&format!("{}\n", verify::summary(region)))
    } else {
        Err(verify::damaged(&findings))
    }
}

/// Where a region's file is.
pub(crate) fn directory_of(region: &Path) -> &Path {
    region.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// An instance and all its children hold a shared kernel lock on `alive` beside the region. Where there is no such
/// file no instance was ever here: the region is a copy.
pub(crate) fn lock_run_directory(region: &Path) -> Result<Option<File>> {
    let directory = directory_of(region);
    let path = directory.join(places::ALIVE);
    let alive = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        alive => alive.context(|| format!("cannot open {}", path.display()))?,
    };
    let locked = try_lock(&alive, Lock::Exclusive).context(|| format!("cannot lock {}", path.display()))?;
    if !locked {
        return Err(Error::already_running(format!(
            "an instance is running in {}, and repairs its region itself; stop it first",
            directory.display()
        )));
    }
    refuse_attached(directory)?;
    Ok(Some(alive))
}

/// Programs that are attached outlive their supervisor, and may be changing the region now.
fn refuse_attached(directory: &Path) -> Result<()> {
    let path = directory.join(places::CLIENTS);
    let clients = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        clients => clients.context(|| format!("cannot open {}", path.display()))?,
    };
    if is_any_byte_locked(&clients).context(|| format!("cannot examine {}", path.display()))? {
        return Err(Error::already_running(format!(
            "programs are attached to the region in {}, and may be changing it; end them first, or start an instance, \
             which repairs what is dead beside them",
            directory.display()
        )));
    }
    Ok(())
}

/// The spool must be there: with an empty one, every record in flight would be taken for missing.
pub(crate) fn open_spool(path: &Path) -> Result<Spool> {
    if !path.is_dir() {
        return Err(Error::usage(format!(
            "there is no spool at {}; give the one that the region was used with as --spool-dir",
            path.display()
        )));
    }
    Spool::open_or_create(path)
}

/// Whether the spool is the one that the region was used with: it has the files that are being written.
fn check_spool(region: &Region, spool: &Spool, path: &Path) -> Result<()> {
    for claims in region.header().journal.ring_claims().into_iter().flatten() {
        let missing = matches!(
            spool.open_minute(claims.minute), Err(error) if error.kind() == io::ErrorKind::NotFound
        );
        if missing && claims.tail > 0 && claims.minute > region.header().journal.sealed_minute() {
            return Err(Error::usage(format!(
                "{} has no {}, which the region was writing; give the spool that it was used with as --spool-dir",
                path.display(),
                data_name(claims.minute)
            )));
        }
    }
    Ok(())
}

fn explain(obstacle: Obstacle) -> Error {
    match obstacle {
        Obstacle::Refused(owner, why) => Error::region(format!(
            "{owner} cannot be repaired: {why}; `recovery restore` goes back to the newest checkpoint, as the next start does, \
             and keeps this region for inspection"
        )),
        Obstacle::Io(error) => Error::failure(format!("cannot read or write the spool: {error}; try again")),
        Obstacle::Spool(why) => Error::usage(why),
    }
}
