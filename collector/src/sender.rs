//! Sending: threads that post one file at a time each, over connections that are kept.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::Duration;

use common::destination::Destination;
use common::ids::Minute;
use common::journal::spool::Spool;
use crossbeam_channel::{Receiver, Sender};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use ureq::{Agent, SendBody};

use crate::body::Body;
use crate::content::{self, Content, Stamp};
use crate::decision::Answer;

/// A server that takes a body more slowly than this, in bytes a second, is not waited for.
const SLOWEST: u64 = 16 * 1024;

/// Bytes of an answer that are read: what it says, and so that its connection can be used again.
const MOST_SAID: u64 = 64 * 1024;

/// Characters of it that are repeated.
const MOST_REPEATED: usize = 200;

/// How files are sent.
#[derive(Clone, Debug)]
pub struct Manner {
    /// Where to.
    pub destination: Destination,
    /// How long anything may take that should be immediate.
    pub timeout: Duration,
    /// With which headers beside our own.
    pub headers: Vec<(String, String)>,
    /// Compressed?
    pub gzip: bool,
    /// Whose certificates count, in PEM; without, the web's.
    pub authorities: Option<Vec<u8>>,
    /// How many at a time.
    pub parallel: usize,
}

/// A file to be sent.
#[derive(Debug)]
pub struct Job {
    /// Which.
    pub minute: Minute,
    /// What is known of it from an earlier attempt.
    pub content: Option<Content>,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// Which file.
    pub minute: Minute,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of an attempt.
#[derive(Debug)]
pub enum Outcome {
    /// It was sent, or that was tried.
    Tried {
        /// What is in the file.
        content: Content,
        /// What came back.
        answer: Answer,
        /// The same for people.
        said: String,
    },
    /// The file is not there any more.
    Gone,
    /// It cannot be read.
    Unreadable(io::Error),
}

/// Sends files.
#[derive(Debug)]
pub struct Courier {
    agent: Agent,
    url: String,
    manner: Manner,
    spool: Spool,
    spool_id: String,
}

impl Courier {
    /// Gets ready to send.
    ///
    /// # Errors
    /// Authorities that are none.
    pub fn new(manner: Manner, spool: Spool, spool_id: String) -> io::Result<Self> {
        let mut tls = TlsConfig::builder();
        if let Some(pem) = &manner.authorities {
            tls = tls.root_certs(RootCerts::Specific(Arc::new(certificates(pem)?)));
        }
        let timeout = Some(manner.timeout);
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("data_collector/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(timeout)
            .timeout_connect(timeout)
            .timeout_send_request(timeout)
            .timeout_per_read(timeout)
            .timeout_per_write(timeout)
            .timeout_recv_response(timeout)
            .timeout_recv_body(timeout)
            .max_idle_connections(manner.parallel)
            .max_idle_connections_per_host(manner.parallel)
            .tls_config(tls.build())
            .build()
            .new_agent();
        Ok(Self { agent, url: manner.destination.to_string(), manner, spool, spool_id })
    }

    /// Sends what is asked for until nobody can ask any more.
    pub fn work(&self, jobs: &Receiver<Job>, reports: &Sender<Report>) {
        for Job { minute, content } in jobs {
            let outcome = self.attempt(minute, content).unwrap_or_else(Outcome::Unreadable);
            if reports.send(Report { minute, outcome }).is_err() {
                return;
            }
        }
    }

    fn attempt(&self, minute: Minute, known: Option<Content>) -> io::Result<Outcome> {
        let Some(file) = content::open(&self.spool, minute)? else { return Ok(Outcome::Gone) };
        let stamp = Stamp::of(&file)?;
        let content = match known.filter(|known| known.stamp == stamp) {
            Some(known) => known,
            None => Content::of(&file, &self.spool_id, minute)?,
        };
        let (answer, said) = match self.post(&file, &content) {
            Ok(answered) => answered,
            Err(error) => (Answer::Failed, error.to_string()),
        };
        Ok(Outcome::Tried { content, answer, said })
    }

    fn post(&self, file: &File, content: &Content) -> Result<(Answer, String), ureq::Error> {
        let size = content.size;
        let mut body =
            if self.manner.gzip { Body::compressed(file, size)? } else { Body::plain(file, size)? };
        let mut request = self
            .agent
            .post(&self.url)
            .config()
            // Each write has its own; this is for a server that takes next to nothing each time.
            .timeout_send_body(Some(self.manner.timeout + Duration::from_secs(body.length / SLOWEST)))
            .build()
            .header("Content-Type", "application/x-ndjson")
            .header("Content-Length", body.length)
            .header("Idempotency-Key", &content.key);
        if self.manner.gzip {
            request = request.header("Content-Encoding", "gzip");
        }
        for (name, value) in &self.manner.headers {
            request = request.header(name, value);
        }
        let mut response = request.send(SendBody::from_reader(&mut body.reader))?;
        let status = response.status();
        let retry_after = response.headers().get("Retry-After").and_then(|value| value.to_str().ok());
        let answer = Answer::Status { code: status.as_u16(), retry_after: retry_after.and_then(parse_pause) };
        // The status has come whole and counts, whatever becomes of the rest.
        let mut text = Vec::new();
        let _ = response.body_mut().as_reader().take(MOST_SAID).read_to_end(&mut text);
        let said: String = String::from_utf8_lossy(&text).chars().take(MOST_REPEATED).collect();
        let said = said.trim();
        Ok((answer, if said.is_empty() { status.to_string() } else { format!("{status}: {said}") }))
    }
}

/// `Retry-After`: seconds, or a moment.
fn parse_pause(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Some(Duration::try_from(then.duration_since(jiff::Timestamp::now())).unwrap_or_default())
}

/// The certificates in a PEM text.
///
/// # Errors
/// A text without any, or with something that is none.
pub fn certificates(pem: &[u8]) -> io::Result<Vec<Certificate<'static>>> {
    let mut found = Vec::new();
    for item in ureq::tls::parse_pem(pem) {
        if let PemItem::Certificate(certificate) = item.map_err(io::Error::other)? {
            found.push(certificate);
        }
    }
    if found.is_empty() { Err(io::Error::other("it holds no certificate")) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_as_servers_write_them() {
        assert_eq!(parse_pause("7"), Some(Duration::from_secs(7)));
        assert_eq!(parse_pause(" 0 "), Some(Duration::ZERO));
        assert_eq!(parse_pause("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let later = jiff::Timestamp::now() + Duration::from_secs(100);
        let text = jiff::fmt::rfc2822::to_string(&later.to_zoned(jiff::tz::TimeZone::UTC)).unwrap();
        let pause = parse_pause(&text).unwrap();
        assert!((95..=100).contains(&pause.as_secs()), "{pause:?}");
        for nonsense in ["", "-1", "soon", "1.5"] {
            assert_eq!(parse_pause(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn authorities_must_be_some() {
        assert!(certificates(b"").is_err());
        assert!(certificates(b"-----BEGIN CERTIFICATE-----\n").is_err());
    }
}
