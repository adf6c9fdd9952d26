//! `--pid-file`: for init scripts and people. What owning an instance means is the run directory's lock; this file is
//! a note of who has it.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use common::error::{Context, Error, Result};

/// A file with this process's pid. It goes when this is dropped; one that a killed process left is overwritten.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    text: String,
}

impl PidFile {
    /// Writes it.
    ///
    /// # Errors
    /// A path that cannot be written, or where something else lies than a file (exit 1).
    pub fn write(path: &Path) -> Result<Self> {
        let writing = || format!("cannot write the pid file {}", path.display());
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(flags)
            .open(path)
            .context(writing)?;
        if !file.metadata().context(writing)?.is_file() {
            return Err(Error::failure(format!("{}: it is not a file", writing())));
        }
        let this = Self::of_a_predecessor(path);
        file.set_permissions(PermissionsExt::from_mode(0o644)).context(writing)?;
        // In this order whoever reads meanwhile finds a number, and not nothing.
        file.write_all_at(this.text.as_bytes(), 0).context(writing)?;
        file.set_len(this.text.len() as u64).context(writing)?;
        Ok(this)
    }

    /// The one that a predecessor in this process has written.
    pub fn of_a_predecessor(path: &Path) -> Self {
        Self { path: path.to_owned(), text: format!("{}\n", std::process::id()) }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Somebody may have put another one there.
        if std::fs::read_to_string(&self.path).is_ok_and(|text| text == self.text) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
