//! A service whose processes share more than counters: accounts, and sessions that come and go. Every change is made
//! together with its record, in one transaction, so the journal replays to exactly what the maps hold.
//!
//! `supervisor --worker target/release/examples/bank`, then lines of `USER:` and
//!
//! ```text
//! transfer FROM TO AMOUNT    from one account to another; accounts begin at 0 and may be overdrawn
//! open KEY LENGTH            a session with a value of so many bytes, in place of one that has the key
//! close KEY                  ends a session, if there is one
//! clear                      ends all sessions: the map is deleted, and another made
//! ```
//!
//! Words behind these are recorded and ignored. The reply is a receipt as the line service writes it.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use worker::objects::{Counter, Folder, Map};
use worker::{Exchange, Kind, Refusal, Region, Service, Transaction, TxnError};

const FOLDER: &str = "bank";

/// The longest value of a session.
const LONGEST: usize = 64 * 1024;

/// What is asked for.
enum Request<'a> {
    Transfer { from: &'a str, to: &'a str, amount: i64 },
    Open { key: &'a str, length: usize },
    Close { key: &'a str },
    Clear,
}

impl<'a> Request<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let mut words = text.split(' ');
        Some(match words.next()? {
            "transfer" => {
                let (from, to) = (words.next()?, words.next()?);
                Self::Transfer { from, to, amount: words.next()?.parse().ok()? }
            }
            "open" => {
                let (key, length) = (words.next()?, words.next()?.parse().ok()?);
                (length <= LONGEST).then_some(Self::Open { key, length })?
            }
            "close" => Self::Close { key: words.next()? },
            "clear" => Self::Clear,
            _ => return None,
        })
    }

    fn make(&self, txn: &mut Transaction<'_, '_>, books: Books) -> Result<(), TxnError> {
        match *self {
            Self::Transfer { from, to, amount } => books.transfer(txn, from, to, amount),
            Self::Open { key, length } => {
                let sessions = books.sessions(txn)?;
                txn.map(sessions)?.put(key.as_bytes(), &value_of(key, length)).map(drop)
            }
            Self::Close { key } => {
                let sessions = books.sessions(txn)?;
                txn.map(sessions)?.remove(key.as_bytes()).map(drop)
            }
            Self::Clear => txn.delete(books.folder, "sessions").map(drop),
        }
    }
}

/// A session's value: its key, again and again.
fn value_of(key: &str, length: usize) -> Vec<u8> {
    key.bytes().cycle().take(length).collect()
}

/// What the processes share. Its handles are the same in all of them.
#[derive(Clone, Copy)]
struct Books {
    folder: Folder,
    /// Balances by account, each eight bytes.
    accounts: Map,
    /// Transfers made.
    transfers: Counter,
}

impl Books {
    /// The books, if somebody has made them already. Takes no lock.
    fn find(region: &Region) -> Option<Self> {
        let folder = Folder::open(region, FOLDER).ok()?;
        let accounts = folder.open_map(region, "accounts").ok()?;
        Some(Self { folder, accounts, transfers: folder.open_counter(region, "transfers").ok()? })
    }

    fn make(txn: &mut Transaction<'_, '_>) -> Result<Self, TxnError> {
        let folder = txn.open_or_create_folder(FOLDER)?;
        let accounts = txn.open_or_create_map(folder, "accounts")?;
        Ok(Self { folder, accounts, transfers: txn.open_or_create_counter(folder, "transfers")? })
    }

    fn transfer(
        self,
        txn: &mut Transaction<'_, '_>,
        from: &str,
        to: &str,
        amount: i64,
    ) -> Result<(), TxnError> {
        let mut accounts = txn.map(self.accounts)?;
        for (account, change) in [(from, amount.wrapping_neg()), (to, amount)] {
            let balance = match accounts.get(account.as_bytes())? {
                Some(bytes) => i64::from_le_bytes(bytes.try_into().map_err(|_| TxnError::Damaged)?),
                None => 0,
            };
            accounts.put(account.as_bytes(), &balance.wrapping_add(change).to_le_bytes())?;
        }
        txn.counter(self.transfers)?.add(1).map(drop)
    }

    /// By name, since the map of a moment ago may have been deleted. The folder's lock keeps it from being deleted now.
    fn sessions(self, txn: &mut Transaction<'_, '_>) -> Result<Map, TxnError> {
        txn.open_or_create_map(self.folder, "sessions")
    }
}

/// The service; knows the books from its first request on.
#[derive(Default)]
struct Bank {
    books: Option<Books>,
}

impl Bank {
    fn books(&mut self, exchange: &mut Exchange<'_>) -> Result<Books, Refusal> {
        let books = match self.books.or_else(|| Books::find(exchange.region())) {
            Some(books) => books,
            None => exchange.change(Books::make)?,
        };
        self.books = Some(books);
        Ok(books)
    }
}

impl Service for Bank {
    fn handle(&mut self, request: &[u8], exchange: &mut Exchange<'_>) -> Result<(), Refusal> {
        let malformed =
            || Refusal::new(Kind::Malformed, "say USER:transfer FROM TO AMOUNT, or open, close, clear");
        let text = std::str::from_utf8(request).map_err(|_| malformed())?;
        let (user, message) = text.split_once(':').ok_or_else(malformed)?;
        let request = Request::read(message).ok_or_else(malformed)?;
        let books = self.books(exchange)?;
        exchange.record_with(user, message, |txn| request.make(txn, books))?;
        let receipt = format!("server {} recvd message \"{message}\" from user {user}\n", exchange.pid());
        exchange.reply(receipt.as_bytes());
        Ok(())
    }
}

fn main() -> ExitCode {
    worker::serve("bank", |_settings| Ok(Bank::default()))
}
