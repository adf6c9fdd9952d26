//! The supervisor's program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use supervisor::config::{self, Asked};

fn main() -> ExitCode {
    common::error::run("supervisor", || match config::read()? {
        Asked::Run(configuration) => supervisor::run(*configuration),
        Asked::Check(configuration) => configuration.check(),
        Asked::Command(command) => supervisor::status::run(&command),
    })
}
