//! What is written down before a change begins: which parts may differ.

use super::sides::Sides;
use crate::backend::bits::Bits;
use crate::backend::{Completer, Token};
use crate::error::{Error, Result};
use crate::number::to_usize;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// See the [module](self).
pub struct Intents {
    sides: Arc<Sides>,
    /// Changes of these parts may begin.
    pub noted: Bits,
    /// Parts that changed since it was looked last.
    pub recent: Bits,
    wanted: Mutex<Wanted>,
}

#[derive(Default)]
struct Wanted {
    parts: Vec<Range<u64>>,
    calls: Vec<(Completer, Token)>,
}

impl Intents {
    pub fn new(sides: Arc<Sides>) -> Result<Self> {
        let bytes = to_usize(sides.parts().div_ceil(4096 * 8) * 4096);
        let bits = || Bits::new(bytes).map_err(|error| Error::system("cannot map a table", &error));
        Ok(Self { noted: bits()?, recent: bits()?, sides, wanted: Mutex::default() })
    }

    /// Whether changes of a range may begin.
    #[inline]
    pub fn covers(&self, range: &Range<u64>) -> bool {
        let parts = self.sides.parts_of(range);
        self.recent.set_all(parts.clone());
        self.noted.has_all(parts)
    }

    /// Has a call go on when they may.
    pub fn note(&self, range: &Range<u64>, completer: Completer, token: Token) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.parts.push(self.sides.parts_of(range));
        wanted.calls.push((completer, token));
        drop(wanted);
        self.sides.tell();
    }

    /// Notes with `note` what is wanted, and has the calls go on.
    pub fn serve(&self, note: &mut dyn FnMut(&[Range<u64>]) -> Result<()>) -> Result<()> {
        let Wanted { parts, calls } =
            std::mem::take(&mut *self.wanted.lock().unwrap_or_else(PoisonError::into_inner));
        if calls.is_empty() {
            return Ok(());
        }
        let noted = note(&parts);
        if noted.is_ok() {
            parts.into_iter().for_each(|parts| self.noted.set_all(parts));
        }
        let result = if noted.is_ok() { 0 } else { -libc::EIO };
        calls.into_iter().for_each(|(completer, token)| completer.complete(token, result));
        noted
    }
}
