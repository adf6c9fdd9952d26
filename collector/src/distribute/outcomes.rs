//! What becomes of a file once it was tried.

use std::io;
use std::time::{Instant, SystemTime};

use common::ids::Minute;
use common::journal::spool::data_name;

use super::{Distributor, TOLD_AGAIN};
use crate::content::{self, Content, Stamp};
use crate::decision::{Answer, Decision, decide};
use crate::delivered::{self, Needed};
use crate::ledger::MOST_SETTLING;
use crate::locks::{self, Standing};
use crate::quarantine;
use crate::sender::{Outcome, Report};

impl Distributor {
    /// Takes a report, and all that have come besides: their deliveries are counted together.
    pub(super) fn take(&mut self, report: Report) {
        self.take_one(report);
        while let Ok(report) = self.lines.reports.try_recv() {
            self.take_one(report);
        }
    }

    fn take_one(&mut self, Report { minute, outcome }: Report) {
        match outcome {
            Outcome::Gone => self.backlog.done(minute),
            Outcome::Unreadable(error) => self.postpone(minute, &error.to_string(), None),
            Outcome::Tried { content, answer, said } => self.judge(minute, content, answer, &said),
        }
    }

    fn judge(&mut self, minute: Minute, content: Content, answer: Answer, said: &str) {
        let decision = decide(answer, self.backlog.failures(minute), self.chance.unit());
        match decision {
            Decision::Delivered => match self.is_unchanged(minute, &content) {
                Ok(true) => self.accept(minute, content),
                Ok(false) => self.postpone(minute, "it was written to while it was sent", None),
                Err(error) => self.postpone(minute, &error.to_string(), Some(content)),
            },
            Decision::Refused => match quarantine::refuse(&self.spool, minute, said) {
                Ok(true) => {
                    self.failed_in_a_row = 0;
                    log::error!("{} is refused for good and put aside: {said}", data_name(minute));
                    self.backlog.done(minute);
                }
                Ok(false) => {
                    self.postpone(minute, &format!("{said}; but one is put aside already"), Some(content));
                }
                Err(error) => {
                    self.postpone(minute, &format!("it cannot be put aside: {error}"), Some(content));
                }
            },
            Decision::Retry { after, alarm } => {
                self.failed_in_a_row += 1;
                self.trouble(minute, said, alarm);
                self.backlog.again(minute, Instant::now() + after, Some(content));
            }
        }
    }

    fn accept(&mut self, minute: Minute, content: Content) {
        if self.trouble.take().is_some() {
            log::info!("files are delivered again");
        }
        self.failed_in_a_row = 0;
        // It was counted before, and could not be removed.
        if self.ledger.book().has(minute, &content.key) {
            return self.remove(minute, &content);
        }
        self.backlog.delivered(minute);
        self.uncounted.push((minute, content));
    }

    /// Whether what was delivered is what is there. Another program may have gone on with its file.
    pub(super) fn is_unchanged(&self, minute: Minute, content: &Content) -> io::Result<bool> {
        let Some(file) = content::open(&self.spool, minute)? else { return Ok(true) };
        let finished = locks::standing(&self.spool, minute, SystemTime::now())? == Standing::Finished;
        Ok(finished && Stamp::of(&file)? == content.stamp)
    }

    /// Counts what was delivered, and takes it away then.
    pub(super) fn count(&mut self) {
        while !self.uncounted.is_empty() {
            let rest = self.uncounted.split_off(self.uncounted.len().min(MOST_SETTLING));
            let batch = std::mem::replace(&mut self.uncounted, rest);
            if let Err(error) = self.ledger.count(&self.spool, &batch) {
                self.warn(|| {
                    format!("the ledger cannot be written, and delivered files stay until it can: {error}")
                });
                self.uncounted.splice(..0, batch);
                return;
            }
            for (minute, content) in batch {
                log::debug!("{} is delivered: {} records", data_name(minute), content.tally.all());
                self.remove(minute, &content);
                if let Err(error) = self.ledger.begin_late(&self.spool) {
                    self.warn(|| format!("deliveries are not counted durably yet: {error}"));
                }
            }
        }
    }

    /// Takes a counted file away. To count takes time: what another program wrote to it meanwhile is sent with the next
    /// pass.
    fn remove(&mut self, minute: Minute, content: &Content) {
        let needed = Needed::by_checkpoints(&self.spool).unwrap_or(Needed::From(Minute(0)));
        let removed = match self.is_unchanged(minute, content) {
            Ok(true) => delivered::finish(&self.spool, minute, needed),
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            self.warn(|| format!("{} is delivered and cannot be removed yet: {error}", data_name(minute)));
        }
        self.backlog.done(minute);
    }

    pub(super) fn postpone(&mut self, minute: Minute, why: &str, content: Option<Content>) {
        let Decision::Retry { after, .. } =
            decide(Answer::Failed, self.backlog.failures(minute), self.chance.unit())
        else {
            return self.backlog.done(minute);
        };
        self.warn(|| format!("{} waits: {why}", data_name(minute)));
        self.backlog.again(minute, Instant::now() + after, content);
    }

    fn trouble(&mut self, minute: Minute, said: &str, alarm: bool) {
        let told =
            self.trouble.as_ref().is_some_and(|(why, when)| why == said && when.elapsed() < TOLD_AGAIN);
        if told {
            return;
        }
        let file = data_name(minute);
        if alarm {
            log::error!("{file} is turned away, and will be until somebody changes that: {said}");
        } else {
            self.warn(|| format!("{file} is not delivered yet: {said}"));
        }
        self.trouble = Some((said.to_owned(), Instant::now()));
    }

    pub(super) fn warn(&mut self, what: impl FnOnce() -> String) {
        let now = self.began.elapsed();
        self.failures.warn(now, what);
    }
}
