//! What is known of a finished file: which one it is, how many records it has, and the key under which a server knows
//! it again.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use common::ids::Minute;
use common::journal::spool::{Spool, data_name};
use common::journal::tally::{self, Tally};
use common::sys::process;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// The name of the link that holds a spool's id.
const ID: &str = ".spool-id";

/// Bytes of the digest in a key.
const DIGEST: usize = 16;

/// Tells whether a file is still the one that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    /// Of an open file.
    ///
    /// # Errors
    /// What fstat reports.
    pub fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// What is in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Which file.
    pub stamp: Stamp,
    /// Its bytes.
    pub size: u64,
    /// Its records.
    pub tally: Tally,
    /// The same for the same content of the same minute in the same spool, whoever sends it and whenever.
    pub key: String,
}

impl Content {
    /// Reads a file from its beginning to its end, in little memory.
    ///
    /// # Errors
    /// What reading reports; a file that changed meanwhile.
    pub fn of(file: &File, spool_id: &str, minute: Minute) -> io::Result<Self> {
        let stamp = Stamp::of(file)?;
        let mut digest = blake3::Hasher::new();
        let mut size = 0;
        let tally = tally::count(file, |chunk| {
            digest.update(chunk);
            size += chunk.len() as u64;
        })?;
        if size != stamp.size || Stamp::of(file)? != stamp {
            return Err(io::Error::other("it is still being written to"));
        }
        let mut key = format!("{spool_id}-{minute}-");
        for byte in &digest.finalize().as_bytes()[..DIGEST] {
            let _ = write!(key, "{byte:02x}");
        }
        Ok(Self { stamp, size, tally, key })
    }
}

/// Opens a minute's finished file, if it is there and a file.
///
/// # Errors
/// What open reports.
pub fn open(spool: &Spool, minute: Minute) -> io::Result<Option<File>> {
    match spool.open_plain_file(&data_name(minute)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Ok(None) => Err(io::Error::other("it is not a file")),
        opened => opened,
    }
}

/// The spool's id: files of equal content in two spools are two files. It is the text of a symbolic link, which comes
/// into being whole or not at all, and needs no room on a full disk.
///
/// # Errors
/// What symlink and readlink report; a link that holds something else.
pub fn spool_id(spool: &Spool) -> io::Result<String> {
    let directory = spool.directory();
    let fresh = format!("{:016x}", process::random_word()?);
    match rustix::fs::symlinkat(&fresh, directory, ID) {
        Ok(()) => spool.sync()?,
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let text = rustix::fs::readlinkat(directory, ID, Vec::new())?;
    match text.to_str() {
        Ok(id) if id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) => Ok(id.to_owned()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("SPOOL/{ID} is not a spool's id"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_of_spool_minute_and_content_alone() {
        let directory = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let spool = Spool::open_or_create(directory.path()).unwrap();
        let id = spool_id(&spool).unwrap();
        assert_eq!(spool_id(&spool).unwrap(), id);
        assert_ne!(spool_id(&Spool::open_or_create(other.path()).unwrap()).unwrap(), id);
        let key = |id: &str, minute: u64, text: &str| {
            let path = directory.path().join(data_name(Minute(minute)));
            std::fs::write(path, text).unwrap();
            let file = open(&spool, Minute(minute)).unwrap().unwrap();
            Content::of(&file, id, Minute(minute)).unwrap().key
        };
        let all = [
            key(&id, 1, "a"),
            key(&id, 2, "a"),
            key(&id, 1, "b"),
            key("0123456789abcdef", 1, "a"),
            key(&id, 1, ""),
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(key(&id, 1, "a"), all[0]);
        assert!(all[0].bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open_or_create(directory.path()).unwrap();
        assert!(open(&spool, Minute(1)).unwrap().is_none());
        std::fs::create_dir(directory.path().join("1.dat")).unwrap();
        assert!(open(&spool, Minute(1)).is_err());
        std::os::unix::fs::symlink("/etc/passwd", directory.path().join("2.dat")).unwrap();
        assert!(open(&spool, Minute(2)).is_err());
        nix::unistd::mkfifo(&directory.path().join("3.dat"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(open(&spool, Minute(3)).is_err());
    }
}
