//! The only place of raw calls. Everything above speaks of owned descriptors, newtypes and `io::Result`.

pub mod channel;
pub mod clone;
pub mod copy;
pub mod daemon;
pub mod exec;
pub mod file;
pub mod fork_mark;
pub mod futex;
pub mod knell;
pub mod map;
pub mod peer;
pub mod privileges;
pub mod process;
pub mod range_lock;
pub mod readiness;
pub mod scheduling;
pub mod signal;
pub mod socket;
pub mod transport;

/// Turns the C convention of -1 and errno into a result.
pub(crate) fn cerr(returned: libc::c_long) -> std::io::Result<libc::c_long> {
    if returned == -1 { Err(std::io::Error::last_os_error()) } else { Ok(returned) }
}
