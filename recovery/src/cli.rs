//! The command line.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use common::error::{Error, Result};

use crate::standby::{self, Stay};
use crate::{dump, journal, offline, verify};

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
    /// Print what a region says
    Dump {
        /// The region's file
        region: PathBuf,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
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
    match parse()? {
        Command::Verify { region } => verify::run(&region),
        Command::Repair { region, spool_dir: Some(spool_dir) } => offline::run(&region, &spool_dir),
        Command::Repair { region, spool_dir: None } => {
            offline::run(&region, &common::places::default_spool_dir()?)
        }
        Command::Dump { region, json } => dump::run(&region, json),
        Command::Standby => standby::run(Stay::Always),
        Command::Once => standby::run(Stay::Once),
        Command::Journal => journal::run(),
    }
}

/// Reads the command line; prints help or version and ends the program if that was asked for.
fn parse() -> Result<Command> {
    match Arguments::try_parse() {
        Ok(arguments) => Ok(arguments.command),
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => Err(Error::usage(sentence(&error))),
    }
}

fn sentence(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a command is missing; see recovery --help".to_owned();
    }
    let text = error.to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = paragraph.split_whitespace().collect();
    let joined = words.join(" ");
    format!("{}; see recovery --help", joined.strip_prefix("error: ").unwrap_or(&joined))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> std::result::Result<Command, String> {
        Arguments::try_parse_from(["recovery"].iter().chain(arguments))
            .map(|arguments| arguments.command)
            .map_err(|error| sentence(&error))
    }

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
            let error = parsed(arguments).expect_err("refused");
            assert!(!error.contains('\n') && error.ends_with("see recovery --help"), "{error}");
        }
    }
}
