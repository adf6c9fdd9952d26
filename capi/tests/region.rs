//! C and Python share the region of a running instance: the examples, their deaths, and what else can be said to it.

mod tools;

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command};

use holdfast_tests::place::program;
use holdfast_tests::{Instance, Place, outcome};
use tools::{compiled, here, start, succeeded, with_library};

fn python(script: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg(here("../python").join(script));
    command
}

#[track_caller]
fn run(command: &mut Command) -> String {
    succeeded(&with_library(command).output().expect("it can be started"))
}

fn lines(child: &mut Child) -> Lines<BufReader<ChildStdout>> {
    BufReader::new(child.stdout.take().expect("it is a pipe")).lines()
}

#[track_caller]
fn says(lines: &mut Lines<BufReader<ChildStdout>>, expected: &str) {
    let line = lines.next().expect("it says something").expect("it is text");
    assert_eq!(line, expected);
}

#[track_caller]
fn all_is_well(place: &Place, instance: &Instance, crashes: u64) {
    instance.wait_for_status("the crashes are counted", |status| status["totals"]["crashes"] == crashes);
    instance.wait_for_status("nobody is attached", |status| status["attached"] == 0);
    outcome::run(program("recovery").arg("verify").arg(place.region())).assert_succeeded();
}

/// A place for compiled programs, and what shows the stock.
fn stock(directory: &Path) -> impl Fn(&Place, &[&str]) -> String {
    let program = compiled(directory, "examples/stock.c", true);
    move |place, arguments| run(Command::new(&program).arg(place.run_dir()).args(arguments))
}

#[test]
fn c_and_python_share_a_map() {
    let (place, directory) = (Place::new(), tempfile::tempdir().expect("a directory"));
    let instance = place.start();
    let in_c = stock(directory.path());
    let in_python =
        |arguments: &[&str]| run(python("examples/stock.py").arg(place.run_dir()).args(arguments));
    assert_eq!(in_c(&place, &["apples"]), "0 apples\n");
    assert_eq!(in_c(&place, &["apples", "7"]), "7 apples\n");
    assert_eq!(in_python(&["apples"]), "7 apples\n");
    assert_eq!(in_python(&["apples", "-3"]), "4 apples\n");
    assert_eq!(in_c(&place, &["apples"]), "4 apples\n");
    all_is_well(&place, &instance, 0);
    instance.stop();
}

#[test]
fn a_python_program_killed_in_a_transaction_is_repaired() {
    let (place, directory) = (Place::new(), tempfile::tempdir().expect("a directory"));
    let instance = place.start();
    let in_c = stock(directory.path());
    assert_eq!(in_c(&place, &["apples", "7"]), "7 apples\n");
    for crashes in 1..=3 {
        let mut victim = start(python("tests/thief.py").arg(place.run_dir()));
        says(&mut lines(&mut victim), "in the middle");
        victim.kill().expect("it is there");
        victim.wait().expect("it ends");
        // Its change is undone, and its lock is free: the next one goes on as if it had not been.
        assert_eq!(in_c(&place, &["apples"]), "7 apples\n");
        assert_eq!(in_c(&place, &["pears"]), "0 pears\n");
        all_is_well(&place, &instance, crashes);
    }
    instance.wait_for_log("ended without a farewell");
    instance.stop();
}

/// It is not told that the view were another process's.
#[test]
fn who_views_a_region_that_was_given_up_is_told_so() {
    let (place, directory) = (Place::new(), tempfile::tempdir().expect("a directory"));
    let instance = place.start();
    assert_eq!(stock(directory.path())(&place, &["apples", "7"]), "7 apples\n");
    let mut viewer = start(python("tests/viewer.py").arg(place.run_dir()));
    let mut said = lines(&mut viewer);
    let mut stdin = viewer.stdin.take().expect("it is a pipe");
    let mut look = |expected: &str| {
        writeln!(stdin).expect("it reads");
        says(&mut said, expected);
    };
    look("7");
    instance.stop_leaving_visitors();
    look("7");
    // One of another size takes its place.
    let instance = place.instance().region_size("8MiB").start();
    look("Refused");
    look("Refused");
    drop(stdin);
    succeeded(&viewer.wait_with_output().expect("it ends"));
    instance.stop();
}

#[test]
fn a_python_consumer_waits_for_a_c_producer() {
    let (place, directory) = (Place::new(), tempfile::tempdir().expect("a directory"));
    let instance = place.start();
    let producer = compiled(directory.path(), "examples/jobs.c", false);
    let mut consumer = start(python("examples/jobs.py").arg(place.run_dir()).args(["mill", "jobs", "60"]));
    let mut said = lines(&mut consumer);
    says(&mut said, "waiting");
    let mut producer = start(Command::new(producer).arg(place.run_dir()).args(["mill", "jobs"]));
    let mut stdin = producer.stdin.take().expect("it is a pipe");
    // More than the queue takes at a time: each waits for the other.
    (0..250).for_each(|number| writeln!(stdin, "job {number}").expect("it reads"));
    writeln!(stdin, "stop").expect("it reads");
    drop(stdin);
    (0..250).for_each(|number| says(&mut said, &format!("done: job {number}")));
    says(&mut said, "done: stop");
    succeeded(&producer.wait_with_output().expect("it ends"));
    succeeded(&consumer.wait_with_output().expect("it ends"));
    all_is_well(&place, &instance, 0);
    instance.stop();
}

#[test]
fn c_gets_a_code_and_a_sentence() {
    let (place, directory) = (Place::new(), tempfile::tempdir().expect("a directory"));
    let instance = place.start();
    let program = compiled(directory.path(), "tests/region_calls.c", false);
    run(Command::new(program).arg(place.run_dir()).arg(directory.path().join("nothing")));
    all_is_well(&place, &instance, 0);
    instance.stop();
}
