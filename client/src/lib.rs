//! The other side of the socket: what joins a running instance from outside.
//!
//! [`Session`] is a program's own slot in the region: with it, it changes maps and counters in transactions as a worker
//! does. [`View`] only reads. Either needs nothing but the instance's run directory.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use client::Session;
//! use client::objects::Folder;
//!
//! let mut session = Session::attach(Path::new("/run/holdfast"))?;
//! let sold = session.change(|txn| {
//!     let shop = txn.open_or_create_folder("shop")?;
//!     let stock = txn.open_or_create_map(shop, "stock")?;
//!     let sold = txn.open_or_create_counter(shop, "sold")?;
//!     txn.map(stock)?.put(b"apples", b"6")?;
//!     txn.counter(sold)?.add(1)
//! })?;
//!
//! let region = session.region()?;
//! let stock = Folder::open(region, "shop")?.open_map(region, "stock")?;
//! assert_eq!(stock.get(region, b"apples")?.as_deref(), Some(&b"6"[..]));
//! session.detach()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! This is `examples/join.rs`, which the tests run. Killed at any instruction, a program that is attached is repaired as a
//! worker is: what it had half done is undone, what it had locked is free.
//!
//! Without any instance, processes share [`block`]s: contents under a name.

#![forbid(unsafe_code)]

pub mod attach;

pub mod watch;

pub mod document;

pub mod touch;

pub mod block;

pub mod session;

mod mapped;

pub use common::error::{Error, Result};
pub use common::objects;
pub use common::objects::ReadError;
pub use common::region::Region;
pub use common::txn::{Transaction, TxnError};
pub use session::{Session, SessionError, View};
