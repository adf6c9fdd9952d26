//! What a region means, without how it is laid out: to be compared with what it should mean.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use common::layout::Counters;
use common::objects::{Folder, Handle, Kind, ROOT_OBJECT};
use common::region::Region;
use common::tally::{self, Sent};

use crate::arena::Arena;

/// What an object holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A map's entries, and how many it says that it has.
    Map(BTreeMap<Vec<u8>, Vec<u8>>, u64),
    /// A counter's value.
    Counter(u64),
    /// A queue's items, and how many it says that it has.
    Queue(Vec<Vec<u8>>, u64),
    /// What is in a blob.
    Blob(Vec<u8>),
    /// An object that was being changed.
    Hidden,
}

/// Folders by their paths, with their objects by name.
pub type Folders = BTreeMap<String, BTreeMap<String, Content>>;

/// Everything that a region and its journal say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    pub folders: Folders,
    pub users: BTreeMap<String, Sent>,
    /// For each slot its counters.
    pub counters: Vec<[u64; 8]>,
    /// User and message of each record of the journal.
    pub records: Vec<(String, String)>,
}

impl Model {
    /// Reads it.
    pub fn read(arena: &Arena) -> Result<Self, String> {
        let region = &arena.region;
        Ok(Self {
            folders: folders(region)?,
            users: tally::totals(region).map_err(|error| error.to_string())?.users,
            counters: region.slots().map(|(_, slot)| values(&slot.published)).collect(),
            records: records(&arena.whole_journal()?)?,
        })
    }

    /// A map's entries, for what an operation should do to them.
    pub fn map(&mut self, folder: &str, name: &str) -> &mut BTreeMap<Vec<u8>, Vec<u8>> {
        let empty = Content::Map(BTreeMap::new(), 0);
        let objects = self.folders.entry(folder.to_owned()).or_default();
        match objects.entry(name.to_owned()).or_insert(empty) {
            Content::Map(entries, _) => entries,
            _ => panic!("{name} is no map"),
        }
    }

    /// A counter's value likewise.
    pub fn counter(&mut self, folder: &str, name: &str) -> &mut u64 {
        let objects = self.folders.entry(folder.to_owned()).or_default();
        match objects.entry(name.to_owned()).or_insert(Content::Counter(0)) {
            Content::Counter(value) => value,
            _ => panic!("{name} is no counter"),
        }
    }

    /// A queue's items likewise.
    pub fn queue(&mut self, folder: &str, name: &str) -> &mut Vec<Vec<u8>> {
        let objects = self.folders.entry(folder.to_owned()).or_default();
        match objects.entry(name.to_owned()).or_insert(Content::Queue(Vec::new(), 0)) {
            Content::Queue(items, _) => items,
            _ => panic!("{name} is no queue"),
        }
    }

    /// What is in a blob likewise.
    pub fn blob(&mut self, folder: &str, name: &str) -> &mut Vec<u8> {
        let objects = self.folders.entry(folder.to_owned()).or_default();
        match objects.entry(name.to_owned()).or_insert(Content::Blob(Vec::new())) {
            Content::Blob(bytes) => bytes,
            _ => panic!("{name} is no blob"),
        }
    }

    /// After changes to the entries every map says how many it has, and every queue.
    pub fn recount(mut self) -> Self {
        for content in self.folders.values_mut().flat_map(BTreeMap::values_mut) {
            match content {
                Content::Map(entries, count) => *count = entries.len() as u64,
                Content::Queue(items, count) => *count = items.len() as u64,
                _ => {}
            }
        }
        self
    }

    /// Where this one and another differ first, for people.
    pub fn difference(&self, other: &Self) -> String {
        let names = |folders: &Folders| -> Vec<String> {
            let objects = folders
                .iter()
                .flat_map(|(folder, objects)| objects.keys().map(move |name| format!("{folder}/{name}")));
            objects.collect()
        };
        if names(&self.folders) != names(&other.folders) {
            return format!("objects {:?}, not {:?}", names(&self.folders), names(&other.folders));
        }
        let ours = self
            .folders
            .iter()
            .flat_map(|(folder, objects)| objects.iter().map(move |(name, content)| (folder, name, content)));
        for (folder, name, content) in ours {
            let others = &other.folders[folder][name];
            if content != others {
                return format!("{folder}/{name}: {}", content.difference(others));
            }
        }
        if self.users != other.users {
            return format!("users {:?}, not {:?}", self.users, other.users);
        }
        if self.records != other.records {
            return format!("records {:?}, not {:?}", self.records, other.records);
        }
        let slot = (0..self.counters.len()).find(|&slot| self.counters[slot] != other.counters[slot]);
        slot.map_or_else(String::new, |slot| {
            format!("slot {slot} counts {:?}, not {:?}", self.counters[slot], other.counters[slot])
        })
    }
}

