//! Checked options, in the driver's form: flags, ADD_DEV and SET_PARAMS.

use super::check::{MAX_SIZE, check_size};
use super::{Spec, limits};
use crate::abi::{NO_SEGMENT_BOUNDARY, Params, SECTOR, SECTOR_U32, sys};
use crate::backend::{Alignment, Discard, Properties, Segments};
use crate::choice::Choice;
use crate::error::{Error, ErrorKind, Hint, Remedy, Result};
use crate::features::{FEATURES, Features};
use crate::queue::CopyMode;

/// Checked options of a device.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    /// The disk as its users see it: its backend's properties, restricted by the options.
    pub disk: Properties,
    pub(super) physical: u32,
    /// Its transport and copy mode.
    pub choice: Choice,
    /// The options that it was made from.
    pub spec: Spec,
}

/// Flags that a device can do without: the driver drops those that it does not know.
const OPTIONAL: u64 = sys::UBLK_F_CMD_IOCTL_ENCODE as u64
    | sys::UBLK_F_UPDATE_SIZE as u64
    | sys::UBLK_F_QUIESCE as u64
    | sys::UBLK_F_UNPRIVILEGED_DEV as u64;

impl Checked {
    /// For ADD_DEV.
    pub fn info(&self) -> sys::ublksrv_ctrl_dev_info {
        #[expect(clippy::cast_possible_truncation, reason = "at most 4096 each, as was checked")]
        let (nr_hw_queues, queue_depth) = (self.spec.queues as u16, self.spec.depth as u16);
        sys::ublksrv_ctrl_dev_info {
            nr_hw_queues,
            queue_depth,
            max_io_buf_bytes: self.spec.max_io,
            dev_id: self.spec.id.unwrap_or(u32::MAX),
            ublksrv_pid: std::process::id().cast_signed(),
            flags: self.flags(),
            ..Default::default()
        }
    }

    fn flags(&self) -> u64 {
        let wanted = |on: bool, flag: u32| if on { u64::from(flag) } else { 0 };
        self.spec.recovery.map_or(0, |recovery| recovery.flags() | u64::from(sys::UBLK_F_QUIESCE))
            | wanted(true, sys::UBLK_F_CMD_IOCTL_ENCODE)
            | wanted(true, sys::UBLK_F_UPDATE_SIZE)
            | wanted(!self.spec.partition_scan, sys::UBLK_F_NO_AUTO_PART_SCAN)
            | wanted(self.spec.shared_memory, sys::UBLK_F_SHMEM_ZC)
            | self.choice.mode.flags()
            // The driver drops it if the caller does not need it.
            | wanted(true, sys::UBLK_F_UNPRIVILEGED_DEV)
    }

    /// Checks the flags that the driver kept: it drops those that it does not support.
    pub fn kept(&self, flags: u64) -> Result<()> {
        let (kept, lacking) = (Features(flags), self.flags() & !OPTIONAL & !flags);
        let Some(feature) = FEATURES.iter().find(|feature| lacking & feature.flag != 0) else {
            return Ok(());
        };
        let failed = Error::new(
            ErrorKind::Unsupported,
            format!("the driver cannot do what was asked for: {}", feature.name),
        );
        let recovery = feature.name.starts_with("USER_RECOVERY");
        Err(failed.hint(if recovery && kept.has(sys::UBLK_F_UNPRIVILEGED_DEV.into()) {
            Hint::from("only root can make a device that can be recovered")
        } else {
            Hint::from(format!("Linux {} or newer can", feature.since)).by(Remedy::Features)
        }))
    }

    /// Checks a new size in bytes.
    pub fn check_size(&self, size: u64) -> Result<()> {
        if size == 0 || size > MAX_SIZE || !size.is_multiple_of(u64::from(self.disk.block_size)) {
            return Err(Error::invalid(format!("the size {size} is not possible"))
                .hint(format!("a multiple of the block size {} below 8 EiB is", self.disk.block_size)));
        }
        Ok(())
    }

