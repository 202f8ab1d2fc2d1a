//! Converts numbers between JavaScript and Rust. No other code in this crate does: a truncated number is another
//! number, such as that of another device.

use serde_json::{Map, Value};
use ublk_core::error::{Error, Result};

/// A JavaScript number as an integer that fits.
pub fn whole<T: TryFrom<u64>>(name: &str, value: f64) -> Result<T> {
    let possible = value.fract() == 0.0 && (0.0..18_446_744_073_709_551_616.0).contains(&value);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole, and between 0 and 2^64"
    )]
    let whole = possible.then_some(value as u64);
    whole
        .and_then(|whole| T::try_from(whole).ok())
        .ok_or_else(|| Error::invalid(format!("{name} {value} is not a possible whole number")))
}

/// The same for an optional number.
pub fn maybe<T: TryFrom<u64>>(name: &str, value: Option<f64>) -> Result<Option<T>> {
    value.map(|value| whole(name, value)).transpose()
}

/// An object whose whole numbers are integers: JavaScript writes those from 2^32 as floating-point numbers.
pub fn with_integers(mut object: Value) -> Value {
    for value in object.as_object_mut().into_iter().flat_map(Map::values_mut) {
        let integer = value.as_f64().and_then(|number| whole::<u64>("number", number).ok());
        if let Some(integer) = integer {
            *value = integer.into();
        }
    }
    object
}

/// A number for JavaScript: exact up to 2^53, and up to 8 EiB if it is a multiple of 512, as disk sizes are. Larger
/// counters are rounded.
pub fn number(value: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "rounding is documented above")]
    let number = value as f64;
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_numbers_that_fit_are_taken() {
        assert_eq!(whole::<u16>("id", 65535.0).ok(), Some(65535));
        assert_eq!(whole::<u64>("size", 9_223_372_036_854_774_784.0).ok(), Some((1 << 63) - 1024));
        for value in [65536.0, -1.0, 1.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 4_294_967_296.0] {
            let error = whole::<u16>("id", value).unwrap_err();
            assert_eq!(error.message, format!("id {value} is not a possible whole number"));
        }
        assert!(whole::<u64>("size", 18_446_744_073_709_551_616.0).is_err());
        assert_eq!(maybe::<u32>("id", None).ok(), Some(None));
    }
}
