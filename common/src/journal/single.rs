//! The journal of a device: one writer, alone in its spool. It needs no region, since nobody else places records in
//! its files, and it seals its own minutes. What it leaves when it dies is mended by its successor, or by whoever finds
//! that its kernel lock is gone.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Result};
use crate::ids::{Generation, Minute, Owner, Pid, SlotIndex};
use crate::journal::names::{Kind, data_name};
use crate::journal::record::{Record, RecordId};
use crate::journal::room;
use crate::journal::seal::seal;
use crate::journal::spool::{Spool, Writers};
use crate::journal::writer::{AppendError, check_length, failed};
use crate::limits::{MAX_MINUTE_FILE, RESERVE_STEP};
use crate::sys::{file, process};

/// Names in a row that may be taken by other programs' files.
const ROUNDS: u64 = 1000;

/// A minute that is open for so long is over, also where the clock was set back.
const LONGEST_OPEN: Duration = Duration::from_secs(60);

/// How long a sum of the spool's files is good for: others only remove some.
const SUM_AGE: Duration = Duration::from_millis(250);

/// The only writer of a spool.
#[derive(Debug)]
pub struct SingleWriter {
    spool: Spool,
    _lock: File,
    epoch: u64,
    seq: u64,
    /// Whether what a predecessor left is sealed.
    ready: bool,
    sealed: Minute,
    limit: u64,
    line: Vec<u8>,
    open: Option<Open>,
    /// Bytes of all files in the spool, when that was, and bytes reserved since.
    sum: Option<(u64, Instant)>,
}

#[derive(Debug)]
struct Open {
    minute: Minute,
    since: Instant,
    file: File,
    tail: u64,
    reserved: u64,
    /// Its records are being counted: it takes no more, however often sealing has to be tried.
    closed: bool,
}

impl SingleWriter {
    /// Takes the spool, and seals what a dead predecessor left; where that cannot be done, each record tries it again and
    /// is refused. `limit` bounds the spool; 0 = by free space.
    ///
    /// # Errors
    /// Another device writes here (exit 3); the spool is a supervisor's (exit 2); what the file system reports.
    pub fn take(spool: Spool, limit: u64) -> Result<Self> {
        let spool = spool.of(Writers::Device);
        let instance = spool.seen_as(Writers::Instance).and_then(|spool| spool.has_writers());
        if instance.context(|| "cannot examine the spool".to_owned())? {
            return Err(Error::usage(
                "the spool belongs to a supervisor; ship it with --no-device, or choose another directory for the device",
            ));
        }
        let lock = spool.take_alone("another device writes to this spool; choose another directory")?;
        if let Err(error) = spool.prepare() {
            log::warn!("cannot set room aside for sealing: {error}; on a full disk it will have to wait");
        }
        let mut writer = Self {
            ready: false,
            sealed: Minute(0),
            epoch: process::random_word().context(|| "cannot get a random number".to_owned())?,
            spool,
            _lock: lock,
            seq: 0,
            limit,
            line: Vec::new(),
            open: None,
            sum: None,
        };
        if let Err(error) = writer.follow_predecessor() {
            log::warn!("cannot seal what the device before left: {error}; until it is, nothing is written");
        }
        Ok(writer)
    }

    /// Seals what a dead predecessor left, in order before anything of its own.
    fn follow_predecessor(&mut self) -> io::Result<()> {
        seal_leftovers(&self.spool)?;
        self.sealed = self.spool.read_sealed()?;
        self.ready = true;
        Ok(())
    }

    /// Records made so far.
    pub fn records(&self) -> u64 {
        self.seq
    }

    /// Appends a record.
    ///
    /// # Errors
    /// There is no room for it, it is too long, or the file cannot be written: nothing of it stays.
    pub fn append(&mut self, user: &str, message: &str) -> std::result::Result<RecordId, AppendError> {
        let owner = Owner { slot: SlotIndex(0), generation: Generation(0) };
        let id = RecordId { epoch: self.epoch, owner, seq: self.seq + 1 };
        let time_ns = process::now_ns();
        let mut line = std::mem::take(&mut self.line);
        Record { id, time_ns, pid: Pid::current(), user, message }.encode(&mut line);
        let written = check_length(line.len()).and_then(|()| self.place(&line));
        self.line = line;
        written?;
        self.seq += 1;
        Ok(id)
    }

