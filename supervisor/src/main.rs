//! The supervisor's program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use common::command_line;
use supervisor::cli::Cli;

fn main() -> ExitCode {
    common::error::run("supervisor", || {
        let Cli { command, options } = command_line::read()?;
        match command {
            Some(command) => supervisor::status::run(&command),
            None => supervisor::run(options),
        }
    })
}
