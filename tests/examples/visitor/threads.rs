//! A program whose threads end before it does.

use std::path::Path;

use client::Session;
use nix::libc;

use super::{accounts, heard, say};

/// Has one thread end with its session and its lock, and after that the one that calls; a third stays until there is nothing
/// more to be heard.
pub fn abandon(run_dir: &Path) -> ! {
    let run_dir = run_dir.to_owned();
    let hold = move || {
        let session = Box::leak(Box::new(Session::attach(&run_dir).expect("it is let in")));
        let mut txn = session.begin().expect("a transaction");
        let accounts = accounts(&mut txn).expect("they are there");
        txn.map(accounts).and_then(|mut map| map.put(b"0", b"-1000000")).expect("it can be changed");
        std::mem::forget(txn);
    };
    std::thread::spawn(hold).join().expect("it ends without a farewell");
    std::thread::spawn(|| {
        say("holding");
        while heard().is_some() {}
        std::process::exit(0)
    });
    // SAFETY: ends this thread alone; what it has on its stack is used by no other.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("the thread has ended")
}
