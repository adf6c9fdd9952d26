//! The exporter: with `--metrics-listen` it is one more child, which shows the instance over HTTP. It gets sockets that are
//! opened here, once, so that whoever connects while there is none waits for the next; and a channel over which it can
//! ask for status and the region to read, and for nothing else. It needs no file and no path.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::address::Address;
use common::error::{Context, Error, Result};
use common::ids::Pid;
use common::sys::channel::Channel;
use common::sys::process::{self, Terms};
use common::wire::control::{self, Order, Settings, Start};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::children::{self, find_program};
use crate::companion::Companion;
use crate::control::{ConnectionId, ControlSocket};
use crate::listen::{Inheritance, Listeners, PackedListeners};
use crate::policy::Clock;
use crate::upgrade::luggage::{Arrived, Luggage};

/// What the program is called with as a child.
const ROLE: &str = "supervised";

/// Connections wait for so long at most; the exporter has its own bounds.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(60);

/// The exporter of an instance, if it has one.
#[derive(Debug)]
pub struct Showing {
    program: Option<PathBuf>,
    listeners: Listeners,
    exporter: Companion,
    connection: Option<ConnectionId>,
}

/// The same as it is handed to a successor in this process, but for the program: that is found anew.
#[derive(Debug, Serialize, Deserialize)]
pub struct PackedShowing {
    listeners: PackedListeners,
    exporter: Companion,
    connection: Option<ConnectionId>,
}

impl PackedShowing {
    /// The exporter; another one is of this program.
    ///
    /// # Errors
    /// A socket that has not come along.
    pub fn unpack(self, program: Option<&Path>, arrived: &mut Arrived) -> Result<Showing> {
        let Self { listeners, exporter, connection } = self;
        let listeners = listeners.unpack(arrived)?;
        Ok(Showing { program: program.map(Path::to_owned), listeners, exporter, connection })
    }
}

impl Showing {
    /// For a successor.
    pub fn pack<'a>(&'a self, luggage: &mut Luggage<'a>) -> PackedShowing {
        let Self { listeners, exporter, connection, .. } = self;
        PackedShowing { listeners: listeners.pack(luggage), exporter: *exporter, connection: *connection }
    }

    /// By this program, at these addresses, with sockets that were passed where they listen there; without a program there
    /// is none.
    ///
    /// # Errors
    /// An address that cannot be had.
    pub fn open(program: Option<&Path>, addresses: &[Address], inherited: &mut Inheritance) -> Result<Self> {
        Ok(Self {
            program: program.map(Path::to_owned),
            listeners: Listeners::open_with(addresses, inherited, SOCKET_TIMEOUT)?,
            exporter: Companion::default(),
            connection: None,
        })
    }

    /// The sockets that a successor would have to open again, see [`Listeners::opened`].
    pub fn opened(&self) -> Vec<(&str, BorrowedFd<'_>)> {
        self.listeners.opened()
    }

    /// Where it listens, as `--metrics-listen` takes it, with real ports.
    pub fn names(&self) -> &[String] {
        self.listeners.names()
    }

    /// Whether this process is the exporter.
    pub fn is(&self, pid: Pid) -> bool {
        self.exporter.is(pid)
    }

    /// When a missing exporter's start is due.
    pub fn due(&self) -> Option<Clock> {
        self.program.as_ref().and_then(|_| self.exporter.due())
    }

    /// Starts it where that is due.
    ///
    /// # Errors
    /// It cannot be started; that is tried again later.
    pub fn start_if_due(
        &mut self,
        now: Clock,
        terms: &Terms,
        log_level: &str,
        control: &mut ControlSocket,
    ) -> Result<()> {
        let Some(program) = self.program.as_ref().filter(|_| self.exporter.is_due(now)) else {
            return Ok(());
        };
        let started = start(program, terms, log_level, &self.listeners);
        let adopted = started.and_then(|(pid, channel)| {
            let connection = control.adopt(channel).context(|| "cannot hear the exporter".to_owned());
            // One that nobody hears leaves by itself when it notices, and is reaped as anybody else.
            connection.inspect_err(|_| children::kill(pid)).map(|connection| (pid, connection))
        });
        self.connection = adopted.as_ref().ok().map(|(_, connection)| *connection);
        let adopted = adopted.map(|(pid, _)| pid);
        self.exporter.started(&adopted, now);
        adopted.map(drop)
    }

    /// It is gone.
    pub fn lost(&mut self, now: Clock, control: &mut ControlSocket) {
        self.exporter.lost(now);
        if let Some(connection) = self.connection.take() {
            control.hang_up(connection);
        }
    }

    /// Another one takes its place, once it has answered what it was asked.
    pub fn renew(&self) {
        if let Some(exporter) = self.exporter.pid() {
            children::signal(exporter, Signal::SIGTERM);
        }
    }

    /// Nothing is shown any more; gives who is to be told.
    pub fn end(&mut self) -> Option<Pid> {
        self.program = None;
        self.listeners.close();
        self.exporter.take()
    }
}

fn start(program: &Path, terms: &Terms, log_level: &str, listeners: &Listeners) -> Result<(Pid, Channel)> {
    let doing = || format!("cannot start {}", program.display());
    let (ours, theirs) = Channel::pair().context(doing)?;
    let pid =
        process::start_on(terms, program, &[OsStr::new(ROLE)], &theirs.into_descriptor()).context(doing)?;
    let sockets: Vec<RawFd> = listeners.descriptors().map(AsRawFd::as_raw_fd).collect();
    let start = Start {
        supervisor: Pid::current(),
        template: 0,
        spool_dir: PathBuf::new(),
        settings: Settings { log_level: log_level.to_owned(), ..Settings::default() },
        listeners: sockets.len() as u32,
    };
    let frame = control::encode(&Order::Start(Box::new(start))).context(doing)?;
    // One that is gone already is reaped as anybody else: its death says more than that it did not listen.
    let _ = ours.try_send(&frame, &sockets);
    Ok((pid, ours))
}

/// `supervisor exporter`: becomes the exporter of an instance that runs.
///
/// # Errors
/// A program that cannot be found (exit 2) or executed.
pub fn become_exporter(run_dir: &Path, listen: &[Address]) -> Result<()> {
    let program = find_program("exporter")?;
    let mut command = Command::new(&program);
    command.arg("--run-dir").arg(run_dir);
    for address in listen {
        command.arg("--metrics-listen").arg(address.to_string());
    }
    Err(Error::failure(format!("cannot run {}: {}", program.display(), command.exec())))
}
