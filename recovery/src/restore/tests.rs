use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;

use common::error::Exit;
use common::ids::Minute;
use common::journal::OpenMinute;
use common::journal::names::Kind;
use common::journal::spool::{data_path, shipped_name};
use common::objects::{Folder, Map};
use common::region::UnverifiedRegion;
use common::sys::file::write_whole_at;
use common::tally::{Sent, totals};
use common::txn::Seat;

use super::*;
use crate::scene::{Scene, Step, die_after, put, with_objects};

/// A restored region; its file goes with the directory.
struct Restoration {
    directory: tempfile::TempDir,
    region: Region,
    restored: Restored,
}

fn restore(scene: &Scene) -> Result<Restoration> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("region");
    let restored = rebuild(&path, &scene.spool, scene.directory.path())?;
    let file = File::options().read(true).write(true).open(path).unwrap();
    let region =
        UnverifiedRegion::open(&file)?.once(|region| match verify::check(region).into_iter().next() {
            None => Ok(()),
            Some(finding) => Err(Error::region(finding.to_string())),
        })?;
    Ok(Restoration { directory, region, restored })
}

fn entries(region: &Region, name: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let map = Folder::open(region, "shop").unwrap().open_map(region, name).unwrap();
    let mut entries = map.entries(region).unwrap();
    entries.sort();
    entries
}

fn sent(region: &Region, user: &str) -> (u64, u64) {
    let Sent { messages, bytes } = totals(region).unwrap().users.get(user).copied().unwrap_or_default();
    (messages, bytes)
}

fn checkpoint_path(scene: &Scene, number: u64) -> PathBuf {
    scene.directory.path().join(DIRECTORY).join(name_of(number))
}

fn scribble(scene: &Scene, number: u64) {
    let file = File::options().read(true).write(true).open(checkpoint_path(scene, number)).unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
}

/// As the collector does once it has delivered a minute; sealed before, as everything that is shipped.
fn ship(scene: &Scene) -> Minute {
    let minute = scene.journal().open_minute().minute;
    let mut keeper =
        crate::keeper::Keeper::new(&scene.region, &scene.spool, common::wire::control::Sync::Never).unwrap();
    assert!(keeper.seal_everything(std::time::Instant::now()), "{:?}", keeper.obstacle());
    let spool = scene.directory.path();
    std::fs::rename(data_path(spool, minute), spool.join(shipped_name(minute))).unwrap();
    minute
}

#[test]
fn everything_is_as_it_was_and_the_epoch_is_another() {
    let scene = Scene::new();
    with_objects(&scene);
    let mut seat = scene.seat(3, 1);
    (0..70).for_each(|user| scene.record(&mut seat, &format!("user {user}"), "hello"));
    seat.slot().count(slots::Counter::Connections);
    let taken = scene.checkpoint(5, 1).unwrap();
    assert_eq!((taken.number, taken.in_vain), (1, 0));
    let restoration = restore(&scene).unwrap();
    assert_eq!((restoration.restored.number, restoration.restored.replayed), (1, 0));
    let region = &restoration.region;
    assert_ne!(region.epoch(), scene.region.epoch());
    assert_eq!(region.totals(), scene.region.totals());
    assert_eq!(totals(region).unwrap(), totals(&scene.region).unwrap());
    for name in ["stock", "large", "empty"] {
        assert_eq!(entries(region, name), entries(&scene.region, name), "{name}");
    }
    assert!(region.slots().all(|(_, slot)| slot.standing().1 == Some(State::Free) && slot.holds_nothing()));
    // And it goes on.
    let slot = region.slot(SlotIndex(3)).unwrap();
    slot.reserve(common::ids::Generation(2), 1);
    let mut seat = Seat::take(region, slots::owner(SlotIndex(3), common::ids::Generation(2))).unwrap();
    let stock: Map = Folder::open(region, "shop").unwrap().open_map(region, "stock").unwrap();
    put(&mut seat, stock, b"another", b"one").unwrap();
    assert_eq!(stock.get(region, &7_u64.to_le_bytes()).unwrap().as_deref(), Some(&b"some"[..]));
}

