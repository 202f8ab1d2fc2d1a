//! The kernel's wire format, byte-exact and dull.
//!
//! Structures and flags come from `libublk-rs-sys`, which generates them from the kernel's own header
//! (`include/uapi/linux/ublk_cmd.h`). Opcodes are computed here with the kernel's ioctl encoding, and the
//! tests hold every size and offset against the header.

pub use libublk_rs_sys as sys;

use crate::number::{const_u16, const_u32};
use libublk_rs_sys::{ublk_batch_io, ublksrv_ctrl_cmd, ublksrv_io_cmd, ublksrv_io_desc};
use std::mem::size_of;

/// Bytes in a sector: every offset and length in a descriptor counts these, whatever the block size.
pub const SECTOR: u64 = 512;
/// The same, for what has 32 bits.
pub const SECTOR_U32: u32 = const_u32(SECTOR);
/// Deepest queue the driver allows (`UBLK_MAX_QUEUE_DEPTH`).
pub const MAX_DEPTH: u16 = const_u16(sys::UBLK_MAX_QUEUE_DEPTH as u64);

/// `_IOWR('u', nr, T)` and `_IOR('u', nr, T)` of `asm-generic/ioctl.h`, which x86 and arm64 share.
const fn ioctl(read_write: u32, nr: u32, size: usize) -> u32 {
    (read_write << 30) | (const_u32(size as u64) << 16) | ((b'u' as u32) << 8) | nr
}
const fn control_rw(nr: u32) -> u32 {
    ioctl(3, nr, size_of::<ublksrv_ctrl_cmd>())
}
const fn control_r(nr: u32) -> u32 {
    ioctl(2, nr, size_of::<ublksrv_ctrl_cmd>())
}
const fn io_rw(nr: u32) -> u32 {
    ioctl(3, nr, size_of::<ublksrv_io_cmd>())
}
const fn batch_rw(nr: u32) -> u32 {
    ioctl(3, nr, size_of::<ublk_batch_io>())
}

/// `ublk_params` as the kernel's header has it since 6.16: the sys crate's ends with `zoned`. A driver that knows less of it
/// leaves the rest alone.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs)] // the names are the kernel's own
pub struct Params {
    pub len: u32,
    pub types: u32,
    pub basic: sys::ublk_param_basic,
    pub discard: sys::ublk_param_discard,
    pub devt: sys::ublk_param_devt,
    pub zoned: sys::ublk_param_zoned,
    pub dma: sys::ublk_param_dma_align,
    pub gap: u32,
    pub seg: sys::ublk_param_segment,
}

impl Params {
    /// Its length in bytes.
    pub const LENGTH: u32 = const_u32(size_of::<Self>() as u64);

    /// The most segments of a request, and the most bytes in one; 0 for no limit. `None`, if the driver was told nothing.
    pub fn segments(&self) -> Option<(u16, u32)> {
        let told = self.types & sys::UBLK_PARAM_TYPE_SEGMENT != 0;
        told.then(|| segment_limits(self.seg.max_segments, self.seg.max_segment_size))
    }
}

/// The limits of segments, of which the kernel's own largest ones are none: 0.
pub fn segment_limits(most: u16, size: u32) -> (u16, u32) {
    (if most == u16::MAX { 0 } else { most }, if size == u32::MAX { 0 } else { size })
}

/// `BLK_SEG_BOUNDARY_MASK` of the kernel: what it takes for the segment boundary of a disk that has none.
pub const NO_SEGMENT_BOUNDARY: u64 = u32::MAX as u64;

/// Opcodes of control commands, sent to `/dev/ublk-control`.
#[allow(missing_docs)] // the names are the kernel's own
pub mod control_op {
    use super::{control_r, control_rw};
    pub const GET_QUEUE_AFFINITY: u32 = control_r(0x01);
    pub const GET_DEV_INFO: u32 = control_r(0x02);
    pub const ADD_DEV: u32 = control_rw(0x04);
    pub const DEL_DEV: u32 = control_rw(0x05);
    pub const START_DEV: u32 = control_rw(0x06);
    pub const STOP_DEV: u32 = control_rw(0x07);
    pub const SET_PARAMS: u32 = control_rw(0x08);
    pub const GET_PARAMS: u32 = control_r(0x09);
    pub const START_USER_RECOVERY: u32 = control_rw(0x10);
    pub const END_USER_RECOVERY: u32 = control_rw(0x11);
    pub const GET_DEV_INFO2: u32 = control_r(0x12);
    pub const GET_FEATURES: u32 = control_r(0x13);
    pub const DEL_DEV_ASYNC: u32 = control_r(0x14);
    pub const UPDATE_SIZE: u32 = control_rw(0x15);
    pub const QUIESCE_DEV: u32 = control_rw(0x16);
    pub const TRY_STOP_DEV: u32 = control_rw(0x17);
    pub const REG_BUF: u32 = control_rw(0x18);
    pub const UNREG_BUF: u32 = control_rw(0x19);
}

