//! What an operator calls: verify, repair, dump. The real program, its output and its exit codes.

mod support;

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::SeqCst;

use common::journal::spool::{Spool, data_name};
use common::journal::writer::Writer;
use common::slots::Counter;
use common::sys::file::{Lock, try_lock};
use common::txn::Seat;
use common::wire::control::{Report, Sync};
use support::Instance;

struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn recovery(arguments: &[&str]) -> Outcome {
    let output =
        Command::new(env!("CARGO_BIN_EXE_recovery")).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Runs it, and checks that an error is one sentence.
fn on(path: &Path, command: &str, more: &[&str]) -> Outcome {
    let outcome = recovery(&[&[command, path.to_str().unwrap()], more].concat());
    if outcome.code != Some(0) {
        assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
        assert!(outcome.stderr.starts_with("recovery: "), "{}", outcome.stderr);
    }
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    outcome
}

/// A message recorded, and a second one half-done: the owner died between its change and its record.
fn with_a_dead_owner(instance: &Instance) {
    let standby = instance.start("standby");
    assert_eq!(instance.take_over(&standby), 0);
    standby.dismiss();
    let owner = instance.reserve(3, 9);
    let mut seat = Seat::take(&instance.region, owner).unwrap();
    let mut writer = Writer::new(Spool::open_or_create(&instance.spool_path()).unwrap(), Sync::Never);
    let mut transaction = seat.begin().unwrap();
    transaction.add(Counter::Messages, 1).unwrap();
    writer.append(&transaction, "user", "text").unwrap();
    transaction.commit().unwrap();
    writer.settle(&seat.slot().intent).unwrap();
    seat.slot().set_doing(b"serving \x1b[31msomebody");
    let mut transaction = seat.begin().unwrap();
    transaction.add(Counter::Messages, 1).unwrap();
    std::mem::forget(transaction);
}

#[test]
fn verify_says_that_a_region_is_sound_and_changes_nothing() {
    let instance = Instance::new();
    with_a_dead_owner(&instance);
    let before = std::fs::read(instance.region_path()).unwrap();
    let outcome = on(&instance.region_path(), "verify", &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert_eq!(outcome.stdout, "sound: 32 slots, 1 live, 0 dead and not repaired yet, 1 messages\n");
    assert!(std::fs::read(instance.region_path()).unwrap() == before);
}

#[test]
fn verify_lists_what_is_damaged() {
    let instance = Instance::new();
    with_a_dead_owner(&instance);
    instance.region.slot(common::ids::SlotIndex(5)).unwrap().owner.store(77, SeqCst);
    instance.region.slot(common::ids::SlotIndex(6)).unwrap().mini.store(77, SeqCst);
    let outcome = on(&instance.region_path(), "verify", &[]);
    assert_eq!(outcome.code, Some(4));
    let mut places: Vec<_> = outcome.stdout.lines().map(|line| line.split(':').next().unwrap()).collect();
    places.dedup();
    assert_eq!(places, ["slot 5", "slot 6"]);
    assert!(outcome.stderr.contains("damaged in 3 places"), "{}", outcome.stderr);
}

#[test]
fn files_that_are_no_region_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let instance = Instance::new();
    instance.region_file.write_all_at(&77_u32.to_le_bytes(), 8).unwrap();
    let fifo = directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let table = [
        (directory.path().join("missing"), 2, "missing"),
        (file("empty", b""), 4, "length"),
        (file("short", &[0; 100]), 4, "length"),
        (file("zeros", &[0; 1 << 20]), 4, "does not begin"),
        (file("garbage", &[0x5a; 1 << 20]), 4, "does not begin"),
        (instance.region_path(), 4, "version is 77"),
        (directory.path().to_owned(), 4, "length"),
        (fifo, 4, "length"),
    ];
    for (path, code, word) in table {
        for command in ["verify", "dump"] {
            let outcome = on(&path, command, &[]);
            assert_eq!(outcome.code, Some(code), "{command} {}: {}", path.display(), outcome.stderr);
            assert!(outcome.stderr.contains(word), "{}", outcome.stderr);
        }
    }
}

#[test]
fn dump_tells_what_the_region_says() {
    let instance = Instance::new();
    with_a_dead_owner(&instance);
    let text = on(&instance.region_path(), "dump", &[]).stdout;
    assert!(text.contains("totals: 0 connections, 1 messages"), "{text}");
    assert!(text.contains("slot 3 generation 9: live"), "{text}");
    assert!(!text.contains('\u{1b}'), "what an owner says is shown without its control characters");
    let json = on(&instance.region_path(), "dump", &["--json"]).stdout;
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["totals"]["messages"], 1);
    let slot = &value["slots"][0];
    assert_eq!((&slot["slot"], &slot["generation"], &slot["state"]), (&3.into(), &9.into(), &"live".into()));
    assert_eq!((&slot["counters"]["messages"], &slot["published"]["messages"]), (&2.into(), &1.into()));
    let record = &slot["undo_records"][0];
    assert_eq!((&record["length"], &record["old"]), (&8.into(), &serde_json::json!([1])));
    assert_eq!(value["journal"]["unsealed"].as_array().unwrap().len(), 1);
}

