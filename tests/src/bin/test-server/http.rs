//! As much of HTTP/1.1 as a server of files needs.

use std::io::{self, BufRead, Read, Write};

const MAX_HEAD: u64 = 64 * 1024;
const MAX_HEADERS: usize = 100;

/// The head of a request.
#[derive(Debug)]
pub struct Head {
    /// Its method.
    pub method: String,
    headers: Vec<(String, String)>,
}

impl Head {
    /// Reads a head; `None` where the client has nothing more to say.
    ///
    /// # Errors
    /// What reading reports; what is no head of a request.
    pub fn read(stream: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        let mut limited = stream.take(MAX_HEAD);
        while !bytes.ends_with(b"\r\n\r\n") {
            if limited.read_until(b'\n', &mut bytes)? == 0 {
                return if bytes.is_empty() { Ok(None) } else { Err(invalid("a request without an end")) };
            }
        }
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        request.parse(&bytes).map_err(|error| invalid(&error.to_string()))?;
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let headers =
            request.headers.iter().map(|header| (header.name.to_owned(), text(header.value))).collect();
        Ok(Some(Self { method: request.method.unwrap_or_default().to_owned(), headers }))
    }

    /// The value of a header.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// Bytes of the body; `None` where they are not said.
    pub fn length(&self) -> Option<u64> {
        self.get("Content-Length")?.parse().ok()
    }

    /// Whether the connection ends with this request.
    pub fn closes(&self) -> bool {
        self.get("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Answers.
///
/// # Errors
/// What writing reports.
pub fn answer(stream: &mut impl Write, code: u16, headers: &str, text: &str) -> io::Result<()> {
    let reason = match code {
        200 => "OK",
        400..500 => "Not so",
        500.. => "Not now",
        _ => "Otherwise",
    };
    let length = text.len();
    write!(stream, "HTTP/1.1 {code} {reason}\r\nContent-Length: {length}\r\n{headers}\r\n{text}")?;
    stream.flush()
}
