//! How a region differs from the one that an operation began with.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::rc::Rc;

/// What differs from a base, by word.
pub type Delta = Vec<(u32, u64)>;

/// After so many changes a whole delta is kept again: of an operation that fills a large blob each of tens of thousands of
/// images differs from the base in as many words, and from the one before it in one.
const MOST_CHANGES: usize = 128;

/// A delta, as a whole one that others have too, and what was changed since: the word's value, or that it is the base's
/// again.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    whole: Rc<Delta>,
    changes: Vec<(u32, Option<u64>)>,
}

impl Picture {
    /// The delta.
    pub fn delta(&self) -> Delta {
        let mut delta = Vec::with_capacity(self.whole.len() + self.changes.len());
        let mut rest = self.whole.as_slice();
        for &(index, value) in &self.changes {
            let place = rest.partition_point(|&(other, _)| other < index);
            delta.extend_from_slice(&rest[..place]);
            delta.extend(value.map(|value| (index, value)));
            let replaced = rest.get(place).is_some_and(|&(other, _)| other == index);
            rest = &rest[place + usize::from(replaced)..];
        }
        delta.extend_from_slice(rest);
        delta
    }
}

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
    whole: Rc<Delta>,
    changes: BTreeMap<u32, Option<u64>>,
}

impl<'a> Difference<'a> {
    /// Of a region that is as `base` with `delta` laid over it.
    pub fn new(base: &'a [u64], delta: &[(u32, u64)]) -> Self {
        Self {
            base,
            words: delta.iter().copied().collect(),
            key: Key::of_words(delta),
            whole: Rc::new(delta.to_vec()),
            changes: BTreeMap::new(),
        }
    }

    /// A word has another value now.
    pub fn change(&mut self, index: u32, value: u64) {
        let is_as_before = value == self.base[index as usize];
        self.changes.insert(index, (!is_as_before).then_some(value));
        let before = if is_as_before {
            self.words.remove(&index)
        } else {
            self.key.0 = self.key.0.wrapping_add(halves((index, value)));
            self.words.insert(index, value)
        };
        if let Some(before) = before {
            self.key.0 = self.key.0.wrapping_sub(halves((index, before)));
        }
    }

    /// Every word that differs now.
    pub fn picture(&mut self) -> Picture {
        if self.changes.len() > MOST_CHANGES {
            self.whole = Rc::new(self.words.iter().map(|(index, value)| (*index, *value)).collect());
            self.changes.clear();
        }
        let changes = self.changes.iter().map(|(index, value)| (*index, *value)).collect();
        Picture { whole: Rc::clone(&self.whole), changes }
    }

    /// Of these words.
    pub fn key(&self) -> Key {
        self.key
    }
}
