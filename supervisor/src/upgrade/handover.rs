//! What is handed to the next program: a summons in its environment, which says what it is here for, and a sealed file
//! with all that its predecessor knows by heart.
//!
//! The file begins with a line that says which version it is of, and which version of frames the children speak; the rest
//! is JSON. What is not understood, whichever part, is refused: see [`super::check`].

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use common::error::{Context, Error, Result};
use common::ids::Pid;
use common::sys::process::HANDOVER_VARIABLE;
use common::sys::{exec, file};
use common::wire::control::FRAMES_VERSION;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::service_manager::{Giver, Passed};

/// The version of what is handed over, to be counted up where a field comes to mean something else. Where one is added,
/// left out or renamed, that is noticed by itself.
const VERSION: u32 = 1;

/// A state of thousands of slots and connections takes a few MB.
const MAX_STATE: u64 = 256 << 20;

/// What a program is executed or run for by another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summons {
    /// The process that it is for: the one that executes it, or the parent of the one that is asked.
    process: Pid,
    /// What it is for.
    pub errand: Errand,
    /// The nice value that children are started with, where it is not this process's own.
    pub nice: Option<i32>,
    /// Where the first program was started, if this process is elsewhere since: relative paths start there.
    pub started_in: Option<PathBuf>,
}

/// What a program is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Errand {
    /// As a child: say whether it could go on with what is in the file behind this number.
    Answer(RawFd),
    /// Go on with it.
    GoOn(RawFd),
    /// Start anew, as a daemon if the options say so, and listen on these sockets where the options name them.
    StartAnew(Vec<RawFd>),
}

impl Summons {
    /// One for a program that is executed in, or started by, this process.
    pub fn new(errand: Errand, nice: Option<i32>, started_in: Option<PathBuf>) -> Self {
        Self { process: Pid::current(), errand, nice, started_in }
    }

    /// Where this process has been executed or started by another, the one that is meant for it. Who starts anew does so
    /// where the first program was started.
    ///
    /// # Errors
    /// A directory that is not there any more.
    pub fn received() -> Result<Option<Self>> {
        let text = std::env::var_os(HANDOVER_VARIABLE);
        let Some(summons) = text.as_deref().and_then(Self::read) else { return Ok(None) };
        let meant = match summons.errand {
            Errand::Answer(_) => Pid(nix::unistd::getppid().as_raw()),
            Errand::GoOn(_) | Errand::StartAnew(_) => Pid::current(),
        };
        if summons.process != meant {
            return Ok(None);
        }
        if let (Errand::StartAnew(_), Some(directory)) = (&summons.errand, &summons.started_in) {
            std::env::set_current_dir(directory)
                .context(|| format!("cannot enter {}", directory.display()))?;
        }
        Ok(Some(summons))
    }

    /// The state to go on with, where that is what it is for.
    pub fn state(&self) -> Option<RawFd> {
        if let Errand::GoOn(state) = self.errand { Some(state) } else { None }
    }

    /// Whether everything is to be started anew in this process.
    pub fn starts_anew(&self) -> bool {
        matches!(self.errand, Errand::StartAnew(_))
    }

    /// The listening sockets that were left here, each to be taken once.
    ///
    /// # Errors
    /// One that is not open.
    pub fn sockets(&self) -> Result<Vec<Passed>> {
        let Errand::StartAnew(numbers) = &self.errand else { return Ok(Vec::new()) };
        let sockets = numbers
            .iter()
            .map(|number| file::adopt(*number).map(|socket| Passed { socket, giver: Giver::ThisProcess }));
        sockets.collect::<std::io::Result<_>>().context(|| "cannot take over a listening socket".to_owned())
    }

    /// As it stands in the environment: `PID ERRAND NUMBERS NICE DIRECTORY`.
    pub fn written(&self) -> OsString {
        let (errand, numbers) = match &self.errand {
            Errand::Answer(number) => ("answer", number.to_string()),
            Errand::GoOn(number) => ("go-on", number.to_string()),
            Errand::StartAnew(sockets) => {
                let numbers: Vec<String> = sockets.iter().map(RawFd::to_string).collect();
                ("start-anew", format!(",{}", numbers.join(",")))
            }
        };
        let nice = self.nice.map_or_else(|| "-".to_owned(), |nice| nice.to_string());
        let mut text = OsString::from(format!("{} {errand} {numbers} {nice} ", self.process.0));
        text.push(self.started_in.as_deref().unwrap_or(std::path::Path::new("")));
        text
    }

