//! Whether a minute's file may still be written to.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::ids::Minute;
use common::journal::spool::{Spool, Writers, data_name, lock_name};
use common::sys::file::{self, Lock};

/// Another program's lock is respected until its file has not changed for so long after the minute's end.
const SETTLED: Duration = Duration::from_secs(10);

/// What a minute's lock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is none: the file is finished.
    Finished,
    /// Somebody may write, or somebody else will see to it.
    Held,
    /// Another program's, which has forgotten it.
    Stale,
}

/// Looks at a minute's lock.
///
/// # Errors
/// What the file system reports.
pub fn standing(spool: &Spool, minute: Minute, now: SystemTime) -> io::Result<Standing> {
    let lock = match spool.open_file(&lock_name(minute)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Standing::Finished),
        lock => lock?,
    };
    if whose(spool, minute)?.is_some() {
        return Ok(Standing::Held);
    }
    let end = UNIX_EPOCH + Duration::from_secs(minute.next().0.saturating_mul(60));
    let changed = match spool.open_file(&data_name(minute)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => lock.metadata()?,
        data => data?.metadata()?,
    };
    let changed = changed.modified()?;
    // Whoever sets the clock far back leaves files of the future, which are as good as any.
    let settled = |since: SystemTime| now.duration_since(since).is_ok_and(|age| age >= SETTLED);
    if !settled(end) || !settled(changed) || lock.metadata()?.nlink() == 0 {
        return Ok(Standing::Held);
    }
    Ok(if file::try_lock(&lock, Lock::Exclusive)? { Standing::Stale } else { Standing::Held })
}

/// Whose lock a minute's is, if it is a link to one of the spool's own.
///
/// # Errors
/// What stat reports.
pub fn whose(spool: &Spool, minute: Minute) -> io::Result<Option<Writers>> {
    for writers in [Writers::Instance, Writers::Device] {
        if spool.seen_as(writers)?.lock_is_ours(minute)? {
            return Ok(Some(writers));
        }
    }
    Ok(None)
}

/// Takes a forgotten lock away, with a warning.
///
/// # Errors
/// What unlink reports.
pub fn reclaim(spool: &Spool, minute: Minute) -> io::Result<()> {
    log::warn!(
        "{} has been left behind: nobody holds it, and its file has not changed since its minute's end; it is removed",
        lock_name(minute)
    );
    spool.remove_lock(minute)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scene {
        directory: tempfile::TempDir,
        spool: Spool,
    }

    impl Scene {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let spool = Spool::open_or_create(directory.path()).unwrap();
            Self { directory, spool }
        }

        fn foreign(&self, minute: Minute) {
            std::fs::write(self.directory.path().join(data_name(minute)), "data\n").unwrap();
            std::fs::write(self.directory.path().join(lock_name(minute)), "").unwrap();
        }

        fn at(&self, minute: Minute, now: SystemTime) -> Standing {
            standing(&self.spool, minute, now).unwrap()
        }
    }

    #[test]
    fn another_programs_lock_is_respected_for_its_time() {
        let scene = Scene::new();
        let now = SystemTime::now();
        let minute = Minute::now();
        let end = UNIX_EPOCH + Duration::from_secs(minute.next().0 * 60);
        assert_eq!(scene.at(minute, now), Standing::Finished);
        scene.foreign(minute);
        assert_eq!(scene.at(minute, now), Standing::Held);
        assert_eq!(scene.at(minute, end + SETTLED - Duration::from_millis(1)), Standing::Held);
        assert_eq!(scene.at(minute, end + SETTLED), Standing::Stale);
        let old = Minute(minute.0 - 100);
        scene.foreign(old);
        assert_eq!(scene.at(old, now), Standing::Held, "it was just written to");
        assert_eq!(scene.at(old, now + SETTLED * 2), Standing::Stale);
        reclaim(&scene.spool, old).unwrap();
        assert_eq!(scene.at(old, now), Standing::Finished);
    }

    #[test]
    fn a_lock_that_the_kernel_holds_is_never_stale() {
        let scene = Scene::new();
        scene.foreign(Minute(7));
        let held = scene.spool.open_file(&lock_name(Minute(7))).unwrap();
        assert!(file::try_lock(&held, Lock::Shared).unwrap());
        let later = SystemTime::now() + SETTLED * 2;
        assert_eq!(scene.at(Minute(7), later), Standing::Held);
        drop(held);
        assert_eq!(scene.at(Minute(7), later), Standing::Stale);
    }

    #[test]
    fn the_spools_own_locks_are_left_to_their_writers() {
        let later = SystemTime::now() + SETTLED * 2;
        for writers in [Writers::Instance, Writers::Device] {
            let scene = Scene::new();
            let own = scene.spool.seen_as(writers).unwrap();
            drop(own.take_alone("taken").unwrap());
            own.create_minute(Minute(7)).unwrap();
            assert_eq!(scene.at(Minute(7), later), Standing::Held);
            assert_eq!(whose(&scene.spool, Minute(7)).unwrap(), Some(writers));
        }
    }
}