#[test]
fn dump_shows_every_object() {
    let instance = Instance::new();
    let owner = instance.reserve(3, 9);
    let mut seat = Seat::take(&instance.region, owner).unwrap();
    let mut transaction = seat.begin().unwrap();
    let folder = transaction.create_folder("shop").unwrap();
    let map = transaction.create_map(folder, "stock").unwrap();
    let counter = transaction.create_counter(folder, "sold").unwrap();
    transaction.map(map).unwrap().put(b"apples", b"7").unwrap();
    transaction.map(map).unwrap().put(b"\x01", b"\xff").unwrap();
    transaction.counter(counter).unwrap().add(5).unwrap();
    transaction.commit().unwrap();
    let account = common::tally::account(&mut seat, "anna").unwrap();
    let mut transaction = seat.begin().unwrap();
    transaction.count_message(account, "anna", 12).unwrap();
    transaction.commit().unwrap();
    // Half-done: what is shown is what was before.
    let mut transaction = seat.begin().unwrap();
    transaction.map(map).unwrap().put(b"apples", b"8").unwrap();
    transaction.map(map).unwrap().put(b"pears", b"1").unwrap();
    std::mem::forget(transaction);

    let text = on(&instance.region_path(), "dump", &[]).stdout;
    for line in ["/shop: folder, ", "/shop/stock: map, ", "/shop/sold: counter, ", "/users/rows: map, "] {
        assert!(text.lines().any(|found| found.starts_with(line)), "{line}: {text}");
    }
    assert!(text.contains("user \"anna\": 1 messages, 12 bytes"), "{text}");
    assert!(text.contains("holds /shop/stock"), "{text}");
    let json = on(&instance.region_path(), "dump", &["--json"]).stdout;
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["users"], serde_json::json!({"anna": {"messages": 1, "bytes": 12}}));
    assert!(value["heap"]["used"].as_u64() > Some(0));
    let shop = &value["folders"][0];
    assert_eq!((&shop["name"], &shop["count"]), (&"shop".into(), &2.into()));
    assert_eq!((&shop["objects"][0]["name"], &shop["objects"][0]["value"]), (&"sold".into(), &5.into()));
    let stock = &shop["objects"][1];
    assert_eq!((&stock["name"], &stock["count"]), (&"stock".into(), &2.into()));
    let entries =
        serde_json::json!([{"key": "apples", "value": "7"}, {"key": {"hex": "01"}, "value": {"hex": "ff"}}]);
    assert_eq!(stock["entries"], entries);
    assert_eq!(value["slots"][0]["held"], serde_json::json!(["/shop/stock"]));
    assert_eq!(on(&instance.region_path(), "verify", &[]).code, Some(0));
}

#[test]
fn dump_shows_folders_in_folders_queues_and_blobs_whole() {
    let instance = Instance::new();
    let mut seat = Seat::take(&instance.region, instance.reserve(3, 9)).unwrap();
    let mut transaction = seat.begin().unwrap();
    let folder = transaction.open_or_create_folder("shop/back").unwrap();
    let jobs = transaction.create_queue(folder, "jobs", 7).unwrap();
    let text = transaction.create_blob(folder, "text").unwrap();
    transaction.blob(text).unwrap().set(b"some\nlines").unwrap();
    let mut locked = transaction.queue(jobs).unwrap();
    for item in [&b"one"[..], b"two", b"\xff", b"four"] {
        locked.push_back(item).unwrap();
    }
    locked.take_front().unwrap().unwrap();
    locked.take_back().unwrap().unwrap();
    transaction.commit().unwrap();
    // Half-done: what is shown is what was before.
    let mut transaction = seat.begin().unwrap();
    transaction.queue(jobs).unwrap().pop_front().unwrap();
    transaction.queue(jobs).unwrap().take_back().unwrap();
    transaction.blob(text).unwrap().write_at(0, b"other").unwrap();
    std::mem::forget(transaction);

    let text = on(&instance.region_path(), "dump", &[]).stdout;
    let line = "/shop/back/jobs: queue, ";
    let shown = text.lines().find(|found| found.starts_with(line)).expect("the queue");
    assert!(shown.ends_with("2 items, 7 at most, 2 in flight"), "{shown}");
    assert!(
        text.lines().any(|line| line.starts_with("/shop/back/text: blob, ") && line.ends_with("10 bytes"))
    );
    let json = on(&instance.region_path(), "dump", &["--json"]).stdout;
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    let (shop, back) = (&value["folders"][0], &value["folders"][1]);
    assert_eq!((&shop["name"], &back["name"]), (&"shop".into(), &"shop/back".into()));
    let (jobs, text) = (&back["objects"][0], &back["objects"][1]);
    assert_eq!((&jobs["kind"], &jobs["capacity"], &jobs["count"]), (&"queue".into(), &7.into(), &2.into()));
    assert_eq!(jobs["items"], serde_json::json!(["two", {"hex": "ff"}]));
    let in_flight = serde_json::json!([
        {"slot": 3, "generation": 9, "serial": 1, "end": "front", "item": "one"},
        {"slot": 3, "generation": 9, "serial": 2, "end": "back", "item": "four"},
    ]);
    assert_eq!(jobs["in_flight"], in_flight);
    assert_eq!(text["content"], serde_json::json!({"hex": "736f6d650a6c696e6573"}));
    assert_eq!(on(&instance.region_path(), "verify", &[]).code, Some(0));
}

