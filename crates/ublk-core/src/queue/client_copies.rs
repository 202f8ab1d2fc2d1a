//! Copies between memory of this process and memory that is shared with clients. Many are made by one system call.

use libc::{iovec, pid_t};
use std::ops::Range;

/// The most copies that one call makes: the kernel's limit for vectors (`IOV_MAX`).
const MOST: usize = 1024;

/// The most bytes that one call copies. The kernel does not copy more than 2 GiB.
const MOST_BYTES: usize = 1 << 30;

/// The direction of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the clients' memory.
    Take,
    /// To the clients' memory.
    Give,
}

/// A copy: an address of this process, one in this process's mapping of the clients' memory, and a length.
#[derive(Debug, Clone, Copy)]
pub struct ClientCopy {
    pub tag: u16,
    pub direction: Direction,
    pub here: *mut u8,
    pub there: *mut u8,
    pub length: usize,
}

/// What is known of the copies of a tag's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Copied {
    /// There are none.
    #[default]
    Nothing,
    Planned,
    /// One of them failed.
    Failed,
}

/// The copies that are still to be made, in the order of their requests.
pub struct ClientCopies {
    take: Batch,
    give: Batch,
    tags: Box<[Copied]>,
    process: pid_t,
}

#[derive(Default)]
struct Batch {
    here: Vec<iovec>,
    there: Vec<iovec>,
    tags: Vec<u16>,
    bytes: usize,
}

impl ClientCopies {
    /// None yet, for a queue of `depth` requests.
    pub fn new(depth: usize) -> Self {
        // SAFETY: only asks for a number.
        let process = unsafe { libc::getpid() };
        let (take, give) = (Batch::default(), Batch::default());
        Self { take, give, tags: vec![Copied::Nothing; depth].into(), process }
    }

    /// Plans a copy, which [`run`](Self::run) makes.
    ///
    /// # Safety
    /// The memory of this process is valid until then, and no reference to it exists. `there` is an address in a mapping
    /// that is still there then.
    pub unsafe fn plan(&mut self, copy: ClientCopy) {
        let ClientCopy { tag, direction, here, there, length } = copy;
        if self.batch(direction).is_full_with(length) {
            self.run_one(direction);
        }
        let state = &mut self.tags[usize::from(tag)];
        if *state == Copied::Nothing {
            *state = Copied::Planned;
        }
        let batch = self.batch(direction);
        batch.here.push(iovec { iov_base: here.cast(), iov_len: length });
        batch.there.push(iovec { iov_base: there.cast(), iov_len: length });
        batch.tags.push(tag);
        batch.bytes += length;
    }

    /// A copy of the tag's request is not possible.
    pub fn fail(&mut self, tag: u16) {
        self.tags[usize::from(tag)] = Copied::Failed;
    }

    /// Whether copies were planned for the tag's request.
    pub fn planned(&self, tag: u16) -> bool {
        self.tags[usize::from(tag)] != Copied::Nothing
    }

    /// Whether copies are still to be made.
    pub fn any(&self) -> bool {
        !self.take.tags.is_empty() || !self.give.tags.is_empty()
    }

    /// Makes all copies. One that fails concerns only its own request.
    pub fn run(&mut self) {
        self.run_one(Direction::Take);
        self.run_one(Direction::Give);
    }

    /// Whether one of the tag's copies has failed.
    pub fn failed(&self, tag: u16) -> bool {
        self.tags[usize::from(tag)] == Copied::Failed
    }

    /// The tag's request is about to be answered: whether all of its copies were made.
    pub fn finish(&mut self, tag: u16) -> bool {
        std::mem::take(&mut self.tags[usize::from(tag)]) != Copied::Failed
    }

    fn batch(&mut self, direction: Direction) -> &mut Batch {
        match direction {
            Direction::Take => &mut self.take,
            Direction::Give => &mut self.give,
        }
    }

    fn run_one(&mut self, direction: Direction) {
        let batch = match direction {
            Direction::Take => &mut self.take,
            Direction::Give => &mut self.give,
        };
        let (all, mut from) = (batch.tags.len(), 0);
        while from < all {
            from += batch.copy(self.process, direction, from..all);
            // It stopped where the clients' memory is missing, or for a reason that concerns the whole call.
            if from < all && batch.copy(self.process, direction, from..from + 1) == 0 {
                self.tags[usize::from(batch.tags[from])] = Copied::Failed;
            }
            from += 1;
        }
        batch.here.clear();
        batch.there.clear();
        batch.tags.clear();
        batch.bytes = 0;
    }
}

impl Batch {
    fn is_full_with(&self, length: usize) -> bool {
        self.tags.len() == MOST || (self.bytes > 0 && self.bytes + length > MOST_BYTES)
    }

