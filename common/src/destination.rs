//! Where files are shipped to: `http://HOST:PORT/PATH`.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// The server that takes minute files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Whether the connection is encrypted: `https`.
    pub encrypted: bool,
    /// A name or an address; an IPv6 one without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What is posted to; begins with a slash.
    pub path: String,
}

impl Destination {
    /// Checks the parts.
    ///
    /// # Errors
    /// A host or a path that cannot stand in a request (exit 2).
    pub fn new(encrypted: bool, host: &str, port: u16, path: &str) -> Result<Self> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        if host.is_empty() || !host.chars().all(allowed) {
            return Err(Error::usage(format!("{host:?} is not the name or address of a host")));
        }
        if port == 0 {
            return Err(Error::usage("port 0 is nobody's; name the server's port"));
        }
        let path = if path.is_empty() { "/" } else { path };
        if !path.starts_with('/') || !path.chars().all(|c| c.is_ascii_graphic() && !"\"<>\\^`{}#".contains(c))
        {
            return Err(Error::usage(format!(
                "{path:?} is not a path: it begins with / and has other characters escaped as in %20"
            )));
        }
        let (host, path) = (host.to_owned(), path.to_owned());
        Ok(Self { encrypted, host, port, path })
    }
}

impl FromStr for Destination {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::usage(format!(
                "{text:?} is not where files can be shipped to ({why}): write http://HOST:PORT/"
            ))
        };
        let (encrypted, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return Err(wrong("it begins neither with http:// nor with https://")),
        };
        let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
        if authority.contains('@') {
            return Err(wrong("a user and a password do not belong here but into files"));
        }
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, rest)) => {
                (host, Some(rest.strip_prefix(':').ok_or_else(|| wrong("a port follows a colon"))?))
            }
            None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            Some(port) => port.parse().map_err(|_| wrong("its port is no number up to 65535"))?,
            None if encrypted => 443,
            None => 80,
        };
        Self::new(encrypted, host, port, path).map_err(|error| wrong(&error.to_string()))
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { encrypted, host, port, path } = self;
        let scheme = if *encrypted { "https" } else { "http" };
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}{path}")
        } else {
            write!(f, "{scheme}://{host}:{port}{path}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_written_again() {
        let table = [
            ("http://localhost:8888/", "http://localhost:8888/"),
            ("http://localhost", "http://localhost:80/"),
            ("https://example.org/in/box?x=1", "https://example.org:443/in/box?x=1"),
            ("http://[::1]:1080/", "http://[::1]:1080/"),
            ("https://[::1]", "https://[::1]:443/"),
        ];
        for (text, expected) in table {
            let destination: Destination = text.parse().unwrap();
            assert_eq!(destination.to_string(), expected);
            assert_eq!(expected.parse::<Destination>().unwrap(), destination);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            ("localhost:8888", "http://"),
            ("ftp://localhost/", "http://"),
            ("http:///x", "host"),
            ("http://a b/", "host"),
            ("http://h:99999/", "port"),
            ("http://h:0/", "port"),
            ("http://[::1]x/", "colon"),
            ("http://u:p@h/", "password"),
            ("http://h/a b", "path"),
            ("http://h/\r\nX: y", "path"),
        ] {
            let error = text.parse::<Destination>().unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains('\n'), "{text}: {error}");
        }
    }
}
