//! C and Python share blocks: the examples, and what else the languages' own tests say.

mod tools;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use client::block::Blocks;
use holdfast_tests::Place;
use tools::{compiled, here, start, succeeded, with_library};

const LIMIT: Duration = Duration::from_secs(60);

/// How long a consumer waits for more before it ends, in milliseconds and in seconds: longer than anything takes.
const QUIET_MS: &str = "60000";
const QUIET_S: &str = "60";

/// Gives a producer these lines, and takes what it says after each.
fn produce(program: &Path, directory: &Path, lines: &[&str]) -> String {
    let mut producer = start(Command::new(program).arg("weather").arg(directory));
    let mut stdin = producer.stdin.take().expect("it is a pipe");
    lines.iter().for_each(|line| writeln!(stdin, "{line}").expect("it reads"));
    drop(stdin);
    succeeded(&producer.wait_with_output().expect("it ends"))
}

#[test]
fn a_producer_in_c_and_consumers_in_c_and_python() {
    let place = tempfile::tempdir().expect("a directory");
    let directory = place.path().join("blocks");
    let producer = compiled(place.path(), "examples/producer.c", false);
    let consumer = compiled(place.path(), "examples/consumer.c", true);
    assert_eq!(produce(&producer, &directory, &["sunny"]), "version 1\n");

    let mut in_c = Command::new(consumer);
    let in_c = start(in_c.arg("weather").arg(&directory).arg(QUIET_MS));
    let mut in_python = Command::new("python3");
    let in_python = start(
        in_python.arg(here("../python/examples/consumer.py")).arg("weather").arg(&directory).arg(QUIET_S),
    );
    // One line longer than a file for "sunny" holds, so that both go over to another file.
    let long = "rain ".repeat(200);
    assert_eq!(produce(&producer, &directory, &[&long]), "version 2\n");
    let last = format!("version 2: {}", long.trim_end());
    let consumers = [in_c, in_python].map(|mut consumer| {
        // Whoever was started late sees the last alone.
        let stdout = BufReader::new(consumer.stdout.take().expect("it is a pipe"));
        let seen = stdout.lines().map_while(Result::ok).any(|line| line.trim_end() == last);
        (consumer, seen)
    });
    Blocks::open(&directory).and_then(|blocks| blocks.remove("weather", LIMIT)).expect("it can be removed");
    for (consumer, seen) in consumers {
        succeeded(&consumer.wait_with_output().expect("it ends"));
        assert!(seen);
    }
}

#[test]
fn c_gets_a_code_and_a_sentence() {
    let place = tempfile::tempdir().expect("a directory");
    let program = compiled(place.path(), "tests/calls.c", false);
    let output = with_library(Command::new(program).arg(place.path().join("blocks"))).output();
    succeeded(&output.expect("it can be started"));
}

#[test]
fn the_python_package_does_what_it_says() {
    let instance_place = Place::new();
    let instance = instance_place.start();
    let place = tempfile::tempdir().expect("a directory");
    let mut python = Command::new("python3");
    python
        .args(["-W", "error", "-m", "unittest", "discover", "--start-directory"])
        .arg(here("../python/tests"));
    python.env("HOLDFAST_TEST_DIR", place.path()).env("HOLDFAST_TEST_RUN_DIR", instance_place.run_dir());
    let output = with_library(&mut python).output();
    succeeded(&output.expect("python3 is there"));
    instance.stop();
}
