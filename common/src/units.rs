//! Durations and sizes as people write them: `250ms`, `3s`, `2m`; `64MiB`.
//!
//! Every program takes these on its command line, in its environment and in its configuration file, so a value
//! parsed here and printed again is always one that can be given back.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, Result};

/// A length of time: `250ms`, `3s`, `2m`, `1.5h`; `0` needs no unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

/// A number of bytes: `64MiB`, `1.5GiB`, `4096`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

/// Nanoseconds in each unit of time, the largest first; the first name of a unit is the one printed.
const TIMES: [(&[&str], u64); 7] = [
    (&["d"], 86_400_000_000_000),
    (&["h"], 3_600_000_000_000),
    (&["m", "min"], 60_000_000_000),
    (&["s"], 1_000_000_000),
    (&["ms"], 1_000_000),
    (&["us", "µs"], 1_000),
    (&["ns"], 1),
];

/// Bytes in each unit of size that is printed, the largest first. A bare letter is binary, as with `ulimit`.
const BINARY: [(&[&str], u64); 5] = [
    (&["TiB", "T"], 1 << 40),
    (&["GiB", "G"], 1 << 30),
    (&["MiB", "M"], 1 << 20),
    (&["KiB", "K"], 1 << 10),
    (&["B", ""], 1),
];

/// Units of size that are understood, never printed.
const DECIMAL: [(&[&str], u64); 4] =
    [(&["TB"], 1_000_000_000_000), (&["GB"], 1_000_000_000), (&["MB"], 1_000_000), (&["KB"], 1_000)];

impl Span {
    /// The time, or nothing where zero means "never".
    pub fn limit(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

impl FromStr for Span {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why| Error::usage(format!("{text:?} is not a duration ({why}): write 250ms, 3s or 2m"));
        let (digits, unit) = split_unit(text).map_err(wrong)?;
        let unit = match TIMES.iter().find(|(names, _)| names.contains(&unit)) {
            Some((_, nanoseconds)) => *nanoseconds,
            None if unit.is_empty() && digits.bytes().all(|digit| digit == b'0') => 1,
            None if unit.is_empty() => return Err(wrong("it has no unit")),
            None => return Err(wrong("the units are ns, us, ms, s, m, h and d")),
        };
        Ok(Self(Duration::from_nanos(multiply(digits, unit).map_err(wrong)?)))
    }
}

impl FromStr for Size {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why| Error::usage(format!("{text:?} is not a size ({why}): write 64MiB or 1GiB"));
        let (digits, unit) = split_unit(text).map_err(wrong)?;
        let named = |names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(unit));
        let (_, bytes) = BINARY
            .iter()
            .chain(&DECIMAL)
            .find(|(names, _)| named(names))
            .ok_or_else(|| wrong("the units are B, KiB, MiB, GiB and TiB"))?;
        Ok(Self(multiply(digits, *bytes).map_err(wrong)?))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_nanos() {
            0 => f.write_str("0s"),
            nanoseconds => write_in_largest_unit(f, nanoseconds, &TIMES),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0B"),
            bytes => write_in_largest_unit(f, u128::from(bytes), &BINARY),
        }
    }
}

/// The largest unit that needs no fraction, so that printing loses nothing.
fn write_in_largest_unit(f: &mut fmt::Formatter<'_>, amount: u128, units: &[(&[&str], u64)]) -> fmt::Result {
    for (names, unit) in units {
        let unit = u128::from(*unit);
        if amount.is_multiple_of(unit) {
            return write!(f, "{}{}", amount / unit, names[0]);
        }
    }
    Ok(())
}

/// `1.5` and `GiB` of `1.5GiB`; a blank between them is allowed.
fn split_unit(text: &str) -> std::result::Result<(&str, &str), &'static str> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    match text.split_at(end) {
        ("", "") => Err("it is empty"),
        ("", _) => Err("it does not start with a number"),
        (digits, unit) => Ok((digits, unit.trim_start())),
    }
}

/// A decimal number times a unit, rounded down. In whole numbers: floating point would turn some sizes into others.
fn multiply(digits: &str, unit: u64) -> std::result::Result<u64, &'static str> {
    const TOO_LARGE: &str = "it is too large";
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err("its number is not written like 1.5");
    }
    // Beyond 18 places a decimal is worth less than a byte or a nanosecond of the largest unit.
    let fraction = &fraction[..fraction.len().min(18)];
    let whole: u64 = whole.parse().map_err(|_| TOO_LARGE)?;
    let parts: u128 = fraction.parse().map_err(|_| TOO_LARGE)?;
    let extra = parts * u128::from(unit) / 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(18));
    u64::try_from(u128::from(whole) * u128::from(unit) + extra).map_err(|_| TOO_LARGE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span(text: &str) -> Duration {
        text.parse::<Span>().unwrap().0
    }

    fn size(text: &str) -> u64 {
        text.parse::<Size>().unwrap().0
    }

    #[test]
    fn durations_as_documented() {
        assert_eq!(span("250ms"), Duration::from_millis(250));
        assert_eq!(span("3s"), Duration::from_secs(3));
        assert_eq!(span("2m"), Duration::from_secs(120));
        assert_eq!(span("2min"), span("2m"));
        assert_eq!(span("1.5h"), Duration::from_secs(5400));
        assert_eq!(span(" 7 d "), Duration::from_secs(7 * 86_400));
        assert_eq!(span("0"), Duration::ZERO);
        assert_eq!(span("12us"), span("12µs"));
        assert_eq!(span("0.1s"), Duration::from_millis(100));
        assert_eq!("0".parse::<Span>().unwrap().limit(), None);
        assert_eq!("1ns".parse::<Span>().unwrap().limit(), Some(Duration::from_nanos(1)));
    }

    #[test]
    fn sizes_as_documented() {
        assert_eq!(size("64MiB"), 64 << 20);
        assert_eq!(size("64m"), 64 << 20);
        assert_eq!(size("1.5GiB"), 3 << 29);
        assert_eq!(size("4096"), 4096);
        assert_eq!(size("10 kB"), 10_000);
        assert_eq!(size("16777215TiB"), 16_777_215 << 40);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for text in
            ["", "s", "3", "-3s", "3 parsecs", "1.s", ".5s", "1.2.3s", "99999999999999999999s", "1e3s"]
        {
            let error = text.parse::<Span>().unwrap_err().to_string();
            assert!(error.contains("duration") && error.contains(&format!("{text:?}")), "{error}");
        }
        for text in ["", "MiB", "-1MiB", "1XiB", "16777216TiB", "1..5MiB", "64 Mi B"] {
            let error = text.parse::<Size>().unwrap_err().to_string();
            assert!(error.contains("size") && error.contains(&format!("{text:?}")), "{error}");
        }
        assert!("3".parse::<Span>().unwrap_err().to_string().contains("no unit"));
    }

    proptest! {
        #[test]
        fn what_is_printed_can_be_given_back(nanoseconds: u64, bytes: u64) {
            let duration = Duration::from_nanos(nanoseconds);
            prop_assert_eq!(span(&Span(duration).to_string()), duration);
            prop_assert_eq!(size(&Size(bytes).to_string()), bytes);
        }

        #[test]
        fn round_numbers_keep_their_unit(count in 1_u64..24) {
            prop_assert_eq!(Span(Duration::from_secs(60 * count)).to_string(), format!("{count}m"));
            prop_assert_eq!(Size(count << 20).to_string(), format!("{count}MiB"));
        }

        #[test]
        fn nothing_panics(text: String) {
            let _ = text.parse::<Span>();
            let _ = text.parse::<Size>();
        }
    }
}
