//! The kernel's word, in shared memory, that a thread has come to its end: before the kernel takes its address space down,
//! and so long before anybody reaps it (a third of a millisecond for a process that has mapped a region of 64 MiB; see
//! `scripts/bench/recovery`).
//!
//! The word goes into the thread's robust list (get_robust_list(2); kernel/futex/core.c, `exit_robust_list`). That list
//! is libc's, for robust mutexes, and stays libc's: the word is an entry of it as one of them would be, so a service or an
//! attached program may use such mutexes besides (LMDB does). The word is its last entry, since libc puts its own in front:
//! so what it says of the next one, in memory that others may write to, is never followed by this process.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release, SeqCst};
use std::sync::atomic::compiler_fence;
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::futex::{Wait, WaitFlags, WaitPtr, WaitvFlags, waitv};
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::{cerr, futex, scheduling};
use crate::layout::Knell;

/// The kernel sets this bit when the thread named in the word ends (`FUTEX_OWNER_DIED`).
const TOLLED: u32 = 0x4000_0000;

/// Somebody may sleep on the word: the kernel then wakes one (`FUTEX_WAITERS`).
const SLEEPERS: u32 = 0x8000_0000;

/// Where the kernel finds a word from its entry's link, by glibc: the distance from a mutex's link to its lock word. The
/// layout of [`Knell`] has both at this distance.
const WORD_FROM_LINK: isize = -32;

impl Knell {
    /// Has the kernel toll for the calling thread. False where it will not: a libc that keeps its list in another way,
    /// or mutexes in the list already. A death is learned of later then.
    pub fn hang(&'static self) -> bool {
        let Some(head) = RobustList::of_this_thread() else { return false };
        if !head.is_empty() || head.word_from_link() != WORD_FROM_LINK {
            return false;
        }
        let thread = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        self.word.store(thread | SLEEPERS, SeqCst);
        let [previous, next] = &self.links;
        previous.store(head.as_predecessor(), Release);
        next.store(head.address(), Release);
        compiler_fence(SeqCst);
        head.begin_with(next);
        true
    }

    /// The kernel tolls for the calling thread no more, for which it was hung: the slot is about to be another's.
    pub fn take_off(&'static self) {
        if let Some(head) = RobustList::of_this_thread() {
            let [_, next] = &self.links;
            head.end_before(next);
        }
        compiler_fence(SeqCst);
        self.take_down();
    }

    /// Whether the kernel has tolled. An allegation, as all that is in a region.
    pub fn has_tolled(&self) -> bool {
        self.word.load(Acquire) & TOLLED != 0
    }

    /// For the next owner: nobody's thread.
    pub fn take_down(&self) {
        self.word.store(0, SeqCst);
    }

    /// Sleeps while `word` is `seen` and the kernel has not tolled, for at most `limit`. Also returns for no reason.
    pub fn sleep_beside(&self, word: &AtomicU64, seen: u64, limit: Duration) {
        let hung = self.word.load(Acquire);
        if hung == 0 || hung & TOLLED != 0 {
            futex::wait(word, seen, limit);
            return;
        }
        let both = [waited_for(futex::low_half(word), seen as u32), waited_for(&self.word, hung)];
        let deadline = deadline_after(limit);
        let sleep = || waitv(&both, WaitvFlags::empty(), Some(&deadline), ClockId::Monotonic);
        match scheduling::wake_at_once(sleep) {
            Ok(_) | Err(Errno::AGAIN | Errno::INTR | Errno::TIMEDOUT) => {}
            Err(_) => {
                futex::wait(word, seen, limit);
            }
        }
    }
}

fn waited_for(word: &std::sync::atomic::AtomicU32, seen: u32) -> Wait {
    let mut wait = Wait::new();
    wait.val = u64::from(seen);
    wait.uaddr = WaitPtr::new(word.as_ptr().cast());
    wait.flags = WaitFlags::SIZE_U32;
    wait
}

/// waitv goes by an instant, not by a duration.
fn deadline_after(limit: Duration) -> Timespec {
    let now = clock_gettime(ClockId::Monotonic);
    let nanoseconds = now.tv_nsec + i64::from(limit.subsec_nanos());
    Timespec {
        tv_sec: now.tv_sec + limit.as_secs().cast_signed() + nanoseconds / 1_000_000_000,
        tv_nsec: nanoseconds % 1_000_000_000,
    }
}

/// The kernel's `struct robust_list_head`.
#[repr(C)]
struct RobustListHead {
    first: *const AtomicU64,
    word_from_link: libc::c_long,
    pending: *const AtomicU64,
}

/// Entries of a list that are looked at, as many as the kernel does (`ROBUST_LIST_LIMIT`).
const MOST_ENTRIES: usize = 2048;

/// Set in a link that leads to a mutex of another kind (`PTHREAD_PRIO_INHERIT`).
const OTHER_KIND: u64 = 1;

/// The list that libc keeps for the calling thread.
struct RobustList(*mut RobustListHead);

impl RobustList {
    fn of_this_thread() -> Option<Self> {
        let (head, length) = robust_list_of(0).ok()?;
        (!head.is_null() && length == size_of::<RobustListHead>()).then_some(Self(head))
    }