#[test]
fn what_was_dumped_becomes_a_region_again() {
    let instance = Instance::new();
    let mut seat = Seat::take(&instance.region, instance.reserve(3, 9)).unwrap();
    let mut transaction = seat.begin().unwrap();
    let folder = transaction.open_or_create_folder("shop/back").unwrap();
    let jobs = transaction.create_queue(folder, "jobs", 7).unwrap();
    let text = transaction.create_blob(folder, "text").unwrap();
    let stock = transaction.create_map(folder, "stock").unwrap();
    let sold = transaction.create_counter(folder, "sold").unwrap();
    transaction.blob(text).unwrap().set(b"some\nlines").unwrap();
    transaction.map(stock).unwrap().put(b"apples", b"\xff").unwrap();
    transaction.counter(sold).unwrap().set(9).unwrap();
    assert!(transaction.queue(jobs).unwrap().push_back(b"one").unwrap());
    transaction.commit().unwrap();
    seat.leave();

    let directory = tempfile::tempdir().unwrap();
    let (region, dump) = (directory.path().join("region"), directory.path().join("dump.json"));
    let dumped = on(&instance.region_path(), "dump", &["--json"]).stdout;
    std::fs::write(&dump, &dumped).unwrap();
    let from = dump.to_str().unwrap();
    let outcome = on(&region, "import", &[from, "--size", "2MiB"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stdout.starts_with("sound: "), "{}", outcome.stdout);
    assert_eq!(std::fs::metadata(&region).unwrap().len(), 2 << 20);
    let again = on(&region, "dump", &["--json"]).stdout;
    let value = |dump: &str| serde_json::from_str::<serde_json::Value>(dump).unwrap();
    let contents = |dump: &serde_json::Value| -> Vec<_> {
        let objects = dump["folders"][1]["objects"].as_array().unwrap().iter();
        let shown = ["name", "kind", "value", "entries", "items", "capacity", "in_flight", "content"];
        objects.map(|object| shown.map(|field| object[field].clone())).collect()
    };
    assert_eq!(contents(&value(&again)), contents(&value(&dumped)));
    assert_eq!(contents(&value(&again)).len(), 4);

    // One that was killed has left half a region.
    std::fs::remove_file(&region).unwrap();
    std::fs::write(directory.path().join("region.next"), "half a region").unwrap();
    let at_work = std::fs::File::open(directory.path()).unwrap();
    assert!(try_lock(&at_work, Lock::Exclusive).unwrap());
    let outcome = on(&region, "import", &[from]);
    assert_eq!(outcome.code, Some(3), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("another import"), "{}", outcome.stderr);
    drop(at_work);
    let outcome = on(&region, "import", &[from]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(!directory.path().join("region.next").exists());
    let outcome = on(&region, "import", &[from]);
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("exists; move it away"), "{}", outcome.stderr);
    let outcome = on(&directory.path().join("other"), "import", &[]);
    assert_eq!(outcome.code, Some(2), "nothing on stdin: {}", outcome.stderr);
    assert!(!directory.path().join("other").exists());
}

#[test]
fn repair_refuses_while_an_instance_runs_and_repairs_when_it_is_gone() {
    let instance = Instance::new();
    with_a_dead_owner(&instance);
    let (region, spool) = (instance.region_path(), instance.spool_path());
    let spool = ["--spool-dir", spool.to_str().unwrap()];
    let outcome = on(&region, "repair", &spool);
    assert_eq!(outcome.code, Some(3), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("an instance is running"));
    let directory = instance.end();

    let nowhere = directory.path().join("nowhere");
    let outcome = on(&region, "repair", &["--spool-dir", nowhere.to_str().unwrap()]);
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    assert!(!nowhere.exists());
    std::fs::create_dir(&nowhere).unwrap();
    let outcome = on(&region, "repair", &["--spool-dir", nowhere.to_str().unwrap()]);
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("which the region was writing"));

    let outcome = on(&region, "repair", &spool);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let lines: Vec<_> = outcome.stdout.lines().collect();
    let died =
        "slot 3 generation 9 (pid 0): its transaction was rolled back; it was at: serving  [31msomebody";
    let sound = "sound: 32 slots, 0 live, 0 dead and not repaired yet, 1 messages";
    assert_eq!(lines, ["repaired 1 slots", died, sound]);
    assert_eq!(on(&region, "repair", &spool).stdout.lines().next(), Some("repaired 0 slots"));
}

