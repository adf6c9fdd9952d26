//! Checkpoints of a running instance, and going back to one: after the machine went down, and after damage.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_tests::load::Load;
use holdfast_tests::machine::{is_root, mount_small, skip, with_private_mounts};
use holdfast_tests::outcome::run;
use holdfast_tests::place::{Starting, program};
use holdfast_tests::processes::{Process, children_of};
use holdfast_tests::{Instance, Place, Visitor, programs, until};
use nix::sys::signal::Signal;
use serde_json::Value;

/// The names of the checkpoints in a spool, the newest last.
fn checkpoints(place: &Place) -> Vec<PathBuf> {
    let entries = fs::read_dir(place.spool_dir().join("checkpoint")).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let mut paths: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|suffix| suffix == "checkpoint")).collect();
    paths.sort_by_key(|path| path.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap());
    paths
}

fn flip_a_bit(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 4], middle).unwrap();
}

/// As after a reboot: the run directory was in memory.
fn lose_memory(place: &Place) {
    fs::remove_file(place.region()).unwrap();
}

/// The region was in use on another boot: what the layout has of it stands behind the count of lives.
fn change_boot_id(place: &Place) {
    let file = File::options().read(true).write(true).open(place.region()).unwrap();
    let mut id = [0; 16];
    file.read_exact_at(&mut id, 136).unwrap();
    id.iter_mut().for_each(|byte| *byte ^= 0xa5);
    file.write_all_at(&id, 136).unwrap();
}

fn damaged_regions(place: &Place) -> usize {
    let entries = fs::read_dir(place.run_dir()).unwrap().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("region.damaged-")).count()
}

fn number(status: &Value) -> u64 {
    status["checkpoint"]["number"].as_u64().unwrap_or(0)
}

fn say_all(instance: &Instance, messages: &[&str]) {
    for message in messages {
        instance.say(message);
    }
}

/// One that has said this before its checkpoint, and that after it, and was killed with everybody.
fn killed_after_checkpoint(place: &Place, before: &[&str], after: &[&str]) {
    let instance = place.start();
    say_all(&instance, before);
    instance.command("checkpoint", &[]).assert_succeeded();
    say_all(&instance, after);
    instance.kill9();
    place.no_process_left();
}

#[test]
fn one_is_taken_when_it_is_asked_for_and_two_are_kept() {
    let place = Place::new();
    let instance = place.instance().args(&["--checkpoint-interval", "0"]).start();
    assert_eq!(instance.status()["checkpoint"], Value::Null, "only at a clean stop, or when asked");
    for expected in 1..=4 {
        instance.say("a message");
        instance.command("checkpoint", &[]).assert_succeeded();
        let status = instance.status();
        assert_eq!(number(&status), expected);
        assert!(status["checkpoint"]["bytes"].as_u64() > Some(4096), "{status}");
        assert_eq!(checkpoints(&place).len(), 2.min(expected as usize));
    }
    instance.books_agree();
    instance.stop();
    // A clean stop takes one too.
    assert!(checkpoints(&place)[1].ends_with("5.checkpoint"), "{:?}", checkpoints(&place));
    let refused = place.command("checkpoint", &[]);
    assert_eq!(refused.code(), Some(1), "{refused}");
}

#[test]
fn they_are_taken_in_their_interval() {
    let place = Place::new();
    let instance = place.instance().args(&["--checkpoint-interval", "50ms"]).start();
    instance.wait_for_status("five were taken", |status| number(status) >= 5);
    assert_eq!(checkpoints(&place).len(), 2);
    instance.books_agree();
    instance.stop();
}

