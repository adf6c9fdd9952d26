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
    course: Arc<Course>,
    clients: Vec<JoinHandle<Ledger>>,
}

/// How far the clients are, and whether they are to go on.
#[derive(Debug, Default)]
struct Course {
    stop: AtomicBool,
    acknowledged: AtomicU64,
    refused: AtomicU64,
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

/// How long a client keeps a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeps {
    WhileItLasts,
    ForOneMessage,
    /// For one message, and until the server has ended it too.
    UntilItHasEnded,
}

impl Load {
    /// So many clients, each sending one message after the other over a connection that it keeps while it lasts.
    pub fn on(address: &str, clients: usize) -> Self {
        Self::start(address, clients, |_| Keeps::WhileItLasts, say)
    }

    /// So many clients, each with a new connection for every message. They wait for the server to end the former one: no
    /// more workers have one of theirs than there are clients, however slowly these learn that their peers have gone.
    pub fn with_short_connections(address: &str, clients: usize) -> Self {
        Self::start(address, clients, |_| Keeps::UntilItHasEnded, say)
    }

    /// So many clients that say something else: a client's number and its message's give a user, and a message that no
    /// other client sends. Every second client has a new connection for every message.
    pub fn saying(
        address: &str,
        clients: usize,
        say: impl Fn(usize, u64) -> (String, String) + Send + Sync + 'static,
    ) -> Self {
        let keeps = |client| if client % 2 == 0 { Keeps::WhileItLasts } else { Keeps::ForOneMessage };
        Self::start(address, clients, keeps, say)
    }

    fn start(
        address: &str,
        clients: usize,
        keeps: fn(usize) -> Keeps,
        say: impl Fn(usize, u64) -> (String, String) + Send + Sync + 'static,
    ) -> Self {
        let (course, say) = (Arc::<Course>::default(), Arc::new(say));
        let clients = (0..clients)
            .map(|client| {
                let (address, course, say) = (address.to_owned(), Arc::clone(&course), Arc::clone(&say));
                std::thread::spawn(move || {
                    work(&address, keeps(client), |number| say(client, number), &course)
                })
            })
            .collect();
        Self { course, clients }
    }

    /// Messages acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.course.acknowledged.load(Ordering::SeqCst)
    }

    /// Messages answered so far, by a receipt or an error.
    pub fn answered(&self) -> u64 {
        self.acknowledged() + self.course.refused.load(Ordering::SeqCst)
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
        self.course.stop.store(true, Ordering::SeqCst);
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
        self.course.stop.store(true, Ordering::SeqCst);
    }
}

fn work(address: &str, keeps: Keeps, say: impl Fn(u64) -> (String, String), course: &Course) -> Ledger {
    let mut ledger = Ledger::default();
    let mut connection = None;
    for number in 0_u64.. {
        if course.stop.load(Ordering::SeqCst) {
            break;
        }
        let Some(open) = connection.take().or_else(|| connect(address)) else { continue };
        let (user, message) = say(number);
        connection = exchange(open, &user, message, &mut ledger, course);
        if keeps != Keeps::WhileItLasts
            && let Some(mut done) = connection.take()
            && keeps == Keeps::UntilItHasEnded
        {
            done.finish_sending_if_open();
            // However it ends, it has been answered.
            let _ = done.try_line();
        }
    }
    ledger
}

/// A connection, unless nobody listens for some time.
fn connect(address: &str) -> Option<Connection> {
    within(CONNECT_PATIENCE, || Connection::try_to(address).map_err(|error| error.to_string())).ok()
}

fn say(client: usize, number: u64) -> (String, String) {
    let padding = PADDING[(number as usize + client) % PADDING.len()];
    ("arijort".to_owned(), format!("load {client} {number} {}", "x".repeat(padding)))
}

/// One message and its answer; gives the connection back if it can be used again.
fn exchange(
    mut connection: Connection,
    user: &str,
    message: String,
    ledger: &mut Ledger,
    course: &Course,
) -> Option<Connection> {
    ledger.sent.insert(message.clone());
    if connection.try_send(format!("{user}:{message}\n").as_bytes()).is_err() {
        ledger.broken += 1;
        return None;
    }
    match connection.try_line() {
        Ok(Some(line)) if line.starts_with("error ") => {
            ledger.errors.push(line);
            course.refused.fetch_add(1, Ordering::SeqCst);
        }
        Ok(Some(line)) => {
            let receipt = Receipt::read(&line).unwrap_or_else(|| panic!("not a receipt: {line}"));
            assert_eq!((&*receipt.message, &*receipt.user), (&*message, user));
            ledger.acknowledged.insert(message);
            course.acknowledged.fetch_add(1, Ordering::SeqCst);
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
        let ours = |message: &String| message.starts_with("load ") || self.sent.contains(message);
        for record in records.iter().filter(|record| ours(&record.message)) {
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
