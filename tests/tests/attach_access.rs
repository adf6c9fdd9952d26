//! Who may join, and what he can do then: `--policy`.

use std::path::PathBuf;

use holdfast_tests::machine::{is_root, skip};
use holdfast_tests::{Instance, Place, Visitor, outcome, until};
use nix::sys::signal::Signal;

/// `nobody`, and one that is in no list of users.
const NOBODY: u32 = 65534;
const NUMBER: u32 = 61234;

/// A place that other users can reach, and what keeps the test from being made.
fn open_place() -> Option<Place> {
    if !is_root() {
        skip("other users", "not the superuser");
        return None;
    }
    let place = Place::new();
    place.let_others_through();
    Some(place)
}

fn policy(place: &Place, text: &str) -> PathBuf {
    place.write("policy.toml", text)
}

#[track_caller]
fn start_with(place: &Place, text: &str) -> Instance {
    place.instance().arg("--policy").arg(policy(place, text)).start()
}

#[test]
fn without_a_policy_nobody_else_gets_near() {
    let Some(place) = open_place() else { return };
    let instance = place.start();
    let mut other = Visitor::start_as(NOBODY, "", &place.run_dir());
    for way in ["attach", "view"] {
        other.must_fail(way, "Permission denied");
    }
    Visitor::attached(&place.run_dir()).must("detach", "detached");
    drop(other);
    instance.stop();
}

#[test]
fn the_policy_says_who_may_what() {
    let Some(place) = open_place() else { return };
    let text =
        format!("[users]\nnobody = 'write'\n{NUMBER} = 'read'\n[groups]\n62001 = 'write'\n62002 = 'deny'\n");
    let instance = start_with(&place, &text);
    let run_dir = place.run_dir();

    let mut writer = Visitor::start_as(NOBODY, "", &run_dir);
    assert!(writer.ask("attach").starts_with("attached "));
    writer.must("open 4", "opened");
    writer.must("transfer 0 1 5", "done");

    let mut reader = Visitor::start_as(NUMBER, "", &run_dir);
    reader.must_fail("attach", "may only read");
    reader.must("view", "viewing");
    reader.must("sum", "4000");

    for (groups, way, words) in [
        ("62001", "attach", ""),
        ("62001,62002", "attach", "may not join here (--policy"),
        ("1", "view", "may not join here (--policy"),
    ] {
        let mut member = Visitor::start_as(NUMBER + 1, groups, &run_dir);
        if words.is_empty() {
            assert!(member.ask(way).starts_with("attached "), "{groups}");
            member.must("detach", "detached");
        } else {
            member.must_fail(way, words);
        }
    }
    instance.wait_for_log("was denied; it may nothing");
    instance.wait_for_log("was denied; it may read");

    // Status is reading; the rest is not for others.
    for (command, code) in [("status", 0), ("stop", 1), ("reload", 1)] {
        let outcome = as_user(NUMBER, command, &place);
        assert_eq!(outcome.code(), Some(code), "{command}: {outcome}");
    }

    // Another user's death is a death.
    writer.must("hold", "holding");
    writer.kill();
    let mut witness = Visitor::attached(&run_dir);
    witness.must("transfer 0 1 5", "done");
    reader.must("sum", "4000");
    instance.wait_for_status("it is repaired", |status| status["totals"]["crashes"] == 1);
    witness.must("detach", "detached");
    drop((witness, writer, reader));
    instance.stop();
}

fn as_user(user: u32, command: &str, place: &Place) -> outcome::Outcome {
    let id = user.to_string();
    let mut setpriv = std::process::Command::new("setpriv");
    setpriv.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
    setpriv.arg(holdfast_tests::programs::path("supervisor"));
    outcome::run(setpriv.arg(command).arg("--run-dir").arg(place.run_dir()))
}

#[test]
fn what_is_to_be_read_cannot_be_written_through() {
    let Some(place) = open_place() else { return };
    let instance = start_with(&place, &format!("[users]\nnobody = 'write'\n{NUMBER} = 'read'\n"));
    let mut reader = Visitor::start_as(NUMBER, "", &place.run_dir());
    reader.must("probe read", "cannot write, cannot open, cannot map, cannot truncate");
    reader.must_fail("probe write", "may only read");
    drop(reader);
    instance.stop();
}

#[test]
fn a_reader_waits_without_a_trace() {
    let Some(place) = open_place() else { return };
    let instance = start_with(&place, "others = 'read'\n");
    let mut writer = Visitor::attached(&place.run_dir());
    writer.must("open 4", "opened");
    let mut reader = Visitor::start_as(NOBODY, "", &place.run_dir());
    reader.must("view", "viewing");
    writer.must("hold", "holding");
    // It comes back empty-handed when the time is over, and finds what it wants when there is something.
    reader.must_fail("sum", "");
    reader.tell("sum");
    assert_eq!(writer.ask("drop"), "released");
    assert_eq!(reader.hear(), "4000");
    writer.must("detach", "detached");
    drop((writer, reader));
    instance.stop();
}

#[test]
fn a_reload_reads_the_policy_again() {
    let Some(place) = open_place() else { return };
    let instance = start_with(&place, "");
    let mut visitor = Visitor::start_as(NOBODY, "", &place.run_dir());
    visitor.must_fail("attach", "");
    policy(&place, "[users]\nnobody = 'write'\n");
    instance.signal(Signal::SIGHUP);
    until("nobody may", || visitor.ask("attach").starts_with("attached "));
    visitor.must("open 4", "opened");

    // What is wrong changes nothing, and is said.
    policy(&place, "[user]\nnobody = 'deny'\n");
    let outcome = instance.command("reload", &[]);
    outcome.assert_failed(1, &["did you mean \"users\"?"]);
    let mut second = Visitor::start_as(NOBODY, "", &place.run_dir());
    assert!(second.ask("attach").starts_with("attached "));
    second.must("detach", "detached");

    // Whoever is attached stays so, and can leave.
    policy(&place, "others = 'deny'\n");
    instance.command("reload", &[]).assert_succeeded();
    second.must_fail("attach", "");
    visitor.must("transfer 0 1 5", "done");
    visitor.must("detach", "detached");
    instance.wait_for_status("it has left", |status| status["attached"] == 0);
    assert_eq!(instance.total("crashes"), 0);
    drop((visitor, second));
    instance.stop();
}

#[test]
fn a_policy_that_is_wrong_keeps_an_instance_from_starting() {
    let place = Place::new();
    let policy = policy(&place, "\n[user]\nbin = 'read'\n");
    for check in [&["--check-config"][..], &[]] {
        let outcome = place.instance().arg("--policy").arg(&policy).args(check).run();
        outcome.assert_failed(2, &["policy.toml line 2", "did you mean \"users\"?"]);
    }
}
