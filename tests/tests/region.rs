//! A region that is not what it should be: refused with what to do, or survived, and never a crash.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use common::layout::{Geometry, HEADER_SIZE, SLOT_SIZE};
use holdfast_tests::load::Load;
use holdfast_tests::outcome::run;
use holdfast_tests::place::program;
use holdfast_tests::processes::children_of;
use holdfast_tests::random::Random;
use holdfast_tests::{Instance, Outcome, Place, until, within};

/// A place whose instance took three messages and stopped, or was killed.
fn used(clean: bool) -> Place {
    let place = Place::new();
    let instance = place.start();
    (0..3).for_each(|_| assert!(instance.say("before") > 0));
    instance.wait_for_rest();
    if clean {
        instance.stop();
    } else {
        instance.kill9();
    }
    place
}

#[track_caller]
fn assert_refused(place: &Place, words: &[&str]) -> Outcome {
    let outcome = place.instance().run();
    outcome.assert_failed(4, &[&[place.region().to_string_lossy().as_ref()], words].concat());
    place.no_process_left();
    // The tool for regions says the same.
    let verified = run(program("recovery").arg("verify").arg(place.region()));
    verified.assert_no_panic();
    assert_eq!(verified.code(), Some(4), "{verified}");
    outcome
}

/// What the sentence says to do: the journal has everything that was acknowledged.
#[track_caller]
fn assert_serves_with_another(place: &Place) {
    fs::rename(place.region(), place.run_dir().join("region.refused")).unwrap();
    let instance = place.start();
    instance.say("after");
    instance.wait_for_rest();
    instance.stop();
    let messages: Vec<_> = place.journal().into_iter().map(|record| record.message).collect();
    assert_eq!(messages, ["before", "before", "before", "after"]);
}

#[test]
fn a_truncated_region_is_refused() {
    for length in [0, 1, 100, 4096, 1 << 20, (4 << 20) - 1, (4 << 20) - 4096] {
        let place = used(length % 2 == 0);
        File::options().write(true).open(place.region()).unwrap().set_len(length).unwrap();
        assert_refused(&place, &["move the file away"]);
        assert_eq!(fs::metadata(place.region()).unwrap().len(), length, "it is left as it is");
        if length == 100 {
            assert_serves_with_another(&place);
        }
    }
}

#[test]
fn a_region_that_grew_is_refused() {
    let place = used(true);
    File::options().write(true).open(place.region()).unwrap().set_len(8 << 20).unwrap();
    assert_refused(&place, &["move the file away"]);
}

#[test]
fn garbage_is_refused() {
    for byte in [0x00, 0x55, 0xff] {
        let place = used(true);
        fs::write(place.region(), vec![byte; 4 << 20]).unwrap();
        assert_refused(&place, &["move the file away"]);
        if byte == 0xff {
            assert_serves_with_another(&place);
        }
    }
}

#[test]
fn another_version_is_refused_and_named() {
    let place = used(true);
    let file = File::options().write(true).open(place.region()).unwrap();
    file.write_all_at(&77_u32.to_le_bytes(), 8).unwrap();
    assert_refused(&place, &["version is 77", "move the file away"]);
    assert_serves_with_another(&place);
}

#[test]
fn something_else_under_its_name_is_refused() {
    for what in ["a directory", "a pipe", "a link to a device"] {
        let place = used(true);
        fs::remove_file(place.region()).unwrap();
        match what {
            "a directory" => fs::create_dir(place.region()).unwrap(),
            "a pipe" => nix::unistd::mkfifo(&place.region(), nix::sys::stat::Mode::S_IRWXU).unwrap(),
            _ => std::os::unix::fs::symlink("/dev/zero", place.region()).unwrap(),
        }
        eprintln!("{what}");
        place.instance().run().assert_failed(4, &[&place.region().to_string_lossy()]);
        place.no_process_left();
    }
}

#[test]
fn a_region_of_another_boot_that_was_in_use_is_refused_without_a_checkpoint() {
    let place = used(false);
    let _ = fs::remove_dir_all(place.spool_dir().join("checkpoint"));
    let file = File::options().read(true).write(true).open(place.region()).unwrap();
    // Where the layout has the boot's id: at the supervisor's own words, after its count of lives.
    let offset = 128 + 8;
    let mut id = [0_u8; 16];
    file.read_exact_at(&mut id, offset).unwrap();
    id.iter_mut().for_each(|byte| *byte ^= 0xa5);
    file.write_all_at(&id, offset).unwrap();
    let outcome = place.instance().run();
    outcome.assert_failed(4, &["machine went down", "there is no checkpoint", "move the region"]);
    assert_serves_with_another(&place);
}

