//! Blocks: a producer may die at any instruction, and consumers see what was there or what is there now, whole, and never
//! the older one after the newer; a consumer may be overtaken at any instruction.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use client::block::{Blocks, Consumer, Failure, Options};

use crate::tracee::{Next, Tracee, mark};

/// Nothing that works takes this long.
const LIMIT: Duration = Duration::from_secs(10);

/// Bytes of a file that say what is current.
const HEADER: usize = 2048;

/// Bytes of content of a block whose buffers can be pinned.
const LARGE: usize = 17 * 1024;

/// A new consumer looks once in so many instructions, beside the one that is there all the time.
const NEW_CONSUMER: u64 = 64;

/// After so many, the next is written to the buffer that was current before, of a small block and of a large one.
const OTHERS: usize = 7;

/// Every proof.
pub const ALL: [(&str, Proof); 8] = [
    ("a block is written", |place, deaths| write(place, deaths, &[1; 64], &[2; 60])),
    ("a large block is written", |place, deaths| write(place, deaths, &[1; LARGE], &[2; LARGE - 9])),
    ("a block grows", |place, deaths| write(place, deaths, &[1; 64], &[2; 200])),
    ("a block becomes large", |place, deaths| write(place, deaths, &[1; 64], &[2; LARGE])),
    ("a block is made", |place, deaths| write(place, deaths, &[], &[2; 64])),
    ("a reader, and writers of a block", |place, stops| read(place, stops, 64, copy)),
    ("a reader, and writers of a large block", |place, stops| read(place, stops, LARGE, copy)),
    ("a pin, and writers of a large block", |place, stops| read(place, stops, LARGE, pin)),
];

/// A proof, and how many deaths or stops at most; gives how many instructions were executed.
pub type Proof = fn(&Path, usize) -> Result<u64, String>;

/// A directory with one block, whose content is `old` if there is any.
struct Scene {
    directory: tempfile::TempDir,
    blocks: Blocks,
}

impl Scene {
    fn new(place: &Path, old: &[u8]) -> Result<Self, String> {
        let directory = tempfile::tempdir_in(place).map_err(|error| error.to_string())?;
        let blocks = Blocks::create(directory.path()).map_err(said)?;
        let this = Self { directory, blocks };
        if !old.is_empty() {
            this.publish(old)?;
        }
        Ok(this)
    }

    fn publish(&self, content: &[u8]) -> Result<(), String> {
        let mut producer = self.blocks.producer("b", Options::default()).map_err(said)?;
        producer.publish(content, LIMIT).map(drop).map_err(said)
    }

    /// A child that publishes this, between two marks.
    fn writer(&self, content: &[u8]) -> Result<Tracee, String> {
        Tracee::fork(|| {
            mark();
            if self.publish(content).is_ok() {
                mark();
            }
        })
    }

    /// What the file that has the name says in its header.
    fn header(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        let read =
            File::open(self.directory.path().join("b")).and_then(|file| file.read_exact_at(&mut bytes, 0));
        if read.is_err() { Vec::new() } else { bytes }
    }

    fn files(&self) -> Result<Vec<String>, String> {
        let entries = std::fs::read_dir(self.directory.path()).map_err(|error| error.to_string())?;
        Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    }
}

fn said(failure: impl std::fmt::Display) -> String {
    failure.to_string()
}

/// Who looks at the block, and what it has seen.
struct Observer<'a> {
    scene: &'a Scene,
    old: &'a [u8],
    new: &'a [u8],
    consumer: Option<Consumer>,
    version: u64,
}

impl<'a> Observer<'a> {
    fn new(scene: &'a Scene, old: &'a [u8], new: &'a [u8]) -> Self {
        Self { scene, old, new, consumer: None, version: 0 }
    }

