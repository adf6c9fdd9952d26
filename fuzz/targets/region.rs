//! Whatever is written all over a region: no tool falls over, reads beyond it or goes on for ever, and what repair refuses
//! stays as it was, or as it was settled before a queue turned out to be damaged.
#![no_main]

use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;

use common::undo::UndoLog;
use holdfast_fuzz::scene::{self, Scene};
use libfuzzer_sys::fuzz_target;
use recovery::dump::Dump;
use recovery::repair::{Repairer, Setback, needs_repair};

thread_local! {
    static SCENE: OnceLock<Scene> = const { OnceLock::new() };
}

fuzz_target!(|input: &[u8]| {
    SCENE.with(|scene| use_every_tool(scene.get_or_init(Scene::new), input));
});

fn use_every_tool(scene: &Scene, input: &[u8]) {
    scene.scribble(input);
    let region = &scene.region;
    let _ = recovery::verify::check_with(region, &[0]);
    let dump = Dump::of(region);
    assert!(!dump.text().is_empty() && serde_json::to_string(&dump).is_ok());
    for (index, slot) in region.slots().filter(|(_, slot)| needs_repair(slot)) {
        let owner = common::slots::owner(index, slot.standing().0);
        let _ = Repairer::new(region, &scene.spool).anticipate(owner);
        let before = scene.image();
        let refused =
            || matches!(Repairer::new(region, &scene.spool).repair(owner, true), Err(Setback::Damage(_)));
        if refused() && scene.image() != before {
            let logs = [UndoLog::of(region, index), UndoLog::mini_of(region, index)];
            assert!(
                logs.iter().flatten().all(UndoLog::is_empty) && slot.held_count.load(Relaxed) == 0,
                "it is settled"
            );
            let settled = Dump::of(region).text();
            assert!(refused() && Dump::of(region).text() == settled, "what is refused stays as it was");
        }
    }
    // A reader waits for a second where something seems to be changed.
    scene::calm(region);
    scene::read_everything(region);
    scene::write_something(scene);
}
