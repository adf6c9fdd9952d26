//! What happens in a run of chaos: a function of its seed.

use holdfast_tests::random::Random;

/// Whom something happens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Worker,
    Template,
    Recovery,
    Keeper,
    /// Who takes a checkpoint, if anybody does.
    Checkpoint,
    Supervisor,
    /// A program that is attached.
    Visitor,
}

/// What happens.
#[derive(Clone, Copy, Debug)]
pub enum Deed {
    /// SIGKILL to the one of this rank among those in a role. A supervisor is started again, and so is a visitor.
    Kill { role: Role, rank: u64 },
    /// The supervisor is killed, and so often again while its successor takes over.
    KillAtStart { times: u64 },
    /// SIGKILL to all of them at once.
    KillWorkers,
    /// SIGSTOP to one, and SIGCONT so many steps later.
    Freeze { role: Role, rank: u64, steps: u64 },
    /// All workers are to be replaced by a new template's.
    Reload,
    /// One worker fewer, or again one more.
    Resize,
}

/// One thing that happens, after so many more answers to the clients.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub answers: u64,
    pub deed: Deed,
}

/// The steps of a seed, without end.
pub fn of(seed: u64) -> impl Iterator<Item = Step> {
    let mut random = Random::new(seed);
    std::iter::from_fn(move || {
        let answers = pause(&mut random);
        Some(Step { answers, deed: deed(&mut random) })
    })
}

/// Mostly the next thing happens while the one before is being repaired, or soon after.
fn pause(random: &mut Random) -> u64 {
    let longest = [1, 10, 100, 400][random.below(4) as usize];
    random.below(longest)
}

fn deed(random: &mut Random) -> Deed {
    let rank = random.below(1000);
    match random.below(100) {
        0..30 => Deed::Kill { role: Role::Worker, rank },
        30..38 => Deed::Kill { role: Role::Checkpoint, rank },
        38..40 => Deed::Freeze { role: Role::Checkpoint, rank, steps: 1 + random.below(3) },
        40..48 => Deed::Kill { role: Role::Visitor, rank },
        48..58 => Deed::Freeze { role: Role::Worker, rank, steps: 1 + random.below(8) },
        58..62 => Deed::Freeze { role: Role::Visitor, rank, steps: 1 + random.below(8) },
        62..69 => Deed::Kill { role: Role::Recovery, rank },
        69..76 => Deed::Kill { role: Role::Template, rank },
        76..81 => Deed::Kill { role: Role::Keeper, rank },
        81..84 => Deed::KillWorkers,
        84..86 => Deed::Kill { role: Role::Supervisor, rank },
        86..88 => Deed::KillAtStart { times: 1 + random.below(3) },
        88..90 => Deed::Freeze { role: Role::Supervisor, rank, steps: 1 + random.below(4) },
        90..93 => Deed::Freeze { role: Role::Template, rank, steps: 1 + random.below(4) },
        93..95 => Deed::Freeze { role: Role::Recovery, rank, steps: 1 },
        95..97 => Deed::Freeze { role: Role::Keeper, rank, steps: 1 + random.below(4) },
        97 => Deed::Reload,
        _ => Deed::Resize,
    }
}
