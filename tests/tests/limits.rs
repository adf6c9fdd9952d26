//! When the machine gives less than is asked for: descriptors, processes, disk space, memory. A clear sentence, nothing
//! lost, nothing half-done.

use std::fs;
use std::mem::offset_of;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use common::layout::{Header, Supervision};
use holdfast_tests::connection::Receipt;
use holdfast_tests::load::Load;
use holdfast_tests::machine::{PidsLimit, mount_small, skip, with_private_mounts};
use holdfast_tests::outcome::run;
use holdfast_tests::place::program;
use holdfast_tests::processes::children_of;
use holdfast_tests::{Connection, DEADLINE, Instance, Place, eventually, journal, until};

// ---- Descriptors ------------------------------------------------------------------------------------------------------

#[test]
fn too_few_descriptors_are_a_sentence() {
    for most in [16, 24, 32, 48, 63] {
        let place = Place::new();
        let outcome = place.instance().after(&format!("ulimit -n {most}")).run();
        outcome.assert_failed(1, &["open files", "ulimit -n"]);
        place.no_process_left();
    }
}

#[test]
fn whatever_the_limit_of_descriptors_it_serves_or_says_why_not() {
    let mut served = 0;
    for most in [64, 72, 80, 100, 256] {
        let place = Place::new();
        let mut instance = place.instance().workers(50).after(&format!("ulimit -n {most}")).launch();
        until("it serves or ends", || instance.stdout().contains('\n') || instance.ended().is_some());
        if instance.ended().is_some() {
            instance.finish().assert_failed(1, &[]);
        } else {
            instance.wait_until_serving();
            instance.say("served");
            assert_eq!(instance.books_agree().len(), 1);
            instance.stop();
            served += 1;
        }
        place.no_process_left();
    }
    assert!(served > 0);
}

// ---- Core files, and the size of files ---------------------------------------------------------------------------------