impl Content {
    /// Whether this, once seen, is still there as `now`. Items of a queue that were in flight may be back beside the others.
    pub fn stays(&self, now: &Self) -> bool {
        match (self, now) {
            (Self::Queue(seen, _), Self::Queue(items, _)) => {
                seen.is_empty() || items.windows(seen.len()).any(|some| some == seen)
            }
            _ => self == now,
        }
    }

    fn difference(&self, other: &Self) -> String {
        let (Self::Map(ours, count), Self::Map(theirs, other_count)) = (self, other) else {
            return format!("{self:?}, not {other:?}");
        };
        let keys = ours.keys().chain(theirs.keys());
        let different = keys.filter(|&key| ours.get(key) != theirs.get(key));
        let shown =
            |entry: Option<&Vec<u8>>| entry.map_or("nothing".to_owned(), |value| format!("{value:x?}"));
        let texts = different.take(2).map(|key| {
            format!("{}: {}, not {}", key.escape_ascii(), shown(ours.get(key)), shown(theirs.get(key)))
        });
        format!("{} ({count} entries, not {other_count})", texts.collect::<Vec<_>>().join("; "))
    }
}

/// The values of counters.
pub fn values(counters: &Counters) -> [u64; 8] {
    std::array::from_fn(|index| counters.words[index].load(Relaxed))
}

/// The folders and what is in them, as far as nobody is changing it.
pub fn folders(region: &Region) -> Result<Folders, String> {
    let mut folders = Folders::new();
    if is_hidden(region, Handle { index: ROOT_OBJECT, generation: 0 }) {
        return Ok(folders);
    }
    let top = Folder::top(region).map_err(|error| format!("the folders: {error}"))?;
    let mut waiting: Vec<(String, Folder)> = top;
    while let Some((path, folder)) = waiting.pop() {
        let mut objects = BTreeMap::new();
        if is_hidden(region, folder.handle()) {
            continue;
        }
        let list = folder.list(region).map_err(|error| format!("folder {path}: {error}"))?;
        for (name, entry) in list {
            if entry.kind == Kind::Folder {
                let below = format!("{path}/{name}");
                let folder = Folder::open(region, &below).map_err(|error| format!("{below}: {error}"))?;
                waiting.push((below, folder));
                continue;
            }
            let content = content(region, folder, &name, entry.handle, entry.kind)
                .map_err(|error| format!("{path}/{name}: {error}"))?;
            objects.insert(name, content);
        }
        folders.insert(path, objects);
    }
    Ok(folders)
}

fn is_hidden(region: &Region, handle: Handle) -> bool {
    region.object(handle.index).is_none_or(|object| object.seq.load(Relaxed) & 1 == 1)
}

fn content(
    region: &Region,
    folder: Folder,
    name: &str,
    handle: Handle,
    kind: Kind,
) -> Result<Content, Box<dyn std::error::Error>> {
    if is_hidden(region, handle) {
        return Ok(Content::Hidden);
    }
    if kind == Kind::Counter {
        return Ok(Content::Counter(folder.open_counter(region, name)?.get(region)?));
    }
    if kind == Kind::Queue {
        let queue = folder.open_queue(region, name)?;
        return Ok(Content::Queue(queue.items(region)?, queue.len(region)?));
    }
    if kind == Kind::Blob {
        return Ok(Content::Blob(folder.open_blob(region, name)?.get(region)?));
    }
    let map = folder.open_map(region, name)?;
    let entries = map.entries(region)?;
    let count = entries.len();
    let entries: BTreeMap<_, _> = entries.into_iter().collect();
    if entries.len() != count {
        return Err("a key is there twice".into());
    }
    for (key, value) in entries.iter().take(16) {
        if map.get(region, key)?.as_ref() != Some(value) {
            return Err("a key that is there is not found".into());
        }
    }
    Ok(Content::Map(entries, map.len(region)?))
}

fn records(bytes: &[u8]) -> Result<Vec<(String, String)>, String> {
    let mut records = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let blank = line.iter().take_while(|byte| matches!(byte, b' ' | 0)).count();
        if blank == line.len() {
            continue;
        }
        let value: serde_json::Value = serde_json::from_slice(&line[blank..])
            .map_err(|error| format!("the journal has {}: {error}", line.escape_ascii()))?;
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        records.push((text("user"), text("message")));
    }
    Ok(records)
}
