//! Numbers of bytes in JSON.

use crate::number::whole;
use serde::de::{Deserialize, Deserializer, Error};

/// A number of bytes. JavaScript writes large ones as floating-point numbers.
#[derive(Debug, Clone, Copy)]
pub struct Bytes(pub u64);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = f64::deserialize(deserializer)?;
        whole("the number of bytes", bytes).map(Self).map_err(|error| D::Error::custom(error.message))
    }
}
