//! The options of a device, checked before the driver gets them.

use crate::abi::{MAX_DEPTH, MAX_ID, MAX_IO, MAX_QUEUES, Params, SECTOR, sys};
use crate::backend::{Alignment, Backend, Discard, Properties};
use crate::choice::Choice;
use crate::error::{Error, ErrorKind, Hint, Remedy, Result};
use crate::features::{FEATURES, Features};
use crate::pages::Pages;
use crate::queue::{CopyMode, Mode, Transport};
use std::time::Duration;

/// The options of a device. `None`: the default, which may depend on the backend.
///
/// Later versions add fields. Take the rest from the default, and what you write compiles with them, too:
///
/// ```
/// use ublk_core::Spec;
///
/// let spec = Spec { queues: 4, read_only: true, ..Spec::default() };
/// assert_eq!(spec.depth, 128);
/// ```
#[derive(Debug, Clone)]
pub struct Spec {
    /// The device's number, below 2^20. `None`: the driver picks a free one.
    pub id: Option<u32>,
    /// Hardware queues: 1 to 4096. The driver keeps at most one per CPU.
    pub queues: u32,
    /// Requests in flight per queue: 1 to 4096.
    pub depth: u32,
    /// Logical block size in bytes: 512, 1024, 2048 or 4096.
    pub block_size: Option<u32>,
    /// Physical block size in bytes: a power of two, not below the logical one, at most 256 MiB.
    pub physical_block_size: Option<u32>,
    /// Largest request in bytes: 4096 to 32 MiB, a multiple of 4096.
    pub max_io: u32,
    /// Refuse writes.
    pub read_only: bool,
    /// Announce a volatile write cache: completed writes may be lost in a power failure until a flush.
    pub write_cache: Option<bool>,
    /// Announce that seeking is slow.
    pub rotational: bool,
    /// Whether to advertise discard and write-zeroes.
    pub discard: Option<bool>,
    /// Bytes: a multiple of the block size.
    pub discard_granularity: Option<u32>,
    /// Bytes per discard: a multiple of the block size.
    pub max_discard: Option<u64>,
    /// What happens to the disk when its server ends. `None`: it is removed.
    pub recovery: Option<Recovery>,
    /// Whether the kernel looks for partitions when the disk appears. `false` needs 7.0.
    pub partition_scan: bool,
    /// Which threads serve the queues, if the backend has engines.
    pub threads: Threads,
    /// Whether it can [share memory](crate::Device::share) with its clients (7.1).
    pub shared_memory: bool,
    /// How many threads serve each queue with [`Threads::Own`]: 1 to 64, and at most its depth. With [`Transport::PerIo`] the
    /// tags are divided among them; with [`Transport::Batch`] a thread gets the requests that the others are too busy for. More
    /// than one needs 6.16.
    pub threads_per_queue: u32,
    /// Whether [`Threads::Own`] of a device with several queues are pinned to the CPUs whose requests come to their queue.
    /// `None`: unless they poll, since a polling thread would take the CPU from the process that sends the requests.
    pub affinity: Option<bool>,
    /// How long a queue's thread busy-polls after it had work before it sleeps: at most 1 ms. Polling that finds nothing
    /// becomes rare. Not for shared threads, nor if the thread may use only one CPU.
    pub poll: Duration,
    /// How the pages of the I/O buffers are allocated.
    pub buffers: Pages,
    /// How requests come from the driver and answers go back. `None`: the faster one.
    pub transport: Option<Transport>,
    /// How the data of requests gets to the backend and back. `None`: the best possible one.
    pub copy: Option<CopyMode>,
}

/// Which threads serve the queues of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Threads {
    /// One thread for each queue.
    #[default]
    Own,
    /// A few threads, for the queues of all devices of this process with this value.
    Shared,
}

/// What happens to a disk's requests after its server has ended, until another one takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Recovery {
    /// New requests wait; those in flight fail (6.1).
    Requeue,
    /// New requests wait; those in flight are sent again (6.1). Only for a backend that may get a write twice.
    Reissue,
    /// All requests fail until another server has taken over (6.13).
    Fail,
}

impl Recovery {
    fn flags(self) -> u64 {
        let extra = match self {
            Self::Requeue => 0,
            Self::Reissue => sys::UBLK_F_USER_RECOVERY_REISSUE as u64,
            Self::Fail => sys::UBLK_F_USER_RECOVERY_FAIL_IO as u64,
        };
        sys::UBLK_F_USER_RECOVERY as u64 | extra
    }