    /// Seals the open minute if it is over, or in any case if that is wanted. False where there is none to seal.
    ///
    /// # Errors
    /// What the file system reports; it can be tried again.
    pub fn seal(&mut self, even_if_not_over: bool) -> io::Result<bool> {
        let Some(open) = &mut self.open else { return Ok(false) };
        if !even_if_not_over && !is_over(open) {
            return Ok(false);
        }
        open.closed = true;
        seal(&self.spool, open.minute)?;
        self.sealed = self.sealed.max(open.minute);
        self.open = None;
        self.sum = None;
        Ok(true)
    }

    fn place(&mut self, line: &[u8]) -> std::result::Result<(), AppendError> {
        if !self.ready {
            self.follow_predecessor().map_err(|error| failed("seal", &error))?;
        }
        self.seal(false).map_err(|error| failed("seal", &error))?;
        if self.open.is_none() {
            self.open = Some(self.open_minute()?);
        }
        self.reserve(line.len() as u64)?;
        let Some(open) = &mut self.open else { return Err(AppendError::Disturbed) };
        if let Err(error) = file::write_whole_at(&open.file, line, open.tail) {
            // Nobody else writes to the file. Should that fail too, the next record covers what stands there, or
            // sealing cuts it off.
            let _ = open.file.set_len(open.tail);
            open.reserved = open.tail;
            return Err(failed("write", &error));
        }
        open.tail += line.len() as u64;
        Ok(())
    }

    /// Opens the next minute whose name nobody has taken.
    fn open_minute(&self) -> std::result::Result<Open, AppendError> {
        let first = Minute::now().max(self.sealed.next());
        for ahead in 0..ROUNDS {
            let minute = Minute(first.0 + ahead);
            if self.is_taken(minute).map_err(|error| failed("open", &error))? {
                continue;
            }
            match self.create(minute) {
                Ok(Some(file)) => {
                    return Ok(Open {
                        minute,
                        since: Instant::now(),
                        file,
                        tail: 0,
                        reserved: 0,
                        closed: false,
                    });
                }
                Ok(None) => {}
                Err(error) => {
                    let _ = self.drop_lock_without_file(minute);
                    return Err(failed("open", &error));
                }
            }
        }
        Err(AppendError::Full("other programs' files have the names of the next minutes of".to_owned()))
    }

    /// Creates a minute's file; `None` where the lock is another program's.
    fn create(&self, minute: Minute) -> io::Result<Option<File>> {
        if !self.spool.create_minute(minute)? {
            return Ok(None);
        }
        self.spool.open_minute(minute).map(Some)
    }

    /// Where there was room for a lock and none for a file, the lock goes again.
    fn drop_lock_without_file(&self, minute: Minute) -> io::Result<()> {
        if self.spool.lock_is_ours(minute)? && self.spool.size_of_minute(minute)?.is_none() {
            self.spool.remove_lock(minute)?;
        }
        Ok(())
    }

    fn is_taken(&self, minute: Minute) -> io::Result<bool> {
        Ok(self.spool.exists(&data_name(minute))? || self.spool.is_dealt_with(minute)?)
    }

    /// Sees to it that the disk has room for so many bytes more, so that a full one is met before anything is written.
    fn reserve(&mut self, more: u64) -> std::result::Result<(), AppendError> {
        let Some(open) = &self.open else { return Err(AppendError::Disturbed) };
        let (reserved, end) = (open.reserved, open.tail + more);
        if end >= MAX_MINUTE_FILE {
            return Err(AppendError::Full("the minute's file has reached its largest size".to_owned()));
        }
        if end <= reserved {
            return Ok(());
        }
        let mut refusal = AppendError::Disturbed;
        for step in [RESERVE_STEP, RESERVE_STEP / 16, 1] {
            let goal = end.max(reserved + step);
            let grown = goal - reserved;
            let outcome = self.check_room(grown).and_then(|()| {
                let Some(open) = &mut self.open else { return Err(AppendError::Disturbed) };
                file::reserve(&open.file, reserved, grown)
                    .map_err(|error| failed("reserve space for", &error))?;
                open.reserved = goal;
                Ok(())
            });
            match outcome {
                Err(error) => refusal = error,
                Ok(()) => {
                    if let Some((sum, _)) = &mut self.sum {
                        *sum += grown;
                    }
                    return Ok(());
                }
            }
        }
        Err(refusal)
    }

