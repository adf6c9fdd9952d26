//! Finding the block that is to be written, and having its lock.

use std::sync::atomic::Ordering::AcqRel;
use std::time::{Duration, Instant};

use common::sys::file::Lock;
use common::sys::range_lock;

use super::super::failure::{Doing, Failure, Result};
use super::super::file::{Access, Block};
use super::super::group::Group;
use super::super::layout::{AT_HEAD, REMOVAL_LOCK, RETIRED, WRITER_LOCK};
use super::{Held, Producer};

/// So often a producer looks whether the name still leads to its file, though nothing says that it may not.
const NAP: Duration = Duration::from_millis(100);

impl Producer {
    /// After a head that was retired: whether the block still has its name. If nobody is removing it, somebody died who
    /// meant to, and the mark is taken off.
    pub(super) fn still_named(&self) -> Result<bool> {
        let Some(block) = &self.block else { return Ok(false) };
        if !self.blocks.leads_to(&self.name, block)? {
            return Ok(false);
        }
        let doing = || format!("cannot lock block {}", self.name);
        if range_lock::try_lock(block.file(), &REMOVAL_LOCK, Lock::Exclusive).doing(doing)? {
            let named = self.blocks.leads_to(&self.name, block)?;
            if named {
                block.word(AT_HEAD).fetch_and(!RETIRED, AcqRel);
            }
            range_lock::unlock(block.file(), &REMOVAL_LOCK).doing(doing)?;
            return Ok(named);
        }
        Ok(true)
    }

    #[inline]
    pub(super) fn take(&mut self, why: Held, limit: Duration) -> Result<()> {
        match self.held {
            Held::No => {}
            Held::Once => self.give_back_unless_kept(),
            Held::Kept | Held::ByGroup => return Ok(()),
        }
        self.take_found(limit)?;
        self.held = why;
        Ok(())
    }

    /// Finds the block, if there is one, and takes its lock or its group's.
    #[inline]
    pub(super) fn take_found(&mut self, limit: Duration) -> Result<()> {
        loop {
            if self.group.is_some() {
                return self.take_in_group(limit);
            }
            if self.block.is_none() {
                self.open()?;
            }
            let Some(block) = &self.block else { return Ok(()) };
            if let Some(group) = block.group() {
                // From now on this producer is of the group that the block is of.
                let group = group.to_owned();
                self.group = Some(Group::open(&self.blocks, &group, Access::Write)?);
                self.options.group = Some(group);
                continue;
            }
            let locked = range_lock::lock(block.file(), &WRITER_LOCK, Lock::Exclusive, limit);
            if !locked.doing(|| format!("cannot lock block {}", self.name))? {
                return Err(Failure::Busy(format!("others have the lock of block {}", self.name)));
            }
            // While this one waited, another may have replaced or removed it; it has marked it as retired first. Whoever
            // takes the file away otherwise is noticed a little later.
            let looks = block.head().is_retired() || self.named.is_none_or(|then| then.elapsed() > NAP);
            if !looks {
                return Ok(());
            }
            if self.blocks.leads_to(&self.name, block)? {
                self.named = Some(Instant::now());
                return Ok(());
            }
            self.block = None;
        }
    }

    fn take_in_group(&mut self, limit: Duration) -> Result<()> {
        if let Some(group) = &self.group
            && self.held != Held::ByGroup
            && !group.lock(Lock::Exclusive, limit)?
        {
            return Err(Failure::Busy(format!("others have the lock of group {}", group.name())));
        }
        let found = self.find();
        if found.is_err() && self.held != Held::ByGroup {
            self.give_back();
        }
        found
    }

    /// Opens the block, if there is one and it is not open yet.
    pub(super) fn find(&mut self) -> Result<()> {
        match &self.block {
            Some(block) if self.blocks.leads_to(&self.name, block)? => Ok(()),
            _ => self.open(),
        }
    }

    fn open(&mut self) -> Result<()> {
        self.named = None;
        self.block = Block::open(&self.blocks, &self.name, Access::Write)?;
        match (&self.block, &self.options.group) {
            (Some(block), Some(group)) if block.group() != Some(group) => {
                let (name, is_of) = (&self.name, block.group().unwrap_or("none"));
                Err(Failure::Refused(format!(
                    "block {name} is not of group {group} but of {is_of}; produce it as such, or remove it"
                )))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn forget(&mut self) {
        self.block = None;
        self.named = None;
    }

    #[inline]
    pub(super) fn give_back_unless_kept(&mut self) {
        if self.held == Held::Once {
            self.give_back();
        }
    }

    /// Takes the locks off. That fails for nothing that an open file with a lock can have.
    pub(super) fn give_back(&mut self) {
        self.held = Held::No;
        if let Some(group) = &self.group {
            group.unlock();
        }
        if let Some(block) = &self.block {
            let _ = range_lock::unlock(block.file(), &WRITER_LOCK);
        }
    }
}
