//! Whom the children run as: privileges that are given up for good, between fork and exec, and trying out beforehand
//! what they will be allowed to.

use std::ffi::CString;
use std::io;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Group, Uid, User, fork, getegid, geteuid, getgrouplist};

use crate::error::{Context, Error, Result};

/// A user and groups that this process is not, and its children shall be.
#[derive(Clone, Debug)]
pub struct Identity {
    name: String,
    uid: Uid,
    gid: Gid,
    groups: Vec<libc::gid_t>,
}

impl Identity {
    /// The identity that a user's and a group's name stand for, with the user's groups where no group is named;
    /// `None` where that is what this process is already.
    ///
    /// # Errors
    /// A name that nobody has, or one that only the superuser may take (exit 2).
    pub fn find(user: Option<&str>, group: Option<&str>) -> Result<Option<Self>> {
        Self::find_for("--user", user, group)
    }

    /// The same for the sake of this option, which an error names.
    ///
    /// # Errors
    /// As [`Identity::find`].
    pub fn find_for(option: &str, user: Option<&str>, group: Option<&str>) -> Result<Option<Self>> {
        if user.is_none() && group.is_none() {
            return Ok(None);
        }
        let (uid, own_gid, account) = match user {
            None => (geteuid(), getegid(), None),
            Some(name) => {
                let user = find_user(name)?;
                (user.uid, user.gid, Some(user.name))
            }
        };
        let gid = group.map_or(Ok(own_gid), find_group)?;
        let changes = uid != geteuid() || gid != getegid();
        if changes && !geteuid().is_root() {
            let option = user.map_or_else(
                || format!("--group {}", group.unwrap_or_default()),
                |user| format!("{option} {user}"),
            );
            return Err(Error::usage(format!(
                "{option}: only the superuser can run others as somebody else; start as root, or leave it out"
            )));
        }
        let groups = match &account {
            Some(name) if changes => groups_of(name, gid)?,
            _ => vec![gid.as_raw()],
        };
        let name = account.unwrap_or_else(|| uid.to_string());
        Ok(changes.then_some(Self { name, uid, gid, groups }))
    }

    /// The user's name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The user.
    pub fn uid(&self) -> u32 {
        self.uid.as_raw()
    }

    /// The first group.
    pub fn gid(&self) -> u32 {
        self.gid.as_raw()
    }

    /// Becomes this user for good. Allocates nothing: for a child between fork and exec. What is to end with a parent
    /// asks for it afterwards, since a change of credentials makes the kernel forget it.
    ///
    /// # Errors
    /// What the kernel reports; then this process must not go on.
    pub fn assume(&self) -> io::Result<()> {
        let (uid, gid) = (self.uid.as_raw(), self.gid.as_raw());
        // SAFETY: the kernel reads as many groups as the vector has.
        super::cerr(unsafe { libc::setgroups(self.groups.len(), self.groups.as_ptr()) }.into())?;
        // SAFETY: takes numbers only.
        super::cerr(unsafe { libc::setresgid(gid, gid, gid) }.into())?;
        // SAFETY: takes numbers only.
        super::cerr(unsafe { libc::setresuid(uid, uid, uid) }.into()).map(drop)
    }

    /// Whether the kernel would let this user do something: it is done, by a process that has become that user and
    /// ends with it. Errors that are not the kernel's are nothing here.
    ///
    /// # Errors
    /// The kernel's refusal; a process that cannot be made.
    pub fn attempt(&self, deed: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        // SAFETY: the supervisor, which alone asks this, has one thread, or a second one that only waits for the kernel and has
        // no lock; its child may do whatever it may.
        match unsafe { fork() }? {
            ForkResult::Child => {
                let refused = self.assume().and_then(|()| deed()).err();
                let errno = refused.and_then(|error| error.raw_os_error()).unwrap_or(0);
                // SAFETY: ends this process without running what is its parent's to run.
                unsafe { libc::_exit(errno) }
            }
            ForkResult::Parent { child } => loop {
                match waitpid(child, None) {
                    Err(nix::errno::Errno::EINTR) => {}
                    Ok(WaitStatus::Exited(_, 0)) => return Ok(()),
                    Ok(WaitStatus::Exited(_, errno)) => return Err(io::Error::from_raw_os_error(errno)),
                    other => {
                        return Err(io::Error::other(format!("the process that tried it ended: {other:?}")));
                    }
                }
            },
        }
    }
}

fn find_user(name: &str) -> Result<User> {
    let asking = || format!("cannot look up the user {name:?}");
    let mut found = User::from_name(name).context(asking)?;
    if let (None, Ok(number)) = (&found, name.parse()) {
        found = User::from_uid(Uid::from_raw(number)).context(asking)?;
    }
    found.ok_or_else(|| {
        Error::usage(format!("--user {name}: there is no such user; create it, or name another"))
    })
}

fn find_group(name: &str) -> Result<Gid> {
    let asking = || format!("cannot look up the group {name:?}");
    let mut found = Group::from_name(name).context(asking)?;
    if let (None, Ok(number)) = (&found, name.parse()) {
        found = Group::from_gid(Gid::from_raw(number)).context(asking)?;
    }
    found.map(|group| group.gid).ok_or_else(|| {
        Error::usage(format!("--group {name}: there is no such group; create it, or name another"))
    })
}

fn groups_of(name: &str, gid: Gid) -> Result<Vec<libc::gid_t>> {
    let asking = || format!("cannot look up the groups of {name:?}");
    let c_name = CString::new(name).map_err(io::Error::from).context(asking)?;
    let groups = getgrouplist(&c_name, gid).context(asking)?;
    Ok(groups.into_iter().map(Gid::as_raw).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    #[test]
    fn unknown_names_are_usage_errors() {
        for (user, group, named) in [
            (Some("no-such-user"), None, "--user no-such-user"),
            (None, Some("no-such-group"), "--group no-such-group"),
            (Some("root"), Some("no-such-group"), "--group no-such-group"),
            (Some("4123456789"), None, "--user 4123456789"),
            (Some(""), None, "--user"),
        ] {
            let error = Identity::find(user, group).unwrap_err();
            assert_eq!(error.exit(), Exit::Usage);
            assert!(error.to_string().contains(named), "{error}");
        }
    }

    #[test]
    fn oneself_is_no_change() {
        let own = User::from_uid(geteuid()).unwrap().unwrap().name;
        assert!(Identity::find(None, None).unwrap().is_none());
        if getegid() == User::from_uid(geteuid()).unwrap().unwrap().gid {
            assert!(Identity::find(Some(&own), None).unwrap().is_none());
        }
    }

    #[test]
    fn what_another_user_may_is_found_out_by_trying() {
        if !geteuid().is_root() {
            return;
        }
        let nobody = Identity::find(Some("nobody"), None).unwrap().unwrap();
        let refused = nobody.attempt(|| std::fs::File::open("/etc/shadow").map(drop)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
        nobody.attempt(|| std::fs::File::open("/etc/passwd").map(drop)).unwrap();
        assert!(geteuid().is_root(), "the caller is who it was");
    }
}
