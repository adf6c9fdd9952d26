//! What every role under the supervisor begins with: the channel, what is handed over through it, and the region.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use common::error::{Context as _, Error, Result};
use common::ids::{Owner, SlotIndex};
use common::journal::spool::Spool;
use common::logging::LogFile;
use common::region::{Region, UnverifiedRegion};
use common::sys::channel::{Channel, Received};
use common::sys::file;
use common::sys::process::{self, CHANNEL_FD};
use common::tidings::Tidings;
use common::wire::control::{self, ENDOWMENTS, Endowment, Order, Report, Settings, Start};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{SockType, getsockopt, sockopt};

/// What a child of the supervisor has been given.
#[derive(Debug)]
pub struct Attachment {
    channel: Channel,
    region: UnverifiedRegion,
    spool: Spool,
    settings: Settings,
    log: RefCell<LogFile>,
    tidings: Tidings,
    /// Whether tidings were heard last: then the supervisor comes first.
    heard: Cell<bool>,
    /// `.writers` and `alive` under their shared locks: open as long as this process lives.
    _inherited: Vec<OwnedFd>,
}

/// What a wait for the supervisor gave.
#[derive(Debug)]
pub enum Word {
    /// An order.
    Order(Order),
    /// Owners that are said to be dead, by who waits for their locks.
    Tidings(Vec<Owner>),
    /// Nothing within the time.
    Silence,
    /// The supervisor is gone, or wants nothing more.
    Farewell,
}

impl Attachment {
    /// Receives what the supervisor hands over. `None` where it is gone already: leave silently.
    ///
    /// # Errors
    /// Where this process was not started by a supervisor (exit 2); a region that is refused (exit 4).
    pub fn receive() -> Result<Option<Self>> {
        let channel = inherited_channel()?;
        ignore_the_terminal().context(|| "cannot block signals".to_owned())?;
        let Some((start, descriptors)) = first_order(&channel)? else { return Ok(None) };
        if !process::die_with_parent(start.supervisor)
            .context(|| "cannot follow the supervisor".to_owned())?
        {
            return Ok(None);
        }
        match Self::attach(start, descriptors) {
            Ok((region, spool, settings, tidings, inherited)) => {
                let log = RefCell::new(LogFile::inherited(&settings, region.contents()));
                let heard = Cell::new(false);
                Ok(Some(Self {
                    channel,
                    region,
                    spool,
                    settings,
                    log,
                    tidings,
                    heard,
                    _inherited: inherited,
                }))
            }
            Err(error) => {
                // The supervisor says it where people look; if it is gone, nobody needs it.
                let _ = report_on(&channel, &Report::Failed(error.to_string()));
                Err(error.told())
            }
        }
    }

    fn attach(
        start: Start,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(UnverifiedRegion, Spool, Settings, Tidings, Vec<OwnedFd>)> {
        let mut descriptors: Vec<_> = descriptors.into_iter().map(Some).collect();
        let mut take = |endowment: Endowment| {
            let missing = || Error::failure("the supervisor's first order came without its descriptors");
            descriptors.get_mut(endowment as usize).and_then(Option::take).ok_or_else(missing)
        };
        let region = UnverifiedRegion::open(&File::from(take(Endowment::Region)?))?;
        let spool = Spool::from_directory(File::from(take(Endowment::Spool)?));
        let tidings = Tidings::from_descriptor(take(Endowment::Tidings)?);
        Ok((region, spool, start.settings, tidings, descriptors.into_iter().flatten().collect()))
    }

    /// The region. Whatever is in it is an allegation.
    pub fn region(&self) -> &Region {
        self.region.contents()
    }

    /// The spool.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// What the supervisor's options say.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Touches every page that a repair will need, so that it meets no page fault.
    pub fn warm(&self) {
        let region = self.region();
        let touched = (0..region.geometry().slot_count).map(SlotIndex).filter_map(|index| {
            let log = region.undo_area(index)?.first()?.load(std::sync::atomic::Ordering::Relaxed);
            Some(log ^ region.slot(index)?.owner.load(std::sync::atomic::Ordering::Relaxed))
        });
        std::hint::black_box(touched.fold(0, |sum, word| sum ^ word));
    }

    /// Tells the supervisor. False where it is gone.
    ///
    /// # Errors
    /// What sending reports besides that.
    pub fn report(&self, report: &Report) -> Result<bool> {
        report_on(&self.channel, report)
    }

    /// Waits for the supervisor's next order, for at most `limit`.
    ///
    /// # Errors
    /// What poll and receive report; a frame that is no order.
    pub fn listen(&self, limit: Option<Duration>) -> Result<Word> {
        let received = match limit {
            None => self.channel.receive(),
            Some(limit) => match readable([&self.channel], Some(limit)).context(cannot_listen)? {
                [true] => self.channel.try_receive(),
                [false] => Ok(Received::Nothing),
            },
        };
        self.understand(received)
    }

    /// The same, and for tidings of deaths besides; those come first, since somebody waits, but not twice: whoever is
    /// attached may send some, and as many as he likes.
    ///
    /// # Errors
    /// As [`Attachment::listen`].
    pub fn listen_to_all(&self, limit: Option<Duration>) -> Result<Word> {
        let sources: [&dyn AsFd; 2] = [&self.tidings, &self.channel];
        let heard = self.heard.get();
        let [tidings, spoken] = readable(sources, limit).context(cannot_listen)?;
        self.heard.set(tidings && !(spoken && heard));
        if self.heard.get() {
            return Ok(Word::Tidings(self.tidings.heard()));
        }
        self.understand(if spoken { self.channel.try_receive() } else { Ok(Received::Nothing) })
    }

    fn understand(&self, received: io::Result<Received>) -> Result<Word> {
        self.log.borrow_mut().follow(self.region());
        match received {
            Ok(Received::Frame(frame, _)) => Ok(Word::Order(control::decode(&frame).context(cannot_listen)?)),
            Ok(Received::Nothing) => Ok(Word::Silence),
            Ok(Received::Closed) => Ok(Word::Farewell),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Word::Farewell),
            Err(error) => Err(error).context(cannot_listen),
        }
    }
}