#[test]
fn what_the_journal_has_beyond_it_is_counted_and_nothing_twice() {
    let scene = Scene::new();
    with_objects(&scene);
    let mut seat = scene.seat(3, 1);
    scene.record(&mut seat, "anna", "before");
    scene.checkpoint(5, 1).unwrap();
    put(&mut seat, scene.map("stock"), b"later", b"lost").unwrap();
    scene.record(&mut seat, "anna", "after");
    scene.record(&mut seat, "bert", "the first of his");
    // Of a minute that was shipped, of one that was not, and two that are torn.
    ship(&scene);
    scene.record(&mut seat, "anna", "in the next minute");
    die_after(&scene, 6, 1, Step::Written);
    die_after(&scene, 7, 1, Step::NewlineMissing);
    die_after(&scene, 8, 1, Step::Claimed);
    scene.record(&mut seat, "anna", "last");
    let restoration = restore(&scene).unwrap();
    let region = &restoration.region;
    assert_eq!(restoration.restored.replayed, 5, "the whole record of a dead one too");
    assert_eq!(region.totals().messages, 6);
    assert_eq!(sent(region, "anna"), (4, 6 + 5 + 18 + 4));
    assert_eq!((sent(region, "bert"), sent(region, "user")), ((1, 16), (1, 12)));
    assert!(!entries(region, "stock").iter().any(|(key, _)| key == b"later"), "maps go back");
    let history = &region.header().history;
    assert_eq!(history.replayed.load(SeqCst), 5);
    assert!(history.restored_ns.load(SeqCst) >= history.restored_from_ns.load(SeqCst));
}

#[test]
fn what_was_refused_is_counted_too() {
    let scene = Scene::new();
    let mut seat = scene.seat(3, 1);
    scene.record(&mut seat, "anna", "before");
    scene.checkpoint(5, 1).unwrap();
    scene.record(&mut seat, "anna", "refused");
    let minute = ship(&scene);
    let at = |kind| scene.directory.path().join(common::journal::names::name(minute, kind));
    std::fs::rename(at(Kind::Sent), at(Kind::Refused)).unwrap();
    std::fs::write(at(Kind::Reason), "422: no sense\n").unwrap();
    scene.record(&mut seat, "anna", "after");
    let restoration = restore(&scene).unwrap();
    assert_eq!(restoration.restored.replayed, 2);
    assert_eq!(sent(&restoration.region, "anna"), (3, 6 + 7 + 5));
}

#[test]
fn items_that_somebody_had_taken_are_in_their_queues_again() {
    let scene = Scene::new();
    with_objects(&scene);
    crate::scene::with_queue_and_blob(&scene);
    let jobs =
        |region: &Region| Folder::open(region, "shop/back").unwrap().open_queue(region, "jobs").unwrap();
    let before = jobs(&scene.region).items(&scene.region).unwrap();
    for slot in [3, 4] {
        let mut seat = scene.seat(slot, 1);
        let mut txn = seat.begin().unwrap();
        txn.queue(jobs(&scene.region)).unwrap().take_front().unwrap().unwrap();
        txn.commit().unwrap();
        // It lives on, while the checkpoint is taken.
        std::mem::forget(seat);
    }
    scene.checkpoint(5, 1).unwrap();
    let Restoration { region, restored, directory: _directory } = restore(&scene).unwrap();
    assert_eq!(restored.number, 1);
    assert!(region.slots().all(|(_, slot)| slot.holds_nothing()));
    let mut after = jobs(&region).items(&region).unwrap();
    after.sort();
    assert_eq!(after, before);
}

