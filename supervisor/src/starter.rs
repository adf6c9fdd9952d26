//! Whoever started this process and waits to hear that it serves: a terminal, or the process that a daemon left
//! behind for that.

use std::cell::Cell;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::RawFd;
use std::rc::Rc;

use common::address::Address;
use common::error::{Context, Error, Exit, Result};
use common::output;
use common::sys::daemon::{self, Detached};

use crate::cli::Options;

/// The one that waits. Clones speak to the same, and the first word is the last.
#[derive(Clone)]
pub struct Starter {
    /// A daemon's line to it.
    line: Rc<Cell<Option<File>>>,
    detached: bool,
}

impl Starter {
    /// With `--daemon`, leaves a process behind that waits, and goes on as another. `None`: this is the one that has
    /// waited, and the daemon serves.
    ///
    /// # Errors
    /// In the one that has waited: why the daemon does not serve, with the exit code that it had.
    pub fn part_from(options: &Options) -> Result<Option<Self>> {
        if !options.daemon {
            return Ok(Some(Self { line: Rc::default(), detached: false }));
        }
        match daemon::detach(&adopted(options)?).context(|| "cannot become a daemon".to_owned())? {
            Detached::Daemon(line) => Ok(Some(Self { line: Rc::new(Cell::new(Some(line))), detached: true })),
            Detached::Starter(line) => hear(line).map(|()| None),
        }
    }

    /// In a process that has parted already, or will not: nobody waits any more.
    pub fn of_a_successor(detached: bool) -> Self {
        Self { line: Rc::default(), detached }
    }

    /// Whether this is a daemon.
    pub fn is_detached(&self) -> bool {
        self.detached
    }

    /// The service runs; this line says how.
    pub fn serves(&self, text: &str) {
        // Whoever does not listen any more is no affair of the service's.
        if self.detached {
            self.tell(0, text);
        } else {
            let mut out = std::io::stdout().lock();
            let _ = writeln!(out, "{text}").and_then(|()| out.flush());
        }
    }

    /// It will not run. A terminal hears of that from main.
    pub fn failed(&self, error: &Error) {
        self.tell(error.exit() as u8, &error.to_string());
    }

    fn tell(&self, code: u8, text: &str) {
        if let Some(mut line) = self.line.take() {
            let _ = line.write_all(&[&[code], text.as_bytes()].concat());
        }
    }
}

/// Descriptors of the starter's that the daemon needs: `--listen fd:N`, and the others that listen.
fn adopted(options: &Options) -> Result<Vec<RawFd>> {
    let listen = options.listen()?;
    let addresses = listen.iter().chain(&options.metrics_listen).chain(&options.control_listen);
    Ok(addresses.filter_map(Address::descriptor).collect())
}

fn hear(mut line: File) -> Result<()> {
    let mut word = Vec::new();
    line.read_to_end(&mut word).context(|| "cannot hear the daemon".to_owned())?;
    let Some((code, text)) = word.split_first() else {
        return Err(Error::failure("the daemon ended before it served; its log (--log) may say why"));
    };
    let text = String::from_utf8_lossy(text);
    Err(match *code {
        0 => return output::print_line(&text),
        code if code == Exit::Usage as u8 => Error::usage(text),
        code if code == Exit::AlreadyRunning as u8 => Error::already_running(text),
        code if code == Exit::Region as u8 => Error::region(text),
        _ => Error::failure(text),
    })
}
