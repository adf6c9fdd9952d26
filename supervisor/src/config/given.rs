//! Options that somebody gives for a supervisor that another program starts: read here as the supervisor will read them,
//! so that the starter knows which of its own they replace.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::{CommandFactory, FromArgMatches};
use common::command_line;
use common::error::{Error, Result};

use super::{Layer, on_command_line};
use crate::cli::Cli;

/// The options that say what the pool is.
const POOL: [&str; 5] = ["workers", "min-workers", "max-workers", "min-spare", "max-spare"];

/// The options of one command line.
#[derive(Debug, Default)]
pub(crate) struct Given(Layer);

impl Given {
    /// Reads them.
    ///
    /// # Errors
    /// What is no option, or asks for something else than running (exit 2).
    pub fn read(words: &[OsString]) -> Result<Self> {
        if words.is_empty() {
            return Ok(Self::default());
        }
        let command = Cli::command();
        let name = OsString::from("supervisor");
        let only_options =
            || Error::usage("only options with which a supervisor runs may follow --; see supervisor --help");
        let matches = command.clone().try_get_matches_from([&name].into_iter().chain(words));
        let matches = matches.map_err(|error| match error.use_stderr() {
            true => command_line::refused(&command, &error),
            false => only_options(),
        })?;
        let cli = Cli::from_arg_matches(&matches).map_err(|error| command_line::refused(&command, &error))?;
        if cli.command.is_some() || cli.source.check_config {
            return Err(only_options());
        }
        Ok(Self(on_command_line(&matches)))
    }

    /// Whether an option is among them, by its long name.
    pub fn has(&self, option: &str) -> bool {
        self.0.contains_key(option)
    }

    /// Whether any option is that says what the pool is.
    pub fn has_pool(&self) -> bool {
        POOL.iter().any(|option| self.has(option))
    }

    /// The path that an option names; an absolute one.
    pub fn path(&self, option: &str) -> Option<&Path> {
        self.value(option).map(Path::new)
    }

    /// The option's value.
    pub fn value(&self, option: &str) -> Option<&OsStr> {
        self.0.get(option)?.last().map(OsString::as_os_str)
    }
}
