//! Writes a diff as a sparse file of the disk's size, and the list of what was changed. What was not changed is a hole, and
//! so are zeroes that were written: the list tells them apart.

use super::{Aside, zero_runs};
use std::fmt::Write;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use ublk_core::backend::Sink;

/// See the [module](self).
pub struct RawDiff {
    file: File,
    aside: Aside,
    size: u64,
    ranges: Vec<Range<u64>>,
}

impl RawDiff {
    /// Into an empty file.
    pub fn new(file: File, aside: Aside) -> Self {
        Self { file, aside, size: 0, ranges: Vec::new() }
    }

    /// All has been put. The list of what was changed, as one JSON object.
    pub fn finish(self) -> String {
        let mut ranges = self.ranges;
        ranges.sort_unstable_by_key(|range| range.start);
        ranges.dedup_by(|next, range| {
            let adjacent = range.end == next.start;
            if adjacent {
                range.end = next.end;
            }
            adjacent
        });
        let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let mut list = format!("{{\"size\":{},\"bytes\":{bytes},\"ranges\":[", self.size);
        for (at, range) in ranges.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let (offset, length) = (range.start, range.end - range.start);
            let _ = write!(list, "{comma}\n{{\"offset\":{offset},\"length\":{length}}}"); // cannot fail
        }
        list.push_str("]}\n");
        list
    }
}

impl Sink for RawDiff {
    fn begin(&mut self, size: u64) -> io::Result<()> {
        self.size = size;
        self.file.set_len(size)
    }

    fn put(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.ranges.push(offset..offset + data.len() as u64);
        zero_runs(data, 4096).filter(|(zero, _)| !zero).try_for_each(|(_, range)| {
            self.file.write_all_at(&data[range.clone()], offset + range.start as u64)
        })
    }

    fn aside(&self) -> io::Result<File> {
        self.aside.file()
    }
}
