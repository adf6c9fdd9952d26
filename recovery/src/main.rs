//! `recovery`: the separate program that repairs what a dead process left, and keeps the journal.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    common::error::run("recovery", recovery::cli::run)
}
