//! A service whose processes share queues and a blob. Every change is made together with its record, in one transaction,
//! so the journal replays to exactly what they hold.
//!
//! `supervisor --worker target/release/examples/post`, then lines of `USER:` and
//!
//! ```text
//! post LENGTH       a letter of so many bytes behind the others      urgent LENGTH    one before them
//! collect           the first letter goes out                        recall           the last one does
//! stamp AT LENGTH   so many bytes of the ledger
//! deliver           a parcel for the workers                         work             one is worked on, and then gone
//! ```
//!
//! Words behind these are recorded and ignored. A parcel is worked on outside of any transaction: whoever dies at that has
//! not taken it. The reply is a receipt as the line service writes it.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use worker::objects::queue::End;
use worker::objects::{Blob, Folder, Queue};
use worker::{Exchange, Kind, Refusal, Region, Service, Transaction, TxnError};

const FOLDER: &str = "post/office";

/// Bytes of the ledger.
const LEDGER: usize = 8 * 1024;

/// The longest letter.
const LONGEST: usize = 64 * 1024;

/// What is asked for.
enum Request {
    Post { end: End, length: usize },
    Collect { end: End },
    Stamp { at: usize, length: usize },
    Deliver,
    Work,
}

impl Request {
    fn read(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let command = words.next()?;
        let mut number = |most: usize| words.next()?.parse().ok().filter(|number| *number <= most);
        Some(match command {
            "post" => Self::Post { end: End::Back, length: number(LONGEST)? },
            "urgent" => Self::Post { end: End::Front, length: number(LONGEST)? },
            "collect" => Self::Collect { end: End::Front },
            "recall" => Self::Collect { end: End::Back },
            "stamp" => Self::Stamp { at: number(LEDGER)?, length: number(LEDGER)? },
            "deliver" => Self::Deliver,
            "work" => Self::Work,
            _ => return None,
        })
    }
}

/// What the processes share. Its handles are the same in all of them.
#[derive(Clone, Copy)]
struct Office {
    letters: Queue,
    parcels: Queue,
    ledger: Blob,
}

impl Office {
    fn find(region: &Region) -> Option<Self> {
        let folder = Folder::open(region, FOLDER).ok()?;
        let queue = |name| folder.open_queue(region, name).ok();
        Some(Self {
            letters: queue("letters")?,
            parcels: queue("parcels")?,
            ledger: folder.open_blob(region, "ledger").ok()?,
        })
    }

    fn make(txn: &mut Transaction<'_, '_>) -> Result<Self, TxnError> {
        let folder = txn.open_or_create_folder(FOLDER)?;
        let letters = txn.open_or_create_queue(folder, "letters", 0)?;
        let parcels = txn.open_or_create_queue(folder, "parcels", 0)?;
        let ledger = txn.open_or_create_blob(folder, "ledger")?;
        if txn.blob(ledger)?.is_empty() {
            txn.blob(ledger)?.set(&[0; LEDGER])?;
        }
        Ok(Self { letters, parcels, ledger })
    }

    fn change(self, txn: &mut Transaction<'_, '_>, request: &Request, text: &str) -> Result<(), TxnError> {
        match *request {
            Request::Post { end, length } => {
                txn.queue(self.letters)?.push(end, &repeated(text, length)).map(drop)
            }
            Request::Collect { end } => txn.queue(self.letters)?.pop(end).map(drop),
            Request::Stamp { at, length } => {
                txn.blob(self.ledger)?.write_at(at as u64, &repeated(text, length.min(LEDGER - at)))
            }
            Request::Deliver => txn.queue(self.parcels)?.push_back(text.as_bytes()).map(drop),
            Request::Work => Ok(()),
        }
    }

    /// Takes a parcel, works on it, and has it gone together with the record.
    fn work(self, exchange: &mut Exchange<'_>, user: &str, text: &str) -> Result<(), Refusal> {
        let taken = exchange.change(|txn| txn.queue(self.parcels)?.take_front())?;
        let Some((parcel, _)) = taken else { return Err(Refusal::new(Kind::Busy, "there is no parcel")) };
        let done = exchange.record_with(user, text, |txn| txn.finish(&parcel));
        if done.is_err() {
            // Not recorded, so another one is to work on it. What fails here is put back when this worker leaves.
            let _ = exchange.change(|txn| txn.put_back(&parcel));
        }
        done
    }
}

/// A text, again and again.
fn repeated(text: &str, length: usize) -> Vec<u8> {
    text.bytes().cycle().take(length).collect()
}

/// The service; knows the office from its first request on.
#[derive(Default)]
struct Post {
    office: Option<Office>,
}

impl Service for Post {
    fn handle(&mut self, request: &[u8], exchange: &mut Exchange<'_>) -> Result<(), Refusal> {
        let malformed = || Refusal::new(Kind::Malformed, "say USER:post LENGTH, or another of the commands");
        let text = std::str::from_utf8(request).map_err(|_| malformed())?;
        let (user, message) = text.split_once(':').ok_or_else(malformed)?;
        let request = Request::read(message).ok_or_else(malformed)?;
        let office = match self.office.or_else(|| Office::find(exchange.region())) {
            Some(office) => office,
            None => exchange.change(Office::make)?,
        };
        self.office = Some(office);
        match request {
            Request::Work => office.work(exchange, user, message)?,
            _ => exchange.record_with(user, message, |txn| office.change(txn, &request, message))?,
        }
        let receipt = format!("server {} recvd message \"{message}\" from user {user}\n", exchange.pid());
        exchange.reply(receipt.as_bytes());
        Ok(())
    }
}

fn main() -> ExitCode {
    worker::serve("post", |_settings| Ok(Post::default()))
}
