//! Asking whatever is in a run directory where it listens, and telling apart why it does not say: for whoever starts an
//! instance where there is none.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use common::sys::channel::{Channel, Received};
use common::sys::transport::receive_within;
use common::wire::control::{self, Listening, Request, Response};

use crate::attach::{control_socket, converse};

/// Nobody waits longer; a moment that far away can still be computed.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// What came of it.
#[derive(Debug)]
pub enum Answer {
    /// It serves there, and for as long as its `--idle-exit` says from now on.
    Listening(Listening),
    /// It will not say; why.
    Refused(String, Refusal),
    /// Nobody takes questions there.
    Nobody,
    /// Somebody has let this process in, and ended the connection without a word.
    HungUp,
    /// Somebody is there, and has not answered in time.
    Silent,
    /// What came is no answer to this question.
    Unintelligible,
    /// This process may not ask there.
    Forbidden,
}

/// The connection on which an instance has refused to answer. It ends with the instance.
#[derive(Debug)]
pub struct Refusal(Channel);

impl Refusal {
    /// Waits until the instance is gone, or the time is over.
    pub fn wait_until_gone(&self, limit: Duration) {
        let deadline = Instant::now() + limit.min(LONGEST);
        while let Ok(Received::Frame(..)) = receive_within(&self.0, left_until(deadline)) {}
    }
}

/// Asks, for at most as long as the patience lasts. It starts the idle clock of an instance with `--idle-exit` again.
pub fn touch(run_dir: &Path, patience: Duration) -> Answer {
    let patience = patience.min(LONGEST);
    let deadline = Instant::now() + patience;
    let channel = match connect(run_dir, patience) {
        Ok(channel) => channel,
        Err(error) => return unconnected(&error),
    };
    match converse(&channel, &Request::Touch, left_until(deadline)) {
        Ok(Received::Frame(frame, _)) => match control::decode(&frame) {
            Ok(Response::Listening(listening)) => Answer::Listening(listening),
            Ok(Response::Refused(why)) => Answer::Refused(why, Refusal(channel)),
            _ => Answer::Unintelligible,
        },
        Ok(Received::Nothing) => Answer::Silent,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Answer::Unintelligible,
        Ok(Received::Closed) | Err(_) => Answer::HungUp,
    }
}

fn connect(run_dir: &Path, patience: Duration) -> io::Result<Channel> {
    let (_directory, path) = control_socket(run_dir)?;
    Channel::connect_within(&path, patience)
}

fn unconnected(error: &io::Error) -> Answer {
    match error.kind() {
        io::ErrorKind::WouldBlock => Answer::Silent,
        io::ErrorKind::PermissionDenied => Answer::Forbidden,
        _ => Answer::Nobody,
    }
}

fn left_until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}
