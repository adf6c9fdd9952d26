//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use common::address::Address;
use common::destination::Destination;
use common::error::{Error, Result};
use common::layout::Geometry;
use common::limits::MAX_SLOTS;
use common::places;
use common::units::{Size, Span};
use common::wire::control::Sync;

use crate::policy::{Shape, Wanted};

/// Owns the region, the listening sockets and every process: a pre-forking server whose state survives any of them.
#[derive(Debug, Parser)]
#[command(name = "supervisor", version, args_conflicts_with_subcommands = true, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do; without one, run in the foreground.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Where else options stand.
    #[command(flatten)]
    pub source: Source,
    /// How to run.
    #[command(flatten)]
    pub options: Options,
}

const AFTER_HELP: &str = "\
Every option from --workers on can also stand in the environment (HOLDFAST_READ_TIMEOUT=3s; several addresses with
commas between them) and in the file that --config names (read_timeout = \"3s\"; listen is one address or a list of
them). The command line comes first, then the environment, then the file, then the default.

HUP and `supervisor reload` read the file again. What they change at once: users, latency, access_log, read_timeout,
request_timeout, max_requests, idle_exit, grace, checkpoint_interval, log_level, policy; a change of anything else waits for the next start, and the log says so. USR1 opens log and
access log again. USR2 and `supervisor upgrade` let the program take over that lies where this one was started from: it is
run with --check-config first, and if it cannot, or is of another format of the region, this one goes on and the log says
why. The pid, every process, every connection and the options in force stay; a reload replaces the other programs. TERM and
INT drain and stop, QUIT stops now, TTIN and TTOU want a worker more or less.

Exit codes: 0 success, 1 failure while running, 2 usage or configuration, 3 another instance owns the run directory or
the spool, 4 the region is damaged or refused.";

/// Where else options stand.
#[derive(Debug, Args)]
pub struct Source {
    /// Take what is given neither here nor in the environment from this file [env: HOLDFAST_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Say whether an instance could be started like this, in one line, and begin nothing
    #[arg(long)]
    pub check_config: bool,
}

/// What can be asked of a running instance.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what the running instance is doing
    Status {
        /// Which instance
        #[command(flatten)]
        instance: Instance,
        /// One JSON object
        #[arg(long)]
        json: bool,
        /// With every slot in use
        #[arg(long)]
        slots: bool,
    },
    /// Drain and stop; returns once every process is gone
    Stop {
        /// Which instance
        #[command(flatten)]
        instance: Instance,
        /// Without draining
        #[arg(long)]
        fast: bool,
    },
    /// Read configuration and users again and replace the workers one by one; returns once a new template serves
    Reload {
        /// Which instance
        #[command(flatten)]
        instance: Instance,
    },
    /// Let the program that is installed now take over in the instance's process, with everybody in it; returns once it has
    Upgrade {
        /// Which instance
        #[command(flatten)]
        instance: Instance,
    },
    /// Take a checkpoint now; returns once it is on the disk
    Checkpoint {
        /// Which instance
        #[command(flatten)]
        instance: Instance,
    },
    /// Show the instance over HTTP as --metrics-listen does, from a process of its own that goes on over restarts
    Exporter {
        /// Which instance
        #[command(flatten)]
        instance: Instance,
        /// Where to listen: tcp:HOST:PORT or unix:PATH; may be repeated [env: HOLDFAST_METRICS_LISTEN] [default: tcp:localhost:31339]
        #[arg(long, value_name = "ADDR")]
        metrics_listen: Vec<Address>,
    },
    /// Want another number of workers
    Scale {
        /// Which instance
        #[command(flatten)]
        instance: Instance,
        /// Workers wanted
        workers: u32,
    },
}

/// Which instance is meant.
#[derive(Debug, Args)]
pub struct Instance {
    /// Its run directory [env: HOLDFAST_RUN_DIR] [default: /run/holdfast as root, else $XDG_RUNTIME_DIR/holdfast or /dev/shm/holdfast-UID]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// The configuration that may name the run directory [env: HOLDFAST_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Ask the instance at this address instead: tcp:HOST:PORT, which its --control-listen names, or unix:PATH
    #[arg(long, value_name = "ADDR", conflicts_with = "run_dir")]
    pub connect: Option<Address>,
}

/// How recovery is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Recovery {
    /// One process waits, mapped and warm
    Standby,
    /// One process is started for each crash
    Spawn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SyncPolicy {
    /// Only when a minute is sealed
    Never,
    /// Once a second
    Interval,
    /// Before every reply
    Always,
}

