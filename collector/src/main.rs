//! `data_collector`: a device and a distributor of what it writes, or the distributor alone.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    common::error::run("data_collector", collector::cli::run)
}
