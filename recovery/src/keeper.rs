//! The journal's keeper: closes minutes that are over, seals them in order once nobody can write them any more, and
//! keeps account of the spool. It takes no lock and makes nobody wait; whoever dies, it included, the next round
//! finds the same state.
//!
//! A minute is sealed only below the open one, and only while no slot, live or unrepaired, has an intent at or below
//! it. A writer announces its intent and then looks whether the minute is still open; the keeper closes the minute and
//! then looks for intents: one of the two sees the other.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant, SystemTime};

use common::ids::{Minute, SlotIndex};
use common::journal::OpenMinute;
use common::journal::room;
use common::journal::seal::seal;
use common::journal::spool::{MinuteFile, Spool};
use common::layout::{JournalState, Slot};
use common::limits::RESERVE_STEP;
use common::region::Region;
use common::wire::control::Sync;

use crate::complaints::Complaints;

/// How often the clock is looked at.
pub const TICK: Duration = Duration::from_millis(250);

/// How often the spool is looked at, and with `--sync interval` synced.
const ROUND: Duration = Duration::from_secs(1);

/// A minute that is open for so long is closed, whatever the clock says: after it was set back, the open minute's
/// name may be far ahead of it.
const LONGEST_OPEN: Duration = Duration::from_secs(120);

/// An owner that keeps a minute from being sealed for so long is named in the log.
const LONG_HELD: Duration = Duration::from_secs(10);

const LIST: &str = "list the spool";
const SEAL: &str = "seal a minute of the journal";
const SYNC: &str = "sync the journal";
const ROOM_FOR: &str = "make room in the spool";

/// Keeps the journal of one region in one spool.
#[derive(Debug)]
pub struct Keeper<'r> {
    region: &'r Region,
    spool: &'r Spool,
    sync: Sync,
    /// A minute that is open for so long is closed.
    longest_open: Duration,
    /// Every minute of ours up to this one is sealed; the region's word is a copy of it.
    sealed: Minute,
    listing: Listing,
    watched: Option<(OpenMinute, Instant)>,
    last_round: Option<Instant>,
    held_since: Option<(Instant, bool)>,
    /// Up to where the file of an unsealed minute is on the disk.
    synced: BTreeMap<Minute, u64>,
    foreign: BTreeSet<Minute>,
    obstacle: Option<String>,
    complaints: Complaints,
}

impl<'r> Keeper<'r> {
    /// A keeper that goes on from what the spool says is sealed.
    ///
    /// # Errors
    /// Where that cannot be read.
    pub fn new(region: &'r Region, spool: &'r Spool, sync: Sync) -> io::Result<Self> {
        let sealed = spool.read_sealed()?;
        if let Err(error) = spool.prepare() {
            log::warn!("cannot set room aside for sealing: {error}; on a full disk it will have to wait");
        }
        Ok(Self {
            region,
            spool,
            sync,
            longest_open: LONGEST_OPEN,
            sealed,
            listing: Listing::default(),
            watched: None,
            last_round: None,
            held_since: None,
            synced: BTreeMap::new(),
            foreign: BTreeSet::new(),
            obstacle: None,
            complaints: Complaints::default(),
        })
    }

    /// Closes minutes earlier than they are over, so that they can be shipped.
    #[must_use]
    pub fn sealing_every(self, interval: Option<Duration>) -> Self {
        Self { longest_open: interval.map_or(LONGEST_OPEN, |interval| interval.min(LONGEST_OPEN)), ..self }
    }

    /// What is due at this time of the clock. Errors are said once and tried again.
    pub fn tick(&mut self, clock: Minute, now: Instant) {
        let rolled = self.watch(clock, now);
        if rolled || self.last_round.is_none_or(|last| now.saturating_duration_since(last) >= ROUND) {
            self.last_round = Some(now);
            self.round(now);
        }
    }

    /// Closes everything and seals what can be sealed now. True once nothing of ours is left unsealed; for the end of
    /// an instance, when nobody writes any more. Otherwise [`Keeper::obstacle`] says what is in the way.
    pub fn seal_everything(&mut self, now: Instant) -> bool {
        if !self.refresh() {
            return false;
        }
        self.close_everything();
        self.seal_what_is_over(now);
        self.settle_accounts();
        let left = self.refresh().then(|| self.candidates(Minute(u64::MAX)));
        self.obstacle.is_none() && matches!(left, Some(Ok(left)) if left.is_empty())
    }

