//! One request and its answer: what a service may do meanwhile.

use std::time::{Duration, Instant};

use crate::request_clock::RequestClock;
use crate::{Kind, Refusal, Settings};
use common::ids::Pid;
use common::journal::spool::Spool;
use common::journal::writer::{AppendError, Writer};
use common::objects::Queue;
use common::region::Region;
use common::tally::{self, Account};
use common::txn::{Seat, Transaction, TxnError};

/// The service's side of one request.
#[derive(Debug)]
pub struct Exchange<'a> {
    pub(crate) ledger: &'a mut Ledger,
    pub(crate) reply: &'a mut Vec<u8>,
    pub(crate) connection: u64,
}

impl Exchange<'_> {
    /// Records a message of a user: one line of the journal, one message more in the counters and in what the user has
    /// sent, all or none, whoever dies when. Once it returns `Ok` the message stays recorded, and may be acknowledged.
    ///
    /// # Errors
    /// [`Kind::Full`]: there is no space, and nothing was recorded. [`Kind::Busy`]: a lock could not be had.
    /// [`Kind::Timeout`]: the request has taken too long already. [`Kind::TooLong`]: the record would have more than
    /// [`MAX_RECORD`](common::limits::MAX_RECORD) bytes, or the user's name is too long.
    pub fn record(&mut self, user: &str, message: &str) -> Result<(), Refusal> {
        self.ledger.record(user, message, |_| Ok(()))
    }

    /// The same, and with it `changes` to what the processes share: they stand if and only if the message is recorded.
    /// The record is written under the locks that `changes` takes: whoever wants one of them waits for that.
    ///
    /// # Errors
    /// As [`Exchange::record`]; what `changes` gives.
    pub fn record_with<T>(
        &mut self,
        user: &str,
        message: &str,
        changes: impl FnOnce(&mut Transaction<'_, 'static>) -> Result<T, TxnError>,
    ) -> Result<T, Refusal> {
        self.ledger.record(user, message, changes)
    }

    /// Changes what the processes share, all of it or nothing, without a record.
    ///
    /// # Errors
    /// [`Kind::Full`] and [`Kind::Busy`] as [`Exchange::record`]; nothing was changed then.
    pub fn change<T>(
        &mut self,
        changes: impl FnOnce(&mut Transaction<'_, 'static>) -> Result<T, TxnError>,
    ) -> Result<T, Refusal> {
        self.ledger.change(changes)
    }

    /// The same once a queue has an item, with its lock: what is popped first is there. `None` where none has come within
    /// `limit`, or by the time that the request may take.
    ///
    /// # Errors
    /// As [`Exchange::change`].
    pub fn change_with_item<T>(
        &mut self,
        queue: Queue,
        limit: Duration,
        changes: impl FnOnce(&mut Transaction<'_, 'static>) -> Result<T, TxnError>,
    ) -> Result<Option<T>, Refusal> {
        self.ledger.change_with_item(queue, limit, changes)
    }

    /// The region, to read from: see [`common::objects`].
    pub fn region(&self) -> &'static Region {
        self.ledger.region()
    }

    /// Appends to the reply. It is sent if and when the service returns `Ok`. Replies are lines: the newline is the
    /// service's to add.
    pub fn reply(&mut self, bytes: &[u8]) {
        self.reply.extend_from_slice(bytes);
    }

    /// The reply so far, for those who compose in place.
    pub fn reply_buffer(&mut self) -> &mut Vec<u8> {
        self.reply
    }

    /// This worker.
    pub fn pid(&self) -> Pid {
        self.ledger.pid
    }

    /// How many connections this worker has accepted, this one included.
    pub fn connection(&self) -> u64 {
        self.connection
    }

    /// Says what this worker is doing, for `supervisor status --slots` and for the report of a crash. Until the
    /// service says something else it is the beginning of the request.
    pub fn doing(&self, text: &str) {
        self.ledger.seat.slot().set_doing(text.as_bytes());
    }

    /// Whether the request has taken longer than `--request-timeout` allows. Nothing can be recorded for it any more, and
    /// the supervisor is about to end this worker: a service that looks in time gives [`Exchange::overdue`] back.
    pub fn is_overdue(&self) -> bool {
        self.ledger.clock.is_over()
    }

    /// How long the request may still take; `None` where that does not matter.
    pub fn time_left(&self) -> Option<Duration> {
        self.ledger.clock.left()
    }

    /// What a client is told whose request has taken too long.
    pub fn overdue(&self) -> Refusal {
        self.ledger.clock.refusal()
    }

    /// Changes when log files are to be opened again.
    pub fn log_epoch(&self) -> u32 {
        self.ledger.region().header().supervision.log_epoch.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// A worker's place in the region and its pen in the journal.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub seat: Seat<'static>,
    pub pid: Pid,
    pub writer: Writer,
    pub clock: RequestClock,
    /// A record stands that is not known to be on the disk, as it should be: whoever sent it must be told neither that it
    /// does nor that it does not.
    pub unsettled: bool,
    last_user: Option<(String, Account)>,
}

