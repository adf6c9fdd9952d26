//! Blocks shared by real processes that are killed at any moment.
//!
//! `HOLDFAST_CHURN_SECONDS` and `HOLDFAST_CHURN_ALIVE` make the churn longer and denser than CI has time for.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use client::block::{Blocks, Options};
use holdfast_tests::outcome::{Running, run};
use holdfast_tests::place::program;
use holdfast_tests::random::Random;
use holdfast_tests::{DEADLINE, Place, eventually, programs, until};

const NAMES: u64 = 20;

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn block(command: &str, directory: &Path, name: &str) -> Command {
    let mut block = program("block");
    block.arg(command).arg(name).arg("--dir").arg(directory);
    block
}

/// `block produce`, with this as its stdin.
fn produce(place: &Place, directory: &Path, name: &str, content: &str) -> Command {
    let mut block = block("produce", directory, name);
    block.stdin(File::open(place.write("stdin", content)).expect("a file that was just written"));
    block
}

#[test]
fn what_is_produced_is_consumed_listed_and_removed() {
    let place = Place::new();
    let directory = place.run_dir().join("blocks");
    run(&mut block("consume", &directory, "weather")).assert_failed(1, &["no block"]);
    run(program("block").arg("list").arg("--dir").arg(&directory)).assert_succeeded();
    for content in ["sunny", "cloudy, and then rain"] {
        run(&mut produce(&place, &directory, "weather", content)).assert_succeeded();
        let outcome = run(&mut block("consume", &directory, "weather"));
        assert_eq!(outcome.assert_succeeded().stdout, content);
    }
    run(&mut produce(&place, &directory, "empty", "")).assert_failed(1, &["nothing to write"]);
    run(produce(&place, &directory, "weather", "too long").args(["--size", "4"]))
        .assert_failed(1, &["--size"]);
    let listed = run(program("block").arg("list").arg("--dir").arg(&directory));
    assert_eq!(listed.assert_succeeded().stdout, "weather\t21\t2\n");
    for name in ["../weather", "/etc/passwd", ".hidden", &"x".repeat(201)] {
        run(&mut block("consume", &directory, name)).assert_failed(2, &["not a name"]);
    }
    run(&mut block("remove", &directory, "weather")).assert_succeeded();
    run(&mut block("consume", &directory, "weather")).assert_failed(1, &["no block"]);
}

#[test]
fn directories_and_files_of_others_are_refused() {
    let place = Place::new();
    let directory = place.run_dir();
    run(&mut produce(&place, &directory, "a", "mine")).assert_succeeded();
    let link = place.file("link");
    std::os::unix::fs::symlink(&directory, &link).expect("a link can be made");
    run(&mut block("consume", &link, "a")).assert_failed(2, &["symbolic link"]);
    std::os::unix::fs::symlink(directory.join("a"), directory.join("b")).expect("a link can be made");
    run(&mut block("consume", &directory, "b")).assert_failed(1, &["symbolic link"]);
    run(&mut produce(&place, &directory, "b", "x")).assert_failed(1, &["symbolic link"]);
    if nix::unistd::geteuid().is_root() {
        let nobody = Some(nix::unistd::Uid::from_raw(65534));
        nix::unistd::chown(&directory.join("a"), nobody, None).expect("root gives files away");
        run(&mut block("consume", &directory, "a")).assert_failed(1, &["another user"]);
        nix::unistd::chown(&directory, nobody, None).expect("root gives directories away");
        run(&mut block("consume", &directory, "a")).assert_failed(2, &["belongs to uid 65534"]);
        run(&mut produce(&place, &directory, "c", "x")).assert_failed(2, &["belongs to uid 65534"]);
    }
}

#[test]
fn a_follower_prints_what_comes() {
    let place = Place::new();
    let directory = place.run_dir();
    run(&mut produce(&place, &directory, "news", "one.")).assert_succeeded();
    let mut follower = Running::start(block("consume", &directory, "news").arg("--follow"));
    until("the first is printed", || follower.stdout() == "one.");
    run(&mut produce(&place, &directory, "news", "two.")).assert_succeeded();
    until("the second is printed", || follower.stdout() == "one.two.");
    let long = "long".repeat(100_000);
    run(&mut produce(&place, &directory, "news", &long)).assert_succeeded();
    until("one that needs another file is printed", || follower.stdout().len() == 8 + long.len());
    run(&mut block("remove", &directory, "news")).assert_succeeded();
    let outcome = follower.finish_within(DEADLINE);
    outcome.assert_failed(1, &["was removed"]);
}

/// Nobody marks such a file as retired: who sleeps on it, and who writes it, looks at the name.
#[test]
fn a_file_that_was_taken_away_by_hand_is_missed_by_who_waits_and_by_who_writes() {
    let place = Place::new();
    let directory = place.run_dir();
    run(&mut produce(&place, &directory, "news", "one.")).assert_succeeded();
    let mut follower = Running::start(block("consume", &directory, "news").arg("--follow"));
    until("the first is printed", || follower.stdout() == "one.");
    let blocks = Blocks::create(&directory).expect("the directory is there");
    let mut producer = blocks.producer("news", Options::default()).expect("it can be written");
    producer.publish(b"two.", DEADLINE).expect("it is written");
    std::fs::remove_file(directory.join("news")).expect("it is there");
    follower.finish_within(DEADLINE).assert_failed(1, &["was removed"]);
    until("another file is made", || {
        producer.publish(b"three.", DEADLINE).expect("it is written, whatever the name leads to");
        directory.join("news").exists()
    });
    let outcome = run(&mut block("consume", &directory, "news"));
    assert_eq!(outcome.assert_succeeded().stdout, "three.");
}

