//! What programs ask of a block device beside reads and writes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

const BLKDISCARD: libc::c_ulong = 0x1277;
const BLKZEROOUT: libc::c_ulong = 0x127f;
const BLKSSZGET: libc::c_ulong = 0x1268;
const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;

fn on_range(disk: &File, request: libc::c_ulong, offset: u64, length: u64) -> io::Result<()> {
    let range = [offset, length];
    // SAFETY: these requests read two 64-bit numbers.
    check(unsafe { libc::ioctl(disk.as_raw_fd(), request as libc::Ioctl, range.as_ptr()) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// BLKDISCARD.
pub fn discard(disk: &File, offset: u64, length: u64) -> io::Result<()> {
    on_range(disk, BLKDISCARD, offset, length)
}

/// BLKZEROOUT: zeroes without giving the space back.
pub fn zero_out(disk: &File, offset: u64, length: u64) -> io::Result<()> {
    on_range(disk, BLKZEROOUT, offset, length)
}

/// fallocate's punch: zeroes, and the space may go.
pub fn punch(disk: &File, offset: u64, length: u64) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: plain numbers and an open descriptor.
    check(unsafe { libc::fallocate(disk.as_raw_fd(), mode, offset.cast_signed(), length.cast_signed()) })
}

/// A write that is on the medium when it returns.
pub fn write_durably(disk: &File, data: &[u8], offset: u64) -> io::Result<usize> {
    let vector = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: one vector over `data`, which is only read.
    let done = unsafe {
        libc::pwritev2(disk.as_raw_fd(), &raw const vector, 1, offset.cast_signed(), libc::RWF_DSYNC)
    };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

/// The disk's size in bytes.
pub fn size(disk: &File) -> u64 {
    let mut size = 0u64;
    // SAFETY: the request writes one 64-bit number.
    check(unsafe { libc::ioctl(disk.as_raw_fd(), BLKGETSIZE64 as libc::Ioctl, &raw mut size) }).unwrap();
    size
}

/// The disk's logical block size in bytes.
pub fn block_size(disk: &File) -> u32 {
    let mut size: libc::c_int = 0;
    // SAFETY: the request writes one int.
    check(unsafe { libc::ioctl(disk.as_raw_fd(), BLKSSZGET as libc::Ioctl, &raw mut size) }).unwrap();
    size.cast_unsigned()
}
