//! What becomes of a delivered file: it goes, or where a checkpoint may need it for a restore, it is kept as `M.sent`
//! until both checkpoints cover it.

use std::io::{self, Read as _};

use common::ids::Minute;
use common::journal::names::{Kind, data_name, name};
use common::journal::spool::{Entry, Spool};

/// The directory of checkpoints. Where there is none, nobody needs what is delivered.
const CHECKPOINTS: &str = "checkpoint";

/// One number: every minute before it is covered by both checkpoints.
const COVERED: &str = "checkpoint/covered";

/// Which delivered files are still needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needed {
    /// None.
    None,
    /// Those of this minute and later ones.
    From(Minute),
}

impl Needed {
    /// What the checkpoints in the spool need. Where they do not say, everything.
    ///
    /// # Errors
    /// What stat and reading report.
    pub fn by_checkpoints(spool: &Spool) -> io::Result<Self> {
        if !spool.exists(CHECKPOINTS)? {
            return Ok(Self::None);
        }
        let mut text = String::new();
        match spool.open_file(COVERED) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            file => file?.take(64).read_to_string(&mut text).map(drop)?,
        }
        let covered = text.trim().parse().map(Minute).ok().filter(|minute| minute.is_possible());
        Ok(Self::From(covered.unwrap_or(Minute(0))))
    }

    fn needs(self, minute: Minute) -> bool {
        matches!(self, Self::From(first) if minute >= first)
    }
}

/// Takes a delivered file away. Can be repeated.
///
/// # Errors
/// What the file system reports.
pub fn finish(spool: &Spool, minute: Minute, needed: Needed) -> io::Result<()> {
    // Should a file of another program's have been kept under this name, this one goes: neither is a checkpoint's.
    if needed.needs(minute) && spool.rename(&data_name(minute), &name(minute, Kind::Sent))? {
        return Ok(());
    }
    spool.remove_minute(minute)
}

/// Removes what was kept for checkpoints and is not needed any more.
///
/// # Errors
/// What the file system reports.
pub fn sweep(spool: &Spool, needed: Needed) -> io::Result<()> {
    for entry in spool.entries()? {
        let Entry { minute, kind, .. } = entry?;
        if kind == Kind::Sent && !needed.needs(minute) {
            spool.remove(&name(minute, Kind::Sent))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_checkpoints_need_is_kept_until_they_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let spool = Spool::open_or_create(directory.path()).unwrap();
        let deliver = |minute: u64| {
            std::fs::write(at(&format!("{minute}.dat")), "x").unwrap();
            let needed = Needed::by_checkpoints(&spool).unwrap();
            finish(&spool, Minute(minute), needed).unwrap();
            finish(&spool, Minute(minute), needed).unwrap();
            assert!(!at(&format!("{minute}.dat")).exists());
            at(&format!("{minute}.sent")).exists()
        };
        assert!(!deliver(5), "there are no checkpoints");
        std::fs::create_dir(at("checkpoint")).unwrap();
        assert!(deliver(5) && deliver(6), "nothing is covered");
        std::fs::write(at("checkpoint/covered"), "6\n").unwrap();
        assert!(!deliver(4) && deliver(7));
        sweep(&spool, Needed::by_checkpoints(&spool).unwrap()).unwrap();
        assert!(!at("5.sent").exists() && at("6.sent").exists() && at("7.sent").exists());
        for nonsense in ["", "-1", "x", "18446744073709551615"] {
            std::fs::write(at("checkpoint/covered"), nonsense).unwrap();
            assert_eq!(Needed::by_checkpoints(&spool).unwrap(), Needed::From(Minute(0)));
        }
        std::fs::remove_dir_all(at("checkpoint")).unwrap();
        sweep(&spool, Needed::by_checkpoints(&spool).unwrap()).unwrap();
        assert!(!at("6.sent").exists() && !at("7.sent").exists());
    }
}
