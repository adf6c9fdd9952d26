//! The names of things: a slot is not a generation, and neither is a pid.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An index into the slot table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotIndex(pub u32);

/// Counts the owners that a slot has had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(pub u32);

/// Who owns something in the region: a slot in one of its generations. Never a bare pid, which is reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// The slot.
    pub slot: SlotIndex,
    /// The slot's generation.
    pub generation: Generation,
}

/// A place in the region, in bytes from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

/// A process, as the kernel numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pid(pub i32);

/// A journal file's name: minutes since the epoch, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Minute(pub u64);

impl Pid {
    /// This process.
    pub fn current() -> Self {
        Self(nix::unistd::getpid().as_raw())
    }

    /// The pid as nix names it.
    pub fn raw(self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.0)
    }
}

impl Minute {
    /// The minute that the clock shows.
    pub fn now() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self(since.map_or(0, |elapsed| elapsed.as_secs() / 60))
    }

    /// Whether the number is one that a clock can show and arithmetic cannot overflow from; what is read from outside
    /// is held against it.
    pub fn is_possible(self) -> bool {
        self.0 < 1 << 40
    }

    /// The name after this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {} generation {}", self.slot.0, self.generation.0)
    }
}

macro_rules! display_as_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
display_as_number!(SlotIndex, Generation, Offset, Pid, Minute);
