//! What is to be shipped, oldest first. However much lies in the spool, only so many names are known at a time.

use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io;
use std::time::Instant;

use common::ids::Minute;
use common::journal::names::Kind;
use common::journal::spool::{Entry, Spool};

use crate::content::Content;

/// Names that are known at a time.
const MOST_NAMES: usize = 16_384;

/// Files that are being sent or wait for another attempt. Whatever comes behind them waits for one of them.
const MOST_TRACKED: usize = 1024;

/// Files to be shipped.
#[derive(Debug, Default)]
pub struct Backlog {
    names: VecDeque<Minute>,
    /// The newest name of the last listing, where there were more than could be known.
    more_after: Option<Minute>,
    tracked: BTreeMap<Minute, Tracked>,
    in_flight: usize,
    /// Whether the last file that was given had been tried before.
    retried: bool,
}

/// A file of which an attempt has begun.
#[derive(Debug)]
struct Tracked {
    content: Option<Content>,
    failures: u32,
    state: State,
}

/// Files that wait for another attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// How many.
    pub count: usize,
    /// The least that one of them has failed.
    pub least: u32,
    /// The most.
    pub most: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    InFlight,
    Waiting(Instant),
    /// The server has it, and the ledger does not know yet.
    Delivered,
}

impl Backlog {
    /// Looks at the spool from its oldest file on.
    ///
    /// # Errors
    /// What reading the directory reports.
    pub fn list(&mut self, spool: &Spool) -> io::Result<()> {
        self.list_after(spool, None)
    }

    fn list_after(&mut self, spool: &Spool, after: Option<Minute>) -> io::Result<()> {
        let mut oldest = BinaryHeap::with_capacity(64);
        let mut more = false;
        for entry in spool.entries()? {
            let Entry { minute, kind, .. } = entry?;
            let wanted = kind == Kind::Data && Some(minute) > after && !self.tracked.contains_key(&minute);
            if wanted {
                oldest.push(minute);
                if oldest.len() > MOST_NAMES {
                    oldest.pop();
                    more = true;
                }
            }
        }
        self.names = oldest.into_sorted_vec().into();
        self.more_after = self.names.back().copied().filter(|_| more);
        Ok(())
    }

    /// The next file to be sent, with what is known of it: one that is to be tried again, and one that was never tried,
    /// in turn. A few that never get an answer are due again and again, and are to keep nobody else from being tried.
    ///
    /// # Errors
    /// What reading the directory reports.
    pub fn next(&mut self, spool: &Spool, now: Instant) -> io::Result<Option<(Minute, Option<Content>)>> {
        if std::mem::take(&mut self.retried)
            && let Some(untried) = self.next_untried(spool)?
        {
            return Ok(Some(untried));
        }
        match self.next_retry(now) {
            Some(retry) => {
                self.retried = true;
                Ok(Some(retry))
            }
            None => self.next_untried(spool),
        }
    }

    /// The one that has been due for the longest time, so that each has its turn.
    fn next_retry(&mut self, now: Instant) -> Option<(Minute, Option<Content>)> {
        let due = |tracked: &Tracked| match tracked.state {
            State::Waiting(due) if due <= now => Some(due),
            _ => None,
        };
        let waiting =
            self.tracked.iter_mut().filter_map(|(minute, tracked)| Some((due(tracked)?, minute, tracked)));
        let (_, minute, tracked) = waiting.min_by_key(|(due, ..)| *due)?;
        tracked.state = State::InFlight;
        self.in_flight += 1;
        Some((*minute, tracked.content.clone()))
    }

    fn next_untried(&mut self, spool: &Spool) -> io::Result<Option<(Minute, Option<Content>)>> {
        if self.tracked.len() >= MOST_TRACKED {
            return Ok(None);
        }
        if self.names.is_empty() && self.more_after.is_some() {
            self.list_after(spool, self.more_after)?;
        }
        let Some(minute) = self.names.pop_front() else { return Ok(None) };
        let state = State::InFlight;
        self.tracked.insert(minute, Tracked { content: None, failures: 0, state });
        self.in_flight += 1;
        Ok(Some((minute, None)))
    }

    /// The file is done with, one way or another.
    pub fn done(&mut self, minute: Minute) {
        self.land(minute);
        self.tracked.remove(&minute);
    }

    /// The file is to be tried again; gives how often it has failed.
    pub fn again(&mut self, minute: Minute, due: Instant, content: Option<Content>) -> u32 {
        self.land(minute);
        let Some(tracked) = self.tracked.get_mut(&minute) else { return 0 };
        tracked.content = content;
        tracked.failures = tracked.failures.saturating_add(1);
        tracked.state = State::Waiting(due);
        tracked.failures
    }

