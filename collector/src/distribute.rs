//! The distributor: every interval it looks what is finished, has it sent, several files at a time, and takes away what
//! the server has taken. It decides alone; threads that send only send.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant, SystemTime};

use common::error::{Error, Result};
use common::ids::Minute;
use common::journal::single::seal_leftovers;
use common::journal::spool::{Spool, Writers};
use common::log_limit::LogLimit;
use crossbeam_channel::{Receiver, Sender, after, bounded, select};

use crate::backlog::Backlog;
use crate::content::{self, Content};
use crate::delivered::{self, Needed};
use crate::device::{Chance, Seal};
use crate::ledger::Ledger;
use crate::locks::{self, Standing};
use crate::sender::{Job, Report};

mod outcomes;

/// How long the device may take to seal a minute before the rest is shipped without it.
const SEAL_PATIENCE: Duration = Duration::from_secs(10);

/// The device's minutes are sealed before they are over where files are shipped more often than this.
const MINUTE: Duration = Duration::from_secs(60);

/// How often what the file system refused is tried again.
const DISK_PAUSE: Duration = Duration::from_secs(1);

/// How often a file is tried by who ships once and leaves.
const ATTEMPTS_ONCE: u32 = 5;

/// How often the same trouble is told.
const TOLD_AGAIN: Duration = Duration::from_secs(60);

/// What a distributor is connected to.
#[derive(Debug)]
pub struct Lines {
    /// Files to be sent.
    pub jobs: Sender<Job>,
    /// What came of them.
    pub reports: Receiver<Report>,
    /// The device of this process.
    pub device: Option<Sender<Seal>>,
    /// Closed when it is time to leave.
    pub stop: Receiver<()>,
    /// Whether what is finished is still shipped then.
    pub drains: Arc<AtomicBool>,
}

/// How a distributor works.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How often it looks for finished files.
    pub interval: Duration,
    /// Whether it leaves once all that is there was tried.
    pub once: bool,
    /// How many files are sent at a time.
    pub parallel: usize,
    /// How long it may go on shipping when it is to drain.
    pub drain: Duration,
}

/// The distributor.
#[derive(Debug)]
pub struct Distributor {
    spool: Spool,
    ledger: Ledger,
    backlog: Backlog,
    lines: Lines,
    pace: Pace,
    began: Instant,
    chance: Chance,
    /// Delivered, and not in the ledger yet because it could not be written.
    uncounted: Vec<(Minute, Content)>,
    trouble: Option<(String, Instant)>,
    failed_in_a_row: usize,
    failures: LogLimit,
    warned_of_dead_instance: bool,
}

impl Distributor {
    /// A distributor of a spool, which it ships alone.
    pub fn new(spool: Spool, ledger: Ledger, lines: Lines, pace: Pace) -> Self {
        Self {
            spool,
            ledger,
            backlog: Backlog::default(),
            lines,
            pace,
            began: Instant::now(),
            chance: Chance::new(),
            uncounted: Vec::new(),
            trouble: None,
            failed_in_a_row: 0,
            failures: LogLimit::default(),
            warned_of_dead_instance: false,
        }
    }

    /// Ships until it is told to stop, or once.
    ///
    /// # Errors
    /// Shipping once: what could not be delivered.
    pub fn work(mut self) -> Result<()> {
        loop {
            let next_pass = Instant::now() + self.pace.interval;
            self.begin_pass();
            loop {
                self.hand_out();
                if self.pace.once && self.is_done() {
                    return self.leave();
                }
                let wake = self.wake_at(next_pass).saturating_duration_since(Instant::now());
                select! {
                    recv(self.lines.stop) -> _ => {
                        self.drain();
                        return self.leave();
                    }
                    recv(self.lines.reports) -> report => match report {
                        Ok(report) => self.take(report),
                        Err(_) => return Err(Error::failure("nobody sends any more")),
                    },
                    recv(after(wake)) -> _ => {}
                }
                // The senders go on while the disk is waited for.
                self.hand_out();
                self.count();
                if !self.pace.once && Instant::now() >= next_pass {
                    break;
                }
            }
        }
    }

