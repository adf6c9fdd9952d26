//! A directory with all that is in it: seen, and made again elsewhere.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Files by their inodes, since two names may be of one.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    directories: Vec<PathBuf>,
    names: BTreeMap<PathBuf, u64>,
    contents: HashMap<u64, Vec<u8>>,
}

impl Tree {
    /// What is in a directory now.
    pub fn of(root: &Path) -> io::Result<Self> {
        let mut tree = Self::default();
        tree.look_into(root, Path::new(""))?;
        Ok(tree)
    }

    fn look_into(&mut self, root: &Path, below: &Path) -> io::Result<()> {
        for entry in std::fs::read_dir(root.join(below))? {
            let entry = entry?;
            let (name, metadata) = (below.join(entry.file_name()), entry.metadata()?);
            if metadata.is_dir() {
                self.directories.push(name.clone());
                self.look_into(root, &name)?;
                continue;
            }
            if let Entry::Vacant(unseen) = self.contents.entry(metadata.ino()) {
                unseen.insert(std::fs::read(entry.path())?);
            }
            self.names.insert(name, metadata.ino());
        }
        Ok(())
    }

    /// Makes it in an empty directory.
    pub fn make(&self, root: &Path) -> io::Result<()> {
        self.directories.iter().try_for_each(|directory| std::fs::create_dir(root.join(directory)))?;
        let mut made: HashMap<u64, PathBuf> = HashMap::new();
        for (name, inode) in &self.names {
            let path = root.join(name);
            match made.get(inode) {
                Some(other) => std::fs::hard_link(other, &path)?,
                None => {
                    std::fs::write(&path, &self.contents[inode])?;
                    made.insert(*inode, path);
                }
            }
        }
        Ok(())
    }

    /// A number that is another for every other tree; of the file `without` nothing counts.
    pub fn fingerprint(&self, without: &Path) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (name, inode) in self.names.iter().filter(|(name, _)| *name != without) {
            (name, &self.contents[inode]).hash(&mut hasher);
        }
        hasher.finish()
    }
}