#[test]
fn repair_says_what_it_cannot_repair() {
    let instance = Instance::new();
    with_a_dead_owner(&instance);
    instance.region.slot(common::ids::SlotIndex(3)).unwrap().undo.store(77 << 32, SeqCst);
    let (region, spool) = (instance.region_path(), instance.spool_path());
    let _directory = instance.end();
    let outcome = on(&region, "repair", &["--spool-dir", spool.to_str().unwrap()]);
    assert_eq!(outcome.code, Some(4));
    assert!(outcome.stderr.contains("slot 3 generation 9 cannot be repaired"), "{}", outcome.stderr);
}

#[test]
fn repair_does_not_share_a_spool_with_an_instance() {
    let (gone, running) = (Instance::new(), Instance::new());
    with_a_dead_owner(&gone);
    let minute = gone.region.header().journal.open_minute().minute;
    std::fs::copy(gone.spool_path().join(data_name(minute)), running.spool_path().join(data_name(minute)))
        .unwrap();
    let region = gone.region_path();
    let _directory = gone.end();
    let outcome = on(&region, "repair", &["--spool-dir", running.spool_path().to_str().unwrap()]);
    assert_eq!(outcome.code, Some(3), "{}", outcome.stderr);
}

#[test]
fn the_command_line() {
    for (arguments, code) in [
        (&["--help"][..], 0),
        (&["--version"], 0),
        (&["verify", "--help"], 0),
        (&[], 2),
        (&["verify"], 2),
        (&["verify", "--json", "region"], 2),
        (&["mend", "region"], 2),
    ] {
        let outcome = recovery(arguments);
        assert_eq!(outcome.code, Some(code), "{arguments:?}");
        assert_eq!(outcome.stdout.is_empty(), code != 0);
        assert_eq!(outcome.stderr.lines().count(), usize::from(code != 0), "{}", outcome.stderr);
    }
}

#[test]
fn the_supervisors_roles_need_a_supervisor() {
    for role in ["standby", "once", "journal"] {
        let outcome = recovery(&[role]);
        assert_eq!(outcome.code, Some(2));
        assert!(outcome.stderr.contains("started by the supervisor"), "{}", outcome.stderr);
        assert_eq!(outcome.stderr.lines().count(), 1);
    }
}

#[test]
fn verify_stays_quiet_while_an_instance_works() {
    let instance = Instance::new();
    let (standby, keeper) = (instance.start("standby"), instance.start("journal"));
    instance.take_over(&standby);
    std::thread::scope(|scope| {
        let verifier = scope.spawn(|| {
            for _ in 0..30 {
                let outcome = on(&instance.region_path(), "verify", &[]);
                assert_eq!(outcome.code, Some(0), "{}", outcome.stdout);
            }
        });
        let mut generations = 1..;
        while !verifier.is_finished() {
            live_and_die(&instance, generations.next().unwrap(), &standby);
        }
    });
    drop(keeper);
    assert_eq!(instance.records(), instance.region.totals().messages);
}

/// Some messages, a death in the next one, its repair, and the minute is closed.
fn live_and_die(instance: &Instance, generation: u32, standby: &support::Child) {
    let mut writer = Writer::new(Spool::open_or_create(&instance.spool_path()).unwrap(), Sync::Never);
    let owner = instance.reserve(3, generation);
    let mut seat = Seat::take(&instance.region, owner).unwrap();
    for _ in 0..20 {
        let mut transaction = seat.begin().unwrap();
        transaction.add(Counter::Messages, 1).unwrap();
        // Closed faster than they are sealed, minutes run out: then there is no message.
        if writer.append(&transaction, "user", "text").is_ok() {
            transaction.commit().unwrap();
            writer.settle(&seat.slot().intent).unwrap();
        }
    }
    let mut transaction = seat.begin().unwrap();
    transaction.add(Counter::Messages, 1).unwrap();
    std::mem::forget(transaction);
    let journal = &instance.region.header().journal;
    journal.close(journal.open_minute());
    standby.repair(owner);
    assert_eq!(standby.report(), Report::Repaired(owner));
}
