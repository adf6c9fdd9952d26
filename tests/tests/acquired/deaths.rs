//! SIGKILL, to whoever asks and to the daemon, at any moment: nothing needs cleaning up.

use holdfast_tests::random::{Random, by_clock};

use super::*;

#[test]
fn a_front_end_killed_at_any_moment_leaves_nothing_in_the_way() {
    let place = Place::new();
    let _clean_up = CleanUp(&place);
    for delay in (0..40).step_by(4) {
        let mut front_end =
            asking(&place, "60s").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let began = Instant::now();
        until("it has come some way", || began.elapsed() >= Duration::from_millis(delay));
        front_end.kill().unwrap();
        front_end.wait().unwrap();
        greet(acquire(&place));
        the_daemon(&place);
        stop(&place);
    }
}

#[test]
fn a_daemon_killed_at_any_moment_is_followed_by_another() {
    let place = Place::new();
    let _clean_up = CleanUp(&place);
    greet(acquire(&place));
    for _ in 0..5 {
        supervisors(&place).iter().for_each(Process::kill);
        greet(acquire(&place));
    }
    stop(&place);
}

/// Those that ask while the daemon is killed.
const ASKING: usize = 8;

/// A moment that lies anywhere between its start and a while after it serves.
const LATEST_US: u64 = 60_000;

#[test]
fn a_daemon_killed_at_any_moment_of_its_start_leaves_a_port_or_a_sentence() {
    let seed = by_clock();
    let mut random = Random::new(seed);
    let place = Place::new();
    let _clean_up = CleanUp(&place);
    let mut before_it_served = 0;
    for round in 0..24 {
        let delay = Duration::from_micros(random.below(LATEST_US));
        let front_ends: Vec<Running> =
            (0..ASKING).map(|_| Running::start(&mut asking(&place, "60s"))).collect();
        let killed = kill_the_next_owner(&place, delay);
        let outcomes: Vec<Outcome> = front_ends.into_iter().map(Running::finish).collect();
        let announced = port_announced(&place, killed);
        before_it_served += usize::from(announced.is_none());
        let last = acquire(&place);
        greet(last);
        the_daemon(&place);
        for outcome in outcomes {
            let context = format!("seed {seed}, round {round}, killed after {delay:?}");
            match outcome.code() {
                // It was the killed one's as long as that lived, or it is the living one's.
                Some(0) => {
                    let port = port(&outcome);
                    assert!(port == last || announced == Some(port), "{context}: {outcome}");
                }
                _ => {
                    outcome.assert_failed(1, &["before it served"]);
                }
            }
        }
        stop(&place);
        std::fs::remove_file(place.file("log")).unwrap();
    }
    assert!(before_it_served > 0, "seed {seed}: all served before they were killed");
}

/// Waits until somebody owns the run directory, and kills that process so much later.
fn kill_the_next_owner(place: &Place, delay: Duration) -> i32 {
    let pid_file = place.run_dir().join("supervisor.pid");
    let owner = || {
        let text = std::fs::read_to_string(&pid_file).ok()?;
        Process::of(text.strip_suffix('\n')?.parse().ok()?)
            .filter(|process| process.name == "supervisor" && process.state != 'Z')
    };
    let found = eventually(DEADLINE, "there is an owner", || owner().ok_or_else(String::new));
    let began = Instant::now();
    while began.elapsed() < delay {
        std::hint::spin_loop();
    }
    found.kill();
    found.pid
}

/// The port on which a supervisor has said in the log that it serves, before anybody else was told.
fn port_announced(place: &Place, pid: i32) -> Option<u16> {
    let log = std::fs::read_to_string(place.file("log")).unwrap_or_default();
    let by = format!("supervisor[{pid}]:");
    let line = log.lines().find(|line| line.contains(&by) && line.contains("Running with "))?;
    line.rsplit_once(':')?.1.parse().ok()
}
