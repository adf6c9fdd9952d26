//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use common::address::Address;
use common::command_line;
use common::error::Result;

use crate::{birth, server};

/// Shows a running instance over HTTP, to Prometheus, to programs and to people, and can change nothing of it
#[derive(Parser, Debug)]
#[command(
    name = "exporter",
    version,
    about,
    max_term_width = 110,
    after_help = AFTER_HELP,
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// The instance's run directory [env: HOLDFAST_RUN_DIR] [default: /run/holdfast as root, else $XDG_RUNTIME_DIR/holdfast or /dev/shm/holdfast-UID]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Where to listen: tcp:HOST:PORT, unix:PATH or fd:N; may be repeated [env: HOLDFAST_METRICS_LISTEN] [default: tcp:localhost:31339]
    #[arg(long, value_name = "ADDR")]
    metrics_listen: Vec<Address>,
}

#[derive(Subcommand, Debug)]
enum Role {
    /// As the supervisor starts it
    #[command(hide = true)]
    Supervised,
}

const AFTER_HELP: &str = "\
/metrics is OpenMetrics text for Prometheus. /status is what `supervisor status --json --slots` prints. / is a page for people
that needs nothing from elsewhere. GET and HEAD only.

`supervisor --metrics-listen ADDR` runs this program as a child. Started by hand it serves whichever instance owns the run
directory; while there is none, /metrics says holdfast_up 0 and repeats the last counters, and /status answers 503. It lets
in whoever connects, and what it shows includes the beginnings of messages: listen on loopback or on a network of your own.
On loopback it answers only who asks for localhost or a number, so that no web site can have a browser read it.

INT and TERM end it. Exit codes: 0 success, 1 failure while running, 2 usage or configuration.";

/// Reads the command line and does what it says.
///
/// # Errors
/// What could not be done.
pub fn run() -> Result<()> {
    let Arguments { role, run_dir, metrics_listen } = command_line::read()?;
    let birth = match role {
        Some(Role::Supervised) => birth::supervised()?,
        None => Some(birth::by_hand(run_dir, metrics_listen)?),
    };
    birth.map_or(Ok(()), server::serve)
}
