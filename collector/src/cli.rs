//! The command line.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Parser, Subcommand, ValueEnum};
use common::command_line;
use common::destination::Destination;
use common::error::{Error, Result};
use common::units::{Size, Span};

use crate::distribute::Pace;
use crate::run::{self, Orders};
use crate::sender::{self, Manner};
use crate::{fsck, status};

/// A file with a secret or with certificates is no longer than this.
const MAX_FILE: u64 = 1 << 20;

/// Writes a device's readings into minute files and ships finished ones over HTTP; what was delivered is removed
#[derive(Parser, Debug)]
#[command(
    name = "data_collector",
    version,
    about,
    max_term_width = 110,
    after_help = AFTER_HELP,
    args_conflicts_with_subcommands = true,
    args_override_self = true,
    subcommand_negates_reqs = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

const AFTER_HELP: &str = "\
Files: DIR/M.dat holds the records of minute M (since the epoch, UTC), one a line. While DIR/M.dat.lock exists it may
still be written, and is left alone. Every finished file is posted as it is, with Content-Length, Content-Type:
application/x-ndjson and an Idempotency-Key that is the same whenever this file is sent again: a server that drops what
it has seen under a key gets every record exactly once, whoever is killed and whenever.

Answers: after 2xx the file is removed (or kept as M.sent, where a checkpoint of the supervisor needs it). After no
answer, 3xx, 401, 403, 404, 408, 429 and 5xx it is tried again, after 100 ms doubling to 5 s or as Retry-After asks, and
other files go on meanwhile; 401, 403 and 404 are logged as errors, since they do not mend themselves. After any other
4xx it is put aside as M.dat.refused with M.dat.refused.reason beside it; `data_collector replay DIR` puts all of them
back. Nothing is ever dropped.

With a --dist-interval under a minute the device's minute is sealed early and later records go under the next name.

Signals: TERM and INT finish what is being sent and end with 0; a second one does not wait. With --drain, TERM first ships
what is finished, such as the minute that a supervisor seals when it stops; what is not taken stays for the next start.

Exit codes: 0 success, 1 failure while running (--once: something could not be delivered), 2 usage or configuration,
3 another data_collector ships this directory, 4 fsck found what it cannot mend.";

