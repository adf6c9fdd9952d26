//! Writing a block.

mod holding;

use std::sync::atomic::Ordering::AcqRel;
use std::time::{Duration, Instant};

use common::ids::Offset;
use common::planted::{self, Bug};
use common::sys::file::Lock;
use common::sys::{copy, futex, process, range_lock};

use super::directory::Blocks;
use super::failure::{Doing, Failure, Result};
use super::file::Block;
use super::group::Group;
use super::home::Home;
use super::layout::{AT_HEAD, Geometry, MAX_CONTENT, REMOVAL_LOCK, RETIRED};
use super::making::Fresh;
use super::name;
use super::place::{self, Place};

/// What a producer asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// So many bytes of content fit without another file, and no more are accepted. Without it a block grows as needed.
    pub size: Option<u64>,
    /// The block belongs to this group, whose lock is its lock.
    pub group: Option<String>,
}

/// Writes one block. Any number of producers may have the same one: each holds the block's lock while it writes, from
/// [`Producer::begin`] to [`Producer::commit`], or for longer ([`Producer::hold`]). A dead one's lock is free at once, and
/// what it had begun to write is as if it had never been.
#[derive(Debug)]
pub struct Producer {
    blocks: Blocks,
    name: String,
    options: Options,
    /// Whose lock it takes: the group that was asked for, or else that of the block that was found last.
    group: Option<Group>,
    block: Option<Block>,
    /// When the block was seen to have the name.
    named: Option<Instant>,
    held: Held,
    /// Whether the lock, once taken, is kept from content to content.
    keeps: bool,
    draft: Option<Draft>,
    home: Home,
}

/// Why this producer may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// It may not, or not yet.
    No,
    /// Whatever there is to be locked, it has locked: before the first content there is nothing.
    Own,
    /// A [`Group`] holds the lock, for all of its blocks.
    ByGroup,
}

/// Content that is being written.
#[derive(Debug)]
struct Draft {
    place: Place,
    length: u64,
}

impl Producer {
    pub(super) fn of(blocks: Blocks, name: &str, options: Options) -> Result<Self> {
        if let Some(size) = options.size.filter(|size| !(1..=MAX_CONTENT).contains(size)) {
            return Err(if size == 0 { Failure::Empty } else { Failure::TooLarge(size, MAX_CONTENT) });
        }
        if let Some(group) = &options.group {
            name::checked(group)?;
        }
        let mut this = Self {
            blocks,
            name: name.to_owned(),
            options,
            group: None,
            block: None,
            named: None,
            held: Held::No,
            keeps: false,
            draft: None,
            home: Home::here(),
        };
        this.join_asked()?;
        Ok(this)
    }

    /// The block's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes `content` the current one, waiting for at most `limit` for other producers, for consumers that have locked
    /// the block, and for a buffer that nobody has pinned; gives its version.
    ///
    /// # Errors
    /// Empty or too large content; a wait that ran out; a file that is not to be used; no memory. What was current stays.
    pub fn publish(&mut self, content: &[u8], limit: Duration) -> Result<u64> {
        loop {
            self.begin(content.len() as u64, limit)?;
            let published = self.write(0, content).and_then(|()| self.commit(limit));
            if published.is_err() {
                self.abandon();
            }
            match published {
                // Then there is no file any more, and the next turn makes one.
                Err(Failure::Removed(_)) => {}
                published => return published,
            }
        }
    }

    /// Takes the lock and keeps it, so that no other producer writes, and none that follows pays for locks. Consumers that
    /// want the lock wait as long; those that read without it do not. Content that was begun is abandoned.
    ///
    /// The lock is the block's: before the first content, and after a removal, there is nothing to hold unless the block has a
    /// group, and others may hold the name likewise. Then whoever publishes first has the block and its lock, and the others'
    /// next content waits for that lock: it fails if that takes too long, and whoever gets the lock keeps it from then on.
    ///
    /// # Errors
    /// Others have had the lock for longer than `limit`; a file that is not to be used.
    pub fn hold(&mut self, limit: Duration) -> Result<()> {
        self.come_home();
        self.abandon();
        self.take(limit)?;
        self.keeps = true;
        Ok(())
    }

