//! What only the superuser can arrange: limits of a control group, small file systems. A test that needs it and cannot
//! have it says why and passes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Whether this is the superuser.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Says why a test is not made here.
pub fn skip(test: &str, why: &str) {
    eprintln!("skipped: {test}: {why}");
}

/// A TCP port of loopback that nobody listens on at this moment.
///
/// # Panics
/// Where there is none.
pub fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    socket.local_addr().expect("it has an address").port()
}

/// Raises this process's soft limit of open files to the hard one.
///
/// # Panics
/// Where there are less than `needed`.
pub fn allow_descriptors(needed: u64) {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("limits can be read");
    assert!(most >= needed, "only {most} open files are allowed, {needed} are needed");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("the soft limit can be raised");
}

/// Runs `body` in a thread of its own whose mounts nobody else sees; they go with its last process.
///
/// # Errors
/// Why that is not possible here.
///
/// # Panics
/// Where `body` does.
pub fn with_private_mounts(body: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).map_err(|error| format!("cannot unshare mounts: {error}"))?;
        let none = None::<&Path>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .map_err(|error| format!("cannot make mounts private: {error}"))?;
        body();
        Ok(())
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A mounted file system. Dropped before the directory that it is in, so that nothing is left of that.
#[derive(Debug)]
#[must_use]
pub struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Mounts a file system of `size` bytes in memory at `path`, in the namespace of the calling thread.
///
/// # Panics
/// Where that is not possible.
pub fn mount_small(path: &Path, size: u64) -> Mounted {
    fs::create_dir_all(path).expect("a mount point can be made");
    let options = format!("size={size},mode=0700");
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
        .unwrap_or_else(|error| panic!("cannot mount at {}: {error}", path.display()));
    Mounted(path.to_owned())
}

/// A control group with a limit of processes. Removed when dropped, once it is empty.
#[derive(Debug)]
pub struct PidsLimit {
    path: PathBuf,
}

impl PidsLimit {
    /// A group that may have so many processes.
    ///
    /// # Errors
    /// Why there can be none here.
    pub fn new(most: u32) -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !is_root() {
            return Err("not the superuser".to_owned());
        }
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let path = own_group()?.join(format!("holdfast-test-{}-{number}", std::process::id()));
        fs::create_dir(&path).map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        let this = Self { path };
        fs::write(this.path.join("pids.max"), most.to_string())
            .map_err(|error| format!("cannot limit {}: {error}", this.path.display()))?;
        Ok(this)
    }

    /// Changes the limit.
    ///
    /// # Panics
    /// Where the kernel refuses.
    pub fn set(&self, most: u32) {
        fs::write(self.path.join("pids.max"), most.to_string()).expect("the limit can be changed");
    }

    /// A shell's command that moves the shell into the group.
    pub fn enter(&self) -> String {
        format!("echo $$ > '{}'", self.path.join("cgroup.procs").display())
    }

    /// Processes in the group.
    pub fn count(&self) -> usize {
        fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default().lines().count()
    }
}

impl Drop for PidsLimit {
    fn drop(&mut self) {
        // The kernel lets go of a process a moment after its parent knows of its death.
        let _ =
            crate::within(crate::DEADLINE, || fs::remove_dir(&self.path).map_err(|error| error.to_string()));
    }
}

/// The directory of this process's group in the hierarchy that counts processes, of either version.
fn own_group() -> Result<PathBuf, String> {
    let groups = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
    let of_version_1 = groups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|controller| controller == "pids").then(|| path.trim_start_matches('/'))
    });
    if let Some(path) = of_version_1 {
        return Ok(Path::new("/sys/fs/cgroup/pids").join(path));
    }
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/")).ok_or("no control groups")?;
    let group = Path::new("/sys/fs/cgroup").join(path);
    // A group with processes cannot hand controllers down; its parent may have done so, which makes us a sibling.
    let above = group.parent().filter(|_| !path.is_empty()).unwrap_or(&group).to_owned();
    for candidate in [group, above] {
        let controllers = fs::read_to_string(candidate.join("cgroup.subtree_control")).unwrap_or_default();
        if controllers.split_whitespace().any(|controller| controller == "pids")
            || fs::write(candidate.join("cgroup.subtree_control"), "+pids").is_ok()
        {
            return Ok(candidate);
        }
    }
    Err("the pids controller cannot be had".to_owned())
}
