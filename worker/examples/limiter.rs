//! A rate limiter that all workers share: each user may send so many messages in ten seconds. One of each kind of object:
//! a blob holds the rule, a map what each user has sent, a counter how many were refused, a queue the last of those.
//!
//! `supervisor --worker target/release/examples/limiter`, then lines of `USER:` and a message, and
//!
//! ```text
//! USER:message    recorded and answered with what is left, or `error busy` with nothing recorded
//! rule N          from now on N messages in ten seconds
//! refused         how many were refused; `next`: whose message was, the oldest first: waits up to a second for one
//! ```

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use worker::objects::{Blob, Counter, Folder, Map, Queue, ReadError};
use worker::{Exchange, Kind, Refusal, Region, Service, Transaction, TxnError};

/// Seconds in which a user may send so many messages.
const WINDOW: u64 = 10;

const RULE: u32 = 5;
/// Most refusals that are kept for those who ask.
const KEPT: u64 = 100;

const PATIENCE: Duration = Duration::from_secs(1);

/// What the processes share. Its handles are the same in all of them.
#[derive(Clone, Copy)]
struct Limits {
    rule: Blob,
    /// By user: the number of the window, and messages sent in it.
    sent: Map,
    refused: Counter,
    refusals: Queue,
}

impl Limits {
    fn find(region: &Region) -> Result<Self, ReadError> {
        let folder = Folder::open(region, "limiter")?;
        Ok(Self {
            rule: folder.open_blob(region, "rule")?,
            sent: folder.open_map(region, "sent")?,
            refused: folder.open_counter(region, "refused")?,
            refusals: folder.open_queue(region, "refusals")?,
        })
    }

    /// Makes them, all or none. Whoever else does so at the same time waits, and finds them.
    fn make(txn: &mut Transaction<'_, '_>) -> Result<Self, TxnError> {
        let folder = txn.open_or_create_folder("limiter")?;
        let rule = txn.open_or_create_blob(folder, "rule")?;
        if txn.blob(rule)?.is_empty() {
            txn.blob(rule)?.set(&RULE.to_le_bytes())?;
        }
        Ok(Self {
            rule,
            sent: txn.open_or_create_map(folder, "sent")?,
            refused: txn.open_or_create_counter(folder, "refused")?,
            refusals: txn.open_or_create_queue(folder, "refusals", KEPT)?,
        })
    }

    /// Read by everybody for every message: without a lock.
    fn rule(self, region: &Region) -> Result<u32, Refusal> {
        let mut bytes = [0; 4];
        match self.rule.read_at(region, 0, &mut bytes) {
            Ok(true) => Ok(u32::from_le_bytes(bytes)),
            other => Err(Refusal::new(Kind::Busy, format!("the rule cannot be read: {other:?}"))),
        }
    }

    /// Counts a message, if the user may send another; how many are left.
    fn admit(self, txn: &mut Transaction<'_, '_>, user: &str, rule: u32) -> Result<Option<u32>, TxnError> {
        let window = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()) / WINDOW;
        let mut sent = txn.map(self.sent)?;
        let before = sent.get(user.as_bytes())?.and_then(|bytes| bytes.try_into().ok());
        let before = before.map_or(0, u128::from_le_bytes);
        let count = if before as u64 == window { (before >> 64) as u32 } else { 0 };
        if count >= rule {
            return Ok(None);
        }
        let now = u128::from(window) | u128::from(count + 1) << 64;
        sent.put(user.as_bytes(), &now.to_le_bytes())?;
        Ok(Some(rule - count - 1))
    }
}

#[derive(Default)]
struct Limiter(Option<Limits>);

impl Limiter {
    fn limits(&mut self, exchange: &mut Exchange<'_>) -> Result<Limits, Refusal> {
        let limits = match self.0.or_else(|| Limits::find(exchange.region()).ok()) {
            Some(limits) => limits,
            None => exchange.change(Limits::make)?,
        };
        self.0 = Some(limits);
        Ok(limits)
    }
}

impl Service for Limiter {
    fn handle(&mut self, request: &[u8], exchange: &mut Exchange<'_>) -> Result<(), Refusal> {
        let malformed = || Refusal::new(Kind::Malformed, "say USER:MESSAGE, rule N, refused or next");
        let text = std::str::from_utf8(request).map_err(|_| malformed())?;
        let limits = self.limits(exchange)?;
        let answer = match text.split_once([':', ' ']) {
            Some(("rule", number)) if !text.contains(':') => {
                let rule: u32 = number.parse().map_err(|_| malformed())?;
                exchange.change(|txn| txn.blob(limits.rule)?.set(&rule.to_le_bytes()))?;
                format!("rule {rule}")
            }
            None if text == "refused" => {
                limits.refused.get(exchange.region()).map_err(|_| malformed())?.to_string()
            }
            None if text == "next" => {
                let pop = |txn: &mut Transaction<'_, '_>| txn.queue(limits.refusals)?.pop_front();
                let next = exchange.change_with_item(limits.refusals, PATIENCE, pop)?.flatten();
                next.map_or("nobody".to_owned(), |user| String::from_utf8_lossy(&user).into_owned())
            }
            Some((user, message)) if text.contains(':') => {
                let rule = limits.rule(exchange.region())?;
                let Some(left) = exchange.change(|txn| limits.admit(txn, user, rule))? else {
                    exchange.change(|txn| {
                        txn.counter(limits.refused)?.add(1)?;
                        txn.queue(limits.refusals)?.push_back(user.as_bytes())
                    })?;
                    return Err(Refusal::new(
                        Kind::Busy,
                        format!("{rule} messages in {WINDOW} s are enough"),
                    ));
                };
                exchange.record(user, message)?;
                format!("{left} left")
            }
            _ => return Err(malformed()),
        };
        exchange.reply(answer.as_bytes());
        exchange.reply(b"\n");
        Ok(())
    }
}

fn main() -> ExitCode {
    worker::serve("limiter", |_settings| Ok(Limiter::default()))
}
