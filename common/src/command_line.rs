//! Command lines: read by clap, refused in one sentence.

use clap::error::ErrorKind;
use clap::{ArgMatches, Command, CommandFactory, Parser};

use crate::error::{Error, Result};

mod manual;

/// Reads this program's command line. Prints help or the version, or writes manual pages and completions, and ends the
/// program where that was asked for.
///
/// # Errors
/// A command line that cannot be used (exit 2), in one sentence.
pub fn read<T: Parser>() -> Result<T> {
    let matches = matches(&T::command())?;
    T::from_arg_matches(&matches).map_err(|error| refused(&T::command(), &error))
}

/// The same for a command that is no type.
///
/// # Errors
/// As [`read`].
pub fn matches(command: &Command) -> Result<ArgMatches> {
    if let Some(share) = manual::wanted(std::env::args_os().skip(1))? {
        manual::write(command, &share)?;
        std::process::exit(0);
    }
    match command.clone().try_get_matches() {
        Ok(matches) => Ok(matches),
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => Err(refused(command, &error)),
    }
}

/// The same for given arguments, the program's name not among them.
///
/// # Errors
/// As [`read`]; help and version are errors too.
pub fn read_from<T: CommandFactory + Parser>(arguments: &[&str]) -> Result<T> {
    let command = T::command();
    let name = command.get_name().to_owned();
    T::try_parse_from([name.as_str()].iter().chain(arguments)).map_err(|error| refused(&command, &error))
}

/// What clap has to say, as this program's error.
pub fn refused(command: &Command, error: &clap::Error) -> Error {
    let help = format!("see {} --help", command.get_name());
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Error::usage(format!("arguments are missing; {help}"));
    }
    Error::usage(format!("{}; {help}", on_one_line(error)))
}

/// The first paragraph of clap's message, on one line.
pub fn on_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = paragraph.split_whitespace().collect();
    let joined = words.join(" ");
    joined.strip_prefix("error: ").unwrap_or(&joined).to_owned()
}
