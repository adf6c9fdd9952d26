//! `block`: writes, prints and lists blocks, for shells and for a look.

#![forbid(unsafe_code)]

mod cli;
mod run;

fn main() -> std::process::ExitCode {
    common::error::run("block", || run::run(common::command_line::read()?))
}
