//! Clients that send while things die, and keep a ledger of what was acknowledged to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::connection::{Connection, Receipt};
use crate::journal::Record;
use crate::{eventually, within};

/// Lengths of messages: from a short one to one whose record takes more than a page.
const PADDING: [usize; 5] = [0, 10, 200, 5000, 50];

/// How long a client tries to connect before it looks whether it is still wanted.
const CONNECT_PATIENCE: Duration = Duration::from_millis(100);

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Ledger>>,
}

/// What was sent, and what was acknowledged.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Every message that may have arrived.
    pub sent: BTreeSet<String>,
    /// Those for which a receipt came.
    pub acknowledged: BTreeSet<String>,
    /// Lines that said `error`.
    pub errors: Vec<String>,
    /// Connections that ended without an answer.
    pub broken: u64,
}

impl Load {
    /// So many clients, each sending one message after the other over a connection that it keeps while it lasts.
    pub fn on(address: &str, clients: usize) -> Self {
        Self::start(address, clients, true)
    }

    /// So many clients, each with a new connection for every message.
    pub fn with_short_connections(address: &str, clients: usize) -> Self {
        Self::start(address, clients, false)
    }

    fn start(address: &str, clients: usize, keep: bool) -> Self {
        let (stop, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let clients = (0..clients)
            .map(|client| {
                let (address, stop, acknowledged) =
                    (address.to_owned(), Arc::clone(&stop), Arc::clone(&acknowledged));
                std::thread::spawn(move || work(&address, keep, client, &stop, &acknowledged))
            })
            .collect();
        Self { stop, acknowledged, clients }
    }

    /// Messages acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Waits until so many more messages have been acknowledged: the instance serves.
    #[track_caller]
    pub fn wait_for_more(&self, count: u64) {
        let goal = self.acknowledged() + count;
        eventually(crate::DEADLINE, "messages are acknowledged", || {
            let now = self.acknowledged();
            if now >= goal { Ok(()) } else { Err(format!("{now} of {goal}")) }
        });
    }

    /// Ends the clients, each after the answer it waits for, and gives the ledger of all.
    ///
    /// # Panics
    /// Where a client was answered what it did not ask.
    #[track_caller]
    pub fn stop(mut self) -> Ledger {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Ledger::default();
        for client in self.clients.drain(..) {
            let ledger = client.join().expect("a client was answered what it did not ask");
            all.sent.extend(ledger.sent);
            all.acknowledged.extend(ledger.acknowledged);
            all.errors.extend(ledger.errors);
            all.broken += ledger.broken;
        }
        all
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn work(address: &str, keep: bool, client: usize, stop: &AtomicBool, acknowledged: &AtomicU64) -> Ledger {
    let mut ledger = Ledger::default();
    let mut connection = None;
    for number in 0_u64.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let Some(open) = connection.take().or_else(|| connect(address)) else { continue };
        connection = exchange(open, &message(client, number), &mut ledger, acknowledged).filter(|_| keep);
    }
    ledger
}

/// A connection, unless nobody listens for some time.
fn connect(address: &str) -> Option<Connection> {
    within(CONNECT_PATIENCE, || Connection::try_to(address).map_err(|error| error.to_string())).ok()
}

fn message(client: usize, number: u64) -> String {
    let padding = PADDING[(number as usize + client) % PADDING.len()];
    format!("load {client} {number} {}", "x".repeat(padding))
}

/// One message and its answer; gives the connection back if it can be used again.
fn exchange(
    mut connection: Connection,
    message: &str,
    ledger: &mut Ledger,
    acknowledged: &AtomicU64,
) -> Option<Connection> {
    ledger.sent.insert(message.to_owned());
    if connection.try_send(format!("arijort:{message}\n").as_bytes()).is_err() {
        ledger.broken += 1;
        return None;
    }
    match connection.try_line() {
        Ok(Some(line)) if line.starts_with("error ") => ledger.errors.push(line),
        Ok(Some(line)) => {
            let receipt = Receipt::read(&line).unwrap_or_else(|| panic!("not a receipt: {line}"));
            assert_eq!((receipt.message.as_str(), receipt.user.as_str()), (message, "arijort"));
            ledger.acknowledged.insert(message.to_owned());
            acknowledged.fetch_add(1, Ordering::SeqCst);
        }
        Ok(None) => {
            ledger.broken += 1;
            return None;
        }
        // A line cut by a death is no answer.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            ledger.broken += 1;
            return None;
        }
        Err(error) => panic!("no answer to {message:.40}: {error}"),
    }
    Some(connection)
}

impl Ledger {
    /// Whatever was acknowledged is in the journal, once and unaltered; and nothing is there that was not sent.
    ///
    /// # Panics
    /// Where that is not so.
    #[track_caller]
    pub fn check(&self, records: &[Record]) {
        let mut counts = BTreeMap::<&str, u32>::new();
        for record in records.iter().filter(|record| record.message.starts_with("load ")) {
            *counts.entry(&record.message).or_default() += 1;
        }
        let short = |message: &str| message.chars().take(30).collect::<String>();
        let lost: Vec<_> =
            self.acknowledged.iter().filter(|message| !counts.contains_key(message.as_str())).collect();
        assert!(lost.is_empty(), "{} acknowledged messages are lost, such as {}", lost.len(), short(lost[0]));
        for (message, count) in counts {
            assert_eq!(count, 1, "{} is recorded so often", short(message));
            assert!(self.sent.contains(message), "{} was never sent", short(message));
        }
    }
}
