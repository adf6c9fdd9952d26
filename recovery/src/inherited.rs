//! Files that the supervisor hands over open: this program may open nothing in the run directory.

use std::fs::File;
use std::os::fd::RawFd;
use std::str::FromStr;

use common::error::{Error, Result};
use common::sys::file;

/// The number of such a file's descriptor, which is said as `fd:N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inherited(RawFd);

impl FromStr for Inherited {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let number = text.strip_prefix("fd:").and_then(|number| number.parse().ok());
        // The first three are this program's own.
        match number.filter(|number| *number > 2) {
            Some(number) => Ok(Self(number)),
            None => Err("it is called by the supervisor, with fd:N for an open file".to_owned()),
        }
    }
}

impl Inherited {
    /// The file, which becomes this program's.
    ///
    /// # Errors
    /// Nothing is open under that number (exit 2).
    pub fn take(self) -> Result<File> {
        let Self(number) = self;
        match file::adopt(number) {
            Ok(descriptor) => Ok(descriptor.into()),
            Err(error) => {
                Err(Error::usage(format!("cannot use fd:{number}: {error}; start it from the supervisor")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_supervisor_says_is_taken() {
        assert_eq!("fd:7".parse(), Ok(Inherited(7)));
        for wrong in ["", "7", "fd:", "fd:2", "fd:-1", "fd:x", "fd:99999999999", "region"] {
            assert!(wrong.parse::<Inherited>().is_err(), "{wrong}");
        }
        assert!(Inherited(999_999).take().is_err());
    }
}
