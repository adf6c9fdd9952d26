//! What goes over sockets, as pure functions on bytes: nothing here reads or writes a descriptor.

pub mod control;
pub mod line;