/// How to run.
#[derive(Debug, Args)]
pub struct Options {
    /// Workers of a fixed pool [default without any option about the pool: 1000]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    workers: Option<u32>,
    /// Dynamic pool: workers at least [default: 5, or all if there are fewer]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "workers")]
    min_workers: Option<u32>,
    /// Dynamic pool: workers at most [default: 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "workers")]
    max_workers: Option<u32>,
    /// Dynamic pool: with fewer workers waiting for a connection, more are started at once [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "workers")]
    min_spare: Option<u32>,
    /// Dynamic pool: with more workers waiting for a connection for two seconds, the others leave [default: 20, or twice --min-spare]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "workers")]
    max_spare: Option<u32>,
    /// How long a worker may take for a request, until it is asked and then made to leave; 0 = for ever
    #[arg(long, value_name = "D", default_value = "0")]
    pub request_timeout: Span,
    /// A worker leaves after about so many requests; 0 = never
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_requests: u64,
    /// End when there was no connection for so long; 0 = never
    #[arg(long, value_name = "D", default_value = "0")]
    pub idle_exit: Span,
    /// Where to listen: tcp:HOST:PORT, unix:PATH or fd:N; may be repeated [default: tcp:localhost:31337]
    #[arg(short, long, value_name = "ADDR")]
    listen: Vec<Address>,
    /// Where the region and the control socket live [default: /run/holdfast as root, else $XDG_RUNTIME_DIR/holdfast or /dev/shm/holdfast-UID]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Where the journal lives [default: /var/lib/holdfast as root, else ${XDG_STATE_HOME:-~/.local/state}/holdfast]
    #[arg(long, value_name = "DIR")]
    spool_dir: Option<PathBuf>,
    /// Bound of the spool [default: while 1 GiB or 5 % of the file system is free, whichever is less]
    #[arg(long, value_name = "SIZE")]
    spool_limit: Option<Size>,
    /// Ship the journal there, http://HOST:PORT/PATH: run data_collector too; a clean stop ships the last minute for up to half of --grace
    #[arg(long, value_name = "URL")]
    pub collect: Option<Destination>,
    /// With --collect: how often; with less than a minute, minutes of the journal are sealed early
    #[arg(long, value_name = "D", default_value = "60s")]
    pub collect_interval: Span,
    /// When the journal is written to the disk
    #[arg(long, value_name = "WHEN", value_enum, default_value = "interval")]
    sync: SyncPolicy,
    /// How often a checkpoint of the region is taken into the spool, besides at a clean stop; 0 = only then
    #[arg(long, value_name = "D", default_value = "60s")]
    pub checkpoint_interval: Span,
    /// Size of the region; another one takes effect after a clean stop
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    region_size: Size,
    /// Who may send messages: one name a line, # begins a comment [default: arijort and foobar]
    #[arg(long, value_name = "FILE")]
    pub users: Option<PathBuf>,
    /// Imitated work for each message
    #[arg(long, value_name = "D", default_value = "0")]
    pub latency: Span,
    /// Log every message here
    #[arg(long, value_name = "FILE")]
    pub access_log: Option<PathBuf>,
    /// Who else may join the region or ask for its status, by user and group: a TOML file [default: this user, and nobody else]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Let itself be asked and commanded here too, as far as `remote` in the policy says: tcp:HOST:PORT; may be repeated
    #[arg(long, value_name = "ADDR")]
    pub control_listen: Vec<Address>,
    /// Show itself over HTTP here: /metrics for Prometheus, /status in JSON, / for people; tcp:HOST:PORT, unix:PATH or fd:N, may
    /// be repeated. Nobody is asked who he is: keep it to loopback or a network of your own
    #[arg(long, value_name = "ADDR")]
    pub metrics_listen: Vec<Address>,
    /// Run the process that shows it as this user; for the superuser [default: as --user says]
    #[arg(long, value_name = "U")]
    pub metrics_user: Option<String>,
    /// How recovery is kept
    #[arg(long, value_name = "HOW", value_enum, default_value = "standby")]
    pub recovery: Recovery,
    /// The worker program [default: worker, beside this program or in ../lib/holdfast]
    #[arg(long = "worker", value_name = "PATH")]
    pub worker_program: Option<PathBuf>,
    /// The recovery program [default: recovery, beside this program or in ../lib/holdfast]
    #[arg(long, value_name = "PATH")]
    pub recovery_program: Option<PathBuf>,
    /// How long a line may be incomplete or a connection idle
    #[arg(long, value_name = "D", default_value = "15s")]
    pub read_timeout: Span,
    /// How long a worker that is asked to leave may take; 0 = as long as it likes
    #[arg(long, value_name = "D", default_value = "10s")]
    pub grace: Span,
    /// A process that falls over may leave a core file of so many bytes; while it is written nobody is told of the death
    #[arg(long, value_name = "SIZE", default_value = "0")]
    core_size: Size,
    /// Run in the background; the starter ends when it serves, with the line that says so, or with the error
    #[arg(
        long,
        value_name = "BOOL",
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true",
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub daemon: bool,
    /// Write the supervisor's pid here, and remove it at the end
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Run everything but the supervisor as this user, with the user's groups; for the superuser
    #[arg(long, value_name = "U")]
    pub user: Option<String>,
    /// The group, where it is not the user's own
    #[arg(long, value_name = "G")]
    pub group: Option<String>,
    /// Log to this file instead of stderr; USR1 opens it again
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// What to log: error, warn, info, debug or trace
    #[arg(long, value_name = "L", default_value = "info")]
    pub log_level: log::LevelFilter,
}

