//! How a call ended.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};

use client::block::Failure;
use client::{ReadError, SessionError, TxnError};

/// How a call ended.
#[allow(non_camel_case_types, reason = "the name that C knows it by")]
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum holdfast_code {
    /// As it should.
    HOLDFAST_OK = 0,
    /// The system refused something, such as memory.
    HOLDFAST_FAILED = 1,
    /// An argument cannot be used: a name, a directory, a NULL.
    HOLDFAST_INVALID = 2,
    /// There is nothing of this name.
    HOLDFAST_UNKNOWN = 3,
    /// It was removed while it was used.
    HOLDFAST_REMOVED = 4,
    /// The time was over.
    HOLDFAST_TIMED_OUT = 5,
    /// More bytes than fit.
    HOLDFAST_TOO_LARGE = 6,
    /// The file is not to be used: damaged, somebody else's, or of another version.
    HOLDFAST_REFUSED = 7,
    /// Another call comes first.
    HOLDFAST_ORDER = 8,
    /// The region, its object table, or what one transaction may hold, is full.
    HOLDFAST_FULL = 9,
    /// There is an object of that name, of another kind.
    HOLDFAST_EXISTS = 10,
    /// The session is another thread's, or that of the process that this one was forked from.
    HOLDFAST_ELSEWHERE = 11,
    /// No instance is there, it lets this user not in, or it has ended the session: attach again.
    HOLDFAST_AWAY = 12,
    /// The map has no such key.
    HOLDFAST_NO_KEY = 13,
    /// Another held an object's lock for too long.
    HOLDFAST_LOCKED = 14,
    /// The folder holds something.
    HOLDFAST_NOT_EMPTY = 15,
}

/// Why a call did not do what it should.
#[derive(Debug)]
pub struct Problem {
    pub code: holdfast_code,
    pub sentence: String,
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        use holdfast_code::*;
        let code = match failure {
            Failure::Name(_) | Failure::Directory(_) | Failure::Empty => HOLDFAST_INVALID,
            Failure::Unknown(_) => HOLDFAST_UNKNOWN,
            Failure::Removed(_) => HOLDFAST_REMOVED,
            Failure::Busy(_) => HOLDFAST_TIMED_OUT,
            Failure::TooLarge(..) => HOLDFAST_TOO_LARGE,
            Failure::Refused(_) => HOLDFAST_REFUSED,
            Failure::Order(_) => HOLDFAST_ORDER,
            Failure::System(_) => HOLDFAST_FAILED,
        };
        Self { code, sentence: failure.to_string() }
    }
}

impl From<TxnError> for Problem {
    fn from(error: TxnError) -> Self {
        use holdfast_code::*;
        let code = match error {
            TxnError::TooLarge | TxnError::TooLong => HOLDFAST_TOO_LARGE,
            TxnError::Full
            | TxnError::TooManyObjects
            | TxnError::TooManyLocks
            | TxnError::TooManyInFlight => HOLDFAST_FULL,
            TxnError::Busy => HOLDFAST_LOCKED,
            TxnError::TimedOut => HOLDFAST_TIMED_OUT,
            TxnError::NotFound => HOLDFAST_UNKNOWN,
            TxnError::Exists => HOLDFAST_EXISTS,
            TxnError::NotEmpty => HOLDFAST_NOT_EMPTY,
            TxnError::BadName | TxnError::TooDeep | TxnError::IntoItself | TxnError::OutOfRange => {
                HOLDFAST_INVALID
            }
            TxnError::Damaged | TxnError::Disturbed => HOLDFAST_REFUSED,
            TxnError::Forked => HOLDFAST_ELSEWHERE,
            TxnError::RolledBack => HOLDFAST_ORDER,
        };
        Self { code, sentence: error.to_string() }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        TxnError::from(error).into()
    }
}

impl From<SessionError> for Problem {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Transaction(error) => error.into(),
            SessionError::Ended(_) => {
                Self { code: holdfast_code::HOLDFAST_AWAY, sentence: error.to_string() }
            }
        }
    }
}

impl From<client::Error> for Problem {
    fn from(error: client::Error) -> Self {
        Self { code: holdfast_code::HOLDFAST_AWAY, sentence: error.to_string() }
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Does what a call is for, and keeps the sentence if it fails.
pub fn outcome(body: impl FnOnce() -> Result<(), Problem>) -> holdfast_code {
    match body() {
        Ok(()) => holdfast_code::HOLDFAST_OK,
        Err(Problem { code, sentence }) => {
            // A sentence has no zeros, unless a name that was given has.
            let sentence = CString::new(sentence).unwrap_or_default();
            // A thread that ends may still call, in a destructor of its own: then there is no place for it any more.
            let _ = LAST.try_with(|last| last.replace(sentence));
            code
        }
    }
}

/// What went wrong in this thread last, in one sentence; empty if nothing did, and for a thread that ends and has only its
/// destructors to run. It stays until the next call that fails.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// This library's version.
#[unsafe(no_mangle)]
pub extern "C" fn holdfast_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => c"",
        };
    VERSION.as_ptr()
}
