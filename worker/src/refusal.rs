//! A request that is answered by an error line.

use std::borrow::Cow;
use std::fmt;

use crate::Kind;

/// Why a request is refused, as whoever sent it is told.
///
/// ```
/// use worker::{Kind, Refusal};
///
/// let refusal = Refusal::new(Kind::Malformed, "the request has no colon");
/// assert_eq!(refusal.to_string(), "malformed: the request has no colon");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    kind: Kind,
    reason: Cow<'static, str>,
}

impl Refusal {
    /// A refusal of this kind; the reason is for a person.
    pub fn new(kind: Kind, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, reason: reason.into() }
    }

    /// Its kind: the word after `error`.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The text after the kind.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.word(), self.reason)
    }
}

impl std::error::Error for Refusal {}
