//! The table of files that a queue's ring has open. Most are known before the ring is made; the last slots can be left empty
//! for files that are added while the queue serves requests.

use super::io::Slot;
use super::line::{LineId, Lines, SharedLine};
use super::ring::Ring;
use crate::error::{Error, ErrorKind, Result};
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// Counts the engines of a queue, from 0: what each has got goes with it.
pub type Epoch = u32;

/// Which slots of the table are taken.
#[derive(Debug, Clone)]
pub struct Taken {
    /// Of each slot, which engine's it is; `None`: it is empty.
    slots: Vec<Option<Epoch>>,
    /// That of the last engine.
    epoch: Epoch,
    /// Those of engines that are used no more.
    retired: Option<RangeInclusive<Epoch>>,
}

impl Taken {
    /// What the table is made of: `char_dev`, files of the backend, and empty slots.
    pub fn table(char_dev: RawFd, files: &[RawFd], empty: u16) -> (Vec<RawFd>, Self) {
        let mut table = vec![char_dev];
        table.extend(files);
        let mut slots = vec![Some(0); table.len()];
        table.resize(table.len() + usize::from(empty), -1);
        slots.resize(table.len(), None);
        (table, Self { slots, epoch: 0, retired: None })
    }

    /// Those of the backends' files.
    pub fn of_backend(&self) -> impl Iterator<Item = u32> + '_ {
        self.which(|_| true)
    }

    /// Those of the files of some engines.
    pub fn which(&self, of: impl Fn(Epoch) -> bool) -> impl Iterator<Item = u32> {
        (0..).zip(&self.slots).skip(1).filter(move |(_, epoch)| epoch.is_some_and(&of)).map(|(slot, _)| slot)
    }

    /// The first slot of the longest row of empty ones, and how many these are.
    fn row(&self) -> (u32, usize) {
        let (mut best, mut from) = ((0, 0), 0);
        for (at, slot) in self.slots.iter().enumerate() {
            if slot.is_some() {
                from = at + 1;
            } else if at + 1 - from > best.1 {
                best = (from, at + 1 - from);
            }
        }
        (u32::try_from(best.0).unwrap_or(u32::MAX), best.1)
    }
}

/// Adds files to the table, on the queue's thread.
pub struct Files<'q> {
    pub(super) ring: &'q mut Ring,
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
        let Some(at) = self.taken.slots.iter().position(Option::is_none) else {
            return Err(Error::new(ErrorKind::System, "a queue has no slot for one more file"));
        };
        let slot = Slot(u32::try_from(at).unwrap_or(u32::MAX));
        self.put(slot, file).map(|()| slot)
    }

    /// Puts a file into an empty slot of the [row](Self::next).
    pub(crate) fn put(&mut self, slot: Slot, file: RawFd) -> Result<()> {
        self.ring.set_file(slot.0, file)?;
        self.taken.slots[slot.0 as usize] = Some(self.taken.epoch);
        Ok(())
    }

    /// What is added from here on is another engine's.
    pub(crate) fn begin_epoch(&mut self) -> Epoch {
        self.taken.epoch += 1;
        self.taken.epoch
    }

    /// The last engine is used no more: what it has in the ring for no request ends.
    pub(crate) fn retire_last(&mut self) -> Result<()> {
        let last = self.taken.epoch;
        self.retire(last..=last)
    }

    /// Those before the last engine are used no more.
    pub(crate) fn retire_others(&mut self) -> Result<()> {
        self.retire(0..=self.taken.epoch.saturating_sub(1))
    }

    fn retire(&mut self, epochs: RangeInclusive<Epoch>) -> Result<()> {
        let theirs = |epoch| epochs.contains(&epoch);
        self.lines.retire(self.ring, &theirs)?;
        self.taken.which(theirs).try_for_each(|slot| super::cancel_all(self.ring, slot))?;
        self.taken.retired = Some(epochs);
        Ok(())
    }

    /// Empties the slots of engines that are used no more, once nothing of them is in the ring. Whether none are left.
    pub(crate) fn release(&mut self) -> Result<bool> {
        let Some(epochs) = self.taken.retired.clone() else { return Ok(true) };
        let theirs = |epoch| epochs.contains(&epoch);
        if !self.lines.release(&theirs) {
            return Ok(false);
        }
        for slot in self.taken.which(theirs).collect::<Vec<_>>() {
            self.ring.set_file(slot, -1)?;
            self.taken.slots[slot as usize] = None;
        }
        self.taken.retired = None;
        Ok(true)
    }

    /// The queue has another line.
    pub(crate) fn add_line(&mut self, line: SharedLine) {
        self.lines.add(line, self.taken.epoch);
    }

    /// The name that the next line gets.
    pub(crate) fn next_line(&self) -> LineId {
        self.lines.next()
    }

    /// The first of a row of empty slots, for the files of an engine.
    pub(crate) fn next(&self) -> Slot {
        Slot(self.taken.row().0)
    }

    /// How many slots are in that row.
    pub(crate) fn room(&self) -> usize {
        self.taken.row().1
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
            let slot = Files { ring: &mut ring, taken: &mut taken, lines: &mut Lines::default() }
                .add(file(content).as_fd())
                .unwrap();
            // The ring keeps it open.
            assert_eq!((slot, first(&mut ring, slot.0)), (Slot(content.into()), Ok(content)));
        }
        assert_eq!(taken.of_backend().collect::<Vec<_>>(), [1, 2, 3]);
        let refused =
            Files { ring: &mut ring, taken: &mut taken, lines: &mut Lines::default() }.add(file(4).as_fd());
        assert_eq!(refused.unwrap_err().to_string(), "a queue has no slot for one more file");
    }
}
