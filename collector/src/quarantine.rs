//! Files that the server will never take, as it says: put aside as `M.dat.refused` with the reason beside them, and put
//! back by an operator who knows better.

use std::io::{self, Write as _};

use common::ids::Minute;
use common::journal::names::{Kind, data_name, name};
use common::journal::spool::{Entry, Spool};

/// Puts a file aside. False where there is one of that minute already. Can be repeated.
///
/// # Errors
/// What the file system reports.
pub fn refuse(spool: &Spool, minute: Minute, reason: &str) -> io::Result<bool> {
    let (refused, reason_name) = (name(minute, Kind::Refused), name(minute, Kind::Reason));
    if spool.exists(&refused)? {
        return Ok(false);
    }
    // The reason comes first, so that no file is put aside without one; but on a full disk the log alone has it.
    let written = spool.open_or_create_file(&reason_name).and_then(|mut file| {
        file.set_len(0)?;
        writeln!(file, "{}", reason.replace(char::is_control, " "))
    });
    if let Err(error) = written {
        log::warn!("the reason why {refused} was refused cannot be written: {error}");
    }
    let moved = spool.rename(&data_name(minute), &refused)?;
    spool.sync()?;
    Ok(moved)
}

/// Puts back what was put aside, to be tried once more. Gives how many files.
///
/// # Errors
/// What the file system reports.
pub fn replay(spool: &Spool) -> io::Result<u64> {
    let mut count = 0;
    for entry in spool.entries()? {
        let Entry { minute, kind, .. } = entry?;
        if kind != Kind::Refused {
            continue;
        }
        if spool.rename(&name(minute, Kind::Refused), &data_name(minute))? {
            spool.remove(&name(minute, Kind::Reason))?;
            count += 1;
        } else {
            log::warn!("{} stays: there is another file of that minute", name(minute, Kind::Refused));
        }
    }
    spool.sync()?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aside_and_back() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let spool = Spool::open_or_create(directory.path()).unwrap();
        std::fs::write(at("5.dat"), "content").unwrap();
        assert!(refuse(&spool, Minute(5), "422: no\nsense").unwrap());
        assert!(!at("5.dat").exists());
        assert_eq!(std::fs::read_to_string(at("5.dat.refused")).unwrap(), "content");
        assert_eq!(std::fs::read_to_string(at("5.dat.refused.reason")).unwrap(), "422: no sense\n");
        std::fs::write(at("5.dat"), "another").unwrap();
        assert!(!refuse(&spool, Minute(5), "again").unwrap());
        assert_eq!(replay(&spool).unwrap(), 0);
        std::fs::remove_file(at("5.dat")).unwrap();
        assert_eq!(replay(&spool).unwrap(), 1);
        assert_eq!(std::fs::read_to_string(at("5.dat")).unwrap(), "content");
        assert!(!at("5.dat.refused").exists() && !at("5.dat.refused.reason").exists());
    }
}
