//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use common::units::{Size, Span};

/// Share data under a name with any process of the same user, without a daemon
#[derive(Parser, Debug)]
#[command(name = "block", version, max_term_width = 110, arg_required_else_help = true, subcommand_required = true, after_help = AFTER_HELP)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
A name is 1 to 200 letters, digits and ._- and begins with a letter, a digit or _. A block holds 1 byte to 1 GiB.
The directory belongs to you, and nobody else may write to it. A block stays until the machine goes down, or it is removed.

Exit codes: 0 success, 1 failure (such as an unknown name), 2 wrong usage (such as a name that cannot be).";

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Make stdin the block's new content
    Produce {
        /// The block
        name: String,
        #[command(flatten)]
        place: Place,
        /// Reserve so much, and accept no more [default: grow as needed]
        #[arg(long, value_name = "SIZE")]
        size: Option<Size>,
        /// Share the lock of this group of blocks
        #[arg(long, value_name = "GROUP")]
        group: Option<String>,
        /// How long to wait for other producers, and for consumers that keep them waiting
        #[arg(long, value_name = "D", default_value = "10s")]
        timeout: Span,
    },
    /// Print the block's content
    Consume {
        /// The block
        name: String,
        #[command(flatten)]
        place: Place,
        /// Go on with every newer content; what is overwritten before it is printed is left out
        #[arg(long)]
        follow: bool,
    },
    /// Print name, bytes and version of every block
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Take the name away; who uses the block is told
    Remove {
        /// The block
        name: String,
        #[command(flatten)]
        place: Place,
    },
}

/// Where the blocks are.
#[derive(Args, Debug)]
pub struct Place {
    /// The directory of blocks [default: blocks in the run directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}
