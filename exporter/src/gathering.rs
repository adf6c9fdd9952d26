//! The one thread that looks at the instance. However many ask at the same time, it looks once for all of them; and however
//! often they ask, it looks so many times a second and no more. What an asker gets was looked up after it had asked.

use std::io;
use std::sync::Arc;
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
use crate::users::Users;

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
        let users = Users::open()?;
        let looking = move || answer_all(watch, users, &questions);
        std::thread::Builder::new().name("look".to_owned()).spawn(looking)?;
        Ok(Self(sender))
    }

    /// What there is to know; nothing where the thread is gone.
    pub async fn ask(&self, wanted: Wanted) -> Option<Gathered> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Question { wanted, answer }).ok()?;
        answered.await.ok()
    }
}

fn answer_all(mut watch: Watch, mut users: Users, questions: &Receiver<Question>) {
    let mut next = Instant::now();
    while let Ok(first) = questions.recv() {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next = Instant::now() + PACE;
        let together: Vec<_> = std::iter::once(first).chain(questions.try_iter()).collect();
        answer(&Sight::of(&mut watch, &mut users), together);
    }
}

/// What was seen, and what users have sent, which is looked up once for all who ask.
#[derive(Debug)]
struct Sight {
    seen: Result<Arc<StatusView>>,
    /// While the instance does not answer: its region as it is, and what it last said.
    last: Option<Arc<StatusView>>,
    users: UserTotals,
}

impl Sight {
    fn of(watch: &mut Watch, users: &mut Users) -> Self {
        let seen = watch.look(PATIENCE).map(Arc::new);
        let last = if seen.is_ok() { None } else { watch.last_seen().map(Arc::new) };
        let view = seen.as_ref().ok().or(last.as_ref());
        let users = view.map(|view| users.of(view)).unwrap_or_default();
        Self { seen, last, users }
    }

    fn text(&self, wanted: Wanted) -> String {
        match (wanted, &self.seen) {
            (Wanted::Metrics, Ok(view)) => metrics::text(Some(view), &self.users, true),
            (Wanted::Metrics, Err(_)) => metrics::text(self.last.as_deref(), &self.users, false),
            (Wanted::Status, Ok(view)) => document::of(view, true, self.users.clone()).to_string(),
            (Wanted::Status, Err(error)) => json!({ "error": error.to_string() }).to_string(),
        }
    }
}

fn answer(sight: &Sight, together: Vec<Question>) {
    let mut texts: [Option<Bytes>; 2] = [None, None];
    for Question { wanted, answer } in together {
        let text = texts[wanted as usize].get_or_insert_with(|| sight.text(wanted).into()).clone();
        // Whoever has gone meanwhile does not hear it.
        let _ = answer.send(Gathered { up: sight.seen.is_ok(), text });
    }
}

/// What stands in for a supervisor in tests.
#[cfg(test)]
pub(crate) mod stand_in {
    use std::fs::File;
    use std::os::fd::AsRawFd as _;
    use std::thread::JoinHandle;

    use common::ids::{Generation, Owner, Pid, SlotIndex};
    use common::sys::channel::{Channel, Received};
    use common::wire::control::{
        self, CrashReport, DaemonState, DaemonStatus, Microseconds, Request, Response,
    };

    fn status() -> DaemonStatus {
        let owner = Owner { slot: SlotIndex(u32::MAX), generation: Generation(7) };
        let (at_ns, ending, doing) = (u64::MAX, None, "\"<\\\u{7f}".to_owned());
        DaemonStatus {
            state: DaemonState::Degraded,
            supervisor: Pid(1),
            template: Pid(0),
            recovery: Pid(-1),
            generation: u32::MAX,
            listen: vec!["tcp:[::1]:1".to_owned()],
            configured: 1,
            at_least: 1,
            recovery_us: Microseconds { last: u64::MAX, ..Microseconds::default() },
            restored: Some(String::new()),
            checkpoint_failing: None,
            metrics: Vec::new(),
            crashes: vec![CrashReport { at_ns, owner, pid: Pid(0), ending, doing, repaired_us: None }],
        }
    }

    /// Answers as a supervisor would that has this region.
    pub fn supervisor(channel: Channel, region: File) -> JoinHandle<()> {
        std::thread::spawn(move || {
            while let Ok(Received::Frame(frame, _)) = channel.receive() {
                assert_eq!(control::decode::<Request>(&frame).unwrap(), Request::Status);
                let response = Response::Status(Box::new(status()));
                channel.send(&control::encode(&response).unwrap(), &[region.as_raw_fd()]).unwrap();
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use common::region::Region;
    use common::sys::channel::Channel;

    use super::stand_in::supervisor;
    use super::*;

    #[test]
    fn whatever_stands_in_the_region_is_shown_somehow() {
        let file = tempfile::tempfile().unwrap();
        drop(Region::create(&file, 1 << 20).unwrap());
        let (ours, theirs) = Channel::pair().unwrap();
        let answering = supervisor(theirs, file.try_clone().unwrap());
        let (mut watch, mut users) = (Watch::over(ours), Users::open().unwrap());
        let mut word = 1_u64;
        let mut scribble = |dense: bool| {
            for offset in (128..1 << 20).step_by(8) {
                word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                if dense || word >> 60 == 0 {
                    file.write_all_at(&word.rotate_left(17).to_le_bytes(), offset).unwrap();
                }
            }
        };
        for round in 0..20 {
            let sight = Sight::of(&mut watch, &mut users);
            assert!(sight.seen.is_ok());
            let shown = sight.text(Wanted::Status);
            let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
            assert_eq!(shown["state"], "degraded");
            assert!(sight.text(Wanted::Metrics).ends_with("# EOF\n"));
            scribble(round > 10);
        }
        drop(watch);
        answering.join().unwrap();
    }

    #[test]
    fn who_does_not_answer_is_not_waited_for_again_and_again() {
        let (ours, theirs) = Channel::pair().unwrap();
        let mut watch = Watch::over(ours);
        for _ in 0..3 {
            assert!(watch.look(Duration::from_millis(1)).is_err());
        }
        // It was asked once, and its late answer is taken.
        let file = tempfile::tempfile().unwrap();
        drop(Region::create(&file, 1 << 20).unwrap());
        let answering = supervisor(theirs, file);
        assert!(watch.look(PATIENCE).is_ok());
        assert!(watch.look(PATIENCE).is_ok());
        drop(watch);
        answering.join().unwrap();
    }
}
