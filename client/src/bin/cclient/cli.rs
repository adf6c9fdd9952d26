//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use common::address::{Address, parse_host};
use common::command_line;
use common::error::{Error, Result};
use common::units::Span;

use crate::request::Message;

/// More connections than any machine gives to one process; a typing error, not a wish.
const MAX_CONNECTIONS: u64 = 1_000_000;

/// What is left to the user to decide.
#[derive(Debug)]
pub struct Options {
    /// The server for people, `HOST:PORT`.
    pub server: String,
    /// The server's address.
    pub address: Address,
    /// Simultaneous connections asked for.
    pub threads: usize,
    /// What is sent.
    pub message: Message,
    /// When it is enough.
    pub extent: Extent,
    /// Planned requests per second; without it each connection sends as soon as it is free.
    pub rate: Option<f64>,
    /// Whether a connection serves more than one request.
    pub keep_alive: bool,
    /// Whether the reply to a request is the request itself.
    pub echo: bool,
    /// How long a request may take.
    pub timeout: Option<Duration>,
    /// Threads that wait for readiness.
    pub event_threads: usize,
    /// One JSON object instead of lines for people.
    pub json: bool,
    /// No lines for people, no progress bar.
    pub quiet: bool,
    /// Where the distribution of latencies is written.
    pub hdr: Option<PathBuf>,
    /// Where it is drawn.
    pub plot: Option<PathBuf>,
    /// The spool whose journal is held against the replies.
    pub check: Option<PathBuf>,
}

/// How much is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// So many requests over all connections.
    Requests(u64),
    /// As many as go into this time.
    Lasting(Duration),
}

/// Send messages to a Holdfast server over many connections at once and report what was acknowledged
#[derive(Parser, Debug)]
#[command(name = "cclient", version, max_term_width = 110, after_help = AFTER_HELP)]
struct Arguments {
    /// Name or address of the server; every address of a name is tried
    host: String,
    /// Port of the server
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Simultaneous connections
    #[arg(value_parser = clap::value_parser!(u64).range(1..=MAX_CONNECTIONS))]
    threads: u64,
    /// USER:MESSAGE; a token unique to each request is appended
    message: Message,
    /// Requests in total, over all connections [default: one per connection]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "duration")]
    requests: Option<u64>,
    /// Send for this long, each connection its next request once the last is answered
    #[arg(long, value_name = "D")]
    duration: Option<Span>,
    /// Plan R requests per second, whoever is still being served, and count latency from the planned instants
    #[arg(long, value_name = "R", value_parser = rate)]
    rate: Option<f64>,
    /// Use a connection for more than one request
    #[arg(long)]
    keep_alive: bool,
    /// The server answers every line with the line itself, as an echo server does
    #[arg(long, conflicts_with = "check")]
    echo: bool,
    /// How long a request may take, connecting included; 0 waits for ever
    #[arg(long, value_name = "D", default_value = "30s")]
    timeout: Span,
    /// Threads that wait for readiness [default: half the processors, at most 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    event_threads: Option<u16>,
    /// Print one JSON object instead of lines for people
    #[arg(long)]
    json: bool,
    /// Write the latencies' percentiles to this file, as HdrHistogram's tools read them (milliseconds)
    #[arg(long, value_name = "FILE")]
    hdr: Option<PathBuf>,
    /// Draw the latencies by percentile into this file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Read the journal in this spool afterwards and report lost, duplicated and altered messages
    #[arg(long, value_name = "SPOOL_DIR")]
    check: Option<PathBuf>,
    /// Print no lines for people and no progress bar
    #[arg(long)]
    quiet: bool,
}

const AFTER_HELP: &str = "\
A request counts as handled only when its own reply came. Nothing is ever sent twice.
Durations are written 250ms, 3s or 2m. Exit code: 0 all handled and nothing lost, 1 something failed, 2 wrong usage.
With --rate, a request that finds all THREADS connections taken waits for one, and its latency counts on. A run in which
cclient itself could not keep up is refused: exit code 1, and neither --hdr nor --plot is written.

Example: cclient localhost 31337 1000 \"arijort:message for you\"";

/// Reads the command line; prints help or version and ends the program if that was asked for.
pub fn parse() -> Result<Options> {
    command_line::read::<Arguments>()?.check()
}

