//! Reading a spool as anybody may: minute files of NDJSON.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Unique among all records ever.
    pub id: String,
    /// RFC 3339 with nanoseconds.
    pub time: String,
    /// Who recorded it.
    pub pid: i64,
    /// Who sent it.
    pub user: String,
    /// What was sent.
    pub message: String,
}

/// Every record in the spool, minute by minute. In a minute that is still open there may be holes, which are NULs; in
/// a sealed one there are only whole lines.
///
/// # Panics
/// Where anything else stands there.
#[track_caller]
pub fn read(spool: &Path) -> Vec<Record> {
    let mut minutes: Vec<u64> =
        names(spool).iter().filter_map(|name| name.strip_suffix(".dat")?.parse().ok()).collect();
    minutes.sort_unstable();
    minutes.into_iter().flat_map(|minute| read_minute(spool, minute)).collect()
}

/// The names of the files in the spool.
pub fn names(spool: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(spool).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

fn read_minute(spool: &Path, minute: u64) -> Vec<Record> {
    // Asked before reading: a lock that goes meanwhile leaves a file that may still be read as an open one.
    let open = spool.join(format!("{minute}.dat.lock")).exists();
    let path = spool.join(format!("{minute}.dat"));
    let bytes = std::fs::read(&path).unwrap_or_default();
    let (lines, rest) = match bytes.iter().rposition(|&byte| byte == b'\n') {
        Some(end) => bytes.split_at(end + 1),
        None => bytes.split_at(0),
    };
    let shown = path.display();
    assert!(open || rest.is_empty(), "{shown} is sealed and ends within a line");
    assert!(open || !bytes.contains(&0), "{shown} is sealed and has holes");
    lines.split(|&byte| byte == b'\n').filter_map(|line| read_line(line, &format!("{shown}"))).collect()
}

fn read_line(line: &[u8], path: &str) -> Option<Record> {
    // A NUL stands in no record: what comes before the last one is a hole, or was torn.
    let line = line.rsplit(|&byte| byte == 0).next().unwrap_or_default();
    let line =
        std::str::from_utf8(line).unwrap_or_else(|error| panic!("{path}: {error}")).trim_start_matches(' ');
    if line.is_empty() {
        return None;
    }
    let value: Value =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{path}: {error} in {line:?}"));
    let text =
        |name: &str| value[name].as_str().unwrap_or_else(|| panic!("{path}: no {name} in {line}")).to_owned();
    Some(Record {
        id: text("id"),
        time: text("time"),
        pid: value["pid"].as_i64().unwrap_or_else(|| panic!("{path}: no pid in {line}")),
        user: text("user"),
        message: text("message"),
    })
}

/// No id stands for two records.
///
/// # Panics
/// Where one does.
#[track_caller]
pub fn assert_unique(records: &[Record]) {
    let mut ids = BTreeSet::new();
    for record in records {
        assert!(ids.insert(&record.id), "two records have the id {}", record.id);
    }
}
