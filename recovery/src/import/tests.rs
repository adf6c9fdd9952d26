use common::region::UnverifiedRegion;
use common::tally::totals;

use super::*;
use crate::scene::{Scene, put, with_objects, with_queue_and_blob};

fn dumped(region: &Region) -> String {
    serde_json::to_string(&crate::dump::Dump::of(region)).unwrap()
}

fn imported(dump: &str, size: Option<Size>) -> Result<(tempfile::TempDir, Region)> {
    let directory = tempfile::tempdir().unwrap();
    let (path, from) = (directory.path().join("region"), directory.path().join("dump.json"));
    std::fs::write(&from, dump).unwrap();
    let outcome = run(&path, Some(&from), size);
    assert_eq!(path.exists(), outcome.is_ok());
    assert!(!path.with_extension("next").exists());
    outcome?;
    let file = File::options().read(true).write(true).open(path).unwrap();
    let region =
        UnverifiedRegion::open(&file).unwrap().once(|region| match verify::check(region).is_empty() {
            true => Ok(()),
            false => Err(Error::region("it is not sound")),
        })?;
    Ok((directory, region))
}

#[test]
fn everything_is_there_again_in_a_region_of_another_size() {
    let scene = Scene::new();
    with_objects(&scene);
    let mut seat = scene.seat(3, 1);
    (0..70).for_each(|user| scene.record(&mut seat, &format!("user {user}"), "hello"));
    put(&mut seat, scene.map("stock"), &[0xff, 0, 1], "zoë \"quoted\"\n".as_bytes()).unwrap();
    put(&mut seat, scene.map("stock"), b"{\"hex\":\"00\"}", b"").unwrap();
    seat.leave();
    scene.free(3);
    for size in [None, Some(Size(4 << 20)), Some(Size(1 << 20))] {
        let (_directory, region) = imported(&dumped(&scene.region), size).unwrap();
        assert_eq!(region.geometry().length, size.map_or(1 << 20, |Size(bytes)| bytes));
        assert_eq!(region.totals(), scene.region.totals());
        assert_eq!(totals(&region).unwrap(), totals(&scene.region).unwrap());
        for name in ["stock", "large", "empty"] {
            let entries = |region: &Region| {
                let map = Folder::open(region, "shop").unwrap().open_map(region, name).unwrap();
                let mut entries = map.entries(region).unwrap();
                entries.sort();
                entries
            };
            assert_eq!(entries(&region), entries(&scene.region), "{name}");
        }
        let sold = Folder::open(&region, "shop").unwrap().open_counter(&region, "sold").unwrap();
        assert_eq!(sold.get(&region).unwrap(), 7);
        // What is dumped of it is imported again.
        let (_again, again) = imported(&dumped(&region), None).unwrap();
        assert_eq!(totals(&again).unwrap(), totals(&region).unwrap());
    }
}

/// What a dump says of everything that lasts: without the numbers of table entries, and what is kept of users, who are
/// shown apart.
fn lasting(dump: &str) -> serde_json::Value {
    let dump: serde_json::Value = serde_json::from_str(dump).unwrap();
    let mut folders = dump["folders"].clone();
    for folder in folders.as_array_mut().unwrap() {
        if folder["name"] == "users" {
            folder["objects"] = serde_json::Value::Null;
        }
        let objects = folder["objects"].as_array_mut().into_iter().flatten();
        for object in objects.map(|object| object.as_object_mut().unwrap()) {
            object.retain(|field, _| !["object", "generation", "buckets"].contains(&field.as_str()));
        }
        let folder = folder.as_object_mut().unwrap();
        folder.retain(|field, _| ["name", "kind", "objects"].contains(&field.as_str()));
    }
    serde_json::json!({ "totals": dump["totals"], "users": dump["users"], "folders": folders })
}

