//! The file of a checkpoint: what it is of, then pieces of the region, each with its check, then what closes it. A piece may
//! follow an older one of the same place and counts instead of it. A file without its end, or with one byte changed, is
//! none.
//!
//! ```text
//! head    64 bytes   magic, versions, length, epoch, seed, life, 0, check
//! piece   16 bytes   offset, length, check over both and the bytes; then the bytes
//! ...
//! end     16 bytes   offset = all ones, length = 40, check likewise
//!         40 bytes   when, open minute × 2 + closed, pieces, bytes of pieces, check over the pieces' checks
//! ```

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt as _;

use common::ids::Offset;
use common::journal::OpenMinute;
use common::layout::FORMAT_VERSION;
use common::limits::PAGE_SIZE;

const MAGIC: u64 = u64::from_le_bytes(*b"HOLDCKPT");

/// The version of this file's own format, above that of the region in it.
const VERSION: u64 = 1;

const HEAD: usize = 64;
const PIECE: usize = 16;
const END: usize = 40;

/// The offset that no piece has.
const AT_END: u64 = u64::MAX;

/// Longest piece: a page.
const LONGEST: u32 = PAGE_SIZE as u32;

/// What a checkpoint is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the region.
    pub length: u64,
    /// Its epoch.
    pub epoch: u64,
    /// Its seed.
    pub seed: u64,
    /// Supervisors that had owned it.
    pub life: u64,
}

/// The moment that a checkpoint shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// When, in nanoseconds since the epoch.
    pub taken_ns: u64,
    /// The journal's open minute: every record of an earlier one is counted.
    pub open: OpenMinute,
}

/// Why a file is no checkpoint that can be used.
#[derive(Debug)]
pub enum Unfit {
    /// It is torn, or was scribbled over, or is something else; what.
    Bad(String),
    /// It cannot be read, or what is made of it cannot be written.
    Io(io::Error),
}

impl From<io::Error> for Unfit {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Bad("it ends too early".to_owned()),
            _ => Self::Io(error),
        }
    }
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bad(why) => f.write_str(why),
            Self::Io(error) => error.fmt(f),
        }
    }
}

/// Writes a checkpoint.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    pieces: u64,
    bytes: u64,
    chain: u32,
}

impl<W: Write> Writer<W> {
    /// Begins one.
    ///
    /// # Errors
    /// What writing reports.
    pub fn new(mut out: W, head: &Head) -> io::Result<Self> {
        out.write_all(&head.to_bytes())?;
        Ok(Self { out, pieces: 0, bytes: 0, chain: 0 })
    }

    /// Adds a piece of the region, at most a page.
    ///
    /// # Errors
    /// What writing reports.
    pub fn put(&mut self, offset: Offset, bytes: &[u8]) -> io::Result<()> {
        let check = self.block(offset.0, bytes)?;
        self.pieces += 1;
        self.bytes += bytes.len() as u64;
        self.chain = crc32c::crc32c_append(self.chain, &check.to_le_bytes());
        Ok(())
    }

    fn block(&mut self, offset: u64, bytes: &[u8]) -> io::Result<u32> {
        let header = offset.to_le_bytes().into_iter().chain((bytes.len() as u32).to_le_bytes());
        let mut header: Vec<u8> = header.collect();
        let check = crc32c::crc32c_append(crc32c::crc32c(&header), bytes);
        header.extend(check.to_le_bytes());
        self.out.write_all(&header)?;
        self.out.write_all(bytes)?;
        Ok(check)
    }

    /// Closes it. Gives what it was written to, and how many bytes were.
    ///
    /// # Errors
    /// What writing reports.
    pub fn finish(mut self, moment: &Moment) -> io::Result<(W, u64)> {
        let words = [moment.taken_ns, moment.open.word(), self.pieces, self.bytes, self.chain.into()];
        let end: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.block(AT_END, &end)?;
        self.out.flush()?;
        let written = HEAD as u64 + self.pieces * PIECE as u64 + self.bytes + (PIECE + END) as u64;
        Ok((self.out, written))
    }
}

impl Head {
    fn to_bytes(self) -> [u8; HEAD] {
        let versions = VERSION << 32 | u64::from(FORMAT_VERSION);
        let words = [MAGIC, versions, self.length, self.epoch, self.seed, self.life, 0];
        let mut bytes = [0; HEAD];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let check = crc32c::crc32c(&bytes[..HEAD - 8]);
        bytes[HEAD - 8..].copy_from_slice(&u64::from(check).to_le_bytes());
        bytes
    }

    /// Reads the beginning of a checkpoint.
    ///
    /// # Errors
    /// [`Unfit`].
    pub fn read(from: &mut impl Read) -> Result<Self, Unfit> {
        let mut bytes = [0; HEAD];
        from.read_exact(&mut bytes)?;
        let [magic, versions, length, epoch, seed, life, _, check] = words(&bytes);
        if magic != MAGIC || check != u64::from(crc32c::crc32c(&bytes[..HEAD - 8])) {
            return Err(Unfit::Bad("it does not begin as a checkpoint does".to_owned()));
        }
        let (own, region) = (versions >> 32, versions as u32);
        if (own, region) != (VERSION, FORMAT_VERSION) {
            return Err(Unfit::Bad(format!(
                "it is of format {own}.{region}, and this program's is {VERSION}.{FORMAT_VERSION}"
            )));
        }
        Ok(Self { length, epoch, seed, life })
    }
}