impl Arguments {
    fn check(self) -> Result<Options> {
        let host = parse_host_or_bare_ipv6(&self.host)?;
        let extent = match (self.requests, self.duration) {
            (Some(requests), _) => Extent::Requests(requests),
            (None, Some(Span(Duration::ZERO))) => {
                return Err(Error::usage("--duration must be longer than 0: write for example 10s"));
            }
            (None, Some(Span(duration))) => Extent::Lasting(duration),
            (None, None) => Extent::Requests(self.threads),
        };
        let address = Address::Tcp { host, port: self.port };
        Ok(Options {
            server: address.to_string().split_off("tcp:".len()),
            address,
            threads: usize::try_from(self.threads).unwrap_or(usize::MAX),
            message: self.message,
            extent,
            rate: self.rate,
            keep_alive: self.keep_alive,
            echo: self.echo,
            timeout: self.timeout.limit(),
            event_threads: self.event_threads.map_or_else(default_event_threads, usize::from),
            json: self.json,
            quiet: self.quiet,
            hdr: self.hdr.map(writable("--hdr")).transpose()?,
            plot: self.plot.map(writable("--plot")).transpose()?,
            check: self.check,
        })
    }
}

/// Below once in a quarter of an hour nobody measures; above a thousand in a microsecond nothing sends.
fn rate(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=1e9).contains(&rate) => Ok(rate),
        _ => Err("give requests per second, from 0.001 to 1000000000".to_owned()),
    }
}

/// Told before the run rather than after it.
fn writable(option: &'static str) -> impl Fn(PathBuf) -> Result<PathBuf> {
    move |path| {
        let place = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if path.file_name().is_none() || path.is_dir() || place.is_some_and(|place| !place.is_dir()) {
            return Err(Error::usage(format!(
                "{option} {} cannot be written: name a file in a directory that is there",
                path.display()
            )));
        }
        Ok(path)
    }
}

/// The port is an argument of its own here, so an IPv6 address needs no brackets.
fn parse_host_or_bare_ipv6(text: &str) -> Result<String> {
    let bracketed = format!("[{text}]");
    match parse_host(text).or_else(|why| parse_host(&bracketed).map_err(|_| why)) {
        Ok(host) => Ok(host.to_owned()),
        Err(why) => Err(Error::usage(format!("HOST cannot be used ({why}): give a name or an address"))),
    }
}

/// The server runs on the same processors in most measurements, and one thread drives tens of thousands of
/// connections a second: on two processors a second thread only takes time from the server.
fn default_event_threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors / 2).clamp(1, 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> std::result::Result<Options, String> {
        let parsed = command_line::read_from::<Arguments>(arguments);
        parsed.and_then(Arguments::check).map_err(|error| error.to_string())
    }

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn defaults() {
        let options = options(&["localhost", "31337", "1000", "arijort:message for you"]).unwrap();
        assert_eq!(options.server, "localhost:31337");
        assert_eq!(options.extent, Extent::Requests(1000));
        assert_eq!(options.timeout, Some(Duration::from_secs(30)));
        assert!(options.rate.is_none() && options.hdr.is_none() && options.plot.is_none());
        assert!(!options.keep_alive && !options.json && !options.quiet && options.check.is_none());
    }

    #[test]
    fn hosts_with_and_without_brackets() {
        for host in ["::1", "[::1]"] {
            let options = options(&[host, "1", "1", "a:b"]).unwrap();
            assert_eq!(options.address, Address::Tcp { host: "::1".to_owned(), port: 1 });
            assert_eq!(options.server, "[::1]:1");
        }
        assert!(options(&["a:b", "1", "1", "a:b"]).unwrap_err().contains("HOST"));
        assert!(options(&["", "1", "1", "a:b"]).unwrap_err().contains("HOST"));
    }

    #[test]
    fn errors_are_one_line() {
        for arguments in [
            &[][..],
            &["localhost", "0", "1", "a:b"],
            &["localhost", "1", "0", "a:b"],
            &["localhost", "1", "1", "no colon"],
            &["localhost", "1", "1", "a:b", "--requests", "0"],
            &["localhost", "1", "1", "a:b", "--requests", "1", "--duration", "1s"],
            &["localhost", "1", "1", "a:b", "--duration", "0"],
            &["localhost", "1", "1", "a:b", "--timeout", "3 parsecs"],
            &["localhost", "1", "1", "a:b", "--rate", "0"],
            &["localhost", "1", "1", "a:b", "--rate", "-1"],
            &["localhost", "1", "1", "a:b", "--rate", "NaN"],
            &["localhost", "1", "1", "a:b", "--rate", "inf"],
            &["localhost", "1", "1", "a:b", "--hdr", "/no/such/directory/file"],
            &["localhost", "1", "1", "a:b", "--plot", "/"],
            &["localhost", "1", "1", "a:b", "--no-such-option"],
        ] {
            let error = options(arguments).unwrap_err();
            assert!(!error.contains('\n') && !error.starts_with("error"), "{error}");
        }
    }
}
