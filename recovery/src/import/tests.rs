use common::region::UnverifiedRegion;
use common::tally::totals;

use super::*;
use crate::scene::{Scene, put, with_objects};

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

#[test]
fn what_cannot_be_rebuilt_whole_is_refused() {
    let scene = Scene::new();
    with_objects(&scene);
    let dump: serde_json::Value = serde_json::from_str(&dumped(&scene.region)).unwrap();
    let refused = |change: fn(&mut serde_json::Value), words: &str| {
        let mut dump = dump.clone();
        change(&mut dump);
        let error = imported(&dump.to_string(), None).err().expect(words);
        assert_eq!(error.exit() as i32, 2, "{error}");
        assert!(error.to_string().contains(words) && !error.to_string().contains('\n'), "{error}");
    };
    refused(|dump| dump["folders"][0]["objects"][0]["kind"] = "tree".into(), "cannot rebuild");
    refused(|dump| dump["folders"][0]["objects"][0]["error"] = "busy".into(), "not all of shop/empty");
    refused(|dump| dump["folders"][0]["objects"][0]["entries"] = serde_json::Value::Null, "has no entries");
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