#[track_caller]
fn cores(pid: i32) -> (String, String) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    let mut words = line.split_whitespace().map(str::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

#[test]
fn nobody_leaves_a_core_unless_it_is_wanted() {
    for (arguments, expected) in
        [(&[][..], "0"), (&["--core-size", "1MiB"], "1048576"), (&["--core-size", "1GiB"], "8388608")]
    {
        let place = Place::new();
        let starting = place.instance().args(arguments);
        let instance = starting.wrapped_by(&["prlimit", "--core=4194304:8388608"]).start();
        // Whoever takes the first checkpoint is gone at some moment.
        instance.wait_for_log("checkpoint 1:");
        let children = children_of(instance.pid());
        for pid in children.into_iter().chain([instance.pid()]) {
            assert_eq!(cores(pid), (expected.to_owned(), "8388608".to_owned()), "{arguments:?}");
        }
        instance.stop();
    }
}

#[test]
fn a_file_that_may_not_become_larger_is_an_error_and_no_death() {
    let place = Place::new();
    let instance = place.instance().wrapped_by(&["prlimit", "--fsize=5242880"]).start();
    let mut connection = instance.connect();
    let taken = fill(&mut connection, &"x".repeat(60_000));
    assert!(taken > 10, "{taken}");
    assert_eq!(connection.ask("print"), "hello world");
    drop(connection);
    assert!(instance.books_agree().len() >= taken);
    assert_eq!(instance.total("crashes"), 0);
    instance.stop();
    // A region that may not be made at all.
    let place = Place::new();
    let outcome = place.instance().wrapped_by(&["prlimit", "--fsize=1048576"]).run();
    outcome.assert_failed(1, &["region"]);
}

// ---- Processes --------------------------------------------------------------------------------------------------------

/// A group in which so many processes may be, if there can be one here.
fn group(test: &str, most: u32) -> Option<PidsLimit> {
    PidsLimit::new(most).map_err(|why| skip(test, &why)).ok()
}

#[test]
fn too_few_processes_for_the_pool_are_a_sentence() {
    for most in [30, 12, 8] {
        let Some(group) = group("a limit of processes", most) else { return };
        let place = Place::new();
        let outcome = place.instance().workers(60).after(&group.enter()).run();
        outcome.assert_failed(1, &["pids.max", "of 60"]);
        place.no_process_left();
        assert_eq!(group.count(), 0, "no half-started pool is left");
        // The place is as good as new.
        let instance = place.start();
        instance.say("served");
        instance.books_agree();
        instance.stop();
    }
}

#[test]
fn too_few_processes_for_the_supervisors_children_are_a_sentence() {
    for most in [1, 2, 3] {
        let Some(group) = group("a limit of processes", most) else { return };
        let place = Place::new();
        let outcome = place.instance().after(&group.enter()).run();
        outcome.assert_failed(1, &[]);
        place.no_process_left();
        assert_eq!(group.count(), 0);
    }
}

#[test]
fn a_limit_met_while_it_serves_is_a_visible_state_and_passes() {
    let Some(group) = group("a limit of processes", 40) else { return };
    let place = Place::new();
    let instance = place.instance().workers(8).after(&group.enter()).start();
    let before = group.count() as u32;
    group.set(before - 2);
    let pids = instance.worker_pids();
    pids[..4].iter().for_each(|pid| instance.kill_child(*pid));
    instance.wait_for_status("it says that something is wrong", |status| status["state"] == "degraded");
    instance.wait_for_log("cannot start more workers");
    instance.say("served meanwhile");
    group.set(before + 10);
    let status = instance.wait_for_rest();
    assert_eq!(status["workers"]["live"], 8);
    assert_eq!((&status["totals"]["crashes"], &status["totals"]["recoveries"]), (&4.into(), &4.into()));
    instance.books_agree();
    instance.stop();
}

// ---- Disk space -------------------------------------------------------------------------------------------------------

/// With a small file system at `PLACE/small`, if there can be one here.
fn with_small(test: &str, size: u64, body: impl FnOnce(&Place, &Path) + Send + 'static) {
    let made = with_private_mounts(move || {
        let place = Place::new();
        let small = place.file("small");
        let _mounted = mount_small(&small, size);
        body(&place, &small);
    });
    if let Err(why) = made {
        skip(test, &why);
    }
}

#[test]
fn no_room_for_the_region_is_a_sentence() {
    with_small("a full file system", 3 << 20, |place, small| {
        let starting = || place.instance().run_dir(small.join("run"));
        let outcome = starting().run();
        outcome.assert_failed(1, &["region", "--region-size"]);
        let left: Vec<_> =
            fs::read_dir(small.join("run")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("region")), "{left:?}");
        // What the sentence says to do helps.
        let instance = starting().region_size("1MiB").start();
        instance.say("served");
        instance.stop();
    });
}

/// As a supervisor leaves a region that dies while its space is being reserved: only what is not zero is there.
fn make_incomplete(region: &Path) {
    let mut bytes = fs::read(region).unwrap();
    bytes[offset_of!(Header, supervision) + offset_of!(Supervision, incomplete)] = 1;
    fs::remove_file(region).unwrap();
    let file = fs::File::create_new(region).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (page, bytes) in
        bytes.chunks(4096).enumerate().filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0))
    {
        file.write_all_at(bytes, page as u64 * 4096).unwrap();
    }
}

#[test]
fn a_region_without_all_of_its_space_is_given_it_before_anybody_is_served() {
    with_small("a full file system", 6 << 20, |place, small| {
        let starting = || place.instance().run_dir(small.join("run")).region_size("4MiB");
        let instance = starting().start();
        instance.say("before");
        instance.stop();
        let region = small.join("run/region");
        make_incomplete(&region);
        let filler = small.join("filler");
        let room = nix::sys::statvfs::statvfs(small).unwrap();
        let free = room.blocks_available() * room.fragment_size();
        fs::write(&filler, vec![0_u8; free as usize - (1 << 20)]).unwrap();
        starting().run().assert_failed(1, &["cannot reserve", "--region-size"]);
        assert!(region.exists(), "there may be something in it");
        fs::remove_file(&filler).unwrap();
        let instance = starting().start();
        instance.say("after");
        assert_eq!(instance.wait_for_rest()["totals"]["messages"], 2);
        instance.stop();
        let metadata = fs::metadata(&region).unwrap();
        assert_eq!(metadata.blocks() * 512, metadata.len());
        run(program("recovery").arg("verify").arg(&region)).assert_succeeded();
    });
}

