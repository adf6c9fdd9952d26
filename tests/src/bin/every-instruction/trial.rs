//! The trial of one image: repaired, it must be what was before the operation or what is after it, and nothing between;
//! and everybody must be able to go on.

use std::sync::atomic::Ordering::Relaxed;

use common::objects::Map;
use common::region::Region;
use common::slots::State;
use common::undo::{LogState, UndoLog};
use recovery::repair::Repairer;
use recovery::verify;

use crate::accounting::account;
use crate::arena::{ACTOR, Arena, FOLLOWER, SUCCESSOR, SURVIVOR_AGAIN};
use crate::images::Image;
use crate::model::{Content, Folders, Model, folders, values};
use crate::shop::Shop;
use crate::{removal, shop, sleepers};

/// What an image was repaired to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Before,
    After,
}

/// Who else is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Company {
    /// Nobody.
    Alone,
    /// A survivor, who works before the repair.
    Survivor,
    /// Processes that sleep until they get the dead one's locks.
    Sleepers,
    /// A survivor who, before the repair, deletes and renames what the dead one was using and has no lock of.
    Remover,
}

/// The models that images are held against, and where they are repaired.
pub struct Court<'a> {
    pub arena: &'a Arena,
    pub base: &'a [u64],
    pub before: Model,
    pub after: Model,
    /// What the survivor works at.
    pub away: Map,
    /// What the remover removes.
    pub shop: Shop,
    /// Whether other transactions follow the one that decides.
    pub goes_on: bool,
    /// Whether the operation is a checkpoint.
    pub captures: bool,
    /// Whether repairs are anticipated: others may come between that and the repair.
    pub anticipated: bool,
}

/// What readers see before the repair.
struct Glimpse {
    folders: Folders,
    sequences: Vec<u64>,
    shown: Vec<[u64; 8]>,
}

