//! Holds the journal against the replies: everything acknowledged must be recorded, once and unaltered.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::error::{Context, Error, Result};
use nix::fcntl::OFlag;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::bitmap::Bitmap;
use crate::request::{Requests, Sent};

/// Longer than any record: a message of 64 KiB, every byte of it escaped to six, and the fields around it.
const MAX_LINE: usize = 512 * 1024;
/// The kernel stamps files by a clock that lags a little behind the one asked here.
const SLACK: Duration = Duration::from_secs(2);
/// How long lines that are no records are given to be repaired: the record of a worker killed a moment ago is torn until
/// recovery has blanked it.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);
/// Of everything found, so many are named.
const EXAMPLES: usize = 5;

/// A spool as it was when the run began.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    since: SystemTime,
}

/// What the journal holds of this run, and what it should hold.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Requests acknowledged but not recorded.
    pub lost: u64,
    /// Records beyond the first with the same token, or the same id as another.
    pub duplicated: u64,
    /// Records with a token of this run whose user or message is not what was sent.
    pub altered: u64,
    records: u64,
    files: usize,
    /// Lines that are no records, and where the first of them is.
    unreadable: u64,
    first_unreadable: Option<String>,
    vanished: Vec<String>,
    absent: Vec<u64>,
    examples: Vec<String>,
}

/// The fields every record has; there may be more.
#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(rename = "time")]
    _time: IgnoredAny,
    #[serde(rename = "pid")]
    _pid: IgnoredAny,
    #[serde(borrow)]
    user: Cow<'a, str>,
    #[serde(borrow)]
    message: Cow<'a, str>,
}

impl Spool {
    /// Remembers where the journal is and when the run began.
    pub fn open(directory: &Path) -> Result<Self> {
        // Read now, so that a wrong directory is not found out after a long run.
        fs::read_dir(directory).map_err(|cause| {
            Error::usage(format!(
                "cannot read {} ({cause}): give the spool of the server to --check",
                directory.display()
            ))
        })?;
        Ok(Self { directory: directory.to_owned(), since: SystemTime::now() })
    }

    /// Reads every minute file touched since.
    pub fn check(&self, requests: &Requests, issued: u64, acknowledged: &Bitmap) -> Result<Findings> {
        self.check_patiently(requests, issued, acknowledged, || std::thread::sleep(PAUSE))
    }

    /// Reads again after each pause while something is missing that a repair might still bring to light.
    fn check_patiently(
        &self,
        requests: &Requests,
        issued: u64,
        acknowledged: &Bitmap,
        pause: impl Fn(),
    ) -> Result<Findings> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let findings = self.read(requests, issued, acknowledged)?;
            if findings.lost == 0 || findings.unreadable == 0 || Instant::now() >= deadline {
                return Ok(findings);
            }
            pause();
        }
    }

    fn read(&self, requests: &Requests, issued: u64, acknowledged: &Bitmap) -> Result<Findings> {
        let mut reading = Reading::new(requests, issued);
        for (minute, paths) in self.minutes()? {
            reading.minute(minute, &paths)?;
        }
        let mut findings = reading.findings;
        for sequence in acknowledged.without(&reading.seen) {
            findings.lost += 1;
            findings.give_example("lost", &requests.token(sequence));
        }
        if findings.lost > 0 {
            let present = |minute: &u64| reading.minutes.contains(minute);
            findings.absent = self.minutes_of_the_run().filter(|minute| !present(minute)).collect();
        }
        Ok(findings)
    }

    /// The files of each minute touched since the run began. A delivered `M.dat` may stay for a while as `M.sent`.
    fn minutes(&self) -> Result<BTreeMap<u64, Vec<PathBuf>>> {
        let cannot = || format!("cannot read {}", self.directory.display());
        let mut minutes: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
        for entry in fs::read_dir(&self.directory).context(cannot)? {
            let entry = entry.context(cannot)?;
            let Some(minute) = entry.file_name().to_str().and_then(minute_of) else { continue };
            let touched = entry.metadata().and_then(|metadata| metadata.modified());
            let touched = touched.map_or(true, |touched| touched + SLACK >= self.since);
            if touched || minute >= minutes_since_epoch(self.since) {
                minutes.entry(minute).or_default().push(entry.path());
            }
        }
        Ok(minutes)
    }

    fn minutes_of_the_run(&self) -> impl Iterator<Item = u64> + use<> {
        minutes_since_epoch(self.since)..=minutes_since_epoch(SystemTime::now())
    }
}

