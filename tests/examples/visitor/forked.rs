//! What a forked child can do with what it has of its parent.

use std::fs::File;
use std::io::{Read as _, Write as _};

use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, pipe};

/// Does something in a forked child, and gives what it says about it. The caller has one thread.
///
/// # Panics
/// Where there can be no child.
pub fn outcome_of(deed: impl FnOnce() -> String) -> String {
    let (reader, writer) = pipe().expect("a pipe");
    // SAFETY: the calling process has one thread, so that its child may do whatever it may.
    match unsafe { fork() }.expect("a child") {
        ForkResult::Child => {
            drop(reader);
            let said = deed();
            let _ = File::from(writer).write_all(said.as_bytes());
            std::process::exit(0)
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let mut said = String::new();
            File::from(reader).read_to_string(&mut said).expect("what the child says");
            let ended = waitpid(child, None);
            if said.is_empty() { format!("the child said nothing: {ended:?}") } else { said }
        }
    }
}

/// Leaves a forked child behind that does something. The caller has one thread.
///
/// # Panics
/// Where there can be no child.
pub fn leave_child(deed: impl FnOnce()) {
    // SAFETY: as above.
    if let ForkResult::Child = unsafe { fork() }.expect("a child") {
        deed();
        std::process::exit(0)
    }
}
