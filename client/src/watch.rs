//! Looking at an instance again and again. The region is mapped once, and another one as soon as the instance has
//! another; an instance that does not answer keeps nobody from looking at the region that it had.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::error::{Context as _, Error, Result};
use common::region::Region;
use common::sys::channel::{Channel, Received};
use common::sys::transport::receive_within;
use common::wire::control::{self, DaemonStatus, Request, Response};

use crate::attach::{StatusView, answered_something_else, connect};

/// Somebody who looks.
#[derive(Debug)]
pub struct Watch {
    source: Source,
    channel: Option<Channel>,
    /// Whether the instance was asked and has not answered yet. A late answer is as good as one to a later question.
    asked: bool,
    mapped: Option<Mapped>,
    /// What the instance last said.
    last_said: Option<DaemonStatus>,
}

/// Where the instance is found.
#[derive(Debug)]
enum Source {
    /// In this run directory, whichever instance has it.
    RunDir(PathBuf),
    /// At the other end of a channel that came from it.
    Parent,
}

/// A region, and which file it is.
#[derive(Debug)]
struct Mapped {
    device: u64,
    inode: u64,
    region: Arc<Region>,
}

impl Watch {
    /// Looks at whichever instance owns this run directory.
    pub fn of_run_dir(run_dir: PathBuf) -> Self {
        Self { source: Source::RunDir(run_dir), channel: None, asked: false, mapped: None, last_said: None }
    }

    /// Looks at the instance at the other end of this channel.
    pub fn over(channel: Channel) -> Self {
        Self { source: Source::Parent, channel: Some(channel), asked: false, mapped: None, last_said: None }
    }

    /// What the instance is doing; it has so long to answer.
    ///
    /// # Errors
    /// No instance, or one that does not answer, or not to us; a region that cannot be read (exit 4).
    pub fn look(&mut self, patience: Duration) -> Result<StatusView> {
        let was_connected = self.channel.is_some();
        let mut answered = self.ask(patience);
        if answered.is_err() && self.channel.is_none() && was_connected {
            // There may be another instance by now.
            answered = self.ask(patience);
        }
        let (daemon, region) = answered?;
        let region = self.region_in(&File::from(region))?;
        self.last_said = Some(daemon.clone());
        Ok(StatusView::of(daemon, region))
    }

    /// The region that the instance had when it last answered, as it is now, and what the instance said then.
    pub fn last_seen(&self) -> Option<StatusView> {
        let (mapped, said) = (self.mapped.as_ref()?, self.last_said.clone()?);
        Some(StatusView::of(said, Arc::clone(&mapped.region)))
    }

    /// Asks, unless an answer is still to come. Without one to come, a connection that failed is given up.
    fn ask(&mut self, patience: Duration) -> Result<(DaemonStatus, OwnedFd)> {
        let answered = self.exchange(patience);
        if answered.is_err() && !self.asked {
            self.channel = None;
        }
        answered
    }

    fn exchange(&mut self, patience: Duration) -> Result<(DaemonStatus, OwnedFd)> {
        let doing = || "cannot talk to the instance".to_owned();
        if self.channel.is_none() {
            self.asked = false;
            match &self.source {
                Source::RunDir(run_dir) => self.channel = Some(connect(run_dir)?),
                Source::Parent => return Err(Error::failure("the instance is gone")),
            }
        }
        let Some(channel) = &self.channel else { return Err(answered_something_else()) };
        if !self.asked {
            channel.try_send(&control::encode(&Request::Status).context(doing)?, &[]).context(doing)?;
            self.asked = true;
        }
        let received = receive_within(channel, patience);
        self.asked = matches!(received, Ok(Received::Nothing));
        match received.context(doing)? {
            Received::Frame(frame, descriptors) => match control::decode(&frame).context(doing)? {
                Response::Status(daemon) => {
                    let region = descriptors.into_iter().next();
                    Ok((*daemon, region.ok_or_else(answered_something_else)?))
                }
                Response::Refused(why) => Err(Error::failure(why)),
                _ => Err(answered_something_else()),
            },
            Received::Closed => Err(Error::failure("the instance went away before it answered")),
            Received::Nothing => Err(Error::failure(format!(
                "the instance has not answered for {} ms; is it stopped?",
                patience.as_millis()
            ))),
        }
    }

    /// The region in this file, which is mapped unless it is already.
    fn region_in(&mut self, file: &File) -> Result<Arc<Region>> {
        let metadata = file.metadata().context(|| "cannot examine the region".to_owned())?;
        let (device, inode) = (metadata.dev(), metadata.ino());
        // While a file is mapped, no other one gets its number.
        if let Some(mapped) = &self.mapped
            && (mapped.device, mapped.inode) == (device, inode)
        {
            return Ok(Arc::clone(&mapped.region));
        }
        let region = Arc::new(Region::attach_read_only(file)?);
        self.mapped = Some(Mapped { device, inode, region: Arc::clone(&region) });
        Ok(region)
    }
}
