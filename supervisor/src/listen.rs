//! The listening sockets: opened once, inherited by every template.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use common::address::{Address, share_port};
use common::error::{Context, Error, Result};
use common::limits::MAX_LISTENERS;
use common::sys::file;
use common::sys::socket::{self, Listener};

/// How many ports of the kernel's choice are tried for the addresses of one name.
const PORT_ATTEMPTS: u32 = 32;

/// Every socket that is listened on.
#[derive(Debug, Default)]
pub struct Listeners {
    sockets: Vec<Listener>,
    names: Vec<String>,
    paths: Vec<PathBuf>,
}

impl Listeners {
    /// Listens on all of these, each with all addresses of its name.
    ///
    /// # Errors
    /// A name that is not known (exit 2); an address that cannot be had.
    pub fn open(addresses: &[Address], timeout: Duration) -> Result<Self> {
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
                Address::Tcp { .. } => listeners.open_tcp(address)?,
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
    fn open_tcp(&mut self, address: &Address) -> Result<()> {
        let places = address.resolve()?;
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
