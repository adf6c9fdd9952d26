//! What every Holdfast process shares. In reading order: the bounds and names of things, the region and its
//! protocols, the journal, the wire, and underneath them the only raw system calls.

pub mod limits;

pub mod ids;

pub mod error;

pub mod output;

pub mod units;

pub mod address;

pub mod destination;

pub mod places;

pub mod command_line;

pub mod logging;

pub mod log_limit;

mod hash;

pub mod layout;

pub mod region;

pub mod slots;

pub mod demand;

pub mod door;

pub mod lock;

pub mod gate;

pub mod bell;

pub mod undo;

pub mod heap;

pub mod seat;

pub mod tidings;

pub mod txn;

pub mod objects;

pub mod tally;

pub mod planted;

pub mod journal;

pub mod wire;

pub mod sys;
