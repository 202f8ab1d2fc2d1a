//! The table of files that a queue's ring has open. Most are known before the ring is made; the last slots can be left empty
//! for files that are added while the queue serves requests.

use super::io::Slot;
use super::line::{LineId, Lines, SharedLine};
use super::ring::Ring;
use crate::error::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// Which slots of the table are taken.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// The first that is empty: those before it are taken.
    next: u32,
    end: u32,
}

impl Taken {
    /// What the table is made of: `char_dev`, files of the backend, and empty slots.
    pub fn table(char_dev: RawFd, files: &[RawFd], empty: u16) -> (Vec<RawFd>, Self) {
        let mut table = vec![char_dev];
        table.extend(files);
        #[expect(clippy::cast_possible_truncation, reason = "a process has fewer open files")]
        let next = table.len() as u32;
        table.resize(table.len() + usize::from(empty), -1);
        (table, Self { next, end: next + u32::from(empty) })
    }

    /// Those of the backend's files.
    pub fn of_backend(self) -> std::ops::Range<u32> {
        1..self.next
    }
}

/// Adds files to the table, on the queue's thread.
pub struct Files<'q> {
    pub(super) ring: &'q Ring,
    pub(super) taken: &'q mut Taken,
    pub(super) lines: &'q mut Lines,
}

impl Files<'_> {
    /// A slot for one more file, if the engine asked for [one to spare](crate::backend::Site::spare_files). Waits for no request,
    /// and the ring keeps the file open.
    pub fn add(&mut self, file: BorrowedFd<'_>) -> Result<Slot> {
        self.add_raw(file.as_raw_fd())
    }

    /// Puts another file in the place of one that was [added](Self::add), which no operation uses any more.
    pub fn replace(&mut self, slot: Slot, file: BorrowedFd<'_>) -> Result<()> {
        self.ring.set_file(slot.0, file.as_raw_fd())
    }

    /// The same with a descriptor that is open while this is called.
    pub(crate) fn add_raw(&mut self, file: RawFd) -> Result<Slot> {
        let Taken { next, end } = *self.taken;
        if next == end {
            return Err(Error::new(ErrorKind::System, "a queue has no slot for one more file"));
        }
        self.ring.set_file(next, file)?;
        self.taken.next += 1;
        Ok(Slot(next))
    }

    /// The queue has another line.
    pub(crate) fn add_line(&mut self, line: SharedLine) {
        self.lines.add(line);
    }

    /// The name that the next line gets.
    pub(crate) fn next_line(&self) -> LineId {
        self.lines.next()
    }

    /// The slot that the next file gets.
    pub(crate) fn next(&self) -> Slot {
        Slot(self.taken.next)
    }

    /// How many more files it has slots for.
    pub(crate) fn room(&self) -> usize {
        (self.taken.end - self.taken.next) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::ring::Wait;
    use io_uring::{opcode, types};
    use std::io::Write;
    use std::os::fd::AsFd;

    /// What the file in that slot begins with.
    fn first(ring: &mut Ring, slot: u32) -> std::result::Result<u8, i32> {
        let mut byte = [0];
        let entry = opcode::Read::new(types::Fixed(slot), byte.as_mut_ptr(), 1).offset(0).build();
        // SAFETY: the byte outlives the wait below.
        unsafe { ring.push(&entry) }.unwrap();
        ring.enter(Wait::Forever, 0).unwrap();
        let result = ring.completions().next().unwrap().result();
        if result < 0 { Err(-result) } else { Ok(byte[0]) }
    }

    fn file(content: u8) -> std::fs::File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[content]).unwrap();
        file
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs io_uring")]
    fn a_file_is_added_to_a_slot_that_was_left_empty() {
        let (null, early) = (std::fs::File::open("/dev/null").unwrap(), file(1));
        let (slots, mut taken) = Taken::table(null.as_raw_fd(), &[early.as_raw_fd()], 2);
        let mut ring = Ring::new(8, &slots).unwrap();
        assert_eq!((first(&mut ring, 1), first(&mut ring, 2)), (Ok(1), Err(libc::EBADF)));
        for content in 2..4 {
            let slot = Files { ring: &ring, taken: &mut taken, lines: &mut Lines::default() }
                .add(file(content).as_fd())
                .unwrap();
            // The ring keeps it open.
            assert_eq!((slot, first(&mut ring, slot.0)), (Slot(content.into()), Ok(content)));
        }
        assert_eq!(taken.of_backend(), 1..4);
        let refused =
            Files { ring: &ring, taken: &mut taken, lines: &mut Lines::default() }.add(file(4).as_fd());
        assert_eq!(refused.unwrap_err().to_string(), "a queue has no slot for one more file");
    }
}
