//! A set of request numbers: they are dense, so a bit each. A minute at 20,000 a second takes 150 kB.

/// A growing set of numbers.
#[derive(Clone, Debug, Default)]
pub struct Bitmap {
    words: Vec<u64>,
}

impl Bitmap {
    /// Adds a number; false if it was there already.
    pub fn insert(&mut self, number: u64) -> bool {
        let (word, bit) = (usize::try_from(number / 64).unwrap_or(usize::MAX), 1 << (number % 64));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let fresh = self.words[word] & bit == 0;
        self.words[word] |= bit;
        fresh
    }

    /// Adds every number of another set.
    pub fn merge(&mut self, other: &Self) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (word, added) in self.words.iter_mut().zip(&other.words) {
            *word |= added;
        }
    }

    /// The numbers that are not in the other set, in order.
    pub fn without<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u64> + 'a {
        self.words.iter().enumerate().flat_map(|(index, word)| {
            let left = word & !other.words.get(index).copied().unwrap_or(0);
            (0..64).filter(move |bit| left >> bit & 1 == 1).map(move |bit| index as u64 * 64 + bit)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set() {
        let (mut all, mut some) = (Bitmap::default(), Bitmap::default());
        for number in [0, 63, 64, 1000, 1001] {
            assert!(all.insert(number));
            assert!(!all.insert(number));
        }
        assert!(some.insert(63) && some.insert(1000));
        assert_eq!(all.without(&some).collect::<Vec<_>>(), [0, 64, 1001]);
        assert_eq!(some.without(&all).count(), 0);
        some.merge(&all);
        assert_eq!(all.without(&some).count(), 0);
    }
}
