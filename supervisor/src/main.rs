//! The supervisor's program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use common::error::Result;
use supervisor::config::{self, Asked};
use supervisor::upgrade::check;
use supervisor::upgrade::handover::Summons;

fn main() -> ExitCode {
    common::error::run("supervisor", begin)
}

fn begin() -> Result<()> {
    let summons = Summons::received()?;
    if let Some((summons, state)) = summons.as_ref().and_then(|summons| Some((summons, summons.state()?))) {
        return supervisor::go_on(summons, state);
    }
    match config::read()? {
        Asked::Run(configuration) => supervisor::run(*configuration, summons.as_ref()),
        Asked::Check(configuration) => configuration.check().and_then(|()| check::answer(summons.as_ref())),
        Asked::Command(command) => supervisor::status::run(&command),
    }
}
