//! The log: one line a record, one write a line, so that lines of many processes in one file never mix.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{PoisonError, RwLock};

use log::LevelFilter;
use nix::poll::PollFlags;

use crate::region::Region;
use crate::sys::file::redirect_stderr;
use crate::sys::readiness;
use crate::wire::control::Settings;

/// The environment variable that sets the level: off, error, warn, info, debug or trace.
pub const LEVEL_VARIABLE: &str = "HOLDFAST_LOG_LEVEL";

static PROGRAM: RwLock<&str> = RwLock::new("");

/// Logs to stderr from now on, in the name of `program`, at the level that [`LEVEL_VARIABLE`] sets (info without it).
pub fn init(program: &'static str) {
    rename(program);
    let _ = env_logger::Builder::new()
        // The level is log's own maximum alone, so that it can be changed later.
        .filter_level(LevelFilter::Trace)
        .target(env_logger::Target::Pipe(Box::new(Unwaiting { to: io::stderr(), missed: 0 })))
        .format(|buffer, record| {
            let name = *PROGRAM.read().unwrap_or_else(PoisonError::into_inner);
            writeln!(buffer, "{}", line(jiff::Timestamp::now(), name, record))
        })
        .try_init();
    set_level(LevelFilter::Info);
    let Ok(asked) = std::env::var(LEVEL_VARIABLE) else { return };
    match asked.parse() {
        Ok(level) => set_level(level),
        Err(_) => log::warn!(
            "{LEVEL_VARIABLE}={asked} is no log level; choose off, error, warn, info, debug or trace"
        ),
    }
}

/// Where log lines go: to whoever reads them, who may have stopped doing so. They are not waited for: a supervisor that stood at a
/// full pipe would repair nothing, replace nobody and not be stopped. What does not fit is counted, and the count is said
/// once something fits again. A file always takes everything.
struct Unwaiting<W> {
    to: W,
    missed: u64,
}

/// A longer line is cut. With what is said before it, it is no more than a pipe takes at once that says it is ready.
const LONGEST_LINE: usize = 3 * 1024;

impl<W: Write + AsFd> Unwaiting<W> {
    /// Whether a line fits, by what a pipe says: as much as it takes at once.
    fn is_ready(&self) -> bool {
        readiness::now(&self.to, PollFlags::POLLOUT).is_ok_and(|ready| !ready.is_empty())
    }
}

impl<W: Write + AsFd> Write for Unwaiting<W> {
    /// A whole line, as the logger gives it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !self.is_ready() {
            self.missed += 1;
            return Ok(line.len());
        }
        let missed = std::mem::take(&mut self.missed);
        let before = if missed > 0 { missing(missed) } else { String::new() };
        self.to.write_all(&[before.as_bytes(), &cut(line)].concat())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn cut(line: &[u8]) -> Cow<'_, [u8]> {
    if line.len() <= LONGEST_LINE {
        return Cow::Borrowed(line);
    }
    let kept = &line[..LONGEST_LINE - " ...\n".len()];
    // A letter that is cut in two goes as a whole.
    let kept = kept.utf8_chunks().map(|chunk| chunk.valid()).collect::<String>();
    Cow::Owned(format!("{kept} ...\n").into_bytes())
}

fn missing(lines: u64) -> String {
    let name = *PROGRAM.read().unwrap_or_else(PoisonError::into_inner);
    let now = jiff::Timestamp::now();
    let mut record = log::Record::builder();
    record.level(log::Level::Warn);
    line(now, name, &record.args(format_args!("{lines} lines are missing here: nobody read them")).build())
        + "\n"
}

/// Changes the name in the lines: a worker is cloned from a template that has another.
pub fn rename(program: &'static str) {
    *PROGRAM.write().unwrap_or_else(PoisonError::into_inner) = program;
}

