//! A program whose system calls are counted, over all its threads: it is killed after one of them, or some of them fail
//! as on a full disk.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use holdfast_tests::random::Random;
use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// What is done to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// It is killed after so many system calls.
    KillAfter(u64),
    /// The call of this number among those that need room on the disk fails with ENOSPC.
    FailOne(u64),
    /// One of so many of them does, at random.
    FailSome(u64),
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Its exit code; `None` where it was killed.
    pub code: Option<i32>,
    /// System calls, or those that need room.
    pub calls: u64,
}

/// Calls that a full disk can refuse.
const NEED_ROOM: [i64; 13] = [
    libc::SYS_pwrite64,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_link,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
];

/// Runs a program to its end in a thread of its own, which is the only one that the kernel lets trace it. `started` is
/// told its pid.
#[track_caller]
pub fn run(command: &mut Command, deed: Deed, started: impl FnOnce(i32) + Send) -> Ending {
    std::thread::scope(|scope| {
        let tracer = scope.spawn(|| Tracer::start(command, deed).follow(started));
        tracer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

struct Tracer {
    program: Pid,
    deed: Deed,
    calls: u64,
    random: Random,
    threads: HashMap<Pid, Thread>,
}

#[derive(Default)]
struct Thread {
    within_call: bool,
    fails: bool,
}

impl Tracer {
    #[expect(clippy::zombie_processes, reason = "follow waits for it by its pid")]
    fn start(command: &mut Command, deed: Deed) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: one system call between fork and exec.
        unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
        let child = command.spawn().expect("it can be started");
        let program = Pid::from_raw(child.id() as i32);
        let stopped = waitpid(program, None);
        assert!(matches!(stopped, Ok(WaitStatus::Stopped(_, Signal::SIGTRAP))), "{stopped:?}");
        let options =
            Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL;
        ptrace::setoptions(program, options).expect("options can be set");
        Self { program, deed, calls: 0, random: Random::new(child.id().into()), threads: HashMap::new() }
    }

    fn follow(mut self, started: impl FnOnce(i32)) -> Ending {
        started(self.program.as_raw());
        self.go_on(self.program, None);
        // Of this thread's children alone: other tests have theirs.
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            match waitpid(None, Some(flags)) {
                Ok(WaitStatus::PtraceSyscall(thread)) => self.at_call(thread),
                Ok(WaitStatus::PtraceEvent(thread, ..)) => self.go_on(thread, None),
                // A new thread begins with a stop of its own.
                Ok(WaitStatus::Stopped(thread, Signal::SIGSTOP)) => self.go_on(thread, None),
                Ok(WaitStatus::Stopped(thread, signal)) => self.go_on(thread, Some(signal)),
                Ok(WaitStatus::Exited(pid, code)) if pid == self.program => return self.ending(Some(code)),
                Ok(WaitStatus::Signaled(pid, ..)) if pid == self.program => return self.ending(None),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => panic!("it cannot be waited for: {error}"),
            }
        }
    }

    fn ending(&self, code: Option<i32>) -> Ending {
        Ending { code, calls: self.calls }
    }

    fn go_on(&self, thread: Pid, signal: Option<Signal>) {
        // It may have been killed meanwhile.
        let _ = ptrace::syscall(thread, signal);
    }

    /// A thread stands before a call or behind it.
    fn at_call(&mut self, thread: Pid) {
        let state = self.threads.entry(thread).or_default();
        state.within_call = !state.within_call;
        match self.deed {
            Deed::KillAfter(count) => {
                if !state.within_call {
                    self.calls += 1;
                    if self.calls == count {
                        let _ = kill(self.program, Signal::SIGKILL);
                        return;
                    }
                }
            }
            Deed::FailOne(_) | Deed::FailSome(_) => self.fail_if_due(thread),
        }
        self.go_on(thread, None);
    }

    fn fail_if_due(&mut self, thread: Pid) {
        let Ok(mut registers) = ptrace::getregs(thread) else { return };
        let Some(state) = self.threads.get_mut(&thread) else { return };
        if state.within_call {
            if !needs_room(thread, &registers) {
                return;
            }
            self.calls += 1;
            state.fails = match self.deed {
                Deed::FailOne(number) => self.calls == number,
                Deed::FailSome(number) => self.random.below(number) == 0,
                Deed::KillAfter(_) => false,
            };
            if state.fails {
                // There is no such call: the kernel does nothing.
                registers.orig_rax = u64::MAX;
                let _ = ptrace::setregs(thread, registers);
            }
        } else if std::mem::take(&mut state.fails) {
            registers.rax = (-i64::from(Errno::ENOSPC as i32)) as u64;
            let _ = ptrace::setregs(thread, registers);
        }
    }
}

/// Whether a full disk can refuse the call that a thread stands before: also the creation of a file, and what is written
/// to one.
fn needs_room(thread: Pid, registers: &libc::user_regs_struct) -> bool {
    match registers.orig_rax as i64 {
        libc::SYS_openat => registers.rdx & libc::O_CREAT as u64 != 0 && names_nothing(thread, registers),
        libc::SYS_write | libc::SYS_ftruncate => {
            let link = std::fs::read_link(format!("/proc/{thread}/fd/{}", registers.rdi));
            link.is_ok_and(|path| path.is_absolute() && !path.starts_with("/dev"))
        }
        number => NEED_ROOM.contains(&number),
    }
}

/// Whether nothing has the name yet that a thread is about to open.
fn names_nothing(thread: Pid, registers: &libc::user_regs_struct) -> bool {
    let mut bytes = [0; libc::PATH_MAX as usize];
    let memory = File::open(format!("/proc/{thread}/mem"));
    let Ok(count) = memory.and_then(|memory| memory.read_at(&mut bytes, registers.rsi)) else { return false };
    let name = bytes[..count].split(|&byte| byte == 0).next().unwrap_or_default();
    let above = match registers.rdi as i32 {
        libc::AT_FDCWD => format!("/proc/{thread}/cwd"),
        directory => format!("/proc/{thread}/fd/{directory}"),
    };
    Path::new(&above).join(OsStr::from_bytes(name)).symlink_metadata().is_err()
}
