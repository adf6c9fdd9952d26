//! Repairs, of which any may be ended by a death of the repairer: every image that one leaves is repaired again, to the
//! same end.
//!
//! One repair of each proof is stepped through, and of the same its stores are watched, which must give the same images;
//! so watching is enough for the others. One that writes into the journal is always stepped through.

use std::collections::HashMap;

use recovery::repair::Repairer;

use crate::arena::{ACTOR, Arena};
use crate::difference::Key;
use crate::images::{Disturbance, Image, Reel, record, watch};
use crate::marks;
use crate::proof::{Depth, Tally};
use crate::stores::Watched;
use crate::tracee::{Tracee, mark};
use crate::trial::{Court, Verdict};

/// What repairs; whether it has.
pub type Work = fn(&Arena) -> bool;

/// A repair as the supervisor orders it.
pub fn repair(arena: &Arena) -> bool {
    let repaired = Repairer::new(&arena.region, &arena.spool).repair(ACTOR, true);
    repaired.inspect_err(|setback| eprintln!("a repair fails: {setback:?}")).is_ok()
}

/// What is done before the dead one is reaped.
pub fn anticipate(arena: &Arena) -> bool {
    match Repairer::new(&arena.region, &arena.spool).anticipate(ACTOR) {
        Ok(Some(_)) => true,
        outcome => {
            eprintln!("a repair is not anticipated: {outcome:?}");
            false
        }
    }
}

/// Whoever repairs, in a child.
struct Repairs<'a> {
    arena: &'a Arena,
    base: &'a [u64],
    depth: Depth,
    stepped: Tracee,
    has_stepped: bool,
    watched: Option<Watched>,
}

impl<'a> Repairs<'a> {
    fn new(
        arena: &'a Arena,
        base: &'a [u64],
        depth: Depth,
        work: Work,
        writes: bool,
    ) -> Result<Self, String> {
        let for_ever = || {
            mark();
            while work(arena) {
                mark();
            }
        };
        let stepped = Tracee::fork(for_ever)?;
        let watched = if writes { None } else { Some(Watched::fork(arena, || work(arena))?) };
        Ok(Self { arena, base, depth, stepped, has_stepped: false, watched })
    }

    /// What the repair of one image leaves meanwhile.
    fn images(&mut self, image: &Image, both_ways: bool) -> Result<Reel, String> {
        let stepped = if both_ways || self.watched.is_none() { Some(self.step(image)?) } else { None };
        let Some(watched) = &mut self.watched else {
            return stepped.ok_or_else(|| "nobody repairs".to_owned());
        };
        self.arena.show(self.base, image)?;
        let mut reel = watch(watched, self.arena, self.base, image)?;
        if let Some(stepped) = stepped {
            if !stepped.is_as(&reel) {
                let (ours, theirs) = (stepped.images.len(), reel.images.len());
                return Err(format!(
                    "stepped through it has {ours} images, and by its stores {theirs} or others: {}",
                    stepped.first_difference(&reel)
                ));
            }
            reel.steps = stepped.steps;
        }
        Ok(reel)
    }

    fn step(&mut self, image: &Image) -> Result<Reel, String> {
        if std::mem::replace(&mut self.has_stepped, true) {
            self.stepped.go_on()?;
        }
        self.arena.show(self.base, image)?;
        record(&self.stepped, self.arena, self.base, image, self.depth.every_prefix, &Disturbance::default())
    }
}

/// Has images of an operation repaired, and tries what a death of the repairer leaves.
pub fn try_repairs(
    court: &Court<'_>,
    traced: &Arena,
    reel: &Reel,
    verdicts: &[Verdict],
    depth: Depth,
    writes: bool,
) -> Result<Tally, String> {
    let mut tally = Tally { steps: reel.steps, images: reel.images.len(), ..Tally::default() };
    let stride = reel.images.len().div_ceil(depth.nested.max(1)).max(1);
    let chosen: Vec<_> = (0..reel.images.len()).rev().step_by(stride).take(depth.nested).collect();
    if chosen.is_empty() {
        return Ok(tally);
    }
    let mut known: HashMap<Key, Verdict> = reel.keys.iter().copied().zip(verdicts.iter().copied()).collect();
    let work = if court.anticipated { anticipate } else { repair };
    let mut repairs = Repairs::new(traced, court.base, depth, work, writes)?;
    let middle = chosen[chosen.len() / 2];
    for number in chosen {
        let say = |error| format!("in the repair of image {number} of {}: {error}", reel.images.len());
        let inner = repairs.images(&reel.images[number], number == middle).map_err(say)?;
        tally.repairs += 1;
        tally.repair_steps += inner.steps;
        tally.stores += inner.stores;
        for (place, (image, key)) in inner.images.iter().zip(&inner.keys).enumerate() {
            let say_where = |error| say(format!("its image {place}: {error}"));
            let verdict = match known.get(key) {
                Some(verdict) => *verdict,
                None => court.judge_again(image).map_err(say_where)?,
            };
            if verdict != verdicts[number] {
                return Err(say("a second repair decides otherwise".to_owned()));
            }
            if !court.captures {
                marks::check(&traced.region, court.base, image).map_err(say_where)?;
            }
            known.insert(*key, verdict);
        }
    }
    tally.repair_images = known.len() - reel.images.len();
    Ok(tally)
}
