//! Options after `--` come before those that `acquired` has of its own.

use super::*;

/// `acquired` with options of its own and others after `--`.
fn with(place: &Place, own: &[&str], given: &[&str]) -> Command {
    let mut command = program("acquired");
    command.args(own);
    let mut command = for_a_small_daemon(command, place);
    command.args(given);
    command
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[test]
fn options_after_the_dashes_replace_the_front_end_s() {
    let place = Place::new();
    let _clean_up = CleanUp(&place);
    let (log, other_log, run_dir) =
        (text(&place.file("log")), text(&place.file("other")), text(&place.run_dir()));
    let own = ["-l", &log, "--idle", "60s", "--run-dir", &run_dir];
    let given = ["--log", &other_log, "--idle-exit=1s", "--daemon", "--run-dir", &run_dir];
    greet(port(&run(&mut with(&place, &own, &given))));
    assert!(!place.file("log").exists() && place.file("other").exists());
    nobody_is_left(&place);
}

#[test]
fn a_run_directory_after_the_dashes_is_where_the_daemon_is_asked() {
    let place = Place::new();
    let _clean_up = CleanUp(&place);
    let (log, run_dir) = (text(&place.file("log")), text(&place.run_dir()));
    let ask = || port(&run(&mut with(&place, &["-l", &log, "--idle", "60s"], &["--run-dir", &run_dir])));
    let first = ask();
    assert_eq!(ask(), first);
    assert_eq!(acquire(&place), first);
    stop(&place);
}

#[test]
fn the_environment_says_where_the_daemon_is_as_for_the_supervisor_s_commands() {
    let place = Place::new();
    let _clean_up = CleanUp(&place);
    let log = text(&place.file("log"));
    let ask = || {
        port(&run(with(&place, &["-l", &log, "--idle", "60s"], &[]).env("HOLDFAST_RUN_DIR", place.run_dir())))
    };
    let first = ask();
    assert_eq!(ask(), first);
    assert_eq!(acquire(&place), first);
    stop(&place);
}

/// Whoever answers there may be anybody.
#[test]
fn nobody_is_asked_through_a_link() {
    let place = Place::new();
    let _clean_up = CleanUp(&place);
    acquire(&place);
    let link = place.file("link");
    std::os::unix::fs::symlink(place.run_dir(), &link).unwrap();
    let link = text(&link);
    run(&mut with(&place, &["--run-dir", &link], &[])).assert_failed(2, &[&link]);
    stop(&place);
}

#[test]
fn what_contradicts_or_is_no_option_is_a_usage_error() {
    let place = Place::new();
    let (run_dir, other) = (text(&place.run_dir()), text(&place.file("other")));
    let own = ["--run-dir", &run_dir];
    for (given, word) in [
        (&["--run-dir", &other][..], "name it once"),
        (&["--daemon=false"][..], "--daemon=false"),
        (&["--no-such-option"][..], "--no-such-option"),
        (&["--check-config"][..], "only options"),
        (&["--help"][..], "only options"),
    ] {
        run(&mut with(&place, &own, given)).assert_failed(2, &[word]);
    }
    let mut command = program("acquired");
    run(command.args(own).args(["--", "stop"])).assert_failed(2, &["only options"]);
    nobody_is_left(&place);
}