fn cannot_listen() -> String {
    "cannot listen to the supervisor".to_owned()
}

fn inherited_channel() -> Result<Channel> {
    let started_by_hand = || {
        Error::usage(format!(
            "descriptor {CHANNEL_FD} is not a channel: this role is started by the supervisor; see recovery --help"
        ))
    };
    let descriptor = file::adopt(CHANNEL_FD).map_err(|_| started_by_hand())?;
    match getsockopt(&descriptor, sockopt::SockType) {
        Ok(SockType::SeqPacket) => Ok(Channel::from_descriptor(descriptor)),
        _ => Err(started_by_hand()),
    }
}

/// The signals of a terminal and of an operator go to the whole process group, and the supervisor decides what they
/// mean: this process ends when its channel closes.
fn ignore_the_terminal() -> nix::Result<()> {
    let signals = [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGPIPE,
    ];
    SigSet::from_iter(signals).thread_block()
}

fn first_order(channel: &Channel) -> Result<Option<(Start, Vec<OwnedFd>)>> {
    let broken = || "cannot receive the supervisor's first order".to_owned();
    match channel.receive().context(broken)? {
        Received::Frame(frame, descriptors) => match control::decode(&frame).context(broken)? {
            Order::Start(start) if descriptors.len() >= ENDOWMENTS => Ok(Some((*start, descriptors))),
            _ => Err(Error::failure("the supervisor's first order is not the one to start")),
        },
        Received::Closed => Ok(None),
        Received::Nothing => {
            Err(Error::failure("the supervisor's channel is empty though it was waited for"))
        }
    }
}

fn report_on(channel: &Channel, report: &Report) -> Result<bool> {
    let telling = || "cannot report to the supervisor".to_owned();
    let frame = control::encode(report).context(telling)?;
    match channel.send(&frame, &[]) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
            Ok(false)
        }
        Err(error) => Err(error).context(telling),
    }
}

/// Which of these can be read from, after a wait of at most `limit` for any.
fn readable<const N: usize>(sources: [&dyn AsFd; N], limit: Option<Duration>) -> io::Result<[bool; N]> {
    // Rounded up: a wait that ends a moment before its time would be followed by another.
    let limit = limit.map(|limit| (limit + Duration::from_micros(999)).as_millis());
    let timeout =
        limit.map_or(PollTimeout::NONE, |limit| PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX));
    let mut polled = sources.map(|source| PollFd::new(source.as_fd(), PollFlags::POLLIN));
    match poll(&mut polled, timeout) {
        Ok(_) => Ok(polled.map(|source| source.any().unwrap_or(true))),
        Err(nix::errno::Errno::EINTR) => Ok([false; N]),
        Err(error) => Err(error.into()),
    }
}