    /// What kept the last attempt to seal from being complete.
    pub fn obstacle(&self) -> Option<&str> {
        self.obstacle.as_deref()
    }

    fn journal(&self) -> &'r JournalState {
        &self.region.header().journal
    }

    /// Closes the open minute when it is over. True where something may have become sealable.
    fn watch(&mut self, clock: Minute, now: Instant) -> bool {
        let open = self.journal().open_minute();
        let since = match self.watched {
            Some((watched, since)) if watched == open => since,
            _ => now,
        };
        let over = clock > open.minute || now.saturating_duration_since(since) >= self.longest_open;
        // With every place in the ring taken by a minute that somebody holds, the open one goes on: closed, it would
        // leave nowhere to write to.
        let closable = !open.closed && over && self.journal().has_room();
        let closed_now = closable && self.journal().close(open);
        let standing = self.journal().open_minute();
        let rolled = closed_now || self.watched.is_none_or(|(watched, _)| watched != standing);
        self.watched = Some((standing, if standing == open { since } else { now }));
        rolled
    }

    fn round(&mut self, now: Instant) {
        if !self.refresh() {
            return;
        }
        self.seal_what_is_over(now);
        self.settle_accounts();
        if self.sync == Sync::Interval {
            self.sync_unsealed();
        }
    }

    fn refresh(&mut self) -> bool {
        match self.listing.refresh(self.spool) {
            Ok(()) => {
                self.complaints.settle(LIST);
                true
            }
            Err(error) => {
                self.obstacle = Some(format!("cannot {LIST}: {error}"));
                self.complaints.raise(LIST, &error);
                false
            }
        }
    }

    /// Seals, in ascending order, what nobody can begin to write any more; stops at the first that must wait.
    fn seal_what_is_over(&mut self, now: Instant) {
        let open = self.journal().open_minute();
        let last = if open.closed { open.minute } else { Minute(open.minute.0.saturating_sub(1)) };
        self.obstacle = None;
        match self.seal_up_to(last) {
            Ok(None) => {
                self.held_since = None;
                self.complaints.settle(SEAL);
            }
            Ok(Some((minute, holder))) => self.note_held(minute, holder, now),
            Err(error) => {
                self.obstacle = Some(format!("cannot {SEAL}: {error}"));
                self.complaints.raise(SEAL, &error);
            }
        }
    }

    /// Gives the first minute that is held, and the slot that holds it.
    fn seal_up_to(&mut self, last: Minute) -> io::Result<Option<(Minute, (SlotIndex, &'r Slot))>> {
        for minute in self.candidates(last)? {
            if let Some(holder) = holder(self.region, minute) {
                return Ok(Some((minute, holder)));
            }
            seal(self.spool, minute)?;
            self.note_sealed(minute);
        }
        Ok(None)
    }

    fn note_sealed(&mut self, minute: Minute) {
        self.listing.trusted = false;
        self.synced.remove(&minute);
        self.sealed = self.sealed.max(minute);
        store(&self.journal().sealed, self.sealed.0);
    }

    /// The minutes of ours up to `last` that are not sealed, in ascending order: those with our lock, and those in the
    /// ring whose lock somebody removed. A lock of ours at a sealed minute is a stray: a writer that slept through
    /// the sealing made it, and found then that the minute is not open.
    fn candidates(&mut self, last: Minute) -> io::Result<BTreeSet<Minute>> {
        let ring = self.journal().ring_claims();
        let in_ring = |minute| ring.iter().flatten().any(|claims| claims.minute == minute);
        let unsealed =
            |file: &&MinuteFile| file.locked || (file.minute > self.sealed && in_ring(file.minute));
        let all = self.listing.files.iter().filter(unsealed).map(|file| file.minute);
        let mut all: BTreeSet<Minute> = all.filter(|minute| *minute <= last).collect();
        for minute in all.clone() {
            if self.is_foreign(minute)? {
                all.remove(&minute);
            }
        }
        Ok(all)
    }

    /// Whether another program has a lock file for the minute. It is left alone, with one warning.
    fn is_foreign(&mut self, minute: Minute) -> io::Result<bool> {
        let locked = self.listing.files.iter().any(|file| file.minute == minute && file.locked);
        if !locked || self.spool.lock_is_ours(minute)? {
            return Ok(false);
        }
        if self.foreign.insert(minute) {
            log::warn!("{minute}.dat.lock is another program's; the minute is left to it");
        }
        Ok(true)
    }

    fn note_held(&mut self, minute: Minute, (index, slot): (SlotIndex, &Slot), now: Instant) {
        let (generation, pid) = (slot.standing().0, slot.pid());
        let text = format!(
            "slot {index} generation {generation} (pid {pid}) still writes to minute {minute} or before"
        );
        let (since, said) = self.held_since.unwrap_or((now, false));
        let say = !said && now.saturating_duration_since(since) >= LONG_HELD;
        if say {
            log::warn!("the journal cannot be sealed: {text}");
        }
        self.held_since = Some((since, said || say));
        self.obstacle = Some(text);
    }

    /// The accounts come before the ring's entries go: in between, bytes count twice and never not at all.
    fn settle_accounts(&mut self) {
        if !self.refresh() {
            return;
        }
        // Nobody else writes this word; readers and writers rely on it.
        store(&self.journal().sealed, self.sealed.0);
        self.make_room();
        account(self.journal(), &self.listing.files, self.listing.kept_bytes, self.sealed);
        let sealed = self.sealed;
        let mut ring = self.journal().ring_claims().into_iter().flatten();
        if ring.any(|claims| claims.minute <= sealed) && holder(self.region, sealed).is_none() {
            self.journal().release_sealed_entries();
        }
        self.drop_lost_entries();
    }

    /// Frees the ring's entries that belong to no file, because somebody removed it with its lock, or scribbled over
    /// the ring. Writers make lock and file first and the entry then. The open minute's entry is theirs.
    fn drop_lost_entries(&self) {
        let open = self.journal().open_minute().minute;
        for (index, entry) in self.journal().ring.iter().enumerate() {
            // Loaded before the entry is looked at, so that it is not another one that is freed.
            let word = entry.tail.load(SeqCst);
            let Some(minute) = self.journal().ring_claims()[index].map(|claims| claims.minute) else {
                continue;
            };
            let missing =
                |found: io::Result<_>| matches!(found, Err(error) if error.kind() == io::ErrorKind::NotFound);
            if minute != open
                && minute > self.sealed
                && matches!(self.spool.lock_is_ours(minute), Ok(false))
                && missing(self.spool.open_minute(minute))
                && holder(self.region, minute).is_none()
            {
                log::warn!("minute {minute} of the journal is neither in the spool nor sealed");
                let _ = entry.tail.compare_exchange(word, 0, SeqCst, SeqCst);
            }
        }
    }

    /// Shipped minutes are kept for the case that the machine goes down, and only while there is room: the oldest goes first.
    fn make_room(&mut self) {
        while let Some((minute, _)) = self.listing.shipped.first().copied() {
            match self.lacks_room() {
                Ok(false) => return,
                Ok(true) => {}
                Err(error) => return self.complaints.raise(ROOM_FOR, &error),
            }
            if let Err(error) = self.spool.remove_shipped(minute) {
                return self.complaints.raise(ROOM_FOR, &error);
            }
            log::warn!(
                "{minute}.sent is removed for want of room, before checkpoints cover it: were the machine to go down \
                 now, its messages would be counted no more"
            );
            let (_, bytes) = self.listing.shipped.remove(0);
            self.listing.kept_bytes = self.listing.kept_bytes.saturating_sub(bytes);
        }
    }

    fn lacks_room(&self) -> io::Result<bool> {
        let journal = self.journal();
        let (free, keep) = room::free_and_kept(self.spool.directory())?;
        // Whatever the limit says, a file system without room for the journal's next steps is full.
        if free < STEPS_AHEAD * RESERVE_STEP {
            return Ok(true);
        }
        match journal.limit.load(SeqCst) {
            0 => Ok(free < keep.saturating_mul(2)),
            limit => {
                let files: u64 = self.listing.files.iter().map(|file| file.size).sum();
                let used = files.saturating_add(self.listing.kept_bytes);
                Ok(used > limit - limit / ROOM)
            }
        }
    }

    /// Moves the open word to a closed minute at or above every one of ours, so that none is opened while it is
    /// sealed.
    fn close_everything(&mut self) {
        // An error comes up again, and is said, when it comes to sealing.
        let ours = self.candidates(Minute(u64::MAX)).unwrap_or_default();
        let newest = ours.last().copied().unwrap_or(Minute(0));
        loop {
            let open = self.journal().open_minute();
            let closed = OpenMinute { minute: open.minute.max(newest), closed: true };
            let moved = self.journal().open.compare_exchange(open.word(), closed.word(), SeqCst, SeqCst);
            if moved.is_ok() {
                return;
            }
        }
    }

    /// Syncs the files of unsealed minutes that have grown. Nothing is opened while nothing is written.
    fn sync_unsealed(&mut self) {
        for claims in self.journal().ring_claims().into_iter().flatten() {
            let (minute, tail) = (claims.minute, claims.tail);
            if minute <= self.sealed || self.synced.get(&minute).copied().unwrap_or(0) == tail {
                continue;
            }
            // Asked before the sync: without an intent in force, all that is claimed up to `tail` is written.
            let written = holder(self.region, minute).is_none();
            match self.spool.open_minute(minute).and_then(|file| file.sync_data()) {
                Ok(()) => {
                    self.complaints.settle(SYNC);
                    if written {
                        self.synced.insert(minute, tail);
                    }
                }
                // Somebody took the file away: there is nothing to sync.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.complaints.raise(SYNC, &error),
            }
        }
    }
}

