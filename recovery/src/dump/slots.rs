//! The slots: who is attached, and what each has half-done.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use common::heap;
use common::ids::SlotIndex;
use common::layout::{NO_OFFSET, Slot};
use common::region::Region;
use common::slots::{self, State};
use common::undo::UndoLog;
use serde::Serialize;

use super::Counts;
use super::objects::Paths;
use crate::repair::needs_repair;

#[derive(Debug, Serialize)]
pub(super) struct SlotDump {
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
    /// The same of the small log.
    mini_records: Vec<UndoDump>,
    crashes: u32,
    recoveries: u32,
    /// Locks that it holds or is about to take, by their objects.
    held: Vec<String>,
    /// Its slabs, by the bytes of their blocks.
    slabs: BTreeMap<String, u32>,
    doing: String,
    #[serde(skip)]
    pub(super) in_use: bool,
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
    /// Bytes of it.
    length: usize,
    /// What was there, as words.
    old: Vec<u64>,
}

impl SlotDump {
    /// `met` has the slabs that were counted: none is in two lists, or twice in one, unless that was scribbled.
    pub(super) fn of(
        region: &Region,
        index: SlotIndex,
        slot: &Slot,
        paths: &Paths,
        met: &mut HashSet<u32>,
    ) -> Self {
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
            undo_records: undo_records(UndoLog::of(region, index)),
            mini: format!("{:#x}", slot.mini.load(SeqCst)),
            mini_records: undo_records(UndoLog::mini_of(region, index)),
            crashes: slot.crashes.load(SeqCst) as u32,
            recoveries: slot.recoveries.load(SeqCst) as u32,
            held: slots::held(slot).map(|held| paths.name(held)).collect(),
            slabs: slabs(region, slot, met),
            doing: slot.doing(),
            in_use: needs_repair(slot),
        }
    }

    pub(super) fn write(&self, text: &mut String) {
        let Self { slot, generation, state, pid, published, doing, undo, mini, held, intent, .. } = self;
        let _ = write!(text, "slot {slot} generation {generation}: {state}, pid {pid}, {published}");
        if intent.minute != 0 {
            let IntentDump { seq, minute, len, off } = intent;
            let place = off.map_or_else(|| "not placed".to_owned(), |off| format!("at {off}"));
            let _ = write!(text, ", intent {seq}: {len} bytes {place} in minute {minute}");
        }
        if undo != "0x0" {
            let _ = write!(text, ", undo log {undo}");
        }
        if mini != "0x0" {
            let _ = write!(text, ", small log {mini}");
        }
        if !held.is_empty() {
            let _ = write!(text, ", holds {}", held.join(" "));
        }
        if !doing.is_empty() {
            let _ = write!(text, ", at: {doing}");
        }
        text.push('\n');
    }
}

fn state_name(state: State) -> String {
    format!("{state:?}").to_lowercase()
}

pub(super) fn was_ever_used(slot: &Slot) -> bool {
    let counted = slot.counters.words.iter().chain(&slot.published.words).any(|word| word.load(Relaxed) != 0);
    counted || slot.owner.load(SeqCst) != 0 || needs_repair(slot)
}

/// The records of a log, the last one first; up to where they cannot be some.
fn undo_records(log: Option<UndoLog<'_>>) -> Vec<UndoDump> {
    let records = log.into_iter().flat_map(|log| log.records());
    let old = |words: &[AtomicU64]| words.iter().map(|word| word.load(Relaxed)).collect();
    records
        .map(|record| UndoDump { offset: record.offset.0, length: record.length, old: old(record.old) })
        .collect()
}

/// How many slabs of each class are in the slot's lists; up to one that was met before.
fn slabs(region: &Region, slot: &Slot, met: &mut HashSet<u32>) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for (class, head) in slot.slabs.iter().enumerate() {
        let size = heap::SIZES.get(class).map_or_else(|| "pages".to_owned(), ToString::to_string);
        let (mut link, mut count) = (head.load(Relaxed), 0);
        while let Some(index) = link.checked_sub(1)
            && let Some(slab) = region.slab(index)
            && met.insert(index)
        {
            count += 1;
            link = slab.next.load(Relaxed);
        }
        if count > 0 {
            counts.insert(size, count);
        }
    }
    counts
}
