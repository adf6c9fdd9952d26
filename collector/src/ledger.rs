//! What was delivered, so that it can be added up after any death.
//!
//! A delivery is counted, durably, before its file goes. Whoever dies in between leaves the file and, in the ledger,
//! its name, key and stamp: the next distributor takes this very file away without sending or counting it again. Another
//! one of that name, though it holds the same, is sent. The ledger is one small file of fixed size, so that it needs no
//! room on a full disk.

use std::io;

use common::ids::Minute;
use common::journal::spool::{Spool, data_name};
use common::journal::tally::Tally;
use common::journal::twofold::Twofold;
use serde::{Deserialize, Serialize};

use crate::content::{Content, Stamp};

const FILE: &str = ".delivered";
const LENGTH: usize = 32 * 1024;

/// Deliveries that are counted together, at most. So many may have files that are still there before the directory is
/// made durable; twice as many, with the longest minutes, keys and stamps, fit into the ledger: what was being sent when
/// there were nearly so many comes besides, and no more files than these are ever sent at a time.
pub const MOST_SETTLING: usize = 64;

/// What the ledger says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    /// Files delivered.
    pub files: u64,
    /// Bytes delivered, as they were in the files.
    pub bytes: u64,
    /// Records delivered that the spool's own writers made.
    pub own: u64,
    /// Records delivered of other programs.
    pub foreign: u64,
    /// Delivered files that may still be there.
    settling: Vec<Settling>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Settling {
    minute: u64,
    key: String,
    /// Which file; a ledger of an older version does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stamp: Option<Stamp>,
}

impl Book {
    /// Records delivered.
    pub fn records(&self) -> Tally {
        Tally { own: self.own, foreign: self.foreign }
    }

    /// Whether what is in this file is counted as delivered.
    pub fn has(&self, minute: Minute, key: &str) -> bool {
        self.settled(minute, key).next().is_some()
    }

    /// Whether this very file is, and not one that was made since and holds the same.
    pub fn has_file(&self, minute: Minute, content: &Content) -> bool {
        self.settled(minute, &content.key).any(|file| file.stamp.is_none_or(|stamp| stamp == content.stamp))
    }

    fn settled(&self, minute: Minute, key: &str) -> impl Iterator<Item = &Settling> {
        self.settling.iter().filter(move |settling| settling.minute == minute.0 && settling.key == key)
    }

    /// Minutes whose delivered files may still be there.
    pub fn settling(&self) -> impl Iterator<Item = Minute> + '_ {
        self.settling.iter().map(|settling| Minute(settling.minute))
    }

    /// What the ledger of a spool says.
    ///
    /// # Errors
    /// What reading reports; a text that is no ledger.
    pub fn read(spool: &Spool) -> io::Result<Self> {
        match spool.open_file(FILE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            file => Self::parse(Twofold::read(&file?, LENGTH)?),
        }
    }

    fn parse(text: Option<String>) -> io::Result<Self> {
        let Some(text) = text else { return Ok(Self::default()) };
        serde_json::from_str(&text).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("SPOOL/{FILE} is no ledger: {error}"))
        })
    }
}

/// The ledger of a spool, for the one who delivers.
#[derive(Debug)]
pub struct Ledger {
    file: Option<Twofold>,
    book: Book,
}

