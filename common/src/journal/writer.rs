//! Appending: any number of processes, one file, no lock, and a full disk met before anything is promised.

use std::fs::File;
use std::io;
use std::sync::atomic::Ordering::{Acquire, SeqCst};

use crate::ids::{Minute, Owner, Pid};
use crate::journal::intent::blank;
use crate::journal::record::{Record, RecordId};
use crate::journal::room;
use crate::journal::spool::Spool;
use crate::journal::{OpenMinute, Tagged};
use crate::layout::{Intent, JournalState, MinuteState};
use crate::limits::{JOURNAL_RING, MAX_MINUTE_FILE, MAX_RECORD, RESERVE_STEP};
use crate::region::Region;
use crate::sys::{file, process};
use crate::txn::Transaction;
use crate::wire::control::Sync;

/// How often a writer looks for an open minute before it gives up; each round is another's progress.
const ROUNDS: usize = 1000;

/// A buffer for a record longer than this is given back.
const LONG_LINE: usize = 16 * 1024;

/// Appends records for one owner.
#[derive(Debug)]
pub struct Writer {
    spool: Spool,
    sync: Sync,
    pid: Pid,
    line: Vec<u8>,
    open: Option<(Minute, File)>,
}

/// Why a record could not be appended. Nothing of it is visible.
#[derive(Debug)]
pub enum AppendError {
    /// There is no space for it, or the file cannot be written; a sentence.
    Full(String),
    /// It would be longer than a record may be, which is [`MAX_RECORD`].
    TooLong,
    /// The region's journal state was changed by somebody else.
    Disturbed,
}

impl std::fmt::Display for AppendError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Full(why) => f.write_str(why),
            Self::TooLong => write!(f, "a record of the journal has at most {MAX_RECORD} bytes"),
            Self::Disturbed => f.write_str("the journal's state was changed by somebody else"),
        }
    }
}

impl std::error::Error for AppendError {}

pub(super) fn failed(doing: &str, error: &io::Error) -> AppendError {
    AppendError::Full(format!("cannot {doing} the journal: {error}"))
}

/// Whether a record of so many bytes is one.
pub(super) fn check_length(bytes: usize) -> Result<(), AppendError> {
    if bytes <= MAX_RECORD { Ok(()) } else { Err(AppendError::TooLong) }
}

impl Writer {
    /// A writer for this process.
    pub fn new(spool: Spool, sync: Sync) -> Self {
        Self { spool, sync, pid: Pid::current(), line: Vec::with_capacity(512), open: None }
    }

    /// Writes a record, as the last step of `transaction` before its commit. The intent stays in force until
    /// [`Writer::settle`]: commit first, then settle.
    ///
    /// # Errors
    /// [`AppendError`]: the intent is cleared, nothing is visible, and the transaction should be dropped.
    pub fn append(
        &mut self,
        transaction: &Transaction<'_, '_>,
        user: &str,
        message: &str,
    ) -> Result<(), AppendError> {
        let (region, owner) = (transaction.region(), transaction.owner());
        let intent = &transaction.slot().intent;
        check_length(user.len().saturating_add(message.len()))?;
        self.encode(region, owner, intent.next_seq(), user, message);
        // Before it is announced: repair takes an intent that says more for damage.
        let written = check_length(self.line.len());
        let written = written.and_then(|()| self.write(&region.header().journal, intent));
        if written.is_err() {
            intent.clear();
            self.shrink();
        }
        written
    }

    /// After the commit: the record is nobody's intent any more and, with `--sync always`, on the disk.
    ///
    /// # Errors
    /// What fdatasync reports: the record stands, but must not be acknowledged.
    pub fn settle(&mut self, intent: &Intent) -> Result<(), AppendError> {
        intent.clear();
        self.shrink();
        match &self.open {
            Some((_, file)) if self.sync == Sync::Always => {
                file.sync_data().map_err(|error| failed("sync", &error))
            }
            _ => Ok(()),
        }
    }

    /// Closes a minute's file that is sealed: whoever ships it removes it, and its space is free when nobody has it open.
    /// It costs nothing where there is none.
    pub fn let_go_of_sealed(&mut self, journal: &JournalState) {
        if self.open.as_ref().is_some_and(|(minute, _)| *minute <= journal.sealed_minute()) {
            self.open = None;
        }
    }

