//! The one place where an error becomes an exit code.

use std::fmt;
use std::io;
use std::process::ExitCode;

use crate::output;

/// The documented exit codes of every program; success is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Something failed while running.
    Failure = 1,
    /// The command line, the configuration or the environment cannot be used.
    Usage = 2,
    /// Another instance owns the run directory.
    AlreadyRunning = 3,
    /// The region is damaged or refused.
    Region = 4,
}

/// An error for a person: one sentence that names what was wrong and what to do, and the exit code it maps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    exit: Exit,
    sentence: String,
}

/// The result of everything whose failure ends up before a person.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Something failed while running (exit 1).
    pub fn failure(sentence: impl Into<String>) -> Self {
        Self { exit: Exit::Failure, sentence: sentence.into() }
    }

    /// The command line, configuration or environment cannot be used (exit 2).
    pub fn usage(sentence: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, sentence: sentence.into() }
    }

    /// Another instance owns the run directory (exit 3).
    pub fn already_running(sentence: impl Into<String>) -> Self {
        Self { exit: Exit::AlreadyRunning, sentence: sentence.into() }
    }

    /// The region is damaged or refused (exit 4).
    pub fn region(sentence: impl Into<String>) -> Self {
        Self { exit: Exit::Region, sentence: sentence.into() }
    }

    /// The same error with what came before it in front: `what; sentence`.
    #[must_use]
    pub fn after(self, what: &str) -> Self {
        Self { sentence: format!("{what}; {}", self.sentence), ..self }
    }

    /// The same error once it has been told to whoever shows it to people: [`run`] does not say it again.
    #[must_use]
    pub fn told(self) -> Self {
        Self { sentence: String::new(), ..self }
    }

    /// The exit code this error maps to.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Error {}

/// Names what was being done when a system call failed.
pub trait Context<T> {
    /// Turns the error into a failure (exit 1): `doing: cause`.
    ///
    /// # Errors
    /// The same error, with `doing` in front.
    fn context(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| Error::failure(format!("{}: {}", doing(), cause.into())))
    }
}

/// Runs a program's body: the error, if any, goes to stderr once, as one line, and decides the exit code.
pub fn run(program: &str, body: impl FnOnce() -> Result<()>) -> ExitCode {
    match body() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.sentence.is_empty() {
                output::complain(&format!("{program}: {error}"));
            }
            ExitCode::from(error.exit as u8)
        }
    }
}