#[test]
fn what_is_dumped_of_it_is_what_was_dumped() {
    let scene = Scene::new();
    with_objects(&scene);
    with_queue_and_blob(&scene);
    let mut seat = scene.seat(3, 1);
    scene.record(&mut seat, "anna", "hello");
    let mut txn = seat.begin().unwrap();
    let deep = txn.open_or_create_folder("shop/back/yard/shed").unwrap();
    txn.create_folder("empty").unwrap();
    let blob = txn.create_blob(deep, "large").unwrap();
    txn.blob(blob).unwrap().set(&vec![7; 30_000]).unwrap();
    txn.create_blob(deep, "nothing").unwrap();
    let any = txn.create_queue(deep, "any number", 0).unwrap();
    assert!(txn.queue(any).unwrap().push_front(b"text").unwrap());
    txn.create_queue(deep, "without any", 3).unwrap();
    txn.commit().unwrap();
    seat.leave();
    scene.free(3);
    let dump = dumped(&scene.region);
    for size in [None, Some(Size(4 << 20))] {
        let (_directory, region) = imported(&dump, size).unwrap();
        assert_eq!(lasting(&dumped(&region)), lasting(&dump));
    }
}

#[test]
fn items_in_flight_are_in_their_queues_again_as_after_a_repair() {
    let scene = Scene::new();
    with_objects(&scene);
    with_queue_and_blob(&scene);
    let jobs =
        |region: &Region| Folder::open(region, "shop/back").unwrap().open_queue(region, "jobs").unwrap();
    let before = jobs(&scene.region).items(&scene.region).unwrap();
    let mut seat = scene.seat(3, 1);
    let mut txn = seat.begin().unwrap();
    let mut queue = txn.queue(jobs(&scene.region)).unwrap();
    for _ in 0..2 {
        queue.take_front().unwrap().unwrap();
        queue.take_back().unwrap().unwrap();
    }
    txn.commit().unwrap();
    let (_directory, region) = imported(&dumped(&scene.region), None).unwrap();
    let queue = jobs(&region);
    assert_eq!(queue.items(&region).unwrap(), before);
    assert_eq!(queue.capacity(&region).unwrap(), Some(12));
}

#[test]
fn what_cannot_be_rebuilt_whole_is_refused() {
    let scene = Scene::new();
    with_objects(&scene);
    let dump: serde_json::Value = serde_json::from_str(&dumped(&scene.region)).unwrap();
    let refused = |change: fn(&mut serde_json::Value), words: &str| {
        let mut dump = dump.clone();
        change(&mut dump);
        let error = imported(&dump.to_string(), None).expect_err(words);
        assert_eq!(error.exit() as i32, 2, "{error}");
        assert!(error.to_string().contains(words) && !error.to_string().contains('\n'), "{error}");
    };
    refused(|dump| dump["folders"][0]["objects"][0]["kind"] = "tree".into(), "cannot rebuild");
    refused(|dump| dump["folders"][0]["objects"][0]["error"] = "busy".into(), "not all of shop/empty");
    refused(|dump| dump["folders"][0]["objects"][0]["entries"] = serde_json::Value::Null, "has no entries");
    refused(|dump| dump["folders"][0]["error"] = "busy".into(), "not all of shop was");
    refused(|dump| dump["folders"][0]["objects"][0]["kind"] = "queue".into(), "has no capacity");
    refused(|dump| dump["folders"][0]["objects"][0]["kind"] = "blob".into(), "has no content");
    refused(|dump| dump["folders"][0]["name"] = "a\u{1}b".into(), "a name has");
    refused(|dump| dump["header"]["length"] = 5.into(), "cannot have 5 bytes");
    refused(|dump| dump["users"] = 5.into(), "is not what recovery dump --json prints");
    refused(
        |dump| dump["folders"][0]["objects"][1]["entries"][0]["key"] = serde_json::json!({ "hex": "0g" }),
        "digits",
    );
    let error = imported(&dump.to_string(), Some(Size(100))).err().unwrap().to_string();
    assert!(error.contains("100 bytes"), "{error}");
}
