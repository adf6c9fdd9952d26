//! The one thread that looks at the instance. However many ask at the same time, it looks once for all of them; and however
//! often they ask, it looks so many times a second and no more. What an asker gets was looked up after it had asked.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::attach::StatusView;
use client::document;
use client::watch::Watch;
use common::error::Result;
use common::tally::UserTotals;
use serde_json::json;
use tokio::sync::oneshot;

use crate::metrics;

/// The least time between two looks.
const PACE: Duration = Duration::from_millis(50);

/// How long an instance that is there may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// What somebody wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// For Prometheus.
    Metrics,
    /// For programs.
    Status,
}

/// What there is to know.
#[derive(Clone, Debug)]
pub struct Gathered {
    /// Whether the instance answered.
    pub up: bool,
    /// The text.
    pub text: Bytes,
}

#[derive(Debug)]
struct Question {
    wanted: Wanted,
    answer: oneshot::Sender<Gathered>,
}

/// Asks the thread.
#[derive(Clone, Debug)]
pub struct Desk(Sender<Question>);

impl Desk {
    /// Starts the thread, which ends with the last who can ask it.
    ///
    /// # Errors
    /// A thread that cannot be had.
    pub fn open(watch: Watch) -> io::Result<Self> {
        let (sender, questions) = mpsc::channel();
        std::thread::Builder::new().name("look".to_owned()).spawn(move || answer_all(watch, &questions))?;
        Ok(Self(sender))
    }

    /// What there is to know; nothing where the thread is gone.
    pub async fn ask(&self, wanted: Wanted) -> Option<Gathered> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Question { wanted, answer }).ok()?;
        answered.await.ok()
    }
}

fn answer_all(mut watch: Watch, questions: &Receiver<Question>) {
    let mut next = Instant::now();
    while let Ok(first) = questions.recv() {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next = Instant::now() + PACE;
        let together: Vec<_> = std::iter::once(first).chain(questions.try_iter()).collect();
        let seen = watch.look(PATIENCE);
        answer(&watch, &seen, together);
    }
}

fn answer(watch: &Watch, seen: &Result<StatusView>, together: Vec<Question>) {
    let mut texts: [Option<Bytes>; 2] = [None, None];
    for Question { wanted, answer } in together {
        let text = texts[wanted as usize].get_or_insert_with(|| text_of(watch, seen, wanted).into()).clone();
        // Whoever has gone meanwhile does not hear it.
        let _ = answer.send(Gathered { up: seen.is_ok(), text });
    }
}

fn text_of(watch: &Watch, seen: &Result<StatusView>, wanted: Wanted) -> String {
    match (wanted, seen) {
        (Wanted::Metrics, Ok(view)) => metrics::text(Some(view), true),
        (Wanted::Metrics, Err(_)) => metrics::text(watch.last_seen().as_ref(), false),
        (Wanted::Status, Ok(view)) => document::of(view, true, users_of(view)).to_string(),
        (Wanted::Status, Err(error)) => json!({ "error": error.to_string() }).to_string(),
    }
}

/// The users as far as they can be read: a table that is damaged keeps nobody from seeing the rest.
pub fn users_of(view: &StatusView) -> UserTotals {
    view.users().unwrap_or_else(|error| {
        log::debug!("{error}");
        UserTotals { complete: false, ..UserTotals::default() }
    })
}