    fn address(&self) -> u64 {
        self.0.expose_provenance() as u64
    }

    /// The list's head as the entry before the first one: glibc keeps a link backwards just before each link forwards,
    /// and goes by the address of the former.
    fn as_predecessor(&self) -> u64 {
        self.address() - size_of::<u64>() as u64
    }

    /// The list is a ring.
    fn is_empty(&self) -> bool {
        // SAFETY: libc's head for this very thread, which is alive and not in libc: nobody else accesses it.
        unsafe { (*self.0).first.cast() == self.0.cast_const().cast::<u8>() }
    }

    fn word_from_link(&self) -> isize {
        // SAFETY: as above.
        unsafe { (*self.0).word_from_link as isize }
    }

    fn begin_with(&self, link: &'static AtomicU64) {
        // SAFETY: as above. What the list is made to begin with lives as long as the process, leads back to the head, and
        // has the link backwards before it that glibc writes to when it puts an entry in front.
        unsafe { (*self.0).first = link };
    }

    /// Takes the last entry out, if it is this one. What stands before it are locked mutexes of this thread's.
    fn end_before(&self, last: &AtomicU64) {
        let last = last.as_ptr().expose_provenance() as u64;
        let mut link = self.0.cast::<AtomicU64>().cast_const();
        for _ in 0..MOST_ENTRIES {
            // SAFETY: the first field of the head, which is a link as well, or the link of an entry before the one that is
            // looked for: a mutex in libc's own keeping, which libc itself reads and writes there. The list is this thread's
            // alone.
            let next = unsafe { (*link).load(Acquire) } & !OTHER_KIND;
            if next == last {
                // SAFETY: as above.
                unsafe { (*link).store(self.address(), Release) };
                return;
            }
            if next == self.address() || next == 0 {
                return;
            }
            link = std::ptr::with_exposed_provenance(next as usize);
        }
    }
}

/// Where a thread's robust list begins, 0 = the calling one's, and how long the head is.
fn robust_list_of(thread: i32) -> io::Result<(*mut RobustListHead, usize)> {
    let (mut head, mut length) = (std::ptr::null_mut::<RobustListHead>(), 0_usize);
    // SAFETY: the kernel stores two words through valid pointers.
    let asked = unsafe { libc::syscall(libc::SYS_get_robust_list, thread, &raw mut head, &raw mut length) };
    cerr(asked).map(|_| (head, length))
}

/// Whether the kernel says of the main thread of a process, one with a knell, that it has come to its end: it executes no
/// instruction of its program any more. It has gone through its robust list then, and has none.
///
/// # Errors
/// No such process, or one that this process may not see.
pub fn is_ending(pid: crate::ids::Pid) -> io::Result<bool> {
    match robust_list_of(pid.0) {
        Ok((head, _)) if pid.0 > 0 && head.is_null() => Ok(true),
        // It may be just about to forget the list, or not be this process's to look into.
        _ => is_exiting(pid),
    }
}

/// Whether a process has no other thread than its main one any more. Asked for after [`is_ending`], and both are so, nothing
/// of its program is executed.
///
/// # Errors
/// No such process, or one that this process may not see.
pub fn is_down_to_one_thread(pid: crate::ids::Pid) -> io::Result<bool> {
    /// A directory has a link from above, one from itself, and one from each that is in it: threads, here.
    const LINKS: u64 = 3;
    Ok(std::fs::metadata(format!("/proc/{pid}/task"))?.nlink() == LINKS)
}

