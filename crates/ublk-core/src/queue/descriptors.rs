//! The table in which the driver describes each tag's request, mapped read-only from `/dev/ublkcN`.

use super::shared::Place;
use crate::abi::{self, SECTOR, sys};
use crate::error::{Error, Result};
use crate::mapping::Mapping;
use std::os::fd::BorrowedFd;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
            other => Self::Other(other as u8),
        }
    }
}

/// A descriptor in units that a backend wants: bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// What to do.
    pub op: Op,
    /// The write must be durable before it is committed (`UBLK_IO_F_FUA`).
    pub fua: bool,
    /// Zeroes must be written without giving the space back (`UBLK_IO_F_NOUNMAP`).
    pub no_unmap: bool,
    /// The driver could not register its pages with the ring: that is the server's then (`UBLK_IO_F_NEED_REG_BUF`).
    pub by_hand: bool,
    /// Its data lies in memory that the device shares with its clients (`UBLK_IO_F_SHMEM_ZC`), and only there.
    pub shared: Option<Place>,
    /// Where on the disk, in bytes.
    pub offset: u64,
    /// How much, in bytes. A flush has none.
    pub length: u64,
}

impl Descriptor {
    /// Reads the kernel's form: sectors of 512 bytes, whatever the device's block size.
    pub fn decode(raw: &sys::ublksrv_io_desc) -> Self {
        let op = Op::decode(raw.op_flags & 0xff);
        let has_range = op != Op::Flush;
        Self {
            op,
            fua: raw.op_flags & sys::UBLK_IO_F_FUA != 0,
            no_unmap: raw.op_flags & sys::UBLK_IO_F_NOUNMAP != 0,
            by_hand: raw.op_flags & sys::UBLK_IO_F_NEED_REG_BUF != 0,
            shared: (raw.op_flags & sys::UBLK_IO_F_SHMEM_ZC != 0).then(|| place(raw.addr)),
            offset: if has_range { raw.start_sector * SECTOR } else { 0 },
            length: if has_range { u64::from(raw.nr_sectors) * SECTOR } else { 0 },
        }
    }
}

/// `ublk_shmem_zc_index` and `ublk_shmem_zc_offset` of the header.
fn place(address: u64) -> Place {
    Place { memory: (address >> sys::UBLK_SHMEM_ZC_IDX_OFF) as u16, offset: address as u32 }
}

/// One queue's mapped descriptors.
pub struct Descriptors {
    table: Mapping,
    depth: u16,
}

impl Descriptors {
    /// Maps the table of `queue`: read-only and of exact length, or the driver refuses.
    pub fn map(char_dev: BorrowedFd<'_>, queue: u16, depth: u16) -> Result<Self> {
        Mapping::read_only(char_dev, abi::table_offset(queue), abi::table_len(depth))
            .map(|table| Self { table, depth })
            .map_err(|error| Error::system(format!("cannot map the descriptors of queue {queue}"), &error))
    }

    /// The request that the driver put at `tag`. Meaningful from its command's completion until its commit.
    pub fn read(&self, tag: u16) -> Descriptor {
        assert!(tag < self.depth);
        // SAFETY: in bounds by the assertion; the mapping lives as long as self. The driver wrote the entry
        // before it completed the tag's command, and reading that completion from the ring was an acquire;
        // it writes it again only after the commit. Volatile, since another world writes it.
        let raw =
            unsafe { self.table.base().cast::<sys::ublksrv_io_desc>().add(usize::from(tag)).read_volatile() };
        Descriptor::decode(&raw)
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
        assert!(zero.fua && zero.no_unmap);
        assert_eq!(zero.length, u64::from(u32::MAX) * 512);
        assert_eq!(zero.offset, (1 << 63) - 512);
    }
}