#[test]
fn after_the_machine_went_down_everything_the_journal_has_is_counted() {
    for (lose, kept) in [(lose_memory as fn(&Place), false), (change_boot_id, true)] {
        let place = Place::new();
        killed_after_checkpoint(&place, &["one", "two"], &["three", "four", "five"]);
        lose(&place);
        let instance = place.start();
        let status = instance.status();
        assert_eq!(status["restored"]["replayed"], 3, "{status}");
        assert_eq!(instance.books_agree().len(), 5);
        instance.say("six");
        let text = instance.command("status", &[]);
        assert!(text.stdout.contains("restored at"), "{text}");
        instance.books_agree();
        instance.stop();
        run(program("recovery").arg("verify").arg(place.region())).assert_succeeded();
        // What the former region was is kept, where there was one.
        assert_eq!(damaged_regions(&place), usize::from(kept));
    }
}

#[test]
fn a_clean_stop_loses_nothing_with_the_memory() {
    let place = Place::new();
    let instance = place.instance().arg("--worker").arg(programs::bank()).start();
    instance.say("open anna 100");
    instance.say("open bert 0");
    instance.stop();
    let before = run(program("recovery").args(["dump", "--json"]).arg(place.region()));
    lose_memory(&place);
    let instance = place.instance().arg("--worker").arg(programs::bank()).start();
    assert_eq!(instance.status()["restored"]["replayed"], 0);
    instance.books_agree();
    instance.stop();
    let after = run(program("recovery").args(["dump", "--json"]).arg(place.region()));
    let contents = |dump: &str| {
        let mut dump: Value = serde_json::from_str(dump).unwrap();
        for object in dump["folders"].as_array_mut().unwrap().iter_mut() {
            for object in object["objects"].as_array_mut().unwrap() {
                object.as_object_mut().unwrap().remove("generation");
            }
        }
        (dump["folders"].take(), dump["users"].take(), dump["totals"]["messages"].take())
    };
    assert_eq!(contents(&after.stdout), contents(&before.stdout));
}

#[test]
fn a_bad_checkpoint_gives_way_to_the_one_before() {
    let place = Place::new();
    killed_after_checkpoint(&place, &["one"], &["two"]);
    lose_memory(&place);
    let newest = checkpoints(&place).pop().unwrap();
    flip_a_bit(&newest);
    let instance = place.start();
    assert_eq!(instance.books_agree().len(), 2);
    instance.wait_for_log("is set aside");
    instance.stop();
    assert!(newest.with_extension("checkpoint.damaged").exists());
}

#[test]
fn without_a_good_checkpoint_it_is_refused_with_what_to_do() {
    for (lose, kept) in [(lose_memory as fn(&Place), false), (change_boot_id, true)] {
        let place = Place::new();
        killed_after_checkpoint(&place, &["one"], &[]);
        lose(&place);
        checkpoints(&place).iter().for_each(|checkpoint| flip_a_bit(checkpoint));
        for _ in 0..2 {
            place
                .instance()
                .run()
                .assert_failed(4, &["no checkpoint can be used", "directory away to start"]);
        }
        assert_eq!(place.region().exists(), kept, "it stays where it is");
        // Doing what the sentence says helps.
        fs::rename(place.spool_dir().join("checkpoint"), place.file("former")).unwrap();
        let _ = fs::rename(place.region(), place.run_dir().join("region.former"));
        let instance = place.start();
        instance.say("served again");
        instance.stop();
        assert_eq!(place.journal().len(), 2);
    }
}

#[test]
fn an_operator_goes_back_to_a_checkpoint() {
    let place = Place::new();
    killed_after_checkpoint(&place, &["one"], &["two"]);
    change_boot_id(&place);
    let operate = |command: &str| {
        let mut recovery = program("recovery");
        run(recovery.arg(command).arg(place.region()).arg("--spool-dir").arg(place.spool_dir()))
    };
    operate("repair").assert_failed(4, &["recovery restore"]);
    let restored = operate("restore");
    restored.assert_succeeded();
    assert!(restored.stdout.contains("1 messages of the journal"), "{restored}");
    assert_eq!(damaged_regions(&place), 1);
    operate("repair").assert_succeeded();
    let instance = place.start();
    assert_eq!(instance.books_agree().len(), 2);
    operate("restore").assert_failed(3, &["an instance is running"]);
    instance.stop();
}

