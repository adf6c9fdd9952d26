//! Deliberate mistakes, to prove that the proofs can fail. Without the feature `planted`, which only the proofs are
//! built with, [`has`] is the constant `false` and nothing of this is in the programs.

/// A mistake that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Bug {
    /// The undo record of a word is published after the word has changed.
    LogAfterChange = 1,
    /// A map's count is changed without being logged.
    ChangeNotLogged,
    /// Locks are released before the log is EMPTY.
    ReleasedBeforeEmpty,
    /// The sequence word is logged, so that undo restores it.
    SequenceRestored,
    /// A freed block is FREE at once, before its transaction has committed.
    FreedAtOnce,
    /// A commit does not make PENDING blocks FREE.
    FreedForgotten,
    /// Freed blocks go to a list that all slots share, and are taken from it inside transactions.
    SharedFreeList,
    /// Repair does not wake those who wait.
    WakeForgotten,
    /// A lock is written into the held list after it has been taken.
    HeldAfterLock,
    /// Repair releases locks before it has undone the changes.
    ReleasedBeforeUndo,
    /// Repair leaves the sequence word odd.
    SequenceLeftOdd,
    /// Repair rolls back a transaction whose record is whole.
    ForwardIgnored,
    /// Repair does not look at the small log.
    MiniIgnored,
    /// Repair undoes a log that is FREEING.
    FreeingUndone,
    /// Counters are shown before the commit.
    ShownBeforeCommit,
    /// A reader does not look again whether what it copied was being changed.
    ReadOnce,
    /// After taking a lock nobody looks whether the object is still the same.
    GenerationUnchecked,
    /// A page is changed without being marked for the next checkpoint.
    MarkForgotten,
    /// A transaction begins without a look at the gate.
    GateIgnored,
    /// Repair leaves the gate closed that a dead checkpoint process had closed.
    GateLeftClosed,
    /// Whoever fills a queue does not wake those who wait for an item, if it dies before it has.
    BellForgotten,
    /// Repair does not put items back that its owner had taken.
    InFlightForgotten,
    /// Taking an item is not logged in the slot.
    TakeNotLogged,
    /// Of what a queue says of its items only their number is logged.
    EndsNotLogged,
    /// A sleeper that finds a queue filled and leaves it so wakes nobody else.
    BatonDropped,
    /// A name is moved in two transactions: into the one folder, then out of the other.
    RenamedInTwo,
    /// A range of a blob is written in place, however long, and only its first word is logged.
    RangeNotLogged,
    /// A deleted queue does not wake those who wait for it.
    DeletedQuietly,
    /// The stamp of a block's buffer stays while it is written.
    StampKept,
    /// A block's head names the next buffer before anything is in it.
    ShownBeforeWritten,
    /// Who copied a block does not look again at the stamp.
    CopyTrusted,
    /// Who pinned a block does not look again at the stamp.
    PinTrusted,
    /// A file gets a block's name before it says what it holds.
    NamedBeforeWritten,
    /// A restored region has the region's name before it is complete.
    RestoredInPlace,
    /// Going back to a checkpoint counts records again that the checkpoint has.
    CountedTwice,
    /// A slab is put into its slot's list without a note of where the one before it led to.
    SlabLinkNotLogged,
    /// A repair that is anticipated releases the locks, and leaves the log to the repair.
    AnticipatedByHalf,
}

/// Every one of them.
pub const ALL: [Bug; 37] = [
    Bug::LogAfterChange,
    Bug::ChangeNotLogged,
    Bug::ReleasedBeforeEmpty,
    Bug::SequenceRestored,
    Bug::FreedAtOnce,
    Bug::FreedForgotten,
    Bug::SharedFreeList,
    Bug::WakeForgotten,
    Bug::HeldAfterLock,
    Bug::ReleasedBeforeUndo,
    Bug::SequenceLeftOdd,
    Bug::ForwardIgnored,
    Bug::MiniIgnored,
    Bug::FreeingUndone,
    Bug::ShownBeforeCommit,
    Bug::ReadOnce,
    Bug::GenerationUnchecked,
    Bug::MarkForgotten,
    Bug::GateIgnored,
    Bug::GateLeftClosed,
    Bug::StampKept,
    Bug::ShownBeforeWritten,
    Bug::CopyTrusted,
    Bug::PinTrusted,
    Bug::NamedBeforeWritten,
    Bug::BellForgotten,
    Bug::InFlightForgotten,
    Bug::TakeNotLogged,
    Bug::EndsNotLogged,
    Bug::BatonDropped,
    Bug::RenamedInTwo,
    Bug::RangeNotLogged,
    Bug::DeletedQuietly,
    Bug::RestoredInPlace,
    Bug::CountedTwice,
    Bug::SlabLinkNotLogged,
    Bug::AnticipatedByHalf,
];

/// Whether this mistake is planted.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn has(_bug: Bug) -> bool {
    false
}

#[cfg(feature = "planted")]
static PLANTED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

/// Whether this mistake is planted.
#[cfg(feature = "planted")]
pub fn has(bug: Bug) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == bug as u32
}

/// Plants a mistake in this process, in place of the one that was.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.store(bug.map_or(0, |bug| bug as u32), std::sync::atomic::Ordering::Relaxed);
}
