//! How recovery hears of a death before the supervisor does: from whoever waits for a lock that the dead one holds. The
//! kernel tells the waiter (see `sys::knell`), and the waiter tells recovery who it is.
//!
//! Tidings are a hint, and may be wrong, late, or lost: recovery asks the kernel before it believes one, and the supervisor
//! orders every repair all the same.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::ids::{Generation, Owner, SlotIndex};
use crate::lock;
use crate::region::Region;
use crate::sys::{file, futex};

/// Bytes of one message: a write of so few is whole or not there, also when many write.
const MESSAGE: usize = 8;

/// Most messages that are read at a time.
const AT_ONCE: usize = 64;

/// The pipe between those who wait and recovery.
#[derive(Debug)]
pub struct Tidings(File);

impl Tidings {
    /// A new pipe, in one descriptor for both directions.
    ///
    /// # Errors
    /// What pipe and open report.
    pub fn new() -> io::Result<Self> {
        let (end, _) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        file::reopen_both_ways(&end).map(Self)
    }

    /// The pipe in a descriptor that was handed over.
    pub fn from_descriptor(descriptor: OwnedFd) -> Self {
        Self(File::from(descriptor))
    }

    /// Says that an owner seems to be dead. Where nobody listens any more, the supervisor sees to it.
    pub fn tell(&self, owner: Owner) {
        let word = u64::from(owner.generation.0) << 32 | u64::from(owner.slot.0);
        let _ = (&self.0).write(&word.to_ne_bytes());
    }

    /// Those who are said to be dead, without waiting.
    pub fn heard(&self) -> Vec<Owner> {
        let mut bytes = [0; AT_ONCE * MESSAGE];
        let length = (&self.0).read(&mut bytes).unwrap_or(0);
        let words = bytes[..length].chunks_exact(MESSAGE).filter_map(|chunk| chunk.try_into().ok());
        words.map(u64::from_ne_bytes).map(owner_in).collect()
    }
}

fn owner_in(word: u64) -> Owner {
    Owner { slot: SlotIndex(word as u32), generation: Generation((word >> 32) as u32) }
}

impl AsFd for Tidings {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sleeps on a lock that another holds, for at most `limit`. Where that other is at its end, `tidings` carries it to
/// recovery first: the lock will be free as soon as that has undone what it covers.
pub(crate) fn sleep_on(
    region: &Region,
    tidings: Option<&Tidings>,
    word: &AtomicU64,
    seen: u64,
    limit: Duration,
) {
    let holder = lock::owner_of(seen);
    let (Some(tidings), Some(holder)) = (tidings, holder) else {
        futex::wait(word, seen, limit);
        return;
    };
    let Some(slot) = region.slot(holder.slot) else {
        futex::wait(word, seen, limit);
        return;
    };
    if slot.knell.has_tolled() {
        tidings.tell(holder);
    }
    slot.knell.sleep_beside(word, seen, limit);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOMEBODY: Owner = Owner { slot: SlotIndex(7), generation: Generation(3) };

    #[test]
    fn what_is_told_is_heard() {
        let tidings = Tidings::new().unwrap();
        assert_eq!(tidings.heard(), []);
        tidings.tell(SOMEBODY);
        tidings.tell(Owner { slot: SlotIndex(u32::MAX), generation: Generation(u32::MAX) });
        let heard = tidings.heard();
        assert_eq!((heard.len(), heard[0]), (2, SOMEBODY));
        assert_eq!(tidings.heard(), []);
    }

    #[test]
    fn nobody_waits_for_a_listener() {
        let tidings = Tidings::new().unwrap();
        (0..100_000).for_each(|_| tidings.tell(SOMEBODY));
        assert_eq!(tidings.heard().len(), AT_ONCE);
    }

    #[test]
    fn half_a_message_spoils_no_later_one() {
        let tidings = Tidings::new().unwrap();
        (&tidings.0).write_all(&[1, 2, 3]).unwrap();
        assert_eq!(tidings.heard(), []);
        tidings.tell(SOMEBODY);
        assert_eq!(tidings.heard(), [SOMEBODY]);
    }
}
