//! A daemon has left the directory that it was started in, and is taken over all the same.

use std::path::PathBuf;

use holdfast_tests::place::command_in;
use holdfast_tests::processes::{self, Process};
use holdfast_tests::{Connection, Place, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::scene::{DONE, Programs, program_of};

/// An instance in the background. Dropping it leaves no process behind.
struct Background {
    run_dir: PathBuf,
    log: PathBuf,
}

impl Background {
    fn status(&self) -> Value {
        let outcome = command_in(&self.run_dir, "status", &["--json"]);
        outcome.assert_succeeded();
        serde_json::from_str(&outcome.stdout).expect("JSON")
    }

    fn pid(&self) -> i32 {
        self.status()["supervisor_pid"].as_i64().expect("a pid") as i32
    }

    fn says(&self, words: &str) -> bool {
        std::fs::read_to_string(&self.log).unwrap_or_default().contains(words)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = command_in(&self.run_dir, "stop", &["--fast"]);
        processes::users_of(&self.run_dir).iter().for_each(Process::kill);
    }
}

#[test]
fn everything_may_have_been_named_from_where_it_was_started() {
    for broken in [false, true] {
        let place = Place::new();
        let programs = Programs::of(&place);
        let here = place.file("");
        let port = holdfast_tests::machine::free_port();
        let address = format!("tcp:127.0.0.1:{port}");
        let daemon = Background { run_dir: place.file("run"), log: place.file("log") };
        let starting =
            place.instance().program("bin/supervisor").current_dir(&here).run_dir("run").spool_dir("spool");
        let starting = starting.listen(&address).args(&["--log", "log", "--pid-file", "pid", "--daemon"]);
        let outcome = starting.launch().finish_refused();
        outcome.assert_succeeded();
        let pid = daemon.pid();
        Connection::to(&address).say("arijort", "before");
        programs.renew();
        let words = if broken {
            // The next program finds nothing that it could go on with.
            let real = programs.real();
            programs.replace_by(&format!(
                "#!/bin/bash\nwords=($HOLDFAST_HANDOVER)\n\
                 if [ \"${{words[1]}}\" = go-on ]; then eval \"exec ${{words[2]}}</dev/null\"; fi\n\
                 exec {real} \"$@\""
            ));
            "starts everything anew"
        } else {
            DONE
        };
        kill(Pid::from_raw(pid), Signal::SIGUSR2).unwrap();
        until("it is another program", || daemon.says(words));
        until("it serves", || {
            let outcome = command_in(&daemon.run_dir, "status", &["--json"]);
            outcome.code() == Some(0) && outcome.stdout.contains("\"running\"")
        });
        assert_eq!(daemon.pid(), pid, "no other process");
        Connection::to(&address).say("arijort", "after");
        assert_eq!(daemon.status()["totals"]["messages"], 2);
        assert_eq!(std::fs::read_to_string(place.file("pid")).unwrap().trim(), pid.to_string());
        if !broken {
            assert_eq!(program_of(pid), std::fs::canonicalize(programs.supervisor()).unwrap());
        }
        command_in(&daemon.run_dir, "stop", &[]).assert_succeeded();
        drop(daemon);
        place.no_process_left();
    }
}
