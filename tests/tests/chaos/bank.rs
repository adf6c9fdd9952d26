//! The bank under chaos. A change and its record are one transaction, and records stand in the order in which the
//! locks were had: the journal replays to exactly what the maps hold.

use std::collections::BTreeMap;

use common::objects::{Folder, ReadError};
use common::region::Region;
use holdfast_tests::journal::Record;
use holdfast_tests::random::Random;

const ACCOUNTS: u64 = 40;
const SESSIONS: u64 = 200;

/// Something to do for the bank; the note makes it unlike anything else.
pub fn say(random: &mut Random, note: &str) -> String {
    match random.below(200) {
        0..4 => format!("clear {note}"),
        4..100 => {
            let (from, to) = (random.below(ACCOUNTS), random.below(ACCOUNTS));
            format!("transfer account-{from} account-{to} {} {note}", random.below(1000))
        }
        100..160 => {
            format!("open session-{} {} {note}", random.below(SESSIONS), 10 + random.below(2990))
        }
        _ => format!("close session-{} {note}", random.below(SESSIONS)),
    }
}

/// What the bank must hold.
#[derive(Debug, Default, PartialEq, Eq)]
struct Model {
    accounts: BTreeMap<String, i64>,
    sessions: BTreeMap<String, Vec<u8>>,
    transfers: u64,
}

/// What the bank holds is what its journal says.
#[track_caller]
pub fn check(region: &Region, records: &[Record]) {
    let mut said = Model::default();
    records.iter().for_each(|record| said.replay(&record.message));
    let held = Model::read(region).expect("the bank can be read");
    assert_eq!(held.accounts.values().sum::<i64>(), 0, "money is moved, not made: {:?}", held.accounts);
    assert_eq!(held.accounts, said.accounts);
    assert_eq!(held.transfers, said.transfers);
    assert!(
        held.sessions.keys().eq(said.sessions.keys()),
        "{:?}",
        (held.sessions.keys(), said.sessions.keys())
    );
    assert!(held.sessions == said.sessions, "a session's value is another");
}

impl Model {
    fn replay(&mut self, message: &str) {
        let words: Vec<_> = message.split(' ').collect();
        match words[0] {
            "transfer" => {
                let amount: i64 = words[3].parse().expect("a number was sent");
                *self.accounts.entry(words[1].to_owned()).or_default() -= amount;
                *self.accounts.entry(words[2].to_owned()).or_default() += amount;
                self.transfers += 1;
            }
            "open" => {
                let length = words[2].parse().expect("a number was sent");
                let value = words[1].bytes().cycle().take(length).collect();
                self.sessions.insert(words[1].to_owned(), value);
            }
            "close" => drop(self.sessions.remove(words[1])),
            "clear" => self.sessions.clear(),
            other => panic!("nobody says {other}"),
        }
    }

    fn read(region: &Region) -> Result<Self, ReadError> {
        let text = |bytes| String::from_utf8(bytes).map_err(|_| ReadError::Damaged);
        let mut this = Self::default();
        let bank = Folder::open(region, "bank")?;
        for (account, balance) in bank.open_map(region, "accounts")?.entries(region)? {
            let balance = balance.try_into().map(i64::from_le_bytes).map_err(|_| ReadError::Damaged)?;
            this.accounts.insert(text(account)?, balance);
        }
        let sessions = match bank.open_map(region, "sessions") {
            // Cleared, and none opened since.
            Err(ReadError::NotFound) => Vec::new(),
            sessions => sessions?.entries(region)?,
        };
        for (key, value) in sessions {
            this.sessions.insert(text(key)?, value);
        }
        this.transfers = bank.open_counter(region, "transfers")?.get(region)?;
        Ok(this)
    }
}