    fn wake_at(&self, next_pass: Instant) -> Instant {
        let soon = Instant::now() + DISK_PAUSE;
        let uncounted = (!self.uncounted.is_empty() || self.is_stuck()).then_some(soon);
        let once = self.pace.once.then_some(soon);
        // Whoever waits for a free sender is woken by its report.
        let retry = self.backlog.next_due().filter(|_| self.has_room() && !self.is_stuck());
        [Some(next_pass), uncounted, once, retry].into_iter().flatten().min().unwrap_or(next_pass)
    }

    fn has_room(&self) -> bool {
        self.backlog.in_flight() < self.pace.parallel
    }

    // ---- A pass --------------------------------------------------------------------------------------------------

    /// What cannot be done for one file keeps no other from being shipped.
    fn begin_pass(&mut self) {
        self.have_sealed();
        let mended = self.mend_what_the_dead_left();
        self.tell("what dead writers left cannot be sealed yet", mended);
        let finished = self.finish_what_was_counted();
        self.tell("files that are delivered cannot be removed yet", finished);
        let swept =
            Needed::by_checkpoints(&self.spool).and_then(|needed| delivered::sweep(&self.spool, needed));
        self.tell("files that no checkpoint needs cannot be removed yet", swept);
        let listed = self.backlog.list(&self.spool);
        self.tell("the spool cannot be looked through", listed);
    }

    fn tell(&mut self, what: &str, outcome: io::Result<()>) {
        if let Err(error) = outcome {
            self.warn(|| format!("{what}: {error}"));
        }
    }

    /// The device seals its minute, so that this pass can ship it.
    fn have_sealed(&self) {
        let Some(device) = &self.lines.device else { return };
        let (done, sealed) = bounded(1);
        let early = self.pace.interval < MINUTE;
        if device.send_timeout(Seal { early, done }, SEAL_PATIENCE).is_ok() {
            let _ = sealed.recv_timeout(SEAL_PATIENCE);
        }
    }

    /// A device that is dead seals nothing. A supervisor's journal is its next start's, which looks at it first.
    fn mend_what_the_dead_left(&mut self) -> io::Result<()> {
        if self.lines.device.is_none() {
            let device = self.spool.seen_as(Writers::Device)?;
            if let Some(_lock) = device.take_over()? {
                let sealed = seal_leftovers(&device)?;
                if sealed > 0 {
                    log::warn!("the device of this spool is gone; its last minute has been sealed for it");
                }
            }
        }
        if !self.warned_of_dead_instance && self.instance_left_something()? {
            self.warned_of_dead_instance = true;
            log::warn!(
                "the supervisor of this spool is gone; its open minute waits for its next start, or for `data_collector fsck`"
            );
        }
        Ok(())
    }

    fn instance_left_something(&self) -> io::Result<bool> {
        let instance = self.spool.seen_as(Writers::Instance)?;
        if !instance.has_writers()? {
            return Ok(false);
        }
        for minute in instance.locked_minutes()? {
            if instance.lock_is_ours(minute)? {
                return Ok(instance.take_over()?.is_some());
            }
        }
        Ok(false)
    }

    /// Takes files away whose delivery is counted: whoever counted it died before it could, or was not let. Another
    /// program's that was made since under the same name is sent like any other, whatever is in it.
    fn finish_what_was_counted(&mut self) -> io::Result<()> {
        let minutes: Vec<Minute> = self.ledger.book().settling().collect();
        let id = content::spool_id(&self.spool)?;
        let mut finished = Ok(());
        for minute in minutes {
            finished = finished.and(self.finish_if_counted(minute, &id));
        }
        self.ledger.settle(&self.spool).and(finished)
    }

