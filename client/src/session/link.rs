//! A session's connection to the instance, which may be another one by now.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use common::error::{Error, Result};
use common::region::Region;
use common::sys::channel::{Channel, Received};
use common::sys::process;
use common::sys::transport::receive_within;
use common::tidings::Tidings;
use common::wire::control::{self, Membership, Request, Response};

use super::SessionError;
use crate::attach::control_socket;

/// The connection is looked after so often, in milliseconds, and whenever another instance says in the region that it is
/// there. One that has another region says nothing in this one.
const LOOK_EVERY_MS: u64 = 10;
/// Pauses between two attempts to find the next instance.
const NEXT_TRY: Duration = Duration::from_millis(10);

/// The connection to the instance, which may be another one by now.
#[derive(Debug)]
pub struct Link {
    run_dir: PathBuf,
    membership: Membership,
    channel: Option<Channel>,
    /// Whether the instance has been told whose connection this is, and has not answered yet.
    asked: bool,
    /// The instance's number, as the region had it when the connection was made.
    life: u64,
    /// When it was last looked after, in milliseconds of the coarse clock.
    looked: u64,
    last_try: Option<Instant>,
    ended: Option<String>,
    /// Where the recovery of another instance hears of the dead.
    tidings: Option<Tidings>,
}

impl Link {
    /// Of a program that was just let in.
    pub fn new(channel: Channel, run_dir: PathBuf, membership: Membership, life: u64) -> Self {
        let channel = Some(channel);
        Self {
            run_dir,
            membership,
            channel,
            asked: false,
            life,
            looked: process::coarse_ms(),
            last_try: None,
            ended: None,
            tidings: None,
        }
    }

    /// Before each transaction: is the region still the one that is served, and the connection there? Two loads and a look
    /// at the clock, without a system call, as a rule. Nobody is waited for.
    #[inline]
    pub fn look(&mut self, region: &Region) -> std::result::Result<(), SessionError> {
        let supervision = &region.header().supervision;
        let now = process::coarse_ms();
        let due = now.wrapping_sub(self.looked) >= LOOK_EVERY_MS || self.asked || self.channel.is_none();
        if !due && supervision.life.load(Relaxed) == self.life && supervision.damaged.load(Relaxed) == 0 {
            return Ok(());
        }
        self.looked = now;
        self.mend(region)
    }

    #[cold]
    fn mend(&mut self, region: &Region) -> std::result::Result<(), SessionError> {
        let supervision = &region.header().supervision;
        if supervision.damaged.load(Relaxed) != 0 {
            self.end("the region is damaged; attach again when the instance has another one".to_owned());
        }
        let life = supervision.life.load(Relaxed);
        if life != self.life {
            self.close();
        }
        self.hear();
        if self.channel.is_none() && self.ended.is_none() {
            self.connect_again(life);
        }
        match &self.ended {
            Some(why) => Err(SessionError::Ended(why.clone())),
            None => Ok(()),
        }
    }

    /// Takes what the instance has said.
    fn hear(&mut self) {
        let Some(channel) = &self.channel else { return };
        match channel.try_receive() {
            Ok(Received::Nothing) => {}
            Ok(Received::Frame(frame, descriptors)) => match control::decode(&frame) {
                Ok(Response::Refused(why)) => self.end(why),
                _ => {
                    self.asked = false;
                    self.tidings = descriptors.into_iter().next().map(Tidings::from_descriptor);
                }
            },
            Ok(Received::Closed) | Err(_) => self.close(),
        }
    }

    /// The next instance is told who is here. What it says to that is heard another time.
    fn connect_again(&mut self, life: u64) {
        if self.last_try.is_some_and(|last| last.elapsed() < NEXT_TRY) {
            return;
        }
        self.last_try = Some(Instant::now());
        let connected = control_socket(&self.run_dir).and_then(|(_directory, path)| {
            let channel = Channel::connect_at_once(&path)?;
            channel.try_send(&control::encode(&Request::Rejoin(self.membership))?, &[])?;
            Ok(channel)
        });
        // Without an instance the region is there all the same.
        if let Ok(channel) = connected {
            (self.channel, self.asked, self.life) = (Some(channel), true, life);
        }
    }

    /// What another instance gave, once.
    #[inline]
    pub fn take_tidings(&mut self) -> Option<Tidings> {
        self.tidings.take()
    }

    fn end(&mut self, why: String) {
        self.close();
        self.ended = Some(why);
    }

    /// Cuts it.
    pub fn close(&mut self) {
        if let Some(channel) = self.channel.take() {
            // A child of this process may have a descriptor of it.
            channel.shut_down();
        }
        self.asked = false;
    }

    /// Tells the instance that the slot was left, and hears for so long what it says. Without a connection it finds out
    /// by itself.
    pub fn say_farewell(&mut self, patience: Duration) -> Result<()> {
        let Some(channel) = &self.channel else { return Ok(()) };
        let deadline = Instant::now() + patience;
        if say(channel, &Request::Detach(self.membership.owner)).is_err() {
            return Ok(());
        }
        while !patience.is_zero() {
            let left = deadline.saturating_duration_since(Instant::now());
            match receive_within(channel, left) {
                Ok(Received::Frame(frame, _)) => match control::decode(&frame) {
                    // To a question before.
                    Ok(Response::Joined(_)) => {}
                    Ok(Response::Refused(why)) => return Err(Error::failure(why)),
                    _ => return Ok(()),
                },
                _ => return Ok(()),
            }
        }
        Ok(())
    }
}

fn say(channel: &Channel, request: &Request) -> io::Result<()> {
    channel.try_send(&control::encode(request)?, &[])
}
