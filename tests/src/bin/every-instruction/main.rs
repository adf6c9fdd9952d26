//! The proof that a process may die at any instruction. Each operation is executed one instruction at a time; whatever
//! the region and the journal look like meanwhile is what a death leaves. Each such image is repaired and must be
//! wholly what was before the operation or wholly what is after it; so must each image that a death of the repairer
//! leaves.
//!
//! In reading order: what is proved ([`shop`], [`mill`], [`operations`]), how its images are got ([`tracee`], [`stores`],
//! [`difference`], [`watch`], [`images`]), how they are tried ([`arena`], [`model`], [`accounting`], [`sleepers`],
//! [`removal`], [`marks`], [`anticipation`], [`trial`], [`repairs`]), and the whole ([`proof`], [`pairs`], [`blocks`],
//! [`restoring`], [`rows`], [`planted`], [`workers`], [`program`]).

#[cfg(target_arch = "x86_64")]
mod program;

#[cfg(target_arch = "x86_64")]
mod shop;

#[cfg(target_arch = "x86_64")]
mod mill;

#[cfg(target_arch = "x86_64")]
mod operations;

#[cfg(target_arch = "x86_64")]
mod tracee;

#[cfg(target_arch = "x86_64")]
mod difference;

#[cfg(target_arch = "x86_64")]
mod stores;

#[cfg(target_arch = "x86_64")]
mod watch;

#[cfg(target_arch = "x86_64")]
mod images;

#[cfg(target_arch = "x86_64")]
mod arena;

#[cfg(target_arch = "x86_64")]
mod model;

#[cfg(target_arch = "x86_64")]
mod accounting;

#[cfg(target_arch = "x86_64")]
mod sleepers;

#[cfg(target_arch = "x86_64")]
mod removal;

#[cfg(target_arch = "x86_64")]
mod marks;

#[cfg(target_arch = "x86_64")]
mod anticipation;

#[cfg(target_arch = "x86_64")]
mod trial;

#[cfg(target_arch = "x86_64")]
mod repairs;

#[cfg(target_arch = "x86_64")]
mod proof;

#[cfg(target_arch = "x86_64")]
mod pairs;

#[cfg(target_arch = "x86_64")]
mod blocks;

#[cfg(target_arch = "x86_64")]
mod tree;

#[cfg(target_arch = "x86_64")]
mod restoring;

#[cfg(target_arch = "x86_64")]
mod rows;

#[cfg(target_arch = "x86_64")]
mod planted;

#[cfg(target_arch = "x86_64")]
mod workers;

#[cfg(target_arch = "x86_64")]
fn main() -> std::process::ExitCode {
    program::run()
}

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    println!("every-instruction: skipped, it knows the instructions of x86-64 only");
}
