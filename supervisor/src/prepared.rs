//! What the options come to, found out before anything is begun: whatever cannot work is said here, and
//! `--check-config` stops here.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use common::address::Address;
use common::error::{Context, Error, Result};
use common::journal::spool::Spool;
use common::sys::privileges::Identity;
use nix::unistd::{AccessFlags, access};

use crate::access::AccessPolicy;
use crate::children::{check_program, find_program};
use crate::cli::Options;

/// Where in the spool the checkpoints are.
pub(crate) const CHECKPOINTS: &str = "checkpoint";

/// What an instance is made of.
#[derive(Debug)]
pub struct Prepared {
    /// Bytes of the region.
    pub length: u64,
    /// Where to listen.
    pub listen: Vec<Address>,
    /// The worker program.
    pub worker: PathBuf,
    /// The recovery program.
    pub recovery: PathBuf,
    /// The collector program, where the journal is to be shipped.
    pub collector: Option<PathBuf>,
    /// The exporter program, where the instance shows itself.
    pub exporter: Option<PathBuf>,
    /// The spool directory.
    pub spool_dir: PathBuf,
    /// Whom everything but the supervisor runs as, where that is somebody else.
    pub identity: Option<Identity>,
    /// Whom the exporter runs as, where that is somebody else.
    pub exporter_identity: Option<Identity>,
}

impl Prepared {
    /// Finds it all out.
    ///
    /// # Errors
    /// Options that cannot be used together with this machine (exit 2).
    pub fn of(options: &Options) -> Result<Self> {
        let find = |named: &Option<PathBuf>, name| match named {
            Some(path) => check_program(path).map(|()| path.clone()),
            None => find_program(name),
        };
        let identity = Identity::find(options.user.as_deref(), options.group.as_deref())?;
        let exporter_identity = match &options.metrics_user {
            Some(user) => Identity::find_for("--metrics-user", Some(user), None)?,
            None => identity.clone(),
        };
        let prepared = Self {
            length: options.region_length()?,
            listen: options.listen()?,
            worker: find(&options.worker_program, "worker")?,
            recovery: find(&options.recovery_program, "recovery")?,
            collector: options.seal_interval()?.map(|_| find_program("data_collector")).transpose()?,
            exporter: options.metrics_listen.first().map(|_| find_program("exporter")).transpose()?,
            spool_dir: std::path::absolute(options.spool_dir()?)
                .context(|| "cannot find the spool".to_owned())?,
            identity,
            exporter_identity,
        };
        let may_run = |identity, program| {
            check_as(identity, program, "run", || Ok(access(program, AccessFlags::X_OK)?))
        };
        for program in [&prepared.worker, &prepared.recovery].into_iter().chain(&prepared.collector) {
            may_run(prepared.identity.as_ref(), program)?;
        }
        if let Some(program) = &prepared.exporter {
            may_run(prepared.exporter_identity.as_ref(), program)?;
        }
        let listen = prepared.listen.iter().chain(&options.metrics_listen).chain(&options.control_listen);
        let mut descriptors = HashSet::new();
        if let Some(twice) = listen.filter_map(Address::descriptor).find(|fd| !descriptors.insert(*fd)) {
            return Err(Error::usage(format!("fd:{twice} is named twice; name each descriptor once")));
        }
        prepared.check_users(options)?;
        AccessPolicy::read(options.policy.as_deref())?;
        Ok(prepared)
    }

    /// The same for what a reload may have changed.
    ///
    /// # Errors
    /// A file that the children's user cannot use (exit 2).
    pub fn check_again(&self, options: &Options) -> Result<()> {
        self.check_users(options)?;
        match (&options.access_log, &self.identity) {
            (Some(path), Some(_)) => self.open_log(path).map(drop),
            _ => Ok(()),
        }
    }

    fn check_users(&self, options: &Options) -> Result<()> {
        let Some(users) = &options.users else { return Ok(()) };
        self.check_for_children(users, "read", || open_at_once(users).map(drop))
    }

    /// Whether the files that an instance would write can be: the rest of `--check-config`. Nothing is created.
    ///
    /// # Errors
    /// The first that cannot (exit 2).
    pub fn check_files(&self, options: &Options) -> Result<()> {
        if let Some(users) = &options.users {
            open_at_once(users).and_then(|file| only_a_file(&file)).map_err(|error| {
                Error::usage(format!(
                    "cannot read the users file {}: {error}; check --users",
                    users.display()
                ))
            })?;
        }
        for file in [&options.log, &options.access_log, &options.pid_file].into_iter().flatten() {
            let place = if file.exists() { file } else { file.parent().unwrap_or(Path::new("/")) };
            access(place, AccessFlags::W_OK)
                .map_err(|error| Error::usage(format!("cannot write {}: {error}", file.display())))?;
        }
        if let Ok(spool) = std::fs::metadata(&self.spool_dir) {
            if !spool.is_dir() {
                return Err(Error::usage(format!(
                    "cannot use {} as the spool: it is not a directory; choose another --spool-dir",
                    self.spool_dir.display()
                )));
            }
            if !is_fresh(&self.spool_dir, &spool) {
                self.check_for_children(&self.spool_dir, "write to", || {
                    let all = AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK;
                    Ok(access(&self.spool_dir, all)?)
                })?;
            }
        }
        Ok(())
    }

