//! Keys in random order, made without touching memory: what is measured is the map.

/// Bytes of a key and of a value.
pub const KEY: usize = 16;
pub const VALUE: usize = 64;

/// The key of a number.
#[inline]
pub fn key(number: u64) -> [u8; KEY] {
    let mixed = mix(number);
    ((u128::from(mixed) << 64) | u128::from(mixed ^ number)).to_le_bytes()
}

/// One number for another, and no two the same (the finalizer of splitmix64).
#[inline]
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Random keys of the first so many numbers.
pub struct Keys {
    state: u64,
    count: u64,
}

impl Keys {
    pub fn new(count: u64) -> Self {
        Self { state: 1, count }
    }

    #[inline]
    pub fn next(&mut self) -> [u8; KEY] {
        self.state = self.state.wrapping_add(1);
        self.key()
    }

    /// The same, but not known before `byte` is.
    #[inline]
    pub fn next_after(&mut self, byte: u8) -> [u8; KEY] {
        self.state = self.state.wrapping_add(1 + u64::from(byte));
        self.key()
    }

    #[inline]
    fn key(&self) -> [u8; KEY] {
        key(((u128::from(mix(self.state)) * u128::from(self.count)) >> 64) as u64)
    }
}

/// A value that differs from one call to the next.
#[inline]
pub fn value(of: &[u8; KEY]) -> [u8; VALUE] {
    let mut value = [0; VALUE];
    value[..KEY].copy_from_slice(of);
    value
}
