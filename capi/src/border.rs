//! What comes over the border from C, looked at as far as it can be.

use std::ffi::{CStr, c_char};
use std::time::Duration;

use super::outcome::{Problem, holdfast_code};

/// Stores a result that is asked for.
///
/// # Safety
/// `into` is NULL, or a place for a `T`.
pub unsafe fn store<T>(into: *mut T, value: T) -> Result<(), Problem> {
    if into.is_null() {
        return Err(missing("place for the result"));
    }
    // SAFETY: not NULL, so a place for it, as the caller says.
    unsafe { into.write(value) };
    Ok(())
}

/// Stores a result if there is a place for it.
///
/// # Safety
/// As [`store`].
pub unsafe fn store_if_asked<T>(into: *mut T, value: T) {
    if !into.is_null() {
        // SAFETY: as above.
        unsafe { into.write(value) };
    }
}

/// A text.
///
/// # Safety
/// NULL, or a text that ends with a zero and stays as it is meanwhile.
pub unsafe fn text<'a>(text: *const c_char) -> Result<&'a str, Problem> {
    // SAFETY: the caller's.
    unsafe { text_if_any(text) }?.ok_or_else(|| missing("text"))
}

/// A text, or none.
///
/// # Safety
/// As [`text`].
pub unsafe fn text_if_any<'a>(text: *const c_char) -> Result<Option<&'a str>, Problem> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's.
    let text = unsafe { CStr::from_ptr(text) }.to_str();
    text.map(Some).map_err(|_| Problem {
        code: holdfast_code::HOLDFAST_INVALID,
        sentence: "a text is not UTF-8; give one that is".to_owned(),
    })
}

/// Bytes.
///
/// # Safety
/// So many bytes, which stay as they are meanwhile; NULL only for none.
pub unsafe fn bytes<'a>(data: *const u8, length: usize) -> Result<&'a [u8], Problem> {
    match (data.is_null(), length) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(missing("data")),
        // SAFETY: the caller's.
        (false, _) => Ok(unsafe { std::slice::from_raw_parts(data, length) }),
    }
}

/// A time.
pub fn limit(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What is NULL and must not be.
pub fn missing(what: &str) -> Problem {
    Problem { code: holdfast_code::HOLDFAST_INVALID, sentence: format!("the {what} is NULL; give one") }
}
