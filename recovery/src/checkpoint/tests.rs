use common::journal::spool::shipped_name;

use super::store::DIRECTORY;
use super::*;
use crate::scene::Scene;

#[test]
fn a_checkpoint_that_is_on_the_disk_is_taken_whatever_cannot_be_removed() {
    let scene = Scene::new();
    let mut seat = scene.seat(3, 1);
    scene.message(&mut seat);
    assert_eq!(scene.checkpoint(5, 1).unwrap().number, 1);
    let newest = || scene.region.header().history.number.load(SeqCst);
    // Nothing can take the place of a directory, nor is one removed as a file is.
    let covered = scene.directory.path().join(DIRECTORY).join("covered");
    std::fs::remove_file(&covered).unwrap();
    std::fs::create_dir(&covered).unwrap();
    assert_eq!(scene.checkpoint(5, 2).unwrap().number, 2);
    assert_eq!(newest(), 2);
    std::fs::remove_dir(&covered).unwrap();
    std::fs::create_dir(scene.directory.path().join(shipped_name(Minute(1)))).unwrap();
    assert_eq!(scene.checkpoint(5, 3).unwrap().number, 3);
    assert_eq!(newest(), 3);
    assert!(covered.is_file());
}
