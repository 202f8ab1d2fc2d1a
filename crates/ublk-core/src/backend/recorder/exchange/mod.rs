//! What a recorded disk has recorded as a log in the format of dm-log-writes, and back.
//!
//! The kernel's device-mapper target log-writes and QEMU's block driver blklogwrites write this format, and xfstests' `replay-log`
//! reads it. It is one sector with numbers of the whole log, and then entries, in the order in which they count: a sector with a
//! header, and behind it the sectors that were written.
//!
//! **The order.** A write, discard or mark is at the moment of its completion, a flush at the moment of its *start*: behind
//! what it covers, before what it does not cover. So is the kernel's. Each prefix of the entries then is one of our states, in which
//! all is there that was completed so far; and what a reader takes for durable at a flush, all that is before it, was durable
//! when the flush was answered. At its completion a flush would seem to cover writes that nobody waited for.
//!
//! **What the format cannot hold**: when a request was started, so that read back it seems to overlap with no other;
//! what was not answered; what the disk contained at first; and writes of zeroes without data, which become writes with data: a
//! hole of the file. They stay one entry each, however long, since a power cut may leave a disk with the first entries only, and
//! `Model::Writes` has a write whole or not at all. No discard takes their place: what a discard leaves is up to who replays it.
//! The states of what is read back are states of what was recorded, but not all of them.

mod export;
mod format;
mod import;
mod order;
#[cfg(test)]
mod tests;

pub use export::Exported;
pub use import::RecordedLog;
