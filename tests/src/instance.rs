//! A running instance.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::connection::Connection;
use crate::journal::{self, Record};
use crate::outcome::{Outcome, Running};
use crate::{DEADLINE, eventually, place, processes, within};

/// How long an instance that a test left running may take to stop.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// A supervisor, from its start to its end. Dropping it leaves no process behind, also when a test panics.
#[derive(Debug)]
pub struct Instance {
    running: Running,
    run_dir: PathBuf,
    spool_dir: PathBuf,
    /// Whether whoever uses the run directory belongs to this instance.
    alone: bool,
    /// Whether visitors stay when it ends.
    leaves_visitors: bool,
    /// Workers, as the first line on stdout says.
    pub workers: u32,
    /// Where it listens, as that line says.
    pub listen: Vec<String>,
}

impl Instance {
    pub(crate) fn new(running: Running, run_dir: PathBuf, spool_dir: PathBuf) -> Self {
        Self {
            running,
            run_dir,
            spool_dir,
            alone: true,
            leaves_visitors: false,
            workers: 0,
            listen: Vec::new(),
        }
    }

    /// Waits for the line that says that it serves.
    ///
    /// # Panics
    /// Where it ends, or says something else.
    #[track_caller]
    pub fn wait_until_serving(&mut self) {
        let line = eventually(DEADLINE, "the instance serves", || {
            let ended = self.running.ended();
            let (stdout, stderr) = (self.running.stdout(), self.running.stderr());
            match stdout.split_once('\n') {
                Some((line, _)) => Ok(line.to_owned()),
                None => {
                    assert!(ended.is_none(), "the instance ended instead of serving: {ended:?}\n{stderr}");
                    Err(stderr)
                }
            }
        });
        let (workers, listen) = line
            .strip_prefix("Running with ")
            .and_then(|rest| rest.split_once(" workers on "))
            .unwrap_or_else(|| panic!("unexpected line on stdout: {line}"));
        self.workers = workers.parse().expect("a number of workers");
        self.listen = listen.split(", ").map(str::to_owned).collect();
    }

    /// The supervisor's pid.
    pub fn pid(&self) -> i32 {
        self.running.pid()
    }

    /// What has been written to stderr so far, which is where the log goes.
    pub fn stderr(&self) -> String {
        self.running.stderr()
    }

    /// What has been written to stdout so far.
    pub fn stdout(&self) -> String {
        self.running.stdout()
    }

    /// Waits until the log contains `words`.
    #[track_caller]
    pub fn wait_for_log(&self, words: &str) {
        eventually(DEADLINE, &format!("the log says {words:?}"), || {
            let log = self.stderr();
            if log.contains(words) { Ok(()) } else { Err(log) }
        });
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.running.ended()
    }

    // ---- Asking ----------------------------------------------------------------------------------------------------

    /// Runs `supervisor COMMAND` for this instance.
    #[track_caller]
    pub fn command(&self, command: &str, arguments: &[&str]) -> Outcome {
        place::command_in(&self.run_dir, command, arguments)
    }

