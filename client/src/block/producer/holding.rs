//! Finding the block that is to be written, and having its lock.

use std::sync::atomic::Ordering::AcqRel;
use std::time::{Duration, Instant};

use common::sys::file::Lock;
use common::sys::range_lock;

use super::super::failure::{Doing, Failure, Result};
use super::super::file::{Access, Block};
use super::super::group::Group;
use super::super::home::Home;
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

    /// Takes the lock, unless this producer has it.
    #[inline]
    pub(super) fn take(&mut self, limit: Duration) -> Result<()> {
        match self.held {
            Held::No => self.take_found(limit),
            Held::Own | Held::ByGroup => Ok(()),
        }
    }

    /// Finds the block, if there is one, and takes its lock or its group's. Where that fails this producer has neither block
    /// nor lock: the next call must not take for its own what was found and not locked.
    #[inline]
    pub(super) fn take_found(&mut self, limit: Duration) -> Result<()> {
        let locked = self.lock_found(limit);
        if locked.is_err() {
            self.lose();
        } else if self.held == Held::No {
            self.held = Held::Own;
        }
        locked
    }

    #[inline]
    fn lock_found(&mut self, limit: Duration) -> Result<()> {
        self.join_asked()?;
        loop {
            let locked = if self.group.is_some() { self.lock_group(limit)? } else { self.lock_block(limit)? };
            if locked {
                return Ok(());
            }
        }
    }

    /// Takes the block's lock, if there is a block. False where another has the name by now, or a group's lock is needed.
    #[inline]
    fn lock_block(&mut self, limit: Duration) -> Result<bool> {
        if self.block.is_none() {
            self.open()?;
        }
        if !self.is_of_its_group()? {
            return Ok(false);
        }
        let Some(block) = &self.block else { return Ok(true) };
        let locked = range_lock::lock(block.file(), &WRITER_LOCK, Lock::Exclusive, limit);
        if !locked.doing(|| format!("cannot lock block {}", self.name))? {
            return Err(Failure::Busy(format!("others have the lock of block {}", self.name)));
        }
        // While this one waited, another may have replaced or removed it; it has marked it as retired first. Whoever
        // takes the file away otherwise is noticed a little later.
        let looks = block.head().is_retired() || self.named.is_none_or(|then| then.elapsed() > NAP);
        if !looks {
            return Ok(true);
        }
        let named = self.blocks.leads_to(&self.name, block)?;
        if named {
            self.named = Some(Instant::now());
        } else {
            self.forget();
        }
        Ok(named)
    }

    /// Takes the group's lock, unless a [`Group`] holds it, and finds the block. False where that is of another group.
    fn lock_group(&mut self, limit: Duration) -> Result<bool> {
        if let Some(group) = &self.group
            && self.held != Held::ByGroup
            && !group.lock(Lock::Exclusive, limit)?
        {
            return Err(Failure::Busy(format!("others have the lock of group {}", group.name())));
        }
        self.find()?;
        self.is_of_its_group()
    }

    /// Finds the block for a group that holds the lock.
    pub(super) fn find_for(&mut self, group: &Group) -> Result<()> {
        if self.group.as_ref().is_some_and(|own| !own.is(group)) {
            // Its file may have been removed by hand, and made anew.
            self.group = None;
        }
        self.join_asked()?;
        self.find()?;
        self.is_of_its_group()?;
        if self.group.as_ref().is_some_and(|own| own.is(group)) {
            return Ok(());
        }
        Err(Failure::Refused(format!("block {} is not of group {}", self.name, group.name())))
    }

    /// Opens the group that was asked for, if any.
    #[inline]
    pub(super) fn join_asked(&mut self) -> Result<()> {
        if self.group.is_none()
            && let Some(asked) = &self.options.group
        {
            self.group = Some(Group::open(&self.blocks, asked, Access::Write)?);
        }
        Ok(())
    }

    /// Whether the block, if there is one, is of the group whose lock this producer takes. If not it goes over to the block's,
    /// whose lock it does not have yet; but not from the one that was asked for, nor from one that holds it.
    fn is_of_its_group(&mut self) -> Result<bool> {
        let Some(block) = &self.block else { return Ok(true) };
        let (own, of) = (self.group.as_ref().map(Group::name), block.group());
        if own == of {
            return Ok(true);
        }
        if let Some(own) = own
            && (self.options.group.is_some() || self.held == Held::ByGroup)
        {
            let (name, of) = (&self.name, of.unwrap_or("none"));
            return Err(Failure::Refused(format!(
                "block {name} is not of group {own} but of {of}; produce it as such, or remove it"
            )));
        }
        // Dropped, the former one is unlocked.
        self.group = match of {
            Some(of) => Some(Group::open(&self.blocks, of, Access::Write)?),
            None => None,
        };
        Ok(false)
    }

    /// Opens the block, if there is one and it is not open yet.
    fn find(&mut self) -> Result<()> {
        match &self.block {
            Some(block) if self.blocks.leads_to(&self.name, block)? => Ok(()),
            _ => self.open(),
        }
    }

    fn open(&mut self) -> Result<()> {
        self.forget();
        self.block = Block::open(&self.blocks, &self.name, Access::Write)?;
        Ok(())
    }

    pub(super) fn forget(&mut self) {
        self.block = None;
        self.named = None;
    }

    /// Forgets the block, and gives back what this producer has locked.
    #[cold]
    fn lose(&mut self) {
        if self.held != Held::ByGroup {
            self.give_back();
        }
        self.forget();
    }

    #[inline]
    pub(super) fn give_back_unless_kept(&mut self) {
        if self.held == Held::Own && !self.keeps {
            self.give_back();
        }
    }

    /// Takes the locks off.
    pub(super) fn give_back(&mut self) {
        self.held = Held::No;
        if let Some(group) = &self.group {
            group.unlock();
        }
        if let Some(block) = &self.block {
            block.unlock(&WRITER_LOCK);
        }
    }

    /// In a child that was forked everything that is open is its parent's, locks and drafts too: the child lets go of it, and
    /// opens its own when it needs it.
    #[inline]
    pub(super) fn come_home(&mut self) {
        if !self.home.is_here() {
            self.start_anew();
        }
    }

    #[cold]
    fn start_anew(&mut self) {
        self.home = Home::here();
        self.draft = None;
        self.group = None;
        self.forget();
        (self.held, self.keeps) = (Held::No, false);
    }
}
