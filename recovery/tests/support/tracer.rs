//! A process that is stopped before and after each of its system calls.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::disk::Synced;

/// What a system call that has been made has done to the tree of interest.
#[derive(Clone, Debug)]
pub enum Done {
    Nothing,
    Changed,
    Synced(Synced),
}

/// The process, stopped.
pub struct Tracer {
    pid: Pid,
    root: PathBuf,
}

impl Tracer {
    /// Stops a child of this thread's that waits for something.
    pub fn stop(pid: Pid, root: &Path) -> Self {
        ptrace::seize(pid, Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL).unwrap();
        ptrace::interrupt(pid).unwrap();
        assert!(matches!(waitpid(pid, None), Ok(WaitStatus::PtraceEvent(..))));
        Self { pid, root: root.to_owned() }
    }

    /// Runs it to just before its next system call. False where it has ended instead.
    pub fn to_next_call(&self) -> bool {
        loop {
            match self.resume() {
                None => return false,
                Some(registers) if registers.rax as i64 == -i64::from(libc::ENOSYS) => return true,
                Some(_) => {}
            }
        }
    }

    /// Lets it make that call.
    pub fn make_call(&self) -> Done {
        let Some(registers) = self.resume() else { return Done::Nothing };
        if (registers.rax as i64) < 0 {
            return Done::Nothing;
        }
        match registers.orig_rax as i64 {
            libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_ftruncate | libc::SYS_fallocate => {
                if self.file(registers.rdi).is_some() { Done::Changed } else { Done::Nothing }
            }
            libc::SYS_openat
            | libc::SYS_renameat
            | libc::SYS_renameat2
            | libc::SYS_unlinkat
            | libc::SYS_mkdirat
            | libc::SYS_linkat => Done::Changed,
            libc::SYS_fsync | libc::SYS_fdatasync => {
                self.file(registers.rdi).map_or(Done::Nothing, Done::Synced)
            }
            _ => Done::Nothing,
        }
    }

    /// The file or directory of the tree that it has open under this number.
    fn file(&self, descriptor: u64) -> Option<Synced> {
        let link = format!("/proc/{}/fd/{descriptor}", self.pid);
        let path = std::fs::read_link(&link).ok()?;
        let below = path.strip_prefix(&self.root).ok()?;
        let metadata = std::fs::metadata(&link).ok()?;
        Some(match metadata.is_dir() {
            true => Synced::Directory(below.to_owned()),
            false => Synced::File(metadata.ino()),
        })
    }

    fn resume(&self) -> Option<libc::user_regs_struct> {
        loop {
            ptrace::syscall(self.pid, None).ok()?;
            match waitpid(self.pid, None) {
                Ok(WaitStatus::PtraceSyscall(_)) => return ptrace::getregs(self.pid).ok(),
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Kills it where it is.
    pub fn kill(self) {
        let _ = nix::sys::signal::kill(self.pid, Signal::SIGKILL);
        while let Ok(status) = waitpid(self.pid, None) {
            if matches!(status, WaitStatus::Signaled(..) | WaitStatus::Exited(..)) {
                break;
            }
        }
    }
}
