//! See `scripts/bench/objects`, which builds and runs this.

mod blob;
mod growth;
mod ours;
mod processes;
mod redis;
mod ring;
// As the region's benchmark has it: the figures of both read alike.
#[path = "../../region.d/src/table.rs"]
mod table;

use std::process::ExitCode;

use table::Table;

/// How long it is measured.
#[derive(Clone, Copy)]
struct Effort {
    /// Rounds of each comparison.
    rounds: usize,
    /// Milliseconds of one side of one round.
    slice_ms: u64,
    /// Most entries.
    entries: u64,
}

const FULL: Effort = Effort { rounds: 21, slice_ms: 40, entries: 1_000_000 };
const QUICK: Effort = Effort { rounds: 7, slice_ms: 20, entries: 100_000 };

/// Bytes of an item, and of what is read of a blob.
const ITEM: usize = 64;

type Section = fn(&mut Table, Effort);

const SECTIONS: [(&str, Section); 4] =
    [("redis", redis::run), ("ring", ring::run), ("blob", blob::run), ("growth", growth::run)];

fn main() -> ExitCode {
    let (options, wanted): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|word| word.starts_with('-'));
    let known = |name: &String| SECTIONS.iter().any(|(section, _)| section == name);
    if let Some(wrong) =
        options.iter().find(|option| *option != "--quick").or(wanted.iter().find(|name| !known(name)))
    {
        eprintln!("objects: there is no {wrong}; [--quick] [redis] [ring] [blob] [growth]");
        return ExitCode::from(2);
    }
    let effort = if options.is_empty() { FULL } else { QUICK };
    let mut table = Table::default();
    for (name, run) in SECTIONS {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            run(&mut table, effort);
        }
    }
    table.verdict()
}
