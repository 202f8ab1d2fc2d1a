//! Checks the options: the only check of their ranges, with the numbers of [`limits`].

use super::driver_form::Checked;
use super::{Spec, limits};
use crate::abi::sys;
use crate::backend::{Discard, Properties, Segments};
use crate::choice::Choice;
use crate::error::{Error, ErrorKind, Result};

/// The largest disk: offsets are signed 64-bit numbers in the kernel.
pub(super) const MAX_SIZE: u64 = i64::MAX as u64;

impl Spec {
    /// The same for a disk that is empty until its device is bound to a backend.
    pub(crate) fn check_empty(&self, backend: &Properties) -> Result<Checked> {
        let size = limits::BLOCK_SIZES.iter().copied().max().unwrap_or_default().into(); // any that is possible
        let mut checked = self.check(&Properties { size, ..*backend })?;
        checked.resized(0);
        Ok(checked)
    }

    /// Checks the options. Fails with the first one that is wrong.
    pub(crate) fn check(&self, backend: &Properties) -> Result<Checked> {
        let range = |name: &str, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(Error::invalid(format!("{name} {value} is out of range"))
                .hint(format!("{least} to {most} is possible")))
        };
        if let Some(id) = self.id {
            range("id", id.into(), 0, limits::MAX_ID.into())?;
        }
        range("queues", self.queues.into(), 1, limits::MAX_QUEUES.into())?;
        range("depth", self.depth.into(), 1, limits::MAX_DEPTH.into())?;
        let most_threads = limits::MAX_THREADS_PER_QUEUE.min(self.depth);
        range("threads per queue", self.threads_per_queue.into(), 1, most_threads.into())?;
        let poll = u64::try_from(self.poll.as_micros()).unwrap_or(u64::MAX);
        range("poll", poll, 0, limits::MAX_POLL.into())?;
        let page = limits::MIN_MAX_IO;
        range("max I/O", self.max_io.into(), page.into(), limits::MAX_MAX_IO.into())?;
        if !self.max_io.is_multiple_of(page) {
            return Err(Error::invalid(format!("max I/O {} is not a multiple of {page}", self.max_io)));
        }
        let block = self.block_size.unwrap_or(backend.block_size);
        if !limits::BLOCK_SIZES.contains(&block) {
            return Err(Error::invalid(format!("block size {block} is not possible"))
                .hint(format!("{:?} are", limits::BLOCK_SIZES)));
        }
        if block < backend.block_size {
            return Err(Error::invalid(format!(
                "block size {block} is smaller than the backend's {}",
                backend.block_size
            )));
        }
        let usual = match backend.physical_block {
            0 => limits::DEFAULT_PHYSICAL_BLOCK_SIZE,
            atomic => atomic,
        };
        let physical = self.physical_block_size.unwrap_or(usual);
        let largest = limits::MAX_PHYSICAL_BLOCK_SIZE;
        if !physical.is_power_of_two() || !(block..=largest).contains(&physical) {
            return Err(Error::invalid(format!("physical block size {physical} is not possible"))
                .hint(format!("a power of two from {block} to {largest} is")));
        }
        if backend.physical_block > 0 && physical > backend.physical_block {
            return Err(Error::invalid(format!(
                "the backend does not write physical blocks of {physical} bytes whole, only {}",
                backend.physical_block
            ))
            .hint("leave out the option, or give the backend larger units"));
        }
        check_size(backend.size, block)?;
        if self.shared_memory && self.recovery.is_some() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a disk that shares memory cannot be recoverable",
            )
            .hint("another server would not have that memory"));
        }
        let discard = self.discard_limits(backend, block)?;
        let write_cache = !self.read_only && self.write_cache.unwrap_or(backend.write_cache);
        let chunk = backend.chunk;
        if !chunk.is_multiple_of(block) {
            return Err(Error::invalid(format!(
                "the backend's chunk {chunk} is not a multiple of the block size {block}"
            )));
        }
        check_segments(&backend.segments)?;
        let disk = Properties { block_size: block, discard, write_cache, ..*backend };
        Ok(Checked { disk, physical, choice: Choice::default(), spec: self.clone() })
    }

    fn discard_limits(&self, backend: &Properties, block: u32) -> Result<Option<Discard>> {
        let wanted = self.discard.unwrap_or(true) && !self.read_only;
        let Some(able) = backend.discard.filter(|_| wanted) else {
            if self.discard == Some(true) {
                return Err(Error::new(ErrorKind::Unsupported, "this disk cannot discard").hint(
                    "its backend cannot, its file's filesystem cannot punch holes, or it is read-only",
                ));
            }
            return Ok(None);
        };
        let granularity = self.discard_granularity.unwrap_or(able.granularity.max(block));
        let check = |name: &str, value: u64, most: u64| {
            if value != 0 && value <= most && value.is_multiple_of(block.into()) {
                return Ok(());
            }
            Err(Error::invalid(format!("{name} {value} is not possible"))
                .hint(format!("a multiple of the block size {block}, at most {most}, is")))
        };
        // The backend's own granularity may be larger.
        let most = self.discard_granularity.map_or(u32::MAX, |_| limits::MAX_DISCARD_GRANULARITY);
        check("discard granularity", granularity.into(), most.into())?;
        if let Some(max) = self.max_discard {
            check("largest discard", max, limits::MAX_DISCARD)?;
        }
        let most = limits::MAX_DISCARD;
        let limit = |able: u64| match self.max_discard {
            Some(wish) if able > 0 => wish,
            _ => able.min(most) / u64::from(granularity) * u64::from(granularity),
        };
        Ok(Some(Discard {
            granularity,
            // A granularity that was asked for begins at the disk's beginning.
            alignment: if granularity == able.granularity { able.alignment } else { 0 },
            max: limit(able.max),
            max_write_zeroes: limit(able.max_write_zeroes),
        }))
    }
}

/// Checks the size of a disk.
pub(super) fn check_size(size: u64, block: u32) -> Result<()> {
    if size == 0 {
        return Err(
            Error::invalid("the size is 0").hint(format!("a disk has at least one block of {block} bytes"))
        );
    }
    if size > MAX_SIZE {
        return Err(Error::invalid(format!("the size {size} is beyond 8 EiB")));
    }
    if !size.is_multiple_of(u64::from(block)) {
        return Err(Error::invalid(format!("the size {size} is not a multiple of the block size {block}"))
            .hint(format!("{} would be", size - size % u64::from(block) + u64::from(block))));
    }
    Ok(())
}

/// Checks a backend's limits of segments as the driver does, which says only that something is wrong.
fn check_segments(segments: &Segments) -> Result<()> {
    let least = sys::UBLK_MIN_SEGMENT_SIZE;
    let Segments { size, boundary, .. } = *segments;
    if size != 0 && size < least {
        return Err(Error::invalid(format!("the backend's segment size {size} is not possible"))
            .hint(format!("at least {least} bytes is")));
    }
    if boundary != 0 && (boundary < least.into() || !boundary.is_power_of_two()) {
        return Err(Error::invalid(format!("the backend's segment boundary {boundary} is not possible"))
            .hint(format!("a power of two of at least {least} bytes is")));
    }
    Ok(())
}
