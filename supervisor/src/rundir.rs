//! The run directory and what owning it means: the kernel's lock on `supervisor.pid`. The lock ends with the process,
//! however it ends, so nothing ever needs cleaning up.

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io::{Seek as _, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use common::error::{Context, Error, Result};
use common::layout::GIVES_WAY;
use common::places::{CLIENTS, PID_FILE, START_LOCK};
use common::region::{self, Region, UnverifiedRegion};
use common::sys::file::{self, Lock};
use serde::{Deserialize, Serialize};

use crate::recoverer::Recoverer;
use crate::upgrade::luggage::{Arrived, Luggage, Packed};

/// How long the children of a dead instance may take to be gone. They die with it, so this is the kernel's time only; but where
/// everything competes for the processors, ten seconds have not been enough.
const CHILDREN_GONE: Duration = Duration::from_secs(30);

/// Whoever only looks whether there is an owner is gone long before.
const LOOKERS_GONE: Duration = Duration::from_secs(1);

/// An owned run directory.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    directory: File,
    pid_file: File,
    /// Inherited by every child under one shared lock: it is free again when the last of them is gone.
    pub alive: File,
}

/// The same as it is handed to a successor in this process: the locks are those of the open files.
#[derive(Debug, Serialize, Deserialize)]
pub struct PackedRunDir {
    path: OsString,
    directory: Packed,
    pid_file: Packed,
    alive: Packed,
}

impl PackedRunDir {
    /// The run directory, still owned.
    ///
    /// # Errors
    /// A file that has not come along.
    pub fn unpack(self, arrived: &mut Arrived) -> Result<RunDir> {
        let mut file = |packed| arrived.take(packed).map(File::from);
        let (directory, pid_file, alive) = (file(self.directory)?, file(self.pid_file)?, file(self.alive)?);
        Ok(RunDir { path: self.path.into(), directory, pid_file, alive })
    }
}

/// A region and the file it is mapped from.
#[derive(Debug)]
pub struct RegionFile {
    /// The file, readable and writable.
    pub file: File,
    /// The mapped region, whose slots nobody has looked at yet.
    pub unverified: UnverifiedRegion,
}

/// What a region's file is good for.
enum Existing {
    Usable(RegionFile),
    /// It must not be served from; why.
    Lost(&'static str),
}

const REGION: &str = "region";
const NEXT: &str = "region.next";

impl RunDir {
    /// For a successor.
    pub fn pack<'a>(&'a self, luggage: &mut Luggage<'a>) -> PackedRunDir {
        let Self { path, directory, pid_file, alive } = self;
        let [directory, pid_file, alive] = [directory, pid_file, alive].map(|file| luggage.pack(file));
        PackedRunDir { path: path.clone().into_os_string(), directory, pid_file, alive }
    }

    /// Takes the directory, creating it if need be.
    ///
    /// # Errors
    /// A link, a foreign owner or a directory that others may write to (exit 2); another instance (exit 3).
    pub fn take(path: &Path) -> Result<Self> {
        let directory = open_own_directory(path)?;
        let pid_file = open_own_file(&directory, PID_FILE)?;
        if !become_owner(&pid_file).context(|| "cannot lock supervisor.pid".to_owned())? {
            let (path, owner) = (path.display(), owner_of(path));
            return Err(Error::already_running(format!("another instance (pid {owner}) owns {path}")));
        }
        let alive = open_own_file(&directory, "alive")?;
        let gone = file::wait_for(CHILDREN_GONE, || file::try_lock(&alive, Lock::Exclusive))
            .context(|| "cannot lock RUN/alive".to_owned())?;
        if !gone || !file::try_lock(&alive, Lock::Shared).context(|| "cannot lock RUN/alive".to_owned())? {
            let path = path.display();
            return Err(Error::already_running(format!("children of a former instance still use {path}")));
        }
        let mut this = Self { path: path.to_owned(), directory, pid_file, alive };
        this.write_pid(&format!("{}\n", std::process::id()))?;
        Ok(this)
    }

    /// Warns where the directory is on a disk.
    pub fn look_where_it_is(&self) {
        if !file::is_in_memory(&self.directory).unwrap_or(true) {
            log::warn!(
                "{} is not in memory (tmpfs): the region's pages will be written to a disk",
                self.path.display()
            );
        }
    }

