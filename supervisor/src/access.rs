//! Who may join from outside: `--policy FILE`, by user and group, held against what the kernel says of who connected.
//!
//! ```toml
//! others = "deny"            # whoever is not named below; this is the default
//!
//! [users]
//! alice = "write"            # names, or numbers in quotes
//! bob = "read"
//! mallory = "deny"
//!
//! [groups]                   # for users who are not named: "deny" beats "write", and "write" beats "read"
//! staff = "read"
//! ```
//!
//! `remote = "read"`, beside `others`, lets whoever reaches `--control-listen`, and whom nobody knows, ask for status;
//! `remote = "control"` lets him stop, reload, upgrade and scale.
//!
//! The superuser and the user of the instance may do everything, and nobody but them may stop, reload, upgrade or scale:
//! they could open the region's file anyway.

use std::collections::HashMap;
use std::path::Path;

use common::error::{Error, Result};
use common::sys::peer::Peer;
use common::wire::control::{Access, Request};
use nix::unistd::{Gid, Group, Uid, User, geteuid};
use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::file::{line, nearest, parse, text_of};

/// What somebody may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Rights {
    /// Nothing.
    None,
    /// Status, and the region to read.
    Read,
    /// A slot of the region besides.
    Write,
    /// Everything.
    All,
}

impl Rights {
    /// Whether they suffice for a request.
    pub fn allow(self, request: &Request) -> bool {
        let needed = match request {
            Request::Status | Request::Summary | Request::Attach(Access::Read) => Self::Read,
            Request::Attach(Access::Write) => Self::Write,
            // Whoever has a slot keeps it, and can give it back.
            Request::Rejoin(_) | Request::Detach(_) => Self::None,
            Request::Stop { .. }
            | Request::Reload
            | Request::Scale(_)
            | Request::Checkpoint
            | Request::Upgrade
            | Request::Touch => Self::All,
        };
        self >= needed
    }

    /// What a person calls them.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::Read => "read",
            Self::Write => "read and write",
            Self::All => "everything",
        }
    }
}

const KEYS: [&str; 4] = ["others", "users", "groups", "remote"];
const VALUES: [(&str, Rights); 3] =
    [("deny", Rights::None), ("read", Rights::Read), ("write", Rights::Write)];
const REMOTE_VALUES: [(&str, Rights); 3] =
    [("deny", Rights::None), ("read", Rights::Read), ("control", Rights::All)];

/// The policy in force. Handed as it is to a successor in this process, whatever the file says by then.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AccessPolicy {
    own: u32,
    users: HashMap<u32, Rights>,
    groups: HashMap<u32, Rights>,
    others: Rights,
    remote: Rights,
}

impl AccessPolicy {
    /// Without a file: the instance's own user and the superuser, and nobody else.
    pub fn of_own_user() -> Self {
        Self {
            own: geteuid().as_raw(),
            users: HashMap::new(),
            groups: HashMap::new(),
            others: Rights::None,
            remote: Rights::None,
        }
    }

    /// What `--policy` says.
    ///
    /// # Errors
    /// A file that cannot be read, or says what cannot be understood or enforced (exit 2).
    pub fn read(path: Option<&Path>) -> Result<Self> {
        let mut policy = Self::of_own_user();
        if let Some(path) = path {
            let text = text_of(path, "policy")?;
            Reader { path, text: &text }.fill(&mut policy)?;
        }
        Ok(policy)
    }

    /// What a peer may; one that nobody knows came over the network.
    pub fn rights(&self, peer: Option<&Peer>) -> Rights {
        let Some(peer) = peer else { return self.remote };
        if peer.uid == 0 || peer.uid == self.own {
            return Rights::All;
        }
        if let Some(rights) = self.users.get(&peer.uid) {
            return *rights;
        }
        let named = || peer.groups.iter().chain([&peer.gid]).filter_map(|group| self.groups.get(group));
        match (named().min(), named().max()) {
            (Some(Rights::None), _) => Rights::None,
            (_, Some(most)) => *most,
            _ => self.others,
        }
    }