/// `26565120` of `26565120.dat` or `26565120.sent`.
fn minute_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".dat").or_else(|| name.strip_suffix(".sent"))?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn minutes_since_epoch(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 60)
}

/// One pass over the journal.
struct Reading<'a> {
    requests: &'a Requests,
    issued: u64,
    seen: Bitmap,
    /// A hash of every id: ids of millions of records would be hundreds of megabytes, and two of a million hashes
    /// are equal by accident once in ten million runs.
    ids: HashSet<u64>,
    hasher: RandomState,
    /// Device and inode of every file read: a file renamed meanwhile is found under both names.
    files: HashSet<(u64, u64)>,
    minutes: HashSet<u64>,
    findings: Findings,
}

impl<'a> Reading<'a> {
    fn new(requests: &'a Requests, issued: u64) -> Self {
        Self {
            requests,
            issued,
            seen: Bitmap::default(),
            ids: HashSet::new(),
            hasher: RandomState::new(),
            files: HashSet::new(),
            minutes: HashSet::new(),
            findings: Findings::default(),
        }
    }

    fn minute(&mut self, minute: u64, paths: &[PathBuf]) -> Result<()> {
        for path in paths {
            let renamed = path.with_extension("sent");
            match open(path)?.map_or_else(|| open(&renamed), |file| Ok(Some(file)))? {
                Some(file) => {
                    self.minutes.insert(minute);
                    self.file(path, file).context(|| format!("cannot read {}", path.display()))?;
                }
                None => self.findings.vanished.push(path.display().to_string()),
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, file: File) -> io::Result<()> {
        let metadata = file.metadata()?;
        if !metadata.is_file() || !self.files.insert((metadata.dev(), metadata.ino())) {
            return Ok(());
        }
        self.findings.files += 1;
        let mut lines = Lines::new(BufReader::with_capacity(256 * 1024, file));
        while let Some(line) = lines.next_line()? {
            let record = match line {
                Line::Whole(bytes) => serde_json::from_slice::<Record<'_>>(bytes).ok(),
                Line::TooLong => None,
            };
            match record {
                Some(record) => self.record(&record),
                None => self.findings.note_unreadable(path, lines.number),
            }
        }
        Ok(())
    }

    fn record(&mut self, record: &Record<'_>) {
        let mut fresh = self.ids.insert(self.hasher.hash_one(record.id.as_bytes()));
        if let Some(sent) = self.requests.sequence_in(&record.message) {
            self.findings.records += 1;
            match sent {
                Sent::Request(sequence) if sequence < self.issued => {
                    fresh &= self.seen.insert(sequence);
                    if !self.requests.is_as_sent(sequence, &record.user, &record.message) {
                        self.altered(record);
                    }
                }
                _ => self.altered(record),
            }
        }
        if !fresh {
            self.findings.duplicated += 1;
            self.findings.give_example("duplicated", &record.id);
        }
    }

    fn altered(&mut self, record: &Record<'_>) {
        self.findings.altered += 1;
        self.findings.give_example("altered", &record.id);
    }
}

/// A minute file, unless it has gone. Never waits: the name may belong to anything.
fn open(path: &Path) -> Result<Option<File>> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => {
            Err(Error::failure(format!("cannot open {} ({cause}): allow it to be read", path.display())))
        }
    }
}

impl Findings {
    /// Whether everything acknowledged is recorded, once and unaltered.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.altered == 0
    }

    fn give_example(&mut self, what: &str, which: &str) {
        if self.examples.len() < EXAMPLES {
            // What the journal holds may be hostile to a terminal.
            let which: String = which.chars().take(80).flat_map(char::escape_debug).collect();
            self.examples.push(format!("{what} {which}"));
        }
    }

    fn note_unreadable(&mut self, path: &Path, line: u64) {
        self.unreadable += 1;
        self.first_unreadable.get_or_insert_with(|| format!("{} line {line}", path.display()));
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lost, duplicated, altered, records, files, .. } = self;
        writeln!(
            f,
            "check: {lost} lost, {duplicated} duplicated, {altered} altered; {records} records of this run in {files} files"
        )?;
        for example in &self.examples {
            writeln!(f, "check: {example}")?;
        }
        for path in &self.vanished {
            writeln!(f, "check: {path} vanished before it could be read; a collector may have delivered it")?;
        }
        for minute in &self.absent {
            writeln!(f, "check: {minute}.dat is not there, though the run went through that minute")?;
        }
        if let Some(first) = &self.first_unreadable {
            writeln!(f, "check: {} lines are no records, the first is {first}", self.unreadable)?;
        }
        Ok(())
    }
}

