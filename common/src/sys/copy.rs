//! Copying bytes into and out of memory that other processes read and write at the same moment.
//!
//! What is copied may be torn; whoever copies finds out by a sequence word and throws it away. Short copies are made of
//! relaxed atomic words. Long ones are one instruction, which the compiler does not look into: to it this is as if the
//! kernel copied.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU64};

use super::map::Mapping;
use crate::ids::Offset;

/// From so many bytes on a copy is one instruction: below, starting it costs more than it saves.
const LONG: usize = 512;

const WORD: usize = size_of::<u64>();

/// Copies from the mapping; false where so many bytes are not there, and nothing is copied.
#[inline]
#[must_use]
pub fn out_of(mapping: &Mapping, offset: Offset, into: &mut [u8]) -> bool {
    if into.len() >= LONG {
        let Some(from) = mapping.pointer(offset, into.len()) else { return false };
        // SAFETY: so many bytes are mapped there (looked at above); `into` is this process's own.
        unsafe { long(from, into.as_mut_ptr(), into.len()) };
        return true;
    }
    let (whole, rest) = into.as_chunks_mut::<WORD>();
    let Some((words, bytes)) = split(mapping, offset, whole.len(), rest.len()) else {
        return out_of_bytes(mapping, offset, into);
    };
    for (word, bytes) in words.iter().zip(whole) {
        *bytes = word.load(Relaxed).to_ne_bytes();
    }
    for (byte, rest) in bytes.iter().zip(rest) {
        *rest = byte.load(Relaxed);
    }
    true
}

fn out_of_bytes(mapping: &Mapping, offset: Offset, into: &mut [u8]) -> bool {
    let Some(bytes) = mapping.slice::<AtomicU8>(offset, into.len()) else { return false };
    bytes.iter().zip(into).for_each(|(byte, into)| *into = byte.load(Relaxed));
    true
}

/// Copies into the mapping; false where so many bytes are not there or it is not writable, and nothing is copied.
#[inline]
#[must_use]
pub fn into(mapping: &Mapping, offset: Offset, from: &[u8]) -> bool {
    if !mapping.is_writable() {
        return false;
    }
    if from.len() >= LONG {
        let Some(to) = mapping.pointer(offset, from.len()) else { return false };
        // SAFETY: so many bytes are mapped there, writable (looked at above).
        unsafe { long(from.as_ptr(), to.cast_mut(), from.len()) };
        return true;
    }
    let (whole, rest) = from.as_chunks::<WORD>();
    let Some((words, bytes)) = split(mapping, offset, whole.len(), rest.len()) else {
        return into_bytes(mapping, offset, from);
    };
    for (word, bytes) in words.iter().zip(whole) {
        word.store(u64::from_ne_bytes(*bytes), Relaxed);
    }
    for (byte, rest) in bytes.iter().zip(rest) {
        byte.store(*rest, Relaxed);
    }
    true
}

fn into_bytes(mapping: &Mapping, offset: Offset, from: &[u8]) -> bool {
    let Some(bytes) = mapping.slice::<AtomicU8>(offset, from.len()) else { return false };
    bytes.iter().zip(from).for_each(|(byte, from)| byte.store(*from, Relaxed));
    true
}

/// So many words and, behind them, so many bytes; `None` where they are not there or not aligned.
#[inline]
fn split(
    mapping: &Mapping,
    offset: Offset,
    words: usize,
    bytes: usize,
) -> Option<(&[AtomicU64], &[AtomicU8])> {
    let behind = offset.0.checked_add((words * WORD) as u64)?;
    Some((mapping.slice(offset, words)?, mapping.slice(Offset(behind), bytes)?))
}

/// Copies `length` bytes, which may be written to by others meanwhile.
///
/// # Safety
/// So many bytes can be read at `from` and written at `to`, and they do not overlap.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
unsafe fn long(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: the caller's. The instruction touches nothing else; the direction flag is clear, as the ABI has it.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") length => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
}

/// As above, where there is no such instruction: volatile words.
#[cfg(any(not(target_arch = "x86_64"), miri))]
unsafe fn long(from: *const u8, to: *mut u8, length: usize) {
    let words = length / WORD;
    for index in 0..words {
        // SAFETY: within what the caller promises; unaligned accesses need no alignment.
        unsafe {
            let word = from.cast::<[u8; WORD]>().add(index).read_volatile();
            to.cast::<[u8; WORD]>().add(index).write_volatile(word);
        }
    }
    for index in words * WORD..length {
        // SAFETY: as above.
        unsafe { to.add(index).write_volatile(from.add(index).read_volatile()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_copied_in_comes_out() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let mapping = Mapping::writable(&file).unwrap();
        let read_only = Mapping::read_only(&file).unwrap();
        for length in [0, 1, 7, 8, 9, 64, 511, 512, 513, 1000, 4088] {
            let bytes: Vec<u8> = (0..length).map(|byte| (byte * 7 + length) as u8).collect();
            for offset in [0, 3, 8] {
                assert!(into(&mapping, Offset(offset), &bytes));
                let mut copy = vec![0; length];
                assert!(out_of(&read_only, Offset(offset), &mut copy));
                assert_eq!(copy, bytes);
            }
        }
        assert!(!into(&read_only, Offset(0), b"a"));
        assert!(!out_of(&mapping, Offset(4096), &mut [0]));
        assert!(!out_of(&mapping, Offset(8), &mut [0; 4089]));
        assert!(!into(&mapping, Offset(u64::MAX), b"ab"));
    }
}
