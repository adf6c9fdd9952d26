//! What can be done with a descriptor at this moment, without waiting.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Which of these a descriptor is ready for now, and whether its other end is closed or in error.
///
/// A signal interrupts also a poll that does not wait: where none of this has come and a handler is due, the kernel
/// returns `EINTR` before it looks at the timeout. It says nothing about the descriptor, which is asked again.
///
/// # Errors
/// What poll reports besides.
pub fn now(descriptor: &impl AsFd, asked: PollFlags) -> io::Result<PollFlags> {
    loop {
        let mut polled = [PollFd::new(descriptor.as_fd(), asked)];
        match poll(&mut polled, PollTimeout::ZERO) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
            // What this does not know by name is readiness of some kind all the same.
            Ok(_) => return Ok(polled[0].revents().unwrap_or(asked)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

    use super::*;

    /// So many that some have come in the middle of a poll.
    const SIGNALS: u64 = 10_000;

    #[test]
    fn signals_do_not_keep_it_from_being_told() {
        let caught = Arc::new(AtomicU64::new(0));
        let counted = caught.clone();
        let count = move || {
            counted.fetch_add(1, Relaxed);
        };
        // SAFETY: an addition to an atomic is async-signal-safe.
        unsafe { signal_hook_registry::register(libc::SIGUSR1, count) }.unwrap();
        let (one, _other) = UnixStream::pair().unwrap();
        // SAFETY: the thread's own name.
        let asking = unsafe { libc::pthread_self() };
        let done = AtomicBool::new(false);
        let answers: io::Result<Vec<_>> = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    // SAFETY: the thread that asks outlives this one, and the signal has a handler.
                    unsafe { libc::pthread_kill(asking, libc::SIGUSR1) };
                }
            });
            let asked =
                std::iter::from_fn(|| (caught.load(Relaxed) < SIGNALS).then(|| now(&one, PollFlags::POLLIN)));
            let answers = asked.collect();
            done.store(true, Relaxed);
            answers
        });
        assert!(answers.unwrap().iter().all(PollFlags::is_empty));
    }
}
