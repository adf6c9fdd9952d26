//! The insides of one object, read while others change it: at one moment where that is possible, else bucket by
//! bucket. Nothing is changed, nobody is waited for, and whatever was scribbled there the work is bounded by the
//! region's size, of one object and of all together.

use std::sync::atomic::Ordering::{Acquire, SeqCst};
use std::sync::atomic::fence;
use std::time::Duration;

use common::heap::most_blocks;
use common::ids::SlotIndex;
use common::limits::PAGE_SIZE;
use common::lock::{self, WAITERS};
use common::objects::survey::{Before, Flaw, Part, Survey};
use common::objects::{Handle, Kind};
use common::region::Region;
use common::undo::UndoLog;

/// How often the whole of an object is tried to be read at one moment.
const WHOLE_TRIES: u32 = 4;

/// How often one step, such as a bucket, is: a writer is at work for less than a microsecond at a time.
const STEP_TRIES: u32 = 2000;

/// After so many tries in a row the process sleeps a little between them.
const EAGER_TRIES: u32 = 200;
const NAP: Duration = Duration::from_micros(50);

/// So many steps are made between two looks whether the object is still the same.
const STRIDE: u64 = 64;

/// How many bytes may still be read. Sound objects have no block in common, so all of them have no more than the heap. They may be
/// met twice while they are changed, one part in two steps of an object or in two objects: it is twice as much for one of
/// them, and four times for all. What was scribbled can lead to the same blocks again and again.
#[derive(Debug)]
pub struct Budget {
    of_one: u64,
    left: u64,
}

impl Budget {
    /// For all objects of a region.
    pub fn of(region: &Region) -> Self {
        let heap = u64::from(region.geometry().page_count) * PAGE_SIZE;
        Self { of_one: 2 * heap, left: 4 * heap }
    }

    /// Takes so many bytes of it; false where there are not so many left.
    pub fn spend(&mut self, bytes: u64) -> bool {
        let enough = bytes <= self.left;
        self.left = self.left.saturating_sub(bytes);
        enough
    }
}

/// What was read of an object.
#[derive(Debug)]
pub struct Picture<F> {
    /// Which object it was, when it was read.
    pub handle: Handle,
    /// What it was; `None` for what there is not.
    pub kind: Option<Kind>,
    /// What `take` made of it.
    pub found: Vec<F>,
    /// Whether all of it was read at one moment: then its count belongs to what was found.
    pub at_once: Option<Shape>,
    /// Why not all of it could be read.
    pub gap: Option<Gap>,
}

/// What an object says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// How many entries or items it has; a counter's value; a blob's bytes.
    pub count: u64,
    /// How many buckets; of a queue, how many items it takes.
    pub extent: u64,
}

/// Why an object could not be read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gap {
    /// It was being changed all the time, or became another object.
    Busy,
    /// It is not what an object can be.
    Flaw(Flaw),
}

/// Reads the object at `index`; `take` notes what it wants of each part of a bucket, and gives how many bytes more than the
/// part has it needs for that.
pub fn read<F>(
    region: &Region,
    index: u32,
    budget: &mut Budget,
    take: impl Fn(&Survey<'_>, u64, &[Part<'_>], &mut Vec<F>) -> usize,
) -> Picture<F> {
    let most = budget.of_one.min(budget.left);
    let mut reading = Reading { region, index, take, found: Vec::new(), read: Amount::default(), most };
    let identity = |survey: &Survey<'_>| (survey.handle(), survey.kind());
    let Some((handle, kind)) = reading.window(STEP_TRIES, |survey, _| identity(survey)) else {
        let handle = Handle { index, generation: 0 };
        return Picture { handle, kind: None, found: Vec::new(), at_once: None, gap: Some(Gap::Busy) };
    };
    let (at_once, gap) = reading.read(|survey| identity(survey) == (handle, kind));
    budget.spend(reading.read.bytes);
    Picture { handle, kind, found: reading.found, at_once, gap }
}

struct Reading<'r, F, T> {
    region: &'r Region,
    index: u32,
    take: T,
    found: Vec<F>,
    /// What was read and stands.
    read: Amount,
    /// Most bytes of it.
    most: u64,
}

#[derive(Clone, Copy, Default)]
struct Amount {
    parts: u64,
    bytes: u64,
}

