//! What joins from outside: attaching to a running instance, and blocks, which need none.
#![forbid(unsafe_code)]

pub mod attach;

pub mod block;
