//! The progress bar: on a terminal, and only for runs that last.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::Extent;

/// Shorter runs are over before a bar is of use.
const WORTHWHILE: Duration = Duration::from_secs(1);

/// How far the run is.
#[derive(Debug)]
pub struct Progress {
    extent: Extent,
    started: Instant,
    decided: u64,
    quiet: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A run that begins now.
    pub fn new(extent: Extent, quiet: bool) -> Self {
        Self { extent, started: Instant::now(), decided: 0, quiet, bar: None }
    }

    /// Some more requests are decided.
    pub fn add(&mut self, decided: u64) {
        self.decided += decided;
        let elapsed = self.started.elapsed();
        if self.quiet || elapsed < WORTHWHILE {
            return;
        }
        let (extent, decided) = (self.extent, self.decided);
        let bar = self.bar.get_or_insert_with(|| new_bar(extent));
        let rate = decided as f64 / elapsed.as_secs_f64();
        bar.set_message(format!("{decided} requests, {rate:.0}/s"));
        bar.set_position(match extent {
            Extent::Requests(_) => decided,
            Extent::Lasting(duration) => milliseconds(elapsed.min(duration)),
        });
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Draws to stderr, and nothing at all if that is no terminal.
fn new_bar(extent: Extent) -> ProgressBar {
    let length = match extent {
        Extent::Requests(requests) => requests,
        Extent::Lasting(duration) => milliseconds(duration),
    };
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    match ProgressStyle::with_template("[{elapsed}] {bar:40} {percent}% {msg}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