    fn check_room(&mut self, more: u64) -> std::result::Result<(), AppendError> {
        let Self { spool, sum, open, limit, .. } = self;
        let reserved = open.as_ref().map_or(0, |open| open.reserved.saturating_sub(open.tail));
        let used = || match *sum {
            Some((sum, when)) if when.elapsed() < SUM_AGE => Ok(sum),
            _ => {
                let files = spool.bytes_of(&[Kind::Data, Kind::Refused, Kind::Sent])?;
                let all = files.saturating_add(reserved);
                *sum = Some((all, Instant::now()));
                Ok(all)
            }
        };
        room::check(*limit, used, spool.directory(), more)
    }
}

fn is_over(open: &Open) -> bool {
    open.closed || Minute::now() > open.minute || open.since.elapsed() >= LONGEST_OPEN
}

/// Seals, in ascending order, what is locked by writers that are gone. The caller holds their lock.
///
/// # Errors
/// What the file system reports.
pub fn seal_leftovers(spool: &Spool) -> io::Result<u64> {
    let mut sealed = 0;
    for minute in spool.locked_minutes()? {
        if spool.lock_is_ours(minute)? {
            seal(spool, minute)?;
            sealed += 1;
        }
    }
    Ok(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::spool::{data_path, lock_name};
    use crate::journal::{generated, tally};

    fn device(directory: &std::path::Path, limit: u64) -> SingleWriter {
        SingleWriter::take(Spool::open_or_create(directory).unwrap(), limit).unwrap()
    }

    fn records(directory: &std::path::Path) -> u64 {
        let spool = Spool::open_or_create(directory).unwrap();
        let files = spool.minutes().unwrap().into_iter();
        files
            .filter_map(|file| File::open(data_path(directory, file.minute)).ok())
            .map(|file| tally::count(&file, |_| {}).unwrap().own)
            .sum()
    }

    #[test]
    fn early_sealing_puts_later_records_under_the_next_name_and_all_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let mut device = device(directory.path(), 0);
        assert!(!device.seal(true).unwrap(), "an empty minute does not exist");
        let mut minutes = Vec::new();
        for round in 0..3 {
            for _ in 0..=round {
                device.append("device", "a reading").unwrap();
            }
            let minute = device.open.as_ref().unwrap().minute;
            assert!(directory.path().join(lock_name(minute)).exists());
            assert!(device.seal(true).unwrap());
            assert!(!directory.path().join(lock_name(minute)).exists());
            minutes.push(minute);
        }
        assert!(minutes.is_sorted_by(|one, other| one < other), "{minutes:?}");
        let spool = Spool::open_or_create(directory.path()).unwrap();
        let count = generated::read(&spool).unwrap().unwrap();
        assert_eq!((count.up_to, count.records), (minutes[2], 6));
        assert_eq!(records(directory.path()), 6);
    }

    #[test]
    fn a_dead_device_is_followed_by_another_that_seals_what_it_left() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = device(directory.path(), 0);
        first.append("device", "one").unwrap();
        let Open { minute, file, tail, .. } = first.open.take().unwrap();
        file::write_whole_at(&file, b"{\"id\":\"torn", tail).unwrap();
        drop(first);
        let mut second = device(directory.path(), 0);
        assert!(second.sealed >= minute);
        let id = second.append("device", "two").unwrap();
        assert!(second.open.as_ref().unwrap().minute > minute);
        assert_eq!(id.seq, 1);
        assert_eq!(records(directory.path()), 2);
        assert!(!std::fs::read_to_string(data_path(directory.path(), minute)).unwrap().contains("torn"));
    }

    #[test]
    fn a_supervisor_that_follows_a_dead_device_counts_what_that_left() {
        let directory = tempfile::tempdir().unwrap();
        let mut device = device(directory.path(), 0);
        device.append("device", "one").unwrap();
        let minute = device.open.as_ref().unwrap().minute;
        drop(device);
        let spool = Spool::open_or_create(directory.path()).unwrap();
        let _writers = spool.take().unwrap();
        assert!(!directory.path().join(lock_name(minute)).exists());
        let count = generated::read(&spool).unwrap().unwrap();
        assert_eq!((count.up_to, count.records), (minute, 1));
    }

    #[test]
    fn a_minute_that_could_not_be_sealed_takes_no_more_records() {
        let directory = tempfile::tempdir().unwrap();
        let mut device = device(directory.path(), 0);
        device.append("device", "one").unwrap();
        let in_the_way = directory.path().join(".sealed.next");
        std::fs::remove_file(&in_the_way).unwrap();
        std::fs::create_dir(&in_the_way).unwrap();
        assert!(device.seal(true).is_err());
        assert!(matches!(device.append("device", "two"), Err(AppendError::Full(_))));
        std::fs::remove_dir(&in_the_way).unwrap();
        device.append("device", "two").unwrap();
        assert!(device.seal(true).unwrap());
        let spool = Spool::open_or_create(directory.path()).unwrap();
        assert_eq!(generated::read(&spool).unwrap().unwrap().records, 2);
        assert_eq!(records(directory.path()), 2);
    }

    #[test]
    fn a_predecessors_minute_that_cannot_be_sealed_yet_keeps_nobody_from_starting() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = device(directory.path(), 0);
        first.append("device", "one").unwrap();
        drop(first);
        let in_the_way = directory.path().join(".sealed.next");
        std::fs::remove_file(&in_the_way).unwrap();
        std::fs::create_dir(&in_the_way).unwrap();
        let mut second = device(directory.path(), 0);
        assert!(matches!(second.append("device", "two"), Err(AppendError::Full(_))));
        std::fs::remove_dir(&in_the_way).unwrap();
        second.append("device", "two").unwrap();
        assert!(second.seal(true).unwrap());
        assert_eq!(records(directory.path()), 2);
    }

    #[test]
    fn one_device_at_a_time_and_none_beside_a_supervisor() {
        let directory = tempfile::tempdir().unwrap();
        let spool = || Spool::open_or_create(directory.path()).unwrap();
        let first = device(directory.path(), 0);
        assert!(spool().of(Writers::Device).take_over().unwrap().is_none());
        assert!(spool().take().unwrap_err().to_string().contains("device"));
        drop(first);
        assert!(spool().of(Writers::Device).take_over().unwrap().is_some());
        drop(spool().take().unwrap());
        let error = SingleWriter::take(spool(), 0).unwrap_err();
        assert!(error.to_string().contains("supervisor"), "{error}");
    }

    #[test]
    fn a_full_spool_refuses_leaves_nothing_and_reopens() {
        let directory = tempfile::tempdir().unwrap();
        let mut device = device(directory.path(), 8192);
        let mut recorded = 0;
        while device.append("device", "some text").is_ok() {
            recorded += 1;
        }
        assert!(recorded > 10, "{recorded}");
        device.seal(true).unwrap();
        assert_eq!(records(directory.path()), recorded);
        assert_eq!(device.records(), recorded);
        for file in device.spool.minutes().unwrap() {
            device.spool.remove_minute(file.minute).unwrap();
        }
        device.sum = None;
        device.append("device", "there is room again").unwrap();
    }

    #[test]
    fn other_programs_files_are_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let mut device = device(directory.path(), 0);
        let now = Minute::now();
        for ahead in 0..2 {
            std::fs::write(data_path(directory.path(), Minute(now.0 + ahead)), "another's").unwrap();
        }
        std::fs::write(directory.path().join(lock_name(Minute(now.0 + 2))), "").unwrap();
        device.append("device", "a reading").unwrap();
        assert_eq!(device.open.as_ref().unwrap().minute, Minute(now.0 + 3));
    }
}
