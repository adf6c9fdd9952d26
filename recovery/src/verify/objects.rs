//! The objects: the entries of the object table, what the folders name, and the insides of every map and folder.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering::SeqCst;

use common::heap::{self, HEAP_OBJECT, USED};
use common::ids::Offset;
use common::layout::{Object, Slot};
use common::limits::{MAX_DEPTH, PAGE_SIZE};
use common::lock::{self, WAITERS};
use common::objects::folder::Entry;
use common::objects::survey::{Item, Part, Survey, is_name};
use common::objects::{Handle, Kind, ROOT_OBJECT};
use common::region::Region;
use common::slots::{self, State};

use super::heap::Marks;
use super::{MOST_BLOCKS, Place, Wrong, Wrongs, in_flight};
use crate::picture::{self, Budget, Gap, Picture};

/// What is wrong with what a key, a value or an item is filled up with.
const UNFILLED: &str = "stand other bytes than zeros";

/// So much that is wrong with one object is told.
const MOST_OF_AN_OBJECT: usize = 100;

/// What a walk over all objects gave.
pub(super) struct Walk {
    pub wrongs: Wrongs,
    /// The blocks that objects are made of.
    pub reached: Marks,
    /// Whether every object could be read to its end.
    pub complete: bool,
}

/// What the walk notes of one object.
enum Note {
    /// A block that is no entry or item of its own.
    Page(Offset),
    /// An entry or an item, and its block if it has one.
    Entry(Option<Offset>),
    Name(Vec<u8>, Entry),
    Wrong(&'static str, String),
}

/// An object that is there, and what it names if it is a folder.
struct Known {
    handle: Handle,
    kind: Kind,
    names: Vec<(String, Entry)>,
    wrongs: Vec<(&'static str, String)>,
}

/// Looks at every object once.
pub(super) fn walk(region: &Region) -> Walk {
    let mut walk = Walk { wrongs: Wrongs::new(), reached: Marks::of(region), complete: true };
    let mut budget = Budget::of(region);
    let in_flight = in_flight::all(region);
    let mut known = Vec::new();
    for index in 0..region.geometry().object_count {
        let Some(object) = region.object(index) else { continue };
        let wrongs = check_entry(region, index, object);
        if is_quietly_free(object) && wrongs.is_empty() && index > ROOT_OBJECT {
            continue;
        }
        let picture = picture::read(region, index, &mut budget, |survey, number, parts, notes| {
            let known = notes.len();
            check_step(region, survey, number, parts, notes);
            notes[known..].iter().map(Note::length).sum()
        });
        known.push(walk.take(picture, wrongs));
    }
    in_flight::check(region, &in_flight, &mut walk);
    let folders_read = walk.complete;
    let paths = paths(&known);
    for Known { handle, kind, wrongs, .. } in &mut known {
        let named = paths.get(handle).map_or(&[][..], Vec::as_slice);
        if folders_read && kind.is_named() && handle.index > ROOT_OBJECT && named.len() != 1 {
            wrongs
                .push(("names", format!("the {kind} is named {} times: {}", named.len(), named.join(", "))));
        }
        let path = if handle.index == ROOT_OBJECT { Some("/".to_owned()) } else { named.first().cloned() };
        let depth = named.iter().map(|path| path.split('/').count() - 1).max().unwrap_or(0);
        if *kind == Kind::Folder && depth > MAX_DEPTH {
            wrongs.push(("depth", format!("the folder is {depth} levels deep, and {MAX_DEPTH} is the most")));
        }
        let place = Place::Object(*handle, path);
        let wrong = |(kind, text)| Wrong { place: place.clone(), kind, text };
        walk.wrongs.extend(wrongs.drain(..).take(MOST_OF_AN_OBJECT).map(wrong));
    }
    walk
}

impl Note {
    /// Bytes of words for people: where everything is wrong they are more than what they are about.
    fn length(&self) -> usize {
        if let Self::Wrong(_, text) = self { text.len() } else { 0 }
    }
}

impl Walk {
    fn take(&mut self, picture: Picture<Note>, mut wrongs: Vec<(&'static str, String)>) -> Known {
        let handle = picture.handle;
        if picture.gap != Some(Gap::Busy) {
            wrongs.extend(check_kind(handle, picture.kind));
        }
        let kind = picture.kind.unwrap_or(Kind::Free);
        match picture.gap {
            Some(Gap::Flaw(flaw)) => {
                self.complete = false;
                wrongs.push(("flaw", flaw.0));
            }
            Some(Gap::Busy) => self.complete = false,
            None => {}
        }
        let (mut names, mut entries) = (Vec::new(), 0);
        for note in picture.found {
            match note {
                Note::Wrong(kind, text) => wrongs.push((kind, text)),
                Note::Name(name, entry) => names.push((String::from_utf8_lossy(&name).into_owned(), entry)),
                Note::Page(offset) => self.reach(offset),
                Note::Entry(offset) => {
                    entries += 1;
                    offset.into_iter().for_each(|offset| self.reach(offset));
                }
            }
        }
        let counted = matches!(kind, Kind::Map | Kind::Folder | Kind::Queue);
        if let Some(shape) = picture.at_once.filter(|shape| counted && shape.count != entries) {
            wrongs.push(("count", format!("it says that it has {} entries, and has {entries}", shape.count)));
        }
        Known { handle, kind, names, wrongs }
    }
}

impl Walk {
    /// Marks a block that may or may not be where it was seen.
    pub fn pass(&mut self, offset: Offset) {
        self.reached.set(offset);
    }