/// Reads what follows the head up to the end of the file, and gives each piece, checked, to `place`.
///
/// # Errors
/// [`Unfit`]; what `place` gives. Some pieces may have been placed by then.
pub fn read_pieces(
    from: &mut impl Read,
    mut place: impl FnMut(Offset, &[u8]) -> Result<(), Unfit>,
) -> Result<Moment, Unfit> {
    let (mut pieces, mut sum, mut chain) = (0_u64, 0_u64, 0);
    let mut bytes = Vec::new();
    loop {
        let (offset, check) = read_block(from, &mut bytes)?;
        if offset != AT_END {
            pieces += 1;
            sum += bytes.len() as u64;
            chain = crc32c::crc32c_append(chain, &check.to_le_bytes());
            place(Offset(offset), &bytes)?;
            continue;
        }
        let [taken_ns, open, said_pieces, said_bytes, said_chain] = end_words(&bytes)?;
        if (said_pieces, said_bytes, said_chain) != (pieces, sum, u64::from(chain)) {
            return Err(Unfit::Bad("pieces of it are missing".to_owned()));
        }
        if from.read(&mut [0])? != 0 {
            return Err(Unfit::Bad("something follows its end".to_owned()));
        }
        return Ok(Moment { taken_ns, open: OpenMinute::from_word(open) });
    }
}

fn read_block(from: &mut impl Read, bytes: &mut Vec<u8>) -> Result<(u64, u32), Unfit> {
    let mut header = [0; PIECE];
    from.read_exact(&mut header)?;
    let [offset, rest] = words(&header);
    let (length, check) = (rest as u32, (rest >> 32) as u32);
    let scribbled = || Unfit::Bad("a piece of it does not match its check".to_owned());
    if length > LONGEST {
        return Err(scribbled());
    }
    bytes.resize(length as usize, 0);
    from.read_exact(bytes)?;
    if crc32c::crc32c_append(crc32c::crc32c(&header[..12]), bytes) != check {
        return Err(scribbled());
    }
    Ok((offset, check))
}

fn end_words(bytes: &[u8]) -> Result<[u64; END / 8], Unfit> {
    let bytes: &[u8; END] =
        bytes.try_into().map_err(|_| Unfit::Bad("its end is not as long as one".to_owned()))?;
    Ok(words(bytes))
}

/// The moment that a checkpoint shows, by its end alone.
///
/// # Errors
/// [`Unfit`].
pub fn read_moment(file: &File) -> Result<Moment, Unfit> {
    let length = file.metadata()?.len();
    let Some(begin) = length.checked_sub((PIECE + END) as u64) else {
        return Err(Unfit::Bad("it ends too early".to_owned()));
    };
    let mut end = [0; PIECE + END];
    file.read_exact_at(&mut end, begin)?;
    let mut bytes = Vec::new();
    match read_block(&mut &end[..], &mut bytes)? {
        (AT_END, _) => {
            let [taken_ns, open, ..] = end_words(&bytes)?;
            Ok(Moment { taken_ns, open: OpenMinute::from_word(open) })
        }
        _ => Err(Unfit::Bad("it has no end".to_owned())),
    }
}

/// A file to be read piece by piece.
pub fn reader(file: &File) -> BufReader<&File> {
    BufReader::with_capacity(1 << 20, file)
}

fn words<const COUNT: usize>(bytes: &[u8]) -> [u64; COUNT] {
    let mut words = [0; COUNT];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

#[cfg(test)]
mod tests {
    use common::ids::Minute;

    use super::*;

    const HEAD_OF: Head = Head { length: 1 << 20, epoch: 1, seed: 2, life: 3 };
    const MOMENT: Moment = Moment { taken_ns: 4, open: OpenMinute { minute: Minute(5), closed: true } };

    fn written() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), &HEAD_OF).unwrap();
        writer.put(Offset(4096), &[1; 64]).unwrap();
        writer.put(Offset(8192), &[2; 4096]).unwrap();
        let (bytes, count) = writer.finish(&MOMENT).unwrap();
        assert_eq!(bytes.len() as u64, count);
        bytes
    }

    type Pieces = Vec<(u64, Vec<u8>)>;

    fn read(bytes: &[u8]) -> Result<(Head, Pieces, Moment), Unfit> {
        let (mut from, mut pieces) = (bytes, Vec::new());
        let head = Head::read(&mut from)?;
        let moment = read_pieces(&mut from, |offset, bytes| {
            pieces.push((offset.0, bytes.to_vec()));
            Ok(())
        })?;
        Ok((head, pieces, moment))
    }

    #[test]
    fn what_was_written_is_read() {
        let (head, pieces, moment) = read(&written()).unwrap();
        assert_eq!((head, moment), (HEAD_OF, MOMENT));
        assert_eq!(pieces, [(4096, vec![1; 64]), (8192, vec![2; 4096])]);
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&written(), 0).unwrap();
        assert_eq!(read_moment(&file).unwrap(), MOMENT);
    }

    #[test]
    fn every_changed_byte_and_every_torn_end_is_noticed() {
        let whole = written();
        for place in 0..whole.len() {
            let mut changed = whole.clone();
            changed[place] ^= 0x10;
            assert!(matches!(read(&changed), Err(Unfit::Bad(_))), "byte {place}");
            assert!(matches!(read(&whole[..place]), Err(Unfit::Bad(_))), "{place} bytes of it");
        }
        assert!(read(&[&whole[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_piece_that_is_missing_or_there_twice_is_noticed() {
        let whole = written();
        let first = HEAD..HEAD + PIECE + 64;
        assert!(read(&[&whole[..HEAD], &whole[first.end..]].concat()).is_err());
        assert!(read(&[&whole[..first.end], &whole[first.clone()], &whole[first.end..]].concat()).is_err());
    }
}