    /// Looks. An error where there is what must not be.
    fn look(&mut self) -> Result<(), String> {
        if self.consumer.is_none() {
            match self.scene.blocks.consumer("b") {
                Ok(consumer) => self.consumer = Some(consumer),
                Err(Failure::Unknown(_)) if self.old.is_empty() && self.version == 0 => return Ok(()),
                Err(failure) => return Err(said(failure)),
            }
        }
        let Some(consumer) = &mut self.consumer else { return Ok(()) };
        let mut content = Vec::new();
        let version = consumer.read(&mut content).map_err(said)?;
        if content != self.new && (content != self.old || self.old.is_empty()) {
            return Err(format!("a consumer got {} bytes that nobody has published", content.len()));
        }
        let expected = if content == self.old { 1 } else { 1 + u64::from(!self.old.is_empty()) };
        if version != expected || version < self.version {
            return Err(format!("a consumer got version {version} after {}", self.version));
        }
        self.version = version;
        Ok(())
    }

    fn look_anew(&mut self) -> Result<(), String> {
        let kept = self.consumer.take();
        let looked = self.look();
        self.consumer = kept.or(self.consumer.take());
        looked
    }
}

/// A producer is stepped through, and at each instruction consumers look. Then it is killed at those after which
/// something was different, and at others.
fn write(place: &Path, deaths: usize, old: &[u8], new: &[u8]) -> Result<u64, String> {
    let scene = Scene::new(place, old)?;
    let writer = scene.writer(new)?;
    let (mut steps, mut turns) = (0_u64, BTreeSet::from([0]));
    // After how many instructions each system call was made.
    let mut calls = Vec::new();
    let mut observer = Observer::new(&scene, old, new);
    let mut header = scene.header();
    let at = |steps: u64, error: String| format!("after {steps} instructions: {error}");
    loop {
        observer.look().map_err(|error| at(steps, error))?;
        let next = writer.next()?;
        if next == Next::Mark {
            break;
        }
        writer.step_by_halves(&next)?;
        steps += 1;
        let called = next != Next::Plain;
        calls.extend(called.then_some(steps));
        let now = scene.header();
        if now != header || called {
            turns.insert(steps);
            header = now;
            observer.look_anew().map_err(|error| at(steps, error))?;
        } else if steps.is_multiple_of(NEW_CONSUMER) {
            observer.look_anew().map_err(|error| at(steps, error))?;
        }
    }
    if observer.version != 1 + u64::from(!old.is_empty()) {
        return Err("nothing has changed in the end".to_owned());
    }
    turns.extend((0..steps).step_by((steps as usize / deaths).max(1)));
    let mut executed = steps;
    for turn in turns {
        let made = calls.partition_point(|call| *call <= turn);
        let moment = Moment { calls: made, steps: turn - made.checked_sub(1).map_or(0, |last| calls[last]) };
        executed += die(place, moment, old, new).map_err(|error| format!("killed {}", at(turn, error)))?;
    }
    Ok(executed)
}

/// A place in what a process does: so many system calls, and so many instructions after the last of them.
#[derive(Clone, Copy)]
struct Moment {
    calls: usize,
    steps: u64,
}

/// A producer is killed at some moment. Consumers see what was there or what it published, the next producer goes on, and
/// nothing is left.
fn die(place: &Path, moment: Moment, old: &[u8], new: &[u8]) -> Result<u64, String> {
    let scene = Scene::new(place, old)?;
    let mut witness = Observer::new(&scene, old, new);
    witness.look()?;
    let writer = scene.writer(new)?;
    for _ in 0..moment.calls {
        writer.make_next_call()?.then_some(()).ok_or("it makes fewer system calls than it did")?;
    }
    let executed = advance(&writer, moment.steps as usize, |_, _| ())? as u64;
    drop(writer);
    witness.look()?;
    Observer::new(&scene, old, new).look()?;
    let published = witness.version;

    // Large enough for another file, so that it also sees to what was left.
    let last = vec![3; 40_000];
    scene.publish(&last)?;
    let consumer = witness.consumer.take().map_or_else(|| scene.blocks.consumer("b").map_err(said), Ok);
    let mut consumer = consumer?;
    let mut content = Vec::new();
    if !consumer.wait(LIMIT).map_err(said)? {
        return Err("a consumer waits in vain for the next producer".to_owned());
    }
    let version = consumer.read(&mut content).map_err(said)?;
    if content != last || version != published + 1 {
        return Err(format!("the next producer's content is version {version} after {published}"));
    }
    match scene.files()?.as_slice() {
        [one] if one == "b" => Ok(executed),
        files => Err(format!("files are left: {files:?}")),
    }
}

