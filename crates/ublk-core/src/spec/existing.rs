//! The options of an existing device, read back from the driver's form.

use super::driver_form::Checked;
use super::{Recovery, Spec};
use crate::abi::{NO_SEGMENT_BOUNDARY, Params, SECTOR, SECTOR_U32, sys};
use crate::backend::{Alignment, Backend, Discard, Properties, Segments};
use crate::choice::Choice;
use crate::error::{Error, Result};
use crate::features::Features;
use crate::queue::{CopyMode, Mode};

impl Checked {
    /// An existing device that is to be served with `backend`. Fails if the backend does not fit it.
    pub fn existing(info: &sys::ublksrv_ctrl_dev_info, params: &Params, disk: &dyn Backend) -> Result<Self> {
        let (backend, able) = (disk.properties(), disk.copy_modes());
        let (basic, flags) = (params.basic, Features(info.flags));
        let has = |attribute| basic.attrs & attribute != 0;
        let (size, block_size) = (basic.dev_sectors * SECTOR, 1 << basic.logical_bs_shift);
        let misfit = |message: String| {
            Err(Error::invalid(message).hint("it has to be the backend that the device was made with"))
        };
        // It may have more: a device that was to grow has not, if its server died in between.
        if backend.size < size {
            return misfit(format!("the backend has {} bytes, the disk {size}", backend.size));
        }
        if backend.block_size > block_size {
            return misfit(format!(
                "the backend's block size is {}, the disk's {block_size}",
                backend.block_size
            ));
        }
        let told = params.discard;
        let discard = (params.types & sys::UBLK_PARAM_TYPE_DISCARD != 0).then_some(Discard {
            granularity: told.discard_granularity,
            alignment: told.discard_alignment,
            max: u64::from(told.max_discard_sectors) * SECTOR,
            max_write_zeroes: u64::from(told.max_write_zeroes_sectors) * SECTOR,
        });
        if discard.is_some() && backend.discard.is_none() {
            return misfit("the disk discards, and the backend cannot".to_owned());
        }
        let mode = Mode::of(flags);
        if !able.contains(&mode.copy) {
            return misfit(format!(
                "the disk was made with copy {}, which the backend cannot serve",
                mode.copy
            ));
        }
        let spec = Spec {
            id: Some(info.dev_id),
            queues: info.nr_hw_queues.into(),
            depth: info.queue_depth.into(),
            max_io: (basic.max_sectors << 9).min(info.max_io_buf_bytes),
            read_only: has(sys::UBLK_ATTR_READ_ONLY),
            rotational: has(sys::UBLK_ATTR_ROTATIONAL),
            recovery: Recovery::of(flags),
            partition_scan: !flags.has(sys::UBLK_F_NO_AUTO_PART_SCAN.into()),
            ..Spec::default()
        };
        let alignment = alignment_of(params);
        let wanted = backend.alignment;
        if mode.copy == CopyMode::Zero
            && (wanted.start > alignment.start.max(SECTOR_U32) || wanted.gap > alignment.gap)
        {
            return misfit("the backend needs another memory alignment than the disk has".to_owned());
        }
        let (chunk, optimal_io) = (basic.chunk_sectors << 9, 1 << basic.io_opt_shift);
        if backend.chunk != 0 && (chunk == 0 || !backend.chunk.is_multiple_of(chunk)) {
            return misfit("the backend takes smaller requests than the disk's".to_owned());
        }
        let segments = segments_of(params);
        if !segments.are_within(&backend.segments) {
            return misfit(
                "the backend takes fewer or smaller memory segments than the disk's requests have".to_owned(),
            );
        }
        let write_cache = has(sys::UBLK_ATTR_VOLATILE_CACHE);
        let disk =
            Properties { size, block_size, write_cache, discard, alignment, chunk, optimal_io, segments };
        let physical = 1 << basic.physical_bs_shift;
        Ok(Self { disk, physical, choice: Choice::made(mode), spec })
    }
}

/// The limits of segments that [`Checked::params`] has set.
fn segments_of(params: &Params) -> Segments {
    let Some((most, size)) = params.segments() else { return Segments::default() };
    let mask = params.seg.seg_boundary_mask;
    Segments { most, size, boundary: if mask == NO_SEGMENT_BOUNDARY { 0 } else { mask + 1 } }
}

/// The alignment that [`Checked::align`] has set.
fn alignment_of(params: &Params) -> Alignment {
    let told = params.types & sys::UBLK_PARAM_TYPE_DMA_ALIGN != 0;
    let mask = params.basic.virt_boundary_mask;
    Alignment {
        start: if told { params.dma.alignment + 1 } else { 0 },
        gap: if mask == 0 { 0 } else { mask + 1 },
    }
}
