//! Requests of many sizes, all over a disk and many at once.

use crate::{Disk, Transfer, at_once, block, first_wrong};

/// Writes and reads stamped data of many sizes all over the disk, in flight together.
pub fn exercise(disk: &Disk) {
    let file = disk.open();
    let (size, block) = (block::size(&file), u64::from(block::block_size(&file)));
    let mut at = 0;
    let mut transfers = Vec::new();
    for length in [block, 4096, 3 * 4096, 64 << 10, 512 << 10, 4096, 2 * block] {
        transfers.push(Transfer::write(at, length.try_into().unwrap()));
        at = (at + length + size / 16).next_multiple_of(block);
    }
    let last = size - 4096;
    transfers.push(Transfer::write(last / block * block, 4096));
    let done = at_once(&file, &mut transfers);
    for (transfer, done) in transfers.iter().zip(done) {
        assert_eq!(usize::try_from(done), Ok(transfer.data.len()), "write at {}", transfer.offset);
    }
    file.sync_all().unwrap();
    let mut reads: Vec<_> =
        transfers.iter().map(|write| Transfer::read(write.offset, write.data.len())).collect();
    for (read, done) in at_once(&file, &mut reads).into_iter().zip(&reads).map(|(done, read)| (read, done)) {
        assert_eq!(usize::try_from(done), Ok(read.data.len()), "read at {}", read.offset);
    }
    for read in &reads {
        assert_eq!(first_wrong(&read.data, read.offset), None);
    }
}
