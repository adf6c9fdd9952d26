//! The region of a running instance: what a program outside the pool shares with it. A session or view (`session`), its
//! handle (`shares`), the transaction that is open on it (`seated`, `transaction`), a room for each kind of object,
//! for items in flight (`item`) and for names (`folder`).

mod blob;
mod counter;
mod folder;
mod item;
mod map;
mod objects;
mod queue;
mod seated;
mod session;
mod shares;
mod transaction;