    /// One long message does not cost a thousand workers its memory for ever.
    fn shrink(&mut self) {
        if self.line.capacity() > LONG_LINE {
            self.line = Vec::new();
        }
    }

    fn encode(&mut self, region: &Region, owner: Owner, seq: u64, user: &str, message: &str) {
        let id = RecordId { epoch: region.epoch(), owner, seq };
        Record { id, time_ns: process::now_ns(), pid: self.pid, user, message }.encode(&mut self.line);
    }

    fn write(&mut self, journal: &JournalState, intent: &Intent) -> Result<(), AppendError> {
        let len = self.line.len() as u64;
        let minute = self.announce(journal, intent, len)?;
        let Some((_, file)) = &self.open else { return Err(AppendError::Disturbed) };
        let offset = claim(journal, file, minute, len)?;
        intent.place(offset);
        if let Err(error) = file::write_whole_at(file, &self.line, offset) {
            // Should the blanks not go in either, sealing finds the hole behind what was written and blanks both.
            let _ = blank(file, offset, len);
            return Err(failed("write", &error));
        }
        Ok(())
    }

    /// Finds the open minute, opening the next one where it is time to, and announces the intent there.
    fn announce(&mut self, journal: &JournalState, intent: &Intent, len: u64) -> Result<Minute, AppendError> {
        for _ in 0..ROUNDS {
            let open = journal.open_minute();
            let due = Minute::now().max(journal.sealed_minute().next());
            if !(open.minute.is_possible() && due.is_possible()) {
                return Err(AppendError::Disturbed);
            }
            let stale = open.closed || due > open.minute;
            if stale && self.roll_over(journal, intent, open, due, len)? {
                continue;
            }
            intent.announce(open.minute, len);
            if journal.open_minute() == open && self.hold_file(journal, open)? {
                return Ok(open.minute);
            }
        }
        Err(AppendError::Disturbed)
    }

    /// Opens another minute. False where the open one is to be kept because too many are unsealed.
    fn roll_over(
        &mut self,
        journal: &JournalState,
        intent: &Intent,
        open: OpenMinute,
        due: Minute,
        len: u64,
    ) -> Result<bool, AppendError> {
        let first = if open.closed { due.max(open.minute.next()) } else { due };
        // With every place taken there may be one whose opener died before it was open, while the clock went on.
        let begun = journal.ring_claims().into_iter().flatten().map(|claims| claims.minute);
        let begun = begun.filter(|minute| *minute > open.minute && *minute < first);
        let ahead = (0..JOURNAL_RING as u64).map(|ahead| Minute(first.0.saturating_add(ahead)));
        for minute in ahead.chain(begun) {
            // Announced before anything of it exists, so that the keeper does not clear it away meanwhile.
            intent.announce(minute, len);
            if journal.sealed_minute() >= minute || !journal.entry(minute).may_become(minute) {
                continue;
            }
            if !self.create_for_us(journal, minute).map_err(|error| failed("open", &error))? {
                continue;
            }
            if self.sync == Sync::Always {
                self.spool.sync().map_err(|error| failed("sync", &error))?;
            }
            if journal.entry(minute).prepare(minute) {
                let next = OpenMinute { minute, closed: false };
                let _ = journal.open.compare_exchange(open.word(), next.word(), SeqCst, SeqCst);
                return Ok(true);
            }
        }
        if open.closed {
            return Err(AppendError::Full("too many minutes of the journal wait to be sealed".to_owned()));
        }
        Ok(false)
    }

    /// Creates a minute's file, unless another program has its lock or its file, or there was one that has been dealt with:
    /// its name would be needed once more.
    fn create_for_us(&self, journal: &JournalState, minute: Minute) -> io::Result<bool> {
        // Before our lock is there: with it the keeper would take the file for ours, and mend it. In this order: what is being
        // delivered now is met under the one name or the other.
        if self.is_anothers(journal, minute)?
            || self.spool.is_dealt_with(minute)?
            || !self.spool.create_minute(minute)?
        {
            return Ok(false);
        }
        if self.is_anothers(journal, minute)? {
            self.spool.remove_lock(minute)?;
            return Ok(false);
        }
        // Not there any more: the keeper has cleared it away, because it is sealed already.
        Ok(self.spool.size_of_minute(minute)?.is_some())
    }

