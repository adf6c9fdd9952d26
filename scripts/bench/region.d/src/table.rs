//! The figures: medians of both sides, and of the rounds' ratios, each with what it must be.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::ExitCode;

/// What a ratio must be.
#[derive(Clone, Copy)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// It is shown, no more.
    None,
}

/// One side of a comparison.
pub struct Side<'a> {
    pub name: &'a str,
    pub rounds: &'a [f64],
}

/// What was measured so far, and which targets were missed.
#[derive(Default)]
pub struct Table {
    begun: bool,
    missed: Vec<String>,
}

impl Table {
    /// One line: two sides in nanoseconds, and the ratio of each round.
    pub fn compare(
        &mut self,
        what: &str,
        ours: &Side<'_>,
        theirs: &Side<'_>,
        ratios: &[f64],
        target: Target,
    ) {
        let sides = format!(
            "{} {:.1} ns, {} {:.1} ns",
            ours.name,
            median(ours.rounds),
            theirs.name,
            median(theirs.rounds)
        );
        self.line(what, &sides, ratios, target);
    }

    /// One line with ratios alone.
    pub fn line(&mut self, what: &str, figures: &str, ratios: &[f64], target: Target) {
        if !std::mem::replace(&mut self.begun, true) {
            println!("{:28} {:44} {:22} target", "", "medians", "ratio (min..max)");
        }
        let ratio = median(ratios);
        let (least, most) = ratios
            .iter()
            .fold((f64::MAX, f64::MIN), |(least, most), ratio| (least.min(*ratio), most.max(*ratio)));
        let (wanted, met) = match target {
            Target::AtLeast(least) => (format!(">= {least}"), ratio >= least),
            Target::AtMost(most) => (format!("<= {most}"), ratio <= most),
            Target::None => (String::new(), true),
        };
        let verdict = match target {
            Target::None => "",
            _ if met => "pass",
            _ => "MISS",
        };
        if !met {
            self.missed.push(what.to_owned());
        }
        println!(
            "{what:28} {figures:44} {:22} {wanted:8} {verdict}",
            format!("{ratio:.2} ({least:.2}..{most:.2})")
        );
        let (ours, theirs) = figures.split_once(", ").unwrap_or((figures, ""));
        keep(&format!(
            "{{\"name\":{what:?},\"ours\":{ours:?},\"theirs\":{theirs:?},\"spread\":\"{ratio:.2} ({least:.2}..{most:.2})\",\
             \"ratio_value\":{ratio},\"target\":{wanted:?},\"ok\":{met}}}"
        ));
    }

    /// The exit status: 0 every target met, 1 one missed.
    pub fn verdict(self) -> ExitCode {
        if self.missed.is_empty() {
            return ExitCode::SUCCESS;
        }
        println!("missed: {}", self.missed.join(", "));
        ExitCode::FAILURE
    }
}

/// Writes a row where `scripts/bench/all` reads them, if it runs this.
fn keep(row: &str) {
    let Some(path) = std::env::var_os("HOLDFAST_BENCH_ROWS") else { return };
    let mut file =
        OpenOptions::new().append(true).create(true).open(path).expect("the file of rows can be written");
    writeln!(file, "{row}").expect("the file of rows can be written");
}

/// The median of what was measured in several rounds.
pub fn median(rounds: &[f64]) -> f64 {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    (low + high) / 2.0
}

/// The ratio of each round.
pub fn ratios(over: &[f64], under: &[f64]) -> Vec<f64> {
    over.iter().zip(under).map(|(over, under)| over / under).collect()
}

/// Measures several contenders in turn, `rounds` times; who is first changes with every round. Gives each one's rounds.
pub fn in_turn(rounds: usize, contenders: &mut [&mut dyn FnMut() -> f64]) -> Vec<Vec<f64>> {
    let count = contenders.len();
    let mut measured = vec![Vec::new(); count];
    for round in 0..rounds {
        for number in 0..count {
            let which = (round + number) % count;
            measured[which].push(contenders[which]());
        }
    }
    measured
}