    /// The path of a file in the directory, short enough for a socket's address however long the directory's is.
    pub fn short_path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.directory.as_raw_fd()))
    }

    /// The file whose lock is held by whoever starts an instance on demand, and by one that ends because it is idle.
    ///
    /// # Errors
    /// What open reports.
    pub fn start_lock(&self) -> Result<File> {
        open_own_file(&self.directory, START_LOCK)
    }

    /// The file that says who is attached.
    ///
    /// # Errors
    /// What open reports.
    pub fn clients(&self) -> Result<File> {
        open_own_file(&self.directory, CLIENTS)
    }

    /// Lets others reach what is in the directory, if they are to, as far as its own mode allows it. They cannot see what
    /// is there. A directory that lets them already stays as it is.
    ///
    /// # Errors
    /// What chmod reports.
    pub fn let_through(&self, others: bool) -> Result<()> {
        let doing = || format!("cannot let others reach {}/control.sock", self.path.display());
        let mode = self.directory.metadata().context(doing)?.mode() & 0o7777;
        if others && mode & 0o011 != 0o011 {
            self.directory.set_permissions(Permissions::from_mode(mode | 0o011)).context(doing)?;
        }
        Ok(())
    }

    /// Removes a file of the directory if it is there.
    ///
    /// # Errors
    /// What unlink reports.
    pub fn remove(&self, name: &str) -> Result<()> {
        match std::fs::remove_file(self.short_path(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
        .context(|| format!("cannot remove {}", self.path.join(name).display()))
    }

    /// Opens the region, or creates an empty one of `length` bytes where there is none. One of another length that was
    /// stopped cleanly gives way to one of this length, into which the recovery program carries everything. Where there is
    /// none and the spool has checkpoints, and where there is one that must not be served from, the newest checkpoint is
    /// gone back to.
    ///
    /// # Errors
    /// A region that is refused, no checkpoint to go back to (exit 4); no space for a fresh one; one that is too small for
    /// what is to be carried (exit 2).
    pub fn region(&self, length: u64, recoverer: &Recoverer<'_>) -> Result<RegionFile> {
        let path = self.path.join(REGION);
        // Whoever was making it is gone.
        self.remove(NEXT)?;
        match open_region(&path) {
            Ok(file) => match self.existing_region(file, &path, length, recoverer)? {
                Existing::Usable(region) => Ok(region),
                Existing::Lost(why) => {
                    let gone_back = self.go_back(length, recoverer);
                    gone_back.map_err(|error| error.after(&format!("{}: {why}", path.display())))
                }
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if !recoverer.has_checkpoints()? {
                    return self.make_region(|file| Region::begin(file, length).map(drop));
                }
                log::warn!("there is no region, and the spool has checkpoints");
                self.go_back(length, recoverer)
            }
            Err(error) => Err(Error::region(format!("cannot open {}: {error}", path.display()))),
        }
    }

    /// The newest checkpoint that can be used becomes the region.
    fn go_back(&self, length: u64, recoverer: &Recoverer<'_>) -> Result<RegionFile> {
        let path = self.path.join(REGION);
        let next = self.prepare_restoring()?;
        recoverer.rebuild(&next, length).inspect_err(|_| drop(self.remove(NEXT)))?;
        let restored = self.adopt_restored()?;
        match self.existing_region(restored.file, &path, length, recoverer)? {
            Existing::Usable(region) => Ok(region),
            Existing::Lost(why) => Err(Error::region(format!("{}: {why}", path.display()))),
        }
    }

    /// An empty file, which a restored region is to be made of.
    ///
    /// # Errors
    /// What unlink and open report.
    pub fn prepare_restoring(&self) -> Result<File> {
        self.create_next()
    }

    /// The restored region takes the place of the former one, which is kept for inspection.
    ///
    /// # Errors
    /// What rename and open report; a region that is refused.
    pub fn adopt_restored(&self) -> Result<RegionFile> {
        let (next, path) = (self.path.join(NEXT), self.path.join(REGION));
        let moving = || format!("cannot put a restored region in the place of {}", path.display());
        if let Some(aside) = file::set_aside(&path).context(moving)? {
            log::warn!("the former region is kept for inspection as {}", aside.display());
        }
        std::fs::rename(&next, &path).context(moving)?;
        let file = open_region(&path).context(moving)?;
        let unverified = UnverifiedRegion::open(&file)?;
        let history = &unverified.contents().header().history;
        let [number, replayed] = [&history.number, &history.replayed].map(|word| word.load(SeqCst));
        log::warn!(
            "the region was restored from checkpoint {number}, and {replayed} messages of the journal were counted on \
             top of it; maps and other objects are as they were then"
        );
        Ok(RegionFile { file, unverified })
    }

    fn existing_region(
        &self,
        file: File,
        path: &Path,
        length: u64,
        recoverer: &Recoverer<'_>,
    ) -> Result<Existing> {
        let named = |error: Error| Error::region(format!("{}: {error}", path.display()));
        let unverified = UnverifiedRegion::open(&file).map_err(named)?;
        let contents = unverified.contents();
        if !matches!(contents.header().supervision.damaged.load(SeqCst), 0 | GIVES_WAY) {
            return Ok(Existing::Lost("the region is damaged: a slot could not be repaired"));
        }
        if unverified.lost_power()? {
            return Ok(Existing::Lost("the region was in use when the machine went down"));
        }
        let has = contents.geometry().length;
        if contents.is_incomplete() {
            // Whoever was making it has died. Nobody kept anything in it, but somebody may have written that word.
            region::reserve_all(&file, has)?;
            contents.complete();
        }
        if has == length {
            return Ok(Existing::Usable(RegionFile { file, unverified }));
        }
        if !contents.is_clean() {
            log::warn!(
                "the region keeps its {has} bytes until a clean stop; --region-size asks for {length}"
            );
            return Ok(Existing::Usable(RegionFile { file, unverified }));
        }
        let made = self.make_region(|next| {
            Region::create(next, length)?;
            recoverer.carry(&file, path, next, has.max(length))?;
            contents.give_way();
            Ok(())
        })?;
        log::info!("the region of {has} bytes has given way to one of {length}; everything in it went along");
        Ok(Existing::Usable(made))
    }

    /// Makes a region under another name first: one that is not whole is never found.
    fn make_region(&self, make: impl FnOnce(&File) -> Result<()>) -> Result<RegionFile> {
        let (next, path) = (self.path.join(NEXT), self.path.join(REGION));
        let file = self.create_next()?;
        make(&file).inspect_err(|_| drop(self.remove(NEXT)))?;
        std::fs::rename(&next, &path).context(|| format!("cannot create {}", path.display()))?;
        Ok(RegionFile { unverified: UnverifiedRegion::open(&file)?, file })
    }

    /// The file of a region that is being made, empty.
    fn create_next(&self) -> Result<File> {
        self.remove(NEXT)?;
        let next = self.path.join(NEXT);
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&next);
        file.context(|| format!("cannot create {}", next.display()))
    }

    /// Takes away a region that could not be given its space: nobody has kept anything in it.
    pub fn remove_region(&self) {
        drop(self.remove(REGION));
    }

    /// Gives the directory back. The files stay: their locks are what counts.
    pub fn release(mut self) {
        let _ = self.write_pid("");
    }

    fn write_pid(&mut self, text: &str) -> Result<()> {
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(text.as_bytes())
        };
        write(&mut self.pid_file).context(|| "cannot write supervisor.pid".to_owned())
    }
}

