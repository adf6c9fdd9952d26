//! What becomes of a file after an attempt to deliver it: a pure function of the answer and of how often it failed.

use std::time::Duration;

/// The pause after the first failure; it doubles with each one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause, unless the server asks for another.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The longest pause that a server can ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The server answered with this status and, perhaps, when to try again.
    Status {
        /// The code.
        code: u16,
        /// `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// No connection, no answer in time, or none that can be understood.
    Failed,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The server has it: it goes.
    Delivered,
    /// Try again after this pause.
    Retry {
        /// The pause.
        after: Duration,
        /// Whether it will not help by itself: somebody has to do something about it.
        alarm: bool,
    },
    /// The server will never take it: it is put aside.
    Refused,
}

/// Decides. `failures` is how many attempts failed before this one, `chance` lies in 0..1.
pub fn decide(answer: Answer, failures: u32, chance: f64) -> Decision {
    let Answer::Status { code, retry_after } = answer else {
        return Decision::Retry { after: pause(failures, chance), alarm: false };
    };
    match code {
        200..=299 => Decision::Delivered,
        400..=499 if !matches!(code, 401 | 403 | 404 | 408 | 429) => Decision::Refused,
        _ => {
            let asked = retry_after.unwrap_or_default().min(LONGEST_ASKED);
            Decision::Retry {
                after: pause(failures, chance).max(asked),
                alarm: matches!(code, 401 | 403 | 404),
            }
        }
    }
}

/// The pause after one more failure: a quarter shorter to a quarter longer than it would be, so that many do not come
/// back together.
fn pause(failures: u32, chance: f64) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.min(10));
    doubled.min(LONGEST_PAUSE).mul_f64(0.75 + chance.clamp(0.0, 1.0) / 2.0).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16) -> Answer {
        Answer::Status { code, retry_after: None }
    }

    #[test]
    fn statuses() {
        let after = FIRST_PAUSE;
        let (retry, alarm) =
            (Decision::Retry { after, alarm: false }, Decision::Retry { after, alarm: true });
        let table: [(&[u16], Decision); 5] = [
            (&[200, 201, 202, 204, 299], Decision::Delivered),
            (
                &[100, 199, 300, 301, 302, 307, 308, 399, 408, 429, 500, 502, 503, 504, 599, 600, 999, 0],
                retry,
            ),
            (&[401, 403, 404], alarm),
            (&[400, 402, 405, 406, 409, 410, 411, 413, 415, 418, 422, 431, 451, 499], Decision::Refused),
            (&[], retry),
        ];
        for (codes, expected) in table {
            for &code in codes {
                assert_eq!(decide(status(code), 0, 0.5), expected, "{code}");
            }
        }
        assert_eq!(decide(Answer::Failed, 0, 0.5), retry);
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_are_jittered() {
        let expected = [100, 200, 400, 800, 1600, 3200, 5000, 5000];
        for (failures, milliseconds) in expected.into_iter().enumerate() {
            assert_eq!(pause(failures as u32, 0.5), Duration::from_millis(milliseconds));
            let (least, most) = (pause(failures as u32, 0.0), pause(failures as u32, 1.0));
            assert_eq!(least, Duration::from_millis(milliseconds * 3 / 4));
            assert_eq!(most, Duration::from_millis(milliseconds * 5 / 4).min(LONGEST_PAUSE));
        }
        assert!(pause(u32::MAX, 1.0) <= LONGEST_PAUSE);
    }

    #[test]
    fn the_server_may_ask_for_a_longer_pause_within_bounds() {
        let asked = |seconds, code| {
            let retry_after = Some(Duration::from_secs(seconds));
            decide(Answer::Status { code, retry_after }, 0, 0.5)
        };
        let retry = |seconds| Decision::Retry { after: Duration::from_secs(seconds), alarm: false };
        assert_eq!(asked(7, 429), retry(7));
        assert_eq!(asked(7, 503), retry(7));
        assert_eq!(asked(u64::MAX, 429), retry(300));
        assert_eq!(asked(0, 429), Decision::Retry { after: FIRST_PAUSE, alarm: false });
        assert_eq!(asked(7, 200), Decision::Delivered);
        assert_eq!(asked(7, 422), Decision::Refused);
    }
}