    /// Whether it lets anybody in who is neither the superuser nor the instance's own user.
    pub fn admits_others(&self) -> bool {
        let all = self.users.values().chain(self.groups.values()).chain([&self.others]);
        all.into_iter().any(|rights| *rights > Rights::None)
    }
}

struct Reader<'t> {
    path: &'t Path,
    text: &'t str,
}

impl Reader<'_> {
    fn fill(&self, policy: &mut AccessPolicy) -> Result<()> {
        for (key, value) in &parse(self.path, self.text)? {
            match (&**key.get_ref(), value.get_ref()) {
                ("others", _) => policy.others = self.rights(value, &VALUES)?,
                ("remote", _) => policy.remote = self.rights(value, &REMOTE_VALUES)?,
                ("users", DeValue::Table(users)) => self.users(users, policy)?,
                ("groups", DeValue::Table(groups)) => self.groups(groups, policy)?,
                (name @ ("users" | "groups"), _) => {
                    let why = format!("{name} must be a table: names and what they may");
                    return Err(self.wrong(value.span().start, &why));
                }
                (other, _) => {
                    let nearest = nearest(other, KEYS.iter().map(|key| (*key).to_owned()));
                    let why = format!("there is no key {other:?}; did you mean {nearest:?}?");
                    return Err(self.wrong(key.span().start, &why));
                }
            }
        }
        Ok(())
    }

    fn users(&self, users: &DeTable<'_>, policy: &mut AccessPolicy) -> Result<()> {
        for (name, value) in users {
            let found = match name.get_ref().parse() {
                Ok(number) => Some(Uid::from_raw(number)),
                Err(_) => User::from_name(name.get_ref()).ok().flatten().map(|user| user.uid),
            };
            let uid = found.ok_or_else(|| self.unknown("user", name))?.as_raw();
            let rights = self.rights(value, &VALUES)?;
            if uid == 0 || uid == policy.own {
                let why = format!(
                    "the user {:?} may open the region's file anyway, and everything else; leave it out",
                    name.get_ref()
                );
                return Err(self.wrong(name.span().start, &why));
            }
            policy.users.insert(uid, rights);
        }
        Ok(())
    }

    fn groups(&self, groups: &DeTable<'_>, policy: &mut AccessPolicy) -> Result<()> {
        for (name, value) in groups {
            let found = match name.get_ref().parse() {
                Ok(number) => Some(Gid::from_raw(number)),
                Err(_) => Group::from_name(name.get_ref()).ok().flatten().map(|group| group.gid),
            };
            let gid = found.ok_or_else(|| self.unknown("group", name))?.as_raw();
            policy.groups.insert(gid, self.rights(value, &VALUES)?);
        }
        Ok(())
    }

    fn rights(&self, value: &Spanned<DeValue<'_>>, values: &[(&str, Rights); 3]) -> Result<Rights> {
        let said = value.get_ref().as_str().unwrap_or_default();
        let known = values.iter().find(|(name, _)| *name == said);
        known.map(|(_, rights)| *rights).ok_or_else(|| {
            let [one, two, three] = values.map(|(name, _)| name);
            let why = format!("what somebody may is {two:?}, {three:?} or {one:?}");
            self.wrong(value.span().start, &why)
        })
    }

    fn unknown(&self, what: &str, name: &Spanned<std::borrow::Cow<'_, str>>) -> Error {
        let why = format!("there is no {what} {:?}; create it, or leave it out", name.get_ref());
        self.wrong(name.span().start, &why)
    }

    fn wrong(&self, place: usize, why: &str) -> Error {
        Error::usage(format!("{} line {}: {why}", self.path.display(), line(self.text, place)))
    }
}

#[cfg(test)]
mod tests {
    use common::error::Exit;
    use common::ids::Pid;

    use super::*;

