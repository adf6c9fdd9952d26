//! What the workers of the book are at, as their slots say. A slot that says something else than its worker does costs
//! that worker or a moment, and nobody else anything.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use common::ids::{Pid, SlotIndex};
use common::region::Region;
use common::slots::Activity;

use crate::policy::Clock;

use super::{Leave, Pool, Standing};

/// A worker that has been at one request for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overdue {
    /// Its process.
    pub pid: Pid,
    /// Its slot.
    pub slot: SlotIndex,
    /// For how long, in milliseconds.
    pub for_ms: u64,
}

/// Whether a slot says that its owner waits for a connection.
pub(super) fn is_idle(region: &Region, slot: SlotIndex) -> bool {
    region.slot(slot).is_some_and(|slot| slot.activity.load(SeqCst) == Activity::Idle as u32)
}

impl Pool {
    /// Ready workers, outdated or not, that wait for a connection.
    pub fn idle(&self, region: &Region) -> u32 {
        let ready = |entry: &super::Entry| matches!(entry.standing, Standing::Ready(_));
        let entries = (0..).map(SlotIndex).zip(&self.entries).filter(|(_, entry)| ready(entry));
        entries.filter(|(slot, _)| is_idle(region, *slot)).count() as u32
    }

    /// Whether nobody serves a connection, leaves, or is dead and not repaired. Attached programs are not looked at.
    pub fn is_at_rest(&self, region: &Region) -> bool {
        let others = self.used_by_workers() - self.counts.starting;
        others == self.counts.ready + self.counts.outdated && others == self.idle(region)
    }

    /// Workers that turned to their request `limit_ms` ago or earlier; they are to be asked to leave now, and killed at
    /// `kill_at`. And the longest for which any other has been at its request.
    pub fn overdue(
        &mut self,
        region: &Region,
        now_ms: u64,
        limit_ms: u64,
        kill_at: Clock,
    ) -> (Vec<Overdue>, u64) {
        let (mut overdue, mut longest) = (Vec::new(), 0);
        for slot in (0..self.entries.len() as u32).map(SlotIndex) {
            let pid = match self.entries[slot.0 as usize].standing {
                Standing::Ready(pid) => pid,
                // Whoever is to be killed by then anyway has been asked.
                Standing::Retiring(pid, leave) if leave.kill_at > kill_at => pid,
                _ => continue,
            };
            let since = region.slot(slot).map_or(0, |slot| slot.since_ms.load(Relaxed));
            let for_ms = if since == 0 { 0 } else { now_ms.saturating_sub(since) };
            if for_ms >= limit_ms {
                self.stand(slot, Standing::Retiring(pid, Leave { press_at: Clock::MAX, kill_at }));
                overdue.push(Overdue { pid, slot, for_ms });
            } else {
                longest = longest.max(for_ms);
            }
        }
        (overdue, longest)
    }
}
