//! The program that this supervisor was started as: where the next one is looked for.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use common::error::{Context, Error, Result};

/// What a program's file begins with: compiled, or interpreted by another.
const BEGINNINGS: [&[u8]; 2] = [b"\x7fELF", b"#!"];

/// Where the program is and how it was started.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
}

/// What a file is, so that another one under its name is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Program {
    /// This process's own, by the name that it was started by: what lies there later may be another one.
    ///
    /// # Errors
    /// Where the kernel does not tell what runs here.
    pub fn of_this_process() -> Result<Self> {
        let running = std::env::current_exe().context(|| "cannot find this program's own path".to_owned())?;
        let named = std::env::args_os().next().unwrap_or_default();
        let is_running = |path: &PathBuf| {
            let identities = (Identity::of(path), Identity::of(Path::new("/proc/self/exe")));
            matches!(identities, (Ok(one), Ok(other)) if one == other)
        };
        let path = candidates(&named).into_iter().find(is_running).unwrap_or(running);
        Ok(Self { path })
    }

    /// The one at this path.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Its path; what is there may change.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What lies there now.
    ///
    /// # Errors
    /// Nothing, or what can be no program.
    pub fn identity(&self) -> Result<Identity> {
        let doing = || format!("cannot use {}", self.path.display());
        let identity = Identity::of(&self.path).context(doing)?;
        // Whoever may execute a program need not be allowed to read it.
        match beginning(&self.path) {
            Ok(bytes) if !BEGINNINGS.iter().any(|known| bytes.starts_with(known)) => {
                Err(Error::failure(format!("{}: it is not a program", doing())))
            }
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(error).context(doing),
            _ => Ok(identity),
        }
    }
}

impl Identity {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

fn beginning(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(4).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What a program's name may stand for: a path, or a file in one of the directories where programs are.
fn candidates(named: &OsStr) -> Vec<PathBuf> {
    let path = Path::new(named);
    let places: Vec<PathBuf> = if path.components().count() > 1 || path.has_root() {
        vec![path.to_owned()]
    } else {
        let directories: OsString = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&directories).map(|directory| directory.join(path)).collect()
    };
    places.into_iter().filter_map(|place| std::path::absolute(place).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_directory_is_a_path_and_one_without_is_looked_for() {
        assert_eq!(candidates(OsStr::new("/usr/bin/supervisor")), [Path::new("/usr/bin/supervisor")]);
        let here = std::env::current_dir().unwrap();
        assert_eq!(candidates(OsStr::new("target/supervisor")), [here.join("target/supervisor")]);
        let all = candidates(OsStr::new("supervisor"));
        assert!(all.iter().all(|path| path.ends_with("supervisor")) && !all.is_empty());
    }

    #[test]
    fn another_file_under_the_name_is_noticed_and_a_text_is_no_program() {
        let place = tempfile::tempdir().unwrap();
        let program = Program::at(place.path().join("program"));
        assert!(program.identity().is_err(), "there is none");
        std::fs::write(program.path(), "\x7fELF and so on").unwrap();
        let first = program.identity().unwrap();
        assert_eq!(program.identity().unwrap(), first);
        let next = place.path().join("next");
        std::fs::write(&next, "#!/bin/sh\nexit 0").unwrap();
        std::fs::rename(&next, program.path()).unwrap();
        assert_ne!(program.identity().unwrap(), first);
        for text in ["", "exit 0", "\x7fEL"] {
            std::fs::write(program.path(), text).unwrap();
            assert!(program.identity().unwrap_err().to_string().contains("not a program"), "{text:?}");
        }
    }

    #[test]
    fn this_process_s_own_program_is_found() {
        let program = Program::of_this_process().unwrap();
        assert_eq!(Identity::of(program.path()).unwrap(), Identity::of(Path::new("/proc/self/exe")).unwrap());
    }
}
