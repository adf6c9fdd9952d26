//! Reading a block.

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::sys::file::Lock;
use common::sys::{futex, range_lock};

use super::directory::Blocks;
use super::failure::{Doing, Failure, Result};
use super::file::{Access, Block, damaged};
use super::group::Group;
use super::layout::{AT_HEAD, Head, WRITER_LOCK};
use super::pinned::Pinned;

/// After so many contents that were overwritten while they were copied, a large one is pinned first.
const TRIES: u32 = 4;

/// A read that meets nothing but overwritten content for so long is given up. No living writer is that fast.
const PATIENCE: Duration = Duration::from_secs(1);

/// To sleep and be woken takes about so long. Whoever had to wait for less the last time keeps the core for so long at most
/// before it sleeps: at worst it has waited twice what it had to (A. R. Karlin et al., "Empirical studies of competitive
/// spinning for a shared-memory multiprocessor", SOSP '91).
const SLEEP_COSTS: Duration = Duration::from_micros(25);

/// After looking in vain it sleeps at once for so many waits: the producer may not have a core of its own.
const DISCOURAGED: u8 = 64;

/// A wait that was over so soon, sleep included, was for somebody who answers at once.
const SHORT: Duration = Duration::from_micros(75);

/// Whoever waits looks at the name so often: whoever removed the block may have died before it could tell.
const NAP: Duration = Duration::from_millis(100);

/// Reads one block, through a mapping that cannot be written to.
#[derive(Debug)]
pub struct Consumer {
    blocks: Blocks,
    name: String,
    block: Arc<Block>,
    /// The version that was read last.
    seen: u64,
    group: Option<Group>,
    locked: bool,
    /// Whether the last wait was short.
    hurried: bool,
    /// For so many waits it sleeps at once: looking first was in vain.
    discouraged: u8,
}

impl Consumer {
    pub(super) fn open(blocks: Blocks, name: &str) -> Result<Self> {
        let Some(block) = Block::open(&blocks, name, Access::Read)? else {
            return Err(Failure::Unknown(name.to_owned()));
        };
        let block = Arc::new(fresh(block, name)?);
        let (name, seen, group) = (name.to_owned(), 0, None);
        Ok(Self { blocks, name, block, seen, group, locked: false, hurried: false, discouraged: 0 })
    }

    /// The block's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version that was read last; 0 before the first.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// What a block keeps as long as its versions count on: one that was removed and written again has another.
    pub fn identity(&self) -> u64 {
        self.block.identity()
    }

    /// The newest version.
    ///
    /// # Errors
    /// The block was removed.
    pub fn version(&mut self) -> Result<u64> {
        Ok(self.head()?.version())
    }

    /// Copies the newest content, and gives its version.
    ///
    /// # Errors
    /// The block was removed, or is damaged.
    #[inline]
    pub fn read(&mut self, into: &mut Vec<u8>) -> Result<u64> {
        let head = self.head()?;
        if let Some(version) = self.block.copy(head, into)? {
            self.seen = version;
            return Ok(version);
        }
        self.read_again(into)
    }