    /// The recovery mode of a device with these flags.
    fn of(flags: Features) -> Option<Self> {
        [Self::Reissue, Self::Fail, Self::Requeue].into_iter().find(|recovery| flags.has(recovery.flags()))
    }
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            id: None,
            queues: 1,
            depth: 128,
            block_size: None,
            physical_block_size: None,
            max_io: 512 << 10,
            read_only: false,
            write_cache: None,
            rotational: false,
            discard: None,
            discard_granularity: None,
            max_discard: None,
            recovery: None,
            partition_scan: true,
            threads: Threads::default(),
            shared_memory: false,
            threads_per_queue: 1,
            affinity: None,
            poll: Duration::ZERO,
            buffers: Pages::default(),
            transport: None,
            copy: None,
        }
    }
}

/// The most threads that a queue can have.
const MAX_THREADS: u32 = 64;

/// The longest time that a queue may busy-poll: less than the scheduler's time slice, since another thread that waits for
/// this processor would otherwise be delayed again and again.
const MAX_POLL: Duration = Duration::from_millis(1);

/// The largest disk: offsets are signed 64-bit numbers in the kernel.
const MAX_SIZE: u64 = i64::MAX as u64;

impl Spec {
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
            range("id", id.into(), 0, u64::from(MAX_ID) - 1)?;
        }
        range("queues", self.queues.into(), 1, MAX_QUEUES.into())?;
        range("depth", self.depth.into(), 1, MAX_DEPTH.into())?;
        range("threads per queue", self.threads_per_queue.into(), 1, MAX_THREADS.min(self.depth).into())?;
        range("poll", self.poll.as_micros() as u64, 0, MAX_POLL.as_micros() as u64)?;
        range("max I/O", self.max_io.into(), 4096, MAX_IO.into())?;
        if !self.max_io.is_multiple_of(4096) {
            return Err(Error::invalid(format!("max I/O {} is not a multiple of 4096", self.max_io)));
        }
        let block = self.block_size.unwrap_or(backend.block_size);
        if !matches!(block, 512 | 1024 | 2048 | 4096) {
            return Err(Error::invalid(format!("block size {block} is not possible"))
                .hint("512, 1024, 2048 and 4096 are"));
        }
        if block < backend.block_size {
            return Err(Error::invalid(format!(
                "block size {block} is smaller than the backend's {}",
                backend.block_size
            )));
        }
        let physical = self.physical_block_size.unwrap_or(4096);
        if !physical.is_power_of_two() || physical < block || physical > 256 << 20 {
            return Err(Error::invalid(format!("physical block size {physical} is not possible"))
                .hint(format!("a power of two from {block} to 256 MiB is")));
        }
        let size = backend.size;
        if size == 0 {
            return Err(Error::invalid("the size is 0")
                .hint(format!("a disk has at least one block of {block} bytes")));
        }
        if size > MAX_SIZE {
            return Err(Error::invalid(format!("the size {size} is beyond 8 EiB")));
        }
        if !size.is_multiple_of(u64::from(block)) {
            return Err(Error::invalid(format!(
                "the size {size} is not a multiple of the block size {block}"
            ))
            .hint(format!("{} would be", size - size % u64::from(block) + u64::from(block))));
        }
        if self.shared_memory && self.recovery.is_some() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a disk that shares memory cannot be recoverable",
            )
            .hint("another server would not have that memory"));
        }
        let discard = self.discard_limits(backend, block)?;
        let write_cache = !self.read_only && self.write_cache.unwrap_or(backend.write_cache);
        let Properties { alignment, chunk, optimal_io, .. } = *backend;
        let choice = Choice::default();
        if !chunk.is_multiple_of(block) {
            return Err(Error::invalid(format!(
                "the backend's chunk {chunk} is not a multiple of the block size {block}"
            )));
        }
        Ok(Checked {
            block,
            physical,
            size,
            discard,
            write_cache,
            choice,
            alignment,
            chunk,
            optimal_io,
            spec: self.clone(),
        })
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
        for (name, value) in
            [("discard granularity", Some(u64::from(granularity))), ("largest discard", self.max_discard)]
        {
            if value.is_some_and(|value| value == 0 || value % u64::from(block) != 0) {
                return Err(Error::invalid(format!("{name} {} is not possible", value.unwrap_or_default()))
                    .hint(format!("a multiple of the block size {block} is")));
            }
        }
        // The driver counts sectors in 32 bits.
        let most = u64::from(u32::MAX) * SECTOR;
        let limit = |able: u64| match self.max_discard {
            Some(wish) if able > 0 => wish.min(most),
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

/// Checked options of a device.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    block: u32,
    physical: u32,
    size: u64,
    discard: Option<Discard>,
    /// Whether the disk has a volatile write cache.
    pub write_cache: bool,
    /// Its transport and copy mode.
    pub choice: Choice,
    /// The alignment that its backend requires of memory that is not copied.
    pub alignment: Alignment,
    chunk: u32,
    optimal_io: u32,
    /// The options that it was made from.
    pub spec: Spec,
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

/// Flags that a device can do without: the driver drops those that it does not know.
const OPTIONAL: u64 = sys::UBLK_F_CMD_IOCTL_ENCODE as u64
    | sys::UBLK_F_UPDATE_SIZE as u64
    | sys::UBLK_F_QUIESCE as u64
    | sys::UBLK_F_UNPRIVILEGED_DEV as u64;

impl Checked {
    /// An existing device that is to be served with `backend`. Fails if the backend does not fit it.
    pub fn existing(info: &sys::ublksrv_ctrl_dev_info, params: &Params, disk: &dyn Backend) -> Result<Self> {
        let (backend, able) = (disk.properties(), disk.copy_modes());
        let (basic, flags) = (params.basic, Features(info.flags));
        let has = |attribute| basic.attrs & attribute != 0;
        let (size, block) = (basic.dev_sectors * SECTOR, 1 << basic.logical_bs_shift);
        let misfit = |message: String| {
            Err(Error::invalid(message).hint("it has to be the backend that the device was made with"))
        };
        // It may have more: a device that was to grow has not, if its server died in between.
        if backend.size < size {
            return misfit(format!("the backend has {} bytes, the disk {size}", backend.size));
        }
        if backend.block_size > block {
            return misfit(format!("the backend's block size is {}, the disk's {block}", backend.block_size));
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
        let physical = 1 << basic.physical_bs_shift;
        let write_cache = has(sys::UBLK_ATTR_VOLATILE_CACHE);
        let choice = Choice::made(mode);
        let alignment = alignment_of(params);
        let wanted = backend.alignment;
        if mode.copy == CopyMode::Zero
            && (wanted.start > alignment.start.max(SECTOR as u32) || wanted.gap > alignment.gap)
        {
            return misfit("the backend needs another memory alignment than the disk has".to_owned());
        }
        let (chunk, optimal_io) = (basic.chunk_sectors << 9, 1 << basic.io_opt_shift);
        if backend.chunk != 0 && (chunk == 0 || !backend.chunk.is_multiple_of(chunk)) {
            return misfit("the backend takes smaller requests than the disk's".to_owned());
        }
        Ok(Self { block, physical, size, discard, write_cache, choice, alignment, chunk, optimal_io, spec })
    }

    /// For ADD_DEV.
    pub fn info(&self) -> sys::ublksrv_ctrl_dev_info {
        sys::ublksrv_ctrl_dev_info {
            nr_hw_queues: self.spec.queues as u16,
            queue_depth: self.spec.depth as u16,
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
        if size == 0 || size > MAX_SIZE || !size.is_multiple_of(u64::from(self.block)) {
            return Err(Error::invalid(format!("the size {size} is not possible"))
                .hint(format!("a multiple of the block size {} below 8 EiB is", self.block)));
        }
        Ok(())
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The same device with another size.
    pub fn resized(&mut self, size: u64) {
        self.size = size;
    }

    /// For SET_PARAMS. `max_io`: bytes in a tag's buffer as ADD_DEV left it; no request can be larger.
    pub fn params(&self, max_io: u32) -> Params {
        let attribute = |on: bool, flag: u32| if on { flag } else { 0 };
        let mut params = Params {
            len: size_of::<Params>() as u32,
            types: sys::UBLK_PARAM_TYPE_BASIC,
            basic: sys::ublk_param_basic {
                attrs: attribute(self.spec.read_only, sys::UBLK_ATTR_READ_ONLY)
                    | attribute(self.spec.rotational, sys::UBLK_ATTR_ROTATIONAL)
                    | attribute(self.write_cache, sys::UBLK_ATTR_VOLATILE_CACHE | sys::UBLK_ATTR_FUA),
                logical_bs_shift: self.block.trailing_zeros() as u8,
                physical_bs_shift: self.physical.trailing_zeros() as u8,
                io_opt_shift: self.optimal_io().trailing_zeros() as u8,
                io_min_shift: self.block.trailing_zeros() as u8,
                max_sectors: self.spec.max_io.min(max_io) >> 9,
                chunk_sectors: self.chunk >> 9,
                dev_sectors: self.size / SECTOR,
                ..Default::default()
            },
            ..Default::default()
        };
        if let Some(Discard { granularity, alignment, max, max_write_zeroes }) = self.discard {
            params.types |= sys::UBLK_PARAM_TYPE_DISCARD;
            params.discard = sys::ublk_param_discard {
                discard_granularity: granularity,
                discard_alignment: alignment,
                max_discard_sectors: (max / SECTOR) as u32,
                max_write_zeroes_sectors: (max_write_zeroes / SECTOR) as u32,
                // The driver hands discards on one range at a time.
                max_discard_segments: u16::from(max > 0),
                ..Default::default()
            };
        }
        if self.choice.mode.copy == CopyMode::Zero {
            self.align(&mut params);
        }
        params
    }

    /// The driver takes a power of two: the largest one that the backend's is a multiple of.
    fn optimal_io(&self) -> u32 {
        let largest = 1_u32.checked_shl(self.optimal_io.trailing_zeros()).unwrap_or(0);
        largest.max(self.physical)
    }

    /// Requests whose pages are used without a copy must be aligned for that.
    fn align(&self, params: &mut Params) {
        let Alignment { start, gap } = self.alignment;
        if start > SECTOR as u32 {
            params.types |= sys::UBLK_PARAM_TYPE_DMA_ALIGN;
            params.dma.alignment = start - 1;
        }
        if gap > 0 {
            params.basic.virt_boundary_mask = gap - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Engine, External, Site};
    use crate::claim::Place;
    use std::sync::Arc;

    const DISK: Properties = Properties {
        discard: Some(Discard { granularity: 4096, alignment: 0, max: 1 << 30, max_write_zeroes: 1 << 30 }),
        ..Properties::new(1 << 20)
    };

    fn disk(properties: Properties) -> External {
        External::new(properties)
    }

    fn wrong(spec: Spec, disk: Properties) -> String {
        let error = spec.check(&disk).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        error.message
    }

    #[test]
    fn every_wrong_value_is_named() {
        let spec = Spec::default;
        assert_eq!(wrong(Spec { queues: 0, ..spec() }, DISK), "queues 0 is out of range");
        assert_eq!(wrong(Spec { queues: 5000, ..spec() }, DISK), "queues 5000 is out of range");
        assert_eq!(wrong(Spec { depth: 0, ..spec() }, DISK), "depth 0 is out of range");
        assert_eq!(wrong(Spec { depth: 5000, ..spec() }, DISK), "depth 5000 is out of range");
        assert_eq!(wrong(Spec { block_size: Some(1000), ..spec() }, DISK), "block size 1000 is not possible");
        assert_eq!(wrong(Spec { max_io: 33 << 20, ..spec() }, DISK), "max I/O 34603008 is out of range");
        assert_eq!(wrong(Spec { max_io: 5000, ..spec() }, DISK), "max I/O 5000 is not a multiple of 4096");
        assert_eq!(wrong(Spec { id: Some(1 << 20), ..spec() }, DISK), "id 1048576 is out of range");
        assert_eq!(
            wrong(Spec { poll: Duration::from_secs(1), ..spec() }, DISK),
            "poll 1000000 is out of range"
        );
        assert_eq!(
            wrong(Spec { threads_per_queue: 9, depth: 8, ..spec() }, DISK),
            "threads per queue 9 is out of range"
        );
        assert_eq!(wrong(spec(), Properties { size: 0, ..DISK }), "the size is 0");
        assert_eq!(
            wrong(spec(), Properties { size: 1000, ..DISK }),
            "the size 1000 is not a multiple of the block size 512"
        );
        assert_eq!(
            wrong(spec(), Properties { size: 1 << 63, ..DISK }),
            "the size 9223372036854775808 is beyond 8 EiB"
        );
    }

    #[test]
    fn the_driver_is_told_what_was_asked_for() {
        let spec = Spec {
            block_size: Some(4096),
            max_io: 1 << 20,
            rotational: true,
            write_cache: Some(true),
            ..Spec::default()
        };
        let checked = spec.check(&DISK).unwrap();
        let params = checked.params(1 << 20);
        assert_eq!(params.basic.logical_bs_shift, 12);
        assert_eq!(params.basic.max_sectors, 2048);
        assert_eq!(params.basic.dev_sectors, 2048);
        assert_eq!(
            params.basic.attrs,
            sys::UBLK_ATTR_ROTATIONAL | sys::UBLK_ATTR_VOLATILE_CACHE | sys::UBLK_ATTR_FUA
        );
        assert_eq!(params.discard.max_discard_sectors, 1 << 21);
    }

    #[test]
    fn a_request_never_exceeds_the_buffer_the_driver_left_us() {
        let checked = Spec { max_io: 1 << 20, ..Spec::default() }.check(&DISK).unwrap();
        assert_eq!(checked.params(64 << 10).basic.max_sectors, 128);
    }

    #[test]
    fn a_device_is_taken_over_as_the_driver_describes_it() {
        let made = Spec {
            id: Some(3),
            queues: 2,
            recovery: Some(Recovery::Reissue),
            write_cache: Some(true),
            ..Spec::default()
        };
        let made = made.check(&DISK).unwrap();
        let (info, params) = (made.info(), made.params(512 << 10));
        let taken = Checked::existing(&info, &params, &disk(DISK)).unwrap();
        assert_eq!(taken.spec.recovery, Some(Recovery::Reissue));
        assert!(taken.write_cache);
        assert_eq!(taken.info().flags, info.flags);
        assert_eq!(taken.params(512 << 10).discard.max_discard_sectors, params.discard.max_discard_sectors);
        let smaller = Properties { size: DISK.size - 512, ..DISK };
        let error = Checked::existing(&info, &params, &disk(smaller)).unwrap_err();
        assert_eq!(error.message, "the backend has 1048064 bytes, the disk 1048576");
    }

    /// A backend on a device that needs aligned memory.
    struct Aligned(Alignment);

    impl Backend for Aligned {
        fn properties(&self) -> Properties {
            Properties { alignment: self.0, ..DISK }
        }

        fn copy_modes(&self) -> Vec<CopyMode> {
            vec![CopyMode::Zero]
        }

        fn places(&self) -> Vec<Place<'_>> {
            Vec::new()
        }

        fn engine(self: Arc<Self>, _: &mut Site) -> Result<Box<dyn Engine>> {
            Err(Error::invalid("it is not served"))
        }
    }

    #[test]
    fn a_device_that_is_taken_over_keeps_its_alignment() {
        let alignment = Alignment { start: 4096, gap: 65536 };
        let mut made = Spec::default().check(&DISK).unwrap();
        made.choice = Choice::made(Mode { copy: CopyMode::Zero, transport: Transport::PerIo });
        made.alignment = alignment;
        let (info, params) = (made.info(), made.params(512 << 10));
        let taken = Checked::existing(&info, &params, &Aligned(alignment)).unwrap();
        // As it is added anew for a start after a stop.
        let again = taken.params(512 << 10);
        assert_eq!(again.types & sys::UBLK_PARAM_TYPE_DMA_ALIGN, sys::UBLK_PARAM_TYPE_DMA_ALIGN);
        assert_eq!((again.dma.alignment, again.basic.virt_boundary_mask), (4095, 65535));
        assert!(Checked::existing(&info, &params, &Aligned(Alignment::default())).is_ok());
        for stricter in [Alignment { start: 8192, ..alignment }, Alignment { gap: 1 << 20, ..alignment }] {
            let error = Checked::existing(&info, &params, &Aligned(stricter)).unwrap_err();
            assert_eq!(error.message, "the backend needs another memory alignment than the disk has");
        }
    }

    #[test]
    fn what_the_driver_dropped_is_named() {
        let plain = Spec::default().check(&DISK).unwrap();
        assert!(plain.kept(0).is_ok());
        let failing = Spec { recovery: Some(Recovery::Fail), ..Spec::default() }.check(&DISK).unwrap();
        let error = failing.kept(sys::UBLK_F_USER_RECOVERY.into()).unwrap_err();
        assert_eq!(error.message, "the driver cannot do what was asked for: USER_RECOVERY_FAIL_IO");
        assert_eq!(error.hint.as_deref(), Some("Linux 6.13 or newer can"));
        let error = failing.kept(sys::UBLK_F_UNPRIVILEGED_DEV.into()).unwrap_err();
        assert_eq!(error.hint.as_deref(), Some("only root can make a device that can be recovered"));
    }

    #[test]
    fn read_only_disks_neither_discard_nor_cache() {
        let checked =
            Spec { read_only: true, write_cache: Some(true), ..Spec::default() }.check(&DISK).unwrap();
        let params = checked.params(1 << 20);
        assert_eq!(params.types, sys::UBLK_PARAM_TYPE_BASIC);
        assert_eq!(params.basic.attrs, sys::UBLK_ATTR_READ_ONLY);
    }
}
