//! Who may send messages.

use std::path::Path;

use common::limits::MAX_USER;

use crate::{Error, Result};

/// The users where no file names them: the seed's.
const BUILT_IN: [&str; 2] = ["arijort", "foobar"];

/// A users file larger than this is taken for something else.
const MAX_FILE: u64 = 64 << 20;

/// The users that are known, in order.
#[derive(Debug)]
pub(crate) struct Users {
    names: Vec<Box<str>>,
}

impl Default for Users {
    fn default() -> Self {
        Self { names: BUILT_IN.map(Into::into).into() }
    }
}

impl Users {
    /// Reads a users file: one name a line, `#` begins a comment, blank lines are nothing.
    pub fn read(path: &Path) -> Result<Self> {
        let unreadable = |why: String| {
            Error::usage(format!("cannot read the users file {}: {why}; check --users", path.display()))
        };
        let metadata = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
        if !metadata.is_file() || metadata.len() > MAX_FILE {
            return Err(unreadable("it is not a file of names".to_owned()));
        }
        let bytes = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
        Self::parse(&bytes).map_err(|(line, why)| {
            Error::usage(format!("line {line} of the users file {} {why}", path.display()))
        })
    }

    /// The names in a file's bytes; an error is the number of the line and what is wrong with it.
    fn parse(bytes: &[u8]) -> std::result::Result<Self, (usize, String)> {
        let mut names = Vec::new();
        for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            let name = read_name(line).map_err(|why| (index + 1, why))?;
            names.extend(name.map(Box::from));
        }
        names.sort_unstable();
        names.dedup();
        Ok(Self { names })
    }

    /// Whether there is such a user.
    pub fn knows(&self, user: &str) -> bool {
        self.names.binary_search_by(|name| (**name).cmp(user)).is_ok()
    }
}

/// The name on a line, if there is one. Blanks around it are not part of it.
fn read_name(line: &[u8]) -> std::result::Result<Option<&str>, String> {
    let text = std::str::from_utf8(line).map_err(|_| "is not UTF-8".to_owned())?;
    let name = text.split('#').next().unwrap_or_default().trim();
    if name.len() > MAX_USER {
        return Err(format!("has a name of {} bytes; the longest is {MAX_USER}", name.len()));
    }
    if name.contains(|c: char| c == ':' || c.is_control()) {
        return Err(format!(
            "has the name {name:?}, which no request can contain; leave out ':' and control characters"
        ));
    }
    Ok((!name.is_empty()).then_some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_comments_and_blanks() {
        let users = Users::parse("# who may\nanna\n\n  bert # the second\r\nanna\nzoë\n".as_bytes()).unwrap();
        for known in ["anna", "bert", "zoë"] {
            assert!(users.knows(known), "{known}");
        }
        for unknown in ["", "ann", "annaa", "# who may", "who may", "arijort", "bert "] {
            assert!(!users.knows(unknown), "{unknown}");
        }
        assert_eq!(users.names.len(), 3);
    }

    #[test]
    fn an_empty_file_knows_nobody() {
        assert!(!Users::parse(b"").unwrap().knows(""));
    }

    #[test]
    fn what_is_no_name_is_refused_with_its_line() {
        let long = "x".repeat(MAX_USER + 1);
        let tables: [(&[u8], usize, &str); 4] = [
            (b"anna\nbe:rt\n", 2, "':'"),
            (b"an\x01na\n", 1, "control"),
            (b"\n\n\xff\n", 3, "UTF-8"),
            (long.as_bytes(), 1, "256 bytes"),
        ];
        for (bytes, line, why) in tables {
            let (said, text) = Users::parse(bytes).unwrap_err();
            assert_eq!(said, line);
            assert!(text.contains(why), "{text}");
        }
        assert!(Users::parse(&long.as_bytes()[1..]).unwrap().knows(&long[1..]));
    }

    #[test]
    fn the_file_is_named_in_the_error() {
        let error = Users::read(Path::new("/no/such/file")).unwrap_err();
        assert_eq!(error.exit(), common::error::Exit::Usage);
        assert!(error.to_string().contains("/no/such/file"), "{error}");
        assert!(Users::read(Path::new("/dev/zero")).is_err(), "a device has no end");
    }
}