// ---- Damage ------------------------------------------------------------------------------------------------------------

/// An instance whose recovery fails at the repair of a slot, so often.
fn with_failing_repair(place: &Place, times: &str) -> Starting {
    with_failing_repair_by(place, times, &programs::puppet())
}

/// The same with a program of another name for it.
fn with_failing_repair_by(place: &Place, times: &str, program: &Path) -> Starting {
    let starting = place.instance().arg("--recovery-program").arg(program);
    starting
        .env("PUPPET_REAL", programs::path("recovery"))
        .env("PUPPET_PLAY", "segv")
        .env("PUPPET_CUE", "repair")
        .env("PUPPET_TIMES", times)
        .env("PUPPET_TALLY", place.file("tally"))
}

#[test]
fn a_damaged_region_is_restored_and_that_is_said_until_a_reload() {
    let place = Place::new();
    let instance = with_failing_repair(&place, "3").start();
    instance.say("before the checkpoint");
    instance.command("checkpoint", &[]).assert_succeeded();
    instance.say("after it");
    let worker = instance.say("from one who will be killed");
    let address = instance.listen[0].clone();
    instance.kill_child(worker);
    instance.wait_for_log("the region was restored from checkpoint");
    assert_eq!(instance.listen[0], address);
    instance.wait_for_status("it serves, and says so", |status| {
        status["state"] == "degraded" && status["workers"]["live"] == status["workers"]["configured"]
    });
    instance.say("served again");
    let status = instance.status();
    assert_eq!((&status["totals"]["messages"], &status["restored"]["replayed"]), (&4.into(), &2.into()));
    assert!(instance.command("status", &[]).stdout.contains("a reload acknowledges this"));
    assert_eq!(damaged_regions(&place), 1, "it is kept for inspection");
    instance.command("reload", &[]).assert_succeeded();
    instance.wait_for_status("a reload ends it", |status| status["state"] == "running");
    assert_eq!(instance.books_agree().len(), 4);
    instance.stop();
}

#[test]
fn under_load_damage_loses_nothing_that_was_acknowledged() {
    let place = Place::new();
    let instance = with_failing_repair(&place, "3").workers(6).start();
    let load = Load::on(&instance.listen[0], 4);
    load.wait_for_more(200);
    instance.command("checkpoint", &[]).assert_succeeded();
    load.wait_for_more(200);
    instance.signal_child(instance.worker_pids()[0], Signal::SIGKILL);
    instance.wait_for_log("the region was restored from checkpoint");
    load.wait_for_more(200);
    let ledger = load.stop();
    instance.command("reload", &[]).assert_succeeded();
    ledger.check(&instance.books_agree());
    instance.stop();
}

/// One who is attached, with accounts that hold 8000 together.
fn banker(place: &Place) -> Visitor {
    let mut visitor = Visitor::attached(&place.run_dir());
    visitor.must("open 8", "opened");
    visitor
}

