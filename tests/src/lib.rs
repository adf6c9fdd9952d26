//! The harness: instances of the real programs in directories of their own, talked to over real sockets, killed by
//! real signals. Nothing is imitated, and nothing sleeps for a time: whatever is expected is waited for by its
//! condition, with a deadline.
//!
//! In reading order: where the programs are ([`programs`]), running one to its end ([`outcome`]), an instance and its
//! directories ([`place`], [`instance`]), talking to it ([`connection`], [`load`]), programs that are
//! attached to it ([`visitor`]), what it wrote ([`journal`]), what it shows ([`web`],
//! [`openmetrics`]), and what only the machine can tell or do ([`processes`], [`machine`]),
//! and chance that can be had again ([`random`]).
#![forbid(unsafe_code)]

pub mod programs;

pub mod outcome;

pub mod place;

pub mod instance;

pub mod connection;

pub mod load;

pub mod visitor;

pub mod journal;

pub mod web;

pub mod openmetrics;

pub mod processes;

pub mod machine;

pub mod random;

use std::time::{Duration, Instant};

pub use connection::Connection;
pub use instance::Instance;
pub use outcome::Outcome;
pub use place::Place;
pub use visitor::Visitor;

/// What is expected comes long before this, however loaded the machine is.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(5);

/// Waits until `probe` gives something, and gives that; or at the deadline what `probe` said last.
///
/// # Errors
/// What was seen last.
pub fn within<T>(deadline: Duration, mut probe: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let began = Instant::now();
    loop {
        match probe() {
            Err(_) if began.elapsed() < deadline => std::thread::sleep(POLL),
            outcome => return outcome,
        }
    }
}

/// Waits until `probe` gives something, and gives that.
///
/// # Panics
/// At the deadline, with what `probe` said last.
#[track_caller]
pub fn eventually<T>(deadline: Duration, what: &str, probe: impl FnMut() -> Result<T, String>) -> T {
    within(deadline, probe)
        .unwrap_or_else(|last| panic!("{what}: not within {deadline:?}; last seen: {last}"))
}

/// Waits until `condition` holds.
///
/// # Panics
/// At the deadline.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    eventually(DEADLINE, what, || if condition() { Ok(()) } else { Err("it does not hold".to_owned()) });
}
