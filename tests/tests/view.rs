//! What a worker can reach of the region: what all share, and the log of its own slot.

use std::fs;
use std::ops::Range;

use common::layout::Geometry;
use common::limits::UNDO_LOG_SIZE;
use holdfast_tests::Place;
use holdfast_tests::processes::children_of;

/// Which of the undo logs a process has mapped, as ranges of the region's file.
fn logs_mapped(place: &Place, pid: i32) -> Vec<Range<u64>> {
    let path = place.region();
    let geometry = Geometry::of(fs::metadata(&path).unwrap().len()).unwrap();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let of_the_region = maps.lines().filter(|line| line.ends_with(path.to_str().unwrap()));
    let pages: Vec<_> = of_the_region.map(in_the_file).collect();
    assert!(pages.iter().any(|pages| pages.start == 0), "{pid} has the header: {maps}");
    assert!(pages.iter().any(|pages| pages.end == geometry.length), "{pid} has the heap: {maps}");
    let logs = pages.into_iter().map(|pages| pages.start.max(geometry.logs)..pages.end.min(geometry.tallies));
    logs.filter(|logs| !logs.is_empty()).collect()
}

/// `start-end access offset device inode path`.
fn in_the_file(line: &str) -> Range<u64> {
    let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let mut fields = line.split_whitespace();
    let (start, end) = fields.next().unwrap().split_once('-').unwrap();
    let offset = number(fields.nth(1).unwrap());
    offset..offset + number(end) - number(start)
}

#[test]
fn a_worker_has_its_own_log_mapped_and_nobody_elses() {
    let place = Place::new();
    let instance = place.instance().workers(3).start();
    let mut connections = [0; 3].map(|_| instance.connect());
    connections.iter_mut().for_each(|connection| assert!(connection.say("arijort", "hello") > 0));
    drop(connections);
    instance.wait_for_rest();
    let geometry = Geometry::of(fs::metadata(place.region()).unwrap().len()).unwrap();
    let status = instance.status_with_slots();
    let mut workers = 0;
    for slot in status["slots"].as_array().unwrap().iter().filter(|slot| slot["state"] == "idle") {
        let (slot, pid) = (slot["slot"].as_u64().unwrap(), slot["pid"].as_i64().unwrap() as i32);
        let start = geometry.logs + slot * UNDO_LOG_SIZE;
        let own = start..start + UNDO_LOG_SIZE;
        assert_eq!(logs_mapped(&place, pid), std::slice::from_ref(&own), "slot {slot}");
        workers += 1;
    }
    assert_eq!(workers, 3, "{status}");
    let name = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    let templates: Vec<_> =
        children_of(instance.pid()).into_iter().filter(|pid| name(pid) == "template\n").collect();
    assert_eq!(templates.iter().map(|pid| logs_mapped(&place, *pid)).collect::<Vec<_>>(), [[]]);
    instance.stop();
}
