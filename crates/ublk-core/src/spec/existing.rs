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
    pub fn existing(
        info: &sys::ublksrv_ctrl_dev_info,
        params: &Params,
        backend: &dyn Backend,
    ) -> Result<Self> {
        let (basic, flags) = (params.basic, Features(info.flags));
        let has = |attribute| basic.attrs & attribute != 0;
        let told = params.discard;
        let disk = Properties {
            size: basic.dev_sectors * SECTOR,
            block_size: 1 << basic.logical_bs_shift,
            write_cache: has(sys::UBLK_ATTR_VOLATILE_CACHE),
            discard: (params.types & sys::UBLK_PARAM_TYPE_DISCARD != 0).then_some(Discard {
                granularity: told.discard_granularity,
                alignment: told.discard_alignment,
                max: u64::from(told.max_discard_sectors) * SECTOR,
                max_write_zeroes: u64::from(told.max_write_zeroes_sectors) * SECTOR,
            }),
            alignment: alignment_of(params),
            chunk: basic.chunk_sectors << 9,
            optimal_io: 1 << basic.io_opt_shift,
            physical_block: 1 << basic.physical_bs_shift,
            segments: segments_of(params),
        };
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
        let physical = 1 << basic.physical_bs_shift;
        let existing = Self { disk, physical, choice: Choice::made(Mode::of(flags)), spec };
        existing.can_serve(backend, true).map_err(|misfit| {
            Error::invalid(misfit.message).hint("it has to be the backend that the device was made with")
        })?;
        Ok(existing)
    }

    /// Whether the device can be served with this backend: the driver takes the properties of a disk only before it starts.
    pub fn fits(&self, backend: &dyn Backend) -> std::result::Result<(), Misfit> {
        self.can_serve(backend, false)
    }

    /// The same for one that comes while the disk is in use: also what the disk can do besides reads and writes has to be there.
    pub fn fits_when_moved(&self, backend: &dyn Backend) -> std::result::Result<(), Misfit> {
        let (has, size) = (backend.properties().size, self.disk.size);
        if has < size {
            let message = format!("the other disk has {has} bytes, this one {size}");
            return Err(Misfit { message, remedy: "it needs as many".into() });
        }
        self.can_serve(backend, true)?;
        let (Some(disk), Some(has)) = (self.disk.discard, backend.properties().discard) else {
            return Ok(());
        };
        let lacks = |what: &str, without: &str| {
            let message = format!("the disk {what}, and the other one cannot");
            Err(Misfit { message, remedy: format!("make the disk without {without}") })
        };
        if disk.max > 0 && has.max == 0 {
            return lacks("discards", "discard");
        }
        if disk.max_write_zeroes > 0 && has.max_write_zeroes == 0 {
            return lacks("writes zeroes", "discard, which includes that");
        }
        Ok(())
    }

    /// `bounced`: one that does not have the disk's copy mode can, if the data is copied once more.
    fn can_serve(&self, backend: &dyn Backend, bounced: bool) -> std::result::Result<(), Misfit> {
        let Properties { size, block_size, discard, alignment, chunk, segments, .. } = self.disk;
        let (able, is_external) = (backend.copy_modes(), backend.is_external());
        let backend = backend.properties();
        let misfit = |message: String, remedy: String| Err(Misfit { message, remedy });
        let otherwise = || "create the disk with its backend".to_owned();
        // It may have more: a device that was to grow has not, if its server died in between.
        if backend.size < size {
            return misfit(format!("the backend has {} bytes, the disk {size}", backend.size), otherwise());
        }
        if backend.block_size > block_size {
            return misfit(
                format!("the backend's block size is {}, the disk's {block_size}", backend.block_size),
                format!("make it with block size {}", backend.block_size),
            );
        }
        let (physical, whole) = (self.physical, backend.physical_block);
        if whole > 0 && physical > whole {
            return misfit(
                format!("the backend writes {whole} bytes whole, and the disk says {physical}"),
                format!("make it with physical block size {whole}"),
            );
        }
        if discard.is_some() && backend.discard.is_none() {
            return misfit(
                "the disk discards, and the backend cannot".to_owned(),
                "make it without discard".to_owned(),
            );
        }
        let copy = self.choice.mode.copy;
        let bounces = bounced && !is_external && able.contains(&CopyMode::Copy);
        if !able.contains(&copy) && !bounces {
            return misfit(
                format!("the disk was made with copy {copy}, which the backend cannot serve"),
                "make it with copy copy, which any backend can serve".to_owned(),
            );
        }
        let wanted = backend.alignment;
        if copy == CopyMode::Zero
            && able.contains(&copy)
            && (wanted.start > alignment.start.max(SECTOR_U32) || wanted.gap > alignment.gap)
        {
            return misfit(
                "the backend needs another memory alignment than the disk has".to_owned(),
                "make it with copy copy, which needs none".to_owned(),
            );
        }
        if backend.chunk != 0 && (chunk == 0 || !backend.chunk.is_multiple_of(chunk)) {
            return misfit("the backend takes smaller requests than the disk's".to_owned(), otherwise());
        }
        if !segments.are_within(&backend.segments) {
            return misfit(
                "the backend takes fewer or smaller memory segments than the disk's requests have".to_owned(),
                otherwise(),
            );
        }
        Ok(())
    }
}

/// Why a backend cannot serve a device.
#[derive(Debug)]
pub struct Misfit {
    /// What differs.
    pub message: String,
    /// What would be right for a device that is made for this backend.
    pub remedy: String,
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