#[test]
fn who_is_attached_to_a_damaged_region_is_told_and_attaches_to_the_restored_one() {
    let place = Place::new();
    let instance = with_failing_repair(&place, "3").start();
    let (mut idle, mut busy) = (banker(&place), Visitor::attached(&place.run_dir()));
    let (mut stopped, mut reader) = (Visitor::attached(&place.run_dir()), Visitor::start(&place.run_dir()));
    reader.must("view", "viewing");
    instance.say("before the checkpoint");
    instance.command("checkpoint", &[]).assert_succeeded();
    idle.must("transfer 1 2 500", "done");
    let worker = instance.say("after it");
    busy.must("hold", "holding");
    stopped.signal(Signal::SIGSTOP);
    instance.kill_child(worker);
    instance.wait_for_log("the region was restored from checkpoint");
    // Nobody was waited for: one is stopped, and one in the middle of a transaction that reaches nobody.
    assert_eq!(busy.ask("restore"), "released");
    stopped.signal(Signal::SIGCONT);
    for visitor in [&mut idle, &mut busy, &mut stopped] {
        let said = visitor.must_fail("add", "the session has ended");
        assert!(said.contains("attach again"), "{said}");
        visitor.must_fail("sum", "the session has ended");
        assert!(visitor.ask("attach").starts_with("attached "));
        visitor.must("sum", "8000");
    }
    reader.must_fail("sum", "the region");
    reader.must("view", "viewing");
    reader.must("sum", "8000");
    let status = instance.status();
    let degraded = (&status["state"], &status["attached"], &status["totals"]["crashes"]);
    assert_eq!(degraded, (&"degraded".into(), &3.into(), &0.into()), "{status}");
    // They are what they were: held, repaired, and found by the next supervisor.
    busy.must("hold", "holding");
    busy.kill();
    idle.must("transfer 0 1 7", "done");
    instance.wait_for_status("it is repaired", |status| status["totals"]["crashes"] == 1);
    instance.command("reload", &[]).assert_succeeded();
    instance.kill9_leaving_visitors();
    let instance = place.start();
    idle.must("transfer 1 0 7", "done");
    assert_eq!((&instance.status()["state"], &instance.status()["attached"]), (&"running".into(), &2.into()));
    for visitor in [&mut idle, &mut stopped] {
        visitor.must("sum", "8000");
        visitor.must("detach", "detached");
    }
    assert_eq!(instance.books_agree().len(), 2);
    drop((idle, busy, stopped, reader));
    instance.stop();
    assert_eq!(damaged_regions(&place), 1);
    run(program("recovery").arg("verify").arg(place.region())).assert_succeeded();
}

#[test]
fn a_death_of_an_attached_program_that_cannot_be_repaired_is_damage_too() {
    let place = Place::new();
    let instance = with_failing_repair(&place, "3").start();
    let (mut witness, mut victim) = (banker(&place), Visitor::attached(&place.run_dir()));
    instance.command("checkpoint", &[]).assert_succeeded();
    victim.must("hold", "holding");
    victim.kill();
    instance.wait_for_log("the region is damaged");
    // Who comes while it is being restored waits.
    let mut late = Visitor::start(&place.run_dir());
    assert!(late.ask("attach").starts_with("attached "));
    late.must("sum", "8000");
    instance.wait_for_log("the region was restored from checkpoint");
    witness.must_fail("transfer 1 2 5", "the session has ended");
    assert!(witness.ask("attach").starts_with("attached "));
    witness.must("transfer 1 2 5", "done");
    for visitor in [&mut witness, &mut late] {
        visitor.must("sum", "8000");
        visitor.must("detach", "detached");
    }
    drop((witness, victim, late));
    instance.stop();
    run(program("recovery").arg("verify").arg(place.region())).assert_succeeded();
}

#[test]
fn without_a_checkpoint_damage_ends_the_instance() {
    let place = Place::new();
    let instance = with_failing_repair(&place, "").args(&["--checkpoint-interval", "0"]).start();
    let worker = instance.say("acknowledged");
    instance.kill_child(worker);
    instance.finish().assert_failed(4, &["the region is damaged", "there is no checkpoint"]);
    place.no_process_left();
    place.instance().run().assert_failed(4, &["the region is damaged", "there is no checkpoint"]);
}

