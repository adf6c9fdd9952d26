//! What of a directory tree is on the disk for certain, what is only in the kernel's memory, and what may be found after the
//! machine went down: of everything that was not synced any part.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// A small generator, so that a seed is a run.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

type Names = BTreeMap<String, u64>;
type Contents = BTreeMap<u64, Rc<Vec<u8>>>;

/// Directories, by their paths from the root of the tree, and files by their inodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    pub names: BTreeMap<PathBuf, Names>,
    pub contents: Contents,
}

/// Sees a real tree. Holds every file open that it has seen, so that no inode is used again.
#[derive(Debug)]
pub struct Watcher {
    root: PathBuf,
    held: BTreeMap<u64, File>,
}

impl Watcher {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), held: BTreeMap::new() }
    }

    /// What is there now.
    pub fn look(&mut self) -> Tree {
        let mut tree = Tree::default();
        self.look_into(Path::new(""), &mut tree);
        tree
    }

    fn look_into(&mut self, directory: &Path, tree: &mut Tree) {
        let mut names = Names::new();
        for entry in std::fs::read_dir(self.root.join(directory)).unwrap() {
            let entry = entry.unwrap();
            let (name, path) = (entry.file_name().into_string().unwrap(), entry.path());
            let metadata = entry.metadata().unwrap();
            names.insert(name.clone(), metadata.ino());
            if metadata.is_dir() {
                self.look_into(&directory.join(name), tree);
                continue;
            }
            self.held.entry(metadata.ino()).or_insert_with(|| File::open(&path).unwrap());
            tree.contents.insert(metadata.ino(), Rc::new(std::fs::read(&path).unwrap()));
        }
        tree.names.insert(directory.to_owned(), names);
    }
}

/// A sync of a file or a directory that has been made.
#[derive(Clone, Debug)]
pub enum Synced {
    File(u64),
    Directory(PathBuf),
}

/// What is on the disk for certain.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub durable: Tree,
}

impl Disk {
    /// Everything that is there now.
    pub fn all_of(tree: &Tree) -> Self {
        Self { durable: tree.clone() }
    }

    pub fn sync(&mut self, what: &Synced, now: &Tree) {
        match what {
            Synced::File(inode) => {
                if let Some(content) = now.contents.get(inode) {
                    self.durable.contents.insert(*inode, Rc::clone(content));
                }
            }
            Synced::Directory(path) => {
                let names = now.names.get(path).cloned().unwrap_or_default();
                self.durable.names.insert(path.clone(), names);
            }
        }
    }

    /// A tree that may be found: what is certain, and of the rest what the dice say. `all`: everything or nothing of it.
    pub fn found(&self, now: &Tree, all: Option<bool>, dice: &mut Dice) -> Tree {
        let mut found = Tree::default();
        let keep = |dice: &mut Dice| all.unwrap_or_else(|| dice.below(2) == 0);
        let mut waiting = vec![PathBuf::new()];
        while let Some(path) = waiting.pop() {
            let empty = Names::new();
            let (durable, volatile) =
                (self.durable.names.get(&path).unwrap_or(&empty), now.names.get(&path).unwrap_or(&empty));
            let mut names = Names::new();
            for group in groups(durable, volatile) {
                let from = if keep(dice) { volatile } else { durable };
                names.extend(group.iter().filter_map(|name| Some((name.clone(), *from.get(name)?))));
            }
            for (name, inode) in &names {
                let below = path.join(name);
                if now.names.contains_key(&below) || self.durable.names.contains_key(&below) {
                    waiting.push(below);
                } else {
                    let content = self.content(*inode, now, all, dice);
                    found.contents.insert(*inode, Rc::new(content));
                }
            }
            found.names.insert(path, names);
        }
        found
    }

    /// Page by page what is certain or what was written since; beyond the certain end zeros, or nothing.
    fn content(&self, inode: u64, now: &Tree, all: Option<bool>, dice: &mut Dice) -> Vec<u8> {
        let certain = self.durable.contents.get(&inode).map(|content| content.to_vec()).unwrap_or_default();
        let Some(written) = now.contents.get(&inode) else { return certain };
        match all {
            Some(true) => return written.to_vec(),
            Some(false) => return certain,
            None => {}
        }
        if *written.as_slice() == *certain {
            return certain;
        }
        let length = match dice.below(3) {
            0 => certain.len(),
            1 => written.len(),
            _ => {
                certain.len().min(written.len())
                    + dice.below(certain.len().abs_diff(written.len()) as u64 + 1) as usize
            }
        };
        let mut content = vec![0; length];
        for (number, page) in content.chunks_mut(4096).enumerate() {
            let from: &[u8] = if dice.below(2) == 0 { &certain } else { written };
            let begin = (number * 4096).min(from.len());
            let part = &from[begin..(begin + page.len()).min(from.len())];
            page[..part.len()].copy_from_slice(part);
        }
        content
    }
}

/// Names that changed together: a file that is renamed has its former name or its new one, and never neither.
fn groups(durable: &Names, volatile: &Names) -> Vec<BTreeSet<String>> {
    let mut groups: Vec<(BTreeSet<String>, BTreeSet<u64>)> = Vec::new();
    for name in durable.keys().chain(volatile.keys()) {
        let inodes: BTreeSet<u64> =
            [durable.get(name), volatile.get(name)].into_iter().flatten().copied().collect();
        let (mut names, mut all) = (BTreeSet::from([name.clone()]), inodes);
        groups.retain(|(others, inodes)| {
            let apart = inodes.is_disjoint(&all) && !others.contains(name);
            if !apart {
                names.extend(others.iter().cloned());
                all.extend(inodes);
            }
            apart
        });
        groups.push((names, all));
    }
    groups.into_iter().map(|(names, _)| names).collect()
}

impl Tree {
    /// Makes it real below `root`, which is empty.
    pub fn make(&self, root: &Path) {
        let mut waiting = vec![PathBuf::new()];
        while let Some(path) = waiting.pop() {
            for (name, inode) in self.names.get(&path).into_iter().flatten() {
                let below = path.join(name);
                if self.names.contains_key(&below) {
                    std::fs::create_dir(root.join(&below)).unwrap();
                    waiting.push(below);
                } else {
                    std::fs::write(root.join(&below), self.contents[inode].as_slice()).unwrap();
                }
            }
        }
    }
}