    #[cold]
    fn read_again(&mut self, into: &mut Vec<u8>) -> Result<u64> {
        let mut tries = 0;
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            tries += 1;
            if tries >= TRIES && self.block.geometry().is_large() {
                let pinned = self.pin()?;
                into.resize(pinned.len(), 0);
                return if pinned.copy_to(0, into) { Ok(pinned.version()) } else { Err(damaged()) };
            }
            let head = self.head()?;
            if let Some(version) = self.block.copy(head, into)? {
                self.seen = version;
                return Ok(version);
            }
            std::hint::spin_loop();
        }
        Err(self.overwritten())
    }

    /// Waits until there is something newer than what was read last, for at most `limit`; whether there is. Sleeps, but where
    /// the last wait was a matter of microseconds: then it looks for some first.
    ///
    /// # Errors
    /// The block was removed, or is damaged.
    pub fn wait(&mut self, limit: Duration) -> Result<bool> {
        if self.head()?.version() > self.seen {
            return Ok(true);
        }
        let began = Instant::now();
        self.discouraged = self.discouraged.saturating_sub(1);
        if self.hurried && self.discouraged == 0 && !self.spin(began, limit.min(SLEEP_COSTS)) {
            self.discouraged = DISCOURAGED;
        }
        let came = self.sleep(began, limit);
        self.hurried = began.elapsed() < SHORT;
        came
    }

    /// Looks for so long whether something newer is there.
    fn spin(&self, began: Instant, limit: Duration) -> bool {
        let before = self.block.head();
        while self.block.head() == before {
            if began.elapsed() >= limit {
                return false;
            }
            std::hint::spin_loop();
        }
        true
    }

    fn sleep(&mut self, began: Instant, limit: Duration) -> Result<bool> {
        loop {
            let head = self.head()?;
            if head.version() > self.seen {
                return Ok(true);
            }
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            let waited = futex::wait(self.block.word(AT_HEAD), head.0, left.min(NAP));
            self.block.foresee_next(head);
            if waited == futex::Waited::TimedOut {
                self.follow()?;
            }
        }
    }

    /// The newest content as it lies in memory, to be used there: no producer writes to it as long as the [`Pinned`] is
    /// there, however long that is and however much is published meanwhile.
    ///
    /// # Errors
    /// The block was removed, or is damaged; no lock can be had.
    pub fn pin(&mut self) -> Result<Pinned> {
        self.own()?;
        let began = Instant::now();
        loop {
            let head = self.head()?;
            if let Some(pinned) = Pinned::take(&self.block, head)? {
                self.seen = pinned.version();
                return Ok(pinned);
            }
            if began.elapsed() >= PATIENCE {
                return Err(self.overwritten());
            }
            std::thread::yield_now();
        }
    }

    /// Keeps every producer of the block (and of its group) waiting until [`Consumer::unlock`]. Reading itself needs no
    /// lock: this is for whoever wants the content to stay the newest while it uses it.
    ///
    /// # Errors
    /// A producer has held the lock for longer than `limit`; the block was removed. A block may be removed under the lock too:
    /// then the next call that reads says so, and the lock is gone.
    pub fn lock(&mut self, limit: Duration) -> Result<()> {
        self.unlock();
        self.own()?;
        loop {
            let taken = match self.block.group() {
                Some(name) => {
                    let group = Group::open(&self.blocks, name, Access::Read)?;
                    let taken = group.lock(Lock::Shared, limit)?;
                    self.group = Some(group);
                    taken
                }
                None => range_lock::lock(self.block.file(), &WRITER_LOCK, Lock::Shared, limit)
                    .doing(|| format!("cannot lock block {}", self.name))?,
            };
            if !taken {
                return Err(Failure::Busy(format!("a producer has the lock of block {}", self.name)));
            }
            self.locked = true;
            let named = self.blocks.leads_to(&self.name, &self.block);
            if matches!(named, Ok(true)) {
                return Ok(());
            }
            self.unlock();
            named?;
            self.follow()?;
        }
    }

    /// Lets the producers go on.
    pub fn unlock(&mut self) {
        if let Some(group) = self.group.take() {
            group.unlock();
        }
        if std::mem::take(&mut self.locked) {
            self.block.unlock(&WRITER_LOCK);
        }
    }

    /// What is current, of the file that has the name.
    #[inline]
    fn head(&mut self) -> Result<Head> {
        let head = self.block.head();
        if head.is_retired() { self.head_of_next() } else { Ok(head) }
    }

    #[cold]
    fn head_of_next(&mut self) -> Result<Head> {
        self.follow()?;
        Ok(self.block.head())
    }

    /// Goes over to the file that has the name now; whether it is another.
    fn follow(&mut self) -> Result<bool> {
        if self.blocks.leads_to(&self.name, &self.block)? {
            return Ok(false);
        }
        if self.locked && self.block.is_own() {
            // No producer makes another file under this lock: it was removed, and the lock is of no use for a new one.
            self.unlock();
            return Err(Failure::Removed(self.name.clone()));
        }
        self.open_again()?;
        Ok(true)
    }

    /// Sees to it that the file was opened by this process: to read, a child that was forked may use its parent's, but not to
    /// lock.
    fn own(&mut self) -> Result<()> {
        if self.block.is_own() { Ok(()) } else { self.open_again() }
    }

    fn open_again(&mut self) -> Result<()> {
        self.unlock();
        let Some(block) = Block::open(&self.blocks, &self.name, Access::Read)? else {
            return Err(Failure::Removed(self.name.clone()));
        };
        let block = fresh(block, &self.name)?;
        if block.identity() != self.block.identity() {
            // Another block, whose versions are its own.
            self.seen = 0;
        } else if block.head().version() < self.seen {
            return Err(damaged());
        }
        self.block = Arc::new(block);
        Ok(())
    }

    fn overwritten(&self) -> Failure {
        Failure::Busy(format!("block {} is being overwritten all the time", self.name))
    }
}

impl Drop for Consumer {
    /// What is pinned, or a child that was forked, keeps the block's file open, and with it a lock that was not given back.
    fn drop(&mut self) {
        self.unlock();
    }
}

fn fresh(block: Block, name: &str) -> Result<Block> {
    if block.is_stale() {
        return Err(Failure::Refused(format!(
            "block {name} is from before the machine was restarted; its producer has to write it again"
        )));
    }
    Ok(block)
}