    /// Checks the size of the backend of a disk that was empty until now.
    pub fn check_first_size(&self, size: u64) -> Result<()> {
        check_size(size, self.disk.block_size)
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.disk.size
    }

    /// The same device with another size.
    pub fn resized(&mut self, size: u64) {
        self.disk.size = size;
    }

    /// For SET_PARAMS. `max_io`: bytes in a tag's buffer as ADD_DEV left it; no request can be larger.
    pub fn params(&self, max_io: u32) -> Params {
        let attribute = |on: bool, flag: u32| if on { flag } else { 0 };
        let mut params = Params {
            len: Params::LENGTH,
            types: sys::UBLK_PARAM_TYPE_BASIC,
            basic: sys::ublk_param_basic {
                attrs: attribute(self.spec.read_only, sys::UBLK_ATTR_READ_ONLY)
                    | attribute(self.spec.rotational, sys::UBLK_ATTR_ROTATIONAL)
                    | attribute(self.disk.write_cache, sys::UBLK_ATTR_VOLATILE_CACHE | sys::UBLK_ATTR_FUA),
                logical_bs_shift: shift(self.disk.block_size),
                physical_bs_shift: shift(self.physical),
                io_opt_shift: shift(self.optimal_io()),
                io_min_shift: shift(self.disk.block_size),
                max_sectors: self.spec.max_io.min(max_io) >> 9,
                chunk_sectors: self.disk.chunk >> 9,
                dev_sectors: self.disk.size / SECTOR,
                ..Default::default()
            },
            ..Default::default()
        };
        if let Some(Discard { granularity, alignment, max, max_write_zeroes }) = self.disk.discard {
            params.types |= sys::UBLK_PARAM_TYPE_DISCARD;
            params.discard = sys::ublk_param_discard {
                discard_granularity: granularity,
                discard_alignment: alignment,
                max_discard_sectors: sectors(max),
                max_write_zeroes_sectors: sectors(max_write_zeroes),
                // The driver hands discards on one range at a time.
                max_discard_segments: u16::from(max > 0),
                ..Default::default()
            };
        }
        if self.choice.mode.copy == CopyMode::Zero {
            self.align(&mut params);
        }
        if !self.disk.segments.is_unlimited() {
            let Segments { most, size, boundary } = self.disk.segments;
            params.types |= sys::UBLK_PARAM_TYPE_SEGMENT;
            // The driver requires all three: these are the kernel's values for no limit.
            params.seg = sys::ublk_param_segment {
                seg_boundary_mask: if boundary == 0 { NO_SEGMENT_BOUNDARY } else { boundary - 1 },
                max_segment_size: if size == 0 { u32::MAX } else { size },
                max_segments: if most == 0 { u16::MAX } else { most },
                ..Default::default()
            };
        }
        params
    }

    /// The driver takes a power of two, of at most 256 MiB: the largest one that the backend's is a multiple of.
    fn optimal_io(&self) -> u32 {
        let largest = 1_u32.checked_shl(self.disk.optimal_io.trailing_zeros()).unwrap_or(0);
        largest.min(limits::MAX_PHYSICAL_BLOCK_SIZE).max(self.physical)
    }

    /// Requests whose pages are used without a copy must be aligned for that.
    fn align(&self, params: &mut Params) {
        let Alignment { start, gap } = self.disk.alignment;
        if start > SECTOR_U32 {
            params.types |= sys::UBLK_PARAM_TYPE_DMA_ALIGN;
            params.dma.alignment = start - 1;
        }
        if gap > 0 {
            params.basic.virt_boundary_mask = gap - 1;
        }
    }
}

/// The exponent of a power of two.
fn shift(power: u32) -> u8 {
    #[expect(clippy::cast_possible_truncation, reason = "at most 32")]
    let shift = power.trailing_zeros() as u8;
    shift
}

/// The limit of a discard in sectors; the driver's counter has 32 bits.
fn sectors(bytes: u64) -> u32 {
    u32::try_from(bytes / SECTOR).unwrap_or(u32::MAX)
}
