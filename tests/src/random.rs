//! Numbers that look random and are the same for the same seed.

/// Where the numbers come from (xorshift).
#[derive(Clone, Debug)]
pub struct Random(u64);

/// A seed that is another one each time.
pub fn by_clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |since| since.as_nanos() as u64)
}

impl Random {
    /// Any seed is as good as any other.
    pub fn new(seed: u64) -> Self {
        // Spread first (splitmix64), since xorshift makes neighbours of neighbouring seeds, and nothing of 0.
        let mut word = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((word ^ word >> 31) | 1)
    }

    /// The next one.
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// One below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.word() % bound
    }

    /// Bytes of any value.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte = self.word() as u8);
    }
}