    /// Makes these copies by one call; how many of them were made wholly, counted from the first.
    fn copy(&self, process: pid_t, direction: Direction, which: Range<usize>) -> usize {
        let (here, there) = (&self.here[which.clone()], &self.there[which]);
        let count = here.len() as libc::c_ulong;
        // SAFETY: the kernel checks both sides; the planner ensures that the memory of this process is valid.
        let done = unsafe {
            match direction {
                Direction::Take => {
                    libc::process_vm_readv(process, here.as_ptr(), count, there.as_ptr(), count, 0)
                }
                Direction::Give => {
                    libc::process_vm_writev(process, here.as_ptr(), count, there.as_ptr(), count, 0)
                }
            }
        };
        let mut left = usize::try_from(done).unwrap_or(0);
        let whole = |vector: &&iovec| {
            let whole = vector.iov_len <= left;
            left = left.saturating_sub(vector.iov_len);
            whole
        };
        here.iter().take_while(whole).count()
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::*;
    use crate::mapping::FileMapping;
    use std::fs::File;

    const PAGE: usize = 4096;
    const PAGES: usize = 8;

    struct World {
        file: File,
        mapping: FileMapping,
        memory: Vec<u8>,
        copies: ClientCopies,
    }

    impl World {
        fn new() -> Self {
            let file = tempfile::tempfile_in("/dev/shm").unwrap();
            file.set_len((PAGES * PAGE) as u64).unwrap();
            let mapping = FileMapping::new(&file, PAGES * PAGE).unwrap();
            Self { file, mapping, memory: vec![0; PAGES * PAGE], copies: ClientCopies::new(PAGES) }
        }

        /// Plans a copy of one page, for the tag of its number.
        fn plan(&mut self, direction: Direction, page: usize) {
            assert!(page < PAGES);
            let here = self.memory.as_mut_ptr().wrapping_add(page * PAGE);
            let there = self.mapping.address(page * PAGE);
            // SAFETY: the memory is as long; both stay.
            unsafe {
                self.copies.plan(ClientCopy { tag: page as u16, direction, here, there, length: PAGE });
            }
        }

        fn store(&self, page: usize, byte: u8) {
            let bytes = [byte; PAGE];
            // SAFETY: one page.
            unsafe { self.mapping.write(page * PAGE, bytes.as_ptr(), PAGE) }.unwrap();
        }

        fn stored(&self, page: usize) -> u8 {
            let mut byte = 0;
            // SAFETY: one byte.
            unsafe { self.mapping.read((page + 1) * PAGE - 1, &raw mut byte, 1) }.unwrap();
            byte
        }

        fn finish(&mut self) -> Vec<bool> {
            (0..PAGES as u16).map(|tag| self.copies.finish(tag)).collect()
        }
    }

    #[test]
    fn all_copies_are_made_in_their_direction() {
        let mut world = World::new();
        for page in 0..PAGES {
            world.store(page, page as u8 + 1);
            world.memory[page * PAGE..(page + 1) * PAGE].fill(0x80 + page as u8);
            world.plan(if page % 2 == 0 { Direction::Take } else { Direction::Give }, page);
        }
        assert!(world.copies.any() && world.copies.planned(3));
        world.copies.run();
        assert!(!world.copies.any());
        for page in 0..PAGES {
            let expected = if page % 2 == 0 { page as u8 + 1 } else { 0x80 + page as u8 };
            assert_eq!(world.stored(page), expected);
            assert!(world.memory[page * PAGE..(page + 1) * PAGE].iter().all(|byte| *byte == expected));
        }
        assert_eq!(world.finish(), [true; PAGES]);
        assert!(!world.copies.planned(3));
    }

    #[test]
    fn a_copy_of_truncated_memory_fails_alone() {
        for direction in [Direction::Take, Direction::Give] {
            // Each list has missing pages first, last, or between others.
            for order in [[6, 0, 1, 2], [0, 6, 1, 7], [0, 1, 2, 7], [6, 7, 0, 1]] {
                let mut world = World::new();
                world.file.set_len(6 * PAGE as u64).unwrap();
                for page in 0..PAGES {
                    if direction == Direction::Take && page < 6 {
                        world.store(page, 7);
                    }
                    world.memory[page * PAGE..(page + 1) * PAGE].fill(if direction == Direction::Give {
                        7
                    } else {
                        0
                    });
                }
                for page in order {
                    world.plan(direction, page);
                }
                world.copies.run();
                for page in order.into_iter().filter(|page| *page < 6) {
                    assert_eq!(
                        (world.stored(page), world.memory[page * PAGE]),
                        (7, 7),
                        "{direction:?} {order:?}"
                    );
                }
                let failed: Vec<_> = (0..PAGES).map(|page| order.contains(&page) && page >= 6).collect();
                let finished: Vec<_> = world.finish().into_iter().map(|fine| !fine).collect();
                assert_eq!(finished, failed, "{direction:?} {order:?}");
            }
        }
    }

    #[test]
    fn more_copies_than_one_call_takes_are_made_by_several() {
        let mut world = World::new();
        for round in 0..MOST + 5 {
            world.store(round % PAGES, (round % 251) as u8);
            world.plan(Direction::Take, round % PAGES);
        }
        world.copies.run();
        assert_eq!(world.finish(), [true; PAGES]);
        for page in 0..PAGES {
            assert_eq!(world.memory[page * PAGE], world.stored(page));
        }
    }
}
