//! A server that takes minute files: prints what it receives, remembers the keys under which it has seen them, and
//! misbehaves on request. `scripts/test-server` runs it.
#![forbid(unsafe_code)]

mod faults;
mod http;
mod service;
mod store;

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use common::command_line;
use common::error::{Context, Error, Result};

use crate::faults::{Fault, Faults};
use crate::service::Service;
use crate::store::Store;

/// Takes files that are posted, prints them, and drops those that it has seen before by their Idempotency-Key
#[derive(Parser, Debug)]
#[command(name = "test-server", version, about, max_term_width = 110, after_help = AFTER_HELP)]
struct Arguments {
    /// The name or address to listen at
    #[arg(long, env = "HOST", default_value = "localhost")]
    host: String,
    /// The port; 0 = any
    #[arg(long, env = "PORT", default_value_t = 1080)]
    port: u16,
    /// Keep what is received here, one file for each key, also for the next start [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Print a line for each request, not what it carries
    #[arg(long)]
    quiet: bool,
    /// Keep the keys alone
    #[arg(long)]
    discard: bool,
    /// What to do wrong, request by request, separated by commas; the last one for ever if a * follows it
    #[arg(long, value_name = "FAULTS", default_value = "", value_parser = faults::parse_list)]
    faults: faults::List,
    /// How many of a hundred requests go wrong at random
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=100))]
    chance: u8,
    /// Decides which, and how
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Answer 401 to whoever does not send this header
    #[arg(long, value_name = "NAME: VALUE")]
    require: Option<String>,
    /// Encrypt, with this certificate
    #[arg(long, value_name = "PEM", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// and its key
    #[arg(long, value_name = "PEM", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

const AFTER_HELP: &str = "\
Faults: ok; a status such as 500, 403 or 429:2 (with Retry-After: 2); slow:3s; drop (the connection, before anything is
read), drop-read (after the body), drop-stored (after it is stored); garbage (no answer of HTTP), cut (half an answer).
For example --faults 500,429:1,drop-stored or --faults '403*'.

GET / answers with one JSON object: requests, files, duplicates, records, bytes.";

fn main() -> ExitCode {
    common::error::run("test-server", run)
}

fn run() -> Result<()> {
    let arguments: Arguments = command_line::read()?;
    let store = Store::open(arguments.store.as_deref(), arguments.discard)
        .context(|| "cannot keep what is received; choose another --store".to_owned())?;
    let tls = match (&arguments.tls_cert, &arguments.tls_key) {
        (Some(certificate), Some(key)) => Some(service::encryption(certificate, key)?),
        _ => None,
    };
    let faults = Faults::new(arguments.faults, arguments.chance, arguments.seed);
    let service = Arc::new(Service::new(store, faults, arguments.require, arguments.quiet, tls));
    let listeners = listen(&arguments.host, arguments.port)?;
    let port = listeners[0].local_addr().map_or(arguments.port, |address| address.port());
    println!("listening on {}:{port}", arguments.host);
    let _ = std::io::stdout().flush();
    let threads: Vec<_> = listeners
        .into_iter()
        .map(|listener| {
            let service = Arc::clone(&service);
            std::thread::spawn(move || service.accept(&listener))
        })
        .collect();
    threads.into_iter().for_each(|thread| drop(thread.join()));
    Err(Error::failure("nobody listens any more"))
}

/// Listens at every address of the host, all with the same port.
fn listen(host: &str, port: u16) -> Result<Vec<TcpListener>> {
    let addresses: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| Error::usage(format!("there is no host {host:?}: {error}")))?
        .collect();
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut refusal = None;
    for mut address in addresses {
        if let Some(first) = listeners.first() {
            address.set_port(first.local_addr().map_or(port, |first| first.port()));
        }
        match TcpListener::bind(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) => {
                refusal = Some(format!("cannot listen at {address}: {error}; choose another --port"));
            }
        }
    }
    if listeners.is_empty() {
        return Err(Error::failure(refusal.unwrap_or_else(|| format!("{host:?} has no address"))));
    }
    Ok(listeners)
}

impl Fault {
    /// Those that come by chance.
    fn at_random(number: u64) -> Self {
        let all = [
            Self::Status(500, None),
            Self::Status(503, Some(0)),
            Self::Status(429, Some(1)),
            Self::Status(403, None),
            Self::Status(307, None),
            Self::Slow(std::time::Duration::from_millis(300)),
            Self::Drop,
            Self::DropRead,
            Self::DropStored,
            Self::Garbage,
            Self::Cut,
        ];
        all[(number % all.len() as u64) as usize].clone()
    }
}
