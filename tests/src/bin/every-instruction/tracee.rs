//! A child of this process that is executed one instruction at a time.

use std::arch::asm;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// The numbers of the system calls that are looked at before they are made.
const PWRITE: u64 = nix::libc::SYS_pwrite64 as u64;
const FUTEX: u64 = nix::libc::SYS_futex as u64;

/// What a futex is asked for if somebody sleeps on it: for anything, or for something.
const WAIT: u64 = nix::libc::FUTEX_WAIT as u64;
const WAIT_FOR: u64 = nix::libc::FUTEX_WAIT_BITSET as u64;

/// The one-byte instruction that is a mark.
const MARK: u8 = 0xcc;

/// An instruction that repeats itself less often than this is stepped through.
const FEW: u64 = 64;

/// So often the child is stopped, which takes some 25 ms, before this process leaves its processor to others for a moment. Two
/// processes that stop and continue each other there all the time were seen to keep the kernel's own threads from it
/// for more than a minute ("workqueue lockup", Linux 6.18), and whoever waited for a disk with them.
const STOPS_IN_A_ROW: u32 = 4096;
const MOMENT: Duration = Duration::from_micros(100);
static STOPS: AtomicU32 = AtomicU32::new(0);

/// What the next instruction is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// A mark.
    Mark,
    /// Anything that only computes.
    Plain,
    /// Any other system call.
    Call,
    /// A write of these bytes at this offset.
    Write { bytes: Vec<u8>, offset: u64 },
    /// A wait for another process.
    Wait,
}

/// The child, stopped.
#[derive(Debug)]
pub struct Tracee {
    pid: Pid,
}

/// In the child: a place to stop at.
#[inline(always)]
pub fn mark() {
    // SAFETY: a breakpoint changes nothing; the parent, who traces this process, gets the signal.
    unsafe { asm!("int3", options(nomem, nostack)) }
}

impl Tracee {
    /// Forks. The child lives `life` and ends; it is stopped at its first mark.
    pub fn fork(life: impl FnOnce()) -> Result<Self, String> {
        // SAFETY: this process has one thread whenever it forks, so the child may go on as it likes.
        match unsafe { fork() }.map_err(|error| format!("cannot fork: {error}"))? {
            ForkResult::Parent { child } => {
                let tracee = Self { pid: child };
                tracee.stopped(waitpid(child, None))?;
                tracee.go_on()?;
                Ok(tracee)
            }
            ForkResult::Child => {
                let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
                let _ = ptrace::traceme();
                let _ = nix::sys::signal::raise(Signal::SIGSTOP);
                life();
                // SAFETY: ends the process without running what its parent has registered for its own end.
                unsafe { nix::libc::_exit(0) }
            }
        }
    }

    /// Runs to the next mark and beyond it.
    pub fn go_on(&self) -> Result<(), String> {
        ptrace::cont(self.pid, None).map_err(|error| format!("cannot continue: {error}"))?;
        self.stopped(waitpid(self.pid, None))
    }