    pub fn reach(&mut self, offset: Offset) {
        if !self.reached.set(offset) && self.wrongs.len() < MOST_BLOCKS {
            let text = "more than one object, or one of them twice, is made of it".to_owned();
            self.wrongs.push(Wrong { place: Place::Block(offset), kind: "shared", text });
        }
    }
}

/// An entry that is no object, and that nobody is making one of: nearly all of them.
fn is_quietly_free(object: &Object) -> bool {
    Kind::of(object.identity.load(SeqCst)) == Some(Kind::Free) && object.seq.load(SeqCst) & 1 == 0
}

/// The paths of what the folders name. Folders that the root does not lead to in as many steps as there can be, or by names that
/// are some, are named by their numbers: paths are no longer than they can be, whatever leads to what.
fn paths(known: &[Known]) -> HashMap<Handle, Vec<String>> {
    let mut paths: HashMap<Handle, Vec<String>> = HashMap::new();
    let folders: HashMap<Handle, &Known> =
        known.iter().filter(|known| known.kind == Kind::Folder).map(|known| (known.handle, known)).collect();
    let root = folders.values().find(|folder| folder.handle.index == ROOT_OBJECT);
    let mut level: Vec<(String, &Known)> = root.map(|root| (String::new(), *root)).into_iter().collect();
    let mut met: HashSet<Handle> = level.iter().map(|(_, folder)| folder.handle).collect();
    for _ in 0..=MAX_DEPTH {
        let mut next = Vec::new();
        for (path, folder) in level {
            for (name, entry) in &folder.names {
                let below = format!("{path}/{name}");
                // However often it is named, what is in it is named once.
                let folder = folders.get(&entry.handle).filter(|_| is_name(name.as_bytes()));
                if let Some(folder) = folder.filter(|_| met.insert(entry.handle)) {
                    next.push((below.clone(), *folder));
                }
                paths.entry(entry.handle).or_default().push(below);
            }
        }
        level = next;
    }
    for (_, too_deep) in level {
        met.remove(&too_deep.handle);
    }
    for folder in folders.values().filter(|folder| !met.contains(&folder.handle)) {
        for (name, entry) in &folder.names {
            let path = format!("(folder {})/{name}", folder.handle.index);
            paths.entry(entry.handle).or_default().push(path);
        }
    }
    paths
}

fn check_kind(handle: Handle, kind: Option<Kind>) -> Option<(&'static str, String)> {
    let Handle { index, generation } = handle;
    let expected = match index {
        HEAP_OBJECT => Some(Kind::Heap),
        ROOT_OBJECT => Some(Kind::Folder),
        _ => None,
    };
    match (expected, kind) {
        (_, None) => Some(("kind", "it is of a kind that does not exist".to_owned())),
        (None, Some(Kind::Heap)) => Some(("kind", "it says that it is the heap, and is not".to_owned())),
        (Some(expected), Some(kind)) if kind != expected || generation != 0 => {
            Some(("kind", format!("it is generation {generation} of {kind}, and must be the {expected}")))
        }
        _ => None,
    }
}

/// Lock and sequence word of one entry.
fn check_entry(region: &Region, index: u32, object: &Object) -> Vec<(&'static str, String)> {
    let mut wrongs = Vec::new();
    let seq = object.seq.load(SeqCst);
    let word = object.lock.load(SeqCst);
    if word == 0 {
        if seq & 1 == 1 && object.seq.load(SeqCst) == seq {
            wrongs.push(("odd", "it is said to be changed just now, and nobody has its lock".to_owned()));
        }
        return wrongs;
    }
    let Some(holder) = lock::owner_of(word) else {
        let what = if word == WAITERS {
            "somebody waits for its lock, and nobody has it"
        } else {
            "its lock names nobody"
        };
        wrongs.push(("lock", format!("{what}: {word:#x}")));
        return wrongs;
    };
    let slot = region.slot(holder.slot);
    let present = slot.is_some_and(|slot| may_hold(slot, holder.generation));
    let listed = slot.is_some_and(|slot| slots::held(slot).any(|held| held == index));
    if object.lock.load(SeqCst) & !WAITERS != word & !WAITERS {
        return wrongs;
    }
    if !present {
        wrongs.push(("lock", format!("its lock is held by {holder}, which is nobody now")));
    } else if !listed {
        wrongs.push(("unlisted", format!("its lock is held by {holder}, whose list of locks lacks it")));
    }
    wrongs
}

fn may_hold(slot: &Slot, generation: common::ids::Generation) -> bool {
    let (present, state) = slot.standing();
    present == generation && state != Some(State::Free)
}

/// One step through an object: a bucket with its pages, its entries and their blocks; a queue's items; a blob's chunks.
fn check_step(region: &Region, survey: &Survey<'_>, number: u64, parts: &[Part<'_>], notes: &mut Vec<Note>) {
    let mut keys = HashSet::new();
    for part in parts {
        match part {
            Part::Page(offset) => {
                let block = check_block(region, survey, *offset, PAGE_SIZE as usize, notes);
                notes.extend(block.map(Note::Page));
            }
            Part::Piece(piece) => {
                let block = check_block(region, survey, piece.offset, piece.size, notes);
                let is_item = survey.kind().is_some_and(Kind::has_items);
                if is_item && !piece.is_filled_up() {
                    notes
                        .push(Note::Wrong("fill", format!("behind the item at {} {UNFILLED}", piece.offset)));
                }
                notes.push(match block {
                    Some(offset) if !is_item => Note::Page(offset),
                    block => Note::Entry(block),
                });
            }
            Part::Item(item) => {
                let block = check_block(region, survey, item.offset(), item.bytes(), notes);
                notes.push(Note::Entry(block));
                let key = item.key();
                if let Some(what) = survey.misplaced(item, &key, number) {
                    notes.push(Note::Wrong("place", format!("the entry {} {what}", shown(&key))));
                }
                if !item.is_filled_up() {
                    notes.push(Note::Wrong("fill", format!("behind the entry {} {UNFILLED}", shown(&key))));
                }
                if survey.kind() == Some(Kind::Folder) {
                    check_name(region, survey, item, &key, notes);
                }
                if !keys.insert(key) {
                    notes.push(Note::Wrong("twice", format!("bucket {number} has a key twice")));
                }
            }
        }
    }
}

/// The block at `offset`, if there is one that has so many bytes.
fn check_block(
    region: &Region,
    survey: &Survey<'_>,
    offset: Offset,
    bytes: usize,
    notes: &mut Vec<Note>,
) -> Option<Offset> {
    let Some(block) = heap::block_at(region, offset) else {
        let text = format!("it has something at {offset}, where no block begins");
        notes.push(Note::Wrong("no block", text));
        return None;
    };
    if block.size < bytes {
        let text = format!("it has {bytes} bytes at {offset}, in a block of {}", block.size);
        notes.push(Note::Wrong("small block", text));
    }
    let state = survey.before.quarter(block.state_offset, block.state);
    if state != USED {
        let text = format!("it is made of the block at {offset}, whose state is {state}, not in use");
        notes.push(Note::Wrong("state", text));
    }
    Some(offset)
}

/// A folder's entry: a name, and an object that is what the folder says.
fn check_name(region: &Region, survey: &Survey<'_>, item: &Item<'_>, key: &[u8], notes: &mut Vec<Note>) {
    let name = shown(key);
    if !is_name(key) {
        notes.push(Note::Wrong("name", format!("{name} is no name")));
    }
    let Some(entry) = item.named() else {
        return notes.push(Note::Wrong("entry", format!("what {name} stands for cannot be read")));
    };
    let out_of_place = survey.handle().index == ROOT_OBJECT && entry.kind != Kind::Folder;
    if out_of_place || !entry.kind.is_named() {
        notes.push(Note::Wrong("named kind", format!("{name} stands for a {}", entry.kind)));
    }
    let there = Survey::of(region, entry.handle.index, survey.before);
    if there.is_none_or(|there| (there.handle(), there.kind()) != (entry.handle, Some(entry.kind))) {
        let Handle { index, generation } = entry.handle;
        let text = format!(
            "{name} stands for generation {generation} of object {index}, a {}, which is not there",
            entry.kind
        );
        notes.push(Note::Wrong("dangling", text));
    }
    notes.push(Note::Name(key.to_vec(), entry));
}

fn shown(key: &[u8]) -> String {
    const MOST: usize = 64;
    let text = String::from_utf8_lossy(&key[..key.len().min(MOST)]);
    format!("{text:?}")
}
