//! Blocks within one process. What real processes and real deaths do to them stands in `tests/tests/blocks`.

use std::os::unix::fs::{FileExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

use super::layout::{AT_BACKED, AT_BOOT, AT_CAPACITY, AT_HEAD, HEADER, LARGE, length_of, stamp_of};
use super::*;

const LIMIT: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(5);

/// A directory of blocks of a test's own.
struct Place {
    blocks: Blocks,
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { blocks: Blocks::create(&directory.path().join("run/blocks")).unwrap(), directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("run/blocks").join(name)
    }

    fn producer(&self) -> Producer {
        self.blocks.producer("b", Options::default()).unwrap()
    }

    fn consumer(&self) -> Consumer {
        self.blocks.consumer("b").unwrap()
    }

    fn files(&self) -> Vec<String> {
        self.blocks.entries().unwrap()
    }
}

fn read(consumer: &mut Consumer) -> Vec<u8> {
    let mut content = Vec::new();
    consumer.read(&mut content).unwrap();
    content
}

#[test]
fn every_size_comes_back_and_versions_count() {
    let place = Place::new();
    let mut producer = place.producer();
    let sizes = [1, 7, 64, 65, 4096, LARGE as usize, LARGE as usize + 1, 100_000, 3 << 20, 1, 100_000];
    for (turn, size) in sizes.into_iter().enumerate() {
        let content: Vec<u8> = (0..size).map(|byte| (byte * 31 + turn) as u8).collect();
        assert_eq!(producer.publish(&content, LIMIT), Ok(turn as u64 + 1));
        let mut consumer = place.consumer();
        assert_eq!(read(&mut consumer), content);
        let pinned = consumer.pin().unwrap();
        let mut copy = vec![0; pinned.len()];
        assert!(pinned.copy_to(0, &mut copy) && !pinned.copy_to(1, &mut copy));
        assert_eq!((copy, pinned.version()), (content, turn as u64 + 1));
    }
    assert_eq!(place.files(), ["b"]);
}

#[test]
fn what_cannot_be_content_is_refused() {
    let place = Place::new();
    let mut producer = place.producer();
    assert_eq!(producer.publish(b"", LIMIT), Err(Failure::Empty));
    assert_eq!(producer.begin(MAX_CONTENT + 1, LIMIT), Err(Failure::TooLarge(MAX_CONTENT + 1, MAX_CONTENT)));
    assert_eq!(producer.write(0, b"a"), Err(Failure::Order("begin")));
    assert_eq!(producer.commit(LIMIT), Err(Failure::Order("begin")));
    let sized = |size| place.blocks.producer("s", Options { size: Some(size), group: None });
    assert!(sized(0).is_err() && sized(MAX_CONTENT + 1).is_err());
    let mut sized = sized(100).unwrap();
    assert_eq!(sized.publish(&[1; 101], LIMIT), Err(Failure::TooLarge(101, 100)));
    sized.publish(&[1; 100], LIMIT).unwrap();
    assert_eq!(place.blocks.look_at("s").unwrap().unwrap().capacity, 128);
    assert_eq!(place.files(), ["s"]);
}

#[test]
fn names_and_files_that_lead_elsewhere_are_refused() {
    let place = Place::new();
    for name in ["../b", "/b", ".groups", "", "a/b"] {
        assert_eq!(place.blocks.consumer(name).unwrap_err(), Failure::Name(name.to_owned()));
        assert!(place.blocks.remove(name, LIMIT).is_err());
    }
    assert_eq!(place.blocks.consumer("b").unwrap_err(), Failure::Unknown("b".to_owned()));
    place.producer().publish(b"a", LIMIT).unwrap();
    symlink(place.path("b"), place.path("link")).unwrap();
    std::fs::create_dir(place.path("directory")).unwrap();
    nix::unistd::mkfifo(&place.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::write(place.path("short"), b"x").unwrap();
    std::fs::write(place.path("long"), vec![b'x'; 9000]).unwrap();
    for name in ["link", "directory", "fifo", "short", "long"] {
        assert!(place.blocks.consumer(name).is_err(), "{name}");
        let produced = place.blocks.producer(name, Options::default()).unwrap().publish(b"a", SHORT);
        assert!(produced.is_err(), "{name}");
    }
    symlink(place.path(""), place.directory.path().join("way")).unwrap();
    assert!(matches!(Blocks::open(&place.directory.path().join("way/")), Err(Failure::Directory(_))));
    assert!(matches!(Blocks::create(&place.directory.path().join("way/")), Err(Failure::Directory(_))));
}

#[test]
fn a_reader_goes_along_when_the_block_grows_and_is_told_of_a_removal() {
    let place = Place::new();
    let mut producer = place.producer();
    producer.publish(b"small", LIMIT).unwrap();
    let mut consumer = place.consumer();
    assert_eq!(read(&mut consumer), b"small");
    assert_eq!(consumer.wait(SHORT), Ok(false));
    producer.publish(&[7; 1 << 20], LIMIT).unwrap();
    assert_eq!(consumer.wait(SHORT), Ok(true));
    assert_eq!(read(&mut consumer), [7; 1 << 20]);
    let pinned = consumer.pin().unwrap();

    place.blocks.remove("b", LIMIT).unwrap();
    assert_eq!(consumer.read(&mut Vec::new()), Err(Failure::Removed("b".to_owned())));
    assert_eq!(consumer.wait(SHORT), Err(Failure::Removed("b".to_owned())));
    assert_eq!(place.blocks.remove("b", LIMIT), Err(Failure::Unknown("b".to_owned())));
    let mut last = [0; 3];
    assert!(pinned.copy_to((1 << 20) - 3, &mut last));
    assert_eq!(last, [7; 3]);

    assert_eq!(producer.publish(b"again", LIMIT), Ok(1));
    assert_eq!(consumer.wait(SHORT), Ok(true));
    assert_eq!(read(&mut consumer), b"again");
}

/// Larger content was begun for a block that is gone when it is ready: it begins another block. Whoever has read the former
/// one never gets an older version of the same.
#[test]
fn content_that_was_begun_for_a_removed_block_is_the_first_of_another() {
    let place = Place::new();
    let mut producer = place.producer();
    for content in [&b"one"[..], b"two", b"three"] {
        producer.publish(content, LIMIT).unwrap();
    }
    let mut consumer = place.consumer();
    assert_eq!(read(&mut consumer), b"three");
    let former = consumer.identity();
    producer.begin(1 << 20, LIMIT).unwrap();
    producer.write(0, &[7; 1 << 20]).unwrap();
    place.blocks.remove("b", LIMIT).unwrap();
    assert_eq!(producer.commit(LIMIT), Ok(1));
    assert_eq!(consumer.wait(SHORT), Ok(true));
    assert_eq!((read(&mut consumer), consumer.seen()), (vec![7; 1 << 20], 1));
    assert_ne!(consumer.identity(), former);

    // The same where another producer has begun a block in between, and that one has a group.
    producer.begin(4 << 20, LIMIT).unwrap();
    producer.write(0, &[8; 4 << 20]).unwrap();
    place.blocks.remove("b", LIMIT).unwrap();
    let options = Options { group: Some("g".to_owned()), ..Options::default() };
    place.blocks.producer("b", options).unwrap().publish(b"another", LIMIT).unwrap();
    let between = place.consumer().identity();
    assert_eq!(producer.commit(LIMIT), Ok(2));
    assert_eq!(read(&mut consumer).len(), 4 << 20);
    assert_eq!(consumer.identity(), between);
    assert_eq!(place.blocks.look_at("b").unwrap().unwrap().group.as_deref(), Some("g"));
}

#[test]
fn pins_keep_writers_off_until_every_buffer_is_pinned() {
    let place = Place::new();
    let mut producer = place.producer();
    let mut pinned = Vec::new();
    let mut consumers = [place.consumer_of(&mut producer), place.consumer()];
    for turn in 1..8_u8 {
        producer.publish(&[turn; 100_000], LIMIT).unwrap();
        pinned.push((turn, consumers[usize::from(turn % 2)].pin().unwrap()));
    }
    assert_eq!(producer.publish(&[8; 100_000], LIMIT), Ok(9));
    let busy = producer.publish(&[9; 100_000], SHORT);
    assert!(matches!(busy, Err(Failure::Busy(_))), "{busy:?}");
    for (turn, pinned) in &pinned {
        let mut copy = vec![0; 100_000];
        assert!(pinned.copy_to(0, &mut copy) && copy.iter().all(|byte| byte == turn));
    }
    drop(pinned.remove(3));
    assert_eq!(producer.publish(&[9; 100_000], LIMIT), Ok(10));
    assert_eq!(read(&mut consumers[0]), [9; 100_000]);
}

#[test]
fn locks_keep_order_and_a_dropped_one_is_free() {
    let place = Place::new();
    let (mut one, mut other) = (place.producer(), place.producer());
    one.publish(b"1", LIMIT).unwrap();
    let mut consumer = place.consumer();
    one.hold(LIMIT).unwrap();
    assert!(matches!(other.publish(b"2", SHORT), Err(Failure::Busy(_))));
    assert!(matches!(consumer.lock(SHORT), Err(Failure::Busy(_))));
    assert_eq!(one.publish(b"3", LIMIT), Ok(2));
    assert_eq!(read(&mut consumer), b"3", "reading takes no lock");
    drop(one);
    consumer.lock(LIMIT).unwrap();
    place.consumer().lock(LIMIT).unwrap();
    assert!(matches!(other.publish(b"4", SHORT), Err(Failure::Busy(_))));
    consumer.unlock();
    assert_eq!(other.publish(b"4", LIMIT), Ok(3));
}

#[track_caller]
fn assert_busy<T: std::fmt::Debug>(outcome: &Result<T>) {
    assert!(matches!(outcome, Err(Failure::Busy(_))), "{outcome:?}");
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(outcome: &Result<T>) {
    assert!(matches!(outcome, Err(Failure::Refused(_))), "{outcome:?}");
}

/// Before the first content there is nothing to hold. Whoever was not the first has no lock, however often it tries.
#[test]
fn who_holds_a_name_without_a_block_writes_only_once_it_has_the_lock() {
    let place = Place::new();
    let (mut one, mut other) = (place.producer(), place.producer());
    one.hold(LIMIT).unwrap();
    other.hold(LIMIT).unwrap();
    assert_eq!(other.publish(b"1", LIMIT), Ok(1));
    (0..3).for_each(|_| assert_busy(&one.publish(b"torn", SHORT)));
    assert_busy(&one.begin(1 << 20, SHORT));
    assert_eq!(other.publish(b"2", LIMIT), Ok(2));
    assert_eq!(read(&mut place.consumer()), b"2");
    other.release();
    assert_eq!(one.publish(b"3", LIMIT), Ok(3));
    assert_busy(&other.publish(b"x", SHORT));

    // The same where the block that was held is removed and another made.
    place.blocks.remove("b", LIMIT).unwrap();
    other.hold(LIMIT).unwrap();
    assert_eq!(other.publish(b"another", LIMIT), Ok(1));
    (0..3).for_each(|_| assert_busy(&one.publish(b"torn", SHORT)));
    assert_eq!(read(&mut place.consumer()), b"another");
    drop(other);
    assert_eq!(one.publish(b"more", LIMIT), Ok(2));
    assert_busy(&place.producer().publish(b"x", SHORT));
}

#[test]
fn to_hold_abandons_what_was_begun() {
    let place = Place::new();
    let mut producer = place.producer();
    producer.publish(b"1", LIMIT).unwrap();
    for length in [1, 1 << 20] {
        producer.begin(length, LIMIT).unwrap();
        producer.hold(LIMIT).unwrap();
        assert_eq!(producer.commit(LIMIT), Err(Failure::Order("begin")));
        assert_busy(&place.producer().publish(b"x", SHORT));
        producer.release();
    }
    assert_eq!(place.producer().publish(b"2", LIMIT), Ok(2));
    assert_eq!(place.files(), ["b"]);
}

#[test]
fn who_has_the_lock_of_a_removed_block_is_told_and_sees_no_other_one() {
    let place = Place::new();
    place.producer().publish(b"first", LIMIT).unwrap();
    let mut consumer = place.consumer();
    consumer.lock(LIMIT).unwrap();
    let mut content = Vec::new();
    consumer.read(&mut content).unwrap();
    place.blocks.remove("b", LIMIT).unwrap();
    place.producer().publish(b"another", LIMIT).unwrap();
    assert!(matches!(consumer.read(&mut content), Err(Failure::Removed(_))));
    assert_eq!(content, b"first");
    // The lock went with the block: it goes along as any other now.
    consumer.read(&mut content).unwrap();
    assert_eq!(content, b"another");
    consumer.lock(LIMIT).unwrap();
    assert!(matches!(place.producer().publish(b"more", SHORT), Err(Failure::Busy(_))));
}

#[test]
fn what_is_pinned_keeps_no_lock_of_a_consumer_that_is_gone() {
    let place = Place::new();
    let mut producer = place.producer();
    producer.publish(&[1; 100_000], LIMIT).unwrap();
    let mut consumer = place.consumer();
    let pinned = consumer.pin().unwrap();
    consumer.lock(LIMIT).unwrap();
    assert!(matches!(producer.publish(b"x", SHORT), Err(Failure::Busy(_))));
    drop(consumer);
    producer.publish(b"x", LIMIT).unwrap();
    assert_eq!(pinned.version(), 1);
}

#[test]
fn a_group_has_one_lock() {
    let place = Place::new();
    let options = Options { size: None, group: Some("g".to_owned()) };
    let mut a = place.blocks.producer("a", options.clone()).unwrap();
    let mut b = place.blocks.producer("b", options).unwrap();
    let mut group = place.blocks.group("g").unwrap();
    let mut reader = place.blocks.group("g").unwrap();
    assert!(matches!(group.publish(&mut a, b"0", LIMIT), Err(Failure::Order(_))));
    group.hold_for_writing(LIMIT).unwrap();
    group.publish(&mut a, b"1", LIMIT).unwrap();
    assert!(matches!(reader.hold_for_reading(SHORT), Err(Failure::Busy(_))));
    assert!(matches!(b.publish(b"0", SHORT), Err(Failure::Busy(_))));
    group.publish(&mut b, b"1", LIMIT).unwrap();
    group.publish(&mut b, &[1; 70_000], LIMIT).unwrap();
    let mut stranger = place.blocks.producer("c", Options::default()).unwrap();
    assert!(matches!(group.publish(&mut stranger, b"1", LIMIT), Err(Failure::Refused(_))));
    group.release();

    let mut consumer = place.blocks.consumer("a").unwrap();
    consumer.lock(LIMIT).unwrap();
    // Whoever opens a block of a group is of the group.
    assert!(matches!(place.producer().publish(b"2", SHORT), Err(Failure::Busy(_))));
    consumer.unlock();
    reader.hold_for_reading(LIMIT).unwrap();
    assert!(matches!(a.publish(b"2", SHORT), Err(Failure::Busy(_))));
    reader.release();
    assert_eq!(a.publish(b"2", LIMIT), Ok(2));
    let other = Options { size: None, group: Some("h".to_owned()) };
    let refused = place.blocks.producer("a", other).unwrap().publish(b"3", SHORT);
    assert!(matches!(refused, Err(Failure::Refused(_))), "{refused:?}");
    assert_eq!(place.blocks.names().unwrap(), ["a", "b"]);
}

/// Whoever asked for a group writes under its lock or not at all; whoever did not goes along with the block.
#[test]
fn the_lock_is_that_of_the_group_that_the_block_is_of() {
    let place = Place::new();
    let of = |group: &str| Options { size: None, group: Some(group.to_owned()) };
    let producer = |group: &str| place.blocks.producer("b", of(group)).unwrap();
    place.producer().publish(b"of none", LIMIT).unwrap();
    let mut asking = producer("g");
    let mut group = place.blocks.group("g").unwrap();
    for _ in 0..3 {
        assert_refused(&asking.publish(b"x", LIMIT));
        assert_refused(&asking.hold(LIMIT));
        group.hold_for_writing(LIMIT).unwrap();
        assert_refused(&group.publish(&mut asking, b"x", LIMIT));
        group.release();
    }

    let mut along = place.producer();
    for made in ["g", "h", "", "g"] {
        place.blocks.remove("b", LIMIT).unwrap();
        let mut maker = if made.is_empty() { place.producer() } else { producer(made) };
        assert_eq!(maker.publish(b"1", LIMIT), Ok(1));
        let mut consumer = place.consumer();
        consumer.lock(LIMIT).unwrap();
        (0..2).for_each(|_| assert_busy(&along.publish(b"x", SHORT)));
        consumer.unlock();
        assert_eq!(along.publish(b"2", LIMIT), Ok(2));
        group.hold_for_writing(LIMIT).unwrap();
        for _ in 0..2 {
            let published = group.publish(&mut along, b"3", LIMIT);
            if made == "g" { assert!(published.is_ok()) } else { assert_refused(&published) }
        }
        group.release();
    }
    // What it makes anew is of the group that it has found last.
    place.blocks.remove("b", LIMIT).unwrap();
    group.hold_for_reading(LIMIT).unwrap();
    assert_busy(&along.publish(b"1", SHORT));
    group.release();
    assert_eq!(along.publish(b"1", LIMIT), Ok(1));
    assert_eq!(place.blocks.look_at("b").unwrap().unwrap().group.as_deref(), Some("g"));
}

#[test]
fn groups_of_one_name_in_two_directories_are_two() {
    let (place, elsewhere) = (Place::new(), Place::new());
    let options = Options { size: None, group: Some("g".to_owned()) };
    let mut producer = place.blocks.producer("b", options).unwrap();
    let mut other = elsewhere.blocks.group("g").unwrap();
    other.hold_for_writing(LIMIT).unwrap();
    assert_refused(&other.publish(&mut producer, b"1", LIMIT));
    let again = Blocks::open(&place.directory.path().join("run/blocks")).unwrap();
    let mut group = again.group("g").unwrap();
    group.hold_for_writing(LIMIT).unwrap();
    assert_eq!(group.publish(&mut producer, b"1", LIMIT), Ok(1));
}

#[test]
fn what_a_dead_maker_left_is_removed_and_a_dead_writer_changes_nothing() {
    let place = Place::new();
    let mut producer = place.producer();
    producer.publish(&[1; 100_000], LIMIT).unwrap();
    // Dropped without a word, as a death does.
    let mut dying = place.producer();
    dying.begin(100_000, LIMIT).unwrap();
    dying.write(0, &[2; 50_000]).unwrap();
    drop(dying);
    std::fs::write(place.path(".new-0123"), b"left").unwrap();
    assert_eq!(read(&mut place.consumer()), [1; 100_000]);
    assert_eq!(producer.publish(&[3; 200_000], LIMIT), Ok(2));
    assert_eq!(place.files(), ["b"]);
}

/// Nobody knows what of it had reached the disk.
#[test]
fn what_another_boot_has_written_is_refused_until_it_is_written_again() {
    let place = Place::new();
    for turn in 1..=2 {
        place.producer().publish(&[1; 100_000], LIMIT).unwrap();
        let file = std::fs::File::options().write(true).open(place.path("b")).unwrap();
        file.write_all_at(&[turn; 8], AT_BOOT).unwrap();
        let refused = place.blocks.consumer("b");
        assert!(matches!(&refused, Err(Failure::Refused(why)) if why.contains("restarted")), "{refused:?}");
        place.producer().publish(&[2; 100], LIMIT).unwrap();
        assert_eq!(read(&mut place.consumer()), [2; 100]);
    }
    assert_eq!(place.files(), ["b"]);
}

/// Whatever a file says: an error or some content, and no access outside the mapping.
#[test]
fn a_hostile_file_is_no_danger() {
    let place = Place::new();
    place.producer().publish(&[1; 100], LIMIT).unwrap();
    let good = std::fs::read(place.path("b")).unwrap();
    let words = [0, 1, 8, 63, 64, 1 << 30, 1 << 31, 1 << 62, u64::MAX, u64::MAX - 63, 0x0303, 0x0107];
    let places = (0..64).step_by(8).chain([AT_HEAD, AT_BACKED, AT_CAPACITY, 256, 264]);
    let places = places.chain((0..8).flat_map(|buffer| [stamp_of(buffer), length_of(buffer)]));
    for offset in places {
        for word in words {
            std::fs::write(place.path("b"), &good).unwrap();
            let file = std::fs::File::options().write(true).open(place.path("b")).unwrap();
            file.write_all_at(&word.to_ne_bytes(), offset).unwrap();
            if let Ok(mut consumer) = place.blocks.consumer("b") {
                // A stamp that will never be right is waited for; the others are judged at once.
                if offset != stamp_of(0) && offset != AT_HEAD {
                    let _ = (consumer.read(&mut Vec::new()), consumer.pin(), consumer.wait(Duration::ZERO));
                }
            }
            let _ = place.blocks.look_at("b");
            let _ = place.producer().publish(&[2; 300], SHORT);
        }
    }
    std::fs::write(place.path("b"), &good[..HEADER as usize]).unwrap();
    assert!(place.blocks.consumer("b").is_err(), "it is shorter than it says");
}

impl Place {
    fn consumer_of(&self, producer: &mut Producer) -> Consumer {
        producer.publish(&[0; 100_000], LIMIT).unwrap();
        self.consumer()
    }
}

/// A wait looks for some time before it sleeps, or not, by how the last one was: that is to change nothing but when it is over.
#[test]
fn who_answers_at_once_and_who_takes_a_while_are_both_waited_for() {
    const TURNS: u64 = 2_000;
    let place = Place::new();
    let publish = |producer: &mut Producer, number: u64| {
        producer.publish(&number.to_le_bytes(), LIMIT).unwrap();
    };
    let (mut to, mut fro) =
        ["to", "fro"].map(|name| place.blocks.producer(name, Options::default()).unwrap()).into();
    [&mut to, &mut fro].into_iter().for_each(|producer| publish(producer, 0));
    let [mut there, mut back] = ["to", "fro"].map(|name| place.blocks.consumer(name).unwrap());
    [&mut there, &mut back].into_iter().for_each(|consumer| drop(read(consumer)));
    let answering = std::thread::spawn(move || {
        for number in 1..=TURNS {
            assert!(there.wait(LIMIT).unwrap());
            assert_eq!(read(&mut there), number.to_le_bytes());
            if number % 500 == 0 {
                std::thread::sleep(SHORT);
            }
            publish(&mut fro, number);
        }
    });
    for number in 1..=TURNS {
        publish(&mut to, number);
        assert!(back.wait(LIMIT).unwrap());
        assert_eq!(read(&mut back), number.to_le_bytes());
    }
    answering.join().unwrap();
    let began = std::time::Instant::now();
    assert!(!back.wait(SHORT).unwrap(), "nothing came");
    assert!(began.elapsed() >= SHORT);
}