#[test]
fn an_interrupted_creation_is_not_in_the_way() {
    let place = Place::new();
    let instance = place.start();
    instance.stop();
    fs::remove_file(place.region()).unwrap();
    fs::write(place.run_dir().join("region.next"), "half of a region").unwrap();
    let instance = place.start();
    instance.say("served");
    instance.books_agree();
    instance.stop();
}

#[test]
fn a_region_removed_while_it_serves_is_nobodys_loss() {
    let place = Place::new();
    let instance = place.start();
    instance.say("one");
    fs::remove_file(place.region()).unwrap();
    instance.say("two");
    let pids = instance.worker_pids();
    for pid in &pids {
        instance.signal_child(*pid, nix::sys::signal::Signal::SIGKILL);
    }
    // Until it is dead, one may still take a connection along.
    until("they are gone", || !pids.iter().any(|pid| children_of(instance.pid()).contains(pid)));
    instance.say("three");
    assert_eq!(instance.books_agree().len(), 3);
    instance.stop();
    let instance = place.start();
    instance.say("four");
    instance.stop();
    assert_eq!(place.journal().len(), 4);
}

// ---- Another size ----------------------------------------------------------------------------------------------------

/// What each user has sent, as the region says, and what all have.
fn users_of(place: &Place) -> (serde_json::Value, u64) {
    let dump = run(program("recovery").args(["dump", "--json"]).arg(place.region()));
    dump.assert_succeeded();
    let dump: serde_json::Value = serde_json::from_str(&dump.stdout).unwrap();
    (dump["users"].clone(), dump["totals"]["messages"].as_u64().unwrap())
}

fn sum_of(users: &serde_json::Value) -> u64 {
    let users = users.as_object().unwrap().values();
    users.map(|user| user["messages"].as_u64().unwrap()).sum()
}

#[test]
fn what_users_have_sent_survives_growing_and_shrinking() {
    let place = Place::new();
    // More than there are rows for.
    let names: String = (0..70).map(|number| format!("user-{number}\n")).collect();
    let names = place.write("users", &names);
    let mut before = serde_json::json!({});
    for (round, size) in ["4MiB", "16MiB", "2MiB"].into_iter().enumerate() {
        let starting = place.instance().region_size(size).args(&["--users", names.to_str().unwrap()]);
        let instance = starting.start();
        assert_eq!(users_of(&place).0, before, "{size}: carried");
        let mut connection = instance.connect();
        for number in 0..70 {
            connection.say(&format!("user-{number}"), &"x".repeat(number));
        }
        drop(connection);
        instance.books_agree();
        instance.stop();
        let (users, messages) = users_of(&place);
        assert_eq!(messages, 70 * (round as u64 + 1));
        assert_eq!(sum_of(&users), messages, "{size}");
        assert_eq!(users["user-69"]["bytes"], 69 * (round + 1));
        run(program("recovery").arg("verify").arg(place.region())).assert_succeeded();
        before = users;
    }
    assert!(!place.run_dir().join("region.next").exists());
}

/// A program in place of recovery that does as it is told when it is to carry, and is recovery otherwise.
fn unable_to_carry(place: &Place, instead: &str) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let recovery = program("recovery");
    let recovery = std::path::Path::new(recovery.get_program());
    let script = format!("#!/bin/sh\n[ \"$1\" = carry ] || exec {} \"$@\"\n{instead}\n", recovery.display());
    let path = place.write("recovery.sh", &script);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    path
}

