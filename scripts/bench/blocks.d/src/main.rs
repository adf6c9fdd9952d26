//! See `scripts/bench/blocks`, which builds and runs this.

mod alone;
mod channels;
mod frames;
mod pingpong;
#[path = "../../region.d/src/processes.rs"]
#[allow(dead_code, reason = "the region's benchmark uses the rest")]
mod processes;
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
}

const FULL: Effort = Effort { rounds: 21, slice_ms: 20 };
const QUICK: Effort = Effort { rounds: 7, slice_ms: 10 };

type Section = fn(&mut Table, Effort);

const SECTIONS: [(&str, Section); 5] = [
    ("read", alone::read),
    ("write", alone::write),
    ("large", alone::large),
    ("latency", pingpong::run),
    ("frames", frames::run),
];

fn main() -> ExitCode {
    let (options, wanted): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|word| word.starts_with('-'));
    let known = |name: &String| SECTIONS.iter().any(|(section, _)| section == name);
    if let Some(wrong) =
        options.iter().find(|option| *option != "--quick").or(wanted.iter().find(|name| !known(name)))
    {
        eprintln!("blocks: there is no {wrong}; [--quick] [read] [write] [large] [latency] [frames]");
        return ExitCode::from(2);
    }
    let effort = if options.is_empty() { FULL } else { QUICK };
    processes::prefer();
    let _traces = channels::Traces::new();
    let mut table = Table::default();
    for (name, run) in SECTIONS {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            run(&mut table, effort);
        }
    }
    table.verdict()
}

/// A directory in memory.
fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("holdfast-bench-").tempdir_in("/dev/shm").expect("memory for a directory")
}
