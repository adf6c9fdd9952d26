//! What the files of a spool are called.

use crate::ids::Minute;

/// What a file of the spool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `M.dat`: records.
    Data,
    /// `M.dat.lock`: somebody may still write to `M.dat`.
    Lock,
    /// `M.dat.refused`: records that the server will never take.
    Refused,
    /// `M.dat.refused.reason`: why.
    Reason,
    /// `M.sent`: delivered, and kept for a checkpoint.
    Sent,
}

/// Each kind by what follows the minute's number. No one is another's end.
const SUFFIXES: [(Kind, &str); 5] = [
    (Kind::Data, ".dat"),
    (Kind::Lock, ".dat.lock"),
    (Kind::Refused, ".dat.refused"),
    (Kind::Reason, ".dat.refused.reason"),
    (Kind::Sent, ".sent"),
];

/// The name of a minute's file of a kind.
pub fn name(minute: Minute, kind: Kind) -> String {
    let suffix = SUFFIXES.iter().find(|(other, _)| *other == kind).map_or("", |(_, suffix)| suffix);
    format!("{minute}{suffix}")
}

/// `M.dat`.
pub fn data_name(minute: Minute) -> String {
    name(minute, Kind::Data)
}

/// `M.dat.lock`.
pub fn lock_name(minute: Minute) -> String {
    name(minute, Kind::Lock)
}

/// `M.sent`.
pub fn shipped_name(minute: Minute) -> String {
    name(minute, Kind::Sent)
}

/// What a name says. Names that are written otherwise are not ours.
pub fn read(name: &str) -> Option<(Minute, Kind)> {
    let digits = name.find('.').map_or(name, |dot| &name[..dot]);
    let (kind, _) = SUFFIXES.iter().find(|(_, suffix)| &name[digits.len()..] == *suffix)?;
    let minute = Minute(digits.parse().ok()?);
    // No sign, no leading zero, nothing so large that arithmetic on it could overflow.
    (minute.to_string() == digits && minute.is_possible()).then_some((minute, *kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_back() {
        for (kind, suffix) in SUFFIXES {
            let written = name(Minute(26_593_136), kind);
            assert_eq!(written, format!("26593136{suffix}"));
            assert_eq!(read(&written), Some((Minute(26_593_136), kind)));
        }
    }

    #[test]
    fn other_names_are_foreign() {
        for foreign in [
            "x.dat",
            ".dat",
            "007.dat",
            "+7.dat",
            "7.dat.sent",
            "7.data",
            "7",
            "7.",
            "",
            "7.dat.",
            "7.sent.dat",
            "99999999999999999999.dat",
        ] {
            assert_eq!(read(foreign), None, "{foreign}");
        }
    }
}
