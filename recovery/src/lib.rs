//! Recovery: repairs what a dead process left in the region, takes a region over from a former life, and keeps the
//! journal's files. In reading order: the repair of one slot, the tidying and
//! takeover of a whole region, the journal's keeper;
//! then the processes that do it; then what an operator calls.

#![forbid(unsafe_code)]

pub mod repair;

pub mod tidy;

pub mod takeover;

pub mod keeper;

pub mod complaints;

pub mod attachment;

pub mod standby;

pub mod journal;

pub mod picture;

pub mod verify;

pub mod dump;

pub mod checkpoint;

pub mod restore;

pub mod offline;

pub mod inherited;

pub mod import;

pub mod carry;

pub mod cli;

#[cfg(test)]
mod scene;
