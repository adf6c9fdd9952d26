//! What users have sent stands in maps, and a process that is stopped while it changes one keeps whoever reads it waiting.
//! So a thread of its own reads the users, and who asks gets what it read last where it is not done in time.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use client::attach::StatusView;
use common::tally::UserTotals;

/// How long who asks waits.
const PATIENCE: Duration = Duration::from_millis(250);

/// Asks the thread.
#[derive(Debug)]
pub struct Users {
    questions: Sender<Arc<StatusView>>,
    answers: Receiver<UserTotals>,
    /// Whether an answer is still to come.
    asked: bool,
    last: UserTotals,
}

impl Users {
    /// Starts the thread, which ends with this.
    ///
    /// # Errors
    /// A thread that cannot be had.
    pub fn open() -> io::Result<Self> {
        let (questions, asked) = mpsc::channel::<Arc<StatusView>>();
        let (answer, answers) = mpsc::channel();
        std::thread::Builder::new().name("users".to_owned()).spawn(move || {
            while let Ok(view) = asked.recv() {
                if answer.send(read(&view)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { questions, answers, asked: false, last: UserTotals::default() })
    }

    /// The users as they are now, or as they were last read: then they are not complete.
    pub fn of(&mut self, view: &Arc<StatusView>) -> UserTotals {
        if self.asked && !self.hear() {
            return self.as_they_were();
        }
        self.asked = self.questions.send(Arc::clone(view)).is_ok();
        if self.hear() { self.last.clone() } else { self.as_they_were() }
    }

    /// Takes an answer; false where there is none in time.
    fn hear(&mut self) -> bool {
        let Ok(users) = self.answers.recv_timeout(PATIENCE) else { return false };
        self.asked = false;
        let former = std::mem::replace(&mut self.last, users);
        if !self.last.complete {
            // A map that cannot be read is as it was.
            for (user, sent) in former.users {
                self.last.users.entry(user).or_insert(sent);
            }
        }
        true
    }

    fn as_they_were(&self) -> UserTotals {
        UserTotals { complete: false, ..self.last.clone() }
    }
}

/// As far as they can be read: a table that is damaged keeps nobody from seeing the rest.
fn read(view: &StatusView) -> UserTotals {
    view.users().unwrap_or_else(|error| {
        log::debug!("{error}");
        UserTotals { complete: false, ..UserTotals::default() }
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use client::watch::Watch;
    use common::ids::{Generation, SlotIndex};
    use common::region::Region;
    use common::slots;
    use common::sys::channel::Channel;
    use common::tally;
    use common::txn::Seat;

    use super::*;
    use crate::gathering::stand_in;

    #[test]
    fn whoever_keeps_the_users_busy_keeps_nobody_waiting_for_long() {
        let file = tempfile::tempfile().unwrap();
        let region = Region::create(&file, 1 << 20).unwrap();
        let owner = slots::owner(SlotIndex(1), Generation(1));
        region.slot(owner.slot).unwrap().reserve(owner.generation, 1);
        let mut seat = Seat::take(&region, owner).unwrap();
        let account = tally::account(&mut seat, "anna").unwrap();
        let mut send = || {
            let mut txn = seat.begin().unwrap();
            txn.count_message(account, "anna", 5).unwrap();
            txn.commit().unwrap();
        };
        send();
        let (ours, theirs) = Channel::pair().unwrap();
        let answering = stand_in::supervisor(theirs, file.try_clone().unwrap());
        let mut watch = Watch::over(ours);
        let view = Arc::new(watch.look(Duration::from_secs(10)).unwrap());
        let mut users = Users::open().unwrap();
        let seen = users.of(&view);
        assert!(seen.complete && seen.users["anna"].messages == 1);
        // As if somebody had been stopped in the middle of a change of every object.
        let change = |by: u64| {
            for index in 0..region.geometry().object_count {
                region.object(index).unwrap().seq.fetch_add(by, std::sync::atomic::Ordering::SeqCst);
            }
        };
        send();
        change(1);
        let began = Instant::now();
        for _ in 0..3 {
            let seen = users.of(&view);
            assert!(!seen.complete && seen.users["anna"].messages == 1, "{seen:?}");
        }
        assert!(began.elapsed() < 8 * PATIENCE, "{:?}", began.elapsed());
        change(1);
        let end = Instant::now() + Duration::from_secs(60);
        while !users.of(&view).complete {
            assert!(Instant::now() < end);
        }
        assert_eq!(users.of(&view).users["anna"].messages, 2);
        drop((watch, view));
        answering.join().unwrap();
    }
}
