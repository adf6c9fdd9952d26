//! The question where the instance listens, and what may come of it.

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use client::touch::{self, Answer, Refusal};
use common::address::Address;
use common::error::{Error, Result};
use common::units::Span;
use common::wire::control::Listening;

use super::patience::Patience;
use crate::rundir::owner_of;

/// One that ends every connection without a word for so long does not end itself: it does not know what is asked.
const UNHEARD_OF: Duration = Duration::from_secs(2);

/// Who is asked, and how long all questions together may take.
#[derive(Debug)]
pub struct Question<'a> {
    /// The instance's run directory.
    pub run_dir: &'a Path,
    /// What is left for answers.
    pub patience: Patience,
    /// Since when every connection has ended without a word.
    unheard: Cell<Option<Patience>>,
}

/// What an instance that may still come to answer has said.
#[derive(Debug)]
pub enum Heard {
    /// It serves there.
    Port(u16),
    /// Not now; why, and how to learn that it is gone.
    Refused(String, Refusal),
    /// Nobody is there.
    Nobody,
    /// It has ended the connection: it has died, or does not know what was asked.
    HungUp,
}

impl<'a> Question<'a> {
    /// A question that nobody has been asked yet.
    pub fn of(run_dir: &'a Path, patience: Patience) -> Self {
        Self { run_dir, patience, unheard: Cell::default() }
    }

    /// Asks.
    ///
    /// # Errors
    /// An instance that is of another version (exit 3), does not answer, or listens on no port (exit 1).
    pub fn ask(&self) -> Result<Heard> {
        let heard = self.ask_once();
        let hung_up = matches!(heard, Ok(Heard::HungUp));
        let since = self.unheard.take().unwrap_or_else(|| Patience::of(UNHEARD_OF));
        self.unheard.set(hung_up.then_some(since));
        heard
    }

    /// Whether every connection has ended without a word, for longer than it takes to end.
    pub fn is_never_answered(&self) -> bool {
        self.unheard.get().is_some_and(|since| since.is_over())
    }

    fn ask_once(&self) -> Result<Heard> {
        match touch::touch(self.run_dir, self.patience.left()) {
            Answer::Listening(listening) => self.port(&listening).map(Heard::Port),
            Answer::Refused(why, refusal) => Ok(Heard::Refused(why, refusal)),
            // A directory of somebody else's says so when it is opened.
            Answer::Nobody | Answer::Forbidden => Ok(Heard::Nobody),
            Answer::HungUp => Ok(Heard::HungUp),
            Answer::Unintelligible => Err(self.another_version("answers what this program cannot read")),
            Answer::Silent => Err(Error::failure(format!(
                "{} does not answer within {}; is it stopped?",
                self.instance(),
                Span(self.patience.whole())
            ))),
        }
    }

    fn port(&self, listening: &Listening) -> Result<u16> {
        let ours = env!("CARGO_PKG_VERSION");
        if listening.version != ours {
            let version = &listening.version;
            return Err(self.another_version(&format!("is of version {version}, and this program of {ours}")));
        }
        let port = |address: &String| match address.parse() {
            Ok(Address::Tcp { port, .. }) => Some(port),
            _ => None,
        };
        listening.addresses.iter().find_map(port).ok_or_else(|| {
            let addresses = listening.addresses.join(", ");
            Error::failure(format!("{} listens on no port, only on {addresses}", self.instance()))
        })
    }

    /// It is no instance that this program knows how to ask.
    pub fn another_version(&self, how: &str) -> Error {
        Error::already_running(format!(
            "{} {how}; stop it with its own supervisor program, or name another --run-dir",
            self.instance()
        ))
    }

    /// The patience is over.
    pub fn not_served(&self, said: Option<String>) -> Error {
        let said = said.map(|said| format!(": {said}")).unwrap_or_default();
        let whole = Span(self.patience.whole());
        Error::failure(format!("{} does not come to serve within {whole}{said}", self.instance()))
    }

    fn instance(&self) -> String {
        let run_dir = self.run_dir.display();
        match owner_of(self.run_dir).as_str() {
            "" => format!("the instance in {run_dir}"),
            pid => format!("the instance in {run_dir} (process {pid})"),
        }
    }
}