impl Court<'_> {
    /// Tries one image.
    pub fn judge(&self, image: &Image, company: Company) -> Result<Verdict, String> {
        self.try_image(image, company, self.anticipated).map(|(verdict, _)| verdict)
    }

    /// Tries one that a repairer has left who has died. Whoever comes next may anticipate the repair again, or not.
    pub fn judge_again(&self, image: &Image) -> Result<Verdict, String> {
        let verdict = self.try_image(image, Company::Alone, false)?.0;
        if self.anticipated && self.try_image(image, Company::Alone, true)?.0 != verdict {
            return Err("it depends on who repairs it".to_owned());
        }
        Ok(verdict)
    }

    /// Tries one whose verdict is known while somebody removes what the dead one was using.
    pub fn judge_among_removals(&self, image: &Image, known: Verdict) -> Result<(), String> {
        match self.try_image(image, Company::Remover, self.anticipated)? {
            (verdict, true) if verdict != known => {
                Err("whether it is committed depends on others".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// The verdict, and whether before and after can be told apart.
    fn try_image(
        &self,
        image: &Image,
        company: Company,
        anticipated: bool,
    ) -> Result<(Verdict, bool), String> {
        let region = &self.arena.region;
        self.arena.show(self.base, image)?;
        let glimpse = Glimpse::catch(region)?;
        let decided = self.is_decided(image);
        let mut expected = [self.before.clone(), self.after.clone()];
        if anticipated {
            self.anticipate()?;
        }
        if matches!(company, Company::Survivor | Company::Remover) {
            // Whoever has closed the gate and lives opens it; who died with it closed keeps everybody out, until repaired.
            shop::open_gate(self.arena);
            if self.captures && self.arena.region.header().gate.word.load(Relaxed) != 0 {
                self.repair(Company::Alone)?;
            }
        }
        if company == Company::Survivor {
            let mut seat = self.arena.seat(SURVIVOR_AGAIN)?;
            shop::survive(&mut seat, self.away).map_err(|error| format!("a survivor: {error}"))?;
            seat.leave();
            expected = expected.map(shop::survived);
        }
        if company == Company::Remover {
            let removals = removal::remove_unlocked(self.arena, &self.shop)?;
            expected.iter_mut().for_each(|model| removals.iter().for_each(|removal| removal.apply(model)));
        }
        self.repair(company)?;
        shop::let_go(self.arena)?;
        shop::open_gate(self.arena);
        sound(region)?;
        let mut model = Model::read(self.arena)?;
        let verdict = compare(&model, &expected)?;
        let told_apart = expected[0] != expected[1];
        if decided.is_some_and(|decided| told_apart && decided != verdict) {
            return Err(format!("it was repaired to what was {verdict:?}, though its log says otherwise"));
        }
        if !matches!(company, Company::Survivor | Company::Remover) {
            glimpse.compare(region, &model)?;
        }
        for owner in [SUCCESSOR, FOLLOWER] {
            let mut seat = self.arena.seat(owner)?;
            shop::follow(&mut seat, &mut model)?;
            seat.leave();
        }
        sound(region).map_err(|error| format!("afterwards: {error}"))?;
        self.compare_afterwards(&model.recount())?;
        Ok((verdict, told_apart))
    }

    /// What holds others up is done before the repair, and nothing that only the repair does.
    fn anticipate(&self) -> Result<(), String> {
        let region = &self.arena.region;
        let fate = Repairer::new(region, &self.arena.spool).anticipate(ACTOR);
        if !fate.as_ref().is_ok_and(Option::is_some) {
            return Err(format!("the repair is not anticipated: {fate:?}"));
        }
        let slot = region.slot(ACTOR.slot).ok_or("no such slot")?;
        let holds = slot.held_count.load(Relaxed) != 0
            || !UndoLog::of(region, ACTOR.slot).is_some_and(|log| log.is_empty());
        if holds || slot.standing().1 == Some(State::Free) {
            return Err("anticipated, it left something to wait for, or the slot to somebody else".to_owned());
        }
        Ok(())
    }

    fn repair(&self, company: Company) -> Result<(), String> {
        let repairer = Repairer::new(&self.arena.region, &self.arena.spool);
        let repair = || repairer.repair(ACTOR, true).map(drop).map_err(|setback| format!("{setback:?}"));
        match company {
            Company::Sleepers => sleepers::woken_by(&self.arena.region, repair)??,
            _ => repair()?,
        }
        if repairer.repair(ACTOR, true).is_ok_and(|remains| remains.is_none()) {
            return Ok(());
        }
        Err("after its repair there is still something to repair".to_owned())
    }

    /// What the log and the journal say themselves; `None` where they say nothing.
    fn is_decided(&self, image: &Image) -> Option<Verdict> {
        let log = UndoLog::of(&self.arena.region, ACTOR.slot)?;
        let recorded = self.before.records.len() < self.after.records.len();
        let whole = recorded && whole_records(&image.journal.bytes) == self.after.records.len();
        match log.state()? {
            LogState::Freeing => Some(Verdict::After),
            LogState::Active if whole => Some(Verdict::After),
            LogState::Active if self.goes_on => None,
            LogState::Active => Some(Verdict::Before),
            // With the log empty a message is there if its record is.
            LogState::Empty if whole => Some(Verdict::After),
            LogState::Empty if recorded => Some(Verdict::Before),
            LogState::Empty => None,
        }
    }

    fn compare_afterwards(&self, expected: &Model) -> Result<(), String> {
        let model = Model::read(self.arena)?;
        let left = common::objects::all(&self.arena.region).any(|(_, kind, _)| kind.is_dropping());
        if left {
            return Err("a deleted object was not freed".to_owned());
        }
        if model == *expected { Ok(()) } else { Err(format!("afterwards: {}", model.difference(expected))) }
    }
}

fn whole_records(journal: &[u8]) -> usize {
    let lines = journal.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    lines.filter(|line| serde_json::from_slice::<serde_json::Value>(line).is_ok()).count()
}

fn compare(model: &Model, [before, after]: &[Model; 2]) -> Result<Verdict, String> {
    if model == before {
        Ok(Verdict::Before)
    } else if model == after {
        Ok(Verdict::After)
    } else {
        let (from_before, from_after) = (model.difference(before), model.difference(after));
        Err(format!("it is neither what was before ({from_before}) nor what is after ({from_after})"))
    }
}

/// Whether the region is sound by everybody's accounts.
pub fn sound(region: &Region) -> Result<(), String> {
    account(region)?;
    match verify::check(region).first() {
        None => Ok(()),
        Some(finding) => Err(format!("recovery verify finds: {finding}")),
    }
}

impl Glimpse {
    fn catch(region: &Region) -> Result<Self, String> {
        Ok(Self {
            folders: folders(region).map_err(|error| format!("a reader before the repair: {error}"))?,
            sequences: sequences(region),
            shown: region.slots().map(|(_, slot)| values(&slot.published)).collect(),
        })
    }

    /// What anybody has seen is not taken back by the repair: it was committed.
    fn compare(&self, region: &Region, model: &Model) -> Result<(), String> {
        for (folder, objects) in &self.folders {
            for (name, seen) in objects.iter().filter(|(_, seen)| **seen != Content::Hidden) {
                let now = model.folders.get(folder).and_then(|objects| objects.get(name));
                if !now.is_some_and(|now| seen.stays(now)) {
                    return Err(format!("readers saw {folder}/{name} as it is not after the repair"));
                }
            }
        }
        if self.sequences.iter().zip(sequences(region)).any(|(before, now)| *before > now) {
            return Err("a sequence word went back".to_owned());
        }
        let ahead = |(shown, counted): (&[u64; 8], &[u64; 8])| shown.iter().zip(counted).any(|(a, b)| a > b);
        if self.shown.iter().zip(&model.counters).any(ahead) {
            return Err("counters were shown that are not after the repair".to_owned());
        }
        Ok(())
    }
}

fn sequences(region: &Region) -> Vec<u64> {
    let objects = (0..region.geometry().object_count).filter_map(|index| region.object(index));
    objects.map(|object| object.seq.load(Relaxed)).collect()
}
