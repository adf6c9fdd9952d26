//! Blocks: memory with a name that any processes of a user share, without a daemon.
//!
//! A [`Producer`] publishes content under a name in a directory, [`Blocks`]; any number of [`Consumer`]s find it there.
//! Every content has a version, one higher than the last. Whoever reads gets one content, whole, and never an older one
//! than before, whoever dies at whatever instruction meanwhile: new content is written beside the old, and takes its place
//! in one store.
//!
//! There are two paths. The *data path* takes no lock: a consumer copies and looks afterwards whether what it copied was
//! overwritten ([`Consumer::read`]), sleeps until there is something newer ([`Consumer::wait`]), or pins what is there to
//! use it without a copy ([`Consumer::pin`]). It needs nothing but read access. On the *control path* the kernel's locks on
//! files keep order: producers exclude each other ([`Producer::hold`]), consumers keep every producer waiting
//! ([`Consumer::lock`]), and a [`Group`] does both for several blocks. The kernel takes a dead process's locks off.
//!
//! A child that was forked may go on with its parent's producers, consumers and groups: it opens files of its own for them,
//! and holds nothing at first. What its parent holds, has pinned or had begun to write stays the parent's. The child has the
//! parent's files open all the same, until it uses or drops what they belong to or executes another program: should the
//! parent die before, its locks are free only then.
//!
//! ```
//! use std::time::Duration;
//! use client::block::{Blocks, Options};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("blocks");
//! let limit = Duration::from_secs(1);
//! let blocks = Blocks::create(&path)?;
//! let mut producer = blocks.producer("weather", Options::default())?;
//! producer.publish(b"sunny", limit)?;
//!
//! let mut consumer = blocks.consumer("weather")?;
//! let mut content = Vec::new();
//! consumer.read(&mut content)?;
//! assert_eq!(content, b"sunny");
//! # Ok(())
//! # }
//! ```
//!
//! In reading order: what a file holds (`layout`), where it is (`name`, `directory`), the file (`file`, `home`), reading it
//! (`consumer`, `pinned`), making one (`making`), writing it (`producer`, `place`), several at once (`group`).

mod consumer;
mod directory;
mod failure;
mod file;
mod group;
mod home;
mod layout;
mod making;
mod name;
mod pinned;
mod place;
mod producer;
#[cfg(test)]
mod tests;

pub use consumer::Consumer;
pub use directory::{Blocks, Listed, default_directory};
pub use failure::{Failure, Result};
pub use group::Group;
pub use layout::MAX_CONTENT;
pub use pinned::Pinned;
pub use producer::{Options, Producer};
