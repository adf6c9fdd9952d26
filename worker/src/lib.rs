//! How to put a service of your own behind the supervisor.
//!
//! A service answers request lines. It is loaded once, in the template, and cloned into every worker, where it serves
//! one connection at a time. Framing, deadlines, the journal, the counters and leaving when asked are the library's.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use worker::{Exchange, Refusal, Service};
//!
//! struct Shout;
//!
//! impl Service for Shout {
//!     fn handle(&mut self, request: &[u8], exchange: &mut Exchange<'_>) -> Result<(), Refusal> {
//!         let text = String::from_utf8_lossy(request);
//!         exchange.record("shout", &text)?;
//!         exchange.reply(text.to_uppercase().as_bytes());
//!         exchange.reply(b"\n");
//!         Ok(())
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     worker::serve("shout", |_settings| Ok(Shout))
//! }
//! ```
//!
//! The program is then given to the supervisor: `supervisor --worker PATH`.
//!
//! What all workers share lies in the region as maps, queues, blobs and counters in named folders ([`objects`]). A service
//! changes them in transactions, alone ([`Exchange::change`]) or together with a record ([`Exchange::record_with`]): all of it stands
//! or nothing does, whoever dies at whatever instruction. Reading ([`Exchange::region`]) takes no lock.
//!
//! ```no_run
//! use worker::objects::Map;
//! use worker::{Exchange, Kind, Refusal, Service};
//!
//! #[derive(Default)]
//! struct Inventory {
//!     stock: Option<Map>,
//! }
//!
//! impl Inventory {
//!     /// The map, made by whichever worker comes first.
//!     fn stock(&mut self, exchange: &mut Exchange<'_>) -> Result<Map, Refusal> {
//!         if self.stock.is_none() {
//!             let made = exchange.change(|txn| {
//!                 let shop = txn.open_or_create_folder("shop")?;
//!                 txn.open_or_create_map(shop, "stock")
//!             })?;
//!             self.stock = Some(made);
//!         }
//!         self.stock.ok_or_else(|| Refusal::new(Kind::Full, "there is no stock"))
//!     }
//! }
//!
//! impl Service for Inventory {
//!     /// `NAME` is answered with how many have been asked for so far.
//!     fn handle(&mut self, request: &[u8], exchange: &mut Exchange<'_>) -> Result<(), Refusal> {
//!         let stock = self.stock(exchange)?;
//!         let sold = exchange.record_with("shop", &String::from_utf8_lossy(request), |txn| {
//!             let mut stock = txn.map(stock)?;
//!             let before = stock.get(request)?.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
//!             stock.put(request, &(before + 1).to_le_bytes())?;
//!             Ok(before + 1)
//!         })?;
//!         exchange.reply(format!("{sold}\n").as_bytes());
//!         Ok(())
//!     }
//! }
//! ```

#![forbid(unsafe_code)]

use std::process::ExitCode;

pub use common::error::{Error, Result};
pub use common::ids::Pid;
pub use common::objects;
pub use common::region::Region;
pub use common::txn::{Transaction, TxnError};
pub use common::wire::control::Settings;
pub use common::wire::line::Refusal as Kind;

mod refusal;
pub use refusal::Refusal;

mod request_clock;

mod exchange;
pub use exchange::Exchange;

mod template;

mod worker;

mod accept;

mod connection;

mod inbox;

mod patience;

pub mod line_service;

mod users;

mod access_log;

/// What a worker does with a request.
pub trait Service {
    /// Answers one request: a line without its terminator, at most 64 KiB of any bytes. What is to be kept goes
    /// through [`Exchange::record`], what is to be sent through [`Exchange::reply`]. A refusal becomes one
    /// `error kind: reason` line in place of the reply, and the connection goes on, unless its kind closes it.
    ///
    /// # Errors
    /// A [`Refusal`], for whoever sent the request.
    fn handle(&mut self, request: &[u8], exchange: &mut Exchange<'_>) -> std::result::Result<(), Refusal>;

    /// Called once in each worker, before its first connection. Workers are clones: whatever the service holds is the
    /// same in all of them, down to the state of a random generator, and files that it has open share their offset.
    /// What must differ is made here. Memory written here is memory that every idle worker costs.
    fn cloned(&mut self, _worker: Pid) {}
}

/// The body of `main`: runs this program as the supervisor's template, and as the workers cloned from it. `load` makes
/// the service, once; its error is reported to the supervisor, who goes on with what it has. `load` must leave no
/// thread behind, since a process with threads cannot be cloned.
///
/// Gives the code to leave with: 0, or the one that the error stands for.
pub fn serve<S: Service>(name: &'static str, load: impl FnOnce(&Settings) -> Result<S>) -> ExitCode {
    read_command_line(name).and_then(|()| template::run(load)).unwrap_or_else(|error| {
        common::output::complain(&format!("{name}: {error}"));
        ExitCode::from(error.exit() as u8)
    })
}

/// Answers `--help` and `--version`, and refuses (exit 2) what it does not know. Without `template` the program goes
/// on all the same: it finds no channel then, and says so.
fn read_command_line(name: &'static str) -> Result<()> {
    let command = clap::Command::new(name)
        .version(env!("CARGO_PKG_VERSION"))
        .about("A service for the supervisor, which starts it: supervisor --worker PATH")
        .subcommand(clap::Command::new("template").hide(true));
    common::command_line::matches(&command).map(drop)
}
