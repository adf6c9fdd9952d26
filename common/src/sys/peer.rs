//! Who is at the other end of a socket, and a hold on that process by which its end is noticed.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::poll::PollFlags;
use nix::sys::socket::{getsockopt, sockopt};
use rustix::process::PidfdFlags;

use super::readiness;
use crate::ids::Pid;

/// More groups than this nobody is in: the kernel's bound.
const MOST_GROUPS: usize = 65_536;

/// Who connected, as the kernel has it from that moment on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The process; 0 where it lives in another pid namespace, which this one does not see.
    pub pid: Pid,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its further groups.
    pub groups: Vec<u32>,
}

impl Peer {
    /// Who is at the other end of a Unix socket.
    ///
    /// # Errors
    /// What getsockopt reports.
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let credentials = getsockopt(&socket, sockopt::PeerCredentials)?;
        let (pid, uid, gid) = (Pid(credentials.pid()), credentials.uid(), credentials.gid());
        Ok(Self { pid, uid, gid, groups: groups_of(socket)? })
    }
}

fn groups_of(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut bytes = (groups.len() * size_of::<libc::gid_t>()) as libc::socklen_t;
        // SAFETY: the kernel writes at most `bytes` bytes to the vector, which has as many, and how many to `bytes`.
        let asked = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let count = bytes as usize / size_of::<libc::gid_t>();
        match super::cerr(asked.into()) {
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) && count <= MOST_GROUPS => {
                groups.resize(count.max(groups.len() + 1), 0);
            }
            Err(error) => return Err(error),
        }
    }
}

/// A hold on a process (a pidfd): it never means another one, and becomes readable when the process has ended, with all
/// of its threads.
#[derive(Debug)]
pub struct Process {
    pidfd: OwnedFd,
    /// Its pid.
    pub pid: Pid,
    /// When it began, in ticks since the machine did; with the pid it names the process for as long as the machine
    /// runs. 0 where that cannot be read.
    pub began: u64,
}

impl Process {
    /// The process that connected a socket.
    ///
    /// # Errors
    /// `ESRCH` where it has ended; what the kernel reports besides.
    pub fn at(socket: BorrowedFd<'_>, peer: &Peer) -> io::Result<Self> {
        let pidfd = match of_peer(socket) {
            // Before Linux 6.5.
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => by_pid_of(socket, peer)?,
            found => found?,
        };
        Self::held(pidfd, peer.pid)
    }

    /// The process with this pid that began then; `None` where there is none (any more).
    ///
    /// # Errors
    /// What the kernel reports besides.
    pub fn find(pid: Pid, began: u64) -> io::Result<Option<Self>> {
        let found = match open(pid) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            pidfd => Self::held(pidfd?, pid),
        };
        match found {
            Ok(process) => Ok((process.began == began).then_some(process)),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The hold that a predecessor in this process had on another, as it knew it.
    pub fn resumed(pidfd: OwnedFd, pid: Pid, began: u64) -> Self {
        Self { pidfd, pid, began }
    }

    fn held(pidfd: OwnedFd, pid: Pid) -> io::Result<Self> {
        let began = began(pid);
        let this = Self { pidfd, pid, began };
        // What was read of the pid is of this process, since that has it still.
        if this.has_ended()? { Err(io::Error::from_raw_os_error(libc::ESRCH)) } else { Ok(this) }
    }

    /// Whether it may have a file mapped: one of this inode, or of this name, since some file systems give another inode
    /// here than there. One that has executed another program has not what it had before.
    ///
    /// # Errors
    /// Where the kernel does not tell, or it has ended.
    pub fn may_have_mapped(&self, file: &fs::File, name: &str) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt as _;
        let inode = file.metadata()?.ino().to_string();
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid))?;
        if self.has_ended()? {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        let is_it = |line: &str| {
            let mut fields = line.split_whitespace().skip(4);
            let same = fields.next() == Some(&inode);
            same || fields.next().is_some_and(|path| path.rsplit('/').next() == Some(name))
        };
        Ok(maps.lines().any(is_it))
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// What poll reports.
    pub fn has_ended(&self) -> io::Result<bool> {
        Ok(!readiness::now(&self.pidfd, PollFlags::POLLIN)?.is_empty())
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// `SO_PEERPIDFD`, which knows no pid that could have become another's.
fn of_peer(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const SO_PEERPIDFD: libc::c_int = 77;
    let mut number: libc::c_int = -1;
    let mut bytes = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes to `number`, and how many to `bytes`.
    let asked = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut number).cast(),
            &raw mut bytes,
        )
    };
    super::cerr(asked.into())?;
    // SAFETY: the kernel has just opened this descriptor for this process, close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The same by the pid. It may be another's by now only if the peer has ended, and with it its end of the socket: one
/// that is open still is looked for afterwards.
fn by_pid_of(socket: BorrowedFd<'_>, peer: &Peer) -> io::Result<OwnedFd> {
    let pidfd = open(peer.pid)?;
    let closed = readiness::now(&socket, PollFlags::empty())?.contains(PollFlags::POLLHUP);
    if closed { Err(io::Error::from_raw_os_error(libc::ESRCH)) } else { Ok(pidfd) }
}

fn open(pid: Pid) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid.0).ok_or(nix::errno::Errno::ESRCH)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// The 22nd field of `/proc/PID/stat`. The name before it may contain anything, also parentheses.
fn began(pid: Pid) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    fields.split_whitespace().nth(19).and_then(|field| field.parse().ok()).unwrap_or(0)
}

/// Names the pid namespace of this process: a pid means nothing in another one.
///
/// # Errors
/// What stat reports.
pub fn pid_namespace() -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(fs::metadata("/proc/self/ns/pid")?.ino())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_other_end_is_known_with_its_groups() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = Peer::of(one.as_fd()).unwrap();
        assert_eq!((peer.pid, peer.uid), (Pid::current(), nix::unistd::geteuid().as_raw()));
        let mut groups: Vec<u32> =
            nix::unistd::getgroups().unwrap().into_iter().map(nix::unistd::Gid::as_raw).collect();
        let mut found = peer.groups.clone();
        groups.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, groups);
    }

    #[test]
    fn a_process_is_held_by_either_way() {
        let (one, other) = UnixStream::pair().unwrap();
        let peer = Peer::of(one.as_fd()).unwrap();
        let process = Process::at(one.as_fd(), &peer).unwrap();
        assert!(process.began > 0 && !process.has_ended().unwrap());
        assert!(by_pid_of(one.as_fd(), &peer).is_ok());
        drop(other);
        assert_eq!(by_pid_of(one.as_fd(), &peer).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn what_a_process_has_mapped_can_be_told() {
        let (one, _other) = UnixStream::pair().unwrap();
        let process = Process::at(one.as_fd(), &Peer::of(one.as_fd()).unwrap()).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        assert!(!process.may_have_mapped(&file, "region").unwrap());
        let mapping = crate::sys::map::Mapping::writable(&file).unwrap();
        assert!(process.may_have_mapped(&file, "region").unwrap());
        drop(mapping);
        assert!(!process.may_have_mapped(&file, "region").unwrap());
    }

    #[test]
    fn a_pid_is_the_process_that_began_then_and_no_other() {
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let pid = Pid(child.id() as i32);
        let began = began(pid);
        let process = Process::find(pid, began).unwrap().expect("it runs");
        assert!(Process::find(pid, began + 1).unwrap().is_none(), "another that had the pid before");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(process.has_ended().unwrap());
        assert!(Process::find(pid, began).unwrap().is_none());
    }
}