    /// The server has the file, and the ledger is to be told.
    pub fn delivered(&mut self, minute: Minute) {
        self.land(minute);
        if let Some(tracked) = self.tracked.get_mut(&minute) {
            tracked.state = State::Delivered;
        }
    }

    fn land(&mut self, minute: Minute) {
        if self.tracked.get(&minute).is_some_and(|tracked| tracked.state == State::InFlight) {
            self.in_flight -= 1;
        }
    }

    /// How often the file has failed.
    pub fn failures(&self, minute: Minute) -> u32 {
        self.tracked.get(&minute).map_or(0, |tracked| tracked.failures)
    }

    /// Files that are being sent.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// When the next file that failed is to be tried again.
    pub fn next_due(&self) -> Option<Instant> {
        let waiting = self.tracked.values().filter_map(|tracked| match tracked.state {
            State::Waiting(due) => Some(due),
            State::InFlight | State::Delivered => None,
        });
        waiting.min()
    }

    /// Files that were tried and are still there.
    pub fn waiting(&self) -> Waiting {
        let waiting = self.tracked.values().filter(|tracked| matches!(tracked.state, State::Waiting(_)));
        waiting.fold(Waiting::default(), |sum, Tracked { failures, .. }| Waiting {
            count: sum.count + 1,
            least: if sum.count == 0 { *failures } else { sum.least.min(*failures) },
            most: sum.most.max(*failures),
        })
    }

    /// Whether there are files of which no attempt has begun.
    pub fn has_untried(&self) -> bool {
        !self.names.is_empty() || self.more_after.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn spool(minutes: impl IntoIterator<Item = u64>) -> (tempfile::TempDir, Spool) {
        let directory = tempfile::tempdir().unwrap();
        for minute in minutes {
            std::fs::write(directory.path().join(format!("{minute}.dat")), "x").unwrap();
        }
        let spool = Spool::open_or_create(directory.path()).unwrap();
        (directory, spool)
    }

    #[test]
    fn oldest_first_and_each_once() {
        let (directory, spool) = spool([30, 4, 100]);
        for name in ["5.dat.lock", "6.dat.refused", "7.sent", "x.dat"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        let mut backlog = Backlog::default();
        backlog.list(&spool).unwrap();
        let now = Instant::now();
        let next = |backlog: &mut Backlog| backlog.next(&spool, now).unwrap().map(|(minute, _)| minute.0);
        assert_eq!(next(&mut backlog), Some(4));
        backlog.list(&spool).unwrap();
        assert_eq!(next(&mut backlog), Some(30));
        assert_eq!(backlog.in_flight(), 2);
        assert_eq!(backlog.again(Minute(4), now + Duration::from_secs(1), None), 1);
        assert_eq!(next(&mut backlog), Some(100));
        assert_eq!(next(&mut backlog), None, "4 is not due");
        assert_eq!(backlog.again(Minute(30), now, None), 1);
        assert_eq!(next(&mut backlog), Some(30));
        for minute in [4, 30, 100] {
            backlog.done(Minute(minute));
        }
        assert_eq!(
            (backlog.in_flight(), backlog.waiting(), backlog.has_untried()),
            (0, Waiting::default(), false)
        );
    }

    #[test]
    fn files_that_are_always_due_again_keep_no_other_from_its_turn() {
        let (_directory, spool) = spool(1..=6);
        let mut backlog = Backlog::default();
        backlog.list(&spool).unwrap();
        let began = Instant::now();
        let now = began + Duration::from_secs(60);
        let next = |backlog: &mut Backlog| backlog.next(&spool, now).unwrap().map(|(minute, _)| minute.0);
        assert_eq!([next(&mut backlog), next(&mut backlog)], [Some(1), Some(2)]);
        let mut turns = Vec::<u64>::new();
        // Whatever is sent, as one at a time is, is due again the next moment.
        let (mut due, mut failed) = (began, vec![1, 2]);
        for _ in 0..12 {
            for minute in failed.drain(..) {
                due += Duration::from_millis(1);
                backlog.again(Minute(minute), due, None);
            }
            failed.extend(next(&mut backlog));
            turns.extend(&failed);
        }
        assert_eq!(turns, [1, 3, 2, 4, 1, 5, 3, 6, 2, 4, 1, 5]);
    }

    #[test]
    fn more_than_can_be_known_is_looked_at_again() {
        let count = MOST_NAMES as u64 + 500;
        let (_directory, spool) = spool(1..=count);
        let mut backlog = Backlog::default();
        backlog.list(&spool).unwrap();
        for minute in 1..=count {
            let next = backlog.next(&spool, Instant::now()).unwrap();
            assert_eq!(next.map(|(minute, _)| minute.0), Some(minute));
            backlog.done(Minute(minute));
        }
        assert!(backlog.next(&spool, Instant::now()).unwrap().is_none());
    }
}
