//! Converts structures of the kernel's header to and from the bytes of a command.

use crate::abi::Params;
use crate::abi::sys::{
    ublk_param_basic, ublk_param_devt, ublk_param_discard, ublk_param_dma_align, ublk_param_segment,
    ublk_param_zoned, ublk_shmem_buf_reg, ublksrv_ctrl_dev_info,
};

/// A C structure of integers and other plain structures.
///
/// # Safety
/// It has no padding, which must not be read, and every bit pattern is a valid value.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($name:ident { $($field:ident),* })*) => { $(
        // SAFETY: integers and plain structures; the assertion below checks at compile time that the fields leave no
        // padding.
        unsafe impl Plain for $name {}
        const _: () = {
            // SAFETY: all zeroes are a value of it.
            let $name { $($field),* } = unsafe { std::mem::zeroed() };
            assert!(size_of::<$name>() == 0 $(+ size_of_val(&$field))*, "there is padding");
        };
    )* };
}

plain! {
    ublksrv_ctrl_dev_info {
        nr_hw_queues, queue_depth, state, pad0, max_io_buf_bytes, dev_id, ublksrv_pid, pad1, flags, ublksrv_flags,
        owner_uid, owner_gid, reserved1, reserved2
    }
    ublk_shmem_buf_reg { addr, len, flags, reserved }
    Params { len, types, basic, discard, devt, zoned, dma, gap, seg }
    ublk_param_basic {
        attrs, logical_bs_shift, physical_bs_shift, io_opt_shift, io_min_shift, max_sectors, chunk_sectors, dev_sectors,
        virt_boundary_mask
    }
    ublk_param_discard {
        discard_alignment, discard_granularity, max_discard_sectors, max_write_zeroes_sectors, max_discard_segments,
        reserved0
    }
    ublk_param_devt { char_major, char_minor, disk_major, disk_minor }
    ublk_param_zoned { max_open_zones, max_active_zones, max_zone_append_sectors, reserved }
    ublk_param_dma_align { alignment, pad }
    ublk_param_segment { seg_boundary_mask, max_segment_size, max_segments, pad }
}

/// Its bytes.
pub fn to_bytes<T: Plain>(value: &T) -> Box<[u8]> {
    // SAFETY: all of its bytes are initialized, since it has no padding; the borrow lasts as long as that of `self`.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) }.into()
}

/// The structure at the start of `bytes`.
pub fn from_bytes<T: Plain>(bytes: &[u8]) -> T {
    assert!(bytes.len() >= size_of::<T>());
    // SAFETY: long enough by the assertion, every bit pattern is a value of a Plain type, and unaligned is allowed.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_come_back_from_their_bytes_at_any_place() {
        let mut params = Params { types: 3, ..Default::default() };
        (params.dma.alignment, params.seg.max_segments) = (4095, 7);
        let bytes = to_bytes(&params);
        assert_eq!(
            (bytes.len(), &bytes[108..112], &bytes[112..120]),
            (136, &4095u32.to_ne_bytes()[..], &[0; 8][..])
        );
        let moved = [&[0xff], &bytes[..]].concat();
        let again = from_bytes::<Params>(&moved[1..]);
        assert_eq!(format!("{again:?}"), format!("{params:?}"));
        let info = ublksrv_ctrl_dev_info { dev_id: 5, reserved2: u64::MAX, ..Default::default() };
        assert_eq!(from_bytes::<ublksrv_ctrl_dev_info>(&to_bytes(&info)).reserved2, u64::MAX);
    }
}