/// One who makes pictures and three who look at them. Each is killed and started again, and the others go on.
#[test]
fn pictures_go_on_whoever_is_killed() {
    let place = Place::new();
    let directory = place.run_dir();
    let frames = |side: &str| {
        let mut command = Command::new(programs::frames());
        command.args([side, "camera", "--rate", "30", "--size", "8MB", "--dir"]).arg(&directory);
        Running::start(&mut command)
    };
    let seen = |consumer: &Running| consumer.stdout().lines().count();
    let mut producer = frames("produce");
    until("there are pictures", || directory.join("camera").exists());
    let mut consumers: Vec<Running> = (0..3).map(|_| frames("consume")).collect();
    let all_go_on = |consumers: &[Running], what: &str| {
        let before: Vec<usize> = consumers.iter().map(seen).collect();
        until(what, || consumers.iter().zip(&before).all(|(consumer, before)| seen(consumer) >= before + 5));
    };
    all_go_on(&consumers, "everyone sees pictures");
    for turn in 0..3 {
        consumers[turn].kill();
        consumers[turn] = frames("consume");
        all_go_on(&consumers, "everyone goes on without a consumer");
        producer.kill();
        producer = frames("produce");
        all_go_on(&consumers, "everyone goes on with the next producer");
    }
    for mut consumer in consumers {
        assert!(consumer.ended().is_none(), "{}", consumer.stderr());
        consumer.kill();
    }
    producer.kill();
    until("nobody is left", || producer.ended().is_some());
    assert_eq!(files_in(&directory), ["camera"]);
}

/// Producers, consumers and some who remove are started and killed at random; none of them ever sees what must not be,
/// and afterwards every name is usable and nothing is left.
#[test]
fn a_thousand_are_killed_and_every_name_is_usable() {
    let place = Place::new();
    let directory = place.run_dir().join("blocks");
    let time = Duration::from_secs(variable("HOLDFAST_CHURN_SECONDS", 8));
    let most = variable("HOLDFAST_CHURN_ALIVE", 24) as usize;
    let mut random = Random::new(variable("HOLDFAST_CHURN_SEED", 1));
    let mut alive = Crowd::default();
    let churn = programs::churn();
    let (began, mut started) = (Instant::now(), 0_u64);
    let descriptors = open_descriptors();
    while began.elapsed() < time {
        started += 1;
        let seed = random.word();
        let mut command = Command::new(&churn);
        command
            .arg(&directory)
            .arg(NAMES.to_string())
            .arg(seed.to_string())
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        alive.0.push(command.spawn().expect("it can be started"));
        while alive.0.len() > most || (alive.0.len() > most / 2 && random.below(2) == 0) {
            let victim = random.below(alive.0.len() as u64) as usize;
            bury(alive.0.swap_remove(victim));
        }
    }
    while let Some(child) = alive.0.pop() {
        bury(child);
    }
    println!("{started} were started and killed in {:.1} s", began.elapsed().as_secs_f64());

    let blocks = Blocks::create(&directory).expect("the directory is as it was");
    for name in (0..NAMES).map(|number| format!("block-{number}")) {
        let mut producer = blocks.producer(&name, Options::default()).expect("a name");
        let content = vec![7; 600_000];
        producer.publish(&content, DEADLINE).expect("every name is usable");
        let mut read = Vec::new();
        blocks.consumer(&name).expect("it is there").read(&mut read).expect("it can be read");
        assert!(read == content, "{name}");
        blocks.remove(&name, DEADLINE).expect("it can be removed");
    }
    assert_eq!(files_in(&directory), Vec::<String>::new());
    drop(blocks);
    assert_eq!(open_descriptors(), descriptors);
    place.no_process_left();
}

/// Those who are alive; none of them outlives the test, however it ends.
#[derive(Default)]
struct Crowd(Vec<std::process::Child>);

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // An error says that it is dead already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Kills one, who must have been alive.
#[track_caller]
fn bury(mut child: std::process::Child) {
    let ended = child.try_wait().expect("a child can be waited for");
    // An error says that it is dead already.
    let _ = child.kill();
    let output = child.wait_with_output().expect("a child can be waited for");
    assert!(ended.is_none(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// This process's descriptors in the shared memory and temporary directories: those of the test's own making.
fn open_descriptors() -> usize {
    let descriptors = std::fs::read_dir("/proc/self/fd").expect("it is there").flatten();
    let paths = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    paths.filter(|path| path.to_string_lossy().contains("block-")).count()
}

fn files_in(directory: &Path) -> Vec<String> {
    // What a dead one has left is removed by the next who makes a file; so one is made.
    let last = || -> Result<Vec<PathBuf>, String> {
        let entries = std::fs::read_dir(directory).map_err(|error| error.to_string())?;
        Ok(entries.flatten().map(|entry| entry.path()).collect())
    };
    let paths = eventually(DEADLINE, "the directory can be read", last);
    let mut names: Vec<String> =
        paths.iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
    names.sort();
    names
}