#[test]
fn a_region_that_cannot_be_carried_stays_as_it_is() {
    for (instead, code, words) in [
        ("echo 'recovery: there is no room; choose a larger --region-size' >&2; exit 2", 2, "no room"),
        ("echo 'recovery: it is damaged' >&2; exit 4", 4, "it is damaged"),
        ("kill -9 $$", 1, "with the former size"),
    ] {
        let place = used(true);
        let before = fs::read(place.region()).unwrap();
        let script = unable_to_carry(&place, instead);
        let starting = || place.instance().region_size("8MiB");
        let outcome = starting().args(&["--recovery-program", script.to_str().unwrap()]).run();
        outcome.assert_failed(code, &[words]);
        place.no_process_left();
        assert!(fs::read(place.region()).unwrap() == before, "{instead}");
        assert!(!place.run_dir().join("region.next").exists());
        // What was left by one that was killed with its supervisor is not in the way.
        fs::write(place.run_dir().join("region.next"), "half of a region").unwrap();
        let instance = starting().start();
        assert_eq!(instance.books_agree().len(), 3);
        instance.stop();
        assert_eq!(fs::metadata(place.region()).unwrap().len(), 8 << 20);
    }
}

#[test]
fn a_supervisor_killed_while_the_region_is_carried_begins_again() {
    let place = used(true);
    let before = fs::read(place.region()).unwrap();
    let script = unable_to_carry(&place, "exec sleep 1000");
    let script = script.to_str().unwrap();
    let starting = place.instance().region_size("8MiB").args(&["--recovery-program", script]);
    let instance = starting.launch();
    until("the region is being carried", || {
        place.run_dir().join("region.next").exists() && !children_of(instance.pid()).is_empty()
    });
    instance.kill9();
    place.no_process_left();
    assert!(fs::read(place.region()).unwrap() == before);
    let instance = place.instance().region_size("8MiB").start();
    assert_eq!(instance.books_agree().len(), 3);
    instance.stop();
    run(program("recovery").arg("verify").arg(place.region())).assert_succeeded();
}

// ---- Scribbling -------------------------------------------------------------------------------------------------------

/// An instance whose region's file is written to by somebody who should not.
struct Scribbled {
    place: Place,
    instance: Instance,
    file: File,
    slots: u64,
}

impl Scribbled {
    fn start() -> Self {
        let place = Place::new();
        let instance = place.instance().workers(6).args(&["--grace", "2s", "--read-timeout", "2s"]).start();
        let file = File::options().read(true).write(true).open(place.region()).unwrap();
        let slots = Geometry::of(file.metadata().unwrap().len()).unwrap().slot_count;
        Self { place, instance, file, slots: u64::from(slots) }
    }

    /// The words of the journal and of the slot table, which is from here on.
    fn table(&self) -> std::ops::Range<u64> {
        HEADER_SIZE..HEADER_SIZE + self.slots * SLOT_SIZE
    }

    /// After the scribble: it goes on serving, or stops with exit code 4. Nobody dies of a signal but those who were
    /// killed for it, and whoever waits gets an answer.
    #[track_caller]
    fn end(mut self, seed: u64) {
        for number in 0..10 {
            if self.instance.ended().is_some() {
                break;
            }
            // The connection may meet a worker that finds its slot changed and gives up; the next one may not.
            if let Ok(mut connection) = holdfast_tests::Connection::try_to(&self.instance.listen[0]) {
                let _ = connection.try_send(format!("arijort:after {number}\n").as_bytes());
                connection.finish_sending_if_open();
                let _ = connection.try_line();
            }
        }
        if self.instance.ended().is_none() {
            let status = self.instance.command("status", &["--json", "--slots"]);
            status.assert_no_panic();
            assert_eq!(status.signal(), None, "seed {seed}: {status}");
            let stop = self.instance.command("stop", &["--fast"]);
            stop.assert_no_panic();
        }
        let outcome = self.instance.finish();
        assert_eq!(outcome.signal(), None, "seed {seed}: {outcome}");
        assert!([Some(0), Some(4)].contains(&outcome.code()), "seed {seed}: {outcome}");
        self.place.no_process_left();
        // What is there now is served from, or refused; and the tools say so without falling over.
        for arguments in [&["verify"][..], &["dump"], &["dump", "--json"]] {
            let tool = run(program("recovery").args(arguments).arg(self.place.region()));
            tool.assert_no_panic();
            assert!([Some(0), Some(4)].contains(&tool.code()), "seed {seed}: {arguments:?} {tool}");
        }
        let mut next = self.place.instance().launch();
        let _ = within(holdfast_tests::DEADLINE, || {
            if next.stdout().contains('\n') || next.ended().is_some() { Ok(()) } else { Err(String::new()) }
        });
        if next.ended().is_none() {
            next.wait_until_serving();
            next.say("served again");
            next.command("stop", &[]).assert_no_panic();
        }
        let outcome = next.finish();
        outcome.assert_no_panic();
        assert!([Some(0), Some(4)].contains(&outcome.code()), "seed {seed}: {outcome}");
    }
}

