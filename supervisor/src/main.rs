//! The supervisor's program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = supervisor::cli::Cli::parse();
    common::error::run("supervisor", || match &cli.command {
        Some(command) => supervisor::status::run(command),
        None => supervisor::run(cli.options),
    })
}