impl Options {
    /// The pool.
    ///
    /// # Errors
    /// Options that contradict each other (exit 2).
    pub fn pool(&self) -> Result<Shape> {
        let Self { workers, min_workers, max_workers, min_spare, max_spare, .. } = *self;
        Wanted { workers, min_workers, max_workers, min_spare, max_spare }.shape()
    }

    /// Where to listen.
    ///
    /// # Errors
    /// None today; the default is a valid address.
    pub fn listen(&self) -> Result<Vec<Address>> {
        if self.listen.is_empty() {
            Ok(vec!["tcp:localhost:31337".parse()?])
        } else {
            Ok(self.listen.clone())
        }
    }

    /// Whether it was said where to listen.
    pub fn names_addresses(&self) -> bool {
        !self.listen.is_empty()
    }

    /// The run directory.
    pub fn run_dir(&self) -> PathBuf {
        self.run_dir.clone().unwrap_or_else(places::default_run_dir)
    }

    /// The spool directory.
    ///
    /// # Errors
    /// Without `--spool-dir`, an environment that names no home (exit 2).
    pub fn spool_dir(&self) -> Result<PathBuf> {
        self.spool_dir.clone().map_or_else(places::default_spool_dir, Ok)
    }

    /// `--spool-limit` in bytes; 0 = by free space.
    pub fn spool_limit(&self) -> u64 {
        self.spool_limit.map_or(0, |Size(bytes)| bytes.max(1))
    }

    /// `--core-size` in bytes.
    pub fn core_size(&self) -> u64 {
        let Size(bytes) = self.core_size;
        bytes
    }

    /// `--collect-interval`, as far as there is something to collect.
    ///
    /// # Errors
    /// It is 0 (exit 2).
    pub fn seal_interval(&self) -> Result<Option<Duration>> {
        let Span(interval) = self.collect_interval;
        if interval.is_zero() {
            return Err(Error::usage(
                "--collect-interval 0: the journal is shipped every so often, such as 10s",
            ));
        }
        Ok(self.collect.as_ref().map(|_| interval))
    }

    /// `--sync`.
    pub fn sync(&self) -> Sync {
        match self.sync {
            SyncPolicy::Never => Sync::Never,
            SyncPolicy::Interval => Sync::Interval,
            SyncPolicy::Always => Sync::Always,
        }
    }

    /// Bytes of the region, which must have room for the workers and, while they are replaced, for some more.
    ///
    /// # Errors
    /// A size out of bounds, or too small for the workers (exit 2).
    pub fn region_length(&self) -> Result<u64> {
        let Size(length) = self.region_size;
        let Some(geometry) = Geometry::of(length) else {
            return Err(Error::usage(format!(
                "--region-size {}: a region has a multiple of 4KiB between 1MiB and 4TiB",
                self.region_size
            )));
        };
        let pool = self.pool()?;
        let (option, workers, wanted) = (pool.option(), pool.most(), slots_for(pool));
        if wanted > MAX_SLOTS {
            return Err(Error::usage(format!(
                "{option} {workers}: at most {} are possible",
                MAX_SLOTS - 1024
            )));
        }
        if wanted > geometry.slot_count {
            return Err(Error::usage(format!(
                "{option} {workers}: a region of {} has {} slots; use --region-size {}",
                self.region_size,
                geometry.slot_count,
                Size(Geometry::length_for(wanted))
            )));
        }
        Ok(length)
    }

    /// Whether a region that is kept has room for the workers.
    ///
    /// # Errors
    /// It has not (exit 2).
    pub fn check_room(&self, kept: Geometry) -> Result<()> {
        let pool = self.pool()?;
        if slots_for(pool) <= kept.slot_count {
            return Ok(());
        }
        Err(Error::usage(format!(
            "{} {}: the region keeps its {} slots until a clean stop; start with fewer workers, stop, and start again",
            pool.option(),
            pool.most(),
            kept.slot_count
        )))
    }
}

/// Slots for the workers, and beyond them for those being replaced or repaired.
pub(crate) fn slots_for(pool: Shape) -> u32 {
    let workers = pool.most();
    workers.saturating_add((workers / 16).clamp(2, 1024))
}
