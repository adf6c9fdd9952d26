//! The listening sockets: opened once, inherited by every template.

use std::ffi::OsString;
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
use serde::{Deserialize, Serialize};

use crate::service_manager::{self, Giver, Passed};
use crate::upgrade::luggage::{Arrived, Luggage, Packed};

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

/// The sockets as they are handed to a successor in this process.
#[derive(Debug, Serialize, Deserialize)]
pub struct PackedListeners {
    sockets: Vec<Packed>,
    names: Vec<String>,
    paths: Vec<OsString>,
    managed: Vec<usize>,
}

impl PackedListeners {
    /// The sockets.
    ///
    /// # Errors
    /// One that has not come along.
    pub fn unpack(self, arrived: &mut Arrived) -> Result<Listeners> {
        let Self { sockets, names, paths, managed } = self;
        let doing = || "cannot take over a listening socket".to_owned();
        let sockets = sockets
            .into_iter()
            .map(|packed| socket::adopt_listener(arrived.take(packed)?).context(doing))
            .collect::<Result<_>>()?;
        Ok(Listeners { sockets, names, paths: paths.into_iter().map(PathBuf::from).collect(), managed })
    }
}

/// Sockets that were passed to this process. Who listens takes those that listen there already.
#[derive(Debug, Default)]
pub struct Inheritance(Vec<Inherited>);

/// A socket that was passed.
#[derive(Debug)]
struct Inherited {
    listener: Listener,
    name: String,
    giver: Giver,
}

impl Inheritance {
    /// These.
    ///
    /// # Errors
    /// One that does not listen (exit 2).
    pub fn of(passed: Vec<Passed>) -> Result<Self> {
        let all = passed.into_iter().map(|Passed { socket, giver }| {
            let listener = socket::adopt_listener(socket).map_err(|error| {
                Error::usage(format!("a socket that the service manager passes is of no use: {error}"))
            })?;
            Ok(Inherited { name: name_of(&listener)?, listener, giver })
        });
        all.collect::<Result<_>>().map(Self)
    }

    /// Whether there is one from this giver.
    pub fn has(&self, giver: &Giver) -> bool {
        self.0.iter().any(|one| one.giver == *giver)
    }

    fn take_from(&mut self, giver: &Giver) -> Vec<Inherited> {
        self.0.extract_if(.., |one| one.giver == *giver).collect()
    }

    fn take(&mut self, name: &str) -> Option<Inherited> {
        let index = self.0.iter().position(|one| one.name == name)?;
        let one = self.0.swap_remove(index);
        // A socket unit of the manager's and a predecessor may both have passed the same one.
        self.0.retain(|other| other.name != name);
        Some(one)
    }

    /// Nobody listens on the others: they are closed, also where they are kept.
    pub fn let_go(self) {
        for Inherited { name, giver, .. } in self.0 {
            log::warn!("{name} was passed to be listened on, and is not: no option names it");
            if let Giver::Predecessor(kept) = giver {
                service_manager::let_go(&kept);
            }
        }
    }
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
    /// For a successor.
    pub fn pack<'a>(&'a self, luggage: &mut Luggage<'a>) -> PackedListeners {
        let Self { sockets, names, paths, managed } = self;
        PackedListeners {
            sockets: sockets.iter().map(|listener| luggage.pack(&listener.socket)).collect(),
            names: names.clone(),
            paths: paths.iter().map(|path| path.clone().into_os_string()).collect(),
            managed: managed.clone(),
        }
    }

    /// Listens on all of these, each with all addresses of its name.
    ///
    /// # Errors
    /// A name that is not known (exit 2); an address that cannot be had.
    pub fn open(addresses: &[Address], timeout: Duration) -> Result<Self> {
        Self::open_with(addresses, &mut Inheritance::default(), timeout)
    }

    /// Listens on all that this giver has passed.
    ///
    /// # Errors
    /// As [`Listeners::open`].
    pub fn inherit_from(giver: &Giver, inheritance: &mut Inheritance, timeout: Duration) -> Result<Self> {
        let mut listeners = Self::default();
        inheritance.take_from(giver).into_iter().for_each(|one| listeners.inherit(one));
        listeners.opened_with(timeout)
    }

    /// Listens on all of these. An address is not opened where a socket that was passed listens on it already.
    ///
    /// # Errors
    /// As [`Listeners::open`].
    pub fn open_with(addresses: &[Address], inherited: &mut Inheritance, timeout: Duration) -> Result<Self> {
        let mut listeners = Self::default();
        let numbers: Vec<_> = addresses.iter().filter(|address| matches!(address, Address::Fd(_))).collect();
        if let Some(twice) = (1..numbers.len()).find(|&index| numbers[..index].contains(&numbers[index])) {
            return Err(Error::usage(format!(
                "{} is named twice; name each descriptor once",
                numbers[twice]
            )));
        }
        for address in addresses {
            match address {
                Address::Tcp { .. } => listeners.open_tcp(address, inherited)?,
                Address::Unix(_) if listeners.inherits(&address.to_string(), inherited) => {}
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
        listeners.opened_with(timeout)
    }

    fn opened_with(self, timeout: Duration) -> Result<Self> {
        if self.sockets.len() > MAX_LISTENERS {
            return Err(Error::usage(format!(
                "more than {MAX_LISTENERS} addresses to listen on; name fewer"
            )));
        }
        self.set_timeout(timeout)?;
        Ok(self)
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
    fn open_tcp(&mut self, address: &Address, inherited: &mut Inheritance) -> Result<()> {
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
    fn inherits(&mut self, name: &str, inherited: &mut Inheritance) -> bool {
        inherited.take(name).map(|one| self.inherit(one)).is_some()
    }

    fn inherit(&mut self, Inherited { listener, name, giver }: Inherited) {
        if !self.names.contains(&name) {
            self.managed.push(self.sockets.len());
            log::debug!("{name} has been passed by {giver:?}");
            if giver == Giver::ThisProcess {
                self.paths.extend(listener.path());
            }
            self.add(listener, name);
        }
    }

    /// The TCP sockets that this process opened: those that a successor would have to open again. (A Unix socket's path is
    /// removed at the end, and with it the socket is of no use.)
    pub fn opened(&self) -> Vec<(&str, BorrowedFd<'_>)> {
        let own = |index: &usize| !self.managed.contains(index);
        let all = (0..self.sockets.len()).filter(own).map(|index| (&self.names[index], &self.sockets[index]));
        all.filter(|(_, listener)| listener.tcp_address().is_some())
            .map(|(name, listener)| (name.as_str(), listener.socket.as_fd()))
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
            Err(error) if socket::is_not_here(&error) => {}
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
