//! `acquired`: prints the port of a daemon, which it starts if there is none.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    common::error::run("acquired", || {
        let port = supervisor::acquire::run(&common::command_line::read()?)?;
        common::output::print_line(&port.to_string())
    })
}