/// By the flags of the thread. To ask for them takes long: they come with figures of the address space, and whoever looks at
/// an address space while its owner leaves it may have to take it down.
fn is_exiting(pid: crate::ids::Pid) -> io::Result<bool> {
    /// `PF_EXITING` of include/linux/sched.h, in the ninth field of proc_pid_stat(5).
    const EXITING: u64 = 4;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the name in parentheses, with any characters in it.
    let flags = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(6));
    let flags: Option<u64> = flags.and_then(|field| field.parse().ok());
    flags.map(|flags| flags & EXITING != 0).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::time::Instant;

    use super::*;
    use crate::ids::Pid;

    fn knell() -> &'static Knell {
        Box::leak(Box::new(Knell {
            word: AtomicU32::new(0),
            pad: Default::default(),
            links: Default::default(),
            reserved: Default::default(),
        }))
    }

    #[test]
    fn the_kernel_tolls_when_the_thread_ends() {
        let knell = knell();
        let thread = std::thread::spawn(|| {
            let hung = knell.hang();
            (hung, knell.has_tolled())
        });
        assert_eq!(thread.join().unwrap(), (true, false));
        assert!(knell.has_tolled());
        knell.take_down();
        assert!(!knell.has_tolled());
    }

    #[test]
    fn a_sleeper_is_woken_by_it() {
        let (knell, word) = (knell(), AtomicU64::new(7));
        let (hung, is_hung) = std::sync::mpsc::channel();
        let (end, may_end) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            hung.send(knell.hang()).unwrap();
            let _ = may_end.recv();
        });
        assert!(is_hung.recv().unwrap());
        let began = Instant::now();
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                while !knell.has_tolled() {
                    knell.sleep_beside(&word, 7, Duration::from_secs(60));
                }
            });
            drop(end);
            sleeper.join().unwrap();
        });
        assert!(began.elapsed() < Duration::from_secs(30), "woken, not timed out");
        thread.join().unwrap();
    }

    #[test]
    fn the_sleeper_is_woken_by_the_other_word_too() {
        let (knell, word) = (knell(), AtomicU64::new(7));
        std::thread::spawn(|| assert!(knell.hang())).join().unwrap();
        // Tolled already: it is the word alone that is slept on.
        knell.sleep_beside(&word, 8, Duration::from_secs(60));
        knell.word.store(1 | SLEEPERS, SeqCst);
        knell.sleep_beside(&word, 8, Duration::from_secs(60));
        knell.sleep_beside(&word, 7, Duration::from_millis(1));
    }

    /// What a service may do besides.
    #[test]
    fn robust_mutexes_of_the_thread_still_work() {
        let (knell, mutex) = (knell(), RobustMutex::new());
        let (first, second) = (RobustMutex::new(), RobustMutex::new());
        std::thread::spawn(move || {
            assert!(knell.hang());
            // In front of the word, taken out again, and left there.
            assert_eq!((first.lock(), second.lock()), (0, 0));
            assert_eq!((first.unlock(), second.unlock()), (0, 0));
            assert_eq!(mutex.lock(), 0);
        })
        .join()
        .unwrap();
        assert!(knell.has_tolled());
        assert_eq!(mutex.lock(), libc::EOWNERDEAD);
        assert_eq!((first.lock(), second.lock()), (0, 0));
    }

    /// Who leaves the slot and lives on.
    #[test]
    fn taken_off_it_tolls_no_more_and_the_list_is_whole() {
        let (knell, mutexes) = (knell(), [(); 3].map(|()| RobustMutex::new()));
        let [before, across, left] = mutexes;
        std::thread::spawn(move || {
            assert_eq!(before.lock(), 0);
            assert!(!knell.hang(), "a list that is in use");
            assert_eq!(before.unlock(), 0);
            for _ in 0..3 {
                assert!(knell.hang());
                assert_eq!((before.lock(), across.lock()), (0, 0));
                knell.take_off();
                // What will be done with the memory next.
                knell.links.iter().for_each(|link| link.store(u64::MAX, Release));
                assert_eq!((before.unlock(), across.unlock()), (0, 0));
            }
            assert!(knell.hang());
            knell.take_off();
            assert_eq!(left.lock(), 0);
        })
        .join()
        .unwrap();
        assert!(!knell.has_tolled());
        assert_eq!(left.lock(), libc::EOWNERDEAD);
        assert_eq!((before.lock(), across.lock()), (0, 0));
    }

    #[test]
    fn a_process_has_other_threads_until_they_are_gone() {
        let me = Pid::current();
        let (end, may_end) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let _ = may_end.recv();
        });
        assert!(!is_down_to_one_thread(me).unwrap());
        drop(end);
        thread.join().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid(child.id().cast_signed());
        assert!(is_down_to_one_thread(pid).unwrap());
        child.kill().unwrap();
        eventually(|| is_ending(pid).unwrap());
        assert!(is_down_to_one_thread(pid).unwrap(), "not reaped yet");
        child.wait().unwrap();
        assert!(is_down_to_one_thread(pid).is_err());
    }

    #[derive(Clone, Copy)]
    struct RobustMutex(&'static AtomicMutex);
    struct AtomicMutex(std::cell::UnsafeCell<libc::pthread_mutex_t>);
    // SAFETY: a pthread mutex is made to be used by several threads.
    unsafe impl Sync for AtomicMutex {}

    impl RobustMutex {
        fn new() -> Self {
            let mutex = AtomicMutex(std::cell::UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER));
            let this = Self(Box::leak(Box::new(mutex)));
            let mut attributes = std::mem::MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
            // SAFETY: attributes are initialised before use, and the mutex is nobody else's yet.
            unsafe {
                libc::pthread_mutexattr_init(attributes.as_mut_ptr());
                libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST);
                assert_eq!(libc::pthread_mutex_init(this.0.0.get(), attributes.as_ptr()), 0);
            }
            this
        }

        fn lock(self) -> i32 {
            // SAFETY: initialised, and never moved or freed.
            unsafe { libc::pthread_mutex_lock(self.0.0.get()) }
        }

        fn unlock(self) -> i32 {
            // SAFETY: as above, and held by this thread.
            unsafe { libc::pthread_mutex_unlock(self.0.0.get()) }
        }
    }

    fn eventually(condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !condition() {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_process_that_lives_is_not_ending() {
        assert!(!is_ending(Pid::current()).unwrap());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid(child.id().cast_signed());
        // A program that has just been executed has no list before its libc gives it one.
        eventually(|| !is_ending(pid).unwrap());
        child.kill().unwrap();
        eventually(|| is_ending(pid).unwrap());
        child.wait().unwrap();
        assert!(is_ending(pid).is_err(), "reaped");
    }
}
