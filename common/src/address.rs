//! Universal addresses: `tcp:HOST:PORT`, `unix:PATH`, `fd:N`. Text and names only; sockets are made elsewhere.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{Error, Result};

/// The longest path the kernel takes for a Unix socket; its field holds 108 bytes, the last of them a NUL.
pub const MAX_UNIX_PATH: usize = 107;

/// Where something listens, or can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// Every address of a name, or one numeric address, on one port. `host` has no brackets.
    Tcp {
        /// A name or a numeric address.
        host: String,
        /// 0 lets the kernel choose where something listens.
        port: u16,
    },
    /// A Unix stream socket.
    Unix(PathBuf),
    /// A descriptor that whoever started this process has already made listen.
    Fd(RawFd),
}

impl Address {
    /// The number of a descriptor that was left open.
    pub fn descriptor(&self) -> Option<RawFd> {
        match self {
            Self::Fd(number) => Some(*number),
            _ => None,
        }
    }

    /// Every socket address the name stands for, each once, in the resolver's order. Only TCP has any.
    ///
    /// # Errors
    /// The name is unknown, or cannot be looked up at the moment (exit 1).
    pub fn resolve(&self) -> Result<Vec<SocketAddr>> {
        let Self::Tcp { host, port } = self else { return Ok(Vec::new()) };
        let unknown = |cause: String| {
            Error::failure(format!(
                "cannot find the address of {host:?} ({cause}): check the name, or give a number"
            ))
        };
        let found = (host.as_str(), *port).to_socket_addrs().map_err(|cause| unknown(cause.to_string()))?;
        let mut addresses = Vec::new();
        // The resolver may give an address once per line of /etc/hosts; binding it twice would fail.
        for address in found {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() { Err(unknown("it has none".to_owned())) } else { Ok(addresses) }
    }
}

/// Gives every address that leaves its port to the kernel the one the kernel chose for the first of them, so that
/// all addresses of a name share it. If another is taken there, the caller starts over with the next free port.
pub fn share_port(addresses: &mut [SocketAddr], port: u16) {
    for address in addresses.iter_mut().filter(|address| address.port() == 0) {
        address.set_port(port);
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        let host = match address {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
            _ => address.ip().to_string(),
        };
        Self::Tcp { host, port: address.port() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Fd(descriptor) => write!(f, "fd:{descriptor}"),
        }
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = match text.split_once(':') {
            Some(("tcp", rest)) => parse_tcp(rest),
            Some(("unix", rest)) => parse_unix(Path::new(rest)),
            Some(("fd", rest)) => parse_fd(rest),
            _ => Err("it has no known kind".to_owned()),
        };
        parsed.map_err(|why| {
            Error::usage(format!(
                "{text:?} is not an address ({why}): write tcp:HOST:PORT, unix:PATH or fd:N"
            ))
        })
    }
}

fn parse_tcp(text: &str) -> std::result::Result<Address, String> {
    let (host, port) = text.rsplit_once(':').ok_or("it has no port")?;
    let port = port.parse().map_err(|_| format!("{port:?} is not a port from 0 to 65535"))?;
    Ok(Address::Tcp { host: parse_host(host)?.to_owned(), port })
}

/// A host as people write it: a name, an IPv4 address, or an IPv6 address in brackets, which are taken off.
///
/// # Errors
/// Why it cannot be a host, in words that fit into a parenthesis.
pub fn parse_host(text: &str) -> std::result::Result<&str, String> {
    if let Some(inner) = text.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or("its bracket is not closed")?;
        let number = inner.split_once('%').map_or(inner, |(number, _zone)| number);
        return match number.parse::<Ipv6Addr>() {
            Ok(_) => Ok(inner),
            Err(_) => Err(format!("{inner:?} is not an IPv6 address")),
        };
    }
    if text.is_empty() {
        return Err("it has no host; 0.0.0.0 and [::] are every address of this machine".to_owned());
    }
    if text.contains(':') {
        return Err("an IPv6 address stands in brackets".to_owned());
    }
    let odd = |c: char| c.is_whitespace() || c.is_control() || "/[]@".contains(c);
    if text.contains(odd) { Err(format!("{text:?} is not a host")) } else { Ok(text) }
}

