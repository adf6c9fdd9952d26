//! What the others find if a process dies: images of the region and the journal, one for each state that they were in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use crate::arena::{ACTOR, Arena, HOLDER};
use crate::difference::{Difference, Key, Picture};
use crate::stores::Watched;
use crate::tracee::{Next, Tracee};
use crate::watch::Watch;

/// After so many instructions the whole region is compared, also where nobody should write.
const EVERYWHERE: u64 = 4096;

/// Region and journal at one moment.
#[derive(Clone, Debug)]
pub struct Image {
    /// Where the region differs from the one that the operation began with.
    pub region: Picture,
    /// What the minute's file holds.
    pub journal: Journal,
}

/// What the minute's file holds.
#[derive(Clone, Debug)]
pub struct Journal {
    pub bytes: Rc<Vec<u8>>,
    key: Key,
}

impl Journal {
    /// It holds this.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { key: Key::of_file(&bytes), bytes: Rc::new(bytes) }
    }

    fn overlaid(&self, bytes: &[u8], offset: usize) -> Self {
        let mut whole = self.bytes.to_vec();
        if whole.len() < offset + bytes.len() {
            whole.resize(offset + bytes.len(), 0);
        }
        whole[offset..offset + bytes.len()].copy_from_slice(bytes);
        Self::new(whole)
    }
}

/// How the process is disturbed while it is stepped through.
#[derive(Default)]
pub struct Disturbance<'a> {
    /// Called after each change.
    pub after_change: Option<&'a dyn Fn(&Arena)>,
    /// Called when it sleeps for another's lock.
    pub while_waiting: Option<&'a dyn Fn(&Arena)>,
}

/// Every image, each once, in the order in which they were first there.
#[derive(Debug, Default)]
pub struct Reel {
    /// The images.
    pub images: Vec<Image>,
    /// Their keys.
    pub keys: Vec<Key>,
    /// Which of them followed which.
    pub sequence: Vec<usize>,
    /// How many instructions were executed one by one.
    pub steps: u64,
    /// How many stores were seen one by one.
    pub stores: u64,
    numbers: HashMap<Key, usize>,
}

impl Reel {
    fn add(&mut self, difference: &mut Difference<'_>, journal: &Journal) {
        let key = difference.key().with(journal.key);
        let next = self.images.len();
        let number = *self.numbers.entry(key).or_insert(next);
        if number == next {
            self.images.push(Image { region: difference.picture(), journal: journal.clone() });
            self.keys.push(key);
        }
        self.sequence.push(number);
    }

    /// Whether another one has the same images, which follow each other in the same way.
    pub fn is_as(&self, other: &Self) -> bool {
        let sequence = |reel: &Self| {
            let mut sequence = reel.sequence.clone();
            sequence.dedup();
            sequence
        };
        self.keys == other.keys && sequence(self) == sequence(other)
    }

    /// The first image that another one has not or has elsewhere: which words of the region differ there.
    pub fn first_difference(&self, other: &Self) -> String {
        let Some(place) = self.keys.iter().zip(&other.keys).position(|(ours, theirs)| ours != theirs) else {
            return "the same images, up to where one has no more, or in another order".to_owned();
        };
        let words = |reel: &Self| reel.images[place].region.delta().into_iter().collect::<BTreeMap<_, _>>();
        let (ours, theirs) = (words(self), words(other));
        let differing = ours.keys().chain(theirs.keys()).collect::<BTreeSet<_>>();
        let differing = differing.into_iter().filter(|index| ours.get(index) != theirs.get(index));
        let said: Vec<_> = differing
            .take(4)
            .map(|index| format!("byte {}: {:x?}, {:x?}", index * 8, ours.get(index), theirs.get(index)))
            .collect();
        format!("image {place} ({})", said.join("; "))
    }
}

/// Steps through what a child does up to its next mark. `every_prefix`: of what it writes into the journal every
/// beginning is an image, else only some.
pub fn record(
    tracee: &Tracee,
    arena: &Arena,
    base: &[u64],
    begun: &Image,
    every_prefix: bool,
    disturbance: &Disturbance<'_>,
) -> Result<Reel, String> {
    let mut watch = Watch::new(arena, &[ACTOR, HOLDER], base, &begun.region.delta());
    let mut reel = Reel::default();
    let mut journal = begun.journal.clone();
    reel.add(watch.difference(), &journal);
    loop {
        let next = tracee.next()?;
        if next == Next::Mark {
            break;
        }
        if let Next::Write { bytes, offset } = &next {
            for length in prefixes(bytes.len(), every_prefix) {
                reel.add(watch.difference(), &journal.overlaid(&bytes[..length], *offset as usize));
            }
        }
        tracee.step(&next, &mut || {
            disturbance.while_waiting.inspect(|disturb| disturb(arena));
        })?;
        reel.steps += 1;
        let written = matches!(next, Next::Write { .. });
        if written {
            journal = Journal::new(arena.journal());
        }
        if watch.look() || written {
            disturbance.after_change.inspect(|disturb| disturb(arena));
            watch.look();
            reel.add(watch.difference(), &journal);
        }
        // Not before: it looks, too, and what it saw would have no image.
        if reel.steps.is_multiple_of(EVERYWHERE) {
            watch.look_everywhere()?;
        }
    }
    watch.look_everywhere()?;
    reel.add(watch.difference(), &journal);
    Ok(reel)
}

/// Has a child do what it does, and takes an image after each of its stores. It must not write into the journal.
pub fn watch(child: &mut Watched, arena: &Arena, base: &[u64], begun: &Image) -> Result<Reel, String> {
    child.work()?;
    if arena.journal() != *begun.journal.bytes {
        return Err("it has written into the journal, which nobody has seen".to_owned());
    }
    let mut difference = Difference::new(base, &begun.region.delta());
    let mut reel = Reel { stores: child.stores(), ..Reel::default() };
    reel.add(&mut difference, &begun.journal);
    for change in child.changes() {
        change.into_iter().for_each(|(index, value)| difference.change(index, value));
        reel.add(&mut difference, &begun.journal);
    }
    Ok(reel)
}

fn prefixes(length: usize, every: bool) -> Vec<usize> {
    if every { (0..=length).collect() } else { vec![0, 1, length / 2, length.saturating_sub(1), length] }
}
