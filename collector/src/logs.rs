//! The log in a directory: `data_collector.log`, begun anew every seven days, with the four before kept.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::error::{Error, Result};
use common::sys::file::redirect_stderr;

const NAME: &str = "data_collector.log";
const KEPT: u32 = 4;
const AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// The log's directory.
#[derive(Debug)]
pub struct Logs {
    directory: PathBuf,
}

impl Logs {
    /// Logs into the directory from now on, making it if need be.
    ///
    /// # Errors
    /// A directory that cannot be written to (exit 2).
    pub fn open(directory: &Path) -> Result<Self> {
        let logs = Self { directory: directory.to_owned() };
        let opened = std::fs::create_dir_all(directory).and_then(|()| {
            logs.rotate_if_due(SystemTime::now())?;
            redirect_stderr(&logs.path(0))
        });
        match opened {
            Ok(()) => Ok(logs),
            Err(error) => Err(Error::usage(format!(
                "cannot log into {}: {error}; choose another --log-dir",
                directory.display()
            ))),
        }
    }

    /// Begins another log if this one is old enough, or is not what stderr goes to any more: somebody moved it away, or
    /// another who logs here began one.
    pub fn tend(&self) {
        let tended = self.rotate_if_due(SystemTime::now()).and_then(|_| {
            if is_at(io::stderr(), &self.path(0))? { Ok(()) } else { redirect_stderr(&self.path(0)) }
        });
        if let Err(error) = tended {
            log::warn!("the log cannot be begun anew: {error}");
        }
    }

    fn rotate_if_due(&self, now: SystemTime) -> io::Result<bool> {
        let due = self.begun()?.is_some_and(|begun| now.duration_since(begun).is_ok_and(|age| age >= AGE));
        if due {
            for number in (0..KEPT).rev() {
                match std::fs::rename(self.path(number), self.path(number + 1)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(due)
    }

    /// When the log's first line was written. It is older than any restart.
    fn begun(&self) -> io::Result<Option<SystemTime>> {
        let file = match File::open(self.path(0)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let modified = file.metadata()?.modified()?;
        let mut line = Vec::new();
        BufReader::new(file.take(256)).read_until(b' ', &mut line)?;
        let time =
            std::str::from_utf8(&line).ok().and_then(|text| text.trim().parse::<jiff::Timestamp>().ok());
        Ok(Some(time.map_or(modified, SystemTime::from)))
    }

    fn path(&self, number: u32) -> PathBuf {
        match number {
            0 => self.directory.join(NAME),
            number => self.directory.join(format!("{NAME}.{number}")),
        }
    }
}

/// Whether what is open is what stands at this path.
fn is_at(open: impl AsFd, path: &Path) -> io::Result<bool> {
    let open = File::from(open.as_fd().try_clone_to_owned()?).metadata()?;
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        found => found.map(|found| (found.dev(), found.ino()) == (open.dev(), open.ino())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    /// Stderr goes where it went before, in the end.
    struct Stderr(OwnedFd);

    impl Stderr {
        fn kept() -> Self {
            Self(io::stderr().as_fd().try_clone_to_owned().unwrap())
        }
    }

    impl Drop for Stderr {
        fn drop(&mut self) {
            nix::unistd::dup2_stderr(&self.0).unwrap();
        }
    }

    #[test]
    fn a_log_that_is_moved_away_is_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let _stderr = Stderr::kept();
        let logs = Logs::open(directory.path()).unwrap();
        let goes_there = || is_at(io::stderr(), &logs.path(0)).unwrap();
        assert!(goes_there());
        std::fs::rename(logs.path(0), logs.path(1)).unwrap();
        assert!(!goes_there());
        logs.tend();
        assert!(goes_there());
        // As another does who logs here and begins a log.
        std::fs::rename(logs.path(0), logs.path(1)).unwrap();
        std::fs::write(logs.path(0), "").unwrap();
        assert!(!goes_there());
        logs.tend();
        assert!(goes_there());
    }

    #[test]
    fn every_seven_days_another_and_four_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let logs = Logs { directory: directory.path().to_owned() };
        let now = SystemTime::now();
        assert!(!logs.rotate_if_due(now).unwrap());
        let day = Duration::from_secs(24 * 3600);
        for week in 0..7_u32 {
            let then = now + day * 7 * week;
            let text = format!("{:.6} INFO  week {week}\n", jiff::Timestamp::try_from(then).unwrap());
            std::fs::write(logs.path(0), text).unwrap();
            assert!(!logs.rotate_if_due(then + day * 6).unwrap());
            assert!(logs.rotate_if_due(then + day * 7 + Duration::from_secs(1)).unwrap());
        }
        let mut names: Vec<_> =
            std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(
            names,
            ["data_collector.log.1", "data_collector.log.2", "data_collector.log.3", "data_collector.log.4"]
        );
        assert!(std::fs::read_to_string(logs.path(1)).unwrap().contains("week 6"));
    }
}
