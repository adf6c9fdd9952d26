//! What happens to a connection and to each request.

use std::io::{self, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use common::error::Error;
use flate2::read::GzDecoder;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;

use crate::faults::{Fault, Faults};
use crate::http::{Head, answer};
use crate::store::Store;

/// Whoever says nothing for so long is let go.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection, encrypted or not.
trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

/// The server.
pub struct Service {
    store: Store,
    faults: Faults,
    require: Option<String>,
    quiet: bool,
    tls: Option<Arc<ServerConfig>>,
    requests: AtomicU64,
    files: AtomicU64,
    duplicates: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
}

/// Whether the connection goes on.
#[derive(PartialEq, Eq)]
enum Then {
    GoOn,
    Close,
}

impl Service {
    /// A server that keeps what it takes in `store`.
    pub fn new(
        store: Store,
        faults: Faults,
        require: Option<String>,
        quiet: bool,
        tls: Option<Arc<ServerConfig>>,
    ) -> Self {
        let zero = AtomicU64::default;
        let (requests, files, duplicates, records, bytes) = (zero(), zero(), zero(), zero(), zero());
        Self { store, faults, require, quiet, tls, requests, files, duplicates, records, bytes }
    }

    /// Serves whoever connects, each in a thread of its own.
    pub fn accept(self: Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming().filter_map(Result::ok) {
            let service = Arc::clone(&self);
            std::thread::spawn(move || {
                if let Err(error) = service.serve(stream) {
                    println!("a connection ends: {error}");
                }
            });
        }
    }

    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stream),
            Some(config) => {
                let connection = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
                Box::new(StreamOwned::new(connection, stream))
            }
        };
        let mut stream = BufReader::with_capacity(128 * 1024, stream);
        while let Some(head) = Head::read(&mut stream)? {
            let closes = head.closes();
            if self.handle(&head, &mut stream)? == Then::Close || closes {
                break;
            }
        }
        Ok(())
    }

    fn handle(&self, head: &Head, stream: &mut BufReader<Box<dyn Stream>>) -> io::Result<Then> {
        match head.method.as_str() {
            "GET" => {
                answer(
                    stream.get_mut(),
                    200,
                    "Content-Type: application/json\r\n",
                    &format!("{}\n", self.summary()),
                )?;
                Ok(Then::GoOn)
            }
            "POST" => self.take(head, stream),
            _ => {
                answer(stream.get_mut(), 405, "Connection: close\r\n", "only POST and GET\n")?;
                Ok(Then::Close)
            }
        }
    }

    fn take(&self, head: &Head, stream: &mut BufReader<Box<dyn Stream>>) -> io::Result<Then> {
        self.requests.fetch_add(1, Relaxed);
        let Some(length) = head.length().filter(|_| head.get("Transfer-Encoding").is_none()) else {
            answer(stream.get_mut(), 411, "Connection: close\r\n", "Content-Length is missing\n")?;
            return Ok(Then::Close);
        };
        if head.get("Expect").is_some() {
            stream.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let fault = self.faults.next();
        if fault == Fault::Drop {
            return self.say(head, "the connection is dropped before the body is read");
        }
        let body = stream.by_ref().take(length);
        let gzip = head.get("Content-Encoding").is_some_and(|encoding| encoding.eq_ignore_ascii_case("gzip"));
        let mut whole = Whole { body, left: length };
        let received = if gzip {
            self.store.receive(GzDecoder::new(&mut whole))
        } else {
            self.store.receive(&mut whole)
        }?;
        io::copy(&mut whole, &mut io::sink())?;
        let refusal = match fault {
            Fault::DropRead => {
                self.store.forget(&received);
                return self.say(head, "the connection is dropped after the body was read");
            }
            Fault::Status(code, pause) => Some((code, pause)),
            _ if !self.is_allowed(head) => Some((401, None)),
            _ => None,
        };
        if let Some((code, pause)) = refusal {
            self.store.forget(&received);
            let _ = self.say(head, &format!("answered with {code}"))?;
            let headers = pause.map_or_else(String::new, |pause| format!("Retry-After: {pause}\r\n"));
            answer(stream.get_mut(), code, &headers, "as was asked for\n")?;
            return Ok(Then::GoOn);
        }
        if let Fault::Slow(time) = fault {
            std::thread::sleep(time);
        }
        let key = head.get("Idempotency-Key").map_or_else(|| self.store.fresh_key(), str::to_owned);
        if !key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') || key.len() > 200 {
            self.store.forget(&received);
            answer(stream.get_mut(), 400, "", "this key cannot be remembered\n")?;
            return Ok(Then::GoOn);
        }
        let (bytes, records) = (received.bytes, received.records);
        let fresh = self.store.keep(&received, &key)?;
        let counters = [(&self.files, 1), (&self.records, records), (&self.bytes, bytes)];
        if fresh {
            for (counter, count) in counters {
                counter.fetch_add(count, Relaxed);
            }
        } else {
            self.duplicates.fetch_add(1, Relaxed);
        }
        let what = if fresh { "new" } else { "seen before" };
        self.print(&format!("{key}: {records} records, {bytes} bytes, {what}"), fresh.then_some(&key))?;
        match fault {
            Fault::DropStored => {
                return self.say(head, "the connection is dropped after the body was stored");
            }
            Fault::Garbage => {
                stream.get_mut().write_all(b"what is this?\r\n\r\n")?;
                return Ok(Then::Close);
            }
            Fault::Cut => {
                stream.get_mut().write_all(b"HTTP/1.1 200 O")?;
                return Ok(Then::Close);
            }
            _ => {}
        }
        answer(stream.get_mut(), 200, "", if fresh { "taken\n" } else { "seen before\n" })?;
        Ok(Then::GoOn)
    }

    fn is_allowed(&self, head: &Head) -> bool {
        let Some((name, value)) = self.require.as_ref().and_then(|header| header.split_once(':')) else {
            return true;
        };
        head.get(name.trim()) == Some(value.trim())
    }

    fn say(&self, head: &Head, what: &str) -> io::Result<Then> {
        let key = head.get("Idempotency-Key").unwrap_or("without a key");
        self.print(&format!("{key}: {what}"), None)?;
        Ok(Then::Close)
    }

    /// Prints a line and, where it is to be shown, what was received; not mixed with another's.
    fn print(&self, line: &str, show: Option<&String>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")?;
        if let Some(key) = show.filter(|_| !self.quiet)
            && let Ok(mut file) = self.store.kept(key)
        {
            io::copy(&mut file, &mut out)?;
        }
        out.flush()
    }

    fn summary(&self) -> serde_json::Value {
        json!({
            "requests": self.requests.load(Relaxed),
            "files": self.files.load(Relaxed),
            "duplicates": self.duplicates.load(Relaxed),
            "records": self.records.load(Relaxed),
            "bytes": self.bytes.load(Relaxed),
        })
    }
}

/// A body, all of it: one that ends early is an error, and is not taken for a shorter one.
struct Whole<B> {
    body: B,
    left: u64,
}

impl<B: Read> Read for Whole<B> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.body.read(buffer)?;
        self.left -= count as u64;
        if count == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the body ended early"));
        }
        Ok(count)
    }
}

/// What encryption needs.
///
/// # Errors
/// Files that hold no certificate or no key (exit 2).
pub fn encryption(certificate: &Path, key: &Path) -> common::error::Result<Arc<ServerConfig>> {
    let wrong = |path: &Path, why: String| Error::usage(format!("{} cannot be used: {why}", path.display()));
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let chain = chain.map_err(|error| wrong(certificate, error.to_string()))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, error.to_string()))?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, secret);
    config.map(Arc::new).map_err(|error| wrong(certificate, error.to_string()))
}
