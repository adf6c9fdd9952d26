//! Another program in the place of this one, in the same process: children, locks and whatever is handed over stay.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::execve;
use rustix::fs::{MemfdFlags, SealFlags};

/// Executes a program with these arguments, the first of which is its name, and this environment. Of the descriptors
/// from the fourth on it finds those of `kept` open, under the numbers that they have here. Unlike the commands of the
/// standard library this leaves blocked signals blocked, and executes nothing by a shell that is no program. Returns
/// only if it fails; everything is as before then.
///
/// # Errors
/// What fcntl and execve report.
pub fn become_program(
    program: &Path,
    arguments: &[OsString],
    environment: &[(OsString, OsString)],
    kept: &[BorrowedFd<'_>],
) -> io::Result<Infallible> {
    let path = CString::new(program.as_os_str().as_bytes())?;
    let arguments = arguments.iter().map(|word| CString::new(word.as_bytes()));
    let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
    let environment = environment.iter().map(|(name, value)| {
        let mut variable = name.clone();
        variable.push(OsStr::new("="));
        variable.push(value);
        CString::new(variable.as_bytes())
    });
    let environment = environment.collect::<Result<Vec<_>, _>>()?;
    let outcome =
        let_through(kept, FdFlag::empty()).and_then(|()| Ok(execve(&path, &arguments, &environment)?));
    // Children that are started from here on shall not have them.
    let_through(kept, FdFlag::FD_CLOEXEC)?;
    outcome
}

fn let_through(descriptors: &[BorrowedFd<'_>], flag: FdFlag) -> io::Result<()> {
    for descriptor in descriptors {
        fcntl(descriptor, FcntlArg::F_SETFD(flag))?;
    }
    Ok(())
}

/// A file in memory with these bytes, which nobody can change any more, to be read from its beginning.
///
/// # Errors
/// What memfd_create, write and fcntl report.
pub fn sealed(name: &str, bytes: &[u8]) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create(name, flags)?);
    file.write_all(bytes)?;
    let all = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, all)?;
    file.rewind()?;
    Ok(file)
}

/// What is in a file that was handed over, unless it is longer than `limit`.
///
/// # Errors
/// What reading reports; `InvalidData` where it is longer.
pub fn read_handed(file: &mut File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than it can be"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd as _, AsRawFd as _};
    use std::process::Command;

    use super::*;

    #[test]
    fn what_is_sealed_can_be_read_and_not_be_changed() {
        let mut file = sealed("state", b"all of it").unwrap();
        assert_eq!(read_handed(&mut file, 9).unwrap(), b"all of it");
        assert_eq!(read_handed(&mut file, 8).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(file.write(b"x").unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert!(file.set_len(0).is_err());
    }

    #[test]
    fn where_nothing_can_be_executed_everything_stays() {
        let file = sealed("state", b"").unwrap();
        let place = tempfile::tempdir().unwrap();
        for (name, content) in [("missing", None), ("text", Some("exit 0\n"))] {
            let path = place.path().join(name);
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
                Command::new("chmod").arg("+x").arg(&path).status().unwrap();
            }
            assert!(become_program(&path, &[path.clone().into()], &[], &[file.as_fd()]).is_err(), "{name}");
        }
        let flags = fcntl(&file, FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags, FdFlag::FD_CLOEXEC.bits(), "descriptor {}", file.as_raw_fd());
    }
}
