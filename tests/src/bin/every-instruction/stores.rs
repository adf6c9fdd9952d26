//! A child whose stores into a region are seen one by one, while whatever else it does is done at full speed.
//!
//! The region is write-protected in the child. A store faults; its page is opened for that one instruction, and what has
//! changed there goes onto a tape that the parent reads. What is no store into the region changes nothing of it, so this
//! gives the images that stepping gives, in a tenth of the time. Of a child that writes into files nothing is seen of that.

use std::ffi::{c_int, c_void};
use std::io::{PipeReader, PipeWriter, Read as _, Write as _, pipe};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicPtr, AtomicU64};

use common::limits::PAGE_SIZE;
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

use crate::arena::Arena;

const PAGE: usize = PAGE_SIZE as usize;
const PAGE_WORDS: usize = PAGE / size_of::<u64>();

/// Pages that one instruction can store to: two, where it stores across their border.
const MOST_PAGES: usize = 2;

/// Words of a tape. Memory is taken as far as it is written.
const TAPE_WORDS: usize = 8 << 20;

/// Where a tape says how many of its words are written, and how many stores there were; and where they begin.
const WRITTEN: usize = 0;
const STORES: usize = 1;
const BEGIN: usize = 2;

/// After the changes of one store. No word of a region has this index.
const END: u64 = u64::MAX;

/// In the flags of a thread: a trap after the next instruction.
const TRAP: i64 = 0x100;

/// The code that the child ends with after a fault that is no store into the region.
const GAVE_UP: c_int = 99;