    /// `supervisor status --json`.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.json(&["--json"])
    }

    /// `supervisor status --json --slots`.
    #[track_caller]
    pub fn status_with_slots(&self) -> Value {
        self.json(&["--json", "--slots"])
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let outcome = self.command("status", arguments);
        outcome.assert_succeeded();
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
    }

    /// One of the totals.
    ///
    /// # Panics
    /// Where status does not have it.
    #[track_caller]
    pub fn total(&self, name: &str) -> u64 {
        let status = self.status();
        status["totals"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {status}"))
    }

    /// The pids of the workers that serve, in the order of their slots.
    #[track_caller]
    pub fn worker_pids(&self) -> Vec<i32> {
        self.workers_that_are(&["idle", "busy"])
    }

    /// The pids of the workers in one of these states.
    ///
    /// # Panics
    /// Where status does not have them.
    #[track_caller]
    pub fn workers_that_are(&self, states: &[&str]) -> Vec<i32> {
        let status = self.status_with_slots();
        let slots = status["slots"].as_array().unwrap_or_else(|| panic!("no slots in {status}"));
        slots
            .iter()
            .filter(|slot| slot["attached"] == false)
            .filter(|slot| slot["state"].as_str().is_some_and(|state| states.contains(&state)))
            .map(|slot| slot["pid"].as_i64().expect("a pid is a number") as i32)
            .collect()
    }

    /// Waits until status satisfies `condition`, and gives it.
    #[track_caller]
    pub fn wait_for_status(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        eventually(DEADLINE, what, || {
            let status = self.status();
            if condition(&status) { Ok(status) } else { Err(format!("{status}\n{}", self.stderr())) }
        })
    }

    /// Waits until every worker is there, idle, and every death is repaired; gives the status as it is then.
    #[track_caller]
    pub fn wait_for_rest(&self) -> Value {
        eventually(DEADLINE, "the instance is at rest", || {
            let status = self.status_with_slots();
            let slots = status["slots"].as_array().map(Vec::as_slice).unwrap_or_default();
            let all_idle = slots.iter().all(|slot| slot["state"] == "idle");
            let all_there = status["workers"]["configured"] == slots.len();
            let at_rest = status["state"] == "running" && all_there && all_idle;
            if at_rest { Ok(()) } else { Err(format!("{status}\n{}", self.stderr())) }
        });
        // Asked once more, because a status is not of one instant: its totals were read before its slots.
        self.status_with_slots()
    }

    /// At rest: the totals and what each user has sent are what the journal says, and no record stands there twice. Gives the records.
    ///
    /// # Panics
    /// Where the books differ.
    #[track_caller]
    pub fn books_agree(&self) -> Vec<Record> {
        let status = self.wait_for_rest();
        let records = journal::read(&self.spool_dir);
        journal::assert_unique(&records);
        let bytes: usize = records.iter().map(|record| record.message.len()).sum();
        assert_eq!(status["totals"]["messages"], records.len(), "messages counted and recorded: {status}");
        assert_eq!(status["totals"]["bytes"], bytes, "bytes counted and recorded: {status}");
        // A user whose first message was refused is known, and has sent nothing.
        let users = status["users"].as_object().cloned().unwrap_or_default();
        let counted: serde_json::Map<_, _> =
            users.into_iter().filter(|(_, sent)| sent["messages"] != 0).collect();
        assert_eq!(Value::from(counted), users_in(&records), "what the users sent, counted and recorded");
        records
    }

    // ---- Talking ---------------------------------------------------------------------------------------------------

    /// Connects to the first address.
    #[track_caller]
    pub fn connect(&self) -> Connection {
        Connection::to(&self.listen[0])
    }

    /// Sends one message over a connection of its own and gives the pid of who answered.
    #[track_caller]
    pub fn say(&self, message: &str) -> i32 {
        self.connect().say("arijort", message)
    }

    // ---- Signalling ------------------------------------------------------------------------------------------------

    /// Signals the supervisor.
    ///
    /// # Panics
    /// Where it is gone.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal)
            .expect("an unreaped child can be signalled");
    }

    /// Signals a child of the supervisor, and nobody else. False where it is gone already.
    pub fn signal_child(&self, pid: i32, signal: Signal) -> bool {
        processes::signal_child_of(self.pid(), pid, signal)
    }

    /// Stops a child of the supervisor. False where it has ended instead: a signal to one that has, and was not waited for
    /// yet, is no error.
    ///
    /// # Panics
    /// Where it does neither.
    #[track_caller]
    pub fn stop_child(&self, pid: i32) -> bool {
        self.signal_child(pid, Signal::SIGSTOP)
            && eventually(DEADLINE, "it is stopped, or has ended", || {
                match processes::Process::of(pid)
                    .filter(|process| process.parent == self.pid())
                    .map(|process| process.state)
                {
                    Some('T') => Ok(true),
                    Some('Z' | 'X') | None => Ok(false),
                    Some(state) => Err(state.to_string()),
                }
            })
    }

    /// Kills a child of the supervisor and waits until it is gone: a connection that comes while it dies may go with it.
    ///
    /// # Panics
    /// Where there is no such child.
    #[track_caller]
    pub fn kill_child(&self, pid: i32) {
        assert!(self.signal_child(pid, Signal::SIGKILL), "{pid} is no child of the supervisor");
        crate::until("it is gone", || !processes::children_of(self.pid()).contains(&pid));
    }

    /// The children of the supervisor that were started with this role.
    pub fn children_in_role(&self, role: &str) -> Vec<i32> {
        let children = processes::children_of(self.pid());
        children
            .into_iter()
            .filter(|pid| processes::arguments_of(*pid).iter().any(|word| word == role))
            .collect()
    }

    // ---- Ending ----------------------------------------------------------------------------------------------------

    /// Waits until the supervisor has ended, for whatever reason, and everybody with it.
    #[track_caller]
    pub fn finish(mut self) -> Outcome {
        let outcome = self.running.finish_within(DEADLINE);
        outcome.assert_no_panic();
        self.nobody_is_left();
        outcome
    }

    /// Waits until the supervisor has ended; somebody else may be at work in the same place.
    #[track_caller]
    pub fn finish_refused(mut self) -> Outcome {
        self.alone = false;
        self.running.finish_within(DEADLINE)
    }

    /// `supervisor stop`: it succeeds, and so does the supervisor.
    #[track_caller]
    pub fn stop(self) -> Outcome {
        self.command("stop", &[]).assert_succeeded();
        let outcome = self.finish();
        outcome.assert_succeeded();
        outcome
    }

    /// Kills the supervisor. Its children must be gone without anybody's doing.
    #[track_caller]
    pub fn kill9(mut self) -> Outcome {
        self.running.kill();
        let outcome = self.finish();
        assert_eq!(outcome.signal(), Some(Signal::SIGKILL as i32), "{outcome}");
        outcome
    }

    /// `supervisor stop` while visitors are attached, which stay.
    #[track_caller]
    pub fn stop_leaving_visitors(mut self) -> Outcome {
        self.leaves_visitors = true;
        self.stop()
    }

    /// Kills the supervisor while visitors are attached, which stay, and nobody else.
    #[track_caller]
    pub fn kill9_leaving_visitors(mut self) -> Outcome {
        self.leaves_visitors = true;
        self.kill9()
    }

    #[track_caller]
    fn nobody_is_left(&self) {
        eventually(DEADLINE, "every process is gone", || {
            let left = self.users();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
    }

    fn users(&self) -> Vec<processes::Process> {
        let users = processes::users_of(&self.run_dir).into_iter();
        let stays = |user: &processes::Process| matches!(&*user.name, "visitor" | "exporter");
        users.filter(|user| !self.leaves_visitors || !stays(user)).collect()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if self.running.ended().is_none() {
            let mut stop = place::program("supervisor");
            stop.args(["stop", "--fast", "--run-dir"]).arg(&self.run_dir);
            let mut stop = Running::start(&mut stop);
            // Whoever does not answer is killed all the same.
            let _ = within(LAST_WAIT, || {
                let refused = stop.ended().is_some_and(|status| !status.success());
                if refused || self.running.ended().is_some() { Ok(()) } else { Err(String::new()) }
            });
            self.running.kill();
        }
        if self.alone {
            self.users().iter().for_each(processes::Process::kill);
        }
    }
}

/// What each user has sent, as status has it, by the journal.
fn users_in(records: &[Record]) -> Value {
    let mut users = serde_json::Map::new();
    for record in records {
        let user = users.entry(&record.user).or_insert_with(|| json!({ "messages": 0, "bytes": 0 }));
        for (key, amount) in [("messages", 1), ("bytes", record.message.len() as u64)] {
            user[key] = (user[key].as_u64().unwrap_or(0) + amount).into();
        }
    }
    users.into()
}
