//! The mappings of this process: each region once, however many threads are attached to it.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Mutex, PoisonError};

use common::error::{Context as _, Result};
use common::ids::Pid;
use common::region::Region;

/// Which file, how, and whose: a child that was forked does not have its parent's mappings.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    process: Pid,
    device: u64,
    inode: u64,
    writable: bool,
}

static MAPPED: Mutex<Vec<(Key, &'static Region)>> = Mutex::new(Vec::new());

/// The region in this file, mapped into this process and none of its children. The mapping stays for the life of the
/// process: what was found in it may be referred to from anywhere.
///
/// # Errors
/// A file that is no region of this format (exit 4); what the kernel reports.
pub fn region(file: &File, writable: bool) -> Result<&'static Region> {
    let metadata = file.metadata().context(|| "cannot examine the region".to_owned())?;
    let (device, inode) = (metadata.dev(), metadata.ino());
    let key = Key { process: Pid::current(), device, inode, writable };
    let mut mapped = MAPPED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, region)) = mapped.iter().find(|(known, _)| *known == key) {
        return Ok(region);
    }
    let region = if writable { Region::attach(file)? } else { Region::attach_read_only(file)? };
    region.keep_from_children()?;
    let region: &'static Region = Box::leak(Box::new(region));
    mapped.push((key, region));
    Ok(region)
}
