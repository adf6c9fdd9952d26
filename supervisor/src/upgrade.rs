//! USR2: another program takes over in this process. Its pid stays, and with that the children, who notice nothing; so
//! do the listening sockets, the connections of the control socket, the programs that are attached and every lock.
//!
//! The program is looked for where this one was started from ([`program`]). First it is run as a child, with
//! `--check-config` and this one's arguments, and is handed the region and all that this supervisor knows, as it stands
//! then ([`check`]): it says whether it could go on from there. Until it has said so nothing has happened, and if it says
//! no, nothing does. Then this process executes it. What the supervisor knows by heart goes along in a sealed file in
//! memory ([`handover`]), and descriptors under the numbers that they have ([`luggage`]).
//!
//! A program that finds that it cannot go on after all, since what it was handed is broken, starts everything anew in this
//! process, as after a crash ([`anew`]): children end, and who waits at a listening socket is served by the next ones.

pub mod program;

pub mod luggage;

pub mod handover;

pub mod check;

pub mod anew;
