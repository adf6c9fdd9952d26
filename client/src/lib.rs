//! The other side of the socket: what joins a running instance from outside.
#![forbid(unsafe_code)]

pub mod attach;
