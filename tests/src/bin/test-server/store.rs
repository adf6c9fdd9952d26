//! What was received: a file for each key, complete or not there.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use common::journal::tally::Counter;

/// Where received files are kept.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    _temporary: Option<tempfile::TempDir>,
    discard: bool,
    number: AtomicU64,
}

/// A file that was received.
#[derive(Debug)]
pub struct Received {
    /// Where it is until it is kept.
    aside: PathBuf,
    /// Bytes.
    pub bytes: u64,
    /// Records.
    pub records: u64,
}

impl Store {
    /// Opens the directory, making it if need be.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn open(directory: Option<&Path>, discard: bool) -> io::Result<Self> {
        let temporary = if directory.is_none() { Some(tempfile::tempdir()?) } else { None };
        let directory = match (&temporary, directory) {
            (Some(temporary), _) => temporary.path().to_owned(),
            (None, Some(directory)) => directory.to_owned(),
            (None, None) => return Err(io::ErrorKind::NotFound.into()),
        };
        fs::create_dir_all(&directory)?;
        Ok(Self { directory, _temporary: temporary, discard, number: AtomicU64::new(0) })
    }

    /// Receives a body, out of the way.
    ///
    /// # Errors
    /// What reading and writing report.
    pub fn receive(&self, mut body: impl Read) -> io::Result<Received> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let aside = self.directory.join(format!(".{}.{number}", std::process::id()));
        let mut file = if self.discard { None } else { Some(File::create(&aside)?) };
        let (mut counter, mut bytes, mut chunk) = (Counter::default(), 0, vec![0; 256 * 1024]);
        loop {
            match body.read(&mut chunk)? {
                0 => break,
                count => {
                    bytes += count as u64;
                    counter.feed(&chunk[..count]);
                    if let Some(file) = &mut file {
                        file.write_all(&chunk[..count])?;
                    }
                }
            }
        }
        Ok(Received { aside, bytes, records: counter.finish().all() })
    }

    /// Keeps what was received under its key. False where there was something under it already.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn keep(&self, received: &Received, key: &str) -> io::Result<bool> {
        let place = self.directory.join(key);
        if self.discard {
            return match File::options().write(true).create_new(true).open(place) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
                created => created.map(|_| true),
            };
        }
        // A link is made whole or not at all, and does not replace what is there.
        let kept = match fs::hard_link(&received.aside, place) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            linked => linked.map(|()| true),
        };
        fs::remove_file(&received.aside)?;
        kept
    }

    /// Forgets what was received.
    pub fn forget(&self, received: &Received) {
        let _ = fs::remove_file(&received.aside);
    }

    /// What is kept under a key.
    ///
    /// # Errors
    /// What open reports.
    pub fn kept(&self, key: &str) -> io::Result<File> {
        File::open(self.directory.join(key))
    }

    /// A key for what came without one.
    pub fn fresh_key(&self) -> String {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        format!("without-{}-{number}", common::sys::process::now_ns())
    }
}
