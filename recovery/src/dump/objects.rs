//! Folders, and the objects in them, as they stand. An object in the middle of a change is shown as it was before.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use common::ids::SlotIndex;
use common::layout::Slot;
use common::limits::MAX_DEPTH;
use common::objects::folder::Entry;
use common::objects::queue::End;
use common::objects::survey::{Before, Item, Part, Survey, is_name};
use common::objects::{self, Handle, Kind, ROOT_OBJECT, in_flight};
use common::region::Region;
use common::tally::{Row, Sent};
use common::undo::UndoLog;
use serde::Serialize;

use crate::picture::{self, Budget, Gap};

/// Everything that the object table has.
pub(super) struct Objects {
    pub folders: Vec<FolderDump>,
    pub unnamed: Vec<ObjectDump>,
    pub paths: Paths,
}

/// The objects' paths, by their entries in the object table.
#[derive(Default)]
pub(super) struct Paths(BTreeMap<u32, String>);

#[derive(Debug, Serialize)]
pub(super) struct FolderDump {
    name: String,
    #[serde(flatten)]
    object: ObjectDump,
    objects: Vec<NamedDump>,
}

#[derive(Debug, Serialize)]
struct NamedDump {
    name: String,
    #[serde(flatten)]
    object: ObjectDump,
}

#[derive(Debug, Serialize)]
pub(super) struct ObjectDump {
    kind: String,
    object: u32,
    generation: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    buckets: Option<u64>,
    /// Most items that a queue takes; 0 = any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    capacity: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entries: Option<Vec<EntryDump>>,
    /// A queue's items, the first one first.
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<Vec<Bytes>>,
    /// Items that were taken from a queue, in the order in which they were taken from it by each slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_flight: Option<Vec<TakenDump>>,
    /// What is in a blob.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Bytes>,
    /// Why not everything could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct EntryDump {
    key: Bytes,
    value: Bytes,
}

/// An item that belongs to a slot until it is finished or put back.
#[derive(Debug, Serialize)]
struct TakenDump {
    slot: u32,
    generation: u32,
    serial: u64,
    /// The end that it was taken from, and goes back to.
    end: &'static str,
    item: Bytes,
}

/// Text where the bytes are some without control characters, else their digits.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
enum Bytes {
    Text(String),
    Hex { hex: String },
}

/// What a user has sent.
#[derive(Debug, Serialize)]
pub(super) struct SentDump {
    pub messages: u64,
    pub bytes: u64,
}

/// A folder that is to be shown.
struct Waiting {
    path: String,
    handle: Handle,
    depth: usize,
}

/// How much may still be read: of names, and of everything.
struct Budgets {
    names: Budget,
    contents: Budget,
}

/// An object that a name stands for, or one of the two others.
struct Named {
    name: Vec<u8>,
    entry: Option<Entry>,
}

impl Objects {
    pub fn of(region: &Region) -> Self {
        let mut this = Self { folders: Vec::new(), unnamed: Vec::new(), paths: Paths::default() };
        this.paths.0.insert(ROOT_OBJECT, "/".to_owned());
        let mut budgets = Budgets { names: Budget::of(region), contents: Budget::of(region) };
        let root =
            Waiting { path: String::new(), handle: Handle { index: ROOT_OBJECT, generation: 0 }, depth: 0 };
        // The root has folders only: what else was scribbled there has no folder to be shown in.
        let mut waiting = this.named_in(region, &root, &mut budgets).1;
        while let Some(folder) = waiting.pop() {
            let (objects, folders) = this.named_in(region, &folder, &mut budgets);
            waiting.extend(folders);
            let object = ObjectDump::without_entries(region, folder.handle, &mut budgets.contents);
            this.folders.push(FolderDump { name: folder.path, object, objects });
        }
        this.folders.sort_by(|one, other| one.name.cmp(&other.name));
        for (handle, kind, _) in objects::all(region) {
            if kind != Kind::Heap && !this.paths.0.contains_key(&handle.index) {
                this.unnamed.push(ObjectDump::of(region, handle.index, &mut budgets.contents));
            }
        }
        this
    }

