//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use common::command_line;
use common::error::Result;
use common::sys::process;
use common::units::Size;

use crate::inherited::Inherited;
use crate::standby::{self, Stay};
use crate::{carry, checkpoint, dump, import, journal, offline, restore, verify};

/// Verify, repair or show a Holdfast region
#[derive(Parser, Debug)]
#[command(name = "recovery", version, about, max_term_width = 110, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
The region is the file `region` in the run directory. A running instance repairs its region itself; it starts this
program for that. Exit code: 0 sound, 2 wrong usage, 3 an instance is running, 4 the region is damaged or refused.";

#[derive(Subcommand, Debug)]
enum Command {
    /// Look whether a region is sound; changes nothing, also while an instance runs
    Verify {
        /// The region's file
        region: PathBuf,
    },
    /// Repair every slot of a region that no instance uses
    Repair {
        /// The region's file
        region: PathBuf,
        /// The spool that the region was used with [default: as the supervisor's]
        #[arg(long, value_name = "DIR", env = "HOLDFAST_SPOOL_DIR")]
        spool_dir: Option<PathBuf>,
    },
    /// Go back to the newest checkpoint that can be used, and count what the journal has beyond it
    Restore {
        /// The region's file; if there is one, it is kept under another name
        region: PathBuf,
        /// The spool with the checkpoints [default: as the supervisor's]
        #[arg(long, value_name = "DIR", env = "HOLDFAST_SPOOL_DIR")]
        spool_dir: Option<PathBuf>,
    },
    /// Print what a region says
    Dump {
        /// The region's file
        region: PathBuf,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Make a fresh region of what `dump --json` printed of another one, of whatever format and size
    Import {
        /// The region's file, which does not exist yet
        region: PathBuf,
        /// What was printed [default: stdin]
        file: Option<PathBuf>,
        /// Size of the fresh region [default: that of the other one]
        #[arg(long, value_name = "SIZE")]
        size: Option<Size>,
    },
    /// Carry everything from a cleanly stopped region into a fresh one of another size
    #[command(hide = true)]
    Carry {
        /// The region's file, `fd:N`
        old: Inherited,
        /// The fresh one's
        new: Inherited,
    },
    /// Make a region of the newest checkpoint
    #[command(hide = true)]
    Rebuild {
        /// The region's file, which is empty, `fd:N`
        new: Inherited,
        /// The spool with the checkpoints
        spool: Inherited,
        /// Its path, to be named
        spool_dir: PathBuf,
    },
    /// Take a checkpoint for the supervisor
    #[command(hide = true)]
    Checkpoint,
    /// Wait for the supervisor's orders to repair
    #[command(hide = true)]
    Standby,
    /// Carry out one of the supervisor's orders to repair
    #[command(hide = true)]
    Once,
    /// Keep the journal for the supervisor
    #[command(hide = true)]
    Journal,
}

/// Does what the command line says.
///
/// # Errors
/// What the command reports; a command line that cannot be used (exit 2).
pub fn run() -> Result<()> {
    let command = command_line::read::<Arguments>()?.command;
    if !matches!(command, Command::Standby | Command::Once | Command::Checkpoint) {
        // Those have their priority to raise before.
        process::shed_privileges();
    }
    match command {
        Command::Verify { region } => verify::run(&region),
        Command::Repair { region, spool_dir } => offline::run(&region, &spool_or_default(spool_dir)?),
        Command::Restore { region, spool_dir } => restore::run(&region, &spool_or_default(spool_dir)?),
        Command::Dump { region, json } => dump::run(&region, json),
        Command::Import { region, file, size } => import::run(&region, file.as_deref(), size),
        Command::Carry { old, new } => carry::run(&old.take()?, &new.take()?),
        Command::Rebuild { new, spool, spool_dir } => {
            restore::run_for_supervisor(&new.take()?, spool.take()?, &spool_dir)
        }
        Command::Checkpoint => checkpoint::run(),
        Command::Standby => standby::run(Stay::Always),
        Command::Once => standby::run(Stay::Once),
        Command::Journal => journal::run(),
    }
}

fn spool_or_default(named: Option<PathBuf>) -> Result<PathBuf> {
    named.map_or_else(common::places::default_spool_dir, Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn errors_are_one_line() {
        for arguments in
            [&[][..], &["verify"], &["dump", "--yaml", "r"], &["mend", "r"], &["verify", "a", "b"]]
        {
            let error = command_line::read_from::<Arguments>(arguments).expect_err("refused").to_string();
            assert!(!error.contains('\n') && error.ends_with("see recovery --help"), "{error}");
        }
    }
}
