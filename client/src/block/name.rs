//! Names of blocks and groups. None of them leads out of the directory, or to a file that begins with a dot.

use super::failure::{Failure, Result};

/// Longest name in bytes.
pub const MAX_NAME: usize = 200;

/// The name, if it is one.
pub fn checked(name: &str) -> Result<&str> {
    if is_name(name) { Ok(name) } else { Err(Failure::Name(name.to_owned())) }
}

/// Whether this is `[A-Za-z0-9_][A-Za-z0-9._-]{0,199}`.
pub fn is_name(name: &str) -> bool {
    let first = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let other = |byte: u8| first(byte) || matches!(byte, b'.' | b'-');
    name.len() <= MAX_NAME && name.bytes().next().is_some_and(first) && name.bytes().all(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["a", "_", "0", "a.b-c_d", "a..", &"x".repeat(200)] {
            assert!(is_name(name), "{name}");
        }
        for name in
            ["", ".", "..", ".a", "-a", "a/b", "../a", "/a", "a\0", "a b", "ä", "a\n", &"x".repeat(201)]
        {
            assert!(!is_name(name), "{name:?}");
        }
    }
}
