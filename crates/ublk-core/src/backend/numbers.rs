//! Numbers that a seed determines: the same on every machine and in every version.

/// A number in which each bit depends on all bits of this one (the finalizer of SplitMix64).
pub const fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A number as a fraction: from 0 to just below 1.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit exactly")]
pub const fn fraction(number: u64) -> f64 {
    (number >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_same_everywhere() {
        assert_eq!(mixed(0), 0);
        assert_eq!(mixed(1), 0x5692_161d_100b_05e5);
        assert_eq!(mixed(u64::MAX), 0xb4d0_55fc_f2cb_bd7b);
        assert_eq!(fraction(0), 0.0);
        assert_eq!(fraction(1 << 63), 0.5);
        assert!(fraction(u64::MAX) < 1.0);
    }
}
