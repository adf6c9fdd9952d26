//! Where things lie when nobody says otherwise.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::error::{Error, Result};

/// In the run directory: the region's file.
pub const REGION: &str = "region";

/// In the run directory: the control socket.
pub const CONTROL_SOCKET: &str = "control.sock";

/// In the run directory: the supervisor's pid, under the kernel lock that ownership is.
pub const PID_FILE: &str = "supervisor.pid";

/// In the run directory: locked, shared, by an instance's supervisor and all its children.
pub const ALIVE: &str = "alive";

/// In the run directory: who is attached, a record a slot, and the locks that they hold on it.
pub const CLIENTS: &str = "clients";

/// In the run directory: locked by who starts an instance on demand, and by an instance that ends because it is idle.
pub const START_LOCK: &str = "start.lock";

/// In the run directory: the directory of blocks.
pub const BLOCKS: &str = "blocks";

/// The run directory without `--run-dir`.
pub fn default_run_dir() -> PathBuf {
    Surroundings::of_this_process().run_dir()
}

/// The spool without `--spool-dir`.
///
/// # Errors
/// Where the environment names no home (exit 2).
pub fn default_spool_dir() -> Result<PathBuf> {
    Surroundings::of_this_process().spool_dir()
}

/// What the defaults depend on.
struct Surroundings {
    uid: u32,
    runtime_dir: Option<OsString>,
    state_home: Option<OsString>,
    home: Option<OsString>,
}

impl Surroundings {
    fn of_this_process() -> Self {
        Self {
            uid: nix::unistd::geteuid().as_raw(),
            runtime_dir: std::env::var_os("XDG_RUNTIME_DIR"),
            state_home: std::env::var_os("XDG_STATE_HOME"),
            home: std::env::var_os("HOME"),
        }
    }

    fn run_dir(self) -> PathBuf {
        if self.uid == 0 {
            return PathBuf::from("/run/holdfast");
        }
        match absolute(self.runtime_dir) {
            Some(runtime) => runtime.join("holdfast"),
            None => PathBuf::from(format!("/dev/shm/holdfast-{}", self.uid)),
        }
    }

    fn spool_dir(self) -> Result<PathBuf> {
        if self.uid == 0 {
            return Ok(PathBuf::from("/var/lib/holdfast"));
        }
        let home = absolute(self.home);
        absolute(self.state_home)
            .or_else(|| Some(home?.join(".local/state")))
            .map(|state| state.join("holdfast"))
            .ok_or_else(|| {
                Error::usage("neither XDG_STATE_HOME nor HOME names a directory; give --spool-dir")
            })
    }
}

/// A directory named by the environment. One that is empty or relative does not count, as the XDG base directory
/// specification has it.
fn absolute(value: Option<OsString>) -> Option<PathBuf> {
    value.map(PathBuf::from).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings(uid: u32, variables: [Option<&str>; 3]) -> Surroundings {
        let [runtime_dir, state_home, home] = variables.map(|value| value.map(OsString::from));
        Surroundings { uid, runtime_dir, state_home, home }
    }

    #[test]
    fn run_directories() {
        let table = [
            (0, Some("/run/user/0"), "/run/holdfast"),
            (7, Some("/run/user/7"), "/run/user/7/holdfast"),
            (7, Some(""), "/dev/shm/holdfast-7"),
            (7, Some("run"), "/dev/shm/holdfast-7"),
            (7, None, "/dev/shm/holdfast-7"),
        ];
        for (uid, runtime, expected) in table {
            assert_eq!(surroundings(uid, [runtime, None, None]).run_dir(), PathBuf::from(expected));
        }
    }

    #[test]
    fn spool_directories() {
        let table = [
            (0, Some("/s"), Some("/h"), Some("/var/lib/holdfast")),
            (7, Some("/s"), Some("/h"), Some("/s/holdfast")),
            (7, Some("s"), Some("/h"), Some("/h/.local/state/holdfast")),
            (7, None, Some("/h"), Some("/h/.local/state/holdfast")),
            (7, None, Some(""), None),
            (7, None, None, None),
        ];
        for (uid, state, home, expected) in table {
            let found = surroundings(uid, [None, state, home]).spool_dir();
            assert_eq!(found.ok(), expected.map(PathBuf::from), "{uid} {state:?} {home:?}");
        }
    }
}