/// Opcodes of I/O commands, sent to `/dev/ublkcN`.
pub mod io_op {
    use super::{batch_rw, io_rw};
    /// Offers a tag to the driver for the first time.
    pub const FETCH_REQ: u32 = io_rw(0x20);
    /// Hands a finished request back and offers its tag again.
    pub const COMMIT_AND_FETCH_REQ: u32 = io_rw(0x21);
    /// Puts a request's pages into a slot of the ring's buffer table.
    pub const REGISTER_IO_BUF: u32 = io_rw(0x23);
    /// Takes them out.
    pub const UNREGISTER_IO_BUF: u32 = io_rw(0x24);
    /// Batch transport: offers tags for the first time.
    pub const PREP_IO_CMDS: u32 = batch_rw(0x25);
    /// Batch transport: hands finished requests back and offers their tags again.
    pub const COMMIT_IO_CMDS: u32 = batch_rw(0x26);
    /// Batch transport: asks for the tags of requests, until further notice.
    pub const FETCH_IO_CMDS: u32 = batch_rw(0x27);
}

/// `IORING_URING_CMD_MULTISHOT` of `io_uring.h` (6.18): a command that completes more than once.
pub const URING_CMD_MULTISHOT: u32 = 1 << 1;
/// `MAX_NR_TAG` of the driver: the maximum number of tags in one completion of FETCH_IO_CMDS.
pub const MAX_BATCH_TAGS: usize = 128;

/// `UBLK_IO_RES_ABORT`: the driver takes a tag back for good.
pub const RES_ABORT: i32 = -libc::ENODEV;

/// Bytes of queue `queue`'s descriptor table at `depth` tags: what has to be mapped, exactly.
pub fn table_len(depth: u16) -> usize {
    round_up(usize::from(depth) * size_of::<ublksrv_io_desc>(), page_size())
}

/// Where queue `queue`'s descriptor table starts in `/dev/ublkcN`. Tables lie apart by the size of the
/// *deepest* possible queue, not of this one (`ublk_max_cmd_buf_size` in the driver).
pub fn table_offset(queue: u16) -> usize {
    usize::from(queue) * round_up(usize::from(MAX_DEPTH) * size_of::<ublksrv_io_desc>(), page_size())
}

/// The payload of an I/O command, as it lies at byte 48 of its SQE.
pub fn io_command(queue: u16, tag: u16, result: i32, addr: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0..2].copy_from_slice(&queue.to_ne_bytes());
    bytes[2..4].copy_from_slice(&tag.to_ne_bytes());
    bytes[4..8].copy_from_slice(&result.to_ne_bytes());
    bytes[8..16].copy_from_slice(&addr.to_ne_bytes());
    bytes
}

/// The payload of a batch command: `count` elements of `bytes` each.
pub fn batch_command(queue: u16, flags: u16, count: u16, bytes: u8) -> [u8; 16] {
    let mut payload = [0; 16];
    payload[0..2].copy_from_slice(&queue.to_ne_bytes());
    payload[2..4].copy_from_slice(&flags.to_ne_bytes());
    payload[4..6].copy_from_slice(&count.to_ne_bytes());
    payload[6] = bytes;
    payload
}

/// The head of a batch command's element (`ublk_elem_header`), as one number in memory.
pub const fn batch_element(tag: u16, buffer_index: u16, result: i32) -> u64 {
    let low = (tag as u64) | (buffer_index as u64) << 16 | (result.cast_unsigned() as u64) << 32;
    low.to_le()
}

/// What an SQE's address says where the driver registers a request's pages by itself (`ublk_auto_buf_reg`): into this
/// slot, and to hand the request over without if that fails.
pub const fn auto_registration(slot: u16) -> u64 {
    slot as u64 | (sys::UBLK_AUTO_BUF_REG_FALLBACK as u64) << 16
}

/// Where in `/dev/ublkcN` the data of a tag's request lies, with USER_COPY.
pub const fn data_offset(queue: u16, tag: u16) -> u64 {
    sys::UBLKSRV_IO_BUF_OFFSET as u64
        + ((queue as u64) << sys::UBLK_QID_OFF)
        + ((tag as u64) << sys::UBLK_TAG_OFF)
}

