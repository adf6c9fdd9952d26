//! A writer's intent, and what repair makes of it.
//!
//! The order of a record's life: sequence number, intent without an offset, range claimed, intent with its offset,
//! bytes written, commit, intent cleared. A death before the offset is known leaves at most a hole that nobody owns
//! (sealing turns it into blanks); a death after it leaves a range that repair decides about by reading it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::compiler_fence;

use crate::ids::{Minute, Owner};
use crate::journal::record::{self, RecordId};
use crate::journal::spool::Spool;
use crate::layout::{Intent, NO_OFFSET};
use crate::limits::{MAX_MINUTE_FILE, MAX_RECORD};
use crate::sys::file;

/// What becomes of a dead owner's transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its record stands whole: commit.
    Forward,
    /// It has no record: undo.
    Back,
}

impl Intent {
    /// Owner: takes the next sequence number, which is never used again, whatever becomes of the record.
    pub fn next_seq(&self) -> u64 {
        let seq = self.seq.load(Relaxed).wrapping_add(1);
        self.seq.store(seq, Release);
        seq
    }

    /// Owner: announces a record of `len` bytes in `minute`. From here on the minute is not sealed.
    pub fn announce(&self, minute: Minute, len: u64) {
        self.len.store(len, Relaxed);
        self.off.store(NO_OFFSET, Relaxed);
        // The intent is in force from this store on; what it says must stand before. SeqCst against the keeper, who
        // closes the minute and then looks for intents, while the writer announces and then looks for closing.
        compiler_fence(SeqCst);
        self.minute.store(minute.0, SeqCst);
    }

    /// Owner: the range is claimed.
    pub fn place(&self, offset: u64) {
        compiler_fence(SeqCst);
        self.off.store(offset, Release);
        compiler_fence(SeqCst);
    }

    /// Owner after commit, or repair: nothing is intended.
    pub fn clear(&self) {
        compiler_fence(SeqCst);
        self.minute.store(0, SeqCst);
    }

    /// Whether the intent keeps `minute` and what follows from being sealed.
    pub fn holds_up_to(&self, minute: Minute) -> bool {
        let named = self.minute.load(SeqCst);
        named != 0 && named <= minute.0
    }

    /// Repair: reads the file and decides. What is not whole is turned into blanks, so that it can never become
    /// whole; asked again, the verdict is the same.
    ///
    /// # Errors
    /// What the file system reports; an intent that no writer makes (`InvalidData`), also one whose range another's record is in:
    /// nothing is blanked then.
    pub fn decide(&self, spool: &Spool, epoch: u64, owner: Owner) -> io::Result<Verdict> {
        match self.find(spool, epoch, owner)? {
            Found::Nothing => Ok(Verdict::Back),
            Found::Whole => Ok(Verdict::Forward),
            Found::Other { off, len } => {
                let text =
                    format!("the journal intent names {len} bytes at {off}, where another's record is");
                Err(io::Error::new(io::ErrorKind::InvalidData, text))
            }
            Found::Torn { file, off, len } => {
                blank(&file, off, len)?;
                Ok(Verdict::Back)
            }
        }
    }

    /// Repair where the minute is sealed already: the same verdict, but a sealed file is not written any more.
    ///
    /// # Errors
    /// As [`Intent::decide`].
    pub fn read_verdict(&self, spool: &Spool, epoch: u64, owner: Owner) -> io::Result<Verdict> {
        Ok(match self.find(spool, epoch, owner)? {
            Found::Whole => Verdict::Forward,
            Found::Nothing | Found::Torn { .. } | Found::Other { .. } => Verdict::Back,
        })
    }

    fn find(&self, spool: &Spool, epoch: u64, owner: Owner) -> io::Result<Found> {
        let minute = Minute(self.minute.load(Acquire));
        let off = self.off.load(Acquire);
        if minute.0 == 0 || off == NO_OFFSET {
            return Ok(Found::Nothing);
        }
        let len = self.len.load(Acquire);
        if len > MAX_RECORD as u64 || off > MAX_MINUTE_FILE - len {
            let text = format!("the journal intent names {len} bytes at {off}, which is impossible");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let file = match spool.open_minute(minute) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            opened => opened?,
        };
        let id = RecordId { epoch, owner, seq: self.seq.load(Acquire) };
        let bytes = read_up_to(&file, off, len as usize)?;
        Ok(match record::is_whole(&bytes, id) {
            true => Found::Whole,
            false if is_torn(&bytes, len as usize, id) => Found::Torn { file, off, len },
            false if spool.lock_is_ours(minute)? => Found::Other { off, len },
            // A minute of another program's, in another spool than the one that was written to.
            false => Found::Nothing,
        })
    }
}

