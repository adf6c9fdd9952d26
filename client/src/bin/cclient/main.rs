//! `cclient`: sends messages to a Holdfast server over many connections at once, counts only what was acknowledged,
//! and can hold the journal against it afterwards.
//!
//! In reading order: what is asked for (`cli`), what is sent and what comes back (`request`, `reply`, `failure`), when
//! something is sent (`schedule`, `alarm`), how (`socket`, `engine`, `run`), and what is reported (`tally`, `pace`, `check`,
//! `report`, `distribution`, `plot`).

#![forbid(unsafe_code)]

mod alarm;
mod bitmap;
mod check;
mod cli;
mod descriptors;
mod distribution;
mod engine;
mod failure;
mod pace;
mod plot;
mod progress;
mod reply;
mod report;
mod request;
mod run;
mod schedule;
mod socket;
mod tally;

fn main() -> std::process::ExitCode {
    common::error::run("cclient", || run::run(&cli::parse()?))
}