    /// Whether something stands in a minute's file that this region's writers did not write. They prepare the ring's
    /// entry before they write, so it is asked last.
    fn is_anothers(&self, journal: &JournalState, minute: Minute) -> io::Result<bool> {
        let holds_something = self.spool.size_of_minute(minute)?.is_some_and(|size| size > 0);
        Ok(holds_something && journal.entry(minute).tail.load(SeqCst) == 0)
    }

    /// Has the minute's file open. False where it is gone: the minute is closed then, and another one opened.
    fn hold_file(&mut self, journal: &JournalState, open: OpenMinute) -> Result<bool, AppendError> {
        if self.open.as_ref().is_some_and(|(minute, _)| *minute == open.minute) {
            return Ok(true);
        }
        match self.spool.open_minute(open.minute) {
            Ok(file) => self.open = Some((open.minute, file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                journal.close(open);
                return Ok(false);
            }
            Err(error) => return Err(failed("open", &error)),
        }
        Ok(true)
    }
}

impl MinuteState {
    fn may_become(&self, minute: Minute) -> bool {
        let word = self.tail.load(SeqCst);
        word == 0 || Tagged::from_word(word).offset_in(minute).is_some()
    }

    fn reserved_in(&self, minute: Minute) -> (u64, u64) {
        let word = self.reserved.load(Acquire);
        (word, Tagged::from_word(word).offset_in(minute).unwrap_or(0))
    }
}

/// Claims `len` bytes of a minute's file. The claim never exceeds what is reserved on the disk: reserving comes
/// first, and one compare-and-swap claims only if the tail is still where the reservation was checked for.
fn claim(journal: &JournalState, file: &File, minute: Minute, len: u64) -> Result<u64, AppendError> {
    let entry = journal.entry(minute);
    loop {
        let tail = entry.tail.load(Acquire);
        let Some(offset) = Tagged::from_word(tail).offset_in(minute) else {
            return Err(AppendError::Disturbed);
        };
        let end = offset + len;
        if end >= MAX_MINUTE_FILE {
            return Err(AppendError::Full("the minute's file has reached its largest size".to_owned()));
        }
        if end > entry.reserved_in(minute).1 {
            reserve_up_to(journal, file, minute, end)?;
            continue;
        }
        let next = Tagged::new(minute, end).word();
        if entry.tail.compare_exchange_weak(tail, next, SeqCst, Acquire).is_ok() {
            return Ok(offset);
        }
    }
}

/// Reserves disk space up to at least `end`: a whole step where there is room, less where there is not.
fn reserve_up_to(journal: &JournalState, file: &File, minute: Minute, end: u64) -> Result<(), AppendError> {
    let entry = journal.entry(minute);
    let (word, reserved) = entry.reserved_in(minute);
    if reserved >= end {
        return Ok(());
    }
    let mut refusal = AppendError::Disturbed;
    for step in [RESERVE_STEP, RESERVE_STEP / 16, 1] {
        let goal = end.max(reserved + step);
        let limit = journal.limit.load(SeqCst);
        let used = || Ok(journal.closed_bytes.load(SeqCst).saturating_add(journal.open_bytes().1));
        let outcome = room::check(limit, used, file, goal - reserved).and_then(|()| {
            file::reserve(file, reserved, goal - reserved)
                .map_err(|error| failed("reserve space for", &error))
        });
        match outcome {
            Err(error) => refusal = error,
            Ok(()) => {
                let next = Tagged::new(minute, goal).word();
                let _ = entry.reserved.compare_exchange(word, next, SeqCst, SeqCst);
                return Ok(());
            }
        }
    }
    Err(refusal)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::ids::{Generation, SlotIndex};
    use crate::slots::{Counter, owner};
    use crate::txn::Seat;

    struct Scene {
        directory: tempfile::TempDir,
        region: Region,
    }

    impl Scene {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            drop(Spool::open_or_create(directory.path()).unwrap().take().unwrap());
            let region = Region::create(&tempfile::tempfile().unwrap(), 1 << 20).unwrap();
            let closed = OpenMinute { minute: Minute(0), closed: true };
            region.header().journal.open.store(closed.word(), SeqCst);
            Self { directory, region }
        }

        fn seat(&self, slot: u32) -> Seat<'_> {
            let owner = owner(SlotIndex(slot), Generation(1));
            self.region.slot(owner.slot).unwrap().reserve(owner.generation, 1);
            Seat::take(&self.region, owner).unwrap()
        }