#[test]
fn a_bad_one_gives_way_to_the_one_before_and_is_kept_for_inspection() {
    let scene = Scene::new();
    let mut seat = scene.seat(3, 1);
    for message in ["one", "two", "three"] {
        scene.record(&mut seat, "anna", message);
        let generation = message.len() as u32 * 10 + message.as_bytes()[1] as u32;
        scene.checkpoint(5, generation).unwrap();
    }
    assert!(!checkpoint_path(&scene, 1).exists(), "two are kept");
    scribble(&scene, 3);
    let restoration = restore(&scene).unwrap();
    assert_eq!((restoration.restored.number, restoration.restored.replayed), (2, 1));
    assert_eq!(sent(&restoration.region, "anna"), (3, 3 + 3 + 5));
    assert!(!checkpoint_path(&scene, 3).exists());
    assert!(checkpoint_path(&scene, 3).with_extension("checkpoint.damaged").exists());
    // Its number is not used again.
    assert_eq!(scene.checkpoint(5, 100).unwrap().number, 4);
    drop(restoration.directory);
}

#[test]
fn without_a_good_one_it_is_refused_with_what_to_do() {
    let scene = Scene::new();
    let refusal = |scene: &Scene| restore(scene).err().expect("refused");
    assert!(refusal(&scene).to_string().contains("there is no checkpoint"));
    scene.checkpoint(5, 1).unwrap();
    scribble(&scene, 1);
    let error = refusal(&scene);
    assert_eq!(error.exit(), Exit::Region);
    assert!(error.to_string().contains("move the region and that directory away"), "{error}");
    assert!(checkpoint_path(&scene, 1).exists(), "it stays as it is, and is refused again");
    let file = File::options().write(true).open(checkpoint_path(&scene, 1)).unwrap();
    file.write_all_at(&[9], 8).unwrap();
    assert!(refusal(&scene).to_string().contains("it does not begin"));
}

#[test]
fn what_a_restored_region_counted_is_counted_again_after_another_loss() {
    let scene = Scene::new();
    let mut seat = scene.seat(3, 1);
    scene.record(&mut seat, "anna", "before");
    scene.checkpoint(5, 1).unwrap();
    scene.record(&mut seat, "anna", "after");
    let first = restore(&scene).unwrap();
    // The restored region goes on in this spool, and is lost before it has a checkpoint of its own.
    crate::takeover::take_over(&first.region, &scene.spool, &[]).unwrap();
    let open = first.region.header().journal.open_minute();
    assert!(matches!(open, OpenMinute { closed: true, .. }));
    let mut next = scene;
    next.region = first.region;
    let mut seat = next.seat(3, 2);
    next.record(&mut seat, "anna", "in the second life");
    let second = restore(&next).unwrap();
    assert_eq!(second.restored.replayed, 2);
    assert_eq!(sent(&second.region, "anna"), (3, 6 + 5 + 18));
}

/// Fills the heap with values of all sizes; gives how many entries the map has then.
fn fill(seat: &mut Seat<'_>, map: Map) -> u64 {
    let mut entries = 0_u64;
    for size in [5000, 1000, 200, 40, 8] {
        while put(seat, map, &entries.to_le_bytes(), &vec![1; size]).is_ok() {
            entries += 1;
        }
    }
    entries
}

fn remove(seat: &mut Seat<'_>, map: Map, key: u64) {
    let mut txn = seat.begin().unwrap();
    assert!(txn.map(map).unwrap().remove(&key.to_le_bytes()).unwrap());
    txn.commit().unwrap();
}

