//! Numbers in bytes, little-endian.

use super::Malformed;

/// Puts numbers one after the other.
pub struct Put<'b> {
    pub bytes: &'b mut [u8],
    pub at: usize,
}

impl Put<'_> {
    pub fn u32(&mut self, number: u32) {
        self.bytes[self.at..self.at + 4].copy_from_slice(&number.to_le_bytes());
        self.at += 4;
    }

    pub fn all<const N: usize>(&mut self, numbers: [u32; N]) {
        numbers.into_iter().for_each(|number| self.u32(number));
    }

    pub fn u64(&mut self, number: u64) {
        self.bytes[self.at..self.at + 8].copy_from_slice(&number.to_le_bytes());
        self.at += 8;
    }
}

/// Takes numbers one after the other.
pub struct Get<'b> {
    pub bytes: &'b [u8],
}

impl Get<'_> {
    pub fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (first, rest) = self.bytes.split_first_chunk().ok_or(Malformed("is cut short"))?;
        self.bytes = rest;
        Ok(*first)
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.take().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.take().map(u64::from_le_bytes)
    }
}