    /// What is in a folder: its objects, and the folders with their paths. Scribbled, one may stand in many folders: each
    /// is shown once. One that is deeper than a folder can be, or has a name that none can have, is shown as unnamed: else
    /// the paths could be longer than all the rest.
    fn named_in(
        &mut self,
        region: &Region,
        folder: &Waiting,
        budgets: &mut Budgets,
    ) -> (Vec<NamedDump>, Vec<Waiting>) {
        let (mut objects, mut folders) = (Vec::new(), Vec::new());
        let (path, depth) = (&folder.path, folder.depth + 1);
        for Named { name: bytes, entry } in names_in(region, folder.handle.index, &mut budgets.names) {
            let name = shown(&bytes);
            let Some(Entry { handle, kind }) = entry else { continue };
            if kind == Kind::Folder && (depth > MAX_DEPTH || !is_name(&bytes)) {
                continue;
            }
            let below = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            if !self.paths.add(handle, format!("/{below}")) {
                continue;
            }
            if kind == Kind::Folder {
                folders.push(Waiting { path: below, handle, depth });
            } else {
                let object = ObjectDump::of(region, handle.index, &mut budgets.contents);
                objects.push(NamedDump { name, object });
            }
        }
        objects.sort_by(|one, other| one.name.cmp(&other.name));
        (objects, folders)
    }

    /// What the users have sent, by the maps in the folder that they are kept in.
    pub fn users(&self, region: &Region) -> BTreeMap<String, SentDump> {
        let (mut users, mut budget) = (BTreeMap::new(), Budget::of(region));
        for map in
            self.folders.iter().filter(|folder| folder.name == "users").flat_map(|folder| &folder.objects)
        {
            if map.object.kind != Kind::Map.to_string() {
                continue;
            }
            for (user, value) in pairs(region, map.object.object, &mut budget).found {
                let sent = match map.name.as_str() {
                    "rows" => Row::read(&value).map(|row| row.sum(region)),
                    _ => Sent::read(&value),
                };
                if let Ok(Sent { messages, bytes }) = sent {
                    users.insert(shown(&user), SentDump { messages, bytes });
                }
            }
        }
        users
    }
}

impl Paths {
    fn add(&mut self, handle: Handle, path: String) -> bool {
        self.0.insert(handle.index, path).is_none()
    }

    /// How people call an object.
    pub fn name(&self, index: u32) -> String {
        self.0.get(&index).cloned().unwrap_or_else(|| match index {
            common::heap::HEAP_OBJECT => "the heap".to_owned(),
            _ => format!("object {index}"),
        })
    }
}

fn names_in(region: &Region, folder: u32, budget: &mut Budget) -> Vec<Named> {
    let picture = picture::read(region, folder, budget, |survey, _, parts, found| {
        if survey.kind() == Some(Kind::Folder) {
            found.extend(items(parts).map(|item| Named { name: item.key(), entry: item.named() }));
        }
        0
    });
    picture.found
}

fn items<'p, 'a>(parts: &'p [Part<'a>]) -> impl Iterator<Item = &'p Item<'a>> {
    parts.iter().filter_map(|part| if let Part::Item(item) = part { Some(item) } else { None })
}

fn pairs(region: &Region, index: u32, budget: &mut Budget) -> picture::Picture<(Vec<u8>, Vec<u8>)> {
    picture::read(region, index, budget, |_: &Survey<'_>, _, parts, found| {
        found.extend(items(parts).map(|item| (item.key(), item.value())));
        0
    })
}

/// What an object holds, as it is shown.
enum Content {
    Entry(Vec<u8>, Vec<u8>),
    Piece(Vec<u8>),
}

fn contents(region: &Region, index: u32, budget: &mut Budget) -> picture::Picture<Content> {
    picture::read(region, index, budget, |_: &Survey<'_>, _, parts, found| {
        found.extend(parts.iter().filter_map(|part| match part {
            Part::Page(_) => None,
            Part::Item(item) => Some(Content::Entry(item.key(), item.value())),
            Part::Piece(piece) => Some(Content::Piece(piece.bytes())),
        }));
        0
    })
}

/// The items of a queue that are in flight, as they were before an unfinished change.
fn taken_from(region: &Region, queue: Handle, budget: &mut Budget) -> Vec<TakenDump> {
    let of_slot = |(index, slot): (SlotIndex, &Slot)| {
        let before = UndoLog::of(region, index).map_or_else(Before::default, |log| Before::of(&log));
        let mut taken = in_flight::taken_before(region, index, &before);
        taken.retain(|taken| {
            let bytes = in_flight::size(region, taken).unwrap_or_default() as u64;
            taken.queue.handle() == queue && budget.spend(bytes)
        });
        taken.sort_by_key(|taken| taken.serial);
        let generation = slot.standing().0.0;
        taken.into_iter().map(move |taken| TakenDump {
            slot: index.0,
            generation,
            serial: taken.serial,
            end: if taken.end == End::Front { "front" } else { "back" },
            item: Bytes::of(in_flight::item(region, &taken).unwrap_or_default()),
        })
    };
    region.slots().flat_map(of_slot).collect()
}