#[test]
fn a_supervisor_killed_while_it_restores_begins_again() {
    // Before, in the middle, and after: going back takes some ten milliseconds.
    for delay in [0, 2, 5, 10, 20, 40] {
        let place = Place::new();
        let instance = with_failing_repair(&place, "3").start();
        let worker = instance.say("acknowledged");
        instance.command("checkpoint", &[]).assert_succeeded();
        instance.kill_child(worker);
        instance.wait_for_log("the region is damaged");
        std::thread::sleep(Duration::from_millis(delay));
        instance.kill9();
        place.no_process_left();
        let instance = place.start();
        assert_eq!(instance.books_agree().len(), 1, "killed {delay} ms after the damage");
        instance.stop();
        run(program("recovery").arg("verify").arg(place.region())).assert_succeeded();
        assert_eq!(damaged_regions(&place), 1, "killed {delay} ms after the damage");
    }
}

#[test]
fn a_stop_ends_who_restores_the_region() {
    let place = Place::new();
    let script = "#!/bin/sh\n[ \"$1\" = rebuild ] && exec sleep 1000\nexec \"$PUPPET\" \"$@\"\n";
    let slow = place.write("slow", script);
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).unwrap();
    let starting = with_failing_repair_by(&place, "3", &slow).env("PUPPET", programs::puppet());
    let instance = starting.start();
    let worker = instance.say("acknowledged");
    instance.command("checkpoint", &[]).assert_succeeded();
    instance.kill_child(worker);
    let mut restorer = None;
    until("it is being restored", || {
        let children = children_of(instance.pid()).into_iter().filter_map(Process::of);
        restorer = children.into_iter().find(|child| child.name == "sleep");
        restorer.is_some()
    });
    assert!(place.run_dir().join("region.next").exists());
    instance.command("stop", &[]).assert_succeeded();
    assert_eq!(Process::of(restorer.unwrap().pid), None, "it is gone when the stop is over");
    assert!(!place.run_dir().join("region.next").exists());
    instance.finish().assert_failed(4, &["the next start goes back to a checkpoint"]);
    let instance = place.start();
    assert_eq!(instance.books_agree().len(), 1);
    instance.stop();
}

#[test]
fn who_reads_a_region_that_another_takes_the_place_of_is_told() {
    let place = Place::new();
    let instance = place.start();
    let (mut writer, mut reader) = (banker(&place), Visitor::start(&place.run_dir()));
    reader.must("view", "viewing");
    writer.must("detach", "detached");
    instance.stop_leaving_visitors();
    reader.must("sum", "8000");
    // Of another size.
    let instance = place.instance().region_size("8MiB").start();
    reader.must_fail("sum", "the region");
    reader.must("view", "viewing");
    reader.must("sum", "8000");
    instance.kill9_leaving_visitors();
    // An operator's doing.
    let mut recovery = program("recovery");
    run(recovery.arg("restore").arg(place.region()).arg("--spool-dir").arg(place.spool_dir()))
        .assert_succeeded();
    reader.must_fail("sum", "the region");
    let instance = place.instance().region_size("8MiB").start();
    reader.must("view", "viewing");
    reader.must("sum", "8000");
    drop((writer, reader));
    instance.stop();
    assert_eq!(damaged_regions(&place), 1);
}

/// Another was about to take its place, and whoever saw to that died.
#[test]
fn a_region_that_was_about_to_give_way_is_served_again() {
    let place = Place::new();
    let instance = place.start();
    instance.say("acknowledged");
    instance.stop();
    // As the layout has it: damaged = 2.
    let file = File::options().write(true).open(place.region()).unwrap();
    file.write_all_at(&2_u32.to_le_bytes(), 156).unwrap();
    fs::write(place.run_dir().join("region.next"), "half a region").unwrap();
    let instance = place.start();
    let mut reader = Visitor::start(&place.run_dir());
    reader.must("view", "viewing");
    reader.must_fail("sum", "no such object");
    assert_eq!(instance.books_agree().len(), 1);
    assert!(!place.run_dir().join("region.next").exists(), "what was not finished is gone");
    drop(reader);
    instance.stop();
    assert_eq!(damaged_regions(&place), 0);
}

// ---- The process that takes them -----------------------------------------------------------------------------------------

