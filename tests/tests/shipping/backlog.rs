//! However much lies in the spool, the collector stays small.

use std::fs::File;
use std::io::Write as _;

use holdfast_tests::eventually;
use holdfast_tests::outcome::Running;

use crate::scene::{Scene, Server, seconds, terminate};

/// Memory that the collector may take, whatever it ships.
pub const MOST_MEMORY_KIB: u64 = 64 * 1024;

/// The most memory that a process has had so far, in KiB.
pub fn most_memory(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[track_caller]
fn stays_small(running: &Running) {
    let most = most_memory(running.pid()).expect("it runs");
    assert!(most < MOST_MEMORY_KIB, "it took {most} KiB");
}

#[test]
fn many_files_and_a_large_one_take_little_memory() {
    let scene = Scene::new();
    let server = Server::start(&scene, &["--discard"]);
    // Longer forms take as many MiB and files as they are told.
    let megabytes = seconds("HOLDFAST_BACKLOG_MIB", 192).as_secs();
    let files = seconds("HOLDFAST_BACKLOG_FILES", 5_000).as_secs();
    let mut large = File::create(scene.spool().join("1.dat")).unwrap();
    let block = "a line of sixty-three bytes, so that sixteen Ki of them are 1 Mi\n".repeat(16 * 1024);
    for _ in 0..megabytes {
        large.write_all(block.as_bytes()).unwrap();
    }
    for minute in 2..=files + 1 {
        scene.write(minute, "x\n");
    }
    let running = scene.start(&server, &["--parallel", "16"]);
    eventually(seconds("HOLDFAST_BACKLOG_SECONDS", 90), "all of it is delivered", || {
        stays_small(&running);
        let left = scene.names().len();
        if left == 0 { Ok(()) } else { Err(format!("{left} files are left")) }
    });
    stays_small(&running);
    terminate(running);
    let summary = server.summary();
    assert_eq!(summary["files"], files + 1);
    assert_eq!(summary["records"], files + megabytes * 16 * 1024);
    assert_eq!(scene.account().delivered, files + megabytes * 16 * 1024);
}
