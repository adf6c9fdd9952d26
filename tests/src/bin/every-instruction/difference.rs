//! How a region differs from the one that an operation began with.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// What differs from a base, by word.
pub type Delta = Vec<(u32, u64)>;

/// Says of two images whether they are the same, without either: by 128 bits, which agree for others with no likelihood
/// that matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Key(u128);

impl Key {
    /// Of a region, and of what a file holds.
    pub fn with(self, file: Self) -> Self {
        Self(self.0.rotate_left(1) ^ file.0)
    }

    /// Of the content of a file.
    pub fn of_file(bytes: &[u8]) -> Self {
        Self(halves(bytes))
    }

    /// Of words, whichever was changed first.
    pub fn of_words(delta: &[(u32, u64)]) -> Self {
        Self(delta.iter().fold(0, |sum: u128, word| sum.wrapping_add(halves(word))))
    }
}

fn halves(of: impl std::hash::Hash) -> u128 {
    let half = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        of.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

/// A difference that goes with its region.
pub struct Difference<'a> {
    base: &'a [u64],
    words: BTreeMap<u32, u64>,
    key: Key,
}

impl<'a> Difference<'a> {
    /// Of a region that is as `base` with `delta` laid over it.
    pub fn new(base: &'a [u64], delta: &[(u32, u64)]) -> Self {
        Self { base, words: delta.iter().copied().collect(), key: Key::of_words(delta) }
    }

    /// A word has another value now.
    pub fn change(&mut self, index: u32, value: u64) {
        let before = if value == self.base[index as usize] {
            self.words.remove(&index)
        } else {
            self.key.0 = self.key.0.wrapping_add(halves((index, value)));
            self.words.insert(index, value)
        };
        if let Some(before) = before {
            self.key.0 = self.key.0.wrapping_sub(halves((index, before)));
        }
    }

    /// Every word that differs.
    pub fn delta(&self) -> Delta {
        self.words.iter().map(|(index, value)| (*index, *value)).collect()
    }

    /// Of these words.
    pub fn key(&self) -> Key {
        self.key
    }
}
