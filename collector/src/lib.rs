//! Ships minute files: a device that writes readings, and a distributor that posts finished files to a server and
//! removes what the server has taken. Nothing is lost and, once the server drops what it has seen, nothing is repeated.
//!
//! In reading order: what an answer means ([`decision`]); what is known of a file ([`content`], [`locks`]); what is to
//! be shipped ([`backlog`]), how it is sent ([`body`], [`sender`]), and what then becomes of it ([`delivered`],
//! [`quarantine`], [`ledger`]); all of it together ([`distribute`]). Then the device, the program around both
//! ([`run`], [`logs`], [`cli`]), and what an operator asks ([`status`], [`fsck`]).
#![forbid(unsafe_code)]

pub mod decision;

pub mod content;

pub mod locks;

pub mod backlog;

pub mod body;

pub mod sender;

pub mod delivered;

pub mod quarantine;

pub mod ledger;

pub mod distribute;

pub mod device;

pub mod run;

pub mod logs;

pub mod cli;

pub mod status;

pub mod fsck;
