//! A template's clone of itself that becomes the supervisor's child.
//!
//! `fork` would make the template the parent; `CLONE_PARENT` makes the clone a sibling instead, so that the supervisor
//! gets its SIGCHLD. glibc knows nothing of such a clone: the one thing it caches per thread is the thread id, which
//! the kernel itself stores at the address glibc told it about.

use std::io;
use std::sync::atomic::AtomicU32;

use super::cerr;
use crate::ids::Pid;

/// Which system call clones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// clone3(2).
    Clone3,
    /// clone(2), where a container's filter refuses clone3.
    Clone,
}

/// The two returns of a clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cloned {
    /// In the caller: the clone's pid.
    Caller(Pid),
    /// In the clone.
    Clone,
}

/// Clones this process as a sibling, trying clone3 first.
#[derive(Debug)]
pub struct Cloner {
    method: Method,
    /// Where glibc keeps this thread's id; 0 where the kernel does not tell.
    tid_address: usize,
    robust_list: (usize, usize),
    /// It was seen that this process has one thread. Only that thread could start another, and whoever has it clone has it
    /// start none in between.
    alone: bool,
}

const FLAGS: u64 = libc::CLONE_PARENT as u64 | libc::CLONE_PARENT_SETTID as u64;
const TID_FLAGS: u64 = libc::CLONE_CHILD_SETTID as u64 | libc::CLONE_CHILD_CLEARTID as u64;

impl Cloner {
    /// Learns from the kernel what the clones will need.
    pub fn prepare() -> Self {
        Self::prepare_with(Method::Clone3)
    }

    /// The same, with the system call to try first.
    pub fn prepare_with(method: Method) -> Self {
        let mut tid_address = 0_usize;
        // SAFETY: the kernel stores one pointer-sized word through the given pointer.
        if unsafe { libc::prctl(libc::PR_GET_TID_ADDRESS, &raw mut tid_address) } == -1 {
            tid_address = 0;
        }
        let (mut head, mut length) = (0_usize, 0_usize);
        // SAFETY: the kernel stores two words through the given pointers; pid 0 is the caller.
        let asked = unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut length) };
        let robust_list = if asked == 0 { (head, length) } else { (0, 0) };
        Self { method, tid_address, robust_list, alone: false }
    }

    /// The method in use.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Clones this process. The clone's pid is stored at `pid_word` before either side returns.
    ///
    /// # Errors
    /// What the kernel reports (EAGAIN at a pids limit, ENOMEM); a process with more than one thread.
    pub fn clone_sibling(&mut self, pid_word: &AtomicU32) -> io::Result<Cloned> {
        if !self.alone && threads_of_this_process()? != 1 {
            return Err(io::Error::other("only a process of one thread can be cloned"));
        }
        self.alone = true;
        let mut outcome = self.clone_once(pid_word);
        if let Err(error) = &outcome
            && self.method == Method::Clone3
            && matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))
        {
            log::info!("clone3 is not to be had here ({error}); using clone");
            self.method = Method::Clone;
            outcome = self.clone_once(pid_word);
        }
        if matches!(outcome, Ok(Cloned::Clone)) {
            self.register_robust_list();
        }
        outcome
    }

    fn clone_once(&self, pid_word: &AtomicU32) -> io::Result<Cloned> {
        let flags = FLAGS | if self.tid_address == 0 { 0 } else { TID_FLAGS };
        let pid_word = pid_word.as_ptr();
        let returned = match self.method {
            Method::Clone3 => {
                // exit_signal 0: with CLONE_PARENT it is inherited, and anything else is EINVAL.
                let arguments = libc::clone_args {
                    flags,
                    pidfd: 0,
                    child_tid: self.tid_address as u64,
                    parent_tid: pid_word as u64,
                    exit_signal: 0,
                    stack: 0,
                    stack_size: 0,
                    tls: 0,
                    set_tid: 0,
                    set_tid_size: 0,
                    cgroup: 0,
                };
                // SAFETY: no CLONE_VM, so the clone runs on its own copy of this stack, as after fork. The caller is
                // the only thread (checked), so no lock is held by a thread that the clone lacks. parent_tid is a
                // live shared word and child_tid is where glibc keeps the thread id.
                unsafe {
                    libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>())
                }
            }
            // SAFETY: as above; the raw argument order differs between architectures.
            #[cfg(target_arch = "x86_64")]
            Method::Clone => unsafe {
                libc::syscall(libc::SYS_clone, flags, 0_usize, pid_word, self.tid_address, 0_usize)
            },
            // SAFETY: as above.
            #[cfg(not(target_arch = "x86_64"))]
            Method::Clone => unsafe {
                libc::syscall(libc::SYS_clone, flags, 0_usize, pid_word, 0_usize, self.tid_address)
            },
        };
        Ok(match cerr(returned)? {
            0 => Cloned::Clone,
            pid => Cloned::Caller(Pid(pid as i32)),
        })
    }

    /// The kernel clears the robust list in a clone; glibc registers it only in `fork`.
    fn register_robust_list(&self) {
        let (head, length) = self.robust_list;
        if head != 0 {
            // SAFETY: the list head is glibc's own, at the same address as in the caller.
            unsafe { libc::syscall(libc::SYS_set_robust_list, head, length) };
        }
    }
}

/// Whether libc's idea of this thread is the kernel's: a signal 0 to oneself goes by libc's cached thread id.
pub fn thread_id_is_right() -> bool {
    let mut address: *const u32 = std::ptr::null();
    // SAFETY: the kernel stores one pointer-sized word through the given pointer.
    let told = unsafe { libc::prctl(libc::PR_GET_TID_ADDRESS, &raw mut address) } == 0;
    if told && !address.is_null() {
        // SAFETY: the address is where libc keeps this thread's id, as libc itself has told the kernel.
        let kept = unsafe { address.read() };
        // SAFETY: gettid has no arguments and cannot fail.
        return u64::from(kept) == unsafe { libc::syscall(libc::SYS_gettid) } as u64;
    }
    // Where the kernel does not tell the address, libc is asked: a signal goes by the id that it keeps.
    // SAFETY: pthread_self is always valid, and signal 0 only checks.
    unsafe { libc::pthread_kill(libc::pthread_self(), 0) == 0 }
}

fn threads_of_this_process() -> io::Result<usize> {
    // The link count of the task directory is the number of threads and two: one call, no listing.
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata("/proc/self/task")?.nlink().saturating_sub(2) as usize)
}
