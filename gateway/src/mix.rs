//! [`mix`] spreads a number over 64 bits, as the generator SplitMix64 does.

/// The step of SplitMix64: odd, so that its multiples differ until all 64 bits are used up.
pub(crate) const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finalizer of SplitMix64: every input bit affects every output bit, and no two numbers map to the same
/// one.
pub(crate) const fn mix(number: u64) -> u64 {
    let mut mixed = number ^ (number >> 30);
    mixed = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_splitmix64() {
        // The first values of the reference implementation for the seed 1234567.
        let mut state = 1_234_567_u64;
        let numbers = [(); 3].map(|()| {
            state = state.wrapping_add(STEP);
            mix(state)
        });
        assert_eq!(
            numbers,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }
}
