//! The template: loads the service once, then clones itself into workers at the supervisor's orders. It has one
//! thread, and between two clones it writes to as little memory as it can: whatever it touches, the clones made before
//! keep a copy of.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use common::error::{Context, Error, Result};
use common::ids::Owner;
use common::journal::spool::Spool;
use common::logging::{self, LogFile};
use common::region::Region;
use common::slots::State;
use common::sys::channel::{Channel, Received};
use common::sys::clone::{Cloned, Cloner};
use common::sys::file;
use common::sys::process::{self, CHANNEL_FD};
use common::sys::scheduling;
use common::sys::signal;
use common::sys::socket::{self, Listener};
use common::tidings::Tidings;
use common::wire::control::{self, ENDOWMENTS, Endowment, Order, Report, Settings, Start};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};

use crate::{Service, worker};

/// What a terminal and an operator send to the whole process group, and what is the supervisor's to act upon.
const SUPERVISORS_SIGNALS: [Signal; 5] =
    [Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// More bytes than an order to clone has, or a report of it.
const SHORT_FRAME: usize = 64;

/// A loaded template.
pub(crate) struct Template<S> {
    pub channel: Channel,
    pub start: Start,
    pub estate: Estate,
    pub service: S,
    cloner: Cloner,
}

/// What the supervisor's descriptors have become.
pub(crate) struct Estate {
    pub region: &'static Region,
    pub spool: Spool,
    pub bell: File,
    pub tidings: Tidings,
    pub listeners: Vec<Listener>,
    pub log: LogFile,
    /// `SPOOL/.writers` and `RUN/alive`: their locks are held by whoever has them open.
    _locks: [OwnedFd; 2],
}

/// A process that has just been cloned, with every signal blocked.
pub(crate) struct Newborn {
    pub owner: Owner,
    /// The signals that were blocked before.
    pub blocked: SigSet,
}

/// Lives as the template, and in the clones as a worker.
pub(crate) fn run<S: Service>(load: impl FnOnce(&Settings) -> Result<S>) -> Result<ExitCode> {
    let channel = Channel::from_descriptor(file::adopt(CHANNEL_FD).map_err(|_| without_supervisor())?);
    let Some((start, descriptors)) = await_start(&channel)? else { return Ok(ExitCode::SUCCESS) };
    logging::init("template");
    if !settle_in(&start)? {
        return Ok(ExitCode::SUCCESS);
    }
    let loaded = Estate::take(&start, descriptors).and_then(|estate| Ok((estate, load(&start.settings)?)));
    let (estate, service) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => return report_failure(&channel, &error),
    };
    let mut template = Template { channel, start, estate, service, cloner: Cloner::prepare() };
    scheduling::go_first();
    let obeyed = template.obey();
    if let Ok(Some(newborn)) = obeyed {
        return Ok(worker::live(template, &newborn));
    }
    // Whatever the service does at its end is not what others wait for.
    scheduling::go_as_usual();
    obeyed.map(|_| ExitCode::SUCCESS)
}

fn without_supervisor() -> Error {
    Error::usage("this program is started by the supervisor; give it its path: supervisor --worker PATH")
}

/// Waits for the first order and what comes with it; `None` where the supervisor has gone.
fn await_start(channel: &Channel) -> Result<Option<(Start, Vec<OwnedFd>)>> {
    loop {
        match channel.receive() {
            // What is open under the channel's number is not a channel: somebody else started this program.
            Err(error) if error.kind() != io::ErrorKind::InvalidData => return Err(without_supervisor()),
            Ok(Received::Closed) => return Ok(None),
            Ok(Received::Frame(frame, descriptors)) => {
                if let Ok(Order::Start(start)) = control::decode(&frame) {
                    return Ok(Some((*start, descriptors)));
                }
            }
            // Neither is a descriptor that does not wait.
            Ok(Received::Nothing) => return Err(without_supervisor()),
            Err(_) => {}
        }
    }
}

/// Name, signals, and the bond with the supervisor. False where that is gone already.
fn settle_in(start: &Start) -> Result<bool> {
    let alone = || "cannot bind the template to its supervisor".to_owned();
    // The clones inherit this, so that none of them spends forty system calls on it.
    signal::reset_to_default();
    signal::ignore(&SUPERVISORS_SIGNALS);
    signal::ignore(&[Signal::SIGTERM]);
    // What may not become larger is an error, as a full disk is.
    signal::ignore(&[Signal::SIGXFSZ]);
    scheduling::prepare_patience();
    nix::sys::prctl::set_name(c"template").context(alone)?;
    process::die_with_parent(start.supervisor).context(alone)
}