impl<F, T: Fn(&Survey<'_>, u64, &[Part<'_>], &mut Vec<F>) -> usize> Reading<'_, F, T> {
    fn read(&mut self, same: impl Fn(&Survey<'_>) -> bool) -> (Option<Shape>, Option<Gap>) {
        for _ in 0..WHOLE_TRIES {
            self.found.clear();
            match self.whole(&same) {
                None => {}
                Some(Ok(shape)) => return (Some(shape), None),
                Some(Err(gap)) => return (None, Some(gap)),
            }
        }
        self.found.clear();
        self.read = Amount::default();
        (None, self.by_steps(same).err())
    }

    /// All of it at one moment; `None` where there was no such moment.
    fn whole(&mut self, same: impl Fn(&Survey<'_>) -> bool) -> Option<Result<Shape, Gap>> {
        self.read = Amount::default();
        let begun = self.moment();
        let survey = Survey::of(self.region, self.index, &begun.before)?;
        let outcome = if same(&survey) { self.every_step(&survey, &begun)? } else { Err(Gap::Busy) };
        let has_items = survey.kind().is_some_and(Kind::has_items);
        let extent = if has_items { survey.capacity() } else { survey.buckets() };
        let shape = Shape { count: survey.count(), extent };
        self.still(&begun).then(|| outcome.map(|()| shape))
    }

    /// `None` where the object has changed meanwhile.
    fn every_step(&mut self, survey: &Survey<'_>, begun: &Moment) -> Option<Result<(), Gap>> {
        if let Err(flaw) = survey.check_shape() {
            return Some(Err(Gap::Flaw(flaw)));
        }
        for number in 0..survey.steps() {
            if number.is_multiple_of(STRIDE) && !self.still(begun) {
                return None;
            }
            if let Err(gap) = self.step(survey, number) {
                return Some(Err(gap));
            }
        }
        Some(Ok(()))
    }

    /// One step after the other, up to the last that there is by then: what moves by the split of a bucket moves up.
    fn by_steps(&mut self, same: impl Fn(&Survey<'_>) -> bool) -> Result<(), Gap> {
        let mut number = 0;
        loop {
            let (known, before) = (self.found.len(), self.read);
            let read = self.window(STEP_TRIES, |survey, this| {
                this.found.truncate(known);
                this.read = before;
                if !same(survey) {
                    return Err(Gap::Busy);
                }
                survey.check_shape().map_err(Gap::Flaw)?;
                if number >= survey.steps() {
                    return Ok(false);
                }
                this.step(survey, number).map(|()| true)
            });
            match read {
                None => return Err(Gap::Busy),
                Some(Err(gap)) => return Err(gap),
                Some(Ok(false)) => return Ok(()),
                Some(Ok(true)) => number += 1,
            }
        }
    }

    fn step(&mut self, survey: &Survey<'_>, number: u64) -> Result<(), Gap> {
        self.check_amount()?;
        let (mut parts, mut bytes, most) = (Vec::new(), self.read.bytes, self.most);
        let read = survey.step(number, |part| {
            bytes = bytes.saturating_add(length_of(&part));
            if bytes <= most {
                parts.push(part);
            }
        });
        // Also where it leads to nothing: so many bytes were looked at.
        self.read = Amount { parts: self.read.parts + parts.len() as u64, bytes };
        read.map_err(Gap::Flaw)?;
        self.check_amount()?;
        self.read.bytes += (self.take)(survey, number, &parts, &mut self.found) as u64;
        self.check_amount()
    }

    fn check_amount(&self) -> Result<(), Gap> {
        let flaw = |text: &str| Err(Gap::Flaw(Flaw(text.to_owned())));
        if self.read.parts > 2 * most_blocks(self.region) {
            return flaw("it has more entries than the heap has blocks");
        }
        if self.read.bytes > self.most || self.most == 0 {
            return flaw("together with the objects before it, it has more bytes than the heap");
        }
        Ok(())
    }

    /// What `look` gives at one moment between two changes, or in a change that stands still.
    fn window<R>(&mut self, tries: u32, mut look: impl FnMut(&Survey<'_>, &mut Self) -> R) -> Option<R> {
        for attempt in 0..tries {
            let begun = self.moment();
            let region = self.region;
            let seen = look(&Survey::of(region, self.index, &begun.before)?, self);
            if self.still(&begun) {
                return Some(seen);
            }
            if attempt < EAGER_TRIES { std::hint::spin_loop() } else { std::thread::sleep(NAP) }
        }
        None
    }

    fn moment(&self) -> Moment {
        Moment::of(self.region, self.index)
    }

    fn still(&self, begun: &Moment) -> bool {
        fence(Acquire);
        begun.words == Words::of(self.region, self.index)
    }
}

/// Bytes of the block that a part needs.
fn length_of(part: &Part<'_>) -> u64 {
    match part {
        Part::Page(_) => PAGE_SIZE,
        Part::Item(item) => item.bytes() as u64,
        Part::Piece(piece) => piece.size as u64,
    }
}

/// When an object was read, and what its changer had changed by then.
struct Moment {
    words: Words,
    before: Before,
}

/// What moves whenever an object is changed: its sequence word, and in a change its holder and the holder's log.
#[derive(PartialEq, Eq)]
struct Words {
    seq: u64,
    holder: Option<(u64, u64)>,
}

impl Moment {
    fn of(region: &Region, index: u32) -> Self {
        let words = Words::of(region, index);
        let before = words.holder.and_then(|(tag, _)| UndoLog::of(region, slot_of(tag)?));
        Self { words, before: before.map_or_else(Before::default, |log| Before::of(&log)) }
    }
}

impl Words {
    fn of(region: &Region, index: u32) -> Self {
        let Some(object) = region.object(index) else { return Self { seq: 0, holder: None } };
        let seq = object.seq.load(SeqCst);
        let changing = seq & 1 == 1;
        let holder = changing.then(|| object.lock.load(SeqCst) & !WAITERS).filter(|tag| *tag != 0);
        let log =
            |tag| slot_of(tag).and_then(|slot| region.slot(slot)).map_or(0, |slot| slot.undo.load(SeqCst));
        Self { seq, holder: holder.map(|tag| (tag, log(tag))) }
    }
}

/// The slot that a lock word names.
pub fn slot_of(word: u64) -> Option<SlotIndex> {
    lock::owner_of(word).map(|owner| owner.slot)
}
