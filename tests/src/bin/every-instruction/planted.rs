//! The proof of the proof: mistakes are planted in the code, one after the other, and each must be found.

#[cfg(feature = "planted")]
pub use with_the_feature::{count, find};

#[cfg(feature = "planted")]
mod with_the_feature {
    use common::planted::{ALL, Bug, plant};

    use crate::proof::Tally;
    use crate::rows::{Extent, Row, all};
    use crate::workers::Answer;

    /// What finds each mistake: the row that the short form does. The whole form does all of them, up to the first that
    /// fails.
    fn finder(bug: Bug) -> &'static str {
        match bug {
            Bug::LogAfterChange
            | Bug::ChangeNotLogged
            | Bug::ReleasedBeforeEmpty
            | Bug::SequenceRestored
            | Bug::FreedForgotten
            | Bug::SharedFreeList
            | Bug::HeldAfterLock
            | Bug::ReleasedBeforeUndo
            | Bug::SequenceLeftOdd
            | Bug::MarkForgotten => "put a new key (commit)",
            Bug::WakeForgotten => "put a new key (lock awaited)",
            Bug::GateIgnored => "put a new key (gate closed)",
            Bug::AnticipatedByHalf => "put a new key (anticipated)",
            Bug::MiniIgnored | Bug::FreeingUndone => "put out of place (commit)",
            Bug::SlabLinkNotLogged => "puts that take two slabs (commit)",
            Bug::FreedAtOnce => "remove another slot's block (commit)",
            Bug::ShownBeforeCommit => "two maps and two counters (commit)",
            Bug::ForwardIgnored => "a message of a user with a row (commit)",
            Bug::GateLeftClosed => "a checkpoint (commit)",
            Bug::EndsNotLogged => "push an item (commit)",
            Bug::BellForgotten => "push an item (lock awaited)",
            Bug::InFlightForgotten | Bug::TakeNotLogged => "take an item (commit)",
            Bug::RangeNotLogged => "a blob's range out of place (commit)",
            Bug::RenamedInTwo => "rename a queue into another folder (commit)",
            Bug::BatonDropped | Bug::DeletedQuietly => "those who wait at a queue, and who changes it",
            Bug::ReadOnce => "a reader, and a writer in place",
            Bug::GenerationUnchecked => "a writer waits, the map is deleted",
            Bug::ShownBeforeWritten => "a block is written",
            Bug::NamedBeforeWritten => "a block is made",
            Bug::StampKept | Bug::CopyTrusted => "a reader, and writers of a block",
            Bug::PinTrusted => "a pin, and writers of a large block",
            Bug::RestoredInPlace | Bug::CountedTwice => "a damaged region is gone back from",
        }
    }

    /// How many mistakes there are whose name contains `filter`.
    pub fn count(filter: &str) -> usize {
        chosen(filter).len()
    }

    fn chosen(filter: &str) -> Vec<Bug> {
        ALL.into_iter().filter(|bug| format!("{bug:?}").contains(filter)).collect()
    }

    /// Plants one of them, and tells what finds it. Before, nothing is planted, and nothing may be found: by the row that
    /// then finds it, or in the whole form by any row, once, before the first mistake.
    pub fn find(number: usize, filter: &str, extent: Extent) -> Answer {
        let bug = chosen(filter)[number];
        let mut rows = all(Extent::Short);
        if extent == Extent::Short {
            rows.retain(|row| finder(bug) == row.name());
        }
        let blamed = if extent == Extent::Short || number == 0 { first_failure(&rows) } else { None };
        plant(Some(bug));
        let found = first_failure(&rows);
        plant(None);
        let line = match (&blamed, &found) {
            (Some(blamed), _) => format!("nothing planted, and it fails: {blamed}"),
            (None, Some(found)) => format!("{:<22} found: {found}", format!("{bug:?}")),
            (None, None) => format!("{:<22} NOT FOUND by {} proofs", format!("{bug:?}"), rows.len()),
        };
        Answer { line, failed: blamed.is_some() || found.is_none(), tally: Tally::default() }
    }

    fn first_failure(rows: &[Row]) -> Option<String> {
        let mut failures = rows.iter().filter_map(|row| {
            let error = row.prove(Extent::Short).err()?;
            Some(format!("{}: {error}", row.name()))
        });
        failures.next()
    }
}

#[cfg(not(feature = "planted"))]
pub use without_the_feature::{count, find};

#[cfg(not(feature = "planted"))]
mod without_the_feature {
    use crate::rows::Extent;
    use crate::workers::Answer;

    /// Without the feature there is nothing to be planted.
    pub fn count(_filter: &str) -> usize {
        0
    }

    /// Is never asked for.
    pub fn find(_number: usize, _filter: &str, _extent: Extent) -> Answer {
        let line = "nothing can be planted".to_owned();
        Answer { line, failed: true, tally: crate::proof::Tally::default() }
    }
}