        fn writer(&self) -> Writer {
            Writer::new(Spool::open_or_create(self.directory.path()).unwrap(), Sync::Never)
        }

        fn journal(&self) -> &JournalState {
            &self.region.header().journal
        }

        fn lines(&self) -> Vec<String> {
            let spool = Spool::open_or_create(self.directory.path()).unwrap();
            let mut lines = Vec::new();
            for file in spool.minutes().unwrap() {
                let path = self.directory.path().join(crate::journal::spool::data_name(file.minute));
                lines.extend(std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned));
            }
            lines
        }
    }

    fn record(seat: &mut Seat<'_>, writer: &mut Writer, message: &str) -> Result<(), AppendError> {
        let intent = &seat.slot().intent;
        let mut transaction = seat.begin().unwrap();
        transaction.add(Counter::Messages, 1).unwrap();
        writer.append(&transaction, "u", message)?;
        transaction.commit().unwrap();
        writer.settle(intent)
    }

    #[test]
    fn records_of_several_writers_stand_in_one_file() {
        let scene = Scene::new();
        let mut seats: Vec<_> = (0..4).map(|slot| (scene.seat(slot), scene.writer())).collect();
        for round in 0..50 {
            for (seat, writer) in &mut seats {
                record(seat, writer, &format!("message {round}")).unwrap();
            }
        }
        assert_eq!(scene.lines().len(), 200);
        assert_eq!(scene.region.totals().messages, 200);
        assert!(scene.region.slots().all(|(_, slot)| slot.holds_nothing()));
    }

    #[test]
    fn a_full_spool_refuses_and_leaves_nothing() {
        let scene = Scene::new();
        scene.journal().limit.store(4096, Relaxed);
        let (mut seat, mut writer) = (scene.seat(0), scene.writer());
        let mut recorded = 0;
        while record(&mut seat, &mut writer, "some text").is_ok() {
            recorded += 1;
        }
        assert!(recorded > 10, "{recorded}");
        assert_eq!(scene.lines().len(), recorded);
        assert_eq!(scene.region.totals().messages, recorded as u64);
        assert!(seat.slot().holds_nothing());
        scene.journal().limit.store(8192, Relaxed);
        record(&mut seat, &mut writer, "there is room again").unwrap();
    }

    #[test]
    fn a_record_that_is_too_long_is_refused_before_anything_is_announced() {
        let scene = Scene::new();
        let (mut seat, mut writer) = (scene.seat(0), scene.writer());
        record(&mut seat, &mut writer, "text").unwrap();
        // With the fields around it too long, escaped too long, and too long in any case.
        for message in
            ["x".repeat(MAX_RECORD - 50), "\u{1}".repeat(MAX_RECORD / 6), "x".repeat(2 * MAX_RECORD)]
        {
            let intent = &seat.slot().intent;
            let mut transaction = seat.begin().unwrap();
            transaction.add(Counter::Messages, 1).unwrap();
            assert!(matches!(writer.append(&transaction, "u", &message), Err(AppendError::TooLong)));
            assert!(intent.len.load(Relaxed) <= 1024, "it was not announced");
            drop(transaction);
            assert!(seat.slot().holds_nothing() && writer.line.capacity() <= LONG_LINE);
        }
        record(&mut seat, &mut writer, &"x".repeat(MAX_RECORD - 200)).unwrap();
        assert_eq!((scene.lines().len(), scene.region.totals().messages), (2, 2));
    }

    #[test]
    fn a_closed_minute_takes_nothing_and_a_sealed_one_is_not_reopened() {
        let scene = Scene::new();
        let (mut seat, mut writer) = (scene.seat(0), scene.writer());
        record(&mut seat, &mut writer, "one").unwrap();
        let first = scene.journal().open_minute();
        assert!(scene.journal().close(first));
        record(&mut seat, &mut writer, "two").unwrap();
        let second = scene.journal().open_minute();
        assert!(second.minute > first.minute);
        assert!(scene.journal().close(second));
        scene.journal().sealed.store(second.minute.0 + 40, SeqCst);
        scene.journal().release_sealed_entries();
        record(&mut seat, &mut writer, "three").unwrap();
        assert_eq!(scene.journal().open_minute().minute.0, second.minute.0 + 41);
        writer.let_go_of_sealed(scene.journal());
        assert!(writer.open.is_some(), "it is not sealed");
        scene.journal().sealed.store(second.minute.0 + 41, SeqCst);
        writer.let_go_of_sealed(scene.journal());
        assert!(writer.open.is_none());
    }

    #[test]
    fn with_too_many_unsealed_minutes_the_open_one_goes_on() {
        let scene = Scene::new();
        let (mut seat, mut writer) = (scene.seat(0), scene.writer());
        for _ in 0..JOURNAL_RING {
            record(&mut seat, &mut writer, "text").unwrap();
            assert!(scene.journal().close(scene.journal().open_minute()));
        }
        assert!(matches!(record(&mut seat, &mut writer, "text"), Err(AppendError::Full(_))));
        assert!(seat.slot().holds_nothing());
    }

    #[test]
    fn a_minute_with_anothers_file_or_lock_is_passed_over() {
        use crate::journal::spool::{data_name, lock_name};
        let scene = Scene::new();
        let first = Minute::now();
        // A minute may pass meanwhile, so there is one of each kind at the next as well.
        for (ahead, name) in [data_name, data_name, lock_name, lock_name].into_iter().enumerate() {
            let path = scene.directory.path().join(name(Minute(first.0 + ahead as u64)));
            std::fs::write(path, "another's").unwrap();
        }
        let mut seat = scene.seat(0);
        record(&mut seat, &mut scene.writer(), "one").unwrap();
        assert_eq!(scene.journal().open_minute().minute, Minute(first.0 + 4));
        let found = std::fs::read(scene.directory.path().join(data_name(first))).unwrap();
        assert_eq!(found, b"another's");
        // No lock of ours beside its files, which the keeper would then take for ours and mend; no file behind its locks.
        let stands = |name: String| scene.directory.path().join(name).exists();
        assert!(!stands(lock_name(first)) && !stands(lock_name(first.next())));
        assert!(!stands(data_name(Minute(first.0 + 2))) && !stands(data_name(Minute(first.0 + 3))));
    }

    #[test]
    fn a_minute_that_was_delivered_or_refused_is_passed_over() {
        use crate::journal::names::{Kind, name};
        let scene = Scene::new();
        let first = Minute::now();
        let kinds = [Kind::Sent, Kind::Sent, Kind::Refused, Kind::Refused];
        for (ahead, kind) in (0..).zip(kinds) {
            let path = scene.directory.path().join(name(Minute(first.0 + ahead), kind));
            std::fs::write(path, "dealt with").unwrap();
        }
        record(&mut scene.seat(0), &mut scene.writer(), "one").unwrap();
        assert_eq!(scene.journal().open_minute().minute, Minute(first.0 + 4));
        let spool = Spool::open_or_create(scene.directory.path()).unwrap();
        assert_eq!(spool.minutes().unwrap().len(), 1, "nothing of theirs was made");
    }

    #[test]
    fn a_file_that_was_taken_away_is_not_written_any_more() {
        let scene = Scene::new();
        let (mut seat, mut writer) = (scene.seat(0), scene.writer());
        record(&mut seat, &mut writer, "one").unwrap();
        let open = scene.journal().open_minute();
        Spool::open_or_create(scene.directory.path()).unwrap().remove_minute(open.minute).unwrap();
        record(&mut scene.seat(1), &mut scene.writer(), "two").unwrap();
        assert!(scene.journal().open_minute().minute > open.minute);
        assert_eq!(scene.lines().len(), 1);
    }
}
