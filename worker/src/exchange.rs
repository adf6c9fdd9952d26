//! One request and its answer: what a service may do meanwhile.

use common::ids::Pid;
use common::journal::spool::Spool;
use common::journal::writer::{AppendError, Writer};
use common::region::Region;
use common::slots::Counter;
use common::txn::{Seat, TxnError};
use common::wire::control::Sync;

use crate::{Kind, Refusal};

/// The service's side of one request.
#[derive(Debug)]
pub struct Exchange<'a> {
    pub(crate) ledger: &'a mut Ledger,
    pub(crate) reply: &'a mut Vec<u8>,
    pub(crate) connection: u64,
}

impl Exchange<'_> {
    /// Records a message of a user: one line of the journal, one message more in the counters, both or neither,
    /// whoever dies when. Once it returns `Ok` the message stays recorded, and may be acknowledged.
    ///
    /// # Errors
    /// [`Kind::Full`]: there is no space, and nothing was recorded.
    pub fn record(&mut self, user: &str, message: &str) -> Result<(), Refusal> {
        self.ledger.record(user, message)
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
}

impl Ledger {
    pub fn new(seat: Seat<'static>, spool: Spool, sync: Sync) -> Self {
        Self { seat, pid: Pid::current(), writer: Writer::new(spool, sync) }
    }

    fn region(&self) -> &'static Region {
        self.seat.region()
    }

    fn record(&mut self, user: &str, message: &str) -> Result<(), Refusal> {
        let intent = &self.seat.slot().intent;
        let mut transaction = self.seat.begin().unwrap_or_else(|error| crash(error));
        let counted = transaction
            .add(Counter::Messages, 1)
            .and_then(|()| transaction.add(Counter::Bytes, message.len() as u64));
        counted.unwrap_or_else(|error| crash(error));
        self.writer.append(&transaction, user, message).map_err(refuse)?;
        transaction.commit();
        self.writer.settle(intent).map_err(refuse)
    }
}

fn refuse(error: AppendError) -> Refusal {
    match error {
        AppendError::Full(why) => Refusal::new(Kind::Full, why),
        AppendError::Disturbed => crash(error),
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
