//! The listening sockets: opened once, inherited by every template.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use common::address::{Address, share_port};
use common::error::{Context, Error, Result};
use common::limits::MAX_LISTENERS;
use common::sys::file;
use common::sys::socket::{self, Listener};

use crate::service_manager::Passed;

/// How many ports of the kernel's choice are tried for the addresses of one name.
const PORT_ATTEMPTS: u32 = 32;

/// Every socket that is listened on.
#[derive(Debug, Default)]
pub struct Listeners {
    sockets: Vec<Listener>,
    names: Vec<String>,
    paths: Vec<PathBuf>,
    /// Which of the sockets were passed by the service manager, who has them too.
    managed: Vec<usize>,
}

/// A socket that was passed.
struct Inherited {
    listener: Listener,
    name: String,
    kept: bool,
}

/// Where it listens, as `--listen` takes it.
fn name_of(listener: &Listener) -> Result<String> {
    let named = listener.tcp_address().map(|address| Address::from(address).to_string());
    match named {
        Some(name) => Ok(name),
        None => listener.path().map(|path| Address::Unix(path).to_string()).ok_or_else(|| {
            Error::usage("a socket that the service manager passes has neither a TCP address nor a path")
        }),
    }
}

impl Listeners {
    /// Listens on all of these, each with all addresses of its name.
    ///
    /// # Errors
    /// A name that is not known (exit 2); an address that cannot be had.
    pub fn open(addresses: &[Address], timeout: Duration) -> Result<Self> {
        Self::open_with(addresses, Vec::new(), timeout)
    }

    /// The same, where sockets have been passed to this process: an address is not opened where one of them listens on
    /// it already. Without an address they are listened on, all of them; with one, those on others are closed.
    ///
    /// # Errors
    /// As [`Listeners::open`]; a socket that was passed and does not listen (exit 2).
    pub fn open_with(addresses: &[Address], passed: Vec<Passed>, timeout: Duration) -> Result<Self> {
        let mut listeners = Self::default();
        let mut inherited = Vec::new();
        for Passed { socket, kept } in passed {
            let listener = socket::adopt_listener(socket).map_err(|error| {
                Error::usage(format!("a socket that the service manager passes is of no use: {error}"))
            })?;
            inherited.push(Inherited { name: name_of(&listener)?, listener, kept });
        }
        if addresses.is_empty() {
            inherited.drain(..).for_each(|one| listeners.inherit(one));
        }
        let numbers: Vec<_> = addresses.iter().filter(|address| matches!(address, Address::Fd(_))).collect();
        if let Some(twice) = (1..numbers.len()).find(|&index| numbers[..index].contains(&numbers[index])) {
            return Err(Error::usage(format!(
                "{} is named twice; name each descriptor once",
                numbers[twice]
            )));
        }
        for address in addresses {
            match address {
                Address::Tcp { .. } => listeners.open_tcp(address, &mut inherited)?,
                Address::Unix(_) if listeners.inherits(&address.to_string(), &mut inherited) => {}
                Address::Unix(path) => {
                    let listener =
                        socket::listen_unix(path).context(|| format!("cannot listen on {address}"))?;
                    // A daemon is elsewhere by the time that it removes it.
                    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                    listeners.paths.push(absolute);
                    listeners.add(listener, address.to_string());
                }
                Address::Fd(number) => {
                    let adopted = file::adopt(*number).and_then(socket::adopt_listener);
                    let listener = adopted
                        .map_err(|error| Error::usage(format!("cannot listen on {address}: {error}")))?;
                    listeners.add(listener, address.to_string());
                }
            }
        }
        for Inherited { name, .. } in inherited {
            log::warn!("{name} was passed to be listened on, and is not: no --listen names it");
        }
        if listeners.sockets.len() > MAX_LISTENERS {
            return Err(Error::usage(format!(
                "more than {MAX_LISTENERS} addresses to listen on; name fewer"
            )));
        }
        listeners.set_timeout(timeout)?;
        Ok(listeners)
    }

