//! The program `worker`: the line service.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    worker::serve("worker", worker::line_service::LineService::load)
}
