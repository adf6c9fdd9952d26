//! A log that a crash loop cannot flood.

use std::time::Duration;

use crate::policy::Clock;

/// Lines of one kind that are written in a window; the rest is counted.
const LINES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);

/// Limits the lines of one kind.
#[derive(Debug, Default)]
pub struct LogLimit {
    since: Clock,
    lines: u32,
}

impl LogLimit {
    /// Whether one more line may be written now; and, at the beginning of a window, how many were not.
    pub fn admit(&mut self, now: Clock) -> Admission {
        let mut left_out = 0;
        if now.saturating_sub(self.since) >= WINDOW {
            left_out = self.lines.saturating_sub(LINES);
            *self = Self { since: now, lines: 0 };
        }
        self.lines = self.lines.saturating_add(1);
        Admission { write: self.lines <= LINES, left_out }
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
