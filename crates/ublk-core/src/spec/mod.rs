//! The options of a device: what they are, their checks, and the form in which the driver gets them.

mod check;
mod driver_form;
mod existing;
pub mod limits;
mod options;
#[cfg(feature = "serde")]
mod read;

pub(crate) use driver_form::Checked;
pub(crate) use existing::Misfit;
pub use options::{Recovery, Spec, Threads};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::sys;
    use crate::backend::{Alignment, Backend, Discard, Engine, External, Properties, Segments, Site};
    use crate::choice::Choice;
    use crate::claim::Place;
    use crate::error::{Error, ErrorKind, Result};
    use crate::queue::{CopyMode, Mode, Transport};
    use std::sync::Arc;
    use std::time::Duration;

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
        assert_eq!(
            wrong(Spec { discard_granularity: Some(1 << 31), ..spec() }, DISK),
            "discard granularity 2147483648 is not possible"
        );
        assert_eq!(
            wrong(Spec { max_discard: Some(1 << 41), ..spec() }, DISK),
            "largest discard 2199023255552 is not possible"
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
        assert!(taken.disk.write_cache);
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
        made.disk.alignment = alignment;
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

    const LIMITED: Properties =
        Properties { segments: Segments { most: 16, size: 0, boundary: 65536 }, ..DISK };

    #[test]
    fn limits_of_segments_reach_the_driver_and_come_back() {
        let plain = Spec::default().check(&DISK).unwrap();
        assert_eq!(plain.params(512 << 10).types & sys::UBLK_PARAM_TYPE_SEGMENT, 0);
        let made = Spec::default().check(&LIMITED).unwrap();
        let (info, params) = (made.info(), made.params(512 << 10));
        assert_eq!(params.types & sys::UBLK_PARAM_TYPE_SEGMENT, sys::UBLK_PARAM_TYPE_SEGMENT);
        let sys::ublk_param_segment { seg_boundary_mask, max_segment_size, max_segments, .. } = params.seg;
        assert_eq!((seg_boundary_mask, max_segment_size, max_segments), (65535, u32::MAX, 16));
        let again = Checked::existing(&info, &params, &disk(LIMITED)).unwrap().params(512 << 10);
        assert_eq!(format!("{:?}", again.seg), format!("{:?}", params.seg));
        assert!(Checked::existing(&info, &params, &disk(DISK)).is_ok());
        let stricter = Properties { segments: Segments { most: 8, ..LIMITED.segments }, ..DISK };
        let error = Checked::existing(&info, &params, &disk(stricter)).unwrap_err();
        assert_eq!(
            error.message,
            "the backend takes fewer or smaller memory segments than the disk's requests have"
        );
    }

    #[test]
    fn impossible_limits_of_segments_are_named() {
        let with = |segments| wrong(Spec::default(), Properties { segments, ..DISK });
        let none = Segments::default();
        assert_eq!(with(Segments { size: 512, ..none }), "the backend's segment size 512 is not possible");
        for boundary in [512, 12288] {
            let message = format!("the backend's segment boundary {boundary} is not possible");
            assert_eq!(with(Segments { boundary, ..none }), message);
        }
    }

    #[test]
    fn a_disk_does_not_say_that_it_writes_larger_blocks_whole_than_its_backend_does() {
        let torn = Properties { physical_block: 512, ..DISK };
        let shift = |made: &Checked| made.params(512 << 10).basic.physical_bs_shift;
        assert_eq!(shift(&Spec::default().check(&DISK).unwrap()), 12);
        let made = Spec::default().check(&torn).unwrap();
        assert_eq!(shift(&made), 9);
        let larger = Spec { physical_block_size: Some(4096), ..Spec::default() };
        assert_eq!(
            wrong(larger.clone(), torn),
            "the backend does not write physical blocks of 4096 bytes whole, only 512"
        );
        let larger = larger.check(&DISK).unwrap();
        assert!(made.fits(&disk(torn)).is_ok() && made.fits(&disk(DISK)).is_ok());
        let misfit = larger.fits(&disk(torn)).unwrap_err();
        assert_eq!(misfit.message, "the backend writes 512 bytes whole, and the disk says 4096");
    }

    #[test]
    fn the_optimal_io_size_is_one_that_the_driver_takes() {
        let shift = |optimal_io| {
            Spec::default()
                .check(&Properties { optimal_io, ..DISK })
                .unwrap()
                .params(512 << 10)
                .basic
                .io_opt_shift
        };
        assert_eq!([0, 1 << 20, 3 << 20, 1 << 28, 1 << 30].map(shift), [12, 20, 20, 28, 28]);
    }
}
