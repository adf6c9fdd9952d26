//! See `scripts/bench/region`, which builds and runs this.

mod growth;
mod keys;
mod lmdb;
mod ours;
mod processes;
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

const SECTIONS: [(&str, Section); 3] =
    [("uncontended", uncontended::run), ("together", together::run), ("growth", growth::run)];

fn main() -> ExitCode {
    let (options, wanted): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|word| word.starts_with('-'));
    let known = |name: &String| SECTIONS.iter().any(|(section, _)| section == name);
    if let Some(wrong) =
        options.iter().find(|option| *option != "--quick").or(wanted.iter().find(|name| !known(name)))
    {
        eprintln!("region: there is no {wrong}; [--quick] [uncontended] [together] [growth]");
        return ExitCode::from(2);
    }
    let effort = if options.is_empty() { FULL } else { QUICK };
    processes::prefer();
    let mut table = Table::default();
    for (name, run) in SECTIONS {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            run(&mut table, effort);
        }
    }
    table.verdict()
}
