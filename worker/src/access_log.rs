//! The access log: two lines a message, in the seed's words. It is kept beside the work: whatever happens to it, the
//! messages are served.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use common::ids::Pid;
use jiff::Timestamp;
use jiff::tz::Offset;
use nix::fcntl::OFlag;

/// Memory that a long message leaves allocated.
const SMALL: usize = 1024;

/// Lines appended to one file by every worker, each with one write.
#[derive(Debug)]
pub(crate) struct AccessLog {
    path: PathBuf,
    file: State,
    /// The log epoch in which the file was opened.
    epoch: u32,
    line: String,
}

#[derive(Debug)]
enum State {
    Unopened,
    Open(File),
    /// It could not be opened or written, and a warning says so. Nothing is tried before the next epoch.
    GivenUp,
}

impl AccessLog {
    /// A log that is opened with the first line.
    pub fn new(path: PathBuf) -> Self {
        Self { path, file: State::Unopened, epoch: 0, line: String::new() }
    }

    /// A message has been received from somebody who may send it.
    pub fn received(&mut self, pid: Pid, epoch: u32, message: &str, user: &str) {
        self.begin(Timestamp::now());
        let _ = write!(self.line, "server {pid} recvd message \"{}\" from user {user}", Visible(message));
        self.write(epoch);
    }

    /// A message has been recorded; `total` counts those of this process.
    pub fn completed(&mut self, pid: Pid, epoch: u32, message: &str, total: u64) {
        self.begin(Timestamp::now());
        let _ = write!(self.line, "completed req \"{}\" on {pid} total reqs {total}", Visible(message));
        self.write(epoch);
    }

    fn begin(&mut self, now: Timestamp) {
        let time = Offset::UTC.to_datetime(now);
        self.line.clear();
        let _ = write!(
            self.line,
            "{:04}.{:02}.{:02} {:02}:{:02}:{:02}.{:09} -- ",
            time.year(),
            time.month(),
            time.day(),
            time.hour(),
            time.minute(),
            time.second(),
            time.subsec_nanosecond()
        );
    }

    fn write(&mut self, epoch: u32) {
        self.line.push('\n');
        if let Err(error) = self.try_write(epoch) {
            log::warn!("cannot write the access log {}: {error}; serving on without", self.path.display());
            self.file = State::GivenUp;
        }
        self.line.shrink_to(SMALL);
    }

    fn try_write(&mut self, epoch: u32) -> io::Result<()> {
        if self.epoch != epoch || matches!(self.file, State::Unopened) {
            self.epoch = epoch;
            self.file = State::Open(self.open()?);
        }
        let State::Open(file) = &mut self.file else { return Ok(()) };
        // One write, so that lines of different workers stand one after the other. What a full disk cuts is not
        // written again: the rest would stand somewhere else.
        let written = file.write(self.line.as_bytes())?;
        if written < self.line.len() { Err(io::ErrorKind::WriteZero.into()) } else { Ok(()) }
    }

    /// Without waiting, also where the path is a pipe that nobody reads.
    fn open(&self) -> io::Result<File> {
        let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
        File::options().append(true).create(true).mode(0o640).custom_flags(flags).open(&self.path)
    }
}

/// A text whose control characters are written out, so that a message is never two lines.
struct Visible<'a>(&'a str);

impl std::fmt::Display for Visible<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for part in self.0.split_inclusive(char::is_control) {
            match part.chars().next_back().filter(|last| last.is_control()) {
                Some(last) => {
                    write!(f, "{}{}", &part[..part.len() - last.len_utf8()], last.escape_default())?;
                }
                None => f.write_str(part)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn lines(path: &Path) -> Vec<String> {
        std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_time_is_the_seeds() {
        let mut log = AccessLog::new("unused".into());
        log.begin(Timestamp::from_nanosecond(1_594_053_897_270_823_600).unwrap());
        assert_eq!(log.line, "2020.07.06 16:44:57.270823600 -- ");
    }

    #[test]
    fn each_message_is_two_lines_whatever_it_holds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let mut log = AccessLog::new(path.clone());
        log.received(Pid(7), 0, "a\rb\u{1b}\u{85}c", "anna");
        log.completed(Pid(7), 0, "a\rb", 3);
        let lines: Vec<_> = lines(&path).iter().map(|line| line[33..].to_owned()).collect();
        assert_eq!(
            lines,
            [
                r#"server 7 recvd message "a\rb\u{1b}\u{85}c" from user anna"#,
                r#"completed req "a\rb" on 7 total reqs 3"#
            ]
        );
    }

    #[test]
    fn another_epoch_opens_the_file_again() {
        let directory = tempfile::tempdir().unwrap();
        let (path, old) = (directory.path().join("access.log"), directory.path().join("access.log.1"));
        let mut log = AccessLog::new(path.clone());
        log.received(Pid(7), 4, "one", "anna");
        std::fs::rename(&path, &old).unwrap();
        log.received(Pid(7), 4, "two", "anna");
        log.received(Pid(7), 5, "three", "anna");
        assert_eq!((lines(&old).len(), lines(&path).len()), (2, 1));
    }

    #[test]
    fn a_log_that_cannot_be_written_is_given_up_until_the_next_epoch() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing/access.log");
        let mut log = AccessLog::new(path.clone());
        log.received(Pid(7), 0, "lost", "anna");
        std::fs::create_dir(directory.path().join("missing")).unwrap();
        log.received(Pid(7), 0, "lost", "anna");
        assert!(!path.exists());
        log.received(Pid(7), 1, "found", "anna");
        assert_eq!(lines(&path).len(), 1);
    }

    #[test]
    fn a_pipe_that_nobody_reads_holds_nobody_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        AccessLog::new(path).received(Pid(7), 0, "lost", "anna");
    }
}