/// Words that a parent and its child share.
struct Tape(&'static [AtomicU64]);

impl Tape {
    fn new() -> Result<Self, String> {
        let length = TAPE_WORDS * size_of::<u64>();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: new memory is mapped, wherever the kernel likes.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
        if memory == libc::MAP_FAILED {
            return Err(format!("cannot map a tape: {}", std::io::Error::last_os_error()));
        }
        // SAFETY: as long as said, aligned to a page, zeroed, and mapped until this is dropped; both processes use it as
        // atomic words. Nobody takes the slice out of this.
        Ok(Self(unsafe { std::slice::from_raw_parts(memory.cast(), TAPE_WORDS) }))
    }

    fn clear(&self) {
        self.0[WRITTEN].store(0, Relaxed);
        self.0[STORES].store(0, Relaxed);
    }

    /// False where it is full.
    fn write(&self, words: &[u64]) -> bool {
        let written = self.0[WRITTEN].load(Relaxed) as usize;
        let Some(place) = self.0.get(BEGIN + written..BEGIN + written + words.len()) else { return false };
        place.iter().zip(words).for_each(|(place, word)| place.store(*word, Relaxed));
        self.0[WRITTEN].store((written + words.len()) as u64, Relaxed);
        true
    }
}

impl Drop for Tape {
    fn drop(&mut self) {
        // SAFETY: mapped by new(), and not used any more.
        unsafe { libc::munmap(self.0.as_ptr().cast_mut().cast(), size_of_val(self.0)) };
    }
}

/// The child, waiting to be told.
pub struct Watched {
    pid: Pid,
    orders: PipeWriter,
    answers: PipeReader,
    tape: Tape,
}

impl Watched {
    /// Forks. Whenever the child is told it does `work`, which says whether it has succeeded.
    pub fn fork(arena: &Arena, work: impl FnMut() -> bool) -> Result<Self, String> {
        let fail = |error: std::io::Error| format!("cannot make a pipe: {error}");
        let ((to_obey, orders), (answers, to_answer)) = (pipe().map_err(fail)?, pipe().map_err(fail)?);
        let tape = Tape::new()?;
        // SAFETY: this process has one thread whenever it forks, so the child may go on as it likes.
        match unsafe { fork() }.map_err(|error| format!("cannot fork: {error}"))? {
            ForkResult::Parent { child } => Ok(Self { pid: child, orders, answers, tape }),
            ForkResult::Child => {
                let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
                // Else it would never see that the parent has closed its end.
                drop((orders, answers));
                let done = obey(arena, tape, to_obey, to_answer, work);
                // SAFETY: ends the process without running what its parent has registered for its own end.
                unsafe { libc::_exit(if done.is_some() { 0 } else { GAVE_UP }) }
            }
        }
    }

    /// Has the child work once.
    pub fn work(&mut self) -> Result<(), String> {
        self.tape.clear();
        let mut answer = [0];
        let answered = self.orders.write_all(&[1]).and_then(|()| self.answers.read_exact(&mut answer));
        match answered {
            Ok(()) if answer == [1] => Ok(()),
            Ok(()) => Err("it failed".to_owned()),
            Err(_) => Err(format!("it ended early: {:?}", waitpid(self.pid, None))),
        }
    }

    /// How many stores into the region there were.
    pub fn stores(&self) -> u64 {
        self.tape.0[STORES].load(Relaxed)
    }

    /// For each store that has changed something: the words that it has changed, by index, and their values.
    pub fn changes(&self) -> Vec<Vec<(u32, u64)>> {
        let written = self.tape.0[WRITTEN].load(Relaxed) as usize;
        let mut words = self.tape.0[BEGIN..BEGIN + written].iter().map(|word| word.load(Relaxed));
        let (mut changes, mut change) = (Vec::new(), Vec::new());
        while let Some(index) = words.next() {
            match words.next() {
                Some(value) if index != END => change.push((index as u32, value)),
                _ => changes.push(std::mem::take(&mut change)),
            }
        }
        changes
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

/// The child's life. `None` where it cannot protect the region, or say what it has done.
fn obey(
    arena: &Arena,
    tape: Tape,
    mut orders: PipeReader,
    mut answers: PipeWriter,
    mut work: impl FnMut() -> bool,
) -> Option<()> {
    let words = arena.words();
    let (begin, length) = (words.as_ptr().addr(), size_of_val(words));
    let guard = Guard { begin, length, tape, open: [0; MOST_PAGES], before: [[0; PAGE_WORDS]; MOST_PAGES] };
    GUARD.store(Box::into_raw(Box::new(guard)), Relaxed);
    catch(libc::SIGSEGV, on_fault)?;
    catch(libc::SIGTRAP, on_trap)?;
    while orders.read_exact(&mut [0]).is_ok() {
        protect(begin, length, libc::PROT_READ)?;
        let done = work();
        protect(begin, length, libc::PROT_READ | libc::PROT_WRITE)?;
        answers.write_all(&[done.into()]).ok()?;
    }
    Some(())
}

type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

fn catch(signal: c_int, handler: Handler) -> Option<()> {
    // SAFETY: all zero is a valid sigaction. The handlers are ones that take what SA_SIGINFO has them given.
    let caught = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut())
    };
    (caught == 0).then_some(())
}

fn protect(begin: usize, length: usize, protection: c_int) -> Option<()> {
    // SAFETY: pages of the region, which stay readable; this process has nothing else there. It has no reference to them
    // but to atomic words, whose stores are what is to fault.
    (unsafe { libc::mprotect(begin as *mut c_void, length, protection) } == 0).then_some(())
}

/// What the handlers know.
struct Guard {
    begin: usize,
    length: usize,
    tape: Tape,
    /// Pages that are open for the instruction under way; 0 = none.
    open: [usize; MOST_PAGES],
    /// What was in them.
    before: [[u64; PAGE_WORDS]; MOST_PAGES],
}

static GUARD: AtomicPtr<Guard> = AtomicPtr::new(std::ptr::null_mut());

impl Guard {
    /// Opens the page of an address for one instruction. `None` where it is none of the region's, or is open already.
    fn open(&mut self, address: usize) -> Option<()> {
        let page = address & !(PAGE - 1);
        if !(self.begin..self.begin + self.length).contains(&page) || self.open.contains(&page) {
            return None;
        }
        let place = self.open.iter().position(|open| *open == 0)?;
        self.before[place] = std::array::from_fn(|index| word(page, index));
        self.open[place] = page;
        protect(page, PAGE, libc::PROT_READ | libc::PROT_WRITE)
    }

    /// Closes what is open, and notes what has changed there. `None` where nothing is, or the tape is full.
    fn close(&mut self) -> Option<()> {
        if self.open[0] == 0 {
            return None;
        }
        let mut changed = false;
        for place in 0..MOST_PAGES {
            let page = std::mem::take(&mut self.open[place]);
            if page == 0 {
                continue;
            }
            for (index, before) in self.before[place].iter().enumerate() {
                let now = word(page, index);
                if now != *before {
                    changed = true;
                    let index = ((page - self.begin) / size_of::<u64>() + index) as u64;
                    self.tape.write(&[index, now]).then_some(())?;
                }
            }
            protect(page, PAGE, libc::PROT_READ)?;
        }
        self.tape.0[STORES].fetch_add(1, Relaxed);
        (!changed || self.tape.write(&[END, 0])).then_some(())
    }
}

fn word(page: usize, index: usize) -> u64 {
    // SAFETY: a word of a page of the region, which is mapped and readable.
    unsafe { (*(page as *const AtomicU64).add(index)).load(Relaxed) }
}

/// A store into the region is about to be executed.
extern "C" fn on_fault(_: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives both. The guard is there before this handler is, lives as long as the process, and is used
    // by the two handlers alone, in this one thread: neither interrupts the other, since neither touches the region's
    // pages otherwise than to read them, or is executed with the trap flag.
    unsafe {
        match (*GUARD.load(Relaxed)).open((*info).si_addr().addr()) {
            Some(()) => *flags(context) |= TRAP,
            None => libc::_exit(GAVE_UP),
        }
    }
}

/// It has been executed.
extern "C" fn on_trap(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: as above.
    unsafe {
        match (*GUARD.load(Relaxed)).close() {
            Some(()) => *flags(context) &= !TRAP,
            None => libc::_exit(GAVE_UP),
        }
    }
}

/// The flags that the interrupted thread goes on with.
///
/// # Safety
/// `context` is what a handler was given, which has not returned.
unsafe fn flags<'a>(context: *mut c_void) -> &'a mut i64 {
    // SAFETY: by the caller.
    unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_EFL as usize] }
}
