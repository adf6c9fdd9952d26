//! C and Python share blocks: the examples, and what else the languages' own tests say.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use client::block::Blocks;
use holdfast_tests::programs::libraries;

const LIMIT: Duration = Duration::from_secs(60);

/// How long a consumer waits for more before it ends, in milliseconds and in seconds: longer than anything takes.
const QUIET_MS: &str = "60000";
const QUIET_S: &str = "60";

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn compiled(directory: &Path, source: &str, statically: bool) -> PathBuf {
    let program = directory.join(format!("{}-{statically}", source.replace(['/', '.'], "-")));
    let mut command = Command::new("cc");
    command.args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-D_POSIX_C_SOURCE=200809L"]);
    command.arg("-I").arg(here("include")).arg(here(source)).arg("-o").arg(&program);
    if statically {
        command.arg(libraries().join("libholdfast.a")).args([
            "-lgcc_s",
            "-lutil",
            "-lrt",
            "-lpthread",
            "-lm",
            "-ldl",
        ]);
    } else {
        command.arg("-L").arg(libraries()).arg("-lholdfast");
    }
    succeeded(&command.output().expect("a C compiler is there"));
    program
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn with_library(command: &mut Command) -> &mut Command {
    command
        .env("LD_LIBRARY_PATH", libraries())
        .env("HOLDFAST_LIBRARY", libraries().join("libholdfast.so"))
        .env("PYTHONPATH", here("../python/src"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
}

fn start(command: &mut Command) -> Child {
    let command = with_library(command).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("it can be started")
}

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
    let place = tempfile::tempdir().expect("a directory");
    let mut python = Command::new("python3");
    python
        .args(["-W", "error", "-m", "unittest", "discover", "--start-directory"])
        .arg(here("../python/tests"));
    let output = with_library(python.env("HOLDFAST_TEST_DIR", place.path())).output();
    succeeded(&output.expect("python3 is there"));
}