    /// Gives the lock back.
    pub fn release(&mut self) {
        self.abandon();
        self.keeps = false;
        self.give_back_unless_kept();
    }

    /// Begins content of so many bytes, to be written in place.
    ///
    /// # Errors
    /// As [`Producer::publish`].
    #[inline]
    pub fn begin(&mut self, length: u64, limit: Duration) -> Result<()> {
        let most = self.options.size.unwrap_or(MAX_CONTENT);
        if length == 0 {
            return Err(Failure::Empty);
        }
        if length > most {
            return Err(Failure::TooLarge(length, most));
        }
        self.come_home();
        self.abandon();
        self.take(limit)?;
        match self.place(length, limit) {
            Ok(place) => self.draft = Some(Draft { place, length }),
            Err(error) => {
                self.give_back_unless_kept();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Writes some of the content that was begun.
    ///
    /// # Errors
    /// Nothing was begun; more bytes than that.
    #[inline]
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let (block, at, length) = self.drafted()?;
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= length);
        let written = end.is_some() && copy::into(block.mapping(), Offset(at + offset), bytes);
        if written {
            Ok(())
        } else {
            Err(Failure::TooLarge(offset.saturating_add(bytes.len() as u64), length))
        }
    }

    /// Where the content that was begun is to be written, and its bytes. What is there before is anything. It is this
    /// producer's until [`Producer::commit`], [`Producer::abandon`] or any other call.
    ///
    /// # Errors
    /// Nothing was begun.
    pub fn memory(&mut self) -> Result<(*mut u8, usize)> {
        let (block, at, length) = self.drafted()?;
        let pointer =
            block.mapping().pointer(Offset(at), length as usize).ok_or_else(super::file::damaged)?;
        Ok((pointer.cast_mut(), length as usize))
    }

    /// Makes the content that was begun the current one, and gives its version.
    ///
    /// # Errors
    /// Nothing was begun; the block was removed meanwhile, so that it has to be begun again.
    #[inline]
    pub fn commit(&mut self, limit: Duration) -> Result<u64> {
        self.come_home();
        let committed = match self.draft.take() {
            None => return Err(Failure::Order("begin")),
            Some(Draft { place: Place::Buffer(buffer), length }) => self.show(buffer, length),
            Some(Draft { place: Place::Fresh(fresh), length }) => self.replace(fresh, length, limit),
        };
        self.give_back_unless_kept();
        committed
    }

    /// Forgets the content that was begun, if any.
    #[inline]
    pub fn abandon(&mut self) {
        if self.draft.take().is_some() {
            self.give_back_unless_kept();
        }
    }

    /// Writes under the lock that a group holds.
    pub(super) fn publish_for(&mut self, group: &Group, content: &[u8], limit: Duration) -> Result<u64> {
        self.come_home();
        self.release();
        self.find_for(group)?;
        self.held = Held::ByGroup;
        let published = self.publish(content, limit);
        self.held = Held::No;
        published
    }

    fn drafted(&self) -> Result<(&Block, u64, u64)> {
        // One that a child has of its parent is none of the child's.
        let draft = self.draft.as_ref().filter(|_| self.home.is_here()).ok_or(Failure::Order("begin"))?;
        let (block, buffer) = match &draft.place {
            Place::Buffer(buffer) => (self.block.as_ref().ok_or(Failure::Order("begin"))?, *buffer),
            Place::Fresh(fresh) => (fresh.block()?, 0),
        };
        Ok((block, block.geometry().buffer(buffer), draft.length))
    }

    #[inline]
    fn place(&self, length: u64, limit: Duration) -> Result<Place> {
        let wanted = self.options.size.unwrap_or(length);
        let capacity = match &self.block {
            Some(block) if block.is_stale() => wanted,
            Some(block) if wanted <= block.geometry().capacity => {
                return place::choose(block, limit).map(Place::Buffer);
            }
            // Whoever grows once will grow again.
            Some(block) if self.options.size.is_none() => wanted.max(block.geometry().capacity * 2),
            _ => wanted,
        };
        Ok(Place::Fresh(Fresh::make(&self.blocks, Geometry::for_content(capacity))?))
    }

    /// Whose versions the next one counts on; those of a new block are its own.
    fn identity(&self) -> Result<u64> {
        match &self.block {
            Some(block) => Ok(block.identity()),
            None => process::random_word().doing(|| "cannot begin a block".to_owned()),
        }
    }

    fn group_name(&self) -> Option<&str> {
        self.group.as_ref().map(Group::name)
    }

    #[inline]
    fn show(&mut self, buffer: u64, length: u64) -> Result<u64> {
        let block = self.block.as_ref().ok_or(Failure::Order("begin"))?;
        let version = block.head().version() + 1;
        place::seal(block, buffer, version, length);
        if place::show(block, buffer, version) && !self.still_named()? {
            self.forget();
            return Err(Failure::Removed(self.name.clone()));
        }
        Ok(version)
    }

    /// Gives the name to another file, whose first buffer holds the content.
    fn replace(&mut self, mut fresh: Fresh, length: u64, limit: Duration) -> Result<u64> {
        let too_late = planted::has(Bug::NamedBeforeWritten);
        loop {
            let version = self.block.as_ref().map_or(0, |old| old.head().version()) + 1;
            // Here and not when it was begun: the block of then may have been removed since, and whoever has read that takes a
            // version of the same identity for a later one.
            fresh.follow(self.identity()?, self.group_name())?;
            if !too_late {
                fill(&fresh, version, length)?;
            }
            let Some(old) = &self.block else {
                if fresh.take_name(&self.name, false)? {
                    return self.adopt(fresh, version, length);
                }
                // Another producer was faster: its block is the one to go on with.
                self.take_found(limit)?;
                continue;
            };
            if self.give_way(old, &mut fresh, limit)? {
                return self.adopt(fresh, version, length);
            }
            self.forget();
            self.take_found(limit)?;
        }
    }

    /// Has the current file give its name to another. False where it has it no more itself.
    fn give_way(&self, old: &Block, fresh: &mut Fresh, limit: Duration) -> Result<bool> {
        let doing = || format!("cannot lock block {}", self.name);
        if !range_lock::lock(old.file(), &REMOVAL_LOCK, Lock::Exclusive, limit).doing(doing)? {
            return Err(Failure::Busy(format!("block {} is being removed", self.name)));
        }
        let given = self.blocks.leads_to(&self.name, old).and_then(|named| {
            if !named {
                return Ok(false);
            }
            // Whoever uses the old one looks at the name from here on.
            old.word(AT_HEAD).fetch_or(RETIRED, AcqRel);
            let taken = fresh.take_name(&self.name, true);
            futex::wake_all(old.word(AT_HEAD));
            taken
        });
        range_lock::unlock(old.file(), &REMOVAL_LOCK).doing(doing)?;
        given
    }

    fn adopt(&mut self, fresh: Fresh, version: u64, length: u64) -> Result<u64> {
        if planted::has(Bug::NamedBeforeWritten) {
            fill(&fresh, version, length)?;
        }
        self.named = None;
        // The old one's locks go with it.
        self.block = Some(fresh.into_block()?);
        Ok(version)
    }
}

impl Drop for Producer {
    /// A child that was forked keeps the files open, and with them a lock that was not given back.
    fn drop(&mut self) {
        self.release();
    }
}

/// Says in a file that has no name yet that its first buffer holds this version.
fn fill(fresh: &Fresh, version: u64, length: u64) -> Result<()> {
    let block = fresh.block()?;
    place::seal(block, 0, version, length);
    place::show(block, 0, version);
    Ok(())
}
