//! Which process something was opened in. A child that was forked shares its parent's open files, and the kernel's locks
//! belong to those: one that the child took would exclude nobody, and one that it gave back would be its parent's.

use std::cell::RefCell;
use std::sync::Mutex;

use common::ids::Pid;
use common::sys::fork_mark::ForkMark;

/// The process that something was opened in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home(Pid);

impl Home {
    /// This process. The kernel is not asked, but for a thread's first time and a child's.
    #[inline]
    pub fn here() -> Self {
        HERE.try_with(|here| here.borrow_mut().home())
            // The thread is at its end.
            .unwrap_or_else(|_| Self(Pid::current()))
    }

    /// Whether it was this process, and not one that it was forked from.
    #[inline]
    pub fn is_here(self) -> bool {
        self == Self::here()
    }
}

/// What a thread knows of its process.
struct Here {
    mark: ForkMark,
    home: Home,
}

thread_local! {
    static HERE: RefCell<Here> = RefCell::new(Here::new());
}

/// Marks of threads that have ended. A mark's page is never unmapped: without these, each thread would leave one.
static LEFT: Mutex<Vec<ForkMark>> = Mutex::new(Vec::new());

impl Here {
    fn new() -> Self {
        Self { mark: left().unwrap_or_default(), home: Home(Pid::current()) }
    }

    #[inline]
    fn home(&mut self) -> Home {
        if !self.mark.is_mine() {
            *self = Self::new();
        }
        self.home
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        // In a child whoever had the list when it was forked has it for ever: nobody waits for it.
        if self.mark.is_mine()
            && let Ok(mut left) = LEFT.try_lock()
        {
            left.push(std::mem::take(&mut self.mark));
        }
    }
}

/// A mark of this process that a thread has left. Those of its parent are none.
fn left() -> Option<ForkMark> {
    let mut left = LEFT.try_lock().ok()?;
    while let Some(mut mark) = left.pop() {
        if mark.is_mine() {
            return Some(mark);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_of_one_process_and_leave_their_marks_to_the_next() {
        let home = Home::here();
        for _ in 0..100 {
            assert_eq!(std::thread::spawn(Home::here).join().ok(), Some(home));
        }
        assert!(home.is_here() && !Home(Pid(0)).is_here());
        assert!(LEFT.lock().unwrap().len() < 100, "they were not used again");
    }
}
