//! Descriptors that go along to the next program in this process. They keep their numbers: what was packed here is a
//! number there.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};

use common::error::{Context, Error, Result};
use common::sys::file;
use serde::{Deserialize, Serialize};

/// What goes along.
#[derive(Debug, Default)]
pub struct Luggage<'a>(Vec<BorrowedFd<'a>>);

/// A descriptor that goes along, or has come.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Packed(RawFd);

/// What has come, to be taken piece by piece.
#[derive(Debug, Default)]
pub struct Arrived(BTreeSet<RawFd>);

impl<'a> Luggage<'a> {
    /// Lets a descriptor go along.
    pub fn pack(&mut self, descriptor: &'a impl AsFd) -> Packed {
        let descriptor = descriptor.as_fd();
        self.0.push(descriptor);
        Packed(descriptor.as_raw_fd())
    }

    /// All of them.
    pub fn descriptors(&self) -> &[BorrowedFd<'a>] {
        &self.0
    }
}

impl Arrived {
    /// Takes a descriptor. It is kept from children from now on.
    ///
    /// # Errors
    /// One that is not open, is no part of the luggage, or has been taken.
    pub fn take(&mut self, packed: Packed) -> Result<OwnedFd> {
        let Packed(number) = packed;
        let doing = || format!("cannot take over descriptor {number}");
        if number <= 2 || !self.0.insert(number) {
            return Err(Error::failure(format!("{}: it is another's", doing())));
        }
        file::adopt(number).context(doing)
    }
}

impl Packed {
    /// Its number, for who may look at what is behind it and leaves it where it is.
    pub fn number(self) -> RawFd {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd as _;

    use super::*;

    #[test]
    fn each_piece_is_taken_once() {
        let file = tempfile::tempfile().unwrap();
        let mut luggage = Luggage::default();
        let packed = luggage.pack(&file);
        assert_eq!(luggage.descriptors().len(), 1);
        let number = packed.number();
        assert_eq!(file.into_raw_fd(), number);
        let mut arrived = Arrived::default();
        assert_eq!(arrived.take(packed).unwrap().as_raw_fd(), number);
        for other in [number, 2, -1, 1_000_000] {
            assert!(arrived.take(Packed(other)).is_err(), "{other}");
        }
    }
}
