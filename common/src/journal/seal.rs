//! Sealing: what a minute's file is when nobody writes it any more.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::ids::Minute;
use crate::journal::generated;
use crate::journal::intent::blank;
use crate::journal::spool::Spool;

/// Makes a minute immutable: its holes become blanks, the space reserved beyond its end goes back, it is on the disk,
/// its records are counted, `SPOOL/sealed` says so, and its lock is gone. A file without a record is removed. The caller has made sure that
/// nobody writes and that every earlier minute is sealed. Can be repeated from the start after a death anywhere.
///
/// # Errors
/// What the file system reports; the lock stays then.
pub fn seal(spool: &Spool, minute: Minute) -> io::Result<()> {
    match spool.open_minute(minute) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        file => {
            let file = file?;
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

/// Blanks what no record owns: holes, and what stands torn before a hole or at the end. Gives the length up to and
/// including the last newline.
fn mend(file: &File) -> io::Result<u64> {
    let mut chunk = vec![0; 1 << 20];
    let mut at = 0;
    let mut line_start = 0;
    loop {
        let count = match file.read_at(&mut chunk, at) {
            Ok(0) => return Ok(line_start),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count?,
        };
        line_start = mend_chunk(file, &chunk[..count], at, line_start)?;
        at += count as u64;
    }
}

/// Mends one chunk, which begins at `at`; gives where the last, perhaps unfinished line begins. A NUL stands in no
/// record, so all of a line up to its last NUL is torn: whole records begin after it.
fn mend_chunk(file: &File, chunk: &[u8], at: u64, mut line_start: u64) -> io::Result<u64> {
    let mut rest = 0;
    while let Some(found) = chunk[rest..].iter().position(|&byte| byte == 0) {
        let hole = rest + found;
        if let Some(newline) = chunk[rest..hole].iter().rposition(|&byte| byte == b'\n') {
            line_start = at + (rest + newline) as u64 + 1;
        }
        let end =
            chunk[hole..].iter().position(|&byte| byte != 0).map_or(chunk.len(), |length| hole + length);
        blank(file, line_start, at + end as u64 - line_start)?;
        rest = end;
    }
    match chunk[rest..].iter().rposition(|&byte| byte == b'\n') {
        Some(newline) => Ok(at + (rest + newline) as u64 + 1),
        None => Ok(line_start),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::spool::data_name;

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
}