impl FolderDump {
    pub fn write(&self, text: &mut String) {
        self.object.write(&format!("/{}", self.name), text);
        for NamedDump { name, object } in &self.objects {
            object.write(&format!("/{}/{name}", self.name), text);
        }
    }
}

impl ObjectDump {
    /// The object at `index` with everything in it.
    fn of(region: &Region, index: u32, budget: &mut Budget) -> Self {
        let picture = contents(region, index, budget);
        let (kind, handle) = (picture.kind, picture.handle);
        let is = |wanted: fn(Kind) -> bool| kind.is_some_and(wanted);
        let (is_map, is_queue, is_blob) = (is(Kind::has_buckets), is(Kind::has_items), is(Kind::has_chunks));
        let (mut entries, mut items, mut content) = (Vec::new(), Vec::new(), Vec::new());
        for found in picture.found {
            match found {
                Content::Entry(key, value) => {
                    entries.push(EntryDump { key: Bytes::of(key), value: Bytes::of(value) });
                }
                Content::Piece(bytes) if is_queue => items.push(Bytes::of(bytes)),
                Content::Piece(bytes) => content.extend(bytes),
            }
        }
        entries.sort_by(|one, other| one.key.cmp(&other.key));
        let number = |wanted: bool, of: fn(picture::Shape) -> u64| picture.at_once.filter(|_| wanted).map(of);
        let count = if is_queue { items.len() } else { entries.len() } as u64;
        Self {
            kind: kind.map_or_else(|| "unknown".to_owned(), |kind| kind.to_string()),
            object: index,
            generation: handle.generation,
            value: number(kind == Some(Kind::Counter), |shape| shape.count),
            count: number(is_map || is_queue, |shape| shape.count).or((is_map || is_queue).then_some(count)),
            buckets: number(is_map, |shape| shape.extent),
            capacity: number(is_queue, |shape| shape.extent),
            entries: is_map.then_some(entries),
            items: is_queue.then_some(items),
            in_flight: (kind == Some(Kind::Queue)).then(|| taken_from(region, handle, budget)),
            content: is_blob.then(|| Bytes::of(content)),
            error: picture.gap.map(|gap| match gap {
                Gap::Busy => "it was being changed all the time".to_owned(),
                Gap::Flaw(flaw) => flaw.0,
            }),
        }
    }

    /// A folder, whose entries are shown as objects.
    fn without_entries(region: &Region, handle: Handle, budget: &mut Budget) -> Self {
        Self { entries: None, ..Self::of(region, handle.index, budget) }
    }

    pub fn write(&self, path: &str, text: &mut String) {
        let Self { kind, object, generation, value, count, buckets, capacity, error, .. } = self;
        let _ = write!(text, "{path}: {kind}, object {object} generation {generation}");
        let counted = if self.items.is_some() { "items" } else { "entries" };
        let in_flight = self.in_flight.as_ref().map(|taken| taken.len() as u64);
        let bytes = self.content.as_ref().map(Bytes::length);
        let numbers = [
            ("value", value),
            (counted, count),
            ("buckets", buckets),
            ("at most", &capacity.filter(|capacity| *capacity != 0)),
            ("in flight", &in_flight),
            ("bytes", &bytes),
        ];
        for (name, number) in numbers {
            if let Some(number) = number {
                let _ = write!(text, ", {number} {name}");
            }
        }
        if let Some(error) = error {
            let _ = write!(text, ", not all of it could be read: {error}");
        }
        text.push('\n');
    }
}

impl Bytes {
    fn length(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Hex { hex } => hex.len() as u64 / 2,
        }
    }

    fn of(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) if !text.contains(char::is_control) => Self::Text(text),
            Ok(text) => Self::hex(text.as_bytes()),
            Err(error) => Self::hex(error.as_bytes()),
        }
    }

    fn hex(bytes: &[u8]) -> Self {
        let mut hex = String::with_capacity(bytes.len() * 2);
        for byte in bytes {
            let _ = write!(hex, "{byte:02x}");
        }
        Self::Hex { hex }
    }
}

/// A name for people's eyes: no control characters, whatever was scribbled there.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_text_where_they_are_some() {
        let json = |bytes: &[u8]| serde_json::to_string(&Bytes::of(bytes.to_vec())).unwrap();
        assert_eq!(json("zoë".as_bytes()), "\"zoë\"");
        assert_eq!(json(b""), "\"\"");
        assert_eq!(json(b"a\n"), "{\"hex\":\"610a\"}");
        assert_eq!(json(b"\xff\x00"), "{\"hex\":\"ff00\"}");
    }
}
