//! Finds the zeroes in data of a disk, which need no space.

use crate::number::to_usize;

/// What is found to be zeroes, in bytes.
const BLOCK: u64 = 4096;

/// Data that is at `offset` of a disk, in parts of which each is zeroes, or in no whole block of the disk. Each comes with its
/// offset, and with whether it is zeroes.
pub fn parts(offset: u64, data: &[u8]) -> impl Iterator<Item = (u64, &[u8], bool)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let rest = data.get(done..).filter(|rest| !rest.is_empty())?;
        let (first, more) = rest.split_at(to_usize(BLOCK - at % BLOCK).min(rest.len()));
        let is_zero = |block: &[u8]| block.iter().all(|byte| *byte == 0);
        let zero = is_zero(first);
        let same = more.chunks(to_usize(BLOCK)).take_while(|block| is_zero(block) == zero);
        let length = first.len() + same.map(<[u8]>::len).sum::<usize>();
        done += length;
        Some((at, &rest[..length], zero))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_are_found_in_the_blocks_of_the_disk() {
        let mut data = vec![0; 5 * 4096];
        data[100] = 1;
        data[2 * 4096 + 511] = 1;
        let found =
            |offset| parts(offset, &data).map(|(at, part, zero)| (at, part.len(), zero)).collect::<Vec<_>>();
        assert_eq!(
            found(8192),
            [(8192, 4096, false), (12288, 4096, true), (16384, 4096, false), (20480, 8192, true)]
        );
        // From the middle of a block on: the disk's blocks count. What was at 2 blocks and 511 is in the disk's block 2 now.
        assert_eq!(
            found(3584),
            [
                (3584, 512, false),
                (4096, 4096, true),
                (8192, 4096, false),
                (12288, 4 * 4096 - 512 - 4096, true)
            ]
        );
        assert_eq!(parts(0, &[]).count(), 0);
        let whole: usize = parts(512, &data).map(|(_, part, _)| part.len()).sum();
        assert_eq!(whole, data.len());
    }
}
