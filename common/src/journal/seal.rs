//! Sealing: what a minute's file is when nobody writes it any more.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt as _};

use crate::ids::Minute;
use crate::journal::generated;
use crate::journal::intent::blank;
use crate::journal::spool::{Spool, data_name};
use crate::limits::{MAX_RECORD, MAX_SLOTS};

/// So many bytes of a minute's file may have no place on the disk. Whoever claims some has reserved them before; and were that
/// otherwise, on file systems that tell less than they have, it is what all slots together leave behind.
const MOST_UNRESERVED: u64 = MAX_SLOTS as u64 * MAX_RECORD as u64;

/// Makes a minute immutable: its holes become blanks, the space reserved beyond its end goes back, it is on the disk,
/// its records are counted, `SPOOL/sealed` says so, and its lock is gone. A file without a record is removed. The caller has made sure that
/// nobody writes and that every earlier minute is sealed. Can be repeated from the start after a death anywhere.
///
/// # Errors
/// What the file system reports; a file that somebody has made far longer than what was written to it: blanks would fill the
/// disk. The lock stays then.
pub fn seal(spool: &Spool, minute: Minute) -> io::Result<()> {
    match spool.open_minute(minute) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        file => {
            let file = file?;
            check_length(&file, minute)?;
            let length = mend(&file)?;
            // Also where the length stays the same: it gives the space reserved beyond it back.
            file.set_len(length)?;
            file.sync_all()?;
            if length == 0 {
                spool.remove_minute(minute)?;
            } else {
                generated::count(spool, minute, &file)?;
            }
        }
    }
    if spool.read_sealed()? < minute {
        spool.write_sealed(minute)?;
    }
    spool.remove_lock(minute)
}

fn check_length(file: &File, minute: Minute) -> io::Result<()> {
    const UNIT: u64 = 512;
    let metadata = file.metadata()?;
    let missing = metadata.len().saturating_sub(metadata.blocks().saturating_mul(UNIT));
    if missing <= MOST_UNRESERVED {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{missing} bytes of {} were never written, and no writer leaves so many; cut it behind its last record",
        data_name(minute)
    )))
}

/// Blanks what no record owns: holes, and what stands torn before a hole or at the end. Gives the length up to and
/// including the last newline.
fn mend(file: &File) -> io::Result<u64> {
    let mut chunk = vec![0; 1 << 20];
    let mut at = 0;
    let mut line = Line::default();
    loop {
        let count = match file.read_at(&mut chunk, at) {
            Ok(0) => return Ok(line.start),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count?,
        };
        line.mend(file, &chunk[..count], at)?;
        at += count as u64;
    }
}

/// The line that is being mended.
#[derive(Default)]
struct Line {
    start: u64,
    /// From its start it is blank up to here.
    blank_to: u64,
}

impl Line {
    /// Mends one chunk, which begins at `at`; the line is the last, perhaps unfinished one then. A NUL stands in no record,
    /// so all of a line up to its last NUL is torn: whole records begin after it.
    fn mend(&mut self, file: &File, chunk: &[u8], mut at: u64) -> io::Result<()> {
        for part in chunk.split_inclusive(|&byte| byte == b'\n') {
            if let Some(last) = part.iter().rposition(|&byte| byte == 0) {
                self.blank(file, at + last as u64 + 1)?;
            }
            at += part.len() as u64;
            if part.ends_with(b"\n") {
                self.start = at;
            }
        }
        Ok(())
    }

    /// Each byte once, however many holes the line has.
    fn blank(&mut self, file: &File, end: u64) -> io::Result<()> {
        let from = self.start.max(self.blank_to);
        self.blank_to = end;
        blank(file, from, end - from)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn sealed(content: &[u8]) -> Option<Vec<u8>> {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open_or_create(directory.path()).unwrap();
        drop(spool.take().unwrap());
        spool.create_minute(Minute(7)).unwrap();
        let path = directory.path().join(data_name(Minute(7)));
        std::fs::write(&path, content).unwrap();
        seal(&spool, Minute(7)).unwrap();
        seal(&spool, Minute(7)).unwrap();
        assert_eq!(spool.read_sealed().unwrap(), Minute(7));
        assert!(!directory.path().join("7.dat.lock").exists());
        std::fs::read(path).ok()
    }

    #[test]
    fn holes_and_what_is_torn_before_them_become_blanks() {
        let table: [(&[u8], Option<&[u8]>); 9] = [
            (b"{a}\n{b}\n", Some(b"{a}\n{b}\n")),
            (b"{a}\n\0\0\0{b}\n", Some(b"{a}\n   {b}\n")),
            (b"\0\0{a}\n", Some(b"  {a}\n")),
            (b"{a}\n{to\0\0{b}\n", Some(b"{a}\n     {b}\n")),
            (b"{a}\n{to\0\0   \0{b}\n{c}\n", Some(b"{a}\n         {b}\n{c}\n")),
            (b"{a}\n{torn at the end", Some(b"{a}\n")),
            (b"{a}\n    \0\0", Some(b"{a}\n")),
            (b"\0\0\0", None),
            (b"", None),
        ];
        for (content, expected) in table {
            assert_eq!(sealed(content).as_deref(), expected, "{:?}", String::from_utf8_lossy(content));
        }
    }

    #[test]
    fn holes_across_the_chunks_of_reading() {
        let filler = vec![b'x'; (1 << 20) - 10];
        let content = [&filler[..], b"\n{torn", &[0; 20], b"{a}\n"].concat();
        let mended = sealed(&content).unwrap();
        assert_eq!(mended.len(), content.len());
        assert!(!mended.contains(&0));
        assert_eq!(&mended[filler.len()..], [b"\n".as_slice(), &[b' '; 25], b"{a}\n"].concat());
    }
    /// The file alone is looked at: with such a one to seal, a failure would fill the disk.
    #[test]
    fn a_file_that_somebody_has_made_far_longer_than_what_was_written_is_refused() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"{a}\n", 0).unwrap();
        file.set_len(1 << 30).unwrap();
        check_length(&file, Minute(7)).unwrap();
        file.set_len(1 << 40).unwrap();
        let told = check_length(&file, Minute(7)).unwrap_err().to_string();
        assert!(told.contains("of 7.dat") && told.contains("cut it behind its last record"), "{told}");
    }

    /// Blanked again from its beginning at each hole, such a line would take longer than anybody waits.
    #[test]
    fn a_line_of_many_holes_takes_no_longer_than_its_bytes() {
        let began = Instant::now();
        let torn = b"x\0".repeat(1 << 18);
        let mended = sealed(&[b"{a}\n", &torn[..], b"{b}\n"].concat()).unwrap();
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert!(mended == [b"{a}\n", &vec![b' '; torn.len()][..], b"{b}\n"].concat());
    }
}
