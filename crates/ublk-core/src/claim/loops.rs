//! Loop devices: they use a file without a lock, or a block device without a claim.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// A conflicting loop device that is attached to this file or block device, such as `/dev/loop0`: any conflicts with a
/// writer, a writable one with a reader.
pub fn on(path: &Path, file: &File, writable: bool) -> io::Result<Option<String>> {
    let meant = file.metadata()?;
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let Ok(entries) = fs::read_dir("/sys/block") else { return Ok(None) };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    // There may be a thousand disks, and hardly a loop device.
    for name in names.filter(|name| name.starts_with("loop")) {
        // Opening a loop device may wait for its file's file system: only those whose file has the same name are opened.
        let Some(backing) = backing_file(&name) else { continue };
        if Path::new(&backing).file_name() != path.file_name() {
            continue;
        }
        let node = format!("/dev/{name}");
        let Some(found) = File::open(&node).ok().and_then(|device| status(&device)) else { continue };
        let same = if meant.file_type().is_block_device() {
            found.rdevice == meant.rdev()
        } else {
            (found.device, found.inode) == (meant.dev(), meant.ino())
        };
        if same && (writable || found.flags & READ_ONLY == 0) {
            return Ok(Some(node));
        }
    }
    Ok(None)
}

/// The path of the file that a device is attached to.
fn backing_file(name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Some(text.strip_suffix(" (deleted)").unwrap_or(text).to_owned())
}

const LOOP_GET_STATUS64: u32 = 0x4c05;
const READ_ONLY: u32 = 1;

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
struct Status {
    device: u64,
    inode: u64,
    rdevice: u64,
    _offset: u64,
    _size_limit: u64,
    _number: u32,
    _encryption: [u32; 2],
    flags: u32,
    _names: [[u8; 64]; 2],
    _key: [u8; 32],
    _init: [u64; 2],
}

nix::ioctl_read_bad!(loop_get_status64, LOOP_GET_STATUS64, Status);

fn status(device: &File) -> Option<Status> {
    // SAFETY: all-zero is a valid status.
    let mut status: Status = unsafe { std::mem::zeroed() };
    // SAFETY: the ioctl fills in one loop_info64, which Status is.
    unsafe { loop_get_status64(device.as_raw_fd(), &raw mut status) }.ok()?;
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_a_loop_device_is_as_the_kernel_lays_it_out() {
        assert_eq!(size_of::<Status>(), 232);
        assert_eq!(std::mem::offset_of!(Status, flags), 52);
    }
}