#[derive(Subcommand, Debug)]
enum Command {
    /// Show the account: generated = delivered + pending + quarantined
    Status {
        /// The spool
        directory: PathBuf,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Check every file, mend what dead writers left, take forgotten locks away
    Fsck {
        /// The spool
        directory: PathBuf,
    },
    /// Put back what was refused, to be tried once more
    Replay {
        /// The spool
        directory: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Compression {
    /// As it is
    None,
    /// Content-Encoding: gzip
    Gzip,
}

#[derive(Args, Debug)]
struct Options {
    /// Where the minute files lie; made if need be
    #[arg(long, value_name = "PATH", required = true)]
    tmp_persist_dir: Option<PathBuf>,
    /// The server's name or address
    #[arg(long, required_unless_present = "url", conflicts_with = "url")]
    host: Option<String>,
    /// The server's port
    #[arg(long, required_unless_present = "url", conflicts_with = "url")]
    port: Option<u16>,
    /// What to post to
    #[arg(long, default_value = "/", conflicts_with = "url")]
    path: String,
    /// Encrypt (https)
    #[arg(long, conflicts_with = "url")]
    tls: bool,
    /// All of that in one: http://HOST:PORT/PATH or https://
    #[arg(long)]
    url: Option<Destination>,
    /// How often finished files are looked for, in seconds
    #[arg(long, value_name = "SEC", default_value = "60", value_parser = seconds)]
    dist_interval: Duration,
    /// Log into data_collector.log in this directory, begun anew every 7 days, 4 kept [default: stderr]
    #[arg(long, value_name = "PATH")]
    log_dir: Option<OsString>,
    /// Ship only, such as the journal of a supervisor
    #[arg(long)]
    no_device: bool,
    /// How long the device waits between readings
    #[arg(long, value_name = "MIN..MAX", default_value = "100ms..2s", value_parser = interval)]
    device_interval: RangeInclusive<Duration>,
    /// Bound of what the device fills [default: while 1 GiB or 5 % of the file system is free, whichever is less]
    #[arg(long, value_name = "SIZE")]
    spool_limit: Option<Size>,
    /// Ship what is there, trying each file 5 times, and end; without a device
    #[arg(long)]
    once: bool,
    /// How long a connection, an answer, or anything between them may take
    #[arg(long, value_name = "D", default_value = "10s")]
    timeout: Span,
    /// When TERM comes, go on shipping what is finished for so long, as long as the server takes it
    #[arg(long, value_name = "D", default_value = "0")]
    drain: Span,
    /// How many files are sent at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: u16,
    /// Compress what is sent
    #[arg(long, value_name = "HOW", value_enum, default_value = "none", env = "HOLDFAST_COLLECT_COMPRESS")]
    compress: Compression,
    /// A header to be sent along; may be repeated
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// Authorize by the token in this file
    #[arg(long, value_name = "FILE", conflicts_with = "basic_file", env = "HOLDFAST_COLLECT_BEARER_FILE")]
    bearer_file: Option<PathBuf>,
    /// Authorize by the USER:PASSWORD in this file
    #[arg(long, value_name = "FILE", env = "HOLDFAST_COLLECT_BASIC_FILE")]
    basic_file: Option<PathBuf>,
    /// Trust the certificates in this PEM file instead of the web's
    #[arg(long, value_name = "FILE", env = "HOLDFAST_COLLECT_CA_FILE")]
    ca_file: Option<PathBuf>,
}

/// Reads the command line and does what it says.
///
/// # Errors
/// What could not be done.
pub fn run() -> Result<()> {
    let Arguments { command, options } = command_line::read()?;
    match command {
        Some(Command::Status { directory, json }) => status::show(&directory, json),
        Some(Command::Fsck { directory }) => fsck::check(&directory),
        Some(Command::Replay { directory }) => fsck::replay(&directory),
        None => run::run(&options.into_orders()?),
    }
}

impl Options {
    fn into_orders(self) -> Result<Orders> {
        let destination = match (self.url, self.host, self.port) {
            (Some(url), ..) => url,
            (None, Some(host), Some(port)) => Destination::new(self.tls, &host, port, &self.path)?,
            _ => {
                return Err(Error::usage(
                    "--host and --port, or --url, are missing; see data_collector --help",
                ));
            }
        };
        let directory = self.tmp_persist_dir.filter(|path| !path.as_os_str().is_empty());
        let directory = directory
            .ok_or_else(|| Error::usage("--tmp-persist-dir is missing; see data_collector --help"))?;
        let timeout = self.timeout.limit();
        let timeout =
            timeout.ok_or_else(|| Error::usage("--timeout 0: no answer comes in no time; give it some"))?;
        let mut headers = self.header;
        if let Some(path) = &self.bearer_file {
            headers.push(authorization(format!("Bearer {}", secret(path)?), path)?);
        }
        if let Some(path) = &self.basic_file {
            headers.push(authorization(format!("Basic {}", STANDARD.encode(secret(path)?)), path)?);
        }
        let authorities = self.ca_file.as_deref().map(authorities).transpose()?;
        let parallel = usize::from(self.parallel);
        let gzip = self.compress == Compression::Gzip;
        Ok(Orders {
            directory,
            manner: Manner { destination, timeout, headers, gzip, authorities, parallel },
            pace: Pace { interval: self.dist_interval, once: self.once, parallel, drain: self.drain.0 },
            device: (!self.no_device && !self.once).then_some(self.device_interval),
            limit: self.spool_limit.map_or(0, |Size(bytes)| bytes.max(1)),
            log_dir: self.log_dir.filter(|path| !path.is_empty()).map(PathBuf::from),
        })
    }
}

fn seconds(text: &str) -> std::result::Result<Duration, String> {
    let wrong = || format!("{text:?} is not a number of seconds above 0: write 10");
    let span = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?,
        Err(_) => text.parse::<Span>().map_err(|_| wrong())?.0,
    };
    // A year is for ever, and arithmetic survives it.
    if span.is_zero() { Err(wrong()) } else { Ok(span.min(Duration::from_secs(365 * 24 * 3600))) }
}

fn interval(text: &str) -> std::result::Result<RangeInclusive<Duration>, String> {
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    let span = |text: &str| text.parse::<Span>().map(|Span(span)| span).map_err(|error| error.to_string());
    let (least, most) = (span(least)?, span(most)?);
    if least <= most {
        Ok(least..=most)
    } else {
        Err(format!("{text:?} begins after its end: write 100ms..2s"))
    }
}

fn header(text: &str) -> std::result::Result<(String, String), String> {
    let wrong = || format!("{text:?} is not a header: write \"Name: value\"");
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let (name, value) = (name.trim(), value.trim());
    let sound = !name.is_empty()
        && name.chars().all(is_token)
        && value.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    let ours = [
        "content-length",
        "content-type",
        "content-encoding",
        "transfer-encoding",
        "idempotency-key",
        "host",
    ];
    if ours.contains(&name.to_ascii_lowercase().as_str()) {
        return Err(format!("the header {name} is sent in any case"));
    }
    if sound { Ok((name.to_owned(), value.to_owned())) } else { Err(wrong()) }
}

fn authorization(value: String, path: &Path) -> Result<(String, String)> {
    if value.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
        Ok(("Authorization".to_owned(), value))
    } else {
        Err(Error::usage(format!(
            "what is in {} cannot stand in a header; it is one line of ASCII",
            path.display()
        )))
    }
}

fn secret(path: &Path) -> Result<String> {
    let bytes = read(path)?;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    if text.is_empty() { Err(Error::usage(format!("{} is empty", path.display()))) } else { Ok(text) }
}

fn authorities(path: &Path) -> Result<Vec<u8>> {
    let pem = read(path)?;
    sender::certificates(&pem).map_err(|error| {
        Error::usage(format!("{} cannot be trusted: {error}; it is to hold PEM", path.display()))
    })?;
    Ok(pem)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes))
        .map_err(|error| Error::usage(format!("cannot read {}: {error}", path.display())))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders(arguments: &[&str]) -> Result<Orders> {
        command_line::read_from::<Arguments>(arguments)?.options.into_orders()
    }

    #[test]
    fn the_documented_command_lines() {
        let documented =
            "--tmp-persist-dir /tmp/data --host localhost --port 8888 --log-dir=/var/log --dist-interval=10";
        let orders = orders(&documented.split(' ').collect::<Vec<_>>()).unwrap();
        assert_eq!(orders.manner.destination.to_string(), "http://localhost:8888/");
        assert_eq!((orders.pace.interval, orders.pace.once), (Duration::from_secs(10), false));
        assert_eq!(orders.log_dir, Some(PathBuf::from("/var/log")));
        assert!(orders.device.is_some());
        let arguments = command_line::read_from::<Arguments>(&["status", "/tmp/data"]).unwrap();
        assert!(matches!(arguments.command, Some(Command::Status { .. })));
    }

    #[test]
    fn defaults_and_what_is_missing() {
        let needed = ["--tmp-persist-dir=/d", "--host=h", "--port=1"];
        let given = orders(&needed).unwrap();
        assert_eq!((given.pace.interval, given.log_dir, given.limit), (Duration::from_secs(60), None, 0));
        assert_eq!(given.manner.timeout, Duration::from_secs(10));
        for left_out in 0..needed.len() {
            let rest: Vec<_> = (0..3).filter(|&index| index != left_out).map(|index| needed[index]).collect();
            assert!(orders(&rest).is_err());
        }
        let with = |more: &[&str]| orders(&[&needed, more].concat());
        assert_eq!(with(&["--log-dir="]).unwrap().log_dir, None);
        assert!(with(&["--once"]).unwrap().device.is_none());
        for wrong in [
            "--dist-interval=0",
            "--dist-interval=x",
            "--port=70000",
            "--path=x",
            "--timeout=0",
            "--parallel=0",
            "--device-interval=2s..1s",
            "--header=x",
            "--header=Host: x",
            "--header=A: \u{1}",
            "--url=http://x/",
            "--bearer-file=/nonexistent",
        ] {
            let error = with(&[wrong]).unwrap_err();
            assert_eq!(error.exit(), common::error::Exit::Usage, "{wrong}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
        assert_eq!(with(&["--device-interval=0..0"]).unwrap().device, Some(Duration::ZERO..=Duration::ZERO));
        assert_eq!(with(&["--dist-interval=0.5"]).unwrap().pace.interval, Duration::from_millis(500));
    }
}