/// Executes so many instructions, or as many as there are up to the next mark: how many. `before` is told of each, after how
/// many others.
fn advance(tracee: &Tracee, count: usize, mut before: impl FnMut(usize, &Next)) -> Result<usize, String> {
    for done in 0..count {
        let next = tracee.next()?;
        if next == Next::Mark {
            return Ok(done);
        }
        before(done, &next);
        tracee.step_by_halves(&next)?;
    }
    Ok(count)
}

/// A reader is stopped after some number of instructions while others are published, so that every buffer is used again.
/// What it reads must be one of them, whole, and the one that was the newest when it began, or a newer one.
fn read(place: &Path, stops: usize, length: usize, way: Way) -> Result<u64, String> {
    let content = |version: u64| vec![version as u8; length];
    let scene = Scene::new(place, &content(1))?;
    let mut producer = scene.blocks.producer("b", Options::default()).map_err(said)?;
    let reader = Tracee::fork(|| read_for_ever(&scene.blocks, length, way))?;
    let mut turns = BTreeSet::new();
    let undisturbed = advance(&reader, usize::MAX, |done, next| {
        // There may be little between what it finds and what it does about it.
        turns.extend((*next != Next::Plain).then_some(done));
    })?;
    let mut steps = undisturbed as u64;
    reader.go_on()?;
    let mut version = 1;
    turns.extend((0..=undisturbed).step_by((undisturbed / stops).max(1)));
    for (stop, half) in turns.into_iter().flat_map(|stop| [(stop, false), (stop, true)]) {
        steps += advance(&reader, stop, |_, _| ())? as u64;
        for _ in 0..OTHERS {
            version += 1;
            producer.publish(&content(version), LIMIT).map_err(said)?;
        }
        // The next is whole, or half written, to where the reader may be reading, while the reader goes on.
        version += 1;
        producer.begin(length as u64, LIMIT).map_err(said)?;
        let written = if half { length / 2 } else { length };
        producer.write(0, &content(version)[..written]).map_err(said)?;
        if !half {
            producer.commit(LIMIT).map_err(said)?;
        }
        let read = reader.go_on();
        if half {
            producer.write(0, &content(version)).and_then(|()| producer.commit(LIMIT)).map_err(said)?;
        }
        read.map_err(|error| format!("a reader stopped after {stop} instructions: {error}"))?;
    }
    Ok(steps)
}

/// How a content is read: its version, and its bytes.
type Way = fn(&mut Consumer, &mut Vec<u8>) -> Result<u64, Failure>;

fn copy(consumer: &mut Consumer, content: &mut Vec<u8>) -> Result<u64, Failure> {
    consumer.read(content)
}

fn pin(consumer: &mut Consumer, content: &mut Vec<u8>) -> Result<u64, Failure> {
    let pinned = consumer.pin()?;
    content.resize(pinned.len(), 0);
    if pinned.copy_to(0, content) { Ok(pinned.version()) } else { Err(Failure::Empty) }
}

/// Ends, without a mark, where something is wrong.
fn read_for_ever(blocks: &Blocks, length: usize, way: Way) {
    let Ok(mut consumer) = blocks.consumer("b") else { return };
    let (mut content, mut expected, mut last) = (Vec::new(), vec![0; length], 0);
    loop {
        mark();
        let Ok(newest) = consumer.version() else { return };
        let Ok(version) = way(&mut consumer, &mut content) else { return };
        expected.fill(version as u8);
        if content != expected || version < newest || version < last {
            return;
        }
        last = version;
    }
}
