//! A service whose requests queue for locks, so that a death with a lock held can be arranged and its waiters timed:
//! the line service, and besides it
//!
//! - `pid` is answered with the worker's pid;
//! - `hold NAME` changes the map NAME in a transaction and stays in it, holding the map's lock, until it is killed;
//! - `hold NAME MS` does so for that many milliseconds, and commits; the answer is `held`;
//! - `touch NAME` makes such a transaction and commits it; the answer is the moment at which it ran with the lock, in
//!   nanoseconds of `CLOCK_MONOTONIC`, which all processes share;
//! - `touch NAME MS` answers so many milliseconds later, out of the way of who waits for other locks.
//!
//! `supervisor --worker target/release/examples/turnstile`; `scripts/bench/recovery` drives it.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use worker::line_service::LineService;
use worker::objects::{Folder, Map};
use worker::{Exchange, Refusal, Service, Transaction, TxnError};

/// Where the maps are.
const FOLDER: &str = "turnstiles";

/// What is put under: one key, so that holding means having overwritten what was committed.
const KEY: &[u8] = b"last";

struct Turnstile {
    lines: LineService,
}

impl Service for Turnstile {
    fn handle(&mut self, request: &[u8], exchange: &mut Exchange<'_>) -> Result<(), Refusal> {
        let text = std::str::from_utf8(request).unwrap_or_default();
        let answer = match text.split_once(' ') {
            None if text == "pid" => exchange.pid().to_string(),
            Some(("hold", words)) => hold(words, exchange)?,
            Some(("touch", words)) => touch(words, exchange)?.to_string(),
            _ => return self.lines.handle(request, exchange),
        };
        exchange.reply(answer.as_bytes());
        exchange.reply(b"\n");
        Ok(())
    }
}

/// Changes the map, and waits with its lock to be killed, or for its time to be over: without precedence, as one that has
/// waited for nobody.
fn hold(words: &str, exchange: &mut Exchange<'_>) -> Result<String, Refusal> {
    let (name, limit) = name_and_time(words);
    let map = map(name, exchange)?;
    exchange.change(|txn| {
        txn.map(map)?.put(KEY, b"held")?;
        std::thread::sleep(limit.unwrap_or(Duration::MAX));
        Ok("held".to_owned())
    })
}

/// Waits for the lock, and gives the moment at which it was there, at once or after a while.
fn touch(words: &str, exchange: &mut Exchange<'_>) -> Result<u64, Refusal> {
    let (name, later) = name_and_time(words);
    let map = map(name, exchange)?;
    let ran = exchange.change(|txn| {
        let mut map = txn.map(map)?;
        let now = monotonic_ns();
        map.put(KEY, &now.to_le_bytes())?;
        Ok(now)
    })?;
    std::thread::sleep(later.unwrap_or_default());
    Ok(ran)
}

fn name_and_time(words: &str) -> (&str, Option<Duration>) {
    match words.split_once(' ') {
        Some((name, time)) => (name, Some(time.parse().map(Duration::from_millis).unwrap_or_default())),
        None => (words, None),
    }
}

/// Found without a lock where it is there already: creating takes the folder's.
fn map(name: &str, exchange: &mut Exchange<'_>) -> Result<Map, Refusal> {
    let region = exchange.region();
    let found = Folder::open(region, FOLDER).and_then(|folder| folder.open_map(region, name));
    match found {
        Ok(map) => Ok(map),
        Err(_) => exchange.change(|txn| create(name, txn)),
    }
}

fn create(name: &str, txn: &mut Transaction<'_, 'static>) -> Result<Map, TxnError> {
    let folder = txn.open_or_create_folder(FOLDER)?;
    let map = txn.open_or_create_map(folder, name)?;
    txn.map(map)?.put(KEY, b"nothing yet")?;
    Ok(map)
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn main() -> ExitCode {
    worker::serve("turnstile", |settings| Ok(Turnstile { lines: LineService::load(settings)? }))
}
