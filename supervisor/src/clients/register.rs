//! `RUN/clients`: which process has which slot, for the next supervisor. Programs that are attached outlive this one.
//!
//! The file has a record of 64 bytes for each slot, and on the byte of the slot's index stands a kernel lock for as long
//! as the program keeps a descriptor that it was given with its slot. The lock says that somebody has the slot; the record
//! says who, so that a child which has inherited the descriptor is not taken for its parent, nor a program that has
//! closed it for a dead one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use common::ids::{Generation, Owner, Pid, SlotIndex};
use common::sys::file;
use common::sys::peer::{self, Process};

/// Bytes of a record. A power of two, so that none lies on two pages: then a write is there or not.
const RECORD: usize = 64;
/// Words of a record before its checksum.
const WORDS: usize = 5;

/// Who has a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Slot and generation.
    pub owner: Owner,
    /// The region's epoch.
    pub epoch: u64,
    /// Its process, and when that began.
    pub pid: Pid,
    /// See [`Process::began`].
    pub began: u64,
    /// The namespace in which the pid means it.
    pub namespace: u64,
}

/// What is known of a process in the register.
#[derive(Debug)]
pub enum Sign {
    /// It lives.
    Alive(Process),
    /// Somebody keeps its descriptor; whether it is the process itself cannot be told.
    Kept,
    /// It has ended.
    Gone,
}

/// The register.
#[derive(Debug)]
pub struct Register {
    file: File,
    namespace: u64,
}

impl Register {
    /// The register in this file.
    ///
    /// # Errors
    /// A pid namespace that cannot be read.
    pub fn new(file: File) -> io::Result<Self> {
        Ok(Self { file, namespace: peer::pid_namespace()? })
    }

    /// Writes down who has a slot from now on.
    ///
    /// # Errors
    /// What pwrite reports.
    pub fn enter(&self, owner: Owner, epoch: u64, process: &Process) -> io::Result<()> {
        let (pid, began, namespace) = (process.pid, process.began, self.namespace);
        let entry = Entry { owner, epoch, pid, began, namespace };
        file::write_whole_at(&self.file, &encode(&entry), place(owner.slot))
    }

    /// So many slots, from the first one on, may have been written down.
    pub fn written(&self) -> usize {
        // Where it cannot be told, all of them.
        self.file.metadata().map_or(usize::MAX, |about| about.len().div_ceil(RECORD as u64) as usize)
    }

    /// Who has a slot, as it was written down last.
    pub fn read(&self, slot: SlotIndex) -> Option<Entry> {
        let mut bytes = [0; RECORD];
        self.file.read_exact_at(&mut bytes, place(slot)).ok()?;
        decode(&bytes, slot)
    }

    /// A description of the file with the lock on the slot's byte, to be given to who has the slot. It cannot write.
    ///
    /// # Errors
    /// What open and fcntl report.
    pub fn lock(&self, slot: SlotIndex) -> io::Result<File> {
        let held = file::reopen_read_only(&self.file)?;
        file::lock_byte(&held, slot.0.into())?;
        Ok(held)
    }

    /// Whether somebody keeps the descriptor that came with a slot.
    pub fn is_kept(&self, slot: SlotIndex) -> bool {
        // Where it cannot be told, nothing is done to a slot that may be somebody's.
        file::is_byte_locked(&self.file, slot.0.into()).unwrap_or(true)
    }

    /// What is known of the process in an entry.
    pub fn look_for(&self, entry: &Entry) -> Sign {
        let known = entry.namespace == self.namespace && entry.began != 0;
        let found =
            if known { Process::find(entry.pid, entry.began) } else { Err(io::ErrorKind::Other.into()) };
        match found {
            Ok(Some(process)) => Sign::Alive(process),
            Ok(None) => Sign::Gone,
            Err(_) if self.is_kept(entry.owner.slot) => Sign::Kept,
            Err(_) => Sign::Gone,
        }
    }
}

fn place(slot: SlotIndex) -> u64 {
    u64::from(slot.0) * RECORD as u64
}

fn encode(entry: &Entry) -> [u8; RECORD] {
    let words = [
        u64::from(entry.owner.generation.0) << 32 | u64::from(entry.owner.slot.0),
        entry.epoch,
        entry.pid.0 as u64,
        entry.began,
        entry.namespace,
    ];
    let mut bytes = [0; RECORD];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    let checksum = u64::from(crc32c::crc32c(&bytes[..WORDS * 8])) | 1 << 32;
    bytes[WORDS * 8..][..8].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; RECORD], slot: SlotIndex) -> Option<Entry> {
    let word = |index: usize| u64::from_le_bytes(bytes[index * 8..][..8].try_into().unwrap_or_default());
    let checksum = u64::from(crc32c::crc32c(&bytes[..WORDS * 8])) | 1 << 32;
    if word(WORDS) != checksum || word(0) as u32 != slot.0 {
        return None;
    }
    Some(Entry {
        owner: Owner { slot, generation: Generation((word(0) >> 32) as u32) },
        epoch: word(1),
        pid: Pid(word(2) as i32),
        began: word(3),
        namespace: word(4),
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use common::sys::peer::Peer;

    use super::*;

    fn owner(slot: u32) -> Owner {
        Owner { slot: SlotIndex(slot), generation: Generation(u32::MAX - slot) }
    }

    fn myself() -> Process {
        let (one, _other) = UnixStream::pair().unwrap();
        Process::at(one.as_fd(), &Peer::of(one.as_fd()).unwrap()).unwrap()
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let register = Register::new(tempfile::tempfile().unwrap()).unwrap();
        register.enter(owner(3), 77, &myself()).unwrap();
        let entry = register.read(SlotIndex(3)).unwrap();
        assert_eq!((entry.owner, entry.epoch, entry.pid), (owner(3), 77, Pid::current()));
        assert!(matches!(register.look_for(&entry), Sign::Alive(process) if process.pid == Pid::current()));
        for slot in [0, 2, 4, 60_000] {
            assert_eq!(register.read(SlotIndex(slot)), None);
        }
        let mut bytes = encode(&entry);
        assert_eq!(decode(&bytes, SlotIndex(2)), None, "another slot's");
        for place in 0..(WORDS + 1) * 8 {
            bytes[place] ^= 1;
            assert_eq!(decode(&bytes, SlotIndex(3)), None, "byte {place}");
            bytes[place] ^= 1;
        }
    }

    #[test]
    fn a_process_that_cannot_be_known_is_there_while_its_byte_is_locked() {
        let place = tempfile::tempdir().unwrap();
        let directory = file::open_directory(place.path()).unwrap();
        let register = Register::new(file::open_in(&directory, "clients").unwrap()).unwrap();
        register.enter(owner(9), 1, &myself()).unwrap();
        let entry = Entry { namespace: 1, ..register.read(SlotIndex(9)).unwrap() };
        let held = register.lock(SlotIndex(9)).unwrap();
        assert!(matches!(register.look_for(&entry), Sign::Kept));
        drop(held);
        assert!(matches!(register.look_for(&entry), Sign::Gone));
        let later = Entry { began: 1, ..register.read(SlotIndex(9)).unwrap() };
        let _held = register.lock(SlotIndex(9)).unwrap();
        assert!(matches!(register.look_for(&later), Sign::Gone), "another process has the pid now");
    }
}