    /// Executes one instruction. `while_waiting` is called if it sleeps for another process.
    pub fn step(&self, next: &Next, while_waiting: &mut dyn FnMut()) -> Result<(), String> {
        ptrace::step(self.pid, None).map_err(|error| format!("cannot step: {error}"))?;
        if *next == Next::Wait {
            loop {
                match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
                    Ok(WaitStatus::StillAlive) if is_asleep(self.pid.as_raw(), self.pid.as_raw()) => {
                        while_waiting();
                        break;
                    }
                    Ok(WaitStatus::StillAlive) => std::thread::yield_now(),
                    status => return self.stopped(status),
                }
            }
        }
        self.stopped(waitpid(self.pid, None))
    }

    /// What it will execute next.
    pub fn next(&self) -> Result<Next, String> {
        let registers =
            ptrace::getregs(self.pid).map_err(|error| format!("cannot read registers: {error}"))?;
        let code = registers.rip as *const [u8; 2];
        // SAFETY: the child was forked and has mapped no other code, so what it executes lies at the same place here.
        // An instruction of one byte is followed by others: no code ends within two bytes of a page's end.
        match unsafe { code.read_unaligned() } {
            [MARK, _] => Ok(Next::Mark),
            [0x0f, 0x05] if registers.rax == PWRITE => {
                let mut bytes = vec![0; registers.rdx as usize];
                self.read_memory(registers.rsi, &mut bytes)?;
                Ok(Next::Write { bytes, offset: registers.r10 })
            }
            [0x0f, 0x05] if registers.rax == FUTEX && matches!(registers.rsi & 0x7f, WAIT | WAIT_FOR) => {
                Ok(Next::Wait)
            }
            [0x0f, 0x05] => Ok(Next::Call),
            _ => Ok(Next::Plain),
        }
    }

    /// Runs up to its next system call, and makes that. False where it comes to a mark instead, and is beyond it.
    pub fn make_next_call(&self) -> Result<bool, String> {
        let fail = |error: nix::errno::Errno| format!("cannot run to a system call: {error}");
        ptrace::syscall(self.pid, None).map_err(fail)?;
        self.stopped(waitpid(self.pid, None))?;
        let registers = ptrace::getregs(self.pid).map_err(fail)?;
        let before = (registers.rip - 1) as *const u8;
        // SAFETY: as in next(); it has just executed what lies there.
        if unsafe { before.read() } == MARK {
            return Ok(false);
        }
        ptrace::syscall(self.pid, None).map_err(fail)?;
        self.stopped(waitpid(self.pid, None)).map(|()| true)
    }

    /// Executes one instruction, or half of one that copies or fills many bytes: its repetitions are steps of their own
    /// otherwise, thousands of them.
    pub fn step_by_halves(&self, next: &Next) -> Result<(), String> {
        let fail = |error: nix::errno::Errno| format!("cannot step: {error}");
        let mut registers = ptrace::getregs(self.pid).map_err(fail)?;
        let code = registers.rip as *const [u8; 2];
        // SAFETY: as in next().
        let repeats = matches!(unsafe { code.read_unaligned() }, [0xf3, 0xa4 | 0xaa]);
        let (here, whole) = (registers.rip, registers.rcx);
        if !repeats || whole < FEW {
            return self.step(next, &mut || ());
        }
        registers.rcx = whole / 2;
        ptrace::setregs(self.pid, registers).map_err(fail)?;
        self.run_to(here + 2)?;
        let mut registers = ptrace::getregs(self.pid).map_err(fail)?;
        (registers.rip, registers.rcx) = (here, whole - whole / 2);
        ptrace::setregs(self.pid, registers).map_err(fail)
    }

    /// Runs to an instruction that it is about to reach.
    fn run_to(&self, place: u64) -> Result<(), String> {
        let fail = |error: nix::errno::Errno| format!("cannot stop at {place:#x}: {error}");
        let at = place as ptrace::AddressType;
        let code = ptrace::read(self.pid, at).map_err(fail)?;
        ptrace::write(self.pid, at, code & !0xff | i64::from(MARK)).map_err(fail)?;
        self.go_on()?;
        ptrace::write(self.pid, at, code).map_err(fail)?;
        let mut registers = ptrace::getregs(self.pid).map_err(fail)?;
        registers.rip = place;
        ptrace::setregs(self.pid, registers).map_err(fail)
    }

    fn read_memory(&self, from: u64, bytes: &mut [u8]) -> Result<(), String> {
        let length = bytes.len();
        let there = nix::sys::uio::RemoteIoVec { base: from as usize, len: length };
        let read =
            nix::sys::uio::process_vm_readv(self.pid, &mut [std::io::IoSliceMut::new(bytes)], &[there]);
        if read == Ok(length) { Ok(()) } else { Err(format!("cannot read what it writes: {read:?}")) }
    }

    fn stopped(&self, status: nix::Result<WaitStatus>) -> Result<(), String> {
        match status {
            Ok(WaitStatus::Stopped(_, Signal::SIGTRAP | Signal::SIGSTOP)) => {
                if STOPS.fetch_add(1, Relaxed).is_multiple_of(STOPS_IN_A_ROW) {
                    std::thread::sleep(MOMENT);
                }
                Ok(())
            }
            Ok(WaitStatus::Exited(_, code)) => Err(format!("it ended early, with code {code}")),
            other => Err(format!("it was expected to stop, and instead: {other:?}")),
        }
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(self.pid, Signal::SIGKILL);
        while let Ok(WaitStatus::Stopped(..)) = waitpid(self.pid, None) {}
    }
}

/// Whether a thread sleeps in the kernel.
pub fn is_asleep(pid: i32, thread: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('S'))
}