    fn finish_if_counted(&self, minute: Minute, id: &str) -> io::Result<()> {
        let Some(file) = content::open(&self.spool, minute)? else { return Ok(()) };
        let content = Content::of(&file, id, minute)?;
        if self.ledger.book().has_file(minute, &content) && self.is_unchanged(minute, &content)? {
            delivered::finish(&self.spool, minute, Needed::by_checkpoints(&self.spool)?)?;
        }
        Ok(())
    }

    // ---- Sending -------------------------------------------------------------------------------------------------

    fn hand_out(&mut self) {
        // In vain: what is in flight comes in, and that is all.
        while self.has_room() && !self.is_in_vain() && self.can_be_counted() {
            match self.backlog.next(&self.spool, Instant::now()) {
                Ok(Some((minute, content))) => self.hand_out_one(minute, content),
                Ok(None) => return,
                Err(error) => return self.warn(|| format!("the spool cannot be looked through: {error}")),
            }
        }
    }

    /// Whether the ledger will take another delivery. What cannot be counted or removed is not added to.
    fn can_be_counted(&mut self) -> bool {
        let waiting = self.uncounted.len();
        if !self.ledger.has_room_beside(waiting)
            && let Err(error) = self.ledger.settle(&self.spool)
        {
            self.warn(|| format!("the ledger cannot be written, and no more is sent until it can: {error}"));
        }
        self.ledger.has_room_beside(waiting)
    }

    fn hand_out_one(&mut self, minute: Minute, content: Option<Content>) {
        let standing = locks::standing(&self.spool, minute, SystemTime::now());
        let finished = match standing {
            Ok(Standing::Finished) => Ok(true),
            Ok(Standing::Held) => Ok(false),
            Ok(Standing::Stale) => locks::reclaim(&self.spool, minute).map(|()| true),
            Err(error) => Err(error),
        };
        match finished {
            Ok(true) => {
                // The senders live as long as this thread.
                let _ = self.lines.jobs.send(Job { minute, content });
            }
            Ok(false) => self.backlog.done(minute),
            Err(error) => self.postpone(minute, &format!("its lock cannot be looked at: {error}"), content),
        }
    }

    /// Whether who ships once has nothing to do any more, or sees that it is in vain.
    fn is_done(&self) -> bool {
        let waiting = self.backlog.waiting();
        let all_tried = !self.backlog.has_untried() && (waiting.count == 0 || waiting.least >= ATTEMPTS_ONCE);
        self.backlog.in_flight() == 0 && (all_tried || self.is_in_vain() || self.is_stuck())
    }

    /// Whoever ships once gives up when one file after the other fails, and one has as often as it may.
    fn is_in_vain(&self) -> bool {
        let in_a_row = self.pace.parallel.saturating_mul(ATTEMPTS_ONCE as usize);
        self.pace.once && self.backlog.waiting().most >= ATTEMPTS_ONCE && self.failed_in_a_row >= in_a_row
    }

    /// Whether nothing more is sent before the ledger can be written, or what was delivered be removed.
    fn is_stuck(&self) -> bool {
        !self.ledger.has_room_beside(self.uncounted.len())
    }

    // ---- The end -------------------------------------------------------------------------------------------------

    /// What is finished is still shipped, for as long as is granted and the server takes what it is sent.
    fn drain(&mut self) {
        if !self.lines.drains.load(SeqCst) {
            return;
        }
        let until = Instant::now() + self.pace.drain;
        self.failed_in_a_row = 0;
        self.begin_pass();
        loop {
            self.hand_out();
            let left = until.saturating_duration_since(Instant::now());
            if self.backlog.in_flight() == 0 || self.failed_in_a_row > 0 || left.is_zero() {
                return;
            }
            match self.lines.reports.recv_timeout(left) {
                Ok(report) => self.take(report),
                Err(_) => return,
            }
            // The senders go on while the disk is waited for.
            if self.failed_in_a_row == 0 {
                self.hand_out();
            }
            self.count();
        }
    }