impl Ledger {
    pub fn new(seat: Seat<'static>, spool: Spool, settings: &Settings) -> Self {
        let (pid, writer) = (Pid::current(), Writer::new(spool, settings.sync));
        let clock = RequestClock::new(settings.request_timeout);
        Self { seat, pid, writer, clock, unsettled: false, last_user: None }
    }

    pub fn region(&self) -> &'static Region {
        self.seat.region()
    }

    fn record<T>(
        &mut self,
        user: &str,
        message: &str,
        changes: impl FnOnce(&mut Transaction<'_, 'static>) -> Result<T, TxnError>,
    ) -> Result<T, Refusal> {
        if self.clock.is_over() {
            return Err(self.clock.refusal());
        }
        let intent = &self.seat.slot().intent;
        let account = self.account(user)?;
        let mut transaction = self.seat.begin().map_err(decline)?;
        let changed = changes(&mut transaction).map_err(decline)?;
        transaction.count_message(account, user, message.len() as u64).map_err(decline)?;
        self.writer.append(&transaction, user, message).map_err(refuse)?;
        transaction.commit().map_err(decline)?;
        if let Err(error) = self.writer.settle(intent) {
            self.unsettled = true;
            return Err(refuse(error));
        }
        Ok(changed)
    }

    fn change<T>(
        &mut self,
        changes: impl FnOnce(&mut Transaction<'_, 'static>) -> Result<T, TxnError>,
    ) -> Result<T, Refusal> {
        if self.clock.is_over() {
            return Err(self.clock.refusal());
        }
        let mut transaction = self.seat.begin().map_err(decline)?;
        let changed = changes(&mut transaction).map_err(decline)?;
        transaction.commit().map_err(decline)?;
        Ok(changed)
    }

    fn change_with_item<T>(
        &mut self,
        queue: Queue,
        limit: Duration,
        changes: impl FnOnce(&mut Transaction<'_, 'static>) -> Result<T, TxnError>,
    ) -> Result<Option<T>, Refusal> {
        if self.clock.is_over() {
            return Err(self.clock.refusal());
        }
        let limit = self.clock.left().map_or(limit, |left| left.min(limit));
        let mut transaction = match self.seat.begin_with_item(queue, Instant::now() + limit) {
            Err(TxnError::TimedOut) => return Ok(None),
            begun => begun.map_err(decline)?,
        };
        let changed = changes(&mut transaction).map_err(decline)?;
        transaction.commit().map_err(decline)?;
        Ok(Some(changed))
    }

    /// Where a user is counted. The last one is remembered: a connection is mostly one user's.
    fn account(&mut self, user: &str) -> Result<Account, Refusal> {
        if let Some((name, account)) = &self.last_user
            && name == user
        {
            return Ok(*account);
        }
        let account = tally::account(&mut self.seat, user).map_err(decline)?;
        let (name, known) = self.last_user.get_or_insert_with(|| (String::new(), account));
        name.clear();
        name.push_str(user);
        *known = account;
        Ok(account)
    }
}

fn refuse(error: AppendError) -> Refusal {
    match error {
        AppendError::Full(why) => Refusal::new(Kind::Full, why),
        AppendError::TooLong => Refusal::new(Kind::TooLong, error.to_string()),
        AppendError::Disturbed => crash(error),
    }
}

/// What a client is told where a transaction could not go on; all of it has been put back.
#[cold]
fn decline(error: TxnError) -> Refusal {
    match error {
        TxnError::Damaged | TxnError::Disturbed | TxnError::Forked => crash(error),
        TxnError::Busy => Refusal::new(Kind::Busy, error.to_string()),
        TxnError::Full
        | TxnError::TooManyObjects
        | TxnError::TooManyLocks
        | TxnError::TooManyInFlight
        | TxnError::TooLarge => Refusal::new(Kind::Full, error.to_string()),
        _ => Refusal::new(Kind::Malformed, error.to_string()),
    }
}

/// Somebody has written where only this worker may. To go on would be to lose data: the slot is left as it is, and
/// repair decides about it.
#[cold]
fn crash(error: impl Into<Disturbance>) -> ! {
    log::error!("cannot go on safely: {}", error.into().0);
    std::process::abort()
}

struct Disturbance(String);

impl From<TxnError> for Disturbance {
    fn from(error: TxnError) -> Self {
        Self(error.to_string())
    }
}

impl From<AppendError> for Disturbance {
    fn from(error: AppendError) -> Self {
        Self(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sends_what_no_record_holds_is_told_that_it_is_too_long() {
        let refusal = refuse(AppendError::TooLong);
        assert_eq!(refusal.kind(), Kind::TooLong);
        assert!(refusal.reason().contains("394240 bytes"), "{refusal}");
    }
}
