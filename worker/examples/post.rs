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
//! sort              the queue of letters gets its other name         burn             it is deleted, and another made
//! store             the ledger goes to the attic, or back            blank            it is deleted, and another made
//! ```
//!
//! Words behind these are recorded and ignored. A parcel is worked on outside of any transaction: whoever dies at that has
//! not taken it. Who has an object that is renamed goes on with it; who has one that is deleted looks for the next. The reply
//! is a receipt as the line service writes it.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use worker::objects::queue::End;
use worker::objects::{Blob, Folder, Queue};
use worker::{Exchange, Kind, Refusal, Region, Service, Transaction, TxnError};

const FOLDER: &str = "post/office";
const ATTIC: &str = "post/attic";

/// The names that the queue of letters may have.
const LETTERS: [&str; 2] = ["letters", "sorted"];

/// How often one looks for an object that others move and replace meanwhile.
const TRIES: usize = 100;

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
    Sort,
    Burn,
    Store,
    Blank,
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
            "sort" => Self::Sort,
            "burn" => Self::Burn,
            "store" => Self::Store,
            "blank" => Self::Blank,
            _ => return None,
        })
    }
}

/// What the processes share. Its handles are the same in all of them.
#[derive(Clone, Copy)]
struct Office {
    folder: Folder,
    attic: Folder,
    letters: Queue,
    parcels: Queue,
    ledger: Blob,
}

impl Office {
    /// Where everything is at this moment. What is being moved may be missed.
    fn find(region: &Region) -> Option<Self> {
        let (folder, attic) = (Folder::open(region, FOLDER).ok()?, Folder::open(region, ATTIC).ok()?);
        let queue = |name| folder.open_queue(region, name).ok();
        let ledger = |place: Folder| place.open_blob(region, "ledger").ok();
        Some(Self {
            folder,
            attic,
            letters: LETTERS.into_iter().find_map(queue)?,
            parcels: queue("parcels")?,
            ledger: [folder, attic].into_iter().find_map(ledger)?,
        })
    }

    /// Makes all of it. An error where somebody has.
    fn make(txn: &mut Transaction<'_, '_>) -> Result<(), TxnError> {
        txn.open_or_create_folder("post")?;
        let folder = txn.create_folder(FOLDER)?;
        txn.create_folder(ATTIC)?;
        txn.create_queue(folder, LETTERS[0], 0)?;
        txn.create_queue(folder, "parcels", 0)?;
        new_ledger(txn, folder)
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
            Request::Sort => {
                let (name, other) = self.letters_name(txn.region());
                txn.rename(self.folder, name, self.folder, other)
            }
            Request::Burn => {
                let (name, _) = self.letters_name(txn.region());
                if !txn.delete(self.folder, name)? {
                    return Err(TxnError::NotFound);
                }
                txn.create_queue(self.folder, name, 0).map(drop)
            }
            Request::Store => {
                let (place, other) = self.ledger_place(txn.region());
                txn.rename(place, "ledger", other, "ledger")
            }
            Request::Blank => {
                let (place, _) = self.ledger_place(txn.region());
                if !txn.delete(place, "ledger")? {
                    return Err(TxnError::NotFound);
                }
                new_ledger(txn, place)
            }
        }
    }

    /// The name that the queue of letters has, and the other one. By the time that the folder is locked it may be otherwise.
    fn letters_name(self, region: &Region) -> (&'static str, &'static str) {
        let [first, second] = LETTERS;
        if self.folder.open_queue(region, first).is_ok() { (first, second) } else { (second, first) }
    }

    /// Where the ledger is, and where it is not, likewise.
    fn ledger_place(self, region: &Region) -> (Folder, Folder) {
        let here = self.folder.open_blob(region, "ledger").is_ok();
        if here { (self.folder, self.attic) } else { (self.attic, self.folder) }
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

fn new_ledger(txn: &mut Transaction<'_, '_>, place: Folder) -> Result<(), TxnError> {
    let ledger = txn.create_blob(place, "ledger")?;
    txn.blob(ledger)?.set(&[0; LEDGER])
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

impl Post {
    fn office(&mut self, exchange: &mut Exchange<'_>) -> Result<Office, Refusal> {
        for _ in 0..TRIES {
            self.office = self.office.or_else(|| Office::find(exchange.region()));
            if let Some(office) = self.office {
                return Ok(office);
            }
            let made = exchange.change(Office::make);
            if Folder::open(exchange.region(), FOLDER).is_err() {
                made?;
            }
        }
        Err(Refusal::new(Kind::Busy, "the office is never where it was"))
    }

    /// What the office of a moment ago had may have been moved or replaced: it is looked for again then.
    fn change(
        &mut self,
        exchange: &mut Exchange<'_>,
        user: &str,
        text: &str,
        request: &Request,
    ) -> Result<(), Refusal> {
        for _ in 0..TRIES {
            let office = self.office(exchange)?;
            let mut gone = false;
            let done = exchange.record_with(user, text, |txn| {
                office
                    .change(txn, request, text)
                    .inspect_err(|error| gone = matches!(error, TxnError::NotFound | TxnError::Exists))
            });
            if !gone {
                return done;
            }
            self.office = None;
        }
        Err(Refusal::new(Kind::Busy, "the office is never where it was"))
    }
}

impl Service for Post {
    fn handle(&mut self, request: &[u8], exchange: &mut Exchange<'_>) -> Result<(), Refusal> {
        let malformed = || Refusal::new(Kind::Malformed, "say USER:post LENGTH, or another of the commands");
        let text = std::str::from_utf8(request).map_err(|_| malformed())?;
        let (user, message) = text.split_once(':').ok_or_else(malformed)?;
        let request = Request::read(message).ok_or_else(malformed)?;
        match request {
            Request::Work => self.office(exchange)?.work(exchange, user, message)?,
            _ => self.change(exchange, user, message, &request)?,
        }
        let receipt = format!("server {} recvd message \"{message}\" from user {user}\n", exchange.pid());
        exchange.reply(receipt.as_bytes());
        Ok(())
    }
}

fn main() -> ExitCode {
    worker::serve("post", |_settings| Ok(Post::default()))
}
