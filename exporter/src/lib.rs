//! Shows an instance over HTTP: `/metrics` to Prometheus, `/status` to programs, `/` to people. It maps the region so that
//! it cannot change it, takes no lock, and asks the supervisor only for what the supervisor alone knows. Whatever it
//! reads, there or from who connects, is an allegation.
#![forbid(unsafe_code)]

pub mod cli;

pub mod birth;

pub mod gathering;

pub mod users;

pub mod metrics;

pub mod answer;

pub mod page;

pub mod server;
