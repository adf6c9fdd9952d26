//! What is in the spool.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::fcntl::OFlag;

use super::{Entry, MinuteFile, Spool};
use crate::ids::Minute;
use crate::journal::names::{self, Kind, shipped_name};

impl Spool {
    /// The minute files and the minutes with a lock alone, in ascending order.
    ///
    /// # Errors
    /// What reading the directory reports.
    pub fn minutes(&self) -> io::Result<Vec<MinuteFile>> {
        let mut found = std::collections::BTreeMap::<Minute, MinuteFile>::new();
        for entry in self.entries()? {
            let Entry { minute, kind, entry } = entry?;
            if !matches!(kind, Kind::Data | Kind::Lock) {
                continue;
            }
            let known = found.entry(minute).or_insert(MinuteFile { minute, size: 0, locked: false });
            if kind == Kind::Lock {
                known.locked = true;
            } else {
                // A file may be gone again: the shipper removes what it delivered.
                known.size = entry.metadata().map_or(0, |metadata| metadata.size());
            }
        }
        Ok(found.into_values().collect())
    }

    /// The minutes that were delivered and are kept until checkpoints cover them, in ascending order, and their bytes.
    ///
    /// # Errors
    /// What reading the directory reports.
    pub fn shipped(&self) -> io::Result<Vec<(Minute, u64)>> {
        let mut found = Vec::new();
        for entry in self.entries()? {
            let Entry { minute, kind, entry } = entry?;
            if kind == Kind::Sent {
                found.push((minute, entry.metadata().map_or(0, |metadata| metadata.size())));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Whether a minute of this name was delivered or refused, and what was in it is kept.
    ///
    /// # Errors
    /// What stat reports.
    pub fn is_dealt_with(&self, minute: Minute) -> io::Result<bool> {
        Ok(self.exists(&shipped_name(minute))? || self.exists(&names::name(minute, Kind::Refused))?)
    }

    /// The minutes that were delivered or refused, and are kept, in no order.
    ///
    /// # Errors
    /// What reading the directory reports.
    pub fn dealt_with(&self) -> io::Result<Vec<Minute>> {
        let mut found = Vec::new();
        for entry in self.entries()? {
            let Entry { minute, kind, .. } = entry?;
            if matches!(kind, Kind::Sent | Kind::Refused) {
                found.push(minute);
            }
        }
        Ok(found)
    }

    /// Opens a delivered minute for reading.
    ///
    /// # Errors
    /// What open reports.
    pub fn open_shipped(&self, minute: Minute) -> io::Result<File> {
        self.open(&shipped_name(minute), OFlag::O_RDONLY)
    }

    /// Removes a delivered minute.
    ///
    /// # Errors
    /// What unlink reports, besides that it is gone.
    pub fn remove_shipped(&self, minute: Minute) -> io::Result<()> {
        self.unlink(&shipped_name(minute))
    }

    /// What stands in the spool under a name of ours, in no order, one at a time: however much there is, it takes no
    /// memory.
    ///
    /// # Errors
    /// What reading the directory reports.
    pub fn entries(&self) -> io::Result<impl Iterator<Item = io::Result<Entry>> + use<>> {
        let directory = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.directory));
        Ok(std::fs::read_dir(directory)?.filter_map(|entry| match entry {
            Err(error) => Some(Err(error)),
            Ok(entry) => {
                let (minute, kind) = entry.file_name().to_str().and_then(names::read)?;
                Some(Ok(Entry { minute, kind, entry }))
            }
        }))
    }

    /// The minutes with a lock, in ascending order.
    ///
    /// # Errors
    /// What reading the directory reports.
    pub fn locked_minutes(&self) -> io::Result<Vec<Minute>> {
        let mut minutes = Vec::new();
        for entry in self.entries()? {
            let Entry { minute, kind, .. } = entry?;
            if kind == Kind::Lock {
                minutes.push(minute);
            }
        }
        minutes.sort_unstable();
        Ok(minutes)
    }

    /// Bytes that files of these kinds take up.
    ///
    /// # Errors
    /// What reading the directory reports.
    pub fn bytes_of(&self, kinds: &[Kind]) -> io::Result<u64> {
        self.entries()?.try_fold(0_u64, |sum, entry| {
            let Entry { kind, entry, .. } = entry?;
            let counts = kinds.contains(&kind);
            let size = if counts { entry.metadata().map_or(0, |metadata| metadata.size()) } else { 0 };
            Ok(sum.saturating_add(size))
        })
    }

    /// Bytes that delivered and refused files take up: they count like the journal.
    ///
    /// # Errors
    /// What reading the directory reports.
    pub fn kept_bytes(&self) -> io::Result<u64> {
        self.bytes_of(&[Kind::Refused, Kind::Sent])
    }
}
