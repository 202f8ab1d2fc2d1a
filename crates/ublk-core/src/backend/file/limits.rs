//! What a file, and the device that it is or lies on, ask of direct operations.

use crate::backend::Alignment;
use std::fs::{self, File, Metadata};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// Bytes to which direct operations have to be aligned.
pub struct Direct {
    /// In the file: at least 512.
    pub offset: u32,
    /// In memory.
    pub memory: u32,
}

/// As the kernel says it (statx, 6.1); 4096, and 512 in memory, where it does not.
pub fn direct_alignment(file: &File) -> Direct {
    // SAFETY: all-zero is a valid statx, and the call fills it in.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: an open descriptor, an empty path with AT_EMPTY_PATH, and a buffer of the right type.
    let answer = unsafe {
        libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, &raw mut stat)
    };
    let told = answer == 0 && stat.stx_mask & libc::STATX_DIOALIGN != 0 && stat.stx_dio_offset_align != 0;
    if told {
        Direct { offset: stat.stx_dio_offset_align.max(512), memory: stat.stx_dio_mem_align }
    } else {
        Direct { offset: 4096, memory: 512 }
    }
}

/// What the pages of a request have to be like to go to the device as they are. `start`: where they may begin, in bytes.
pub fn of(file: &Metadata, start: u32) -> Alignment {
    let gap = queue_limit(file, "virt_boundary_mask").unwrap_or(0);
    Alignment { start, gap: if gap == 0 { 0 } else { gap + 1 } }
}

/// Bytes that one write-zeroes of a block device may cover; 0: it has none.
pub fn write_zeroes(file: &Metadata) -> u64 {
    queue_limit(file, "write_zeroes_max_bytes").unwrap_or(0)
}

/// One of the block layer's limits, if there is a block device.
fn queue_limit(file: &Metadata, name: &str) -> Option<u64> {
    let number = if file.file_type().is_block_device() { file.rdev() } else { file.dev() };
    let dir = format!("/sys/dev/block/{}:{}", libc::major(number), libc::minor(number));
    // A partition's queue is its disk's.
    ["queue", "../queue"]
        .iter()
        .find_map(|queue| fs::read_to_string(format!("{dir}/{queue}/{name}")).ok())?
        .trim()
        .parse()
        .ok()
}
