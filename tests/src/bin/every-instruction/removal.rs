//! Objects that a process is using are deleted and renamed by another, before anybody knows that the first one is dead.

use std::sync::atomic::Ordering::Relaxed;

use common::heap::HEAP_OBJECT;
use common::objects::{Folder, ROOT_OBJECT};
use common::region::Region;
use common::txn::{Seat, TxnError};

use crate::arena::{Arena, SURVIVOR_AGAIN};
use crate::model::Model;
use crate::shop::Shop;

/// What was done to an object.
pub struct Removal {
    folder: &'static str,
    name: &'static str,
    renamed: bool,
}

/// The name that an object gets.
const ELSEWHERE: &str = "elsewhere";

/// What operations use. One of them is renamed, and goes on.
const USED: [(&str, &str, bool); 6] = [
    ("shop", "other", false),
    ("shop", "sold", true),
    ("mill", "text", true),
    ("mill", "jobs", false),
    ("mill", "narrow", true),
    ("mill", "empty", false),
];

impl Removal {
    /// Does the same to a model, where it has such an object.
    pub fn apply(&self, model: &mut Model) {
        let Some(objects) = model.folders.get_mut(self.folder) else { return };
        let removed = objects.remove(self.name).filter(|_| self.renamed);
        objects.extend(removed.map(|content| (format!("{ELSEWHERE} {}", self.name), content)));
    }
}

/// Deletes or renames whatever of it the actor has no lock of, nor of the folder that it is in.
pub fn remove_unlocked(arena: &Arena, shop: &Shop) -> Result<Vec<Removal>, String> {
    let region = &arena.region;
    let mut done = Vec::new();
    if !is_free(region, HEAP_OBJECT) || !is_free(region, ROOT_OBJECT) {
        return Ok(done);
    }
    let mut seat = arena.seat(SURVIVOR_AGAIN)?;
    for (folder_name, name, renamed) in USED {
        let folder = match (folder_name, &shop.mill) {
            ("shop", _) => shop.folder,
            (_, Some(mill)) => mill.folder,
            _ => continue,
        };
        if !is_free(region, folder.handle().index) {
            continue;
        }
        let list = folder.list(region).map_err(|error| format!("{folder_name}: {error}"))?;
        let Some((_, entry)) = list.into_iter().find(|(other, _)| other == name) else { continue };
        if !is_free(region, entry.handle.index) {
            continue;
        }
        match remove(&mut seat, folder, name, renamed) {
            Ok(()) => done.push(Removal { folder: folder_name, name, renamed }),
            // There is no room for another name.
            Err(TxnError::Full) if renamed => {}
            Err(error) => return Err(format!("{folder_name}/{name} cannot be removed: {error}")),
        }
    }
    seat.leave();
    Ok(done)
}

fn is_free(region: &Region, index: u32) -> bool {
    region
        .object(index)
        .is_some_and(|object| object.lock.load(Relaxed) == 0 && object.seq.load(Relaxed).is_multiple_of(2))
}

fn remove(seat: &mut Seat<'_>, folder: Folder, name: &str, renamed: bool) -> Result<(), TxnError> {
    let mut txn = seat.begin()?;
    if renamed {
        txn.rename(folder, name, folder, &format!("{ELSEWHERE} {name}"))?;
    } else {
        txn.delete(folder, name)?;
    }
    txn.commit()
}
