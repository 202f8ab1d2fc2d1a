//! Requests of the kernel, and the parts into which a backend splits them.

use crate::abi::{SECTOR, sys};
use crate::number::{is_within, to_usize};
use std::num::NonZeroU32;
use std::ops::BitOr;

/// Names one request: its queue, its tag, and which of that tag's requests it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// The driver's tag.
    pub tag: u16,
    /// Counts the tag's requests; wraps.
    pub generation: u32,
    /// Distinguishes all queues of a process, also those that were started again.
    pub queue: u32,
}

/// Where a request's data is in the shared memory of its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientPlace {
    /// Which memory: the driver's number for it.
    pub memory: u16,
    /// The offset of its first byte.
    pub offset: u32,
}

/// The operation of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Op {
    /// Fill the buffer from the disk.
    Read,
    /// Put the buffer on the disk.
    Write,
    /// Make every completed write durable.
    Flush,
    /// The range's content is no longer needed.
    Discard,
    /// The range must read back as zeroes.
    WriteZeroes,
    /// Something that was not advertised; answer `EOPNOTSUPP`.
    Other(u8),
}

impl Op {
    fn decode(op: u32) -> Self {
        match op {
            sys::UBLK_IO_OP_READ => Self::Read,
            sys::UBLK_IO_OP_WRITE => Self::Write,
            sys::UBLK_IO_OP_FLUSH => Self::Flush,
            sys::UBLK_IO_OP_DISCARD => Self::Discard,
            sys::UBLK_IO_OP_WRITE_ZEROES => Self::WriteZeroes,
            other => Self::Other(other.to_le_bytes()[0]),
        }
    }

    /// Whether it moves data: a read or write.
    #[inline]
    pub const fn has_data(self) -> bool {
        matches!(self, Self::Read | Self::Write)
    }
}

/// The flags of a request. The bits are those of `UBLK_IO_F_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u32);

impl Flags {
    /// None.
    pub const NONE: Self = Self(0);
    /// The write must be durable before it is committed.
    pub const FUA: Self = Self(sys::UBLK_IO_F_FUA);
    /// Zeroes must be written without giving the space back.
    pub const NO_UNMAP: Self = Self(sys::UBLK_IO_F_NOUNMAP);
    /// A file system's own structures, not a file's data.
    pub const META: Self = Self(sys::UBLK_IO_F_META);
    /// Do not retry after an error of the device.
    pub const FAIL_FAST_DEVICE: Self = Self(sys::UBLK_IO_F_FAILFAST_DEV);
    /// Do not retry after an error of the transport.
    pub const FAIL_FAST_TRANSPORT: Self = Self(sys::UBLK_IO_F_FAILFAST_TRANSPORT);
    /// Do not retry after an error of the driver.
    pub const FAIL_FAST_DRIVER: Self = Self(sys::UBLK_IO_F_FAILFAST_DRIVER);
    /// Memory is swapped in or out.
    pub const SWAP: Self = Self(sys::UBLK_IO_F_SWAP);

    const KNOWN: u32 = Self::FUA.0
        | Self::NO_UNMAP.0
        | Self::META.0
        | Self::FAIL_FAST_DEVICE.0
        | Self::FAIL_FAST_TRANSPORT.0
        | Self::FAIL_FAST_DRIVER.0
        | Self::SWAP.0;

    /// Whether all of `flags` are set.
    #[inline]
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Whether any of `flags` is set.
    #[inline]
    pub const fn has_any(self, flags: Self) -> bool {
        self.0 & flags.0 != 0
    }

    /// These without `flags`.
    #[must_use]
    pub const fn without(self, flags: Self) -> Self {
        Self(self.0 & !flags.0)
    }
}

impl BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A request's descriptor, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Descriptor {
    /// What to do.
    pub op: Op,
    /// How.
    pub flags: Flags,
    /// The driver could not register its pages with the ring: that is the server's then (`UBLK_IO_F_NEED_REG_BUF`).
    pub by_hand: bool,
    /// Its data lies in memory that the device shares with its clients (`UBLK_IO_F_SHMEM_ZC`), and only there.
    pub shared: Option<ClientPlace>,
    /// Where on the disk, in bytes.
    pub offset: u64,
    /// How much, in bytes. A flush has none.
    pub length: u64,
}

impl Descriptor {
    /// Without flags, with its data in the tag's buffer.
    pub const fn new(op: Op, offset: u64, length: u64) -> Self {
        Self { op, flags: Flags::NONE, by_hand: false, shared: None, offset, length }
    }

