//! What can go wrong with a block, each in one sentence.

use std::fmt;
use std::io;

use common::error::Error;

use super::layout::MAX_CONTENT;

/// Why something could not be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// This is no name that a block can have.
    Name(String),
    /// The directory is not to be used, and why.
    Directory(String),
    /// There is no block of this name.
    Unknown(String),
    /// The block of this name was removed while it was used.
    Removed(String),
    /// The time was over; what was waited for.
    Busy(String),
    /// Content of so many bytes, where so many are the most.
    TooLarge(u64, u64),
    /// Content of no bytes.
    Empty,
    /// Something that is called in the wrong order, and what comes first.
    Order(&'static str),
    /// The file is not to be used, and why.
    Refused(String),
    /// The system's word: what was done, and how it failed.
    System(String),
}

/// What everything about blocks gives.
pub type Result<T> = std::result::Result<T, Failure>;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(
                f,
                "{name:?} is not a name for a block: it has 1 to 200 letters, digits and ._- and begins with a letter, a \
                 digit or _"
            ),
            Self::Directory(why) | Self::Refused(why) | Self::System(why) => f.write_str(why),
            Self::Unknown(name) => {
                write!(
                    f,
                    "there is no block {name}: a producer has to write it first, or it is in another directory"
                )
            }
            Self::Removed(name) => {
                write!(f, "block {name} was removed; open it again once a producer has written it")
            }
            Self::Busy(what) => write!(f, "waited in vain: {what}; try again or wait for longer"),
            Self::TooLarge(length, most) if *most == MAX_CONTENT => {
                write!(f, "content of {length} bytes is too large: a block holds at most {most}; use several")
            }
            Self::TooLarge(length, most) => {
                write!(
                    f,
                    "content of {length} bytes does not fit into the {most} asked for; ask for more, or for no size"
                )
            }
            Self::Empty => f.write_str("there is nothing to write: a block holds at least one byte"),
            Self::Order(first) => write!(f, "not yet: {first} comes first"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Name(_) | Failure::Directory(_) => Self::usage(failure.to_string()),
            _ => Self::failure(failure.to_string()),
        }
    }
}

/// Names what was being done when a system call failed.
pub(super) trait Doing<T> {
    /// `doing: cause`.
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| Failure::System(format!("{}: {}", doing(), cause.into())))
    }
}