/// Sends until the answer is `error full`; gives how many were taken.
#[track_caller]
fn fill(connection: &mut Connection, message: &str) -> usize {
    for taken in 0..1_000_000 {
        let reply = connection.ask(&format!("arijort:{message}"));
        if Receipt::read(&reply).is_none() {
            assert!(reply.starts_with("error full: "), "{reply}");
            return taken;
        }
    }
    panic!("it never got full");
}

/// Sends until it is taken.
#[track_caller]
fn until_taken(connection: &mut Connection) {
    eventually(DEADLINE, "messages are taken again", || {
        let reply = connection.ask("arijort:again");
        if Receipt::read(&reply).is_some() { Ok(()) } else { Err(reply) }
    });
}

/// What a full spool must not change: the books, and the connection.
#[track_caller]
fn full_and_empty_again(instance: &Instance, make_room: impl FnOnce()) {
    let mut connection = instance.connect();
    let long = "x".repeat(3000);
    let taken = fill(&mut connection, &long);
    assert!(taken > 0, "there was room in the beginning");
    // Shorter ones may still fit; then nothing does, and the connection goes on.
    let short = fill(&mut connection, "s");
    assert_eq!(connection.ask("print"), "hello world");
    for _ in 0..10 {
        connection.send("arijort:no room\n");
        connection.expect_error("full");
    }
    assert!(instance.total("errors") >= 12);
    assert_eq!(instance.total("messages") as usize, taken + short);
    make_room();
    until_taken(&mut connection);
    drop(connection);
    let records = instance.books_agree();
    assert_eq!(records.iter().filter(|record| record.message == "no room").count(), 0);
    assert_eq!(instance.total("crashes"), 0);
}

#[test]
fn a_full_disk_refuses_messages_until_there_is_room() {
    with_small("a full file system", 6 << 20, |place, small| {
        let filler = small.join("filler");
        fs::write(&filler, vec![0_u8; 3 << 20]).unwrap();
        let instance = place.instance().spool_dir(small.join("spool")).start();
        full_and_empty_again(&instance, || fs::remove_file(&filler).unwrap());
        instance.stop();
    });
}

#[test]
fn a_disk_filled_to_the_last_byte_by_others_loses_nothing() {
    with_small("a full file system", 6 << 20, |place, small| {
        let filler = small.join("filler");
        // An explicit limit beyond the disk: only the file system itself says no.
        let starting = || place.instance().spool_dir(small.join("spool")).args(&["--spool-limit", "1GiB"]);
        let instance = starting().start();
        let load = Load::on(&instance.listen[0], 3);
        load.wait_for_more(50);
        // Everything that is left.
        let mut file = fs::File::create(&filler).unwrap();
        let chunk = [0_u8; 4096];
        while std::io::Write::write(&mut file, &chunk).is_ok_and(|written| written > 0) {}
        drop(file);
        until("it is full", || {
            Receipt::read(&instance.connect().ask(&format!("foobar:{}", "y".repeat(3000)))).is_none()
        });
        let pids = instance.worker_pids();
        instance.kill_child(pids[0]);
        fs::remove_file(&filler).unwrap();
        load.wait_for_more(50);
        let ledger = load.stop();
        let records = instance.books_agree();
        ledger.check(&records);
        assert!(ledger.errors.iter().all(|error| error.starts_with("error full: ")), "{:?}", ledger.errors);
        instance.stop();
        assert_eq!(journal::read(&small.join("spool")), records);
    });
}

#[test]
fn a_full_disk_does_not_keep_an_instance_from_stopping_and_starting() {
    with_small("a full file system", 6 << 20, |place, small| {
        let starting = || place.instance().spool_dir(small.join("spool"));
        let instance = starting().start();
        let mut connection = instance.connect();
        let taken = fill(&mut connection, &"x".repeat(3000)) + fill(&mut connection, "s");
        drop(connection);
        instance.books_agree();
        instance.stop();
        let instance = starting().start();
        assert_eq!(instance.total("messages") as usize, taken);
        instance.wait_for_rest();
        instance.kill9();
        let instance = starting().start();
        assert_eq!(instance.books_agree().len(), taken);
        instance.stop();
    });
}

