//! What is written down before a change begins.

use crate::backend::{Completer, Token};
use std::ops::Range;

/// See the [module](self).
pub struct Intents {}

impl Intents {
    /// Whether changes of a range may begin.
    pub fn covers(&self, _range: &Range<u64>) -> bool {
        true
    }

    /// Has a call go on when they may.
    pub fn note(&self, _range: &Range<u64>, _completer: Completer, _token: Token) {}
}