/// What stands where an intent's record should.
enum Found {
    /// There is no range, or no file.
    Nothing,
    /// The record.
    Whole,
    /// A part of it, or blanks.
    Torn { file: File, off: u64, len: u64 },
    /// What its owner has not written.
    Other { off: u64, len: u64 },
}

/// Whether a range of `len` bytes has nothing but a part of this record, or what an earlier repair was making of that. The file
/// may end before the range does.
///
/// A record is written from its beginning, and so is it blanked. So without its last byte, its only newline, it ends with what
/// was never written, or all of it is blank. Another's record that stands in the range or reaches into it is not taken for it:
/// its newline is there, or it goes on behind the range, and no NUL stands in a record.
fn is_torn(bytes: &[u8], len: usize, id: RecordId) -> bool {
    if bytes.iter().all(|&byte| byte == b' ') {
        return true;
    }
    let begins = format!(r#"{{"id":"{id}","#).into_bytes();
    let written = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    let ours = written.starts_with(b" ") || written.starts_with(&begins) || begins.starts_with(written);
    let ends_unwritten = bytes.len() < len || bytes.ends_with(&[0]);
    ours && ends_unwritten && !bytes.contains(&b'\n')
}

fn read_up_to(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Fills a range with spaces, which are valid before any JSON value.
///
/// # Errors
/// What pwrite reports.
pub fn blank(file: &File, offset: u64, length: u64) -> io::Result<()> {
    const SPACES: [u8; 16 * 1024] = [b' '; 16 * 1024];
    let mut done = 0;
    while done < length {
        let part = (length - done).min(SPACES.len() as u64);
        file::write_whole_at(file, &SPACES[..part as usize], offset + done)?;
        done += part;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Generation, Pid, SlotIndex};
    use crate::journal::names::lock_name;
    use crate::journal::record::Record;
    use crate::layout::Slot;
    use crate::region::Region;

    const EPOCH: u64 = 9;
    const MINUTE: Minute = Minute(100);

    struct Scene {
        _directory: tempfile::TempDir,
        spool: Spool,
        region: Region,
        owner: Owner,
        line: Vec<u8>,
    }

    impl Scene {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let spool = Spool::open_or_create(directory.path()).unwrap();
            drop(spool.take().unwrap());
            spool.create_minute(MINUTE).unwrap();
            let region = Region::create(&tempfile::tempfile().unwrap(), 1 << 20).unwrap();
            let owner = Owner { slot: SlotIndex(1), generation: Generation(4) };
            let mut line = Vec::new();
            let id = RecordId { epoch: EPOCH, owner, seq: 1 };
            Record { id, time_ns: 1, pid: Pid(1), user: "u", message: "m" }.encode(&mut line);
            Self { _directory: directory, spool, region, owner, line }
        }

        fn slot(&self) -> &Slot {
            self.region.slot(self.owner.slot).unwrap()
        }

        fn decide(&self) -> Verdict {
            self.slot().intent.decide(&self.spool, EPOCH, self.owner).unwrap()
        }

        fn write(&self, bytes: &[u8], offset: u64) {
            file::write_whole_at(&self.spool.open_minute(MINUTE).unwrap(), bytes, offset).unwrap();
        }
    }

    #[test]
    fn no_intent_and_no_offset_go_back() {
        let scene = Scene::new();
        assert_eq!(scene.decide(), Verdict::Back);
        assert_eq!(scene.slot().intent.next_seq(), 1);
        scene.slot().intent.announce(MINUTE, scene.line.len() as u64);
        assert_eq!(scene.decide(), Verdict::Back);
    }

    #[test]
    fn every_torn_prefix_goes_back_and_is_blanked_and_the_whole_goes_forward() {
        for written in 0..=Scene::new().line.len() {
            let scene = Scene::new();
            let len = scene.line.len();
            scene.slot().intent.next_seq();
            scene.slot().intent.announce(MINUTE, len as u64);
            scene.slot().intent.place(7);
            scene.write(&scene.line[..written], 7);
            let expected = if written == len { Verdict::Forward } else { Verdict::Back };
            assert_eq!(scene.decide(), expected, "{written}");
            assert_eq!(scene.decide(), expected, "asked again at {written}");
            let bytes = read_up_to(&scene.spool.open_minute(MINUTE).unwrap(), 7, len).unwrap();
            let blanked = bytes.iter().all(|&byte| byte == b' ') && bytes.len() == len;
            assert_eq!(blanked, expected == Verdict::Back);
        }
    }

    #[test]
    fn another_owners_record_is_not_ours_and_stays_wherever_an_intent_points() {
        let scene = Scene::new();
        let (intent, len) = (&scene.slot().intent, scene.line.len() as u64);
        // Sequence number 1 is not 2.
        intent.next_seq();
        intent.next_seq();
        scene.write(&[&scene.line[..], b"   ", &scene.line].concat(), 0);
        let content = || read_up_to(&scene.spool.open_minute(MINUTE).unwrap(), 0, 3 * len as usize).unwrap();
        let before = content();
        for (off, length) in
            [(0, len), (0, len + 3), (1, len), (len - 1, 1), (len - 1, 5), (len, len), (len, len + 3)]
                .into_iter()
                .chain((0..len - 20).map(|off| (off, 20)))
        {
            intent.announce(MINUTE, length);
            intent.place(off);
            let refused = intent.decide(&scene.spool, EPOCH, scene.owner).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "{length} bytes at {off}");
            assert_eq!(intent.read_verdict(&scene.spool, EPOCH, scene.owner).unwrap(), Verdict::Back);
        }
        assert!(content() == before);
    }

    #[test]
    fn nothing_of_ours_is_in_another_programs_minute() {
        let scene = Scene::new();
        let (intent, len) = (&scene.slot().intent, scene.line.len() as u64);
        scene.write(&scene.line, 0);
        intent.next_seq();
        intent.announce(MINUTE, len - 1);
        intent.place(1);
        scene.spool.remove_lock(MINUTE).unwrap();
        assert_eq!(scene.decide(), Verdict::Back);
        let mut lock = scene.spool.open_or_create_file(&lock_name(MINUTE)).unwrap();
        io::Write::write_all(&mut lock, b"another's").unwrap();
        assert_eq!(scene.decide(), Verdict::Back);
        let content = read_up_to(&scene.spool.open_minute(MINUTE).unwrap(), 0, len as usize + 1).unwrap();
        assert_eq!(content, scene.line);
    }

    #[test]
    fn whatever_a_death_leaves_of_a_record_or_of_its_blanks_is_torn() {
        let Scene { line, owner, .. } = Scene::new();
        let id = RecordId { epoch: EPOCH, owner, seq: 1 };
        for written in 0..line.len() {
            for blanked in 0..=line.len() {
                let mut bytes = line.clone();
                bytes[written..].fill(0);
                bytes[..blanked].fill(b' ');
                assert!(is_torn(&bytes, line.len(), id), "{written} {blanked}");
                // The file may end there.
                assert!(is_torn(&bytes[..written.max(blanked)], line.len(), id), "{written} {blanked}");
            }
        }
        assert!(!is_torn(&line, line.len(), id));
        let other = RecordId { seq: 2, ..id };
        (9..line.len()).for_each(|cut| assert!(!is_torn(&line[..cut], cut, other), "{cut}"));
    }

    #[test]
    fn an_impossible_intent_is_an_error_and_a_missing_file_goes_back() {
        let scene = Scene::new();
        scene.slot().intent.announce(Minute(77), 10);
        scene.slot().intent.place(0);
        assert_eq!(scene.decide(), Verdict::Back);
        for (len, off) in [(u64::MAX, 0), (MAX_RECORD as u64 + 1, 0), (1, u64::MAX - 1)] {
            scene.slot().intent.announce(MINUTE, len);
            scene.slot().intent.place(off);
            assert!(scene.slot().intent.decide(&scene.spool, EPOCH, scene.owner).is_err());
        }
    }
}
