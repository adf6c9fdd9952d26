//! `recovery dump`: what a region says, as text or as JSON. Nothing is judged here; see `verify`.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use common::error::{Context as _, Result};
use common::heap::Usage;
use common::layout;
use common::output::print;
use common::region::{Region, UnverifiedRegion};
use common::slots::{Counter, Totals};
use serde::Serialize;

use crate::offline::open_region;

mod objects;

mod slots;

use objects::{FolderDump, ObjectDump, SentDump};
use slots::SlotDump;

/// `recovery dump`.
///
/// # Errors
/// A file that cannot be read (exit 2) or is no region (exit 4).
pub fn run(path: &Path, json: bool) -> Result<()> {
    let region = UnverifiedRegion::open_read_only(&open_region(path, false)?)?;
    let dump = Dump::of(region.contents());
    if json {
        let text = serde_json::to_string_pretty(&dump).map_err(std::io::Error::from);
        return print(&format!("{}\n", text.context(|| "cannot write JSON".to_owned())?));
    }
    print(&dump.text())
}

/// Everything that a region says, except of slots that nobody ever had.
#[derive(Debug, Serialize)]
pub struct Dump {
    header: HeaderDump,
    journal: JournalDump,
    totals: Counts,
    heap: HeapDump,
    users: BTreeMap<String, SentDump>,
    folders: Vec<FolderDump>,
    /// Deleted, with blocks that are still to be freed; and what no folder names, which a sound region has not.
    unnamed: Vec<ObjectDump>,
    slots: Vec<SlotDump>,
}

#[derive(Debug, Serialize)]
struct HeapDump {
    bytes: u64,
    used: u64,
}

#[derive(Debug, Serialize)]
struct HeaderDump {
    version: u32,
    length: u64,
    slot_count: u32,
    epoch: String,
    created_ns: u64,
    life: u64,
    boot_id: String,
    clean: u32,
    damaged: u32,
    draining: u32,
    log_epoch: u32,
}

#[derive(Debug, Serialize)]
struct JournalDump {
    open: u64,
    closed: bool,
    sealed: u64,
    closed_bytes: u64,
    oldest: u64,
    limit: u64,
    unsealed: Vec<ClaimsDump>,
}

#[derive(Debug, Serialize)]
struct ClaimsDump {
    minute: u64,
    claimed: u64,
    reserved: u64,
}

#[derive(Debug, Default, Serialize)]
struct Counts {
    connections: u64,
    messages: u64,
    bytes: u64,
    errors: u64,
    requests: u64,
    work_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    crashes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recoveries: Option<u64>,
}

impl Dump {
    /// What `region` says now.
    pub fn of(region: &Region) -> Self {
        let slots = region.slots().filter(|(_, slot)| slots::was_ever_used(slot));
        let Usage { bytes, used } = Usage::of(region);
        let objects = objects::Objects::of(region);
        let users = objects.users(region);
        let mut met = HashSet::new();
        Self {
            header: HeaderDump::of(region),
            journal: JournalDump::of(&region.header().journal),
            totals: Counts::of_totals(&region.totals()),
            heap: HeapDump { bytes, used },
            users,
            slots: slots
                .map(|(index, slot)| SlotDump::of(region, index, slot, &objects.paths, &mut met))
                .collect(),
            folders: objects.folders,
            unnamed: objects.unnamed,
        }
    }

    /// For people: a line for each object, and of the slots only those that are in use.
    pub fn text(&self) -> String {
        let (header, journal, totals) = (&self.header, &self.journal, &self.totals);
        let mut text = format!(
            "region: {} bytes, {} slots, format {}, epoch {}, life {}, clean {}, damaged {}, draining {}\n",
            header.length,
            header.slot_count,
            header.version,
            header.epoch,
            header.life,
            header.clean,
            header.damaged,
            header.draining
        );
        let closed = if journal.closed { " (closed)" } else { "" };
        let _ = writeln!(
            text,
            "journal: minute {}{closed}, sealed up to {}, closed files {} bytes, oldest {}, limit {}",
            journal.open, journal.sealed, journal.closed_bytes, journal.oldest, journal.limit
        );
        for ClaimsDump { minute, claimed, reserved } in &journal.unsealed {
            let _ = writeln!(text, "unsealed: minute {minute}, {claimed} bytes claimed, {reserved} reserved");
        }
        let _ = writeln!(text, "totals: {totals}");
        let _ = writeln!(text, "heap: {} of {} bytes in slabs", self.heap.used, self.heap.bytes);
        for (user, SentDump { messages, bytes }) in &self.users {
            let _ = writeln!(text, "user {user:?}: {messages} messages, {bytes} bytes");
        }
        self.folders.iter().for_each(|folder| folder.write(&mut text));
        self.unnamed.iter().for_each(|object| object.write("(unnamed)", &mut text));
        for slot in self.slots.iter().filter(|slot| slot.in_use) {
            slot.write(&mut text);
        }
        text
    }
}

impl HeaderDump {
    fn of(region: &Region) -> Self {
        let layout::Header { identity, supervision, .. } = region.header();
        let boot_id = supervision.boot_id.each_ref().map(|word| word.load(SeqCst));
        Self {
            version: identity.version.load(Relaxed),
            length: identity.length.load(Relaxed),
            slot_count: identity.slot_count.load(Relaxed),
            epoch: format!("{:016x}", region.epoch()),
            created_ns: identity.created_ns.load(Relaxed),
            life: supervision.life.load(SeqCst),
            boot_id: format!("{:016x}{:016x}", boot_id[1], boot_id[0]),
            clean: supervision.clean.load(SeqCst),
            damaged: supervision.damaged.load(SeqCst),
            draining: supervision.draining.load(SeqCst),
            log_epoch: supervision.log_epoch.load(SeqCst),
        }
    }
}

impl JournalDump {
    fn of(journal: &layout::JournalState) -> Self {
        let open = journal.open_minute();
        let claims = journal.ring_claims().into_iter().flatten();
        Self {
            open: open.minute.0,
            closed: open.closed,
            sealed: journal.sealed_minute().0,
            closed_bytes: journal.closed_bytes.load(SeqCst),
            oldest: journal.oldest.load(SeqCst),
            limit: journal.limit.load(SeqCst),
            unsealed: claims
                .map(|claims| ClaimsDump {
                    minute: claims.minute.0,
                    claimed: claims.tail,
                    reserved: claims.reserved,
                })
                .collect(),
        }
    }
}

impl Counts {
    fn of(counters: &layout::Counters) -> Self {
        let value = |counter| counters.word(counter).load(Relaxed);
        Self {
            connections: value(Counter::Connections),
            messages: value(Counter::Messages),
            bytes: value(Counter::Bytes),
            errors: value(Counter::Errors),
            requests: value(Counter::Requests),
            work_ns: value(Counter::WorkNs),
            ..Self::default()
        }
    }

    fn of_totals(totals: &Totals) -> Self {
        let Totals { connections, messages, bytes, errors, crashes, recoveries, requests, work_ns } = *totals;
        let (crashes, recoveries) = (Some(crashes), Some(recoveries));
        Self { connections, messages, bytes, errors, requests, work_ns, crashes, recoveries }
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { connections, messages, bytes, errors, crashes, recoveries, .. } = self;
        write!(f, "{connections} connections, {messages} messages, {bytes} bytes, {errors} errors")?;
        match (crashes, recoveries) {
            (Some(crashes), Some(recoveries)) => write!(f, ", {crashes} crashes, {recoveries} recoveries"),
            _ => Ok(()),
        }
    }
}