/// Waits until a process takes a checkpoint, and gives its pid.
fn taker(instance: &Instance) -> i32 {
    let mut found = None;
    until("a checkpoint is being taken", || {
        found = instance.children_in_role("checkpoint").first().copied();
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn whoever_takes_one_may_be_killed_and_another_is_taken() {
    let place = Place::new();
    let instance = place.instance().args(&["--checkpoint-interval", "10ms"]).start();
    let load = Load::on(&instance.listen[0], 3);
    for _ in 0..15 {
        instance.signal_child(taker(&instance), Signal::SIGKILL);
        load.wait_for_more(20);
    }
    let before = number(&instance.status());
    instance.command("checkpoint", &[]).assert_succeeded();
    assert!(number(&instance.status()) > before);
    let ledger = load.stop();
    ledger.check(&instance.books_agree());
    assert!(ledger.errors.is_empty(), "{:?}", ledger.errors);
    assert_eq!(instance.total("crashes"), 0, "no worker has crashed");
    instance.stop();
}

#[test]
fn a_stop_does_not_wait_for_the_one_that_is_being_taken() {
    let place = Place::new();
    let instance = place.instance().args(&["--checkpoint-interval", "10ms"]).start();
    instance.say("acknowledged");
    instance.signal_child(taker(&instance), Signal::SIGSTOP);
    instance.stop();
    lose_memory(&place);
    let instance = place.start();
    assert_eq!(instance.status()["restored"]["replayed"], 0, "the last one was taken all the same");
    assert_eq!(instance.books_agree().len(), 1);
    instance.stop();
}

#[test]
fn a_closed_gate_does_not_stay_closed() {
    let place = Place::new();
    let instance = place.instance().args(&["--checkpoint-interval", "0"]).start();
    instance.say("acknowledged");
    // As somebody would leave it who stands still with the gate closed, and as a scribble would.
    let file = File::options().write(true).open(place.region()).unwrap();
    for word in [1_u64 << 32 | 17, 1 << 31] {
        file.write_all_at(&word.to_le_bytes(), 448).unwrap();
        instance.wait_for_log(&format!("the gate is closed by {word:#x}"));
        instance.say("served again");
    }
    instance.books_agree();
    instance.stop();
}

#[test]
fn a_full_disk_leaves_the_old_ones_and_the_service() {
    if !is_root() {
        return skip("a full disk", "not the superuser");
    }
    let mounted = with_private_mounts(|| {
        let place = Place::new();
        let spool = place.file("small");
        let _mounted = mount_small(&spool, 4 << 20);
        let starting = place.instance().spool_dir(&spool).args(&["--checkpoint-interval", "0"]);
        let instance = starting.args(&["--spool-limit", "3MiB"]).start();
        instance.say("one");
        instance.command("checkpoint", &[]).assert_succeeded();
        instance.say("two");
        // Nearly all of the rest, so that the message still goes in, and a checkpoint does not.
        let ballast = spool.join("ballast");
        let file = File::create(&ballast).unwrap();
        let stat = nix::sys::statvfs::statvfs(&spool).unwrap();
        let free = stat.blocks_available() * stat.fragment_size();
        nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, free as i64 - 8192).unwrap();
        let refused = instance.command("checkpoint", &[]);
        refused.assert_failed(1, &["no space in the spool for the checkpoint", "those taken before stay"]);
        instance.wait_for_log("no checkpoint was taken: there is no space");
        instance.say("three");
        let names = || -> Vec<_> {
            let entries = fs::read_dir(spool.join("checkpoint")).unwrap().flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(), ["1.checkpoint", "covered"]);
        drop(file);
        fs::remove_file(ballast).unwrap();
        instance.command("checkpoint", &[]).assert_succeeded();
        assert_eq!(names(), ["1.checkpoint", "2.checkpoint", "covered"]);
        instance.books_agree();
        instance.stop();
    });
    if let Err(why) = mounted {
        skip("a full disk", &why);
    }
}