/// The payload of a control command, as it lies at byte 48 of its 128-byte SQE.
pub fn control_command(cmd: &ublksrv_ctrl_cmd) -> [u8; 80] {
    let mut bytes = [0; 80];
    bytes[0..4].copy_from_slice(&cmd.dev_id.to_ne_bytes());
    bytes[4..6].copy_from_slice(&cmd.queue_id.to_ne_bytes());
    bytes[6..8].copy_from_slice(&cmd.len.to_ne_bytes());
    bytes[8..16].copy_from_slice(&cmd.addr.to_ne_bytes());
    bytes[16..24].copy_from_slice(&cmd.data[0].to_ne_bytes());
    bytes[24..26].copy_from_slice(&cmd.dev_path_len.to_ne_bytes());
    bytes
}

/// The machine's page size in bytes.
pub fn page_size() -> usize {
    // SAFETY: sysconf only reads a constant of the system.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "every system has one, of few KiB"
    )]
    let size = size as usize;
    size
}

/// Rounds `n` up to a multiple of `to`, a power of two.
pub const fn round_up(n: usize, to: usize) -> usize {
    (n + to - 1) & !(to - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;
    use sys::{
        ublk_auto_buf_reg, ublk_elem_header, ublk_param_basic, ublk_param_discard, ublksrv_ctrl_dev_info,
    };

    #[test]
    fn a_descriptor_is_24_bytes_not_32() {
        assert_eq!(size_of::<ublksrv_io_desc>(), 24);
        assert_eq!(offset_of!(ublksrv_io_desc, op_flags), 0);
        assert_eq!(offset_of!(ublksrv_io_desc, nr_sectors), 4);
        assert_eq!(offset_of!(ublksrv_io_desc, start_sector), 8);
        assert_eq!(offset_of!(ublksrv_io_desc, addr), 16);
    }

    #[test]
    fn structures_have_the_kernels_sizes_and_offsets() {
        assert_eq!(size_of::<ublksrv_io_cmd>(), 16);
        assert_eq!(size_of::<ublksrv_ctrl_cmd>(), 32);
        assert_eq!(offset_of!(ublksrv_ctrl_cmd, queue_id), 4);
        assert_eq!(offset_of!(ublksrv_ctrl_cmd, len), 6);
        assert_eq!(offset_of!(ublksrv_ctrl_cmd, addr), 8);
        assert_eq!(offset_of!(ublksrv_ctrl_cmd, data), 16);
        assert_eq!(offset_of!(ublksrv_ctrl_cmd, dev_path_len), 24);
        assert_eq!(size_of::<ublksrv_ctrl_dev_info>(), 64);
        assert_eq!(offset_of!(ublksrv_ctrl_dev_info, max_io_buf_bytes), 8);
        assert_eq!(offset_of!(ublksrv_ctrl_dev_info, ublksrv_pid), 16);
        assert_eq!(offset_of!(ublksrv_ctrl_dev_info, flags), 24);
        assert_eq!(offset_of!(ublksrv_ctrl_dev_info, owner_uid), 40);
        assert_eq!(size_of::<ublk_param_basic>(), 32);
        assert_eq!(size_of::<ublk_param_discard>(), 20);
        assert_eq!(offset_of!(Params, basic), 8);
        assert_eq!(offset_of!(Params, discard), 40);
        assert_eq!(offset_of!(Params, devt), 60);
        assert_eq!(offset_of!(Params, dma), 108);
        assert_eq!(offset_of!(Params, gap), 116);
        assert_eq!(offset_of!(Params, seg), 120);
        assert_eq!(size_of::<Params>(), 136);
        assert_eq!(size_of::<ublk_batch_io>(), 16);
        assert_eq!(offset_of!(ublk_batch_io, flags), 2);
        assert_eq!(offset_of!(ublk_batch_io, nr_elem), 4);
        assert_eq!(offset_of!(ublk_batch_io, elem_bytes), 6);
        assert_eq!(size_of::<ublk_elem_header>(), 8);
        assert_eq!(offset_of!(ublk_elem_header, buf_index), 2);
        assert_eq!(offset_of!(ublk_elem_header, result), 4);
    }

    #[test]
    fn computed_opcodes_are_the_headers() {
        for (ours, header) in [
            (control_op::GET_QUEUE_AFFINITY, sys::UBLK_U_CMD_GET_QUEUE_AFFINITY),
            (control_op::GET_DEV_INFO, sys::UBLK_U_CMD_GET_DEV_INFO),
            (control_op::ADD_DEV, sys::UBLK_U_CMD_ADD_DEV),
            (control_op::DEL_DEV, sys::UBLK_U_CMD_DEL_DEV),
            (control_op::START_DEV, sys::UBLK_U_CMD_START_DEV),
            (control_op::STOP_DEV, sys::UBLK_U_CMD_STOP_DEV),
            (control_op::SET_PARAMS, sys::UBLK_U_CMD_SET_PARAMS),
            (control_op::GET_PARAMS, sys::UBLK_U_CMD_GET_PARAMS),
            (control_op::START_USER_RECOVERY, sys::UBLK_U_CMD_START_USER_RECOVERY),
            (control_op::END_USER_RECOVERY, sys::UBLK_U_CMD_END_USER_RECOVERY),
            (control_op::GET_DEV_INFO2, sys::UBLK_U_CMD_GET_DEV_INFO2),
            (control_op::GET_FEATURES, sys::UBLK_U_CMD_GET_FEATURES),
            (control_op::DEL_DEV_ASYNC, sys::UBLK_U_CMD_DEL_DEV_ASYNC),
            (control_op::UPDATE_SIZE, sys::UBLK_U_CMD_UPDATE_SIZE),
            (control_op::QUIESCE_DEV, sys::UBLK_U_CMD_QUIESCE_DEV),
            (control_op::TRY_STOP_DEV, sys::UBLK_U_CMD_TRY_STOP_DEV),
            (control_op::REG_BUF, sys::UBLK_U_CMD_REG_BUF),
            (control_op::UNREG_BUF, sys::UBLK_U_CMD_UNREG_BUF),
            (io_op::FETCH_REQ, sys::UBLK_U_IO_FETCH_REQ),
            (io_op::COMMIT_AND_FETCH_REQ, sys::UBLK_U_IO_COMMIT_AND_FETCH_REQ),
            (io_op::REGISTER_IO_BUF, sys::UBLK_U_IO_REGISTER_IO_BUF),
            (io_op::UNREGISTER_IO_BUF, sys::UBLK_U_IO_UNREGISTER_IO_BUF),
            (io_op::PREP_IO_CMDS, sys::UBLK_U_IO_PREP_IO_CMDS),
            (io_op::COMMIT_IO_CMDS, sys::UBLK_U_IO_COMMIT_IO_CMDS),
            (io_op::FETCH_IO_CMDS, sys::UBLK_U_IO_FETCH_IO_CMDS),
        ] {
            assert_eq!(ours, header);
        }
    }

    #[test]
    fn numbers_that_stand_for_structures_are_laid_out_like_them() {
        // SAFETY: both structures are eight plain bytes without padding (their sizes are asserted).
        let (element, registration) = unsafe {
            (
                std::mem::transmute::<u64, ublk_elem_header>(batch_element(0x1122, 0x3344, -5)),
                std::mem::transmute::<u64, ublk_auto_buf_reg>(auto_registration(0x1122).to_le()),
            )
        };
        assert_eq!((element.tag, element.buf_index, element.result), (0x1122, 0x3344, -5));
        assert_eq!((registration.index, registration.reserved0, registration.reserved1), (0x1122, 0, 0));
        assert_eq!(u32::from(registration.flags), sys::UBLK_AUTO_BUF_REG_FALLBACK);
        assert_eq!(data_offset(1, 2), 0x8000_0000 + (1 << 41) + (2 << 25));
    }

    #[test]
    fn a_queues_table_starts_at_the_maximum_depth_whatever_its_own() {
        let stride = round_up(4096 * 24, page_size());
        assert_eq!(table_offset(0), 0);
        assert_eq!(table_offset(1), stride);
        assert_eq!(table_offset(3), 3 * stride);
        assert_eq!(table_len(1), page_size());
        assert_eq!(table_len(MAX_DEPTH), stride);
    }

    /// The SQE's layout is io_uring's; that our payload lands at byte 48 of it is ours to check.
    #[test]
    fn command_payloads_start_at_byte_48_of_the_sqe() {
        use io_uring::{opcode, squeue, types};
        let io = io_command(0x1122, 0x3344, -5, 0x5566_7788_99aa_bbcc);
        let entry = opcode::UringCmd16::new(types::Fixed(0), io_op::FETCH_REQ).cmd(io).build();
        // SAFETY: an entry is plain bytes of exactly this size.
        let raw = unsafe { std::mem::transmute::<squeue::Entry, [u8; 64]>(entry) };
        assert_eq!(raw[8..12], io_op::FETCH_REQ.to_ne_bytes());
        assert_eq!(raw[48..64], io);

        let cmd = ublksrv_ctrl_cmd {
            dev_id: 7,
            queue_id: 9,
            len: 64,
            addr: 0xabcd,
            data: [3],
            ..Default::default()
        };
        let payload = control_command(&cmd);
        // SAFETY: the structure is 32 bytes without padding (asserted above).
        let header = unsafe { std::mem::transmute::<ublksrv_ctrl_cmd, [u8; 32]>(cmd) };
        assert_eq!(payload[..32], header);
        let entry = opcode::UringCmd80::new(types::Fd(0), control_op::ADD_DEV).cmd(payload).build();
        // SAFETY: as above; an SQE128 is two plain 64-byte halves.
        let raw = unsafe { std::mem::transmute::<squeue::Entry128, [u8; 128]>(entry) };
        assert_eq!(raw[48..128], payload);
    }
}
