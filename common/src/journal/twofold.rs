//! A small text that is replaced whole and needs no room for it: a file with two copies, written in turn. The newer
//! one that is whole counts, so that a death within a write, of the process or of the machine, leaves the one before.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::sys::file;

/// A copy begins with its serial number, the length of the text and the check of all of it, in so many bytes.
const HEADER: usize = 20 + 1 + 10 + 1 + 8 + 1;

/// A file of two copies.
#[derive(Debug)]
pub struct Twofold {
    file: File,
    length: usize,
    serial: u64,
}

/// One copy, as it stands in the file.
#[derive(Debug, PartialEq, Eq)]
struct Copy {
    serial: u64,
    text: String,
}

impl Twofold {
    /// The text in force, if there is one, of a file whose copies have `length` bytes.
    ///
    /// # Errors
    /// What reading reports.
    pub fn read(file: &File, length: usize) -> io::Result<Option<String>> {
        Ok(Self::newest(file, length)?.map(|copy| copy.text))
    }

    /// Opens the file, gives it all the space that it will ever need, and gives the text in force.
    ///
    /// # Errors
    /// What reading and writing report.
    pub fn open(file: File, length: usize) -> io::Result<(Self, Option<String>)> {
        let newest = Self::newest(&file, length)?;
        let end = 2 * length as u64;
        let begun = file.metadata()?.len();
        if begun < end {
            let blanks = vec![b' '; (end - begun) as usize];
            file::write_whole_at(&file, &blanks, begun)?;
        }
        let serial = newest.as_ref().map_or(0, |copy| copy.serial);
        Ok((Self { file, length, serial }, newest.map(|copy| copy.text)))
    }

    /// The longest text.
    pub fn capacity(&self) -> usize {
        self.length - HEADER
    }

    /// Replaces the text, durably.
    ///
    /// # Errors
    /// What writing and fsync report; a text that is too long. Then the one before stays in force.
    pub fn write(&mut self, text: &str) -> io::Result<()> {
        if text.len() > self.capacity() {
            let text = format!("{} bytes do not fit into {}", text.len(), self.capacity());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let serial = self.serial + 1;
        let front = format!("{serial:020} {:010} ", text.len());
        let check = crc32c::crc32c_append(crc32c::crc32c(front.as_bytes()), text.as_bytes());
        let copy = format!("{front}{check:08x}\n{text}");
        file::write_whole_at(&self.file, copy.as_bytes(), self.place(serial))?;
        self.file.sync_data()?;
        self.serial = serial;
        Ok(())
    }

    fn place(&self, serial: u64) -> u64 {
        serial % 2 * self.length as u64
    }

    fn newest(file: &File, length: usize) -> io::Result<Option<Copy>> {
        let mut bytes = vec![0; 2 * length];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let copies = bytes[..filled].chunks(length).filter_map(Copy::read);
        Ok(copies.max_by_key(|copy| copy.serial))
    }
}

impl Copy {
    fn read(bytes: &[u8]) -> Option<Self> {
        let header = std::str::from_utf8(bytes.get(..HEADER)?).ok()?;
        let (front, check) = header.split_at_checked(HEADER - 9)?;
        let mut numbers = front.split(' ');
        let serial = numbers.next()?.parse().ok()?;
        let length: usize = numbers.next()?.parse().ok()?;
        let text = bytes.get(HEADER..HEADER.checked_add(length)?)?;
        let found = crc32c::crc32c_append(crc32c::crc32c(front.as_bytes()), text);
        (*check == format!("{found:08x}\n")).then_some(())?;
        Some(Self { serial, text: std::str::from_utf8(text).ok()?.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: usize = 100;

    #[test]
    fn the_newest_text_counts_and_the_file_never_grows() {
        let file = tempfile::tempfile().unwrap();
        let (mut twofold, none) = Twofold::open(file.try_clone().unwrap(), LENGTH).unwrap();
        assert_eq!(none, None);
        for number in 0..5 {
            let text = "x".repeat(number * 3);
            twofold.write(&text).unwrap();
            assert_eq!(Twofold::read(&file, LENGTH).unwrap().as_deref(), Some(&*text));
        }
        assert_eq!(file.metadata().unwrap().len(), 2 * LENGTH as u64);
        assert!(twofold.write(&"x".repeat(LENGTH)).is_err());
        let (mut again, text) = Twofold::open(file.try_clone().unwrap(), LENGTH).unwrap();
        assert_eq!(text.as_deref(), Some("xxxxxxxxxxxx"));
        again.write("next").unwrap();
        assert_eq!(Twofold::read(&file, LENGTH).unwrap().as_deref(), Some("next"));
    }

    #[test]
    fn whatever_is_torn_or_altered_the_text_before_counts() {
        let file = tempfile::tempfile().unwrap();
        let (mut twofold, _) = Twofold::open(file.try_clone().unwrap(), LENGTH).unwrap();
        twofold.write("first").unwrap();
        let before = content(&file);
        twofold.write("second").unwrap();
        let after = content(&file);
        let differing: Vec<usize> = (0..after.len()).filter(|&at| before[at] != after[at]).collect();
        for torn in 0..differing.len() {
            let mut bytes = before.clone();
            differing[..torn].iter().for_each(|&at| bytes[at] = after[at]);
            file.write_all_at(&bytes, 0).unwrap();
            assert_eq!(Twofold::read(&file, LENGTH).unwrap().as_deref(), Some("first"), "{torn}");
        }
        for length in [0, 5, LENGTH - 1] {
            file.set_len(length as u64).unwrap();
            assert!(Twofold::open(file.try_clone().unwrap(), LENGTH).is_ok());
        }
    }

    fn content(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }
}