/// Changes the level.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// The supervisor's log, as its children follow it: they inherit stderr, and when the supervisor opens its file again
/// (USR1, after a rotation) they notice by the region's log epoch the next time they look.
#[derive(Debug)]
pub struct LogFile {
    path: Option<PathBuf>,
    epoch: u32,
}

impl LogFile {
    /// Takes the level over and remembers which opening of the file stderr is.
    pub fn inherited(settings: &Settings, region: &Region) -> Self {
        if let Ok(level) = settings.log_level.parse() {
            set_level(level);
        }
        Self { path: settings.log.clone(), epoch: log_epoch(region) }
    }

    /// Opens the file again if the supervisor has done so. One load where it has not.
    pub fn follow(&mut self, region: &Region) {
        let epoch = log_epoch(region);
        if epoch == std::mem::replace(&mut self.epoch, epoch) {
            return;
        }
        if let Some(path) = &self.path
            && let Err(error) = redirect_stderr(path)
        {
            log::warn!("cannot log to {}: {error}", path.display());
        }
    }
}

fn log_epoch(region: &Region) -> u32 {
    region.header().supervision.log_epoch.load(Relaxed)
}

/// Time, level, program and pid (asked for each time, since processes are cloned), message.
fn line(now: jiff::Timestamp, program: &str, record: &log::Record<'_>) -> String {
    let (level, pid) = (record.level(), std::process::id());
    format!("{now:.6} {level:5} {program}[{pid}]: {}", OneLine(record.args()))
}

/// A text without line breaks and other control characters: what is logged may come from anybody.
struct OneLine<'a>(&'a fmt::Arguments<'a>);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::write(&mut Escaping(f), *self.0)
    }
}

struct Escaping<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(char::is_control) {
            match part.chars().next_back().filter(|last| last.is_control()) {
                Some(last) => {
                    self.0.write_str(&part[..part.len() - last.len_utf8()])?;
                    write!(self.0, "{}", last.escape_default())?;
                }
                None => self.0.write_str(part)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn nobody_waits_for_who_does_not_read() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut log = Unwaiting { to: writer, missed: 0 };
        let line = [&[b'x'; 99][..], b"\n"].concat();
        while log.missed < 3 {
            log.write_all(&line).unwrap();
        }
        let mut said = vec![0; 2 << 20];
        let read = reader.read(&mut said).unwrap();
        assert!(said[..read].chunks(100).all(|read| read == line), "whole lines");
        log.write_all(&line).unwrap();
        drop(log);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        let rest: Vec<_> = rest.lines().collect();
        assert!(rest[0].ends_with("3 lines are missing here: nobody read them"), "{rest:?}");
        assert_eq!(rest.len(), 2);
    }

    #[test]
    fn a_line_is_never_more_than_fits_at_once() {
        assert_eq!(cut(b"a line\n"), &b"a line\n"[..]);
        let long = "ü".repeat(LONGEST_LINE) + "\n";
        let cut = String::from_utf8(cut(long.as_bytes()).into_owned()).unwrap();
        assert!(
            cut.len() <= LONGEST_LINE && cut.starts_with("üü") && cut.ends_with("ü ...\n"),
            "{}",
            cut.len()
        );
        assert!(LONGEST_LINE + missing(u64::MAX).len() < 4096);
    }

    #[test]
    fn a_record_is_one_line() {
        let hostile = "a\nb\u{1b}[31mc\u{9b}d";
        let arguments = format_args!("doing: {hostile}, ü");
        let record = log::Record::builder().level(log::Level::Warn).args(arguments).build();
        let now = jiff::Timestamp::from_microsecond(1_594_054_584_270_823).unwrap();
        let expected = format!(
            "2020-07-06T16:56:24.270823Z WARN  recovery[{}]: doing: a\\nb\\u{{1b}}[31mc\\u{{9b}}d, ü",
            std::process::id()
        );
        // format_args borrows its arguments only as long as the statement lives.
        assert_eq!(line(now, "recovery", &record), expected);
    }
}