    /// Reads the kernel's form: sectors of 512 bytes, whatever the device's block size.
    pub fn decode(raw: &sys::ublksrv_io_desc) -> Self {
        let op = Op::decode(raw.op_flags & 0xff);
        let has_range = op != Op::Flush;
        Self {
            op,
            flags: Flags(raw.op_flags & Flags::KNOWN),
            by_hand: raw.op_flags & sys::UBLK_IO_F_NEED_REG_BUF != 0,
            shared: (raw.op_flags & sys::UBLK_IO_F_SHMEM_ZC != 0).then(|| place(raw.addr)),
            offset: if has_range { raw.start_sector * SECTOR } else { 0 },
            length: if has_range { u64::from(raw.nr_sectors) * SECTOR } else { 0 },
        }
    }

    /// All of it, as a backend is asked for it.
    #[inline]
    pub const fn piece(&self) -> Piece {
        let (op, flags, offset, length) = (self.op, self.flags, self.offset, self.length);
        Piece { op, flags, offset, length, at: 0, scatter: None }
    }
}

/// `ublk_shmem_zc_index` and `ublk_shmem_zc_offset` of the header.
#[expect(clippy::cast_possible_truncation, reason = "16 bits and 32 bits of the address")]
fn place(address: u64) -> ClientPlace {
    ClientPlace { memory: (address >> sys::UBLK_SHMEM_ZC_IDX_OFF) as u16, offset: address as u32 }
}

/// A request of the driver, owned by the server until it is committed.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Request {
    /// Its name.
    pub ticket: Ticket,
    /// What it asks for.
    pub what: Descriptor,
}

/// A request or a part of one, in the coordinates of the backend that is asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// What to do.
    pub op: Op,
    /// How.
    pub flags: Flags,
    /// Where on the backend's disk, in bytes.
    pub offset: u64,
    /// How much, in bytes. A flush has none.
    pub length: u64,
    /// Where its data begins in the request's, in bytes. Only reads and writes have data.
    pub at: usize,
    /// How its data is scattered in the request's; `None`: it is in one place. Only engines of a backend that
    /// [takes](crate::backend::Backend::takes_scattered) such pieces get them.
    pub scatter: Option<Scatter>,
}

/// Data in several places of a request's, at equal distances: one disk's part of a striped request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scatter {
    /// Bytes in the first place: fewer than the piece has.
    pub first: NonZeroU32,
    /// Bytes in each other place, but in the last one only what is left.
    pub each: NonZeroU32,
    /// Bytes of the request between two places, which belong to other pieces.
    pub gap: u32,
}

impl Scatter {
    /// `length` bytes from the byte `from` on, which is not in the first place: how far that byte is from the piece's
    /// first one in the request, and how they are scattered.
    const fn part(self, from: u64, length: u64) -> (usize, Option<Self>) {
        let (first, each) = (self.first.get() as u64, self.each.get() as u64);
        let (places, into) = ((from - first) / each, (from - first) % each);
        let at = first + self.gap as u64 + places * (each + self.gap as u64) + into;
        (to_usize(at), self.begins(each - into, length))
    }

    /// The same for `length` bytes of which the first place has `first`.
    const fn begins(self, first: u64, length: u64) -> Option<Self> {
        match NonZeroU32::new(count_of(first)) {
            Some(first) if (first.get() as u64) < length => Some(Self { first, ..self }),
            _ => None,
        }
    }
}

/// The length of a range of a request's data, at most 32 MiB.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the driver makes no larger request")]
pub const fn request_length(length: usize) -> u32 {
    debug_assert!(length <= 1 << sys::UBLK_IO_BUF_BITS);
    length as u32
}

/// See [`Piece::count`].
#[inline]
pub(crate) const fn count_of(length: u64) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "it is checked")]
    if length > u32::MAX as u64 { u32::MAX } else { length as u32 }
}

impl Piece {
    /// Its length as the count of an [`Outcome`](crate::queue::Outcome). Only that of reads and writes matters, which fits.
    #[inline]
    pub const fn count(&self) -> u32 {
        count_of(self.length)
    }

    /// Whether it is within a disk of `size` bytes.
    #[inline]
    pub const fn is_within(&self, size: u64) -> bool {
        is_within(self.offset, self.length, size)
    }

    /// Bytes of data in the request: 0 for all but reads and writes.
    #[inline]
    pub const fn data_length(&self) -> usize {
        if self.op.has_data() { to_usize(self.length) } else { 0 }
    }

    /// `length` bytes of it, from its byte `from` on.
    ///
    /// # Panics
    /// If it has fewer.
    #[inline]
    #[must_use]
    pub const fn part(&self, from: u64, length: u64) -> Self {
        assert!(from <= self.length && length <= self.length - from);
        let (at, scatter) = match self.scatter {
            _ if !self.op.has_data() => (0, None),
            None => (self.at + to_usize(from), None),
            Some(scatter) if from < scatter.first.get() as u64 => {
                (self.at + to_usize(from), scatter.begins(scatter.first.get() as u64 - from, length))
            }
            Some(scatter) => {
                let (at, scatter) = scatter.part(from, length);
                (self.at + at, scatter)
            }
        };
        Self { offset: self.offset + from, length, at, scatter, ..*self }
    }

