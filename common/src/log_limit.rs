//! A log that a crash loop cannot flood.

use std::time::Duration;

/// Lines of one kind that are written in a window; the rest is counted.
const LINES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);

/// Limits the lines of one kind.
#[derive(Debug, Default)]
pub struct LogLimit {
    since: Duration,
    lines: u32,
}

impl LogLimit {
    /// Whether one more line may be written now, by a clock that only goes forward; and, at the beginning of a window,
    /// how many were not.
    pub fn admit(&mut self, now: Duration) -> Admission {
        let mut left_out = 0;
        if now.saturating_sub(self.since) >= WINDOW {
            left_out = self.lines.saturating_sub(LINES);
            *self = Self { since: now, lines: 0 };
        }
        self.lines = self.lines.saturating_add(1);
        Admission { write: self.lines <= LINES, left_out }
    }
}

impl LogLimit {
    /// Logs a warning if one more may be written now; what was left out before is said first.
    pub fn warn(&mut self, now: Duration, what: impl FnOnce() -> String) {
        let admission = self.admit(now);
        if admission.left_out > 0 {
            log::warn!("{} more lines like the following were left out", admission.left_out);
        }
        if admission.write {
            log::warn!("{}", what());
        }
    }
}

/// What [`LogLimit::admit`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Write the line.
    pub write: bool,
    /// Lines left out in the window before.
    pub left_out: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let mut limit = LogLimit::default();
        let written = (0..1000).filter(|_| limit.admit(Duration::from_secs(1)).write).count();
        assert_eq!(written, LINES as usize);
        assert_eq!(limit.admit(Duration::from_secs(30)), Admission { write: true, left_out: 980 });
        assert_eq!(limit.admit(Duration::from_secs(50)), Admission { write: true, left_out: 0 });
    }
}
