//! The latest crashes, for people who look: who died, of what, and what it was at.

use std::collections::VecDeque;

use common::ids::Owner;
use common::wire::control::CrashReport;
use serde::{Deserialize, Serialize};

/// So many are kept.
const KEPT: usize = 16;

/// The reports, the oldest first. Handed as they are to a successor in this process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CrashReports(VecDeque<CrashReport>);

impl CrashReports {
    /// One more.
    pub fn add(&mut self, report: CrashReport) {
        while self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back(report);
    }

    /// Its slot is repaired.
    pub fn repaired(&mut self, owner: Owner, took_us: u64) {
        if let Some(report) = self.0.iter_mut().rev().find(|report| report.owner == owner) {
            report.repaired_us = Some(took_us);
        }
    }

    /// All of them, the newest first.
    pub fn newest_first(&self) -> Vec<CrashReport> {
        self.0.iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use common::ids::{Generation, Pid, SlotIndex};

    use super::*;

    #[test]
    fn the_newest_are_kept_and_told_of_their_repair() {
        let owner = |slot| Owner { slot: SlotIndex(slot), generation: Generation(1) };
        let mut reports = CrashReports::default();
        for slot in 0..100 {
            let doing = "x".repeat(400);
            let ending = Some("killed by SIGKILL".to_owned());
            let (at_ns, pid) = (slot.into(), Pid(7));
            reports.add(CrashReport { at_ns, owner: owner(slot), pid, ending, doing, repaired_us: None });
        }
        reports.repaired(owner(98), 60);
        reports.repaired(owner(3), 60);
        let kept = reports.newest_first();
        assert_eq!(
            kept.iter().map(|report| report.owner.slot.0).collect::<Vec<_>>(),
            (84..100).rev().collect::<Vec<_>>()
        );
        assert_eq!((kept[0].repaired_us, kept[1].repaired_us), (None, Some(60)));
        // All of them fit into a frame beside whatever else a status says.
        assert!(common::wire::control::encode(&kept).unwrap().len() < common::limits::MAX_FRAME / 3);
    }
}
