//! The hash that spreads a map's keys over its buckets.
//!
//! rapidhash V3 (N. De Carli; it descends from wyhash by Wang Yi): a key of up to 16 bytes is two multiplications, some 20
//! to 35 instructions where SipHash-1-3 has 95. So a get is short enough for the processor to have the next one's memory
//! under way before this one's has come.
//!
//! Keyed by the region's random seed, so that who chooses keys does not choose their buckets. It is no cryptographic hash:
//! whoever can map the region reads the seed, and its authors do not rule out that somebody finds it who can measure, to the
//! nanosecond, how long single keys take. Such a one could make a chain so long that it is taken for damage.

use rapidhash::v3::{RapidSecrets, rapidhash_v3_inline};

/// With the last mixing, whose low bits choose the bucket; unrolled; and what is multiplied is mixed in once more, so
/// that a factor of 0 does not make the other one vanish.
const AVALANCHE: bool = true;
const COMPACT: bool = false;
const PROTECTED: bool = true;

/// The hash of one region: its seed, and what is made of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hashing {
    seed: u64,
    secrets: RapidSecrets,
}

impl Hashing {
    pub(crate) fn keyed_by(seed: u64) -> Self {
        Self { seed, secrets: RapidSecrets::seed(seed) }
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    #[inline]
    pub(crate) fn of(&self, key: &[u8]) -> u64 {
        rapidhash_v3_inline::<AVALANCHE, COMPACT, PROTECTED>(key, &self.secrets)
    }
}

#[cfg(test)]
mod tests {
    use super::Hashing;

    /// Another hash would not find what is in a region: what these are is part of the format.
    #[test]
    fn is_what_the_format_says() {
        let bytes: Vec<u8> = (0..=255).collect();
        let hashing = Hashing::keyed_by(0x0123_4567_89ab_cdef);
        for (length, hash) in [
            (0, 0xa5a1_088b_9156_b781),
            (1, 0x95ad_0b0a_0c93_7776),
            (3, 0x50bb_36ca_bbc9_6967),
            (4, 0xf9f5_850d_556d_8951),
            (7, 0xfaea_5241_f56a_2390),
            (8, 0x5497_2daf_c2a5_ef27),
            (16, 0x4d9a_2724_42bb_c70b),
            (17, 0x4033_acff_232a_346f),
            (100, 0x6cc7_cb4d_9d6e_9d43),
            (112, 0xe35d_dea4_1019_a9d5),
            (113, 0x8453_8b5d_beff_74e2),
            (225, 0x1f1b_0f09_db3b_e278),
            (256, 0x9e6f_b938_da20_43d4),
        ] {
            assert_eq!(hashing.of(&bytes[..length]), hash, "the first {length} bytes");
        }
    }

    #[test]
    fn another_seed_gives_another_hash() {
        let [one, other] = [1, 2].map(|seed| Hashing::keyed_by(seed).of(b"somebody"));
        assert_ne!(one, other);
    }
}