    /// Requests in flight are finished: each ends within its own time.
    fn leave(mut self) -> Result<()> {
        while self.backlog.in_flight() > 0 {
            match self.lines.reports.recv() {
                Ok(report) => self.take(report),
                Err(_) => break,
            }
        }
        self.count();
        let untried = self.is_stuck() && self.backlog.has_untried();
        if let Err(error) = self.ledger.settle(&self.spool) {
            log::warn!("the ledger cannot be written: {error}");
        }
        let book = self.ledger.book();
        log::info!("{} files with {} records have been delivered in all", book.files, book.records().all());
        let waiting = self.backlog.waiting().count + self.uncounted.len() + usize::from(untried);
        match (self.pace.once, waiting) {
            (true, left @ 1..) => {
                let why = self.trouble.map_or_else(|| "see the log".to_owned(), |(why, _)| why);
                Err(Error::failure(format!(
                    "{left} files could not be delivered and stay ({why}); try again"
                )))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::Path;

    use common::journal::spool::{data_name, lock_name};
    use common::sys::file::{Lock, try_lock};
    use crossbeam_channel::unbounded;

    use super::*;

    /// A distributor of a spool, as its successor finds it, and what it asks to be sent.
    fn distributor(spool: &Path) -> (Distributor, Receiver<Job>) {
        let spool = Spool::open_or_create(spool).unwrap();
        let ledger = Ledger::open(&spool).unwrap();
        let (jobs, asked) = unbounded();
        let (reports, stop, drains) = (unbounded().1, unbounded().1, Arc::default());
        let lines = Lines { jobs, reports, device: None, stop, drains };
        let pace = Pace { interval: MINUTE, once: false, parallel: 4, drain: Duration::ZERO };
        (Distributor::new(spool, ledger, lines, pace), asked)
    }

    /// Writes a file last changed at the beginning of this second.
    fn write(path: &Path, second: u64) {
        std::fs::write(path, "the same\n").unwrap();
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        File::options().append(true).open(path).unwrap().set_modified(changed).unwrap();
    }

    /// Counts a file as whoever died before taking it away.
    fn count(distributor: &mut Distributor, minute: Minute) {
        let spool = &distributor.spool;
        let file = content::open(spool, minute).unwrap().unwrap();
        let content = Content::of(&file, &content::spool_id(spool).unwrap(), minute).unwrap();
        distributor.ledger.count(spool, &[(minute, content)]).unwrap();
    }

    /// Makes a lock as another program does who holds it.
    fn lock(path: &Path) -> File {
        let lock = File::create(path).unwrap();
        assert!(try_lock(&lock, Lock::Exclusive).unwrap());
        lock
    }

    #[test]
    fn what_was_counted_is_taken_away_unsent_once_nobody_can_write_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let minute = Minute(7);
        let at = |name: String| directory.path().join(name);
        write(&at(data_name(minute)), 1);
        count(&mut distributor(directory.path()).0, minute);
        let (mut successor, asked) = distributor(directory.path());
        let held = lock(&at(lock_name(minute)));
        successor.begin_pass();
        assert!(at(data_name(minute)).exists());
        drop(held);
        std::fs::remove_file(at(lock_name(minute))).unwrap();
        successor.begin_pass();
        successor.hand_out();
        assert!(!at(data_name(minute)).exists() && asked.is_empty());
    }

    #[test]
    fn a_file_that_is_made_again_after_its_delivery_is_sent_again() {
        let directory = tempfile::tempdir().unwrap();
        let minute = Minute(7);
        let at = |name: String| directory.path().join(name);
        let (mut distributor, asked) = distributor(directory.path());
        write(&at(data_name(minute)), 1);
        count(&mut distributor, minute);
        std::fs::remove_file(at(data_name(minute))).unwrap();
        // Before the ledger has forgotten the one that is gone.
        write(&at(data_name(minute)), 2);
        distributor.begin_pass();
        distributor.hand_out();
        assert!(at(data_name(minute)).exists());
        assert_eq!(asked.try_recv().unwrap().minute, minute);
    }
}
