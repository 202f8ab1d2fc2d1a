//! The part of the local file that has what was written: segments one after the other, the oldest of which make room for new ones.

use super::format::{BLOCK, MOST_BLOCKS};
use std::collections::VecDeque;
use std::ops::Range;

/// Bytes that a new segment may grow to.
pub const SPAN: u64 = MOST_BLOCKS as u64 * BLOCK;

/// Has what segments that are gone have left.
pub const NOBODY: u32 = u32::MAX;

/// See the [module](self).
#[derive(Debug)]
pub struct Ring {
    area: Range<u64>,
    /// Segments by number, and their bytes of the file; the oldest first.
    spans: VecDeque<(u32, Range<u64>)>,
}

impl Ring {
    /// In these bytes of the file.
    pub fn new(area: Range<u64>) -> Self {
        Self { area, spans: VecDeque::new() }
    }

    /// Where a new segment begins. `free`: whether the place of an old one may be used again; it is forgotten then.
    pub fn begin(&mut self, segment: u32, mut free: impl FnMut(u32) -> bool) -> Option<u64> {
        loop {
            if let Some(start) = self.room() {
                self.spans.push_back((segment, start..start + SPAN));
                return Some(start);
            }
            let (oldest, _) = self.spans.front()?;
            if *oldest != NOBODY && !free(*oldest) {
                return None;
            }
            self.spans.pop_front();
        }
    }

    /// The newest segment does not grow beyond this length any more.
    pub fn end(&mut self, segment: u32, length: u64) {
        if let Some((number, span)) = self.spans.back_mut()
            && *number == segment
        {
            span.end = span.start + length;
        }
    }

    /// A segment that an earlier server left there.
    pub fn restore(&mut self, segment: u32, span: Range<u64>) -> bool {
        let fits = span.start >= self.area.start && span.end <= self.area.end && span.start <= span.end;
        let apart = self.spans.iter().all(|(_, other)| other.end <= span.start || span.end <= other.start);
        if fits && apart {
            self.spans.push_back((segment, span));
        }
        fits && apart
    }

    /// A segment is gone, and its number may become another's.
    pub fn forget(&mut self, segment: u32) {
        self.spans
            .iter_mut()
            .filter(|(number, _)| *number == segment)
            .for_each(|(number, _)| *number = NOBODY);
    }

    fn room(&self) -> Option<u64> {
        let (Some((_, first)), Some((_, last))) = (self.spans.front(), self.spans.back()) else {
            return (self.area.end - self.area.start >= SPAN).then_some(self.area.start);
        };
        if last.start >= first.start {
            if self.area.end - last.end >= SPAN {
                return Some(last.end);
            }
            return (first.start - self.area.start >= SPAN).then_some(self.area.start);
        }
        (first.start.saturating_sub(last.end) >= SPAN).then_some(last.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_segments_share_a_byte_and_the_oldest_go_first() {
        let area = 4096..4096 + 3 * SPAN + 5000;
        let mut ring = Ring::new(area.clone());
        let mut held: VecDeque<(u32, Range<u64>)> = VecDeque::new();
        let mut seed = 3_u64;
        for segment in 0..1000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let keeps = (seed >> 40) % 3;
            let mut freed = 0;
            let found = ring.begin(segment, |oldest| {
                if held.len() as u64 <= keeps {
                    return false;
                }
                assert_eq!(held.pop_front().map(|(number, _)| number), Some(oldest));
                freed += 1;
                true
            });
            let Some(start) = found else {
                assert!(!held.is_empty());
                continue;
            };
            let length = (seed >> 20) % (SPAN / BLOCK + 1) * BLOCK;
            assert!(start >= area.start && start + SPAN <= area.end);
            assert!(
                held.iter().all(|(_, other)| other.end <= start || start + SPAN <= other.start),
                "{segment}"
            );
            ring.end(segment, length);
            held.push_back((segment, start..start + length));
        }
    }

    #[test]
    fn what_a_segment_that_is_gone_has_left_is_free() {
        let mut ring = Ring::new(0..SPAN);
        assert_eq!(ring.begin(1, |_| false), Some(0));
        ring.forget(1);
        assert_eq!(ring.begin(1, |_| false), Some(0));
    }

    #[test]
    fn what_is_restored_is_kept_apart() {
        let mut ring = Ring::new(0..4 * SPAN);
        assert!(ring.restore(1, SPAN..SPAN + 8192) && !ring.restore(2, SPAN + 4096..SPAN + 9000));
        assert!(!ring.restore(2, 4 * SPAN..4 * SPAN + 1));
        assert_eq!(ring.begin(3, |_| false), Some(SPAN + 8192));
    }
}
