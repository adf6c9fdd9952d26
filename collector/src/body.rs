//! The body of a request: a file as it is, or compressed. Its length is known before it is sent, so that it is never
//! sent in chunks, and it is never in memory as a whole.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use flate2::Compression;
use flate2::read::GzEncoder;

/// What is compressed to no more than this is kept and not compressed again for sending.
const KEPT: usize = 1 << 20;

/// A body of known length.
pub struct Body {
    /// Its length.
    pub length: u64,
    /// Its bytes.
    pub reader: Box<dyn Read>,
}

impl Body {
    /// The file as it is.
    ///
    /// # Errors
    /// What seeking reports.
    pub fn plain(file: &File, size: u64) -> io::Result<Self> {
        Ok(Self { length: size, reader: Box::new(exactly(file, size)?) })
    }

    /// The file compressed: to find out its length it is compressed once before.
    ///
    /// # Errors
    /// What reading reports.
    pub fn compressed(file: &File, size: u64) -> io::Result<Self> {
        let encoder = || Ok::<_, io::Error>(GzEncoder::new(exactly(file, size)?, Compression::fast()));
        let mut first = encoder()?;
        let mut kept = Vec::new();
        first.by_ref().take(KEPT as u64).read_to_end(&mut kept)?;
        let rest = io::copy(&mut first, &mut io::sink())?;
        let length = kept.len() as u64 + rest;
        if rest == 0 {
            return Ok(Self { length, reader: Box::new(io::Cursor::new(kept)) });
        }
        Ok(Self { length, reader: Box::new(encoder()?) })
    }
}

/// So many bytes of a file from its beginning, or an error: what has been announced must come.
struct Exactly {
    file: File,
    left: u64,
}

fn exactly(file: &File, size: u64) -> io::Result<Exactly> {
    let mut file = file.try_clone()?;
    file.seek(SeekFrom::Start(0))?;
    Ok(Exactly { file, left: size })
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        match self.file.read(&mut buffer[..most])? {
            0 => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was sent"))
            }
            count => {
                self.left -= count as u64;
                Ok(count)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::read::GzDecoder;

    use super::*;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn a_file_that_becomes_shorter_is_an_error() {
        let file = file(b"0123456789");
        let mut body = Body::plain(&file, 10).unwrap();
        file.set_len(4).unwrap();
        let error = body.reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let mut text = String::new();
        Body::plain(&file, 3).unwrap().reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "012");
    }

    #[test]
    fn what_is_compressed_has_the_length_that_was_said() {
        let noise: Vec<u8> =
            (0..3_000_000_u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 29) as u8).collect();
        for content in [&b""[..], b"text", &noise, &[7; 5_000_000]] {
            let file = file(content);
            let mut body = Body::compressed(&file, content.len() as u64).unwrap();
            let mut bytes = Vec::new();
            body.reader.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, body.length);
            let mut again = Vec::new();
            GzDecoder::new(&bytes[..]).read_to_end(&mut again).unwrap();
            assert!(again == content);
        }
    }
}
