//! Reads a disk's parameters and counters from sysfs. Unlike GET_PARAMS or an open of the disk, that never waits for a
//! lock that the driver or the block layer holds while it waits for requests.

use crate::abi::{SECTOR, segment_limits};
use std::fs;
use std::path::Path;

/// A disk's parameters.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Looks {
    pub size: u64,
    pub read_only: bool,
    pub block_size: u32,
    pub physical_block_size: u32,
    pub max_io: u32,
    pub write_cache: bool,
    pub fua: bool,
    pub rotational: bool,
    pub discard_granularity: u32,
    pub max_discard: u64,
    pub max_write_zeroes: u64,
    pub chunk: u32,
    pub optimal_io: u32,
    pub max_segments: u16,
    pub max_segment_size: u32,
}

/// The parameters of a device's disk; `None` if it has none.
pub(super) fn looks(id: u32) -> Option<Looks> {
    let number = |name: &str| read(id, name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let narrow = |name: &str| u32::try_from(number(name)).unwrap_or(u32::MAX);
    let size = read(id, "size")?.parse::<u64>().ok()? * SECTOR;
    let max_discard = number("queue/discard_max_hw_bytes");
    let most = u16::try_from(number("queue/max_segments")).unwrap_or(u16::MAX);
    let (max_segments, max_segment_size) = segment_limits(most, narrow("queue/max_segment_size"));
    Some(Looks {
        size,
        read_only: number("ro") != 0,
        block_size: narrow("queue/logical_block_size"),
        physical_block_size: narrow("queue/physical_block_size"),
        max_io: u32::try_from(number("queue/max_hw_sectors_kb") << 10).unwrap_or(u32::MAX),
        write_cache: read(id, "queue/write_cache").is_some_and(|text| text == "write back"),
        fua: number("queue/fua") != 0,
        rotational: number("queue/rotational") != 0,
        discard_granularity: if max_discard > 0 { narrow("queue/discard_granularity") } else { 0 },
        max_discard,
        max_write_zeroes: number("queue/write_zeroes_max_bytes"),
        chunk: u32::try_from(number("queue/chunk_sectors") * SECTOR).unwrap_or(u32::MAX),
        optimal_io: narrow("queue/optimal_io_size"),
        max_segments,
        max_segment_size,
    })
}

/// Whether sysfs is mounted.
pub(super) fn mounted() -> bool {
    Path::new("/sys/class/block").exists()
}

/// A disk's activity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Activity {
    /// Requests that it has answered.
    pub answered: u64,
    /// Requests in flight, even of a disk without a server.
    pub waiting: u64,
}

/// The activity of a device's disk (Documentation/block/stat.rst); `None` if it has none or it is being removed.
pub fn activity(id: u32) -> Option<Activity> {
    let stat = read(id, "stat")?;
    let fields: Vec<u64> = stat.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    let field = |at: usize| fields.get(at).copied().unwrap_or(0);
    // reads, writes, discards and flushes
    Some(Activity { answered: field(0) + field(4) + field(11) + field(15), waiting: field(8) })
}

fn read(id: u32, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/sys/block/ublkb{id}/{name}")).ok()?;
    Some(text.trim().to_owned())
}