    fn policy(text: &str) -> Result<AccessPolicy> {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("policy.toml");
        std::fs::write(&path, text).unwrap();
        AccessPolicy::read(Some(&path))
    }

    fn peer(uid: u32, groups: &[u32]) -> Peer {
        Peer { pid: Pid(1), uid, gid: groups[0], groups: groups[1..].to_vec() }
    }

    #[test]
    fn without_a_file_nobody_else_may_anything() {
        let policy = AccessPolicy::read(None).unwrap();
        assert_eq!(policy.rights(Some(&peer(0, &[7]))), Rights::All);
        assert_eq!(policy.rights(Some(&peer(geteuid().as_raw(), &[7]))), Rights::All);
        assert_eq!(policy.rights(Some(&peer(61_234, &[0, 0]))), Rights::None);
        assert_eq!(policy.rights(None), Rights::None);
        assert!(!policy.admits_others());
    }

    #[test]
    fn who_is_not_known_may_what_is_said_of_the_network() {
        let may = |text| policy(text).unwrap().rights(None);
        assert_eq!(may("others = 'write'"), Rights::None);
        assert_eq!(may("remote = 'read'"), Rights::Read);
        assert_eq!(may("remote = 'control'"), Rights::All);
        assert!(policy("remote = 'write'").unwrap_err().to_string().contains("\"control\""));
        assert!(!policy("remote = 'control'").unwrap().admits_others());
    }

    #[test]
    fn users_come_before_groups_and_deny_before_the_rest() {
        let text = "others = 'read'\n[users]\n61001 = 'write'\n61002 = 'deny'\n\
                    [groups]\n62001 = 'write'\n62002 = 'read'\n62003 = 'deny'";
        let policy = policy(text).unwrap();
        let table = [
            (61_001, &[62_003][..], Rights::Write),
            (61_002, &[62_001], Rights::None),
            (61_003, &[62_001], Rights::Write),
            (61_003, &[1, 62_002], Rights::Read),
            (61_003, &[62_002, 62_001], Rights::Write),
            (61_003, &[62_002, 1, 62_001, 62_003], Rights::None),
            (61_003, &[1], Rights::Read),
        ];
        for (uid, groups, expected) in table {
            assert_eq!(policy.rights(Some(&peer(uid, groups))), expected, "{uid} {groups:?}");
        }
        assert!(policy.admits_others());
    }

    #[test]
    fn what_cannot_be_understood_or_enforced_is_named_with_its_line() {
        let own = format!("[users]\n{} = 'read'", geteuid().as_raw());
        let table = [
            ("\n[user]\nbin = 'read'", "line 2: there is no key \"user\"; did you mean \"users\"?"),
            ("other = 'read'", "did you mean \"others\"?"),
            ("[users]\nno-such-user = 'read'", "line 2: there is no user \"no-such-user\""),
            ("[groups]\nno-such-group = 'read'", "there is no group \"no-such-group\""),
            ("[groups]\n0 = 'rw'", "\"read\", \"write\" or \"deny\""),
            ("others = 7", "\"read\", \"write\" or \"deny\""),
            ("users = 'all'", "users must be a table"),
            ("others = ", "line 1"),
            (&own, "anyway"),
            ("[users]\n0 = 'deny'", "anyway"),
        ];
        for (text, words) in table {
            let error = policy(text).expect_err(text);
            assert_eq!(error.exit(), Exit::Usage);
            assert!(error.to_string().contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn rights_suffice_for_what_is_below_them() {
        let requests = [
            (Request::Status, Rights::Read),
            (Request::Attach(Access::Read), Rights::Read),
            (Request::Attach(Access::Write), Rights::Write),
            (Request::Stop { fast: true }, Rights::All),
            (Request::Scale(1), Rights::All),
        ];
        for (request, needed) in requests {
            for rights in [Rights::None, Rights::Read, Rights::Write, Rights::All] {
                assert_eq!(rights.allow(&request), rights >= needed, "{rights:?} {request:?}");
            }
        }
    }
}
