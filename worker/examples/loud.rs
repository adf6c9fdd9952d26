//! A service that writes to its stderr, and falls over, as its requests say:
//!
//! - `panic WORDS` panics with these words;
//! - `say N WORDS` writes N lines, each with the words and its number;
//! - `pour N` writes N KiB without a line's end;
//!
//! and anything else is answered by the line service.
//!
//! `supervisor --worker target/release/examples/loud`; what becomes of it is in `tests/tests/stderr.rs`.

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;

use worker::line_service::LineService;
use worker::{Exchange, Refusal, Service};

struct Loud {
    lines: LineService,
}

impl Service for Loud {
    fn handle(&mut self, request: &[u8], exchange: &mut Exchange<'_>) -> Result<(), Refusal> {
        let text = std::str::from_utf8(request).unwrap_or_default();
        match text.split_once(' ') {
            Some(("panic", words)) => panic!("{words}"),
            Some(("say", rest)) => say(rest),
            Some(("pour", count)) => pour(count.parse().unwrap_or_default()),
            _ => return self.lines.handle(request, exchange),
        }
        exchange.reply(b"said\n");
        Ok(())
    }
}

fn say(rest: &str) {
    let (count, words) = rest.split_once(' ').unwrap_or((rest, ""));
    for number in 0..count.parse().unwrap_or(0_u64) {
        eprintln!("{words} {number}");
    }
}

fn pour(count: usize) {
    for _ in 0..count {
        let _ = std::io::stderr().write_all(&[b'x'; 1024]);
    }
}

fn main() -> ExitCode {
    worker::serve("loud", |settings| Ok(Loud { lines: LineService::load(settings)? }))
}
