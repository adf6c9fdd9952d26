//! Holdfast for C. Everything is a thin coat over the client library: opaque handles, a code for each outcome, the last
//! error's sentence for each thread, times in milliseconds.
//!
//! In reading order: codes and sentences (`outcome`), what comes over the border (`border`), blocks (`handles`, `blocks`,
//! `producer`, `consumer`, `pinned`, `group`), the region of a running instance (`region`).

mod blocks;
mod border;
mod consumer;
mod group;
mod handles;
mod outcome;
mod pinned;
mod producer;
mod region;
