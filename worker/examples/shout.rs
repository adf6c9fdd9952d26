//! A service of a few lines: records what it is told and answers it in upper case.
//!
//! `supervisor --worker target/release/examples/shout`

#![forbid(unsafe_code)]

use std::process::ExitCode;

use worker::{Exchange, Kind, Refusal, Service};

struct Shout;

impl Service for Shout {
    fn handle(&mut self, request: &[u8], exchange: &mut Exchange<'_>) -> Result<(), Refusal> {
        let text = std::str::from_utf8(request).map_err(|_| Refusal::new(Kind::Malformed, "speak UTF-8"))?;
        exchange.record("shout", text)?;
        exchange.reply(text.to_uppercase().as_bytes());
        exchange.reply(b"\n");
        Ok(())
    }
}

fn main() -> ExitCode {
    worker::serve("shout", |_settings| Ok(Shout))
}