    /// Whether the children's user may do what they will have to do with `path`.
    fn check_for_children(
        &self,
        path: &Path,
        what: &str,
        deed: impl FnOnce() -> io::Result<()>,
    ) -> Result<()> {
        check_as(self.identity.as_ref(), path, what, deed)
    }

    /// Opens the spool, creating it for the children's user if need be, and takes it for this instance.
    ///
    /// # Errors
    /// What that user cannot use (exit 2); another instance (exit 3).
    pub fn spool(&self) -> Result<(Spool, File)> {
        let path = &self.spool_dir;
        // What a start that was killed here leaves behind is as good as new.
        let fresh = std::fs::metadata(path).map_or(true, |metadata| is_fresh(path, &metadata));
        let spool = Spool::open_or_create(path)?;
        if fresh {
            self.give_away(spool.directory(), path)?;
        }
        let writers = spool.take()?;
        let named = path.join(".writers");
        if writers.metadata().is_ok_and(|metadata| is_new_and_ours(&metadata)) {
            self.give_away(&writers, &named)?;
        }
        if let Some(identity) = &self.identity {
            identity.attempt(|| use_spool(&spool)).map_err(|error| {
                let (user, path) = (identity.name(), path.display());
                let (uid, gid) = (identity.uid(), identity.gid());
                Error::usage(format!(
                    "the user {user} cannot use the spool {path}: {error}; what is in it was another user's: chown -R {uid}:{gid} {path}"
                ))
            })?;
        }
        spool.check_reserving(path)?;
        Ok((spool, writers))
    }

    /// Opens a log for appending, so that the children can open it too: a new one is theirs.
    ///
    /// # Errors
    /// One that cannot be opened, by this process (exit 1) or by the children's user (exit 2).
    pub fn open_log(&self, path: &Path) -> Result<File> {
        let opening = || format!("cannot log to {}", path.display());
        let mut how = OpenOptions::new();
        how.append(true).create(true).mode(0o640);
        if self.identity.is_none() {
            return how.open(path).context(opening);
        }
        // Where that user may write to the directory, a link could lead this process to any file of the superuser's.
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
        let file = how.custom_flags(flags).open(path).context(opening)?;
        if file.metadata().is_ok_and(|metadata| is_new_and_ours(&metadata)) {
            self.give_away(&file, path)?;
        }
        let again = || OpenOptions::new().append(true).custom_flags(flags).open(path).map(drop);
        self.check_for_children(path, "write", again)?;
        Ok(file)
    }

    fn give_away(&self, file: &File, path: &Path) -> Result<()> {
        let Some(identity) = &self.identity else { return Ok(()) };
        std::os::unix::fs::fchown(file, Some(identity.uid()), Some(identity.gid()))
            .context(|| format!("cannot give {} to the user {}", path.display(), identity.name()))
    }
}

/// Whether this user may do what it will have to do with `path`.
fn check_as(
    identity: Option<&Identity>,
    path: &Path,
    what: &str,
    deed: impl FnOnce() -> io::Result<()>,
) -> Result<()> {
    let Some(identity) = identity else { return Ok(()) };
    identity.attempt(deed).map_err(|error| {
        let (user, path) = (identity.name(), path.display());
        Error::usage(format!(
            "the user {user} cannot {what} {path}: {error}; see to its owner and mode, and to those of the \
             directories above it"
        ))
    })
}

/// An empty directory that nobody but this user may enter.
fn is_fresh(path: &Path, metadata: &std::fs::Metadata) -> bool {
    let ours = metadata.uid() == nix::unistd::geteuid().as_raw() && metadata.mode() & 0o777 == 0o700;
    ours && std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// A file that this user has just created: nothing is in it that could be given away.
fn is_new_and_ours(metadata: &std::fs::Metadata) -> bool {
    metadata.is_file()
        && metadata.len() == 0
        && metadata.nlink() == 1
        && metadata.uid() == nix::unistd::geteuid().as_raw()
}

/// Opens for reading without waiting, also where it is a pipe that nobody writes to.
fn open_at_once(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)
}

fn only_a_file(file: &File) -> io::Result<()> {
    if file.metadata()?.is_file() { Ok(()) } else { Err(io::Error::other("it is not a file of names")) }
}

/// What recovery does with the checkpoints, as far as it changes nothing.
fn use_checkpoints(directory: &str, all: AccessFlags) -> io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    access(directory, all)?;
    for entry in entries {
        open_at_once(&entry?.path())?;
    }
    Ok(())
}

/// What workers and recovery do in the spool, as far as it changes nothing.
fn use_spool(spool: &Spool) -> io::Result<()> {
    let directory = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(spool.directory()));
    let all = AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK;
    access(directory.as_str(), all)?;
    spool.check_writers()?;
    spool.read_sealed()?;
    for file in spool.minutes()?.iter().filter(|file| file.locked) {
        spool.open_minute(file.minute)?;
    }
    use_checkpoints(&format!("{directory}/{CHECKPOINTS}"), all)
}