fn open_region(path: &Path) -> std::io::Result<File> {
    File::options().read(true).write(true).custom_flags(nix::libc::O_NOFOLLOW).open(path)
}

/// Opens a run directory, creating it if need be.
///
/// # Errors
/// A link, a foreign owner or a directory that others may write to (exit 2).
pub(crate) fn open_own_directory(path: &Path) -> Result<File> {
    // Without a slash at its end, behind which a link would be followed.
    let path: &Path = &path.components().collect::<PathBuf>();
    let unusable = |why: &dyn std::fmt::Display| {
        Error::usage(format!(
            "cannot use {} as run directory: {why}; choose another --run-dir",
            path.display()
        ))
    };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| unusable(&error))?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(unusable(&error)),
        _ => {}
    }
    let directory = file::open_directory(path).map_err(|error| match error.raw_os_error() {
        Some(nix::libc::ELOOP | nix::libc::ENOTDIR) => unusable(&"it is a symbolic link or not a directory"),
        _ => unusable(&error),
    })?;
    let metadata = directory.metadata().map_err(|error| unusable(&error))?;
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Err(unusable(&format!("it belongs to uid {}", metadata.uid())));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(unusable(&"others may write to it"));
    }
    Ok(directory)
}

/// Takes the lock that owning is. One who only looks has it too for a moment, but together with others, as no owner has it.
fn become_owner(pid_file: &File) -> std::io::Result<bool> {
    let deadline = Instant::now() + LOOKERS_GONE;
    loop {
        if file::try_lock(pid_file, Lock::Exclusive)? {
            return Ok(true);
        }
        if !file::try_lock(pid_file, Lock::Shared)? || Instant::now() > deadline {
            return Ok(false);
        }
        file::unlock(pid_file)?;
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether an instance owns the run directory, also one that has only begun, or is about to end.
///
/// # Errors
/// What open and flock report.
pub(crate) fn is_owned(directory: &File) -> Result<bool> {
    let pid_file = open_own_file(directory, PID_FILE)?;
    let free = file::try_lock(&pid_file, Lock::Shared).context(|| format!("cannot lock {PID_FILE}"))?;
    Ok(!free)
}

/// The owner's pid, for people; nothing where it cannot be read.
pub(crate) fn owner_of(path: &Path) -> String {
    std::fs::read_to_string(path.join(PID_FILE)).unwrap_or_default().trim().to_owned()
}

fn open_own_file(directory: &File, name: &str) -> Result<File> {
    file::open_in(directory, name).context(|| format!("cannot open {name} in the run directory"))
}
