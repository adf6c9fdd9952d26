//! What the others find if a process dies: images of the region and the journal, one for each state that they were in.

use std::collections::HashMap;
use std::rc::Rc;

use crate::arena::{ACTOR, Arena, HOLDER};
use crate::tracee::{Next, Tracee};
use crate::watch::{Delta, Watch};

/// After so many instructions the whole region is compared, also where nobody should write.
const EVERYWHERE: u64 = 4096;

/// Region and journal at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Image {
    /// Where the region differs from the one that the operation began with.
    pub delta: Delta,
    /// What the minute's file holds.
    pub journal: Rc<Vec<u8>>,
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
    /// Which of them followed which.
    pub sequence: Vec<usize>,
    /// How many instructions were executed.
    pub steps: u64,
    numbers: HashMap<Image, usize>,
}

impl Reel {
    fn add(&mut self, delta: Delta, journal: &Rc<Vec<u8>>) {
        let image = Image { delta, journal: Rc::clone(journal) };
        let next = self.images.len();
        let number = *self.numbers.entry(image.clone()).or_insert(next);
        if number == next {
            self.images.push(image);
        }
        self.sequence.push(number);
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
    let mut watch = Watch::new(arena, &[ACTOR, HOLDER], base, &begun.delta);
    let mut reel = Reel::default();
    let mut journal = Rc::clone(&begun.journal);
    reel.add(watch.delta(), &journal);
    loop {
        let next = tracee.next()?;
        if next == Next::Mark {
            break;
        }
        if let Next::Write { bytes, offset } = &next {
            for length in prefixes(bytes.len(), every_prefix) {
                reel.add(watch.delta(), &Rc::new(overlaid(&journal, &bytes[..length], *offset as usize)));
            }
        }
        tracee.step(&next, &mut || {
            disturbance.while_waiting.inspect(|disturb| disturb(arena));
        })?;
        reel.steps += 1;
        if reel.steps.is_multiple_of(EVERYWHERE) {
            watch.look_everywhere()?;
        }
        let written = matches!(next, Next::Write { .. });
        if written {
            journal = Rc::new(arena.journal());
        }
        if watch.look() || written {
            disturbance.after_change.inspect(|disturb| disturb(arena));
            watch.look();
            reel.add(watch.delta(), &journal);
        }
    }
    watch.look_everywhere()?;
    reel.add(watch.delta(), &journal);
    Ok(reel)
}

fn prefixes(length: usize, every: bool) -> Vec<usize> {
    if every { (0..=length).collect() } else { vec![0, 1, length / 2, length.saturating_sub(1), length] }
}

fn overlaid(journal: &[u8], bytes: &[u8], offset: usize) -> Vec<u8> {
    let mut journal = journal.to_vec();
    if journal.len() < offset + bytes.len() {
        journal.resize(offset + bytes.len(), 0);
    }
    journal[offset..offset + bytes.len()].copy_from_slice(bytes);
    journal
}