/// A slot whose intent keeps `minute` from being sealed, in whatever state it is.
pub(crate) fn holder(region: &Region, minute: Minute) -> Option<(SlotIndex, &Slot)> {
    region.slots().find(|(_, slot)| slot.intent.holds_up_to(minute))
}

/// Writes down what the spool's closed files hold, and which is the oldest. A file counts as closed once it is
/// sealed, or where the ring has no entry that counts it; so do those that are kept after their delivery or refusal.
pub(crate) fn account(journal: &JournalState, files: &[MinuteFile], kept_bytes: u64, sealed: Minute) {
    let ring = journal.ring_claims();
    let in_ring = |minute| ring.iter().flatten().any(|claims| claims.minute == minute);
    let closed = files.iter().filter(|file| file.minute <= sealed || !in_ring(file.minute));
    store(&journal.closed_bytes, closed.fold(kept_bytes, |sum, file| sum.saturating_add(file.size)));
    let oldest = files.iter().find(|file| file.size > 0 || in_ring(file.minute));
    store(&journal.oldest, oldest.map_or(0, |file| file.minute.0));
}

/// Stores where something changes: an idle journal dirties no page.
fn store(word: &AtomicU64, value: u64) {
    if word.load(SeqCst) != value {
        word.store(value, SeqCst);
    }
}

/// So many steps in which the journal reserves space are to be free.
const STEPS_AHEAD: u64 = 2;

/// Of the spool's limit this part stays free of what is kept only for the case that the machine goes down: the other one in
/// so many.
const ROOM: u64 = 4;

/// What is in the spool, read again only when the directory has changed.
#[derive(Debug, Default)]
struct Listing {
    files: Vec<MinuteFile>,
    /// Shipped, and kept until checkpoints cover them.
    shipped: Vec<(Minute, u64)>,
    kept_bytes: u64,
    changed: Option<SystemTime>,
    trusted: bool,
}

impl Listing {
    fn refresh(&mut self, spool: &Spool) -> io::Result<()> {
        let started = SystemTime::now();
        let changed = spool.directory().metadata()?.modified()?;
        if self.trusted && self.changed == Some(changed) {
            return Ok(());
        }
        self.files = spool.minutes()?;
        self.shipped = spool.shipped()?;
        self.kept_bytes = spool.kept_bytes()?;
        self.changed = Some(changed);
        // The time stamp is coarse: another change may follow under the same one.
        let age = started.duration_since(changed).unwrap_or_default();
        self.trusted = age > Duration::from_secs(2);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
