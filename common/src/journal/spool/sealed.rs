//! What is sealed, said so that it survives the machine, and can be said on a full disk.

use std::io::{self, Read as _};

use nix::fcntl::{OFlag, renameat};

use super::Spool;
use crate::ids::Minute;
use crate::journal::generated;
use crate::sys::file;

const SEALED: &str = "sealed";
const SEALED_NEXT: &str = ".sealed.next";

/// Bytes of the file that says what is sealed, filled up with blanks: it is written again in its place.
const SEALED_LENGTH: usize = 32;

impl Spool {
    /// The durable record of what is sealed; minute 0 where nothing is.
    ///
    /// # Errors
    /// What reading reports; a file that holds no number.
    pub fn read_sealed(&self) -> io::Result<Minute> {
        let mut text = String::new();
        match self.open(SEALED, OFlag::O_RDONLY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Minute(0)),
            file => file?.take(64).read_to_string(&mut text)?,
        };
        match text.trim().parse().map(Minute) {
            Ok(minute) if minute.is_possible() => Ok(minute),
            _ => {
                let text = "SPOOL/sealed does not hold the number of a minute";
                Err(io::Error::new(io::ErrorKind::InvalidData, text))
            }
        }
    }

    /// Makes it durable that every minute up to `minute` is sealed. Once [`Spool::prepare_sealed`] had room, it needs
    /// none: two files change places, and the one that is not in force is written again where it lies.
    ///
    /// # Errors
    /// What writing, fsync and rename report; then what was there before stands.
    pub fn write_sealed(&self, minute: Minute) -> io::Result<()> {
        let next = self.open(SEALED_NEXT, OFlag::O_RDWR | OFlag::O_CREAT)?;
        let text = format!("{minute:<width$}\n", width = SEALED_LENGTH - 1);
        file::write_whole_at(&next, text.as_bytes(), 0)?;
        next.set_len(SEALED_LENGTH as u64)?;
        next.sync_all()?;
        if !self.exchange(SEALED_NEXT, SEALED)? {
            renameat(self.fd(), SEALED_NEXT, self.fd(), SEALED)?;
        }
        self.sync()
    }

    /// Makes the files that sealing uses, while there is room for them: what is sealed can then be counted and said
    /// when there is none. For whoever seals, since the files become its own.
    ///
    /// # Errors
    /// What the file system reports; sealing tries again.
    pub fn prepare(&self) -> io::Result<()> {
        if !self.exists(SEALED)? {
            self.write_sealed(Minute(0))?;
        }
        let next = self.open(SEALED_NEXT, OFlag::O_RDWR | OFlag::O_CREAT)?;
        file::write_whole_at(&next, &[b' '; SEALED_LENGTH], 0)?;
        generated::prepare(self)
    }

    /// Lets two files change places. False where one is missing or the file system cannot do that.
    fn exchange(&self, one: &str, other: &str) -> io::Result<bool> {
        use rustix::fs::RenameFlags;
        use rustix::io::Errno;
        match rustix::fs::renameat_with(self.fd(), one, self.fd(), other, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open_or_create(directory.path()).unwrap();
        assert_eq!(spool.read_sealed().unwrap(), Minute(0));
        for minute in [42, 43, 1_000_000] {
            spool.write_sealed(Minute(minute)).unwrap();
            assert_eq!(spool.read_sealed().unwrap(), Minute(minute));
        }
        for garbage in ["garbage", "", "-1", "100000000000000000", "18446744073709551615"] {
            std::fs::write(directory.path().join("sealed"), garbage).unwrap();
            assert!(spool.read_sealed().is_err(), "{garbage}");
        }
    }
}