impl Ledger {
    /// Opens the ledger, or begins it. Where there is no room for it yet, it is begun as soon as a delivery made some.
    ///
    /// # Errors
    /// What reading reports.
    pub fn open(spool: &Spool) -> io::Result<Self> {
        let book = Book::read(spool)?;
        let file = match Self::begin(spool) {
            Ok(file) => Some(file),
            Err(error) if is_full(&error) => {
                log::error!(
                    "there is no room for the ledger; until there is, deliveries are not counted durably"
                );
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self { file, book })
    }

    fn begin(spool: &Spool) -> io::Result<Twofold> {
        Ok(Twofold::open(spool.open_or_create_file(FILE)?, LENGTH)?.0)
    }

    /// What it says.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// Whether another delivery can be counted once these are, without looking which files are gone.
    pub fn has_room_beside(&self, uncounted: usize) -> bool {
        self.book.settling.len() + uncounted < MOST_SETTLING
    }

    /// Counts at most [`MOST_SETTLING`] deliveries, durably: after that their files may go.
    ///
    /// # Errors
    /// What writing reports; then none of them is counted.
    pub fn count(&mut self, spool: &Spool, delivered: &[(Minute, Content)]) -> io::Result<()> {
        let mut next = self.book.clone();
        if next.settling.len() + delivered.len() > MOST_SETTLING {
            next.settling = self.still_there(spool)?;
        }
        for (minute, content) in delivered {
            next.files += 1;
            next.bytes += content.size;
            next.own += content.tally.own;
            next.foreign += content.tally.foreign;
            next.settling.push(Settling {
                minute: minute.0,
                key: content.key.clone(),
                stamp: Some(content.stamp),
            });
        }
        self.write(spool, next)
    }

    /// Forgets the delivered files that are gone for good.
    ///
    /// # Errors
    /// What writing reports.
    pub fn settle(&mut self, spool: &Spool) -> io::Result<()> {
        if self.book.settling.is_empty() {
            return Ok(());
        }
        let settling = self.still_there(spool)?;
        self.write(spool, Book { settling, ..self.book.clone() })
    }

    /// Begins the ledger where there was no room for it before: a file that was removed may have made some.
    ///
    /// # Errors
    /// What writing reports.
    pub fn begin_late(&mut self, spool: &Spool) -> io::Result<()> {
        if self.file.is_some() { Ok(()) } else { self.write(spool, self.book.clone()) }
    }

    fn still_there(&self, spool: &Spool) -> io::Result<Vec<Settling>> {
        spool.sync()?;
        let mut left = Vec::new();
        for settling in &self.book.settling {
            if spool.exists(&data_name(Minute(settling.minute)))? {
                left.push(settling.clone());
            }
        }
        Ok(left)
    }

    fn write(&mut self, spool: &Spool, next: Book) -> io::Result<()> {
        if self.file.is_none() {
            match Self::begin(spool) {
                Ok(file) => self.file = Some(file),
                Err(error) if is_full(&error) => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(file) = &mut self.file {
            file.write(&serde_json::to_string(&next)?)?;
        }
        self.book = next;
        Ok(())
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn twice_the_most_that_settle_fit_with_the_longest_names() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open_or_create(directory.path()).unwrap();
        let key = "f".repeat(16 + 1 + 20 + 1 + 32);
        let stamp = format!(r#"{{"inode":{0},"size":{0},"modified":[{1},{1}]}}"#, u64::MAX, i64::MIN);
        let stamp = serde_json::from_str(&stamp).unwrap();
        let settling = vec![Settling { minute: u64::MAX, key, stamp }; 2 * MOST_SETTLING];
        let book = Book { files: u64::MAX, bytes: u64::MAX, own: u64::MAX, foreign: u64::MAX, settling };
        Ledger::open(&spool).unwrap().write(&spool, book.clone()).unwrap();
        assert_eq!(Book::read(&spool).unwrap(), book);
    }

    #[test]
    fn another_file_of_the_same_content_is_not_the_one_that_was_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("7.dat");
        let content = || Content::of(&File::open(&path).unwrap(), "0123456789abcdef", Minute(7)).unwrap();
        std::fs::write(&path, "a\n").unwrap();
        let first = content();
        File::options().append(true).open(&path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        let second = content();
        assert_eq!(first.key, second.key);
        let spool = Spool::open_or_create(directory.path()).unwrap();
        Ledger::open(&spool).unwrap().count(&spool, &[(Minute(7), first.clone())]).unwrap();
        let book = Book::read(&spool).unwrap();
        assert!(book.has_file(Minute(7), &first) && !book.has_file(Minute(7), &second));
        assert!(book.has(Minute(7), &second.key));
        // As it was written before there were stamps.
        let older = r#"{"files":1,"bytes":2,"own":0,"foreign":1,"settling":[{"minute":7,"key":"KEY"}]}"#;
        let older = Book::parse(Some(older.replace("KEY", &first.key))).unwrap();
        assert!(older.has_file(Minute(7), &first) && older.has_file(Minute(7), &second));
        assert!(!older.has_file(Minute(8), &first));
    }

    #[test]
    fn a_ledger_that_found_no_room_is_written_once_there_is() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open_or_create(directory.path()).unwrap();
        let book = Book { files: 3, ..Book::default() };
        let mut ledger = Ledger { file: None, book: book.clone() };
        ledger.begin_late(&spool).unwrap();
        assert_eq!(Book::read(&spool).unwrap(), book);
    }

    #[test]
    fn what_is_counted_is_found_again_and_the_ledger_does_not_grow() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open_or_create(directory.path()).unwrap();
        let path = directory.path().join("7.dat");
        std::fs::write(&path, "a\nb\n").unwrap();
        let content = Content::of(&File::open(&path).unwrap(), "0123456789abcdef", Minute(7)).unwrap();
        let mut ledger = Ledger::open(&spool).unwrap();
        assert_eq!(Book::read(&spool).unwrap(), Book::default());
        let size = || std::fs::metadata(directory.path().join(FILE)).unwrap().len();
        let begun = size();
        for minute in 8..508 {
            ledger.count(&spool, &[(Minute(minute), content.clone())]).unwrap();
            assert!(ledger.book().has(Minute(minute), &content.key));
        }
        let book = Book::read(&spool).unwrap();
        assert_eq!((book.files, book.bytes, book.records()), (500, 2000, Tally { own: 0, foreign: 1000 }));
        assert!(book.has(Minute(507), &content.key) && !book.has(Minute(507), "another"));
        ledger.settle(&spool).unwrap();
        assert_eq!(Book::read(&spool).unwrap().settling().count(), 0);
        assert_eq!(Ledger::open(&spool).unwrap().book().files, 500);
        assert_eq!(size(), begun);
    }
}
