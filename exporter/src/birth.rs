//! What this process begins with: sockets to listen on and somebody to look at. Then it gives up whatever else it could do.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use client::watch::Watch;
use common::address::{Address, share_port};
use common::error::{Context as _, Error, Result};
use common::places;
use common::sys::channel::{Channel, Received};
use common::sys::file;
use common::sys::process::{self, CHANNEL_FD};
use common::sys::socket::{self, Listener};
use common::sys::transport::receive_within;
use common::wire::control::{self, Order, Start};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// How long the supervisor may take to say what it wants.
const ORDERED_WITHIN: Duration = Duration::from_secs(30);

/// Where it listens when nobody says otherwise.
const DEFAULT_LISTEN: &str = "tcp:localhost:31339";

/// What this process begins with.
#[derive(Debug)]
pub struct Birth {
    /// The instance.
    pub watch: Watch,
    /// Where to listen.
    pub listeners: Vec<Listener>,
}

/// As a child of the supervisor. `None` where that is gone already.
///
/// # Errors
/// Where it was not started by one (exit 2).
pub fn supervised() -> Result<Option<Birth>> {
    common::logging::init("exporter");
    let channel = inherited_channel()?;
    leave_the_terminal_to_the_supervisor().context(|| "cannot block signals".to_owned())?;
    let Some((start, sockets)) = first_order(&channel)? else { return Ok(None) };
    if !process::die_with_parent(start.supervisor).context(|| "cannot follow the supervisor".to_owned())? {
        return Ok(None);
    }
    if let Ok(level) = start.settings.log_level.parse() {
        common::logging::set_level(level);
    }
    let adopted = sockets.into_iter().map(socket::adopt_listener).collect::<std::io::Result<Vec<_>>>();
    let listeners = adopted.context(|| "cannot listen on what the supervisor sent".to_owned())?;
    give_up_rights();
    Ok(Some(Birth { watch: Watch::over(channel), listeners }))
}

fn inherited_channel() -> Result<Channel> {
    let started_by_hand =
        || Error::usage("this role is started by `supervisor --metrics-listen`; see exporter --help");
    let descriptor = file::adopt(CHANNEL_FD).map_err(|_| started_by_hand())?;
    match getsockopt(&descriptor, sockopt::SockType) {
        Ok(SockType::SeqPacket) => Ok(Channel::from_descriptor(descriptor)),
        _ => Err(started_by_hand()),
    }
}

/// A terminal's signals go to the whole process group, and the supervisor decides what they mean: it sends TERM.
fn leave_the_terminal_to_the_supervisor() -> nix::Result<()> {
    let signals = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2];
    SigSet::from_iter(signals).thread_block()
}

fn first_order(channel: &Channel) -> Result<Option<(Start, Vec<OwnedFd>)>> {
    let broken = || "cannot receive the supervisor's first order".to_owned();
    match receive_within(channel, ORDERED_WITHIN).context(broken)? {
        Received::Frame(frame, descriptors) => match control::decode(&frame).context(broken)? {
            Order::Start(start) if descriptors.len() == start.listeners as usize => {
                Ok(Some((*start, descriptors)))
            }
            _ => Err(Error::failure("the supervisor's first order is not the one to start")),
        },
        Received::Closed => Ok(None),
        Received::Nothing => Err(Error::failure("the supervisor does not say where to listen")),
    }
}

/// For whichever instance owns the run directory.
///
/// # Errors
/// An address that cannot be had, or used (exit 2).
pub fn by_hand(run_dir: Option<PathBuf>, listen: Vec<Address>) -> Result<Birth> {
    common::logging::init("exporter");
    let run_dir = run_dir.or_else(|| variable("HOLDFAST_RUN_DIR").map(PathBuf::from));
    let run_dir = run_dir.unwrap_or_else(places::default_run_dir);
    let mut listeners = Vec::new();
    for address in addresses(listen)? {
        listeners.extend(open(&address)?);
    }
    give_up_rights();
    // Whoever started it may not read it, and that is no reason to end.
    let _ = writeln!(std::io::stdout(), "Showing {} on {}", run_dir.display(), names(&listeners).join(", "));
    Ok(Birth { watch: Watch::of_run_dir(run_dir), listeners })
}

/// An empty variable is one that is not set.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn addresses(said: Vec<Address>) -> Result<Vec<Address>> {
    if !said.is_empty() {
        return Ok(said);
    }
    let listed = variable("HOLDFAST_METRICS_LISTEN").unwrap_or_else(|| DEFAULT_LISTEN.into());
    let listed = listed.to_string_lossy();
    let parts = listed.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| part.parse::<Address>().map_err(|error| error.after("HOLDFAST_METRICS_LISTEN")))
        .collect()
}

fn open(address: &Address) -> Result<Vec<Listener>> {
    let doing = || format!("cannot listen on {address}");
    match address {
        Address::Unix(path) => Ok(vec![socket::listen_unix(path).context(doing)?]),
        Address::Fd(number) => {
            let adopted = file::adopt(*number).and_then(socket::adopt_listener);
            Ok(vec![adopted.map_err(|error| Error::usage(format!("{}: {error}", doing())))?])
        }
        Address::Tcp { .. } => {
            let mut places = address.resolve()?;
            let mut listeners = Vec::new();
            let mut refusal = None;
            for index in 0..places.len() {
                match socket::listen_tcp(places[index]) {
                    Ok(listener) => {
                        if let Some(port) = listener.port() {
                            share_port(&mut places, port);
                        }
                        listeners.push(listener);
                    }
                    // A name may have an address of a family that is not in use here.
                    Err(error) if socket::is_not_here(&error) => refusal = Some(error),
                    Err(error) => return Err(error).context(doing),
                }
            }
            match refusal {
                Some(error) if listeners.is_empty() => Err(error).context(doing),
                _ => Ok(listeners),
            }
        }
    }
}

fn names(listeners: &[Listener]) -> Vec<String> {
    let name = |listener: &Listener| {
        listener.tcp_address().map_or_else(|| "a socket".to_owned(), |address| format!("http://{address}/"))
    };
    listeners.iter().map(name).collect()
}

/// From here on nothing but looking and answering: no privilege, and none to be gained. Where the kernel refuses, the
/// process goes on as it was.
fn give_up_rights() {
    let _ = rustix::thread::set_no_new_privs(true);
    let none = CapabilitySet::empty();
    let _ = rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: none, permitted: none, inheritable: none },
    );
}
