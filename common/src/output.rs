//! What a program says to whoever called it, on stdout and stderr: they may be full, or nobody may listen any more.

use std::io::{self, Write as _};

use crate::error::{Context, Result};

/// Writes to stdout. A reader that has gone away has heard enough, and is no error.
///
/// # Errors
/// What write reports besides that, such as a full disk (exit 1).
pub fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.context(|| "cannot write to stdout".to_owned()),
    }
}

/// The same with a line's end.
///
/// # Errors
/// As [`print`].
pub fn print_line(line: &str) -> Result<()> {
    print(&format!("{line}\n"))
}

/// Says a sentence on stderr, if anybody can be told: the exit code says the same.
pub fn complain(sentence: &str) {
    let _ = writeln!(io::stderr(), "{sentence}");
}