    fn read(text: &OsStr) -> Option<Self> {
        let mut words = text.as_bytes().splitn(5, |&byte| byte == b' ');
        let mut word = || words.next().and_then(|word| std::str::from_utf8(word).ok());
        let process = Pid(word()?.parse().ok()?);
        let (errand, numbers, nice) = (word()?, word()?, word()?);
        let errand = match errand {
            "answer" => Errand::Answer(numbers.parse().ok()?),
            "go-on" => Errand::GoOn(numbers.parse().ok()?),
            "start-anew" => {
                let numbers = numbers.split(',').filter(|number| !number.is_empty()).map(str::parse);
                Errand::StartAnew(numbers.collect::<std::result::Result<_, _>>().ok()?)
            }
            _ => return None,
        };
        let nice = if nice == "-" { None } else { Some(nice.parse().ok()?) };
        let directory = OsString::from_vec(words.next()?.to_vec());
        let started_in = (!directory.is_empty()).then(|| PathBuf::from(directory));
        Some(Self { process, errand, nice, started_in })
    }
}

fn beginning() -> String {
    format!("holdfast handover {VERSION}, frames {FRAMES_VERSION}\n")
}

/// A file with this state.
///
/// # Errors
/// What the kernel reports; a state that cannot be written down.
pub fn write(state: &impl Serialize) -> Result<File> {
    let mut bytes = beginning().into_bytes();
    serde_json::to_writer(&mut bytes, state)
        .map_err(|error| Error::failure(format!("what is to be handed over cannot be written: {error}")))?;
    exec::sealed("handover", &bytes).context(|| "cannot write what is to be handed over".to_owned())
}

/// The state in a file.
///
/// # Errors
/// One that cannot be read, is of another version, or not understood.
pub fn read<T: DeserializeOwned>(file: &mut File) -> Result<T> {
    let bytes =
        exec::read_handed(file, MAX_STATE).context(|| "cannot read what is handed over".to_owned())?;
    let Some(state) = bytes.strip_prefix(beginning().as_bytes()) else {
        let first = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
        return Err(Error::failure(format!(
            "it is {:?}, and this program understands {:?}: they are too far apart, let the one stop and the other start",
            String::from_utf8_lossy(&first[..first.len().min(80)]),
            beginning().trim_end(),
        )));
    };
    serde_json::from_slice(state)
        .map_err(|error| Error::failure(format!("what is handed over is not understood: {error}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_summons_is_read_as_it_was_written() {
        let odd = PathBuf::from(OsString::from_vec(b"/a b\xff/c".to_vec()));
        for errand in
            [Errand::Answer(7), Errand::GoOn(9), Errand::StartAnew(vec![]), Errand::StartAnew(vec![3, 44])]
        {
            for (nice, directory) in [(None, None), (Some(-5), Some(odd.clone())), (Some(0), None)] {
                let summons = Summons::new(errand.clone(), nice, directory);
                assert_eq!(Summons::read(&summons.written()), Some(summons));
            }
        }
    }

    #[test]
    fn a_state_is_read_as_it_was_written_and_nothing_else_is() {
        let mut file = write(&("state", 7)).unwrap();
        assert_eq!(read::<(String, u32)>(&mut file).unwrap(), ("state".to_owned(), 7));
        assert!(read::<(String, String)>(&mut file).unwrap_err().to_string().contains("not understood"));
        let other = beginning().replace("handover", "handover 9");
        for bytes in [&b""[..], b"\n", b"\xff\xfe", other.as_bytes(), &beginning().as_bytes()[1..]] {
            let mut file = exec::sealed("other", bytes).unwrap();
            assert!(read::<u32>(&mut file).unwrap_err().to_string().contains("too far apart"));
        }
    }

    proptest! {
        #[test]
        fn garbage_is_no_summons(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Summons::read(OsStr::from_bytes(&bytes));
        }
    }
}
