//! A wake-up at an instant, finer than the milliseconds in which `epoll_wait` counts.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use common::error::{Context, Error, Result};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// A timer that an epoll watches.
#[derive(Debug)]
pub struct Alarm {
    timer: OwnedFd,
    set: Option<Instant>,
}

impl Alarm {
    /// Not set yet. It shows up in `epoll` as `data`, once each time it goes off.
    pub fn new(epoll: &Epoll, data: u64) -> Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
            .map_err(|cause| Error::failure(format!("cannot create a timer: {cause}")))?;
        // Edge-triggered: it never has to be read.
        epoll
            .add(&timer, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, data))
            .context(|| "cannot watch a timer".to_owned())?;
        Ok(Self { timer, set: None })
    }

    /// Goes off at `instant`, and at no other that was asked for before.
    pub fn set(&mut self, instant: Instant, now: Instant) -> Result<()> {
        if self.set == Some(instant) {
            return Ok(());
        }
        // A timer of 0 would be none.
        let after = instant.saturating_duration_since(now).max(Duration::from_nanos(1));
        let it_value = Timespec::try_from(after)
            .map_err(|_| Error::failure("cannot set a timer: it is too far away"))?;
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)
            .map_err(|cause| Error::failure(format!("cannot set a timer: {cause}")))?;
        self.set = Some(instant);
        Ok(())
    }
}