#[test]
fn the_spools_limit_is_kept_and_ends_when_files_go() {
    let place = Place::new();
    fs::create_dir(place.spool_dir()).unwrap();
    // Minutes of former times, which a shipper would remove once they are delivered.
    let old = place.spool_dir().join("20000000.dat");
    fs::write(&old, vec![b' '; 300 << 10]).unwrap();
    fs::write(place.spool_dir().join("sealed"), "20000000\n").unwrap();
    let instance = place.instance().args(&["--spool-limit", "600KiB"]).start();
    let size = || -> u64 {
        let names = journal::names(&place.spool_dir());
        let data = names.iter().filter(|name| name.ends_with(".dat"));
        data.map(|name| fs::metadata(place.spool_dir().join(name)).map_or(0, |file| file.len())).sum()
    };
    let status = instance
        .wait_for_status("the spool is known", |status| status["spool"]["bytes"].as_u64() >= Some(300 << 10));
    assert_eq!(status["spool"]["limit"], 600 << 10, "{status}");
    assert_eq!(status["spool"]["oldest_minute"], 20_000_000, "{status}");
    let mut connection = instance.connect();
    fill(&mut connection, &"x".repeat(3000));
    fill(&mut connection, "s");
    assert!(size() <= 600 << 10, "{}", size());
    assert!(size() >= 500 << 10, "the limit is used: {}", size());
    fs::remove_file(&old).unwrap();
    until_taken(&mut connection);
    drop(connection);
    instance.wait_for_status("the spool is counted again", |status| {
        status["spool"]["bytes"].as_u64() < Some(350 << 10) && status["spool"]["oldest_minute"] != 20_000_000
    });
    let records = journal::read(&place.spool_dir());
    assert_eq!(instance.total("messages"), records.len() as u64);
    instance.stop();
}

/// A program that runs another one under whose feet the disk fails: whatever is to be synced is not.
const DISK_FAILS: &str = r#"
import ctypes, os, struct, sys
LOAD, EQUAL, RETURN, ALLOW, ERRNO, EIO = 0x20, 0x15, 0x06, 0x7fff0000, 0x00050000, 5
number = {"x86_64": 75, "aarch64": 83}[os.uname().machine]  # fdatasync
steps = [(LOAD, 0, 0, 0), (EQUAL, 0, 1, number), (RETURN, 0, 0, ERRNO | EIO), (RETURN, 0, 0, ALLOW)]
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
filter = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(program))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, filter, 0, 0) == 0, os.strerror(ctypes.get_errno())
os.execv(sys.argv[1], sys.argv[1:])
"#;

#[test]
fn what_cannot_be_synced_is_neither_acknowledged_nor_called_refused() {
    let place = Place::new();
    let starting = place.instance().args(&["--sync", "always", "--checkpoint-interval", "0"]);
    let instance = starting.wrapped_by(&["python3", "-c", DISK_FAILS]).start();
    for count in 1..=3 {
        let mut connection = instance.connect();
        connection.send("arijort:on its way to the disk\n");
        connection.expect_end();
        assert_eq!(instance.total("messages"), count, "what stands in the journal is counted");
    }
    instance.connect().ask("print");
    assert_eq!(place.journal().len(), 3);
    instance.kill9();
    let instance = place.start();
    assert_eq!(instance.books_agree().len(), 3);
    instance.stop();
}

#[test]
fn a_limit_below_one_record_takes_nothing_and_says_so() {
    let place = Place::new();
    let instance = place.instance().args(&["--spool-limit", "1"]).start();
    let mut connection = instance.connect();
    for _ in 0..3 {
        connection.send("arijort:x\n");
        connection.expect_error("full");
    }
    drop(connection);
    assert!(instance.books_agree().is_empty());
    instance.stop();
    assert!(place.journal().is_empty());
}
