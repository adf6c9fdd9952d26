//! The disk space of a new region, which the kernel gives page by page: an eighth of the time that a thousand workers take to
//! start. So a thread waits for it, the supervisor's only second one, while the first processes are made. It touches
//! nothing but the file and the bell, takes no lock, and no signal.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::JoinHandle;

use common::error::{Context, Error, Result};
use common::region;
use common::sys::signal;

use crate::rundir::RegionFile;

/// A reservation under way.
#[derive(Debug)]
pub struct Reservation {
    thread: JoinHandle<Result<()>>,
    ended: Arc<AtomicBool>,
}

impl Reservation {
    /// Reserves what an incomplete region lacks, and rings `bell` when that has come to its end. `None` where there is nothing
    /// to do any more.
    ///
    /// # Errors
    /// No thread to be had, and no space; files that cannot be shared.
    pub fn begin(region: &RegionFile, bell: &File) -> Result<Option<Self>> {
        let contents = region.unverified.contents();
        if !contents.is_incomplete() {
            return Ok(None);
        }
        let length = contents.geometry().length;
        let begun = Self::begin_with(&region.file, length, bell);
        if let Err(error) = &begun {
            log::info!("the region's space is reserved before anything else: {error}");
            region::reserve_all(&region.file, length)?;
            contents.complete();
        }
        Ok(begun.ok())
    }

    fn begin_with(file: &File, length: u64, bell: &File) -> Result<Self> {
        let failing = || "no thread can be had for it".to_owned();
        let (file, mut bell) = (file.try_clone().context(failing)?, bell.try_clone().context(failing)?);
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let reserve = move || {
            let reserved = region::reserve_all(&file, length);
            end.store(true, SeqCst);
            // A bell that cannot be rung is one that is rung already.
            let _ = bell.write(&1_u64.to_ne_bytes());
            reserved
        };
        // The thread inherits this.
        let blocked = signal::block_all().context(failing)?;
        let thread = std::thread::Builder::new().name("reservation".to_owned()).spawn(reserve);
        signal::set_blocked(&blocked).context(failing)?;
        Ok(Self { thread: thread.context(failing)?, ended })
    }

    /// Whether it has come to its end.
    pub fn has_ended(&self) -> bool {
        self.ended.load(SeqCst)
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// No space.
    pub fn end(self) -> Result<()> {
        self.thread.join().unwrap_or_else(|_| Err(Error::failure("the region's space could not be reserved")))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::MetadataExt as _;

    use common::region::{Region, UnverifiedRegion};
    use nix::sys::eventfd::EventFd;

    use super::*;

    #[test]
    fn a_region_that_has_begun_is_given_all_of_its_space() {
        let (file, length) = (tempfile::tempfile_in("/dev/shm").unwrap(), 16 << 20);
        let region = Region::begin(&file, length).unwrap();
        assert!(region.is_incomplete());
        assert!(file.metadata().unwrap().blocks() * 512 < length, "nothing is left to do");
        let mut bell = File::from(OwnedFd::from(EventFd::new().unwrap()));
        let unverified = UnverifiedRegion::open(&file).unwrap();
        let file = RegionFile { file, unverified };
        let reservation = Reservation::begin(&file, &bell).unwrap().unwrap();
        bell.read_exact(&mut [0; 8]).unwrap();
        assert!(reservation.has_ended());
        reservation.end().unwrap();
        assert_eq!(file.file.metadata().unwrap().blocks() * 512, length);
        region.complete();
        assert!(Reservation::begin(&file, &bell).unwrap().is_none());
    }

    #[test]
    fn no_space_is_an_error_at_the_end() {
        let file = File::open("/dev/null").unwrap();
        let bell = File::from(OwnedFd::from(EventFd::new().unwrap()));
        let error = Reservation::begin_with(&file, 1 << 20, &bell).unwrap().end().unwrap_err();
        assert!(error.to_string().contains("cannot reserve 1048576 bytes"), "{error}");
    }
}