    /// How long connections that are accepted from now on wait for their peers.
    ///
    /// # Errors
    /// What setsockopt reports.
    pub fn set_timeout(&self, timeout: Duration) -> Result<()> {
        for listener in &self.sockets {
            listener.set_defaults(timeout).context(|| "cannot set up a listening socket".to_owned())?;
        }
        Ok(())
    }

    /// All addresses of a name, on one port: with port 0 the one that the kernel gives to the first. Should that be
    /// taken at another address, the whole is tried again with the next.
    fn open_tcp(&mut self, address: &Address, inherited: &mut Vec<Inherited>) -> Result<()> {
        let mut places = address.resolve()?;
        let resolved = places.len();
        places.retain(|place| !self.inherits(&Address::from(*place).to_string(), inherited));
        if places.is_empty() && resolved > 0 {
            return Ok(());
        }
        let kernel_chooses = places.iter().any(|place| place.port() == 0);
        for attempt in 1.. {
            match open_all(places.clone()) {
                Ok(opened) if opened.is_empty() => break,
                Ok(opened) => {
                    for (listener, place) in opened {
                        self.add(listener, Address::from(place).to_string());
                    }
                    return Ok(());
                }
                Err((_, error))
                    if error.kind() == ErrorKind::AddrInUse && kernel_chooses && attempt < PORT_ATTEMPTS => {}
                Err((place, error)) => {
                    return Err(error).context(|| format!("cannot listen on {}", Address::from(place)));
                }
            }
        }
        Err(Error::usage(format!("this machine has none of the addresses of {address}")))
    }

    /// Listens on the socket of this name, if it has been passed.
    fn inherits(&mut self, name: &str, inherited: &mut Vec<Inherited>) -> bool {
        let Some(index) = inherited.iter().position(|one| one.name == name) else { return false };
        self.inherit(inherited.swap_remove(index));
        // A socket unit of the manager's and a predecessor may both have passed the same one.
        inherited.retain(|one| one.name != name);
        true
    }

    fn inherit(&mut self, Inherited { listener, name, kept }: Inherited) {
        if !self.names.contains(&name) {
            self.managed.push(self.sockets.len());
            log::debug!("{name} has been passed{}", if kept { " on by a predecessor" } else { "" });
            self.add(listener, name);
        }
    }

    /// The TCP sockets that this process opened: those that a successor would have to open again. (A Unix socket's path is
    /// removed at the end, and with it the socket is of no use.)
    pub fn opened(&self) -> Vec<BorrowedFd<'_>> {
        let own = |index: &usize| !self.managed.contains(index);
        let all = (0..self.sockets.len()).filter(own).map(|index| &self.sockets[index]);
        all.filter(|listener| listener.tcp_address().is_some())
            .map(|listener| listener.socket.as_fd())
            .collect()
    }

    fn add(&mut self, listener: Listener, name: String) {
        self.sockets.push(listener);
        self.names.push(name);
    }

    /// Where is listened, as `--listen` takes it, with real ports.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The sockets.
    pub fn descriptors(&self) -> impl Iterator<Item = &OwnedFd> {
        self.sockets.iter().map(|listener| &listener.socket)
    }

    /// Connections that nobody has accepted yet.
    pub fn waiting(&self) -> u32 {
        self.sockets.iter().fold(0, |sum, listener| sum.saturating_add(listener.waiting()))
    }

    /// Stops listening here; workers go on with what they have. The names stay.
    pub fn close(&mut self) {
        self.sockets.clear();
        self.managed.clear();
        for path in self.paths.drain(..) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Listens on all of these that this machine has: a name may have an address of a family that is not in use here.
fn open_all(
    mut places: Vec<SocketAddr>,
) -> std::result::Result<Vec<(Listener, SocketAddr)>, (SocketAddr, io::Error)> {
    let mut opened: Vec<(Listener, SocketAddr)> = Vec::new();
    for index in 0..places.len() {
        match socket::listen_tcp(places[index]) {
            Err(error) if is_not_here(&error) => {}
            Err(error) => return Err((places[index], error)),
            Ok(listener) => {
                if let Some(port) = listener.port() {
                    share_port(&mut places, port);
                }
                opened.push((listener, places[index]));
            }
        }
    }
    Ok(opened)
}

fn is_not_here(error: &io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT)
}