/// One line of a journal.
enum Line<'a> {
    Whole(&'a [u8]),
    TooLong,
}

/// Lines without the blanks and NULs that may precede them, in bounded memory.
struct Lines<R> {
    reader: R,
    line: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    fn new(reader: R) -> Self {
        Self { reader, line: Vec::new(), number: 0 }
    }

    /// The next line with anything in it. The last one may lack its end; it may also still be being written.
    fn next_line(&mut self) -> io::Result<Option<Line<'_>>> {
        self.line.clear();
        let mut length = 0;
        loop {
            let available = match self.reader.fill_buf() {
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if available.is_empty() {
                return Ok(if length == 0 { None } else { Some(self.finish(length)) });
            }
            let end = available.iter().position(|&byte| byte == b'\n');
            let piece = &available[..end.unwrap_or(available.len())];
            let blanks = if length == 0 { leading_blanks(piece) } else { 0 };
            let piece = &piece[blanks..];
            length += piece.len();
            if length <= MAX_LINE {
                self.line.extend_from_slice(piece);
            }
            let used = end.map_or(available.len(), |end| end + 1);
            self.reader.consume(used);
            if end.is_some() {
                self.number += 1;
                if length > 0 {
                    return Ok(Some(self.finish(length)));
                }
            }
        }
    }

    fn finish(&self, length: usize) -> Line<'_> {
        if length > MAX_LINE { Line::TooLong } else { Line::Whole(&self.line) }
    }
}

fn leading_blanks(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| !matches!(byte, b'\0' | b' ' | b'\t' | b'\r')).unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8], capacity: usize) -> Vec<Option<Vec<u8>>> {
        let mut lines = Lines::new(BufReader::with_capacity(capacity, text));
        let mut all = Vec::new();
        while let Some(line) = lines.next_line().unwrap() {
            all.push(match line {
                Line::Whole(line) => Some(line.to_vec()),
                Line::TooLong => None,
            });
        }
        all
    }

    #[test]
    fn blanks_and_holes_are_no_data() {
        let text = b"  \0\0{1}\n\n   \n\0\0\0\0\0\0\0\0\0\0{2}\n{3}";
        for capacity in 1..text.len() + 1 {
            let expected = [b"{1}", b"{2}", b"{3}"].map(|line| Some(line.to_vec()));
            assert_eq!(lines(text, capacity), expected);
        }
        assert!(lines(&[0; 1 << 20], 4096).is_empty());
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let mut text = vec![b'x'; MAX_LINE + 1];
        text.extend(b"\n{}\n");
        assert_eq!(lines(&text, 4096), [None, Some(b"{}".to_vec())]);
    }

    #[test]
    fn a_torn_record_is_waited_for_until_it_is_repaired() {
        const TORN: &str = "{\"id\":\"1.2.3.4\",\"ti";
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(directory.path()).unwrap();
        let requests = Requests::new("arijort:hi".parse().unwrap()).unwrap();
        let fields = r#""time":"2020-07-06T16:44:57Z","pid":1,"user":"arijort""#;
        let record = format!("{{\"id\":\"1\",{fields},\"message\":\"hi {}\"}}\n", requests.token(0));
        let path = directory.path().join("7.dat");
        // The next record stands behind the torn one, on the same line until recovery has blanked that.
        fs::write(&path, format!("{TORN}{record}")).unwrap();
        let repair = || fs::write(&path, " ".repeat(TORN.len()) + &record).unwrap();

        let mut acknowledged = Bitmap::default();
        acknowledged.insert(0);
        assert_eq!(spool.read(&requests, 1, &acknowledged).unwrap().lost, 1);
        let findings = spool.check_patiently(&requests, 1, &acknowledged, repair).unwrap();
        assert!(findings.is_clean() && findings.unreadable == 0 && findings.records == 1, "{findings}");
    }

    #[test]
    fn names_of_minute_files() {
        assert_eq!(minute_of("26565120.dat"), Some(26_565_120));
        assert_eq!(minute_of("26565120.sent"), Some(26_565_120));
        for name in ["26565120.dat.lock", "x.dat", ".dat", "-1.dat", "sealed", "99999999999999999999999.dat"]
        {
            assert_eq!(minute_of(name), None, "{name}");
        }
    }
}