    /// The pieces of it whose data is in one place each, in order.
    pub fn segments(self) -> impl Iterator<Item = Self> {
        std::iter::successors(Some(self), |piece| {
            piece.scatter.map(|scatter| piece.rest(scatter.first.get().into()))
        })
        .map(|piece| piece.scatter.map_or(piece, |scatter| piece.part(0, scatter.first.get().into())))
    }

    /// What is left after its first `done` bytes.
    ///
    /// # Panics
    /// If it has fewer.
    #[inline]
    #[must_use]
    pub const fn rest(&self, done: u64) -> Self {
        self.part(done, self.length - done)
    }

    /// The same part of the request, elsewhere on a disk.
    #[inline]
    #[must_use]
    pub const fn to(&self, offset: u64) -> Self {
        Self { offset, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_count_512_byte_sectors_whatever_the_block_size() {
        let raw =
            sys::ublksrv_io_desc { op_flags: sys::UBLK_IO_OP_WRITE, nr_sectors: 8, start_sector: 8, addr: 0 };
        let write = Descriptor::decode(&raw);
        assert_eq!((write.op, write.offset, write.length), (Op::Write, 4096, 4096));
    }

    #[test]
    fn flags_and_the_largest_values_are_kept() {
        let raw = sys::ublksrv_io_desc {
            op_flags: sys::UBLK_IO_OP_WRITE_ZEROES | sys::UBLK_IO_F_FUA | sys::UBLK_IO_F_NOUNMAP,
            nr_sectors: u32::MAX,
            start_sector: (1 << 54) - 1,
            addr: 0,
        };
        let zero = Descriptor::decode(&raw);
        assert_eq!(zero.flags, Flags::FUA | Flags::NO_UNMAP);
        assert_eq!(zero.length, u64::from(u32::MAX) * 512);
        assert_eq!(zero.offset, (1 << 63) - 512);
    }

    #[test]
    fn flags_are_the_kernels() {
        for (bit, flag) in [
            (8, Flags::FAIL_FAST_DEVICE),
            (9, Flags::FAIL_FAST_TRANSPORT),
            (10, Flags::FAIL_FAST_DRIVER),
            (11, Flags::META),
            (13, Flags::FUA),
            (15, Flags::NO_UNMAP),
            (16, Flags::SWAP),
        ] {
            let raw = sys::ublksrv_io_desc { op_flags: 1 << bit, nr_sectors: 0, start_sector: 0, addr: 0 };
            assert_eq!(Descriptor::decode(&raw).flags, flag);
        }
        // What says where the data is concerns no backend.
        let raw = sys::ublksrv_io_desc {
            op_flags: sys::UBLK_IO_F_NEED_REG_BUF | sys::UBLK_IO_F_SHMEM_ZC,
            nr_sectors: 0,
            start_sector: 0,
            addr: 0,
        };
        assert_eq!(Descriptor::decode(&raw).flags, Flags::NONE);
    }

    #[test]
    fn parts_move_on_the_disk_and_in_the_data() {
        let write = Piece { at: 512, ..Descriptor::new(Op::Write, 4096, 2048).piece() };
        assert_eq!(write.part(512, 1024), Piece { offset: 4608, length: 1024, at: 1024, ..write });
        assert_eq!(write.rest(2048), Piece { offset: 6144, length: 0, at: 2560, ..write });
        let discard = Descriptor::new(Op::Discard, 0, 1 << 40).piece();
        assert_eq!(discard.rest(1 << 39).at, 0);
        assert_eq!(discard.data_length(), 0);
    }

    #[test]
    fn each_part_of_scattered_data_is_where_its_bytes_are() {
        let number = |number| NonZeroU32::new(number).unwrap();
        // Three bytes, then five each, the last two in a place of their own.
        let scatter = Scatter { first: number(3), each: number(5), gap: 10 };
        let piece = Piece { at: 4, scatter: Some(scatter), ..Descriptor::new(Op::Read, 1000, 15).piece() };
        let places = |piece: Piece| -> Vec<(u64, usize)> {
            let bytes = |segment: Piece| {
                assert_eq!(segment.scatter, None);
                (0..segment.length).map(move |byte| (segment.offset + byte, segment.at + byte as usize))
            };
            piece.segments().flat_map(bytes).collect()
        };
        let data: Vec<usize> = [4..7, 17..22, 32..37, 47..49].into_iter().flatten().collect();
        let all: Vec<(u64, usize)> = (1000..).zip(data).collect();
        assert_eq!(piece.segments().count(), 4);
        for from in 0..=15 {
            for to in from..=15 {
                let part = piece.part(from, to - from);
                assert_eq!(places(part), all[from as usize..to as usize], "bytes {from} to {to}");
                for again in 0..=part.length {
                    let at = (from + again) as usize;
                    assert_eq!(places(part.rest(again)), all[at..to as usize], "{again} more");
                }
            }
        }
    }
}
