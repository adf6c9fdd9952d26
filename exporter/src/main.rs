//! The exporter's program.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    common::error::run("exporter", exporter::cli::run)
}
