//! The table in which the driver describes each tag's request, mapped read-only from `/dev/ublkcN`.

use super::Descriptor;
use crate::abi::{self, sys};
use crate::error::{Error, Result};
use crate::mapping::Mapping;
use std::os::fd::BorrowedFd;

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
