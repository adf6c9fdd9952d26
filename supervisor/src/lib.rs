//! The supervisor: owns the run directory, the region's file, the listening sockets and every child. One thread, one
//! poll loop (but see [`reservation`]). It knows slots, counters and process states; objects, locks and messages it does not know.
#![forbid(unsafe_code)]

pub mod cli;

pub mod config;

pub mod prepared;

pub mod starter;

pub mod pid_file;

pub mod policy;

pub mod pool;

pub mod repairs;

pub mod companion;

pub mod shipping;

pub mod showing;

pub mod crash_reports;

pub mod event_loop;

pub mod children;

pub mod voices;

pub mod rundir;

pub mod reservation;

pub mod recoverer;

pub mod listen;

pub mod service_manager;

pub mod access;

pub mod control;

pub mod clients;

pub mod upgrade;

pub mod status;

pub mod acquire;

pub use event_loop::{go_on, run};