fn parse_unix(path: &Path) -> std::result::Result<Address, String> {
    let bytes = path.as_os_str().as_bytes();
    match bytes.len() {
        0 => Err("it has no path".to_owned()),
        length if length > MAX_UNIX_PATH => {
            Err(format!("its path has {length} bytes, a socket's has at most {MAX_UNIX_PATH}"))
        }
        _ if bytes.contains(&0) => Err("its path contains a NUL".to_owned()),
        _ => Ok(Address::Unix(path.to_owned())),
    }
}

fn parse_fd(text: &str) -> std::result::Result<Address, String> {
    match text.parse::<RawFd>() {
        Ok(descriptor) if descriptor >= 0 => Ok(Address::Fd(descriptor)),
        _ => Err(format!("{text:?} is not the number of a descriptor")),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn every_kind_both_ways() {
        for (text, address) in [
            ("tcp:localhost:31337", tcp("localhost", 31337)),
            ("tcp:127.0.0.1:0", tcp("127.0.0.1", 0)),
            ("tcp:[::1]:80", tcp("::1", 80)),
            ("tcp:[fe80::1%2]:80", tcp("fe80::1%2", 80)),
            ("unix:/run/hold:fast.sock", Address::Unix("/run/hold:fast.sock".into())),
            ("fd:3", Address::Fd(3)),
        ] {
            assert_eq!(text.parse::<Address>().unwrap(), address);
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            ("", "kind"),
            ("localhost:31337", "kind"),
            ("udp:localhost:1", "kind"),
            ("tcp:localhost", "no port"),
            ("tcp:localhost:", "not a port"),
            ("tcp:localhost:65536", "not a port"),
            ("tcp:localhost:-1", "not a port"),
            ("tcp::80", "no host"),
            ("tcp:::1:80", "brackets"),
            ("tcp:[::1:80", "not closed"),
            ("tcp:[localhost]:80", "not an IPv6"),
            ("tcp:a b:80", "not a host"),
            ("unix:", "no path"),
            ("unix:a\0b", "NUL"),
            ("fd:-1", "descriptor"),
            ("fd:x", "descriptor"),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.to_string().contains(why), "{text:?}: {error}");
            assert_eq!(error.exit(), crate::error::Exit::Usage);
        }
        let long = format!("unix:/{}", "x".repeat(MAX_UNIX_PATH));
        assert!(long.parse::<Address>().unwrap_err().to_string().contains("108 bytes"));
        assert!(long[..long.len() - 1].parse::<Address>().is_ok());
    }

    #[test]
    fn a_name_gives_each_address_once() {
        let mut found = tcp("localhost", 31337).resolve().unwrap();
        assert!(
            found.contains(&(Ipv4Addr::LOCALHOST, 31337).into())
                || found.contains(&"[::1]:31337".parse().unwrap())
        );
        let before = found.len();
        found.sort();
        found.dedup();
        assert_eq!(found.len(), before);
        assert_eq!(tcp("::1", 7).resolve().unwrap(), ["[::1]:7".parse().unwrap()]);
        assert!(Address::Fd(3).resolve().unwrap().is_empty());
    }

    #[test]
    fn an_unknown_name_is_a_sentence() {
        let error = tcp("no-such-host.invalid", 1).resolve().unwrap_err();
        assert!(error.to_string().contains("no-such-host.invalid"), "{error}");
    }

    #[test]
    fn one_port_for_every_address() {
        let mut addresses = ["127.0.0.1:0", "[::1]:0", "127.0.0.1:9"].map(|text| text.parse().unwrap());
        share_port(&mut addresses, 4711);
        assert_eq!(addresses.map(|address| address.port()), [4711, 4711, 9]);
    }

    #[test]
    fn what_listens_can_be_printed() {
        for (socket, text) in [("127.0.0.1:5", "tcp:127.0.0.1:5"), ("[::1]:5", "tcp:[::1]:5")] {
            assert_eq!(Address::from(socket.parse::<SocketAddr>().unwrap()).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text: String) {
            let _ = text.parse::<Address>();
            let _ = format!("tcp:{text}").parse::<Address>();
        }
    }
}
