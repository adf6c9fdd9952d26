//! A repair that is anticipated: the dead one has ended by the kernel's word, and is not reaped yet.

use std::process::{Child, Command};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use common::ids::Pid;
use common::region::Region;
use common::sys::knell;

use crate::arena::ACTOR;

/// What the kernel sets in the word of a thread that has ended.
const TOLLED: u32 = nix::libc::FUTEX_OWNER_DIED;

/// Nothing that is started here takes this long to end.
const LIMIT: Duration = Duration::from_secs(10);

/// A process that has ended and is not reaped before this is dropped.
pub struct Corpse(Child);

impl Corpse {
    /// Starts one, and waits until it has ended.
    pub fn new() -> Result<Self, String> {
        let child = Command::new("true").spawn().map_err(|error| format!("cannot start one: {error}"))?;
        let (corpse, began) = (Self(child), Instant::now());
        while !knell::is_ending(corpse.pid()).is_ok_and(|ended| ended) {
            if began.elapsed() > LIMIT {
                return Err("a process does not end".to_owned());
            }
            std::thread::yield_now();
        }
        Ok(corpse)
    }

    fn pid(&self) -> Pid {
        Pid(self.0.id().cast_signed())
    }

    /// Whatever the actor leaves, it was this process, and the kernel has tolled for it.
    pub fn was_the_actor(&self, region: &Region) -> Result<(), String> {
        let slot = region.slot(ACTOR.slot).ok_or("no such slot")?;
        slot.pid.store(self.0.id(), SeqCst);
        slot.knell.word.store(self.0.id() | TOLLED, SeqCst);
        Ok(())
    }
}

impl Drop for Corpse {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
