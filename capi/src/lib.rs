//! Holdfast for C. Everything is a thin coat over the client library: opaque handles, a code for each outcome, the last
//! error's sentence for each thread, times in milliseconds.
//!
//! In reading order: codes and sentences (`outcome`), what comes over the border (`border`), blocks (`blocks`,
//! `producer`, `consumer`, `group`).

mod blocks;
mod border;
mod consumer;
mod group;
mod outcome;
mod producer;
