//! See `scripts/bench/region`, which builds and runs this.

mod growth;
mod keys;
mod lmdb;
mod ours;
mod processes;
mod store;
mod table;
mod together;
mod uncontended;

use std::process::ExitCode;

use table::Table;

/// How long it is measured.
#[derive(Clone, Copy)]
struct Effort {
    /// Rounds of each comparison.
    rounds: usize,
    /// Milliseconds of one side of one round.
    slice_ms: u64,
    /// The largest map.
    entries: u64,
}

const FULL: Effort = Effort { rounds: 41, slice_ms: 10, entries: 1_000_000 };
const QUICK: Effort = Effort { rounds: 11, slice_ms: 5, entries: 100_000 };

type Section = fn(&mut Table, Effort);

const SECTIONS: [(&str, Section); 4] = [
    ("uncontended", uncontended::run),
    ("together", together::run),
    ("growth", growth::run),
    ("store", store::run),
];

const USAGE: &str = "[--quick] [--entries=N] [uncontended] [together] [growth] [store]";

fn main() -> ExitCode {
    let (options, wanted): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|word| word.starts_with('-'));
    let (mut effort, mut most) = (FULL, None);
    for option in &options {
        let entries = option.strip_prefix("--entries=").and_then(|number| number.parse().ok());
        match entries {
            _ if option == "--quick" => effort = QUICK,
            Some(100..=100_000_000) => most = entries,
            _ => return unknown(option),
        }
    }
    effort.entries = most.unwrap_or(effort.entries);
    if let Some(wrong) = wanted.iter().find(|name| !SECTIONS.iter().any(|(section, _)| section == name)) {
        return unknown(wrong);
    }
    processes::prefer();
    let mut table = Table::default();
    for (name, run) in SECTIONS {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            run(&mut table, effort);
        }
    }
    table.verdict()
}

fn unknown(word: &str) -> ExitCode {
    eprintln!("region: there is no {word}; {USAGE}");
    ExitCode::from(2)
}