#[test]
fn users_that_a_full_heap_has_room_for_in_one_slot_only_are_counted_there() {
    let scene = Scene::new();
    with_objects(&scene);
    let (mut one, mut other) = (scene.seat(3, 1), scene.seat(4, 1));
    let map = scene.map("empty");
    scene.record(&mut one, "anna", "before");
    (0..100_u64)
        .for_each(|key| put(&mut other, scene.map("stock"), &(key << 32).to_le_bytes(), b"some").unwrap());
    fill(&mut one, map);
    // The other one's page has free blocks again, and stays its own.
    for key in (0..100_u64).step_by(2) {
        remove(&mut other, scene.map("stock"), key << 32);
    }
    scene.checkpoint(5, 1).unwrap();
    scene.record(&mut other, "bert", "new here");
    scene.record(&mut one, "anna", "after");
    let Restoration { region, restored, directory: _directory } = restore(&scene).unwrap();
    assert_eq!((restored.number, restored.replayed), (1, 2));
    assert_eq!((sent(&region, "anna"), sent(&region, "bert")), ((2, 6 + 5), (1, 8)));
    assert_eq!(region.totals().messages, 3);
}

#[test]
fn a_full_one_that_new_users_have_no_room_in_gives_way_to_the_one_before() {
    let scene = Scene::new();
    with_objects(&scene);
    // In the slot whose slabs all others are, too.
    let (mut seat, map) = (scene.seat(30, 2), scene.map("empty"));
    scene.record(&mut seat, "anna", "before");
    scene.checkpoint(5, 1).unwrap();
    let entries = fill(&mut seat, map);
    scene.checkpoint(5, 2).unwrap();
    for key in 0..entries {
        remove(&mut seat, map, key);
    }
    scene.record(&mut seat, "bert", "there was room for him");
    let first = std::fs::read(checkpoint_path(&scene, 1)).unwrap();
    std::fs::remove_file(checkpoint_path(&scene, 1)).unwrap();
    let error = restore(&scene).err().expect("refused");
    assert_eq!(error.exit(), Exit::Region);
    let told = error.to_string();
    assert!(told.contains("no room for 1 new users") && told.contains("move the region"), "{told}");

    std::fs::write(checkpoint_path(&scene, 1), first).unwrap();
    let Restoration { region, restored, directory: _directory } = restore(&scene).unwrap();
    assert_eq!((restored.number, restored.replayed), (1, 1));
    assert_eq!((sent(&region, "anna"), sent(&region, "bert")), ((1, 6), (1, 22)));
}

#[test]
fn what_both_cover_is_written_down_and_shipped_minutes_before_it_go() {
    let scene = Scene::new();
    let covered = || std::fs::read_to_string(scene.directory.path().join(DIRECTORY).join("covered")).unwrap();
    let mut seat = scene.seat(3, 1);
    scene.record(&mut seat, "anna", "one");
    let first = ship(&scene);
    scene.checkpoint(5, 1).unwrap();
    assert_eq!(covered(), "0\n", "with one of them nothing is covered twice");
    scene.record(&mut seat, "anna", "two");
    let second = scene.journal().open_minute().minute;
    scene.checkpoint(5, 2).unwrap();
    assert_eq!(covered(), format!("{first}\n"));
    assert_eq!(scene.spool.shipped().unwrap().len(), 1);
    scene.checkpoint(5, 3).unwrap();
    assert_eq!(covered(), format!("{second}\n"));
    assert_eq!(scene.spool.shipped().unwrap(), []);
}

#[test]
fn pieces_that_belong_nowhere_are_refused() {
    let region = Region::create(&tempfile::tempfile().unwrap(), 1 << 20).unwrap();
    let geometry = region.geometry();
    for offset in [0, 128, geometry.logs, geometry.marks, geometry.length - 8, u64::MAX - 8, HEADER_SIZE + 4]
    {
        assert!(place(&region, Offset(offset), &[1; 16]).is_err(), "{offset}");
    }
    assert!(place(&region, Offset(HEADER_SIZE), &[1; 12]).is_err());
    assert!(place(&region, Offset(HEADER_SIZE), &[1; 16]).is_ok());
    let scribbled = tempfile::tempfile().unwrap();
    write_whole_at(
        &scribbled,
        b"no checkpoint at all, but a text that is longer than the beginning of one",
        0,
    )
    .unwrap();
    assert!(matches!(Head::read(&mut format::reader(&scribbled)), Err(Unfit::Bad(_))));
}
