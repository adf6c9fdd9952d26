//! `recovery dump`: what a region says, as text or as JSON. Nothing is judged here; see `verify`.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use common::error::{Context as _, Result};
use common::ids::SlotIndex;
use common::layout::{self, NO_OFFSET, Slot};
use common::region::{Region, UnverifiedRegion};
use common::slots::{self, Counter, State, Totals};
use serde::Serialize;

use crate::offline::{open_region, print};
use crate::repair::needs_repair;

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
    slots: Vec<SlotDump>,
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

#[derive(Debug, Serialize)]
struct SlotDump {
    slot: u32,
    generation: u32,
    state: String,
    pid: i32,
    activity: u32,
    live_since_ns: u64,
    template: u32,
    counters: Counts,
    published: Counts,
    base: Counts,
    intent: IntentDump,
    undo: String,
    /// What the undo log would put back, and where; empty where the log says nothing possible.
    undo_records: Vec<UndoDump>,
    mini: String,
    crashes: u32,
    recoveries: u32,
    held: Vec<u32>,
    doing: String,
    #[serde(skip)]
    in_use: bool,
}

#[derive(Debug, Serialize)]
struct IntentDump {
    seq: u64,
    minute: u64,
    len: u64,
    off: Option<u64>,
}

#[derive(Debug, Serialize)]
struct UndoDump {
    offset: u64,
    old: u64,
}

#[derive(Debug, Default, Serialize)]
struct Counts {
    connections: u64,
    messages: u64,
    bytes: u64,
    errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    crashes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recoveries: Option<u64>,
}

impl Dump {
    /// What `region` says now.
    pub fn of(region: &Region) -> Self {
        let slots = region.slots().filter(|(_, slot)| was_ever_used(slot));
        Self {
            header: HeaderDump::of(region),
            journal: JournalDump::of(&region.header().journal),
            totals: Counts::of_totals(&region.totals()),
            slots: slots.map(|(index, slot)| SlotDump::of(region, index, slot)).collect(),
        }
    }

    /// For people: of the slots only those that are in use.
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

impl SlotDump {
    fn of(region: &Region, index: SlotIndex, slot: &Slot) -> Self {
        let (generation, state) = slot.standing();
        let off = slot.intent.off.load(SeqCst);
        Self {
            slot: index.0,
            generation: generation.0,
            state: state.map_or_else(|| format!("unknown {:#x}", slot.owner.load(SeqCst) as u32), state_name),
            pid: slot.pid().0,
            activity: slot.activity.load(Relaxed),
            live_since_ns: slot.live_since_ns.load(Relaxed),
            template: slot.template.load(Relaxed),
            counters: Counts::of(&slot.counters),
            published: Counts::of(&slot.published),
            base: Counts::of(&slot.base),
            intent: IntentDump {
                seq: slot.intent.seq.load(SeqCst),
                minute: slot.intent.minute.load(SeqCst),
                len: slot.intent.len.load(SeqCst),
                off: (off != NO_OFFSET).then_some(off),
            },
            undo: format!("{:#x}", slot.undo.load(SeqCst)),
            undo_records: undo_records(region, index, slot),
            mini: format!("{:#x}", slot.mini.load(SeqCst)),
            crashes: slot.crashes.load(SeqCst) as u32,
            recoveries: slot.recoveries.load(SeqCst) as u32,
            held: slots::held(slot).collect(),
            doing: slot.doing(),
            in_use: needs_repair(slot),
        }
    }

    fn write(&self, text: &mut String) {
        let Self { slot, generation, state, pid, published, doing, undo, intent, .. } = self;
        let _ = write!(text, "slot {slot} generation {generation}: {state}, pid {pid}, {published}");
        if intent.minute != 0 {
            let IntentDump { seq, minute, len, off } = intent;
            let place = off.map_or_else(|| "not placed".to_owned(), |off| format!("at {off}"));
            let _ = write!(text, ", intent {seq}: {len} bytes {place} in minute {minute}");
        }
        if undo != "0x0" {
            let _ = write!(text, ", undo log {undo}");
        }
        if !doing.is_empty() {
            let _ = write!(text, ", at: {doing}");
        }
        text.push('\n');
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
            ..Self::default()
        }
    }

    fn of_totals(totals: &Totals) -> Self {
        let Totals { connections, messages, bytes, errors, crashes, recoveries } = *totals;
        Self { connections, messages, bytes, errors, crashes: Some(crashes), recoveries: Some(recoveries) }
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { connections, messages, bytes, errors, crashes, recoveries } = self;
        write!(f, "{connections} connections, {messages} messages, {bytes} bytes, {errors} errors")?;
        match (crashes, recoveries) {
            (Some(crashes), Some(recoveries)) => write!(f, ", {crashes} crashes, {recoveries} recoveries"),
            _ => Ok(()),
        }
    }
}

fn state_name(state: State) -> String {
    format!("{state:?}").to_lowercase()
}

fn was_ever_used(slot: &Slot) -> bool {
    let counted = slot.counters.words.iter().chain(&slot.published.words).any(|word| word.load(Relaxed) != 0);
    counted || slot.owner.load(SeqCst) != 0 || needs_repair(slot)
}

fn undo_records(region: &Region, index: SlotIndex, slot: &Slot) -> Vec<UndoDump> {
    let used = (slot.undo.load(SeqCst) as u32) as usize;
    let Some(area) = region.undo_area(index).and_then(|area| area.get(..used)) else { return Vec::new() };
    let records = area.chunks_exact(2);
    records.map(|record| UndoDump { offset: record[0].load(Relaxed), old: record[1].load(Relaxed) }).collect()
}