#[test]
fn random_bytes_all_over_the_slot_table() {
    for seed in [1, 2, 3] {
        let scribbled = Scribbled::start();
        let load = Load::on(&scribbled.instance.listen[0], 3);
        load.wait_for_more(30);
        let mut random = Random::new(seed);
        let table = scribbled.table();
        let mut bytes = vec![0; (table.end - table.start) as usize];
        random.fill(&mut bytes);
        scribbled.file.write_all_at(&bytes, table.start).unwrap();
        drop(load);
        scribbled.end(seed);
    }
}

#[test]
fn random_bytes_here_and_there_in_the_slot_table() {
    for seed in [11, 12, 13] {
        let scribbled = Scribbled::start();
        let load = Load::on(&scribbled.instance.listen[0], 3);
        load.wait_for_more(30);
        let mut random = Random::new(seed);
        let table = scribbled.table();
        for _ in 0..200 {
            let mut bytes = [0; 8];
            random.fill(&mut bytes);
            let offset = table.start + random.below(table.end - table.start - 8);
            scribbled.file.write_all_at(&bytes, offset).unwrap();
        }
        drop(load);
        scribbled.end(seed);
    }
}

#[test]
fn zeros_and_ones_all_over_the_slot_table() {
    for byte in [0x00, 0xff] {
        let scribbled = Scribbled::start();
        let load = Load::on(&scribbled.instance.listen[0], 3);
        load.wait_for_more(30);
        let table = scribbled.table();
        let bytes = vec![byte; (table.end - table.start) as usize];
        scribbled.file.write_all_at(&bytes, table.start).unwrap();
        drop(load);
        scribbled.end(byte.into());
    }
}

#[test]
fn random_bytes_in_what_a_killed_worker_left() {
    for seed in [21, 22, 23, 24] {
        let scribbled = Scribbled::start();
        let load = Load::on(&scribbled.instance.listen[0], 3);
        load.wait_for_more(30);
        let mut random = Random::new(seed);
        for pid in scribbled.instance.worker_pids() {
            // Held while its slot is written to, so that it is repaired as it is then.
            scribbled.instance.signal_child(pid, nix::sys::signal::Signal::SIGSTOP);
        }
        let table = scribbled.table();
        for slot in 0..scribbled.slots {
            let mut bytes = [0; 16];
            random.fill(&mut bytes);
            // Not the owner's word, so that the slot is looked at for what it holds.
            let offset = table.start + slot * SLOT_SIZE + 64 + random.below(SLOT_SIZE - 80);
            scribbled.file.write_all_at(&bytes, offset).unwrap();
        }
        for pid in scribbled.instance.worker_pids() {
            scribbled.instance.signal_child(pid, nix::sys::signal::Signal::SIGKILL);
        }
        drop(load);
        scribbled.end(seed);
    }
}

#[test]
fn random_bytes_in_the_header_after_its_identity() {
    for seed in [31, 32, 33, 34] {
        let scribbled = Scribbled::start();
        let load = Load::on(&scribbled.instance.listen[0], 3);
        load.wait_for_more(30);
        let mut random = Random::new(seed);
        let mut bytes = [0; 384 - 128];
        random.fill(&mut bytes);
        scribbled.file.write_all_at(&bytes, 128).unwrap();
        drop(load);
        scribbled.end(seed);
    }
}

#[test]
fn random_bytes_in_the_undo_logs() {
    for seed in [41, 42] {
        let scribbled = Scribbled::start();
        let load = Load::on(&scribbled.instance.listen[0], 3);
        load.wait_for_more(30);
        let mut random = Random::new(seed);
        let length = scribbled.file.metadata().unwrap().len();
        // Asked before: a status of what is scribbled over may be refused.
        let pids = scribbled.instance.worker_pids();
        let mut bytes = vec![0; (length - scribbled.table().end) as usize];
        random.fill(&mut bytes);
        scribbled.file.write_all_at(&bytes, scribbled.table().end).unwrap();
        for pid in pids {
            scribbled.instance.signal_child(pid, nix::sys::signal::Signal::SIGKILL);
        }
        drop(load);
        scribbled.end(seed);
    }
}