/// Tells the supervisor, whose log it is that people read, and gives the code to leave with.
fn report_failure(channel: &Channel, error: &Error) -> Result<ExitCode> {
    let frame = control::encode(&Report::Failed(error.to_string()));
    let told = frame.map_err(io::Error::from).and_then(|frame| channel.send(&frame, &[]));
    match told {
        Ok(()) => Ok(ExitCode::from(error.exit() as u8)),
        Err(_) => Err(error.clone()),
    }
}

impl Estate {
    fn take(start: &Start, mut descriptors: Vec<OwnedFd>) -> Result<Self> {
        let (count, expected) = (descriptors.len(), ENDOWMENTS + start.listeners as usize);
        let wrong = || {
            Error::failure(format!(
                "{count} descriptors came where {expected} were to; install programs of one version"
            ))
        };
        if count != expected {
            return Err(wrong());
        }
        let sockets = descriptors.split_off(ENDOWMENTS);
        // The order is Endowment's; the assertion keeps both in step.
        const _: () = assert!(Endowment::Tidings as usize == ENDOWMENTS - 1);
        let [region, spool, writers, alive, bell, tidings] = descriptors.try_into().map_err(|_| wrong())?;
        let listeners = adopt_all(sockets).context(|| "cannot use a listening socket".to_owned())?;
        let region: &'static Region = Box::leak(Box::new(Region::attach(&File::from(region))?));
        Ok(Self {
            log: LogFile::inherited(&start.settings, region),
            region,
            spool: Spool::from_directory(File::from(spool)),
            bell: File::from(bell),
            tidings: Tidings::from_descriptor(tidings),
            listeners,
            _locks: [writers, alive],
        })
    }
}

/// A single socket is waited on by accepting; several by something else, and then accepting must not wait.
fn adopt_all(sockets: Vec<OwnedFd>) -> io::Result<Vec<Listener>> {
    let listeners: Vec<_> = sockets.into_iter().map(socket::adopt_listener).collect::<io::Result<_>>()?;
    for listener in &listeners {
        listener.set_waiting(listeners.len() == 1)?;
    }
    Ok(listeners)
}

impl<S> Template<S> {
    /// Obeys until the channel closes (`None`) or this process is a clone. Frames come and go on the stack: every page that
    /// an allocation writes to would be one more that each clone has of its own.
    fn obey(&mut self) -> Result<Option<Newborn>> {
        self.report(&Report::Ready);
        let mut frame = [0; SHORT_FRAME];
        loop {
            match self.channel.receive_in(&mut frame) {
                Ok(0) => return Ok(None),
                Ok(length) => {
                    self.estate.log.follow(self.estate.region);
                    if let Some(newborn) = self.follow(&frame[..length]) {
                        return Ok(Some(newborn));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => log::warn!("{error}"),
                Err(error) => return Err(error).context(|| "cannot hear the supervisor".to_owned()),
            }
        }
    }

    fn follow(&mut self, frame: &[u8]) -> Option<Newborn> {
        match control::decode(frame) {
            Ok(Order::Spawn(owner)) => return self.spawn(owner),
            Ok(_) => log::warn!("ignored an order that is not for a template"),
            Err(bad) => log::warn!("ignored a {bad}"),
        }
        None
    }

    /// Clones a worker for `owner`. In the clone: what it is; in the template: nothing.
    fn spawn(&mut self, owner: Owner) -> Option<Newborn> {
        let report = match self.clone_for(owner) {
            Ok((Cloned::Clone, blocked)) => return Some(Newborn { owner, blocked }),
            Ok((Cloned::Caller(pid), _)) => Report::Spawned(owner, pid),
            Err(error) => {
                log::warn!("cannot clone a worker for {owner}: {error}");
                Report::SpawnFailed(owner, error.raw_os_error().unwrap_or(Errno::EINVAL as i32))
            }
        };
        self.report(&report);
        None
    }

    /// Clones with every signal blocked; the template has its mask back afterwards, the clone not.
    fn clone_for(&mut self, owner: Owner) -> io::Result<(Cloned, SigSet)> {
        let slot = self.estate.region.slot(owner.slot).ok_or(Errno::EINVAL)?;
        // The kernel is about to store a pid there, which must not be another owner's.
        if !slot.is(owner.generation, State::Reserved) {
            return Err(Errno::ESTALE.into());
        }
        let blocked = signal::block_all()?;
        let cloned = self.cloner.clone_sibling(&slot.pid);
        if !matches!(cloned, Ok(Cloned::Clone)) {
            signal::set_blocked(&blocked)?;
        }
        Ok((cloned?, blocked))
    }

    /// A report that cannot be sent finds a supervisor that has gone: the next receive says so.
    fn report(&self, report: &Report) {
        let mut frame = [0; SHORT_FRAME];
        let frame = control::encode_in(report, &mut frame).map_err(io::Error::from);
        let sent = frame.and_then(|frame| self.channel.send(frame, &[]));
        if let Err(error) = sent {
            log::warn!("cannot report to the supervisor: {error}");
        }
    }
}
